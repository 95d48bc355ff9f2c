"""What the operators of this package cannot do, said by name before it could pass for a result."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad


def refuse_unsupported(**tensors: Tensor | None) -> None:
    """Checks the tensors of an operator, by the names of its arguments.

    Raises:
        ValueError: one is complex, and would lose its imaginary part.
        NotImplementedError: one carries a tangent of forward-mode differentiation, which would end as zeros, or is
            inside a gradient of torch.func, which operators of torch.library cannot be.
    """
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if tensor.is_complex():
            raise ValueError(
                f"{name} expects real numbers, got {tensor.dtype}; complex state spaces have no kernel here."
            )
        if torch.compiler.is_compiling():
            continue
        inner = tensor
        while torch._C._functorch.is_batchedtensor(inner):  # of torch.vmap
            inner = torch._C._functorch.get_unwrapped(inner)
        in_gradient = torch._C._functorch.is_gradtrackingtensor(inner)
        if (inner is tensor or not in_gradient) and _has_tangent(inner):
            raise NotImplementedError(
                f"{name} carries a forward-mode tangent (torch.func.jvp, forward_ad), which this operator has no rule "
                "for; use reverse mode, for example torch.autograd.functional.jvp or torch.autograd.grad."
            )
        if in_gradient:
            raise NotImplementedError(
                f"{name} is inside a transform of torch.func that takes gradients (grad, vjp, jacrev, hessian), which "
                "this operator has no rule for; use torch.autograd.grad. torch.vmap works without one around it."
            )


def _has_tangent(tensor: Tensor) -> bool:
    return forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]
