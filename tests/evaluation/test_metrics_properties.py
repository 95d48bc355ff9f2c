"""Scores of random masks, empty ones among them, against scikit-learn and medpy."""

from __future__ import annotations

import math
import warnings
from typing import Any

import medpy.metric.binary as medpy
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from sklearn import metrics as sklearn

from slicemamba.evaluation.metrics import confusion, hd95, image_hd95, summarize

Masks = NDArray[np.uint8]
MANY = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
SPACINGS = st.tuples(*[st.sampled_from([0.5, 1.0, 3.0])] * 2)


@st.composite
def pairs(draw: st.DrawFn, largest_label: int) -> tuple[Masks, Masks]:
    """Prediction and target, (N, H, W) each; whole images of them are empty rather often."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(2, 8), st.integers(2, 8)))
    one, two = (draw(arrays(np.uint8, shape, elements=st.integers(0, largest_label))) for _ in range(2))
    for masks in (one, two):
        for i in draw(st.sets(st.integers(0, shape[0] - 1))):
            masks[i] = 0
    return one, two


def count(pair: tuple[Masks, Masks], num_classes: int) -> torch.Tensor:
    prediction, target = map(torch.from_numpy, pair)
    return confusion(prediction, target, num_classes)


def of_sklearn(score: Any, pair: tuple[Masks, Masks], **options: Any) -> float:
    """scikit-learn's rule for nothing to divide by is an option: 1, as in the contract."""
    prediction, target = (masks.ravel() for masks in pair)
    return float(score(target, prediction, zero_division=1.0, **options))


@MANY
@given(pair=pairs(1))
def test_binary_counts_and_pooled_scores_are_those_of_scikit_learn(pair: tuple[Masks, Masks]) -> None:
    counts = count(pair, 1)
    (tn, fp), (fn, tp) = sklearn.confusion_matrix(pair[1].ravel(), pair[0].ravel(), labels=[0, 1])
    assert counts.sum(dim=0).tolist() == [[tp, fp, fn, tn]]
    found = summarize(counts)
    # scikit-learn takes an empty prediction against a marked target for 0, as the contract does.
    assert found["miou"] == pytest.approx(of_sklearn(sklearn.jaccard_score, pair))
    assert found["dice"] == pytest.approx(of_sklearn(sklearn.f1_score, pair))
    assert found["sensitivity"] == pytest.approx(of_sklearn(sklearn.recall_score, pair))
    assert found["specificity"] == pytest.approx(of_sklearn(sklearn.recall_score, pair, pos_label=0))
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(pair[1].ravel(), pair[0].ravel()))


@MANY
@given(pair=pairs(3))
def test_label_scores_are_macro_averages_over_foreground(pair: tuple[Masks, Masks]) -> None:
    found = summarize(count(pair, 4))
    foreground = {"labels": [1, 2, 3], "average": "macro"}
    assert found["miou"] == pytest.approx(of_sklearn(sklearn.jaccard_score, pair, **foreground))
    assert found["dice"] == pytest.approx(of_sklearn(sklearn.f1_score, pair, **foreground))
    assert found["sensitivity"] == pytest.approx(of_sklearn(sklearn.recall_score, pair, **foreground))
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(pair[1].ravel(), pair[0].ravel()))


@MANY
@given(pair=pairs(1))
def test_scores_of_each_image_are_those_of_medpy(pair: tuple[Masks, Masks]) -> None:
    """medpy gives Dice 0 for two empty masks; the contract 1."""
    expected = [medpy.dc(a, b) if a.any() or b.any() else 1.0 for a, b in zip(*pair, strict=True)]
    assert summarize(count(pair, 1))["dice_per_image"] == pytest.approx(np.mean(expected))


@MANY
@given(pair=pairs(2), spacing=SPACINGS)
def test_hd95_is_that_of_medpy_or_the_rule_for_empty_masks(
    pair: tuple[Masks, Masks], spacing: tuple[float, float]
) -> None:
    diagonal = math.hypot(*np.multiply(pair[0].shape[1:], spacing))
    expected = []
    for prediction, target in zip(*pair, strict=True):
        distances = []
        for label in (1, 2):
            a, b = prediction == label, target == label
            if a.any() and b.any():
                distances.append(medpy.hd95(a, b, voxelspacing=spacing))
            else:
                distances.append(0.0 if a.any() == b.any() else diagonal)
            assert hd95(a, b, spacing) == pytest.approx(distances[-1])
        expected.append(np.mean(distances))
    assert image_hd95(*pair, 3, spacing) == pytest.approx(np.array(expected))


@MANY
@given(pair=pairs(2))
def test_scores_lie_between_0_and_1_and_the_truth_is_perfect(pair: tuple[Masks, Masks]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no division by zero anywhere
        assert all(0 <= value <= 1 for value in summarize(count(pair, 3)).values())
        assert set(summarize(count((pair[1], pair[1]), 3)).values()) == {1.0}


@MANY
@given(pair=pairs(2), seed=st.integers(0, 9))
def test_the_order_of_images_changes_no_score(pair: tuple[Masks, Masks], seed: int) -> None:
    counts = count(pair, 3)
    order = torch.randperm(len(counts), generator=torch.Generator().manual_seed(seed))
    assert summarize(counts[order]) == pytest.approx(summarize(counts))
