"""Starts a network from weights that are there already, and says of every weight what became of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from slicemamba.architecture import Architecture, format_block
from slicemamba.errors import InputError, name_some
from slicemamba.models.checkpoints import CARD, WEIGHTS, NetworkCard, load_state, read_card, read_state, read_tensors
from slicemamba.models.classifier import read_encoder_card
from slicemamba.models.published import PUBLISHED_CHOICES, check_variant, is_four_way, our_layout, our_names
from slicemamba.models.supernet import Supernet

Found = dict[str, tuple[str, Tensor]]  # this project's name → (name in the file, value)

LEAST_SHARE = 0.5
"""Of the network's weights, the share that a source must have: with less, it is that of another network."""

_STEMS = ("patch_embed.proj.weight", "conv.stages.0.0.conv1.weight")
"""Weights that see the image, in the skeletons."""

_HEAD = ("final_conv.", "conv.head.", "conv.supervised.")
_BLOCK = re.compile(r"(layers|layers_up)\.(\d+)\.blocks\.(\d+)\.(.*)")


@dataclass(frozen=True)
class InitReport:
    """What became of every weight of the network and of the file.

    Attributes:
        source: the folder or file. kind: what it holds.
        taken: name in the network → name in the file; an encoder's weight may be taken twice, by its mirror too.
        fresh: of the network, not in the file: left at their random start.
        head: of the network's head, in the file for another number of classes: left at their random start. With shapes.
        adapted: of the first convolution, in the file for another number of channels, and adapted to the network's.
        unused: of the file, not in the network.
    """

    source: str
    kind: str
    taken: dict[str, str]
    fresh: list[str]
    head: list[str]
    adapted: list[str]
    unused: list[str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def summary(self) -> str:
        """Some lines for people; the lists in full are in the JSON."""
        total = len(self.taken) + len(self.fresh) + len(self.head)
        lines = [f"started from {self.source} ({self.kind}): {len(self.taken)} of {total} weights taken"]
        for what, names in (
            ("fresh, as the file has none", self.fresh),
            ("fresh, as the file has another number of classes", self.head),
            ("adapted from another number of channels", self.adapted),
            ("in the file, not used", self.unused),
        ):
            if names:
                lines.append(f"  {len(names)} {what}: {name_some(names, 3)}")
        return "\n".join(lines)


def initialise(network: nn.Module, source: Path, architecture: Architecture | None) -> InitReport:
    """Puts weights into a network, in place.

    Args:
        network: of the U-shape, or any whose names the file has.
        source: folder of a supernet, of a trained network or of a pretrained encoder, or a file of VMamba, VM-UNet or
            SliceMamba as published (``.pth``, ``.safetensors``).
        architecture: of the network, None of one that slices nothing; its choices are taken out of a supernet.

    Raises:
        InputError: the source is absent or broken, it has less than ``LEAST_SHARE`` of the network's weights, or one of
            another shape that is not the head's; the network is as before.
    """
    kind, found = _read(source, architecture)
    own = network.state_dict()
    if architecture is not None and not any(name.startswith("layers_up.") for name in found):
        found |= _mirrored(own, found, num_stages=len(architecture.stages) // 2)
    shared = {name: found[name] for name in own if name in found}
    adapted = []
    for name, (key, value) in shared.items():
        if name in _STEMS and value.shape[2:] == own[name].shape[2:] and value.shape[1] != own[name].shape[1]:
            adapted.append(f"{name}: {value.shape[1]} channels in the file, {own[name].shape[1]} in the network")
            shared[name] = (key, adapt_channels(value, own[name].shape[1]))
    other = {
        name: f"{name}: {tuple(value.shape)} in the file, {tuple(own[name].shape)} in the network"
        for name, (_, value) in shared.items()
        if value.shape != own[name].shape
    }
    refused = [text for name, text in other.items() if not name.startswith(_HEAD)]
    if refused:
        raise InputError(
            f"{source} ({kind}) does not fit the network; check embed_dim, d_state, expand and d_conv",
            pointer="/init",
            details=refused,
        )
    taken = {name: key for name, (key, _) in shared.items() if name not in other}
    if len(taken) < LEAST_SHARE * len(own):
        raise InputError(
            f"{source} ({kind}) does not fit the network: it has {len(taken)} of its {len(own)} weights, fewer than "
            f"{LEAST_SHARE:.0%}; give weights of this kind of network",
            pointer="/init",
            details=[f"in the file: {name_some(sorted(found), 3)}", f"in the network: {name_some(sorted(own), 3)}"],
        )
    network.load_state_dict({name: shared[name][1] for name in taken}, strict=False)
    used = {key for key, _ in shared.values()}
    return InitReport(
        source=str(source),
        kind=kind,
        taken=taken,
        fresh=[name for name in own if name not in shared],
        head=list(other.values()),
        adapted=adapted,
        unused=sorted({key for key, _ in found.values()} - used),
    )


def adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """A convolution's weight (out, C, h, w) for images of other channels, as timm does it.

    For one channel the sum over all; for others, those of the file repeated in turn and scaled to the same total.
    """
    given = weight.shape[1]
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    return weight[:, [channel % given for channel in range(channels)]] * (given / channels)


def _read(source: Path, architecture: Architecture | None) -> tuple[str, Found]:
    """What the source holds, in words, and all its weights."""
    if source.name == WEIGHTS and (source.parent / CARD).is_file():
        source = source.parent
    if source.is_file():
        return _published(read_tensors(source), architecture)
    if not source.exists():
        raise InputError(
            f"init {source} does not exist; give the folder of a trained network, a supernet or a pretrained encoder, "
            "or a published .pth or .safetensors file",
            pointer="/init",
        )
    if read_encoder_card(source) is not None:
        return "pretrained encoder", {key: (key, value) for key, value in read_state(source / WEIGHTS).items()}
    card, state = read_card(source), read_state(source / WEIGHTS)
    if card.choices is None or architecture is None:
        return f"network {card.architecture or card.kind}", {key: (key, value) for key, value in state.items()}
    if card.model.skeleton == "conv":  # whose choices may be smaller in either way of sharing
        subnet = _subnet_state(card, state, architecture, source)
        return "supernet", {key: (key, value) for key, value in subnet.items()}
    if card.weight_sharing == "shared":  # a smaller block has the first of the states and channels of its weights
        subnet = _subnet_state(card, state, architecture, source)
        return "supernet", {key: (key, subnet.get(key, value)) for key, value in state.items()}
    return "supernet", _choices_of(state, card.choices, architecture)


def _subnet_state(
    card: NetworkCard, state: Mapping[str, Tensor], architecture: Architecture, source: Path
) -> dict[str, Tensor]:
    supernet = card.build()
    assert isinstance(supernet, Supernet)
    load_state(supernet, state, source=str(source / WEIGHTS))
    try:
        return supernet.extract(architecture).state_dict()
    except InputError as error:
        raise InputError(f"{source} does not contain the architecture: {error.message}", pointer="/init") from None


def _published(state: Mapping[str, Tensor], architecture: Architecture | None) -> tuple[str, Found]:
    if is_four_way(state):
        check_variant(state)
        names = our_names(state)
        found = {name: (key, our_layout(name, state[key])) for key, name in names.items()}
        return "published four-way scan, directions reordered", found
    keys = {name: key for key, name in our_names(state).items()}
    plain = {name: state[key] for name, key in keys.items()}
    if architecture is None or not any(_choice_number(name) for name in plain):
        return "published SliceMamba", {name: (keys[name], value) for name, value in plain.items()}
    chosen = _choices_of(plain, PUBLISHED_CHOICES, architecture)
    return "published supernet", {name: (keys[key], value) for name, (key, value) in chosen.items()}


def _choices_of(state: Mapping[str, Tensor], choices: Sequence[str], architecture: Architecture) -> Found:
    """Weights of a supernet with weights of its own for each choice: those of the architecture get a subnet's names.

    Raises:
        InputError: the supernet has other depths or choices.
    """
    depths = _depths(state)
    if depths != architecture.depths:
        raise InputError(
            f"the supernet has stages of depths {depths}, the architecture {architecture.depths}", pointer="/init"
        )
    return {_subnet_name(name, choices, architecture): (name, value) for name, value in state.items()}


def _depths(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Blocks of each stage, the encoder's first."""
    places = {(match[1], int(match[2]), int(match[3])) for match in map(_BLOCK.fullmatch, state) if match}
    stages = Counter((part, stage) for part, stage, _ in places)
    return tuple(stages[stage] for stage in sorted(stages))


def _choice_number(name: str) -> str:
    """The number of the choice that a supernet's weight belongs to; "" of every other weight."""
    match = _BLOCK.fullmatch(name)
    number = match[4].partition(".")[0] if match else ""
    return number if number.isdecimal() else ""


def _subnet_name(name: str, choices: Sequence[str], architecture: Architecture) -> str:
    """The name that a supernet's weight has in a subnet of it; its own when the subnet does not have that weight."""
    match = _BLOCK.fullmatch(name)
    if match is None:
        return name
    part, stage, block, rest = match.groups()
    offset = 0 if part == "layers" else len(architecture.stages) // 2
    size = format_block(architecture.stages[offset + int(stage)][int(block)])
    if size not in choices:
        raise InputError(f"slice size {size} is not among the supernet's choices {', '.join(choices)}", pointer="/init")
    number, _, inside = rest.partition(".")
    return f"{part}.{stage}.blocks.{block}.{inside}" if int(number) == choices.index(size) else name


def _mirrored(own: Mapping[str, Tensor], found: Found, num_stages: int) -> Found:
    """Weights for the decoder's blocks from the encoder's of the same width, as VM-UNet starts them."""
    mirrored: Found = {}
    for name in own:
        match = _BLOCK.fullmatch(name)
        if match is None or match[1] == "layers":
            continue
        twin = f"layers.{num_stages - 1 - int(match[2])}.blocks.{match[3]}.{match[4]}"
        if twin in found:
            mirrored[name] = found[twin]
    return mirrored
