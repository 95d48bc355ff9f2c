"""A whole mixer (project, convolve, scan, gate) around ``slice_scan`` against golden tensors, with all gradients."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scan_cases import relative
from torch.nn import functional

from slicemamba.ops import slice_scan

ROOT = Path(__file__).resolve().parents[2]
DATA = os.environ.get("SLICEMAMBA_DATA")
GOLDEN = Path(DATA).resolve().parent / "golden" if DATA else ROOT.parent / "shared" / "golden"


def mixer(x, p, slice_size):
    inner, gate = functional.linear(x, p["in_proj.weight"]).chunk(2, dim=-1)
    channels = inner.shape[-1]
    inner = functional.conv2d(
        inner.permute(0, 3, 1, 2), p["conv2d.weight"], p["conv2d.bias"], padding=1, groups=channels
    )
    inner = functional.silu(inner).permute(0, 2, 3, 1)
    names = ("x_proj_weight", "dt_projs_weight", "dt_projs_bias", "A_logs", "Ds")
    y = slice_scan(inner, *(p[name] for name in names), slice_size)
    y = functional.layer_norm(y, (channels,), p["out_norm.weight"], p["out_norm.bias"], eps=1e-5)
    return functional.linear(y * functional.silu(gate), p["out_proj.weight"])


@pytest.mark.parametrize("slice_size", [(2, 2), (2, 4), (4, 2), (4, 4)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_mixer_equals_the_golden_tensors(backend, slice_size):
    path = GOLDEN / f"bss_slice_{slice_size[0]}x{slice_size[1]}.npz"
    if not path.exists():
        pytest.skip(f"no golden tensors at {path}; set SLICEMAMBA_DATA to a folder beside `golden`")
    stored = {name: torch.from_numpy(array) for name, array in np.load(path).items()}
    parameters = {name[6:]: t.requires_grad_() for name, t in stored.items() if name.startswith("param/")}
    x = stored["x"].requires_grad_()
    y = mixer(x, parameters, slice_size)
    assert (y - stored["y"]).abs().max() < 1e-5
    grads = torch.autograd.grad(y, [x, *parameters.values()], stored["grad_y"])
    assert relative(grads[0], stored["grad_x"]) < 1e-3
    for name, grad in zip(parameters, grads[1:], strict=True):
        assert relative(grad, stored[f"grad/{name}"]) < 1e-3, name
