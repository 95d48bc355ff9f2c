"""``selective_scan_fn`` as code written for mamba_ssm calls it, over the grid of mamba's own tests.

``by_definition`` is written from the published recurrence (arXiv 2312.00752, algorithm 2), each state a number of its
own and no groups, so that it shares nothing with what it checks. Nothing is fetched.
"""

from __future__ import annotations

import inspect
import itertools

import pytest
import torch
from scan_cases import leaves, relative
from torch.nn import functional

from slicemamba.ops import gated_norm, selective_scan, selective_scan_fn, slice_scan

BATCH, CHANNELS, STATES = 2, 4, 8


def by_definition(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
    """y (B, D, L) and the last state (B, D, N)."""

    def spread(tensor):  # to (B, D, N, L)
        if tensor.dim() == 2:
            return tensor[None, :, :, None].expand(u.shape[0], -1, -1, u.shape[2])
        tensor = tensor[:, None] if tensor.dim() == 3 else tensor
        return torch.stack([tensor[:, d * tensor.shape[1] // u.shape[1]] for d in range(u.shape[1])], dim=1)

    step = delta if delta_bias is None else delta + delta_bias[:, None]
    step = functional.softplus(step) if delta_softplus else step
    step = torch.stack([step[:, d * step.shape[1] // u.shape[1]] for d in range(u.shape[1])], dim=1)
    B, C = spread(B), spread(C)
    h, y = torch.zeros_like(B[..., 0]), []
    for t in range(u.shape[2]):
        h = torch.exp(step[:, :, None, t] * A) * h + (step[:, :, t] * u[:, :, t])[..., None] * B[..., t]
        y.append((C[..., t] * h).sum(-1))
    y = torch.stack(y, dim=-1)
    y = y if D is None else y + D[:, None] * u
    return y if z is None else y * functional.silu(z), h


def inputs(length, forms=("grouped", "grouped"), groups=2, delta_channels=CHANNELS, dtype=torch.float32):
    random = torch.Generator().manual_seed(length)

    def normal(*shape):
        return torch.randn(shape, generator=random)

    shapes = {
        "constant": (CHANNELS, STATES),
        "single": (BATCH, STATES, length),
        "grouped": (BATCH, groups, STATES, length),
    }
    return {
        "u": normal(BATCH, CHANNELS, length).to(dtype),
        "delta": (0.5 * torch.rand(BATCH, delta_channels, length, generator=random)).to(dtype),
        "A": -0.5 * torch.rand(CHANNELS, STATES, generator=random),
        "B": normal(*shapes[forms[0]]),
        "C": normal(*shapes[forms[1]]),
        "D": normal(CHANNELS),
        "z": normal(BATCH, CHANNELS, length).to(dtype),
        "delta_bias": 0.5 * torch.rand(delta_channels, generator=random),
    }


def compare(given, delta_softplus, tolerance=5e-6):
    wide = {name: tensor.detach().double().requires_grad_() for name, tensor in given.items()}
    narrow = {name: tensor.detach().clone().requires_grad_() for name, tensor in given.items()}
    expected, state = by_definition(**wide, delta_softplus=delta_softplus)
    y, last = selective_scan_fn(**narrow, delta_softplus=delta_softplus, return_last_state=True)
    assert relative(y, expected) < tolerance
    assert relative(last, state) < tolerance
    plain = selective_scan_fn(**narrow, delta_softplus=delta_softplus)
    assert relative(plain, expected) < tolerance
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    wanted = torch.autograd.grad(expected, list(wide.values()), grad.double())
    for name, got, want in zip(
        given, torch.autograd.grad(plain, list(narrow.values()), grad.to(y)), wanted, strict=True
    ):
        assert got.dtype == given[name].dtype, name
        assert relative(got, want) < 3 * tolerance, name


def test_signature_is_that_of_mamba_ssm():
    parameters = inspect.signature(selective_scan_fn).parameters
    assert list(parameters) == [
        *("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "delta_softplus", "return_last_state", "cu_seqlens")
    ]
    assert [parameter.default for parameter in parameters.values()][5:] == [None, None, None, False, False, None]
    assert all(parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for parameter in parameters.values())


@pytest.mark.parametrize("length", [8, 65, 130])
@pytest.mark.parametrize("forms", itertools.product(["constant", "single", "grouped"], repeat=2), ids="-".join)
def test_every_form_of_b_and_c(operator_backend, length, forms):
    compare(inputs(length, forms), delta_softplus=True)


@pytest.mark.parametrize(
    "without", itertools.chain([()], [("D",), ("z",), ("delta_bias",), ("D", "z", "delta_bias")]), ids=str
)
@pytest.mark.parametrize("delta_softplus", [False, True])
def test_every_option(operator_backend, without, delta_softplus):
    given = {name: tensor for name, tensor in inputs(70).items() if name not in without}
    compare(given, delta_softplus)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 8e-3), (torch.float16, 1e-3), (torch.float64, 1e-6)])
def test_every_dtype(dtype, tolerance):
    given = inputs(70, dtype=dtype)
    compare(given, True, tolerance)
    assert selective_scan_fn(**given).dtype == dtype


def test_arguments_in_their_places():
    given = inputs(20)
    y = selective_scan_fn(*given.values(), True)
    assert torch.equal(y, selective_scan_fn(**given, delta_softplus=True))


@pytest.mark.parametrize("delta_channels", [1, 2])
def test_fewer_channels_of_delta_as_vmamba_has(operator_backend, delta_channels):
    compare(inputs(70, delta_channels=delta_channels), delta_softplus=True)


def test_groups_of_b_and_c_may_differ(operator_backend):
    given = inputs(70)
    given["C"] = torch.randn(BATCH, CHANNELS, STATES, 70, generator=torch.Generator().manual_seed(3))
    compare(given, delta_softplus=True)


def test_the_last_state_carries_a_sequence_on():
    given = inputs(90)
    y, last = selective_scan_fn(**given, delta_softplus=True, return_last_state=True)
    head = {name: tensor[..., :50] if tensor.dim() > 2 else tensor for name, tensor in given.items()}
    y_head, state = selective_scan_fn(**head, delta_softplus=True, return_last_state=True)
    torch.testing.assert_close(y_head, y[..., :50], rtol=1e-4, atol=1e-5)
    assert state.shape == last.shape == (BATCH, CHANNELS, STATES)
    assert not torch.allclose(state, last)


def test_the_last_state_has_a_gradient():
    given = {name: tensor.double() for name, tensor in inputs(6).items()}
    tensors = leaves(list(given.values()))
    assert torch.autograd.gradcheck(lambda *t: selective_scan_fn(*t, True, True)[1], tensors)


@pytest.mark.parametrize("name", ["A", "B", "C"])
@pytest.mark.parametrize("function", [selective_scan, selective_scan_fn])
def test_complex_numbers_are_refused_by_name(function, name):
    given = {key: tensor for key, tensor in inputs(8).items() if key != "z"}
    given[name] = given[name].to(torch.complex64)
    with pytest.raises(ValueError, match=f"^{name} expects real numbers, got torch.complex64"):
        function(**given)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"cu_seqlens": torch.tensor([0, 4, 8])}, "cu_seqlens=None"),
        ({"delta": torch.rand(BATCH, 3, 8)}, "channels that divide D"),
        ({"C": torch.rand(BATCH, 3, STATES, 8)}, r"C expects \(D, N\), .* G that divides D"),
        ({"B": torch.rand(BATCH, STATES, 16)}, r"got \(2, 8, 16\)"),  # the complex form of B, real pairs in L
        ({"delta_bias": torch.rand(3)}, r"each channel of delta; got \(3,\)"),
        ({"z": torch.rand(BATCH, CHANNELS, 7)}, "z expects the shape of u"),
    ],
)
def test_what_cannot_be_done_is_named(change, says):
    with pytest.raises(ValueError, match=says):
        selective_scan_fn(**(inputs(8) | change))


@pytest.mark.parametrize("dim", [0, 2])
def test_views_are_read_as_they_are(operator_backend, dim):
    """B, C and the step sizes as parts of one projection, u as one half; of channels, or of places (dim 2)."""
    given = inputs(80 if dim == 0 else 40)
    joined = {"B": torch.cat([given["B"], given["C"]], dim=2), "u": torch.cat([given["u"], given["z"]], dim=1)}
    if dim == 2:  # every second place of each
        joined = {name: tensor.repeat_interleave(2, dim=-1)[..., ::2] for name, tensor in joined.items()}
    views = given | {"u": joined["u"][:, :CHANNELS], "z": joined["u"][:, CHANNELS:]}
    views |= {"B": joined["B"][:, :, :STATES], "C": joined["B"][:, :, STATES:]}
    assert not any(views[name].is_contiguous() for name in ("u", "z", "B", "C"))
    results = []
    for case in (given, views):
        case = {name: tensor.detach().requires_grad_() for name, tensor in case.items()}
        y = selective_scan_fn(**case, delta_softplus=True)
        results.append([y, *torch.autograd.grad(y.square().sum(), list(case.values()))])
    for own, expected in zip(*results, strict=True):
        assert relative(own, expected) < 1e-6


@pytest.mark.parametrize("name", ["selective_scan", "gated_norm"])
def test_vmap_gives_what_a_loop_gives(operator_backend, name):
    u, delta, A, B, C, _, z, _ = (tensor.detach() for tensor in inputs(12).values())
    functions = {
        "selective_scan": lambda x: selective_scan(x, delta, A, B, C),
        "gated_norm": lambda x: gated_norm(x, z, torch.ones(12), torch.zeros(12)),
    }
    several = torch.stack([u, 2 * u, -u]).requires_grad_()
    mapped = torch.vmap(functions[name])(several)
    looped = torch.stack([functions[name](x) for x in several])
    assert torch.equal(mapped, looped)
    grads = [torch.autograd.grad(y.square().sum(), several)[0] for y in (mapped, looped)]
    assert relative(*grads) < 1e-6


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacrev, torch.func.hessian])
def test_gradients_of_torch_func_are_refused(operator_backend, transform):
    u, delta, A, B, C, *_ = inputs(8).values()
    function = lambda x: selective_scan(x, delta, A, B, C).sum()  # noqa: E731
    with pytest.raises(NotImplementedError, match="inside a transform of torch"):
        transform(function)(u)
    mapped = lambda x: torch.vmap(function, in_dims=0)(torch.stack([x, x])).sum()  # noqa: E731
    with pytest.raises(NotImplementedError, match=r"use torch\.autograd\.grad"):
        transform(mapped)(u)


@pytest.mark.parametrize("scan", ["slice_scan", "selective_scan", "selective_scan_fn", "gated_norm"])
def test_forward_mode_is_refused_and_does_not_give_zeros(operator_backend, scan):
    from scan_cases import gated_norm_inputs, slice_scan_inputs

    u, delta, A, B, C, *_ = inputs(8).values()
    functions = {
        "slice_scan": (lambda x: slice_scan(x, *slice_scan_inputs()[1:], (2, 2)), slice_scan_inputs()[0]),
        "selective_scan": (lambda x: selective_scan(x, delta, A, B, C), u),
        "selective_scan_fn": (lambda x: selective_scan_fn(u, delta, A, x, C), B),
        "gated_norm": (lambda x: gated_norm(x, *gated_norm_inputs(3, 8)[1:]), gated_norm_inputs(3, 8)[0]),
    }
    function, x = functions[scan]
    with pytest.raises(NotImplementedError, match="carries a forward-mode tangent"):
        torch.func.jvp(function, (x,), (torch.ones_like(x),))
    level = torch.autograd.forward_ad
    with level.dual_level(), pytest.raises(NotImplementedError, match="use reverse mode"):
        function(level.make_dual(x, torch.ones_like(x)))
