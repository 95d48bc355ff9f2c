"""The encoder as a classifier: the segmentation network's own encoder, and its card."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from slicemamba.architecture import Architecture
from slicemamba.config import ModelConfig
from slicemamba.errors import InputError
from slicemamba.models.classifier import SliceClassifier, read_encoder_card, save_encoder
from slicemamba.models.initialise import initialise
from slicemamba.models.unet import SliceMambaUNet

SLICING = Architecture.parse("s1:2x2|s2:2x4,4x4|s3:4x2,2x2|s4:4x4")


@pytest.fixture
def classifier(tiny_model: ModelConfig) -> SliceClassifier:
    return SliceClassifier(tiny_model, 5, SLICING).eval()


@pytest.mark.parametrize("shape", [(2, 3, 32, 40), (1, 1, 30, 17)])
def test_any_picture_gives_logits_of_each_class(classifier: SliceClassifier, shape: tuple[int, ...]) -> None:
    logits = classifier(torch.rand(shape))
    assert logits.shape == (shape[0], 5)
    assert logits.isfinite().all()


def test_encoder_sees_what_the_segmentation_network_does(classifier: SliceClassifier, tmp_path: Path) -> None:
    """The features before the head, from hooks in both."""
    save_encoder(tmp_path, classifier, tuple("abcde"), "pictures")
    network = SliceMambaUNet(classifier.config, 1, SLICING).eval()
    initialise(network, tmp_path, SLICING)
    features: list[torch.Tensor] = []
    for model in (classifier, network):
        model.layers[-1].blocks[-1].register_forward_hook(lambda module, given, made: features.append(made))
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        logits = classifier(image)
        network(image)
    assert torch.equal(*features)
    with torch.no_grad():
        torch.testing.assert_close(classifier.head(classifier.norm(features[0]).mean((1, 2))), logits)


def test_every_weight_takes_part(classifier: SliceClassifier) -> None:
    classifier(torch.rand(2, 3, 32, 32)).square().sum().backward()
    assert [name for name, weight in classifier.named_parameters() if weight.grad is None] == []


def test_card_tells_the_classes_and_other_folders_have_none(classifier: SliceClassifier, tmp_path: Path) -> None:
    assert read_encoder_card(tmp_path) is None
    save_encoder(tmp_path, classifier, tuple("abcde"), "pictures")
    card = read_encoder_card(tmp_path)
    assert card is not None
    assert (card.classes, card.data, card.architecture) == (tuple("abcde"), "pictures", str(SLICING))
    (tmp_path / "config.json").write_text("{}")
    assert read_encoder_card(tmp_path) is None


def test_architecture_of_other_depths_is_refused(tiny_model: ModelConfig) -> None:
    with pytest.raises(InputError, match="the network"):
        SliceClassifier(tiny_model, 2, Architecture.uniform((2, 2), (1, 1)))


def test_head_starts_without_a_bias(tiny_model: ModelConfig) -> None:
    """As published; torch's own start is random."""
    head = SliceClassifier(tiny_model, 5, SLICING).head
    assert not head.bias.any()
    assert 0 < head.weight.std() < 0.03
