"""What a scan reads, under one name. Backends take it whole; operators of torch.library know tensors alone."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class SliceInputs(NamedTuple):
    """Of a slice scan, as ``slicemamba.ops.slice_scan`` has it; of the backward pass their gradients, in this order.

    Attributes:
        x: (B, H, W, Dm). x_proj_weight: (4, R + 2N, Dm). dt_proj_weight: (4, Dm, R). dt_proj_bias: (4, Dm).
        A_log: (4·Dm, N). D: (4·Dm,).
    """

    x: Tensor
    x_proj_weight: Tensor
    dt_proj_weight: Tensor
    dt_proj_bias: Tensor
    A_log: Tensor
    D: Tensor

    @property
    def rank(self) -> int:
        """R, of the step sizes."""
        return self.dt_proj_weight.shape[2]

    @property
    def states(self) -> int:
        """N."""
        return self.A_log.shape[1]


class SequenceInputs(NamedTuple):
    """Of a plain scan, as ``slicemamba.ops.selective_scan`` has it; of the backward pass their gradients.

    Attributes:
        u, delta: (B, K·Dm, L). A: (K·Dm, N). B, C: (B, K, N, L). D, bias: (K·Dm,), or empty for none.
    """

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    bias: Tensor
