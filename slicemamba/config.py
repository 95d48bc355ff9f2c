"""Configurations of data, network and training, and how they are read from YAML.

The same JSON is the YAML file, the REST body, the database row and the ``config.json`` beside each checkpoint.
This module imports neither torch nor Ray, so that the API and ``slicemamba --help`` start without them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails

from slicemamba.architecture import FULL, Architecture, Block
from slicemamba.docstrings import add_descriptions
from slicemamba.errors import InputError

T = TypeVar("T")
Fraction = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What all generators here take; Optuna's samplers take no more."""
Depths = Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(max_length=6)]
"""Blocks of each stage; limited, as a request that is checked costs time and memory by the block."""

DATA_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")


def _check_name(value: object) -> object:
    if isinstance(value, str) and not DATA_NAME.fullmatch(value):
        raise ValueError(
            "must be 1 to 64 plain letters, digits, dots, hyphens and underscores, the first a letter or digit; "
            f"got {value!r}"
        )
    return value


DataName = Annotated[str, Field(pattern=DATA_NAME.pattern), BeforeValidator(_check_name)]


_LARGEST = 2**53  # from which on floats pass over whole numbers, as JavaScript's in the dashboard do


def _is_encodable(text: str) -> bool:
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _takes_bool(annotation: object) -> bool:
    return annotation in (bool, Any) or any(map(_takes_bool, get_args(annotation)))


