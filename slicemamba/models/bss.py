"""Bidirectional Slicing and Scanning (BSS), and the S³ block around it (SliceMamba, arXiv 2407.08481, section III).

What a block takes is an argument of ``forward``. Its slice size changes the order of the scan alone, so one set of
weights serves any; a block of fewer states, smaller inner width or smaller kernel uses the first of each, of the kernel
the middle (Once-for-All, arXiv 1908.09791). A block whose scan is left out is a gated convolution (MambaOut,
arXiv 2405.07992): everything but the scan, with the same weights.
Letters: B batch, H×W map, C block channels, D = expand·C inner channels, R = ceil(C/16) rank of Δ, N states.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slicemamba.architecture import SKIP, Block, format_block
from slicemamba.errors import InputError
from slicemamba.models.layers import DropPath
from slicemamba.ops import gated_norm, slice_scan
from slicemamba.ops.convolution import depthwise_silu

NUM_DIRECTIONS = 4


class BSS(nn.Module):
    """Gated mixer: depthwise convolution, then four selective scans over the sliced map. Keeps (B, H, W, C).

    Args:
        dim: C. d_state, expand: N and d_inner over C.
        d_conv: width of the depthwise convolution before a scan.
        kernel: width of the one that is kept, at least ``d_conv``, for blocks that have a wider one and no scan.
        scan: whether there are weights for the scan; without, only blocks that leave it out can run.
    """

    def __init__(
        self, dim: int, *, d_state: int = 16, expand: int = 2, d_conv: int = 3, kernel: int = 0, scan: bool = True
    ) -> None:
        super().__init__()
        d_inner = expand * dim
        dt_rank = math.ceil(dim / 16)
        kernel = kernel or d_conv
        self.in_proj = nn.Linear(dim, 2 * d_inner, bias=False)
        self.conv2d = nn.Conv2d(d_inner, d_inner, kernel, padding=kernel // 2, groups=d_inner)
        if scan:
            bound = d_inner**-0.5
            self.x_proj_weight = nn.Parameter(
                torch.empty(NUM_DIRECTIONS, dt_rank + 2 * d_state, d_inner).uniform_(-bound, bound)
            )
            self.dt_projs_weight = nn.Parameter(
                torch.empty(NUM_DIRECTIONS, d_inner, dt_rank).uniform_(-(dt_rank**-0.5), dt_rank**-0.5)
            )
            self.dt_projs_bias = nn.Parameter(_initial_dt_bias(NUM_DIRECTIONS, d_inner))
            self.A_logs = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(NUM_DIRECTIONS * d_inner, 1))
            self.Ds = nn.Parameter(torch.ones(NUM_DIRECTIONS * d_inner))
        self.out_norm = nn.LayerNorm(d_inner)
        self.out_proj = nn.Linear(d_inner, dim, bias=False)
        self.d_state, self.expand, self.d_conv, self.scan = d_state, expand, d_conv, scan

    def forward(self, x: Tensor, block: Block) -> Tensor:
        w = self.weights(block)
        x, z = F.linear(x, w["in_proj.weight"]).chunk(2, dim=-1)
        y = depthwise_silu(x, w["conv2d.weight"], w["conv2d.bias"])
        if block.scans:
            y = slice_scan(
                y,
                w["x_proj_weight"],
                w["dt_projs_weight"],
                w["dt_projs_bias"],
                w["A_logs"],
                w["Ds"],
                block.slice_size,
            )
        gated = gated_norm(y, z, w["out_norm.weight"], w["out_norm.bias"], self.out_norm.eps)
        return F.linear(gated, w["out_proj.weight"])

    def weights(self, block: Block) -> dict[str, Tensor]:
        """The weights that ``block`` uses, by name: all of them, or the first states and inner channels of each.

        Raises:
            InputError: the block is larger than this one, or scans, and this one has no weights for it.
        """
        self._check(block)
        whole, dim = self.out_norm.weight.shape[0], self.out_proj.weight.shape[0]
        part = (block.expand or self.expand) * dim
        used = self._around(part, block.kernel or self.d_conv)
        return used | self._of_scan(part, block.d_state or self.d_state, whole) if block.scans else used

    def _check(self, block: Block) -> None:
        d_state, expand = block.d_state or self.d_state, block.expand or self.expand
        if d_state > self.d_state or expand > self.expand:
            raise InputError(
                f"block {format_block(block)} needs {d_state} states and expand {expand}; "
                f"the weights have {self.d_state} and {self.expand}"
            )
        if block.kernel > self.conv2d.weight.shape[-1] or (block.scans and not self.scan):
            raise InputError(
                f"block {format_block(block)} does not fit: the weights have a convolution of width "
                f"{self.conv2d.weight.shape[-1]} and {'a' if self.scan else 'no'} scan"
            )

    def _around(self, part: int, kernel: int) -> dict[str, Tensor]:
        """All but the scan's, for the first ``part`` inner channels and the middle of the kernel."""
        assert self.conv2d.bias is not None
        every: dict[str, Tensor] = {  # by hand: forward passes of small networks would notice ``named_parameters``
            "in_proj.weight": self.in_proj.weight,
            "conv2d.weight": self.conv2d.weight,
            "conv2d.bias": self.conv2d.bias,
            "out_norm.weight": self.out_norm.weight,
            "out_norm.bias": self.out_norm.bias,
            "out_proj.weight": self.out_proj.weight,
        }
        border = (self.conv2d.weight.shape[-1] - kernel) // 2
        if border:
            every["conv2d.weight"] = every["conv2d.weight"][..., border:-border, border:-border]
        whole, dim = self.out_norm.weight.shape[0], self.out_proj.weight.shape[0]
        if part == whole:
            return every
        return {
            "in_proj.weight": every["in_proj.weight"].view(2, whole, dim)[:, :part].flatten(0, 1),
            "conv2d.weight": every["conv2d.weight"][:part],
            "conv2d.bias": every["conv2d.bias"][:part],
            "out_norm.weight": every["out_norm.weight"][:part],
            "out_norm.bias": every["out_norm.bias"][:part],
            "out_proj.weight": every["out_proj.weight"][:, :part],
        }

    def _of_scan(self, part: int, d_state: int, whole: int) -> dict[str, Tensor]:
        every: dict[str, Tensor] = {
            "x_proj_weight": self.x_proj_weight,
            "dt_projs_weight": self.dt_projs_weight,
            "dt_projs_bias": self.dt_projs_bias,
            "A_logs": self.A_logs,
            "Ds": self.Ds,
        }
        if (part, d_state) == (whole, self.d_state):
            return every
        dt_rank = self.dt_projs_weight.shape[2]
        dt, b, c = torch.split(every["x_proj_weight"][..., :part], [dt_rank, self.d_state, self.d_state], dim=1)
        return {
            "x_proj_weight": torch.cat([dt, b[:, :d_state], c[:, :d_state]], dim=1),
            "dt_projs_weight": every["dt_projs_weight"][:, :part],
            "dt_projs_bias": every["dt_projs_bias"][:, :part],
            "A_logs": every["A_logs"].view(NUM_DIRECTIONS, whole, -1)[:, :part, :d_state].flatten(0, 1),
            "Ds": every["Ds"].view(NUM_DIRECTIONS, whole)[:, :part].flatten(),
        }


