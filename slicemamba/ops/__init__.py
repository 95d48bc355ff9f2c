"""The slice scan and what it is made of: orders, the sequential truth, and the backends that run it."""

from slicemamba.ops.backends import available_backends, choose_backend
from slicemamba.ops.convolution import depthwise_silu, instance_norm_act
from slicemamba.ops.gating import gated_norm
from slicemamba.ops.mamba_interface import selective_scan_fn
from slicemamba.ops.selective_scan import selective_scan, slice_scan
from slicemamba.ops.slicing import slice_order

__all__ = [
    "available_backends",
    "choose_backend",
    "depthwise_silu",
    "gated_norm",
    "instance_norm_act",
    "selective_scan",
    "selective_scan_fn",
    "slice_order",
    "slice_scan",
]
