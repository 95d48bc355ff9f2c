"""What ``import slicemamba`` offers: at hand in a notebook, and nothing imported before it is asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import slicemamba
from slicemamba.errors import InputError
from slicemamba.models.checkpoints import save_network


def test_importing_it_imports_nothing_heavy() -> None:
    script = "import sys, slicemamba; print(sorted({'torch', 'numpy', 'ray', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize("name", slicemamba.__all__)
def test_each_name_is_there(name: str) -> None:
    assert getattr(slicemamba, name).__name__ == name
    assert name in dir(slicemamba)


def test_unknown_name_is_told_with_what_there_is() -> None:
    with pytest.raises(AttributeError, match=r"no attribute .segmenter.; it offers Architecture, .*Segmenter"):
        slicemamba.segmenter  # noqa: B018


@pytest.fixture
def network() -> slicemamba.SliceMambaUNet:
    config = slicemamba.ModelConfig(embed_dim=8, encoder_depths=(1, 1), decoder_depths=(1, 1))
    return slicemamba.SliceMambaUNet(config, 1, slicemamba.Architecture.uniform("2x2", config.depths))


def test_trained_network_segments_arrays_of_any_size(tmp_path: Path, network: slicemamba.SliceMambaUNet) -> None:
    save_network(tmp_path / "retrained", network, slicemamba.DataConfig(name="skin", image_size=(32, 32)))
    segmenter = slicemamba.Segmenter.load(tmp_path)  # of the run
    images = [np.random.default_rng(i).integers(0, 256, (40 + i, 30, 3), dtype=np.uint8) for i in range(2)]
    masks = segmenter.masks(images)
    assert [mask.shape for mask in masks] == [(40, 30), (41, 30)]
    alone = [segmenter.labels(next(iter(segmenter.pictures([image])))) for image in images]
    assert all(np.array_equal(mask, one) for mask, one in zip(masks, alone, strict=True))
    assert segmenter.device == torch.device("cpu")


def test_network_of_unknown_data_and_supernet_are_refused(tmp_path: Path, network: slicemamba.SliceMambaUNet) -> None:
    save_network(tmp_path / "one", network)
    with pytest.raises(InputError, match="does not say what data it was trained on"):
        slicemamba.Segmenter.load(tmp_path / "one")
    supernet = slicemamba.Supernet(network.config, 1, [(2, 2)])
    save_network(tmp_path / "all", supernet, slicemamba.DataConfig(name="skin", image_size=(32, 32)))
    with pytest.raises(InputError, match="holds a supernet"):
        slicemamba.Segmenter.load(tmp_path / "all")