def _initial_dt_bias(*shape: int, dt_min: float = 1e-3, dt_max: float = 0.1, dt_floor: float = 1e-4) -> Tensor:
    """Biases whose softplus is log-uniform in [dt_min, dt_max] (Mamba, arXiv 2312.00752, section 3.6)."""
    dt = torch.exp(torch.rand(*shape) * math.log(dt_max / dt_min) + math.log(dt_min)).clamp(min=dt_floor)
    return dt + torch.log(-torch.expm1(-dt))


class S3Block(nn.Module):
    """x + DropPath(BSS(LayerNorm(x))), or x alone where the block is left out. (B, H, W, C) → the same shape."""

    def __init__(self, dim: int, *, drop_path: float, **sizes: Any) -> None:
        """``sizes`` are those of ``BSS``."""
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim)
        self.self_attention = BSS(dim, **sizes)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, block: Block) -> Tensor:
        if block == SKIP:
            return x
        mixed: Tensor = self.drop_path(self.self_attention(self.ln_1(x), block))
        return x + mixed

    def weights(self, block: Block) -> dict[str, Tensor]:
        """The weights that ``block`` uses, by name."""
        outer = {f"ln_1.{name}": tensor for name, tensor in self.ln_1.named_parameters()}
        return outer | {f"self_attention.{name}": tensor for name, tensor in self.self_attention.weights(block).items()}


class SkippedBlock(nn.Module):
    """In the place of a block that the architecture leaves out; without weights."""

    def forward(self, x: Tensor, block: Block) -> Tensor:
        return x

    def weights(self, block: Block) -> dict[str, Tensor]:
        return {}
