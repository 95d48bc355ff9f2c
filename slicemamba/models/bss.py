"""Bidirectional Slicing and Scanning (BSS), and the S³ block around it (SliceMamba, arXiv 2407.08481, section III).

What a block takes is an argument of ``forward``. Its slice size changes the order of the scan alone, so one set of
weights serves any; a block of fewer states or smaller inner width uses the first of each (Once-for-All,
arXiv 1908.09791).
Letters: B batch, H×W map, C block channels, D = expand·C inner channels, R = ceil(C/16) rank of Δ, N states.
"""

from __future__ import annotations

import math

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
    """Gated mixer: depthwise convolution, then four selective scans over the sliced map. Keeps (B, H, W, C)."""

    def __init__(self, dim: int, *, d_state: int = 16, expand: int = 2, d_conv: int = 3) -> None:
        super().__init__()
        d_inner = expand * dim
        dt_rank = math.ceil(dim / 16)
        self.in_proj = nn.Linear(dim, 2 * d_inner, bias=False)
        self.conv2d = nn.Conv2d(d_inner, d_inner, d_conv, padding=d_conv // 2, groups=d_inner)
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
        self.d_state, self.expand = d_state, expand

    def forward(self, x: Tensor, block: Block) -> Tensor:
        w = self.weights(block)
        x, z = F.linear(x, w["in_proj.weight"]).chunk(2, dim=-1)
        y = slice_scan(
            depthwise_silu(x, w["conv2d.weight"], w["conv2d.bias"]),
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
            InputError: the block is larger than this one.
        """
        assert self.conv2d.bias is not None
        every: dict[str, Tensor] = {  # by hand: forward passes of small networks would notice ``named_parameters``
            "in_proj.weight": self.in_proj.weight,
            "conv2d.weight": self.conv2d.weight,
            "conv2d.bias": self.conv2d.bias,
            "x_proj_weight": self.x_proj_weight,
            "dt_projs_weight": self.dt_projs_weight,
            "dt_projs_bias": self.dt_projs_bias,
            "A_logs": self.A_logs,
            "Ds": self.Ds,
            "out_norm.weight": self.out_norm.weight,
            "out_norm.bias": self.out_norm.bias,
            "out_proj.weight": self.out_proj.weight,
        }
        d_state, expand = block.d_state or self.d_state, block.expand or self.expand
        if d_state > self.d_state or expand > self.expand:
            raise InputError(
                f"block {format_block(block)} needs {d_state} states and expand {expand}; "
                f"the weights have {self.d_state} and {self.expand}"
            )
        if (d_state, expand) == (self.d_state, self.expand):
            return every
        whole, dim = self.out_norm.weight.shape[0], self.out_proj.weight.shape[0]
        part = expand * dim
        dt_rank = self.dt_projs_weight.shape[2]
        dt, b, c = torch.split(every["x_proj_weight"][..., :part], [dt_rank, self.d_state, self.d_state], dim=1)
        return {
            "in_proj.weight": every["in_proj.weight"].view(2, whole, dim)[:, :part].flatten(0, 1),
            "conv2d.weight": every["conv2d.weight"][:part],
            "conv2d.bias": every["conv2d.bias"][:part],
            "x_proj_weight": torch.cat([dt, b[:, :d_state], c[:, :d_state]], dim=1),
            "dt_projs_weight": every["dt_projs_weight"][:, :part],
            "dt_projs_bias": every["dt_projs_bias"][:, :part],
            "A_logs": every["A_logs"].view(NUM_DIRECTIONS, whole, -1)[:, :part, :d_state].flatten(0, 1),
            "Ds": every["Ds"].view(NUM_DIRECTIONS, whole)[:, :part].flatten(),
            "out_norm.weight": every["out_norm.weight"][:part],
            "out_norm.bias": every["out_norm.bias"][:part],
            "out_proj.weight": every["out_proj.weight"][:, :part],
        }


def _initial_dt_bias(*shape: int, dt_min: float = 1e-3, dt_max: float = 0.1, dt_floor: float = 1e-4) -> Tensor:
    """Biases whose softplus is log-uniform in [dt_min, dt_max] (Mamba, arXiv 2312.00752, section 3.6)."""
    dt = torch.exp(torch.rand(*shape) * math.log(dt_max / dt_min) + math.log(dt_min)).clamp(min=dt_floor)
    return dt + torch.log(-torch.expm1(-dt))


class S3Block(nn.Module):
    """x + DropPath(BSS(LayerNorm(x))), or x alone where the block is left out. (B, H, W, C) → the same shape."""

    def __init__(self, dim: int, *, drop_path: float, d_state: int = 16, expand: int = 2, d_conv: int = 3) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim)
        self.self_attention = BSS(dim, d_state=d_state, expand=expand, d_conv=d_conv)
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
