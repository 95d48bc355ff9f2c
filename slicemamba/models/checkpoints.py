"""Networks on disk: our own folders (safetensors and JSON) and files of the published layout.

Nothing is unpickled: published ``.pth`` files are read with ``weights_only=True``.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError, model_validator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from slicemamba.architecture import SKIP, Architecture, Block, format_block, parse_block
from slicemamba.config import Config, DataConfig, ModelConfig, describe_errors
from slicemamba.errors import InputError, name_some
from slicemamba.files import write_json, writing
from slicemamba.models.baselines import TITLES, ConvUNet
from slicemamba.models.ensemble import Ensemble, SegmentationNetwork, SingleNetwork
from slicemamba.models.supernet import Supernet
from slicemamba.models.unet import SliceMambaUNet

WEIGHTS, CARD = "weights.safetensors", "config.json"
INSIDE_RUNS = ("retrained", "ensemble")
"""Folders of a run that hold its trained network."""

_PARTS = {"slicemamba": ["architecture", "choices"], "ensemble": ["members"]}  # of a card, by its kind; one of them
_PUBLISHED = "smunet."  # the network's name in the published scripts
_WRAPPERS = ("model_state_dict", "state_dict", "model")  # keys under which published files keep the state


class NetworkCard(Config):
    """What must be known to build a saved network again, and the data it was trained on.

    Attributes:
        kind: ``slicemamba`` has either an ``architecture`` (a plain network, VM-UNet among them) or ``choices`` (a
            supernet), ``ensemble`` has ``members``, and the others have none of these.
        model: of an ensemble, that of its first member.
    """

    format: Literal[1] = 1
    kind: Literal["slicemamba", "unet", "attention_unet", "ensemble"] = "slicemamba"
    model: ModelConfig
    num_classes: Annotated[int, Field(ge=1)]
    architecture: str | None = None
    choices: tuple[str, ...] | None = None
    weight_sharing: Literal["separate", "shared"] | None = None
    members: Annotated[tuple[NetworkCard, ...], Field(min_length=1)] | None = None
    data: DataConfig | None = None

    @model_validator(mode="after")
    def _fits_its_kind(self) -> NetworkCard:
        given = [name for name in ("architecture", "choices", "members") if getattr(self, name) is not None]
        expected = _PARTS.get(self.kind, [])
        if not set(given) <= set(expected) or len(given) != min(1, len(expected)):
            wanted = " or ".join(expected) or "no architecture, choices or members"
            raise ValueError(f"a card of kind {self.kind} has {wanted}; got {' and '.join(given) or 'none'}")
        return self

    def build(self) -> SegmentationNetwork | Supernet:
        """The network with fresh weights."""
        if self.members is not None:
            return Ensemble([member.build_single() for member in self.members])
        if self.choices is None:
            return self.build_single()
        sizes = [parse_block(choice) for choice in self.choices]
        return Supernet(self.model, self.num_classes, sizes, self.weight_sharing or "separate")

    def build_single(self) -> SingleNetwork:
        """The same of a card that is neither a supernet's nor an ensemble's; InputError for one that is."""
        if self.kind == "unet" or self.kind == "attention_unet":
            return ConvUNet(self.kind, self.model, self.num_classes)
        if self.architecture is None:
            raise InputError("this card does not describe a single network")
        return SliceMambaUNet(self.model, self.num_classes, Architecture.parse(self.architecture))


def card_of(network: SegmentationNetwork | Supernet, data: DataConfig | None = None) -> NetworkCard:
    """The card of a network in memory."""
    if isinstance(network, Ensemble):
        members = tuple(card_of(member) for member in network.networks())
        first = members[0]
        return NetworkCard(
            kind="ensemble", model=first.model, num_classes=first.num_classes, members=members, data=data
        )
    config, num_classes = network.config, network.num_classes
    if isinstance(network, ConvUNet):
        return NetworkCard(kind=network.kind, model=config, num_classes=num_classes, data=data)
    if isinstance(network, SliceMambaUNet):
        return NetworkCard(model=config, num_classes=num_classes, architecture=str(network.architecture), data=data)
    return NetworkCard(
        model=config,
        num_classes=num_classes,
        choices=tuple(map(format_block, network.choices)),
        weight_sharing=network.weight_sharing,
        data=data,
    )


def title_of(card: NetworkCard) -> str:
    """What tables call a network: by its family, and slices that are the same in all blocks by their size."""
    if card.members is not None:
        kinds = sorted({title_of(member) for member in card.members})
        return f"Ensemble of {len(card.members)} ({', '.join(kinds)})"
    if card.kind != "slicemamba":
        return TITLES[card.kind]
    if card.architecture is None:
        return "Supernet"
    sizes = {block for block in Architecture.parse(card.architecture).blocks() if not block.divisor}
    if card.model.skeleton == "conv":
        if sizes == {SKIP}:
            return "U-Net, conv skeleton"
        return "U-Net with " + (f"fixed {format_block(next(iter(sizes)))}" if len(sizes) == 1 else "searched blocks")
    if sizes == {Block(1, 1)}:
        return "VM-UNet"
    return f"SliceMamba, fixed {format_block(next(iter(sizes)))}" if len(sizes) == 1 else "SliceMamba"


def save_network(folder: Path, network: SegmentationNetwork | Supernet, data: DataConfig | None = None) -> None:
    """Writes ``weights.safetensors`` and ``config.json``; the card last, so a folder with a card is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    with writing(folder / WEIGHTS) as draft:
        save_file(state, draft)
    write_json(folder / CARD, card_of(network, data).model_dump(mode="json"))


