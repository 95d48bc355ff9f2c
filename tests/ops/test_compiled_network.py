"""The network under ``torch.compile`` and ``torch.onnx.export`` as users call them, without help of this package."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from slicemamba.architecture import Architecture
from slicemamba.config import ModelConfig
from slicemamba.models.unet import SliceMambaUNet


@pytest.fixture
def network() -> SliceMambaUNet:
    torch.manual_seed(0)
    config = ModelConfig(embed_dim=8, encoder_depths=(1,), decoder_depths=(1,), d_state=4, drop_path_rate=0)
    return SliceMambaUNet(config, 1, Architecture.parse("s1:2x4|s2:4x2"))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_training_under_compile_takes_a_second_image_size(network: SliceMambaUNet) -> None:
    compiled = torch.compile(network)
    for height, width in ((16, 16), (24, 16)):
        image = torch.randn(2, 3, height, width)
        results = []
        for run in (network, compiled):
            network.zero_grad()
            logits = run(image)
            logits.square().mean().backward()
            results.append([logits, *(parameter.grad for parameter in network.parameters())])
        for eager, got in zip(*results, strict=True):
            torch.testing.assert_close(got, eager, rtol=1e-3, atol=1e-5)


def test_plain_onnx_export_gives_the_networks_logits(network: SliceMambaUNet, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    image = torch.randn(1, 3, 16, 24)
    with torch.no_grad():
        expected = network.eval()(image)
    torch.onnx.export(network, (image,), tmp_path / "network.onnx", dynamo=True, verbose=False)  # with gradients on
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-4)
