"""Networks started from other weights: what is taken, what is not, and that nothing is passed over in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nas.space import SearchSpace
from slicemamba.architecture import Architecture, Block, parse_block
from slicemamba.config import ModelConfig
from slicemamba.errors import InputError
from slicemamba.models.bss import BSS
from slicemamba.models.checkpoints import save_network
from slicemamba.models.classifier import SliceClassifier, save_encoder
from slicemamba.models.initialise import initialise
from slicemamba.models.published import our_layout
from slicemamba.models.supernet import Supernet
from slicemamba.models.unet import SliceMambaUNet
from slicemamba.ops import selective_scan

SLICING = Architecture.parse("s1:2x2|s2:2x4,4x4|s3:4x2,2x2|s4:4x4")


@pytest.fixture
def network(tiny_model: ModelConfig) -> SliceMambaUNet:
    return SliceMambaUNet(tiny_model, 1, SLICING).eval()


def randomised(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: torch.randn(value.shape) for key, value in state.items()}


@pytest.mark.parametrize("sharing", ["separate", "shared"])
def test_supernet_gives_the_weights_of_the_architectures_choices(
    network: SliceMambaUNet, tiny_space: SearchSpace, tmp_path: Path, sharing: Literal["separate", "shared"]
) -> None:
    supernet = Supernet(network.config, 1, tiny_space.choices, sharing).eval()
    save_network(tmp_path, supernet)
    report = initialise(network, tmp_path, SLICING)
    image = torch.rand(2, 3, 16, 24)
    with torch.no_grad():
        assert torch.equal(network(image), supernet(image, SLICING))
    assert (report.kind, report.fresh, report.head) == ("supernet", [], [])
    assert report.taken.keys() == network.state_dict().keys()
    assert set(report.taken.values()) | set(report.unused) == set(supernet.state_dict())
    assert bool(report.unused) == (sharing == "separate"), "weights of other choices are told"


@pytest.mark.parametrize("sharing", ["separate", "shared"])
def test_supernet_gives_smaller_and_no_blocks_too(
    tiny_model: ModelConfig, tmp_path: Path, sharing: Literal["separate", "shared"]
) -> None:
    choices = [parse_block(text) for text in ("2x2", "2x4n2", "2x2e1", "-")]
    slicing = Architecture.parse("s1:2x4n2|s2:2x2e1,-|s3:2x2,2x4n2|s4:2x2")
    supernet = Supernet(tiny_model, 3, choices, sharing).eval()
    save_network(tmp_path, supernet)
    network = SliceMambaUNet(tiny_model, 3, slicing).eval()
    report = initialise(network, tmp_path, slicing)
    image = torch.rand(2, 3, 16, 24)
    with torch.no_grad():
        assert torch.equal(network(image), supernet(image, slicing))
    assert report.fresh == report.head == []
    assert all(key.startswith("layers.1.blocks.1.") for key in report.unused) or sharing == "separate"


def test_block_larger_than_the_shared_supernets_is_refused(tiny_model: ModelConfig, tmp_path: Path) -> None:
    save_network(tmp_path, Supernet(tiny_model, 1, [(2, 2), (4, 4)], "shared"))
    slicing = Architecture.uniform(parse_block("2x2n8"), tiny_model.depths)
    with pytest.raises(InputError, match="does not contain the architecture: block 2x2n8 needs 8 states") as caught:
        initialise(SliceMambaUNet(tiny_model, 1, slicing), tmp_path, slicing)
    assert caught.value.pointer == "/init"


def test_network_of_another_slicing_and_other_classes_gives_all_but_its_head(
    network: SliceMambaUNet, tmp_path: Path
) -> None:
    other = SliceMambaUNet(network.config, 5, Architecture.uniform((4, 2), network.config.depths))
    save_network(tmp_path, other)
    head = network.final_conv.weight.detach().clone()
    report = initialise(network, tmp_path, SLICING)
    assert [text.partition(":")[0] for text in report.head] == ["final_conv.weight", "final_conv.bias"]
    assert "(5, 2, 1, 1) in the file, (1, 2, 1, 1) in the network" in report.head[0]
    assert torch.equal(network.final_conv.weight, head)
    for name, value in other.state_dict().items():
        assert name.startswith("final_conv.") or torch.equal(network.state_dict()[name], value), name
    assert report.unused == report.fresh == []


def test_pretrained_encoder_starts_the_encoder_and_mirrored_the_decoder(
    network: SliceMambaUNet, tmp_path: Path
) -> None:
    encoder = SliceClassifier(network.config, 7, SLICING)
    save_encoder(tmp_path, encoder, tuple("abcdefg"), "pictures")
    report = initialise(network, tmp_path, SLICING)
    state, given = network.state_dict(), encoder.state_dict()
    for name in given:
        assert name in report.unused or torch.equal(state[name], given[name])
    assert report.unused == ["head.bias", "head.weight", "norm.bias", "norm.weight"]
    # The tiny decoder has depths (2, 1) for the encoder's (1, 2) stages of the same width, read backwards.
    assert report.taken["layers_up.0.blocks.1.ln_1.weight"] == "layers.1.blocks.1.ln_1.weight"
    assert report.taken["layers_up.1.blocks.0.self_attention.A_logs"] == "layers.0.blocks.0.self_attention.A_logs"
    assert torch.equal(
        state["layers_up.0.blocks.1.self_attention.in_proj.weight"],
        given["layers.1.blocks.1.self_attention.in_proj.weight"],
    )
    prefixes = ("layers_up.1.upsample.", "final_up.", "final_conv.")
    assert all(name.startswith(prefixes) for name in report.fresh)
    assert set(report.taken) | set(report.fresh) == set(state)


def test_deeper_decoder_keeps_blocks_without_a_mirror_fresh(tmp_path: Path) -> None:
    model = ModelConfig(embed_dim=8, encoder_depths=(1, 1), decoder_depths=(2, 1), d_state=4)
    slicing = Architecture.uniform((2, 2), model.depths)
    save_encoder(tmp_path, SliceClassifier(model, 2, slicing), ("a", "b"), "pictures")
    report = initialise(SliceMambaUNet(model, 1, slicing), tmp_path, slicing)
    assert "layers_up.0.blocks.0.ln_1.weight" in report.taken
    assert "layers_up.0.blocks.1.ln_1.weight" in report.fresh


def test_every_weight_stands_in_the_report_and_its_summary_counts_them(network: SliceMambaUNet, tmp_path: Path) -> None:
    save_encoder(tmp_path, SliceClassifier(network.config, 2, SLICING), ("a", "b"), "pictures")
    report = initialise(network, tmp_path, SLICING)
    total = len(network.state_dict())
    assert len(report.taken) + len(report.fresh) + len(report.head) == total
    assert f"{len(report.taken)} of {total} weights taken" in report.summary()
    assert "4 in the file, not used: head.bias, head.weight, norm.bias and 1 more" in report.summary()
    assert json.loads(json.dumps(report.to_json()))["kind"] == "pretrained encoder"


def test_other_shapes_are_listed_and_nothing_is_taken(network: SliceMambaUNet, tmp_path: Path) -> None:
    wide = network.config.model_copy(update={"embed_dim": 16})
    save_network(tmp_path, SliceMambaUNet(wide, 1, SLICING))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(InputError, match="does not fit the network; check embed_dim") as caught:
        initialise(network, tmp_path, SLICING)
    assert "patch_embed.proj.weight: (16, 3, 4, 4) in the file, (8, 3, 4, 4) in the network" in caught.value.details
    assert caught.value.pointer == "/init"
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("slicing", "says"),
    [
        ("s1:3x5|s2:2x4,4x4|s3:4x2,2x2|s4:4x4", "slice size 3x5 is not among the supernet's choices 2x2, 2x4"),
        ("s1:2x2|s2:2x4|s3:4x2|s4:4x4", r"depths \(1, 2, 2, 1\), the architecture \(1, 1, 1, 1\)"),
    ],
)
def test_supernet_without_the_architecture_is_refused(
    tiny_model: ModelConfig, tiny_space: SearchSpace, tmp_path: Path, slicing: str, says: str
) -> None:
    save_network(tmp_path, Supernet(tiny_model, 1, tiny_space.choices))
    architecture = Architecture.parse(slicing)
    encoder, decoder = architecture.depths[:2], architecture.depths[2:]
    model = tiny_model.model_copy(update={"encoder_depths": encoder, "decoder_depths": decoder})
    with pytest.raises(InputError, match=says):
        initialise(SliceMambaUNet(model, 1, architecture), tmp_path, architecture)


def test_source_that_is_absent_or_of_another_network_is_refused(network: SliceMambaUNet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; give the folder of a trained network"):
        initialise(network, tmp_path / "none", SLICING)
    torch.save({"conv.weight": torch.ones(3)}, tmp_path / "resnet.pth")
    with pytest.raises(InputError, match=r"it has 0 of its \d+ weights, fewer than 50%") as caught:
        initialise(network, tmp_path / "resnet.pth", SLICING)
    assert "in the file: conv.weight" in caught.value.details
    with pytest.raises(InputError, match="is not a saved network"):
        initialise(network, tmp_path, SLICING)


# Published files: names by version of VMamba and by VM-UNet, generated, as the real ones are hundreds of megabytes.


def first_vmamba(model: ModelConfig) -> dict[str, Tensor]:
    """Names of the first release, which VM-UNet starts from: one more block a stage than ours, and a classifier."""
    deep = model.model_copy(update={"encoder_depths": tuple(depth + 1 for depth in model.encoder_depths)})
    state = SliceClassifier(deep, 1000, Architecture.uniform((1, 1), deep.depths)).state_dict()
    return randomised({key: value for key, value in state.items() if not key.startswith("norm.")})


LATER = {
    "patch_embed.proj.": "patch_embed.0.",
    "patch_embed.norm.": "patch_embed.2.",
    ".ln_1.": ".norm.",
    ".self_attention.": ".op.",
    "head.": "classifier.head.",
}


def later_vmamba(model: ModelConfig) -> dict[str, Tensor]:
    """Names since the second release, with the convolutional downsampling that our encoder lacks."""
    state = {}
    for key, value in first_vmamba(model).items():
        if ".downsample." in key:
            continue
        for ours, theirs in LATER.items():
            key = key.replace(ours, theirs)
        state[key] = value
    dim = model.embed_dim
    extra = {"layers.0.downsample.1.weight": (2 * dim, dim, 2, 2), "layers.0.downsample.3.weight": (2 * dim,)}
    extra |= {"classifier.norm.weight": (2 * dim,)}
    return state | {key: torch.randn(shape) for key, shape in extra.items()}


def present_vmamba(model: ModelConfig) -> dict[str, Tensor]:
    """Names of the present code: projections of all directions in one linear layer, merging without names."""
    state = {}
    for key, value in first_vmamba(model).items():
        for ours, theirs in LATER.items():
            key = key.replace(ours, theirs)
        key = key.replace("downsample.norm", "downsample.1").replace("downsample.reduction", "downsample.2")
        for name in ("x_proj", "dt_projs"):
            if key.endswith(f".{name}_weight"):
                key, value = key.replace(f"{name}_weight", f"{name}.weight"), value.flatten(0, 1)
        state[key] = value
    return state


@pytest.mark.parametrize("release", [first_vmamba, later_vmamba])
@pytest.mark.parametrize("wrapper", ["model", None])
def test_vmamba_encoder_starts_encoder_and_decoder(
    network: SliceMambaUNet, tmp_path: Path, release: object, wrapper: str | None
) -> None:
    state = first_vmamba(network.config) if release is first_vmamba else later_vmamba(network.config)
    file = tmp_path / "vmamba.pth"
    torch.save(state if wrapper is None else {wrapper: state}, file)
    report = initialise(network, file, SLICING)
    assert report.kind == "published four-way scan, directions reordered"
    assert {name for name in network.state_dict() if name.startswith("layers.") and ".blocks." in name} <= set(
        report.taken
    )
    assert "layers_up.0.blocks.0.ln_1.weight" in report.taken
    assert set(report.taken.values()) | set(report.unused) == set(state), "every weight of the file is accounted for"
    unused = {"layers.1.blocks.2", "head.weight"} if release is first_vmamba else {"downsample.1", "classifier.norm"}
    assert all(any(part in key for key in report.unused) for part in unused)
    taken = network.state_dict()["layers.0.blocks.0.self_attention.x_proj_weight"]
    given = state[report.taken["layers.0.blocks.0.self_attention.x_proj_weight"]]
    assert torch.equal(taken, given[[0, 2, 1, 3]])


def test_present_names_of_vmamba_give_the_same_as_the_first(network: SliceMambaUNet, tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(first_vmamba(network.config), tmp_path / "first.pth")
    torch.manual_seed(0)
    torch.save({"model": present_vmamba(network.config)}, tmp_path / "present.pth")
    first = initialise(network, tmp_path / "first.pth", SLICING)
    expected = {name: value.clone() for name, value in network.state_dict().items()}
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    present = initialise(network, tmp_path / "present.pth", SLICING)
    assert present.taken.keys() == first.taken.keys()
    assert "layers.0.downsample.reduction.weight" in present.taken
    for name in present.taken:
        assert torch.equal(network.state_dict()[name], expected[name]), name


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layers.0.blocks.0.mlp.fc1.weight": (32, 8)}, "blocks have an MLP"),
        ({"patch_embed.5.weight": (8, 4, 3, 3)}, "stem of two convolutions"),
        ({"layers.0.blocks.0.op.in_proj.weight": (16, 8)}, "without a gate"),
    ],
)
def test_other_variants_of_vmamba_are_refused_by_name(
    network: SliceMambaUNet, tmp_path: Path, change: dict[str, tuple[int, ...]], says: str
) -> None:
    state = later_vmamba(network.config) | {key: torch.randn(shape) for key, shape in change.items()}
    torch.save({"model": state}, tmp_path / "vmamba.pth")
    with pytest.raises(InputError, match=says) as caught:
        initialise(network, tmp_path / "vmamba.pth", SLICING)
    assert next(iter(change)) in caught.value.message


def test_decoder_without_a_prefix_is_asked_for_one_unless_a_card_stands_beside_it(
    network: SliceMambaUNet, tmp_path: Path
) -> None:
    """VM-UNet's own module saves the names of SliceMamba, with the directions in another order."""
    torch.save(network.state_dict(), tmp_path / "best.pth")
    with pytest.raises(InputError, match=r"by the prefix, vmunet\. or smunet\.") as caught:
        initialise(network, tmp_path / "best.pth", SLICING)
    assert caught.value.pointer == "/init"
    save_network(tmp_path / "retrained", network)
    report = initialise(network, tmp_path / "retrained" / "weights.safetensors", SLICING)
    assert len(report.taken) == len(network.state_dict())