def find_network(path: Path) -> Path:
    """The network's folder: the given one, or the one inside a run. Raises InputError where there is none."""
    for folder in (path, *(path / inside for inside in INSIDE_RUNS)):
        if (folder / WEIGHTS).is_file():
            return folder
    found = "does not exist" if not path.exists() else "contains no trained network"
    raise InputError(f"{path} {found}; give the folder of a finished run, or of a network, such as <run>/retrained")


def read_card(folder: Path) -> NetworkCard:
    """Reads ``config.json`` of a saved network. Raises InputError where it is absent or not of this form."""
    try:
        return NetworkCard.model_validate_json((folder / CARD).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{folder} is not a saved network: it has no {CARD}; give a folder such as <run>/retrained"
        ) from None
    except ValidationError as error:
        pointer, found = describe_errors(error, NetworkCard)[0]
        raise InputError(
            f"{folder / CARD} is not the card of a saved network ({pointer or '/'}: {found}); give a folder such as "
            "<run>/retrained"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{folder / CARD} is not the card of a saved network: {error}") from None


def load_network(folder: Path) -> SegmentationNetwork | Supernet:
    """Builds a saved network and loads its weights, on the CPU and in eval mode.

    Raises:
        InputError: the folder holds no network, or its weights are broken or do not fit its card.
    """
    network = read_card(folder).build()
    load_state(network, read_state(folder / WEIGHTS), source=str(folder / WEIGHTS))
    return network.eval()


def read_state(path: Path) -> dict[str, Tensor]:
    """``read_tensors`` without ``smunet.``, under which the published scripts keep SliceMamba, in the names."""
    return {key.removeprefix(_PUBLISHED): value for key, value in read_tensors(path).items()}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The state of a ``.safetensors`` file, or of a ``.pth`` file as the published scripts write them.

    A wrapping dictionary (``model``, ``state_dict``, …) is opened; ``module.`` of DataParallel is removed from
    the names.

    Raises:
        InputError: the file is absent, broken, or holds something else than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"weights {path} do not exist; give the path of a .safetensors or .pth file") from None
    except pickle.UnpicklingError:
        raise InputError(
            f"weights {path} cannot be read: they are damaged, or hold other objects than tensors, which are never "
            "unpickled here. If you trust the file, save its tensors alone: "
            "torch.save(torch.load(path, weights_only=False)['model'], 'model.pth')"
        ) from None
    except Exception as error:  # torch's reader of the older format raises nearly anything on a broken file
        raise InputError(f"weights {path} cannot be read: {error}") from None
    for wrapper in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"weights {path} must hold a dictionary of tensors")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def load_state(network: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Loads a state that must fit exactly.

    Raises:
        InputError: names the keys that are missing, left over, or of another shape.
    """
    own = network.state_dict()
    missing = sorted(own.keys() - state.keys())
    unknown = sorted(state.keys() - own.keys())
    other = [
        f"{key}: {tuple(state[key].shape)} in the file, {tuple(own[key].shape)} in the network"
        for key in sorted(own.keys() & state.keys())
        if state[key].shape != own[key].shape
    ]
    if missing or unknown or other:
        details = [f"missing: {name_some(missing)}"] if missing else []
        details += [f"not of this network: {name_some(unknown)}"] if unknown else []
        raise InputError(
            f"{source} does not fit the network; check embed_dim, depths, choices and num_classes",
            details=details + other[:5],
        )
    network.load_state_dict(dict(state))
