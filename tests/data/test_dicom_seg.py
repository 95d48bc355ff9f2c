"""DICOM SEG beside a series: frames in any order, of marked slices only, become labels; what is not read is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.pixels.utils import pack_bits
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage, generate_uid
from test_dicom import draw, write_series

from slicemamba.config import DataConfig
from slicemamba.data.catalog import resolve_root
from slicemamba.data.convert import Reading
from slicemamba.data.dicom_seg import read_segmentation, segmentation_in
from slicemamba.data.findings import BadFileError
from slicemamba.data.prepare import SplitPlan
from slicemamba.data.prepare_pictures import prepare_pictures
from slicemamba.data.reading import read_pair
from slicemamba.data.splits import split_pairs

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
