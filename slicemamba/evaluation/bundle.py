"""A bundle: one folder that holds all that is needed to use a trained network elsewhere, and says what it is.

weights.safetensors, config.json    read by `slicemamba predict` and `evaluate` like any saved network
preprocessing.json                  what becomes of an image before the network, and of logits after it
metrics.json                        scores as measured by the run that trained it, where its result is at hand
MODEL_CARD.md                       data, architecture, intended use, scores, limits, an example
model.pt2, model_portable.pt2, model.onnx     programs (slicemamba.evaluation.export)
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slicemamba.config import DataConfig, Fit, Intensity
from slicemamba.data.synthetic import draw_lesion
from slicemamba.data.transforms import to_input
from slicemamba.data.windows import OVERLAP
from slicemamba.errors import InputError
from slicemamba.evaluation.export import FILES, FORMATS, TOLERANCE, Artifact, Format, export_programs
from slicemamba.evaluation.metrics import METRICS_VERSION
from slicemamba.files import write_json, write_text, writing
from slicemamba.models.checkpoints import CARD, WEIGHTS, NetworkCard, title_of

PREPROCESSING, METRICS, MODEL_CARD = "preprocessing.json", "metrics.json", "MODEL_CARD.md"
_FITTED: dict[Fit, str] = {
    "stretch": "resized to",
    "pad": "resized at their own aspect and padded to",
    "patch": "not resized, in windows of",
}
_INTENSITY: dict[Intensity, str] = {
    "minmax": "each image (x - min) · 255 / (max - min) over all its pixels and channels; 0 where max = min",
    "zscore": "each image (x - mean) / max(std, 0.001) over all its pixels and channels, std of the population",
    "unit": "0…1: 8-bit values divided by 255, slices of volumes through the window",
}
_IN_NUMPY: dict[Intensity, str] = {
    "minmax": "(pixels - pixels.min()) * 255 / max(np.ptp(pixels), 1e-6)",
    "zscore": "(pixels - pixels.mean()) / max(pixels.std(), 1e-3)",
    "unit": "pixels / 255",
}
_TORCH = 'program = torch.export.load("{file}").module()\nlogits = program(torch.from_numpy(batch)).detach().numpy()'
_RUNS: dict[Format, tuple[str, str, str]] = {
    "onnx": (
        "ONNX Runtime",
        "import onnxruntime",
        f'session = onnxruntime.InferenceSession("{FILES["onnx"]}")\n(logits,) = session.run(None, {{"image": batch}})',
    ),
    "portable": ("torch", "import torch", _TORCH.format(file=FILES["portable"])),
    "pt2": (
        "torch, this package",
        "import slicemamba.ops  # registers the operator\nimport torch",
        _TORCH.format(file=FILES["pt2"]),
    ),
}
"""For the example of each program: what it needs, its imports, and how ``batch`` becomes ``logits``."""


def export_bundle(
    source: Path,
    network: nn.Module,
    card: NetworkCard,
    folder: Path,
    formats: Sequence[Format] = FORMATS,
    *,
    tolerance: float = TOLERANCE,
    on_step: Callable[[str], None] = lambda _: None,
) -> list[Artifact]:
    """Writes a bundle; ``config.json`` last, so a folder with it is whole.

    Args:
        source: the saved network's folder; ``../result.json`` of its run gives the scores.
        network, card: what was loaded from it, on the CPU; the card has ``data``.
        folder: made where absent. Files of an earlier bundle in it are replaced.
        formats, tolerance, on_step: as in ``export_programs``.

    Raises:
        InputError: ``folder`` is that of the network, or cannot be created.
        RunFailedError: a program differs from the network.
    """
    if folder.resolve() == source.resolve():
        raise InputError(f"{folder} is the network's own folder; give another one as --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be created: {error.strerror}; give another --out") from None
    for name in (CARD, WEIGHTS, PREPROCESSING, METRICS, MODEL_CARD, *FILES.values()):
        (folder / name).unlink(missing_ok=True)
    data = _data(card).model_copy(update={"root": None})  # a folder of this machine means nothing elsewhere
    artifacts = export_programs(network, _inputs(data), folder, formats, tolerance=tolerance, on_step=on_step)
    with writing(folder / WEIGHTS) as draft:
        shutil.copyfile(source / WEIGHTS, draft)
    preprocessing, metrics = describe_preprocessing(data), read_metrics(source, card)
    write_json(folder / PREPROCESSING, preprocessing)
    if metrics is not None:
        write_json(folder / METRICS, metrics)
    text = model_card(card, data, metrics, artifacts, sum(p.numel() for p in network.parameters()))
    write_text(folder / MODEL_CARD, text)
    final = card.model_copy(update={"data": data})
    write_json(folder / CARD, final.model_dump(mode="json"))
    return artifacts


def describe_preprocessing(data: DataConfig) -> dict[str, Any]:
    """Everything between a file and the labels that is not in the programs."""
    binary = data.num_classes == 1
    return {
        "input": {"name": "image", "shape": ["batch", data.channels, *data.image_size], "dtype": "float32"},
        "resize": {
            "pictures": f"bilinear, antialiased when shrinking (Pillow's BILINEAR), {_stored_as(data)}",
            "slices of volumes": "cubic spline (scipy.ndimage.zoom, order 3)"
            + (", a single channel repeated to three" if data.channels == 3 else ""),
        },
        "fit": {
            "stretch": "stretched to the input's size",
            "pad": "resized at its own aspect to fit into the input, centred (an odd pixel below or to its right), "
            "its edge continued around it; the output is cut to it before it is resized back",
            "patch": "not resized: scaled as a whole, its edge continued to the input's size at least; windows overlap "
            f"by {OVERLAP:.0%}, and their probabilities are averaged by Gaussian weights of a standard deviation of an "
            "eighth of a window",
        }[data.fit],
        "window": data.window,
        "intensity": data.intensity,
        "per_channel": data.scales_each,
        "intensity_formula": _formula(data),
        "output": {"name": "logits", "shape": ["batch", data.num_classes, *data.image_size], "dtype": "float32"},
        "activation": "sigmoid" if binary else "softmax over the channels",
        "threshold": 0.5 if binary else None,
        "labels": {"0": "background", "1": "foreground"} if binary else "the channel with the largest probability",
        "back_to_image_size": {
            "pictures": "probabilities bilinear, then the threshold or the largest",
            "slices of volumes": "labels by nearest neighbour (scipy.ndimage.zoom, order 0)",
        },
    }


def _stored_as(data: DataConfig) -> str:
    return {1: "on 8-bit grey", 3: "on 8-bit RGB"}.get(data.channels, f"each of {data.channels} channels in 8 bits")


def _formula(data: DataConfig) -> str:
    text = _INTENSITY[data.intensity]
    return text.replace("all its pixels and channels", "the pixels of each channel") if data.scales_each else text


def read_metrics(source: Path, card: NetworkCard) -> dict[str, Any] | None:
    """Scores in the ``result.json`` beside a network's folder, if it is that network's; None otherwise."""
    try:
        result = json.loads((source.parent / "result.json").read_text(encoding="utf-8"))
        retrained = result["retrained"]
        if retrained["architecture"] != card.architecture:
            return None
        return {
            "metrics_version": result["metrics_version"],
            "data": result["data"],
            "scores": retrained["scores"],
            "trivial": result["trivial"],
            "environment": result["environment"]["packages"],
        }
    except (OSError, ValueError, KeyError, TypeError):  # absent, or of another kind of job
        return None


def _data(card: NetworkCard) -> DataConfig:
    if card.data is None:
        raise InputError("the network's config.json does not say what data it was trained on; it needs 'data'")
    return card.data


def _inputs(data: DataConfig) -> list[Tensor]:
    """What programs are compared on: noise beside a picture with textures and edges, then a batch of one."""
    height, width = data.image_size
    lesion = draw_lesion(0, "test", 0, (height, width))[0]
    shape = (height, width, data.channels)
    noise = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    picture = torch.from_numpy(lesion)[..., [channel % 3 for channel in range(data.channels)]]
    pair = torch.stack([noise, picture]).numpy()
    both = to_input(pair, data.intensity, channels=data.channels, per_channel=data.scales_each)
    return [both, both[1:]]


def model_card(
    card: NetworkCard,
    data: DataConfig,
    metrics: dict[str, Any] | None,
    artifacts: Sequence[Artifact],
    num_parameters: int,
) -> str:
    """The text of MODEL_CARD.md: what is known from the files, and nothing that is not."""
    height, width = data.image_size
    task = "binary masks" if data.num_classes == 1 else f"{data.num_classes} classes, background included"
    sections = [
        f"# Segmentation network trained on {data.name}",
        "## Network\n\n"
        f"- {title_of(card)}, {num_parameters / 1e6:.2f} M parameters\n"
        f"- Width (embed_dim) {card.model.embed_dim}, blocks of the stages {card.model.depths}"
        + ("" if card.architecture is None else f", slicing `{card.architecture}`")
        + "\n- Made with SliceMamba NAS; method: Fan et al., IEEE JBHI 2025, arXiv 2407.08481",
        "## Data\n\n"
        f"- Trained on the data set `{data.name}`, {task}, {_FITTED[data.fit]} {height}×{width} (height×width)\n"
        f"- {data.channels} channels; intensity: {_formula(data)}",
        "## Intended use\n\n"
        "Research on images of the kind it was trained on. It is not a medical device: it was not tested for diagnosis "
        "or treatment, and a person who knows the images must check its masks.",
        "## Scores\n\n" + _scores(metrics),
        "## Limits\n\n"
        "- Scores hold for images like those of the test split: other devices, sites or patients can give much worse "
        "masks, and the network does not notice when an image is unlike its training data.\n"
        "- Its probabilities are not calibrated.\n"
        f"- Programs take {height}×{width} pixels only"
        + (", a window of an image." if data.fit == "patch" else "; details smaller than a few pixels there are lost."),
        "## Files\n\n" + _files(artifacts),
        "## Use\n\n" + _example(data, artifacts),
    ]
    return "\n\n".join(sections) + "\n"


def _scores(metrics: dict[str, Any] | None) -> str:
    if metrics is None:
        return "There was no result of a run next to the network. `slicemamba evaluate` measures them on your data."
    splits = list(metrics["scores"])
    lines = [f"| score | {' | '.join(splits)} |", "| --- |" + " --- |" * len(splits)]
    for name in metrics["scores"][splits[0]]:
        values = (metrics["scores"][split].get(name) for split in splits)
        lines.append(f"| {name} | {' | '.join('–' if value is None else f'{value:.4f}' for value in values)} |")
    return (
        f"Measured once, by the run that trained it, on the splits of `{metrics['data']}` (metrics contract version "
        f"{metrics['metrics_version']}; this package has {METRICS_VERSION}). The choice of network and slicing "
        "may be fitted to the search split; test was not used for either.\n\n" + "\n".join(lines)
    )


def _files(artifacts: Sequence[Artifact]) -> str:
    lines = ["| file | size | largest difference of a logit from the network |", "| --- | --- | --- |"]
    lines += [f"| {a.file.name} | {a.file.stat().st_size / 1e6:.1f} MB | {a.error:.1e} |" for a in artifacts]
    programs = "\n".join(lines) if artifacts else "No program was exported."
    return (
        "`weights.safetensors` and `config.json` are read by `slicemamba predict` and `slicemamba evaluate`; "
        "`preprocessing.json` says what becomes of an image before and after the programs.\n\n" + programs
    )


def _example(data: DataConfig, artifacts: Sequence[Artifact]) -> str:
    """Python that opens a program of the bundle, the one that needs the fewest packages, on pictures that Pillow reads;
    none without any."""
    if data.scales_each or data.fit != "stretch":
        return f"`{PREPROCESSING}` tells how its {data.channels} channels are made; `slicemamba predict` does so."
    made = {artifact.file.name for artifact in artifacts}
    height, width = data.image_size
    labels = "logits[0, 0] > 0" if data.num_classes == 1 else "logits[0].argmax(axis=0)"
    preferred: tuple[Format, ...] = ("onnx", "portable", "pt2")
    found = next((name for name in preferred if FILES[name] in made), None)
    if found is None:
        return "`slicemamba predict` reads this folder: `slicemamba predict THIS-FOLDER image.png --out masks`."
    needs, imports, run = _RUNS[found]
    return f"""With {needs}, NumPy and Pillow:

```python
import numpy as np
{imports}
from PIL import Image

picture = Image.open("image.png").convert("RGB").resize(({width}, {height}), Image.Resampling.BILINEAR)
pixels = np.asarray(picture, dtype=np.float32)
pixels = {_IN_NUMPY[data.intensity]}
batch = pixels.transpose(2, 0, 1)[None].astype(np.float32)
{run}
mask = {labels}  # ({height}, {width})
```"""
