"""Bidirectional Slicing and Scanning (BSS), and the S³ block around it (SliceMamba, arXiv 2407.08481, section III).

The slice size is an argument of ``forward``: it changes the order of the scan alone, so one set of weights serves any.
Letters: B batch, H×W map, C block channels, D = expand·C inner channels, R = ceil(C/16) rank of Δ, N states.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slicemamba.architecture import SliceSize
from slicemamba.models.layers import DropPath
from slicemamba.ops import slice_scan

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

    def forward(self, x: Tensor, slice_size: SliceSize) -> Tensor:
        x, z = self.in_proj(x).chunk(2, dim=-1)
        x = F.silu(self.conv2d(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        y = slice_scan(
            x, self.x_proj_weight, self.dt_projs_weight, self.dt_projs_bias, self.A_logs, self.Ds, slice_size
        )
        mixed: Tensor = self.out_proj(self.out_norm(y) * F.silu(z))
        return mixed


def _initial_dt_bias(*shape: int, dt_min: float = 1e-3, dt_max: float = 0.1, dt_floor: float = 1e-4) -> Tensor:
    """Biases whose softplus is log-uniform in [dt_min, dt_max] (Mamba, arXiv 2312.00752, section 3.6)."""
    dt = torch.exp(torch.rand(*shape) * math.log(dt_max / dt_min) + math.log(dt_min)).clamp(min=dt_floor)
    return dt + torch.log(-torch.expm1(-dt))


class S3Block(nn.Module):
    """x + DropPath(BSS(LayerNorm(x))). (B, H, W, C) → the same shape."""

    def __init__(self, dim: int, *, drop_path: float, d_state: int = 16, expand: int = 2, d_conv: int = 3) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim)
        self.self_attention = BSS(dim, d_state=d_state, expand=expand, d_conv=d_conv)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, slice_size: SliceSize) -> Tensor:
        mixed: Tensor = self.drop_path(self.self_attention(self.ln_1(x), slice_size))
        return x + mixed
