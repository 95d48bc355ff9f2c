"""A trained network as programs that run without its Python code, each held to the network's own output.

    model.pt2            torch.export with the operator slicemamba::slice_scan: fast; needs this package beside torch
    model_portable.pt2   the same with the scan in plain torch (slicemamba.ops.portable): needs torch alone
    model.onnx           the portable program for ONNX Runtime and others; the scan is ONNX's own Scan

The batch may be of any size in all of them; height and width are fixed.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from slicemamba.errors import InputError, RunFailedError
from slicemamba.files import writing
from slicemamba.ops import portable, reference

Format = Literal["pt2", "portable", "onnx"]
FORMATS: tuple[Format, ...] = get_args(Format)
FILES: dict[Format, str] = {"pt2": "model.pt2", "portable": "model_portable.pt2", "onnx": "model.onnx"}
TOLERANCE = 1e-4
OPSET = 20
_SCAN = torch.ops.slicemamba.slice_scan.default
_GATED_NORM = torch.ops.slicemamba.gated_norm.default
_DEPTHWISE = torch.ops.slicemamba.depthwise_silu.default
_INSTANCE_NORM = torch.ops.slicemamba.instance_norm_act.default


@dataclass(frozen=True)
class Artifact:
    """A written program.

    Attributes:
        file: where it lies.
        error: largest difference of a logit from the network's own, over all checked inputs.
        seconds: that making, writing and checking it took.
    """

    file: Path
    error: float
    seconds: float


def check_formats(formats: Sequence[str]) -> list[Format]:
    """The formats as given, each once.

    Raises:
        InputError: an unknown format, or a package that it needs is missing.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise InputError(f"format must be one of {', '.join(FORMATS)}; got {', '.join(unknown)}")
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if "onnx" in formats and missing:
        raise InputError(
            f"the format onnx needs {', '.join(missing)}: pip install 'slicemamba-nas[onnx]', or leave out the format"
        )
    return [name for name in FORMATS if name in formats]


@torch.no_grad()
def export_programs(
    network: nn.Module,
    inputs: Sequence[Tensor],
    folder: Path,
    formats: Sequence[Format] = FORMATS,
    *,
    tolerance: float = TOLERANCE,
    on_step: Callable[[str], None] = lambda _: None,
) -> list[Artifact]:
    """Writes the programs and compares each, as read back from its file, with the network.

    Args:
        network: in eval mode, on the CPU, float32.
        inputs: batches (B, channels, H, W) of one height and width to compare on, the first of at least 2 images;
            of several sizes, so that the free batch is tried.
        folder: exists.
        formats: as from ``check_formats``.
        tolerance: largest difference allowed of a logit.
        on_step: told what is being done.

    Raises:
        RunFailedError: a program differs by more than the tolerance; it is removed.
    """
    expected = [network(batch) for batch in inputs]
    program = _trace(network, inputs[0])
    free: ExportedProgram | None = None
    artifacts = []
    for name in formats:
        start = perf_counter()
        on_step(f"{FILES[name]}: export and compare")
        if name != "pt2" and free is None:
            free = _without_custom_operators(program)
        file = folder / FILES[name]
        run = _write_onnx(free, file) if name == "onnx" and free else _write_program(free or program, file)
        error = _largest_difference(run, inputs, expected)
        if not error <= tolerance:  # NaN fails too
            file.unlink()
            raise RunFailedError(
                f"{file.name} gives logits that differ from the network's by up to {error:.2g}, more than "
                f"{tolerance:g}; it was removed. If logits are very large, a larger --tolerance may be right"
            )
        artifacts.append(Artifact(file, error, perf_counter() - start))
    return artifacts


def _trace(network: nn.Module, batch: Tensor) -> ExportedProgram:
    free_batch = ({0: torch.export.Dim("batch", min=1, max=1 << 16)},)
    return _nameless(torch.export.export(network, (batch,), dynamic_shapes=free_batch))


def _without_custom_operators(program: ExportedProgram) -> ExportedProgram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch about its own pytree
        plain = {
            _SCAN: portable.slice_scan_operator,
            _GATED_NORM: reference.gated_norm,
            _DEPTHWISE: reference.depthwise_silu,
            _INSTANCE_NORM: reference.instance_norm_act_and_moments,
        }
        return _nameless(program.run_decompositions(plain))


def _nameless(program: ExportedProgram) -> ExportedProgram:
    """Without stack traces: a program that is handed on need not tell the folders of the machine it was made on."""
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)
    return program


def _write_program(program: ExportedProgram, file: Path) -> Callable[[Tensor], Tensor]:
    with writing(file) as draft:
        torch.export.save(program, draft)
    run: Callable[[Tensor], Tensor] = torch.export.load(file).module()
    return run


def _write_onnx(program: ExportedProgram, file: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    with _quiet():
        made: Any = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: "batch"},),  # names the axis
            verbose=False,
        )
    _strip_metadata(made.model)
    with writing(file) as draft:
        made.save(draft)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda batch: torch.from_numpy(session.run(None, {"image": batch.numpy()})[0])


def _strip_metadata(model: Any) -> None:
    """Removes what the exporter notes about the origin of each node: more than half of the graph."""
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        for node in graph.all_nodes():
            node.metadata_props.clear()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back what the exporter says about packages and operators that no network here needs."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _largest_difference(run: Callable[[Tensor], Tensor], inputs: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    differences = [(run(batch) - logits).abs().max() for batch, logits in zip(inputs, expected, strict=True)]
    return float(torch.stack(differences).max())
