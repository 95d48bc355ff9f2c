"""DICOM SEG beside a series: frames in any order, of marked slices only, become labels; what is not read is named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from highdicom.seg import segread
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.pixels.utils import pack_bits
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage, generate_uid
from test_dicom import Bright, draw, write_series
from torch import Tensor, nn
from typer.testing import CliRunner

from api.cli import app
from slicemamba.architecture import Architecture
from slicemamba.config import DataConfig, ModelConfig
from slicemamba.data.catalog import resolve_root
from slicemamba.data.convert import Reading
from slicemamba.data.dicom_seg import read_segmentation, segmentation_in
from slicemamba.data.findings import BadFileError
from slicemamba.data.prepare import SplitPlan
from slicemamba.data.prepare_pictures import prepare_pictures
from slicemamba.data.reading import read_pair
from slicemamba.data.splits import split_pairs
from slicemamba.data.volumes import read_volume
from slicemamba.evaluation.inference import Segmenter
from slicemamba.evaluation.inputs import find_inputs
from slicemamba.evaluation.predict import Outputs, predict_files
from slicemamba.models.checkpoints import save_network
from slicemamba.models.unet import SliceMambaUNet

AXES = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]


def holder(**tags: Any) -> Dataset:
    made = Dataset()
    for name, value in tags.items():
        setattr(made, name, value)
    return made


def write_segmentation(
    path: Path, label: NDArray[np.uint8], *, shift: float = 0.0, kind: str = "BINARY", both: bool = False
) -> Path:
    """Of ``test_dicom.write_series``: a frame for each segment of each slice that has it, from the last slice on."""
    frames, groups = [], []
    for z in reversed(range(len(label))):
        for segment in (1, 2):
            marked = label[z] > 0 if both else label[z] == segment
            if marked.any():
                frames.append(marked)
                place = holder(ImagePositionPatient=[-20.0 + shift, 10.0, 7.0 + 2.5 * z])
                number = holder(ReferencedSegmentNumber=segment)
                groups.append(
                    holder(SegmentIdentificationSequence=Sequence([number]), PlanePositionSequence=Sequence([place]))
                )
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SegmentationStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = SegmentationStorage, meta.MediaStorageSOPInstanceUID
    data.Modality, data.SegmentationType, data.SeriesInstanceUID = "SEG", kind, "1.8"
    data.Rows, data.Columns, data.NumberOfFrames = *label.shape[1:], len(frames)
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated = data.BitsStored = 1
    data.HighBit = 0
    shared = holder(PlaneOrientationSequence=Sequence([holder(ImageOrientationPatient=AXES)]))
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    data.PerFrameFunctionalGroupsSequence = Sequence(groups)
    data.PixelData = pack_bits(np.stack(frames).astype(np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def case(number: int) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    image, label = draw(number)
    label[2, 18:22, 4:9] = 2
    return image, label


@pytest.mark.parametrize("name", ["p{}.dcm", "p{}_seg.dcm", "p{}/1-1.dcm"])
def test_series_with_segmentations_from_the_download_to_slices(tmp_path: Path, name: str) -> None:
    cases = {f"p{number}": case(number) for number in range(8)}
    for number, (image, label) in enumerate(cases.values()):
        write_series(tmp_path / f"raw/images/p{number}", image, f"1.2.{number}")
        write_segmentation(tmp_path / "raw/labels" / name.format(number), label)
    plan = SplitPlan((0.5, 0.25, 0.0, 0.25))
    prepare_pictures("folder", tmp_path / "raw", tmp_path / "set", plan, reading=Reading(threshold=False))
    config = resolve_root(DataConfig(name="set", root=tmp_path / "set"))
    assert (config.num_classes, config.channels) == (3, 1)
    for pairs in split_pairs(tmp_path / "set", config).values():
        for pair in pairs:
            patient, _, z = pair.name.partition("_slice")
            image, mask = read_pair(pair, config)
            np.testing.assert_array_equal(mask, cases[patient][1][int(z)])
            np.testing.assert_allclose(image[..., 0], cases[patient][0][int(z)])


def outcome(path: Path, series: Path) -> NDArray[np.uint8] | str:
    try:
        return read_segmentation(path, series)
    except BadFileError as error:
        return str(error)


@pytest.mark.filterwarnings("ignore")
def test_what_is_not_read_is_named(tmp_path: Path) -> None:
    image, label = case(3)
    series = write_series(tmp_path / "p", image)
    assert segmentation_in(series) is None
    assert segmentation_in(next(series.iterdir())) is None
    for options, said in (
        ({"shift": 3.0}, r"s\.dcm \(a frame lies on no slice of p\)"),
        ({"kind": "FRACTIONAL"}, "segments of type FRACTIONAL; BINARY is read"),
        ({"both": True}, "segments that overlap"),
    ):
        path = write_segmentation(tmp_path / "s.dcm", label, **options)
        assert segmentation_in(path) == path
        with pytest.raises(BadFileError, match=said):
            read_segmentation(path, series)
    with pytest.raises(BadFileError, match=r"s\.dcm is \(12, 28\)"):
        read_segmentation(write_segmentation(tmp_path / "s.dcm", label[:, ::2]), series)
    whole = write_segmentation(tmp_path / "s.dcm", label)
    np.testing.assert_array_equal(read_segmentation(whole, series), label)
    content = whole.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content[: int(rng.integers(200, len(content)))])
        for place in rng.integers(132, len(damaged), 4):
            damaged[place] ^= 1 << int(rng.integers(0, 8))
        whole.write_bytes(bytes(damaged))
        found = outcome(whole, series)
        assert "s.dcm" in found if isinstance(found, str) else found.shape == label.shape


class Levels(nn.Module):
    """Class k where the value is k thirds."""

    def forward(self, image: Tensor) -> Tensor:
        return -50 * (image - torch.arange(3).view(1, 3, 1, 1) / 3).square()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("empty", [False, True])
def test_masks_of_a_series_are_written_as_it_asks_and_read_back(tmp_path: Path, empty: bool) -> None:
    label = case(1)[1] * np.uint8(not empty)
    series = write_series(tmp_path / "in/case.1", label.astype(np.int16) * 100)
    config = DataConfig(
        name="set",
        image_size=(32, 32),
        fit="patch",
        intensity="unit",
        window=(0, 300),
        channels=1,
        num_classes=3,
        class_names=("background", "Läsion", "organ"),
    )
    segmenter = Segmenter(Levels(), config, torch.device("cpu"))
    files, _ = find_inputs([tmp_path / "in"])
    with torch.inference_mode():
        done = predict_files(segmenter, files, Outputs(tmp_path / "out", dicom_seg=True))
    assert not done.failed
    path = tmp_path / "out/case.1_seg.dcm"
    assert segmentation_in(path) == path
    np.testing.assert_array_equal(read_segmentation(path, series), label)
    np.testing.assert_array_equal(read_volume(done.masks[0]).image, label)
    written, source = pydicom.dcmread(path), pydicom.dcmread(next(series.iterdir()))
    for tag in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert written[tag].value == source[tag].value
    assert written.SeriesInstanceUID != source.SeriesInstanceUID
    assert [segment.SegmentLabel for segment in written.SegmentSequence] == ["Läsion", "organ"]
    assert segread(path).number_of_segments == 2
    referenced = written.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == source.SeriesInstanceUID
    assert len(referenced.ReferencedInstanceSequence) == 5


@pytest.mark.filterwarnings("ignore")
def test_series_that_cannot_bear_a_segmentation_is_named_and_has_its_nifti(tmp_path: Path) -> None:
    series = write_series(tmp_path / "in/p1", draw(1)[0])
    for path in series.iterdir():
        data = pydicom.dcmread(path)
        del data.StudyInstanceUID
        data.save_as(path)
    config = DataConfig(name="set", image_size=(32, 32), channels=1)
    segmenter = Segmenter(Bright(), config, torch.device("cpu"))
    with torch.inference_mode():
        done = predict_files(segmenter, [series], Outputs(tmp_path / "out", dicom_seg=True))
    assert [path.name for path in done.masks] == ["p1.nii.gz"]
    assert re.search(r"no DICOM SEG can be made for \S*in/p1: .*StudyInstanceUID", done.failed[series])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["p1.nii.gz"]


def test_segmentation_is_asked_for_where_there_is_a_series(tmp_path: Path, tiny_model: ModelConfig) -> None:
    save_network(
        tmp_path / "net",
        SliceMambaUNet(tiny_model, 1, Architecture.uniform("2x2", tiny_model.depths)),
        DataConfig(image_size=(32, 32)),
    )
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    done = CliRunner().invoke(
        app, ["predict", str(tmp_path / "net"), str(tmp_path / "a.png"), "--dicom-seg", "-o", str(tmp_path / "out")]
    )
    assert "--dicom-seg is for folders of a DICOM series" in str(done.exception)
    assert not (tmp_path / "out").exists()