class Config(BaseModel):
    """Frozen, and an unknown field is an error: a misspelt option never passes in silence."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)  # JSON has neither

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """With what the docstring says of each field, so that REST's reference and the dashboard's form show it."""
        found = handler(schema)
        add_descriptions(cls, handler.resolve_ref_schema(found))
        return found

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        """YAML reads ``yes`` and ``on`` as true, and pydantic true as 1."""
        assert info.field_name is not None
        if isinstance(value, bool) and not _takes_bool(cls.model_fields[info.field_name].annotation):
            raise ValueError(f"must not be true or false (in YAML also yes, no, on and off); got {value}")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _no_slip_of_the_pen(cls, value: object) -> object:
        """No option counts so far, and sizes that follow from such numbers are none that floats hold."""
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise ValueError(f"must lie between -{_LARGEST} and {_LARGEST}; got a number beyond")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _can_be_written(cls, value: object) -> object:
        """Every file, database and terminal takes it. Names of files may hold bytes that are no UTF-8."""
        for text in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(text, str) and ("\0" in text or not _is_encodable(text)):
                raise ValueError(f"must not contain NUL or halves of characters; got {text!r}")
        return value


Intensity = Literal["minmax", "zscore", "unit"]
Fit = Literal["stretch", "pad", "patch"]


class SyntheticConfig(Config):
    """The built-in synthetic lesion set: textured skin, irregular blobs, hair; generated from a seed.

    Attributes:
        num_train, num_val, num_search, num_test: images of each split.
        seed: determines everything that is drawn.
    """

    num_train: Annotated[int, Field(ge=1, le=100_000)] = 96
    num_val: Annotated[int, Field(ge=1, le=100_000)] = 24
    num_search: Annotated[int, Field(ge=1, le=100_000)] = 24
    num_test: Annotated[int, Field(ge=1, le=100_000)] = 32
    seed: int = 0


def check_label_map(label_map: dict[int, int] | None, num_classes: int) -> None:
    """Raises ValueError where a map gives classes that there are not."""
    classes = max(2, num_classes)
    beyond = sorted({label for label in (label_map or {}).values() if label >= classes})
    if beyond:
        raise ValueError(f"label_map must give classes 0 to {classes - 1} with num_classes {num_classes}; got {beyond}")


class DataConfig(Config):
    """A data set.

    Attributes:
        name: ``synthetic``, or the data set's name in results; without ``root`` it is looked up by this name.
        root: the data set's folder; its layout (split folders, polyp, Synapse; docs/data.md) is recognised.
        image_size: (height, width) in pixels to which images and masks are resized; of a window with ``fit: patch``.
        fit: ``stretch`` resizes them whatever their aspect ratio (published); ``pad`` keeps it and continues the edge
            of the image around it, where no pixel counts in loss and scores; ``patch`` resizes nothing: windows are
            drawn from images to train on, and moved over whole images to evaluate and predict.
        intensity: how image values are scaled for the network: ``minmax`` stretches each image to 0…255 (published);
            ``zscore`` gives each image mean 0 and standard deviation 1, with which small networks learn faster from
            scratch; ``unit`` is 0…1, 8-bit values divided by 255 and CT slices as stored (published for Synapse).
        num_classes: 1 for binary masks (logits of one channel); more for label masks, including background.
        search_fraction: share of train held out as search split if the folder has none. Never taken from val or test.
        val_fraction: share of train held out as val split in the polyp and Synapse layouts if the folder has none;
            drawn before search, which then takes its share of the rest.
        split_seed: seed of these splits.
        test_set: polyp layout: the folder below ``TestDataset`` to test on; required if there are several.
        label_map: stored mask value → class, for masks whose values are not the classes; a value that is not in the map
            is an error.
        ignore_label: stored mask value of pixels to be left out of training and scores, such as 255; null: none.
        class_names: names of the classes for tables and reports, background first; null numbers them.
        channels: channels of an image: 3 for pictures, whose grey ones are repeated; 1 for grey, 4 for RGBA, or as many
            as TIFF and slices of several sequences have. The network takes as many (``model.in_channels``).
        per_channel: scale each channel on its own, as sequences and dyes need, not all together, as colours do; null:
            on its own unless there are three.
        window: NIfTI and Synapse images: values (low, high) that become 0 and 1, such as (-125, 275) for CT in
            Hounsfield units; null uses Synapse slices unchanged and stretches each NIfTI image from its own extremes.
        patient_pattern: regular expression whose one group is the patient (or video, or volume) in an image's name. A
            patient is never held out in part, and a patient in two splits is a fault. Null: images are independent,
            except that ``case0005_slice012`` belongs to ``case0005``. Groups in the folder's ``dataset.yaml`` come
            first.
        folds, fold: cross-validation: train and val are pooled and divided into this many folds, whole patients by
            split_seed; ``fold`` (1 … folds) becomes val, all others train. Search and test stay unchanged.
        synthetic: sizes and seed of the synthetic set; only used with ``name: synthetic``.
    """

    name: DataName = "synthetic"
    root: Path | None = None
    image_size: tuple[Annotated[int, Field(ge=32, le=8192)], Annotated[int, Field(ge=32, le=8192)]] = (256, 256)
    fit: Fit = "stretch"
    intensity: Intensity = "minmax"
    num_classes: PositiveInt = 1
    search_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    split_seed: int = 0
    test_set: str | None = None
    label_map: dict[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] | None = None
    ignore_label: Annotated[int, Field(ge=0, le=65535)] | None = None
    class_names: (
        Annotated[tuple[Annotated[str, Field(min_length=1, max_length=64)], ...], Field(max_length=256)] | None
    ) = None
    channels: Annotated[int, Field(ge=1, le=16)] = 3
    per_channel: bool | None = None
    window: tuple[float, float] | None = None
    patient_pattern: Annotated[str, Field(max_length=200)] | None = None
    folds: Annotated[int, Field(ge=2)] | None = None
    fold: PositiveInt | None = None
    synthetic: SyntheticConfig = SyntheticConfig()

    @property
    def scales_each(self) -> bool:
        """Whether each channel is scaled on its own."""
        return self.channels != 3 if self.per_channel is None else self.per_channel

    @model_validator(mode="after")
    def _fold_of_folds(self) -> DataConfig:
        if (self.folds is None) != (self.fold is None) or (self.fold or 0) > (self.folds or 0):
            raise ValueError(f"folds and fold go together, fold from 1 to folds; got {self.folds} and {self.fold}")
        return self

    @model_validator(mode="after")
    def _two_classes_is_one(self) -> DataConfig:
        if self.num_classes == 2:
            raise ValueError("num_classes 2 is ambiguous: use 1 for binary masks, 3 or more for label masks")
        return self

    @model_validator(mode="after")
    def _window_has_a_width(self) -> DataConfig:
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ValueError(f"window must be (low, high) with low below high; got {self.window}")
        return self

    @model_validator(mode="after")
    def _map_fits_the_classes(self) -> DataConfig:
        check_label_map(self.label_map, self.num_classes)
        return self

    @model_validator(mode="after")
    def _ignored_is_no_class(self) -> DataConfig:
        if self.ignore_label is not None and self.ignore_label in (
            range(max(2, self.num_classes)) if self.label_map is None else self.label_map
        ):
            raise ValueError(f"ignore_label must be no value of a class; got {self.ignore_label}")
        return self

    @model_validator(mode="after")
    def _a_name_for_each_class(self) -> DataConfig:
        classes = max(2, self.num_classes)
        names = self.class_names
        if names is not None and (len(names) != classes or len(set(names)) != classes):
            raise ValueError(
                f"class_names must be {classes} different names, background first, with num_classes "
                f"{self.num_classes}; got {list(names)}"
            )
        return self

    @model_validator(mode="after")
    def _pattern_names_the_patient(self) -> DataConfig:
        if self.patient_pattern is None:
            return self
        try:
            groups = re.compile(self.patient_pattern).groups
        except re.error as error:
            raise ValueError(f"patient_pattern is not a regular expression: {error}") from None
        if groups != 1:
            raise ValueError(
                rf"patient_pattern needs one group, as in '^(\d+)_'; {self.patient_pattern!r} has {groups}"
            )
        return self


class ModelConfig(Config):
    """The network. Defaults are the published ones, 35.80 M parameters at ``embed_dim`` 96.

    Attributes:
        skeleton: what the searched blocks stand in: ``published``, the U-shape of the paper, or ``conv``, a U-Net with
            the blocks behind its convolutions; with all blocks left out it is a plain U-Net.
        embed_dim: C, channels after patch embedding (``published``) or at full resolution (``conv``); doubled at each
            downsampling.
        in_channels: channels of an image; where it is left at 3, as many as ``data.channels``.
        encoder_depths, decoder_depths: S³ blocks per stage of the published skeleton. The decoder has as many stages as
            the encoder.
        levels: resolutions of the ``conv`` skeleton, each half of the one before: five end at a sixteenth.
        block_levels: levels of the ``conv`` skeleton with searched blocks; 0 is full resolution.
        blocks_per_stage: searched blocks of such a level, in the encoder and again in the decoder (not at the last
            level, which has one stage).
        deep_supervision: in training, the ``conv`` skeleton also predicts from maps of a half and a quarter of the
            resolution.
        d_state: N, states of the selective scan.
        expand: d_inner = expand · channels.
        d_conv: width of the depthwise convolution's kernel before a scan, in pixels of the map; odd.
        drop_path_rate: largest stochastic depth rate, linear over the encoder and reversed over the decoder.
        linear_init: initial linear layers of blocks: ``published``, a standard deviation of 0.02 at any width, or
            ``width``, torch's own, by the number of inputs; null for the one with which the skeleton was measured:
            ``width`` for ``conv``.
    """

    skeleton: Literal["published", "conv"] = "published"
    embed_dim: Annotated[int, Field(ge=4, le=4096)] = 96
    in_channels: Annotated[int, Field(ge=1, le=16)] = 3
    encoder_depths: Depths = (2, 2, 9, 2)
    decoder_depths: Depths = (2, 2, 2, 1)
    levels: Annotated[int, Field(ge=2, le=8)] = 5
    block_levels: Annotated[tuple[Annotated[int, Field(ge=0, le=7)], ...], Field(max_length=8)] = (2, 3, 4)
    blocks_per_stage: Annotated[int, Field(ge=1, le=16)] = 1
    deep_supervision: bool = False
    d_state: Annotated[int, Field(ge=1, le=256)] = 16
    expand: Annotated[int, Field(ge=1, le=16)] = 2
    d_conv: Annotated[int, Field(ge=1, le=31)] = 3
    drop_path_rate: Fraction = 0.2
    linear_init: Literal["published", "width"] | None = None

    @model_validator(mode="after")
    def _mirror(self) -> ModelConfig:
        if len(self.encoder_depths) != len(self.decoder_depths) or not self.encoder_depths:
            raise ValueError(
                f"encoder_depths and decoder_depths need the same number of stages, at least one; "
                f"got {len(self.encoder_depths)} and {len(self.decoder_depths)}"
            )
        if self.embed_dim % 4:
            raise ValueError(
                f"embed_dim must be a multiple of 4, as the network divides it by up to 4; got {self.embed_dim}"
            )
        if self.d_conv % 2 == 0:
            raise ValueError(f"d_conv must be odd, so that the map keeps its size; got {self.d_conv}")
        return self

    @model_validator(mode="after")
    def _levels_with_blocks(self) -> ModelConfig:
        if not self.block_levels:
            raise ValueError(
                "block_levels names no level, so that there is nothing to search; give one, such as [2, 3]"
            )
        if tuple(sorted(set(self.block_levels))) != self.block_levels:
            raise ValueError(f"block_levels must rise, none twice; got {list(self.block_levels)}")
        if self.skeleton == "conv" and self.block_levels[-1] >= self.levels:
            raise ValueError(
                f"block_levels must be 0 to {self.levels - 1} with {self.levels} levels; got {list(self.block_levels)}"
            )
        return self

    @model_validator(mode="after")
    def _fields_of_this_skeleton(self) -> ModelConfig:
        of_other = {
            "published": ("levels", "block_levels", "blocks_per_stage", "deep_supervision"),
            "conv": ("encoder_depths", "decoder_depths"),
        }
        for skeleton, names in of_other.items():
            for name in names if skeleton == self.skeleton else ():
                if getattr(self, name) != ModelConfig.model_fields[name].default:
                    other = "conv" if skeleton == "published" else "published"
                    raise ValueError(f"{name} is of skeleton {other}, not of {skeleton}; leave it out")
        return self

    @property
    def has_widths(self) -> bool:
        """Whether the first place of each stage is the inner width of its convolutions, not a block."""
        return self.skeleton == "conv"

    def uniform(self, block: Block) -> Architecture:
        """The same in every block, behind convolutions of full width where the skeleton has any."""
        return Architecture.uniform(block, self.depths, FULL if self.has_widths else None)

    @property
    def stage_levels(self) -> tuple[int, ...]:
        """The level of each stage, encoder first."""
        if self.skeleton == "conv":
            return (*range(self.levels), *reversed(range(self.levels - 1)))
        stages = range(len(self.encoder_depths))
        return (*stages, *reversed(stages))

    @property
    def depths(self) -> tuple[int, ...]:
        """Places of all stages, encoder first: the blocks; in the ``conv`` skeleton, the width before them."""
        if self.skeleton == "conv":
            return tuple(1 + self.blocks_per_stage * (level in self.block_levels) for level in self.stage_levels)
        return self.encoder_depths + self.decoder_depths

    @property
    def stride(self) -> int:
        """Height and width are padded to a multiple of it inside the network.

        In the ``conv`` skeleton the smallest map is then 2×2: instance norm needs more than one value.
        """
        return int(2**self.levels) if self.skeleton == "conv" else int(4 * 2 ** (len(self.encoder_depths) - 1))


class TrainConfig(Config):
    """Training of one network. Defaults are the published ones.

    Attributes:
        epochs: passes over the train split.
        batch_size: global batch; each of several workers takes an equal share.
        accumulate_steps: parts into which a worker splits its share before taking one optimiser step; saves memory and
            gives the same update up to rounding; with label masks, the Dice part of the loss is that of each part.
        learning_rate: highest learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        decay_vectors: apply weight decay to one-dimensional weights (norms, biases, the scan's skips), too; published.
        t_max: epochs in which the cosine lowers the learning rate to its minimum; then it rises again, as published.
            Null: until the end, so that the rate never rises.
        min_learning_rate: minimum of the cosine.
        warmup_epochs: epochs over which the learning rate rises linearly, step by step, before the cosine.
        clip_grad_norm: maximum gradient norm; null for no limit.
        prior_bias: begin with the logits of the classes' shares of the training pixels as the head's biases, so that
            small lesions are not lost in the first steps (``slicemamba.training.prior``). Weights from ``init`` go
            before it.
        rare_class_threshold: share of the train images below which a class is rare: images that show one are drawn
            more often, by √(threshold / the class's share), and the others less, so that an epoch stays as long (LVIS,
            arXiv 1908.03195). Null: every image once.
        precision: format of the network's matrix products; scan, loss and weights stay float32. ``fp16`` needs a GPU.
        ema_decay: validate and keep an exponential moving average of the weights with this decay; null keeps the
            weights themselves.
        augment: random flips and rotations, and the augmentations whose probability below is not 0.
        flip_probability: probability of each of the two flips.
        rotate_probability: probability of a rotation by any angle.
        scale_probability: probability of scaling by a factor in ``scale_range``. Not published, therefore 0.
        scale_range: smallest and largest factor.
        intensity_probability: probability of each of a gamma, contrast and brightness change. Not published, therefore
            0.
        validate_every: epochs between two validations; the last epoch is always validated.
        stop_if_not_learning: end the run where the training is no better than a guess (all background, or each place's
            most frequent class) at the first validation from a tenth of the epochs on, or at the end; else it is only
            said.
        early_stop_epochs: stop at the first validation whose best predecessor is at least this many epochs old; null
            never stops early.
        seed: seed of everything random: initial weights, order of the images, augmentation, stochastic depth.
    """

    epochs: PositiveInt = 300
    batch_size: PositiveInt = 32
    accumulate_steps: PositiveInt = 1
    learning_rate: PositiveFloat = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    decay_vectors: bool = True
    t_max: PositiveInt | None = 50
    min_learning_rate: Annotated[float, Field(ge=0)] = 1e-5
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    clip_grad_norm: PositiveFloat | None = None
    prior_bias: bool = False
    rare_class_threshold: Annotated[float, Field(gt=0, le=1)] | None = None
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    augment: bool = True
    flip_probability: Probability = 0.5
    rotate_probability: Probability = 0.5
    scale_probability: Probability = 0.0
    scale_range: tuple[PositiveFloat, PositiveFloat] = (0.7, 1.4)
    intensity_probability: Probability = 0.0
    validate_every: PositiveInt = 1
    early_stop_epochs: PositiveInt | None = None
    stop_if_not_learning: bool = False
    seed: Seed = 0

    @model_validator(mode="after")
    def _parts(self) -> TrainConfig:
        if self.batch_size % self.accumulate_steps:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of accumulate_steps ({self.accumulate_steps}), "
                "so that all parts weigh the same"
            )
        return self

    @model_validator(mode="after")
    def _scales_in_order(self) -> TrainConfig:
        if self.scale_range[0] > self.scale_range[1]:
            raise ValueError(f"scale_range must be (smallest, largest); got {self.scale_range}")
        return self


class PicturesConfig(Config):
    """Labelled images in the layout of ImageNet, for pretraining.

    Attributes:
        name: the data set's name in results; without ``root`` it is looked up by this name.
        root: folder with ``train/<class>/…`` and ``val/<class>/…``, each class a folder of images.
        image_size: (height, width) in pixels of the crops.
        intensity: use that of the segmentation data, so that the encoder sees the same range of values.
    """

    name: DataName = "imagenet"
    root: Path | None = None
    image_size: tuple[Annotated[int, Field(ge=32)], Annotated[int, Field(ge=32)]] = (224, 224)
    intensity: Intensity = "minmax"


class PretrainConfig(TrainConfig):
    """Training of an encoder as a classifier; defaults are VMamba's (arXiv 2401.10166, appendix) without CutMix,
    RandAugment and random erasing.

    Attributes:
        decay_vectors: apply weight decay to one-dimensional weights too; VMamba does not.
        augment: random crops and left-right flips (``flip_probability``); there are no others here.
        crop_area: smallest and largest share of an image's area that a training crop covers.
        mixup_alpha: parameter of the Beta distribution by which two images are mixed; 0 turns mixing off.
        label_smoothing: share of a target that is spread over all classes.
        decode_threads: threads per worker that decode images while it trains on the previous batch.
    """

    batch_size: PositiveInt = 1024
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    decay_vectors: bool = False
    t_max: PositiveInt | None = 280
    warmup_epochs: Annotated[int, Field(ge=0)] = 20
    clip_grad_norm: PositiveFloat | None = 5.0
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = 0.9999
    rotate_probability: Probability = 0.0
    crop_area: tuple[PositiveFloat, PositiveFloat] = (0.08, 1.0)
    mixup_alpha: Annotated[float, Field(ge=0)] = 0.8
    label_smoothing: Fraction = 0.1
    decode_threads: PositiveInt = 4

    @model_validator(mode="after")
    def _of_pictures(self) -> PretrainConfig:
        for name in (
            "rotate_probability",
            "scale_probability",
            "intensity_probability",
            "prior_bias",
            "rare_class_threshold",
        ):
            if getattr(self, name):
                raise ValueError(f"{name} is for segmentation; pretraining only crops and flips, so leave it out")
        if not 0 < self.crop_area[0] <= self.crop_area[1] <= 1:
            raise ValueError(f"crop_area must be (smallest, largest) within 0 to 1; got {self.crop_area}")
        return self


_MAPPINGS = ("model_type", "dict_type", "mapping_type", "model_attributes_type", "dataclass_type")
_CHOICES = ("literal_error", "enum", "union_tag_invalid")


def describe_errors(error: ValidationError, schema: Any = None, values: object = None) -> list[tuple[str, str]]:
    """(JSON pointer, sentence) of each finding of a pydantic error.

    Args:
        error: of pydantic. schema: in which names that are spelt alike are looked for. values: what was checked, to
            which the pointers lead.
    """
    return [
        (
            _pointer(item["loc"] if values is None else _place(item["loc"], values, item["type"])),
            _sentence(item, schema),
        )
        for item in error.errors(include_url=False)
    ]


def _pointer(place: Sequence[int | str]) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in place)


def _place(location: Sequence[int | str], values: object, kind: str) -> list[int | str]:
    """The parts of a location that lead into the values: pydantic adds which member of a union it tried, and [key]."""
    place: list[int | str] = []
    for part in location:
        if isinstance(values, Mapping):
            known = part in values
            values = values.get(part)
        elif isinstance(values, (list, tuple)) and isinstance(part, int):
            known = part < len(values)
            values = values[part] if known else None
        else:
            known = isinstance(values, BaseModel)
        if known or kind == "missing":
            place.append(part)
    return place


def _sentence(item: ErrorDetails, schema: Any) -> str:
    """What was expected and what came, in terms of options, not of classes."""
    kind, message, came = item["type"], item["msg"], item.get("input")
    got = f"; got {came!r}"
    if kind == "extra_forbidden":
        return f"unknown field; {_advice(schema, item['loc'])}"
    if kind == "missing":
        return "is required"
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    if kind in _MAPPINGS:
        return f"must be a mapping of options, such as {{name: value}}{got}"
    if kind in ("tuple_type", "list_type"):
        alone = isinstance(came, str) and "," not in came
        return f"must be a list in brackets, such as {f'[{came}]' if alone else '[64, 64]'}{got}"
    if kind == "path_type":
        return f"must be a path{got}"
    if kind in _CHOICES:
        expected = str(item["ctx"].get("expected", item["ctx"].get("expected_tags")))
        choices = re.findall(r"'([^']*)'", expected)
        return one_of(choices, came) if choices else f"must be {expected}{got}"
    message = message.replace("Input should be", "must be", 1)
    return message if isinstance(came, (dict, list)) else f"{message}{got}"


def _advice(schema: Any, location: Sequence[int | str]) -> str:
    """What to do about an unknown field: the one of its part of the schema that is spelt alike."""
    *parents, name = location
    model = _model_in(schema)
    for part in parents:  # indices and keys lead nowhere: the model of a list's items has been found with the list
        if model is not None and part in model.model_fields:
            model = _model_in(model.model_fields[str(part)].annotation)
    fields = model.model_fields if model else {}
    near = difflib.get_close_matches(str(name), fields, n=1)
    if not near:  # as an option of one of the parts, whose name was left out
        parts = {part: _model_in(field.annotation) for part, field in fields.items()}
        near = [f"{part}.{name}" for part, of in parts.items() if of is not None and name in of.model_fields]
    return f"did you mean {' or '.join(map(repr, near))}?" if near else "remove it or correct its spelling"


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first model in an annotation, such as ``tuple[Bound, ...] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for inner in get_args(annotation) if (model := _model_in(inner))), None)


def one_of(choices: Sequence[str], came: object) -> str:
    """``must be one of a, b; got 'c'``, and which of them may be meant."""
    near = difflib.get_close_matches(str(came), choices, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return (
        f"must be one of {', '.join(choices)}; got {came!r}{meant}"
        if len(choices) > 1
        else (f"must be {choices[0]!r}; got {came!r}{meant}")
    )


def validate(schema: Any, values: object, *, source: str) -> Any:
    """Checks ``values`` against a pydantic model or annotated union.

    Raises:
        InputError: names each offending field with what was expected and what came.
    """
    try:
        return TypeAdapter(schema).validate_python(values)
    except ValidationError as error:
        findings = describe_errors(error, schema, values)
        raise InputError(
            f"{source} is not a valid configuration",
            pointer=findings[0][0],
            details=[f"{pointer or '/'}: {message}" for pointer, message in findings],
        ) from None