@pytest.mark.parametrize("prefix", ["", "smunet."])
def test_published_supernet_gives_the_choices_of_the_architecture(
    network: SliceMambaUNet, tmp_path: Path, prefix: str
) -> None:
    supernet = Supernet(network.config, 1, [(2, 2), (2, 4), (4, 2), (4, 4)]).eval()
    torch.save({prefix + key: value for key, value in supernet.state_dict().items()}, tmp_path / "supernet.pth")
    report = initialise(network, tmp_path / "supernet.pth", SLICING)
    image = torch.rand(2, 3, 16, 24)
    with torch.no_grad():
        assert torch.equal(network(image), supernet(image, SLICING))
    assert (report.kind, report.fresh, report.head) == ("published supernet", [], [])
    assert set(report.taken.values()) | set(report.unused) == {prefix + key for key in supernet.state_dict()}
    other = Architecture.uniform((3, 5), network.config.depths)
    with pytest.raises(InputError, match="slice size 3x5 is not among the supernet's choices 2x2, 2x4, 4x2, 4x4"):
        initialise(SliceMambaUNet(network.config, 1, other), tmp_path / "supernet.pth", other)


def test_vm_unet_as_trained_is_taken_with_its_decoder_and_head(network: SliceMambaUNet, tmp_path: Path) -> None:
    state = randomised(network.state_dict())
    torch.save({"module.vmunet." + key: value for key, value in state.items()}, tmp_path / "best.pth")
    report = initialise(network, tmp_path / "best.pth", SLICING)
    assert report.unused == report.fresh == report.head == []
    assert torch.equal(network.final_conv.weight, state["final_conv.weight"])
    key = "layers_up.0.blocks.1.self_attention.Ds"
    assert report.taken[key] == f"vmunet.{key}"
    assert torch.equal(network.state_dict()[key], state[key].view(4, -1)[[0, 2, 1, 3]].flatten())


