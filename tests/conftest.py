"""Fixtures for all tests: where reference data lies, and a network, a space and a data set as small as they can be."""

from __future__ import annotations

import os
import secrets

# Idle OpenMP threads that spin take the cores from one another; it must be set before torch starts them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has a core of its own, and so have the processes it starts
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# A thread that a test has left must not start a Ray in which the tests after it would run.
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
# Ray reads them once in a process, so all heads that tests start ask for this one token.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from nas.space import SearchSpace
from slicemamba.config import ModelConfig
from slicemamba.data.base import SegmentationData
from slicemamba.data.synthetic import draw_lesion

SHARED = Path(__file__).resolve().parents[2] / "shared"

torch.set_num_threads(min(4, torch.get_num_threads()))
settings.register_profile("untimed", deadline=None)  # a busy machine is no fault
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The longest first, so that no worker begins one of them when the others are done.
    long = {item.path for item in items if not {"ray", "long"}.isdisjoint(item.keywords)}
    items.sort(key=lambda item: item.path not in long)
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; torch.cuda.is_available() is False"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Fresh networks have the same weights in every run of a test."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of public data sets; the test is skipped where it is not at hand."""
    root = Path(os.environ.get("SLICEMAMBA_DATA") or SHARED / "data")
    if not root.is_dir():
        pytest.skip(f"no data sets in {root}; set SLICEMAMBA_DATA to a folder of data sets")
    return root


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Folder of the golden tensors; the test is skipped where it is not at hand."""
    folder = Path(os.environ.get("SLICEMAMBA_GOLDEN") or SHARED / "golden")
    if not folder.is_dir():
        pytest.skip(f"no golden tensors in {folder}; set SLICEMAMBA_GOLDEN to their folder")
    return folder


@pytest.fixture
def tiny_model() -> ModelConfig:
    """Two stages a side with stochastic depth: six blocks, stride 8."""
    return ModelConfig(embed_dim=8, encoder_depths=(1, 2), decoder_depths=(2, 1), d_state=4, drop_path_rate=0.2)


@pytest.fixture
def tiny_space(tiny_model: ModelConfig) -> SearchSpace:
    """The published choices over the tiny network: 4096 architectures."""
    return SearchSpace(((2, 2), (2, 4), (4, 2), (4, 4)), tiny_model.depths)


@pytest.fixture(scope="session")
def tiny_data() -> SegmentationData:
    """Seven synthetic lesions of 32×40 pixels."""
    pairs = [draw_lesion(0, "train", index, (32, 40)) for index in range(7)]
    images, masks = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
    return SegmentationData(images, masks, tuple(f"lesion_{i}" for i in range(7)), "train", num_classes=1)