def test_file_that_holds_objects_is_not_unpickled_but_tells_the_mend(network: SliceMambaUNet, tmp_path: Path) -> None:
    """As training scripts save their configuration beside the weights."""
    file = tmp_path / "vmamba.pth"
    torch.save({"model": first_vmamba(network.config), "config": Path("an object")}, file)
    with pytest.raises(InputError, match=r"save its tensors alone: torch\.save"):
        initialise(network, file, SLICING)
    torch.save(torch.load(file, weights_only=False)["model"], file)
    assert initialise(network, file, SLICING).taken


def test_published_slicemamba_keeps_its_directions(network: SliceMambaUNet, tmp_path: Path) -> None:
    other = SliceMambaUNet(network.config, 1, SLICING)
    other.load_state_dict(randomised(other.state_dict()))
    torch.save({"smunet." + key: value for key, value in other.state_dict().items()}, tmp_path / "slicemamba.pth")
    report = initialise(network, tmp_path / "slicemamba.pth", SLICING)
    assert report.kind == "published SliceMamba"
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in other.state_dict().items())


def test_newest_vmamba_whose_scan_has_one_state_is_refused_with_the_shapes(
    network: SliceMambaUNet, tmp_path: Path
) -> None:
    state = later_vmamba(network.config)
    state = {key: value[:, :1] if key.endswith("A_logs") else value for key, value in state.items()}
    torch.save({"model": state}, tmp_path / "vssm1.pth")
    with pytest.raises(InputError, match="does not fit the network") as caught:
        initialise(network, tmp_path / "vssm1.pth", SLICING)
    assert (
        "layers.0.blocks.0.self_attention.A_logs: (64, 1) in the file, (64, 4) in the network" in caught.value.details
    )


def four_way(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    """VMamba's cross scan of (B, H, W, D), written from the paper: rows, columns, and each of these backwards."""
    batch, height, width, dim = x.shape
    flat = x.permute(0, 3, 1, 2)
    forward = torch.stack([flat.flatten(2), flat.transpose(2, 3).flatten(2)], dim=1)
    sequences = torch.cat([forward, forward.flip(-1)], dim=1)  # (B, 4, D, L)
    rank, states = state["dt_projs_weight"].shape[2], state["A_logs"].shape[1]
    projected = torch.einsum("bkdl,kcd->bkcl", sequences, state["x_proj_weight"])
    steps, b, c = projected.split([rank, states, states], dim=2)
    delta = torch.einsum("bkrl,kdr->bkdl", steps, state["dt_projs_weight"])
    y = selective_scan(
        sequences.flatten(1, 2), delta.flatten(1, 2), -state["A_logs"].exp(), b, c, state["Ds"],
        delta_bias=state["dt_projs_bias"].flatten(), delta_softplus=True,
    ).view(batch, 4, dim, -1)  # fmt: skip
    both = y[:, :2] + y[:, 2:].flip(-1)
    columns = both[:, 1].view(batch, dim, width, height).transpose(2, 3)
    return (both[:, 0].view(batch, dim, height, width) + columns).permute(0, 2, 3, 1)


def test_reordered_four_way_scan_is_ours_with_slices_of_one() -> None:
    mixer = BSS(8, d_state=4).eval()
    published = randomised(mixer.state_dict())
    mixer.load_state_dict({key: our_layout(key, value) for key, value in published.items()})
    x = torch.randn(2, 5, 7, 8)
    with torch.no_grad():
        inner, gate = F.linear(x, published["in_proj.weight"]).chunk(2, dim=-1)
        inner = F.conv2d(
            inner.permute(0, 3, 1, 2), published["conv2d.weight"], published["conv2d.bias"], padding=1, groups=16
        )
        y = four_way(F.silu(inner).permute(0, 2, 3, 1), published)
        normed = F.layer_norm(y, (16,), published["out_norm.weight"], published["out_norm.bias"])
        expected = F.linear(normed * F.silu(gate), published["out_proj.weight"])
        torch.testing.assert_close(mixer(x, Block(1, 1)), expected, rtol=1e-3, atol=1e-3)
        assert not torch.allclose(mixer(x, Block(2, 2)), expected, atol=1e-2)
