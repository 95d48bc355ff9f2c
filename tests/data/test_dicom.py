"""DICOM frames and series as scanners write them: values, order, geometry; nothing of the patient is kept."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from torch import Tensor, nn

from slicemamba.config import DataConfig
from slicemamba.data.catalog import resolve_root
from slicemamba.data.checks import check_dataset
from slicemamba.data.dicom import read_frame
from slicemamba.data.findings import BadFileError
from slicemamba.data.prepare import SplitPlan
from slicemamba.data.prepare_pictures import prepare_pictures
from slicemamba.data.reading import read_image
from slicemamba.data.volumes import find_volumes, read_volume
from slicemamba.errors import InputError
from slicemamba.evaluation.inference import InferenceOptions, Segmenter
from slicemamba.evaluation.inputs import find_inputs
from slicemamba.evaluation.predict import Outputs, predict_files

PLAN = SplitPlan((0.5, 0.25, 0.0, 0.25))
SHAPE = (5, 24, 28)  # slices, rows, columns


def write_frame(path: Path, pixels: NDArray[Any], photometric: str = "MONOCHROME2", **tags: Any) -> Path:
    """A file with a patient's name in it."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = tags.pop("syntax", ExplicitVRLittleEndian)
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.PatientName, data.PatientID, data.Modality = "Doe^Jane", "SECRET-17", "CT"
    data.StudyInstanceUID, data.FrameOfReferenceUID = "1.2.3", "1.2.3.4"
    data.SeriesInstanceUID = tags.pop("series", "1.2.3.5")
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    if pixels.ndim == 3:
        data.PlanarConfiguration = 0
    data.PhotometricInterpretation = photometric
    data.BitsAllocated = data.BitsStored = 8 * pixels.itemsize
    data.HighBit = data.BitsAllocated - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    encoded = tags.pop("encoded", None)
    data.PixelData = encapsulate([encoded]) if encoded else pixels.tobytes()
    if encoded:
        data["PixelData"].is_undefined_length = True
    for name, value in tags.items():
        setattr(data, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def draw(number: int) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Hounsfield units and labels, (Z, Y, X)."""
    rng = np.random.default_rng(number)
    label = np.zeros(SHAPE, np.uint8)
    label[1:4, 6:15, 8 : 14 + number] = 1
    return (rng.integers(-100, 100, SHAPE) + 200 * label).astype(np.int16), label


def write_series(folder: Path, values: NDArray[np.int16], series: str = "1.2.3.5") -> Path:
    """File names in another order than the slices lie in, stored from -1024 on."""
    for z, pixels in enumerate(values):
        write_frame(
            folder / f"IM{(z * 3) % len(values):03d}.dcm",
            (pixels + 1024).astype(np.uint16),
            series=series,
            RescaleIntercept=-1024,
            RescaleSlope=1,
            ImagePositionPatient=[-20.0, 10.0, 7.0 + 2.5 * z],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            PixelSpacing=[0.8, 0.7],  # of rows, of columns
            SliceThickness=2.5,
            InstanceNumber=z + 1,
        )
    return folder


def test_series_is_a_volume_in_the_order_of_positions(tmp_path: Path) -> None:
    image, _ = draw(1)
    volume = read_volume(write_series(tmp_path / "case.1", image))
    np.testing.assert_array_equal(volume.image, image)
    assert volume.name == "case.1"
    assert volume.spacing == pytest.approx((2.5, 0.8, 0.7))
    assert volume.affine is not None
    np.testing.assert_allclose(volume.affine @ [0, 0, 2, 1], [20, -10, 12, 1])


def test_faults_of_a_series_are_named(tmp_path: Path) -> None:
    image, _ = draw(1)
    (write_series(tmp_path / "gap", image) / "IM001.dcm").unlink()
    with pytest.raises(BadFileError, match=r"gap \(slices lie 2.5 to 5 mm apart: one is missing"):
        read_volume(tmp_path / "gap")
    write_series(tmp_path / "two", image)
    for path in list((tmp_path / "two").iterdir()):
        write_frame(path.with_name("x" + path.name), image[0], series="1.2.9")
    with pytest.raises(BadFileError, match=r"two \(2 series of 1 sizes in 10 files\)"):
        read_volume(tmp_path / "two")
    broken = write_series(tmp_path / "cut", image) / "IM003.dcm"
    broken.write_bytes(broken.read_bytes()[:-300])
    with pytest.raises(BadFileError, match=r"cut/IM003\.dcm"):
        read_volume(tmp_path / "cut")


@pytest.mark.parametrize("labels", ["nifti", "flipped nifti", "pictures"])
def test_series_with_labels_beside_from_the_download_to_slices(tmp_path: Path, labels: str) -> None:
    """The third converter's habit: dcm2niix stores rows from the bottom and says so in the affine."""
    for number in range(6):
        image, label = draw(number)
        series = write_series(tmp_path / f"raw/images/p{number}", image, f"1.2.3.{number + 5}")
        affine = read_volume(series).affine
        assert affine is not None
        target = tmp_path / "raw/labels" / f"p{number}"
        target.parent.mkdir(parents=True, exist_ok=True)
        if labels == "pictures":
            target.mkdir()
            for z, part in enumerate(label):
                Image.fromarray(part).save(target / f"{z:03d}.png")
            continue
        stored = label.T
        if labels == "flipped nifti":
            stored = stored[:, ::-1]
            affine = affine @ np.array([[1, 0, 0, 0], [0, -1, 0, SHAPE[1] - 1], [0, 0, 1, 0], [0, 0, 0, 1]])
        nib.save(nib.Nifti1Image(stored, affine), target.with_suffix(".nii.gz"))
    made = prepare_pictures("folder", tmp_path / "raw", tmp_path / "set", PLAN)
    assert made.from_dicom
    assert sum(made.num_groups.values()) == 6
    config = resolve_root(DataConfig(name="set", root=tmp_path / "set", image_size=(32, 32)))
    check_dataset(config)
    for path in find_volumes(config):
        volume = read_volume(path)
        image, label = draw(int(volume.name[1:]))
        np.testing.assert_array_equal(volume.image, image)
        np.testing.assert_array_equal(volume.label, label)
        assert volume.spacing == pytest.approx((2.5, 0.8, 0.7))
    for path in (tmp_path / "set").rglob("*"):
        assert not path.is_file() or b"SECRET-17" not in path.read_bytes()


def test_single_frames_beside_masks(tmp_path: Path) -> None:
    marks = np.zeros((24, 28), np.uint8)
    marks[5:15, 5:20] = 255
    (tmp_path / "raw/masks").mkdir(parents=True)
    for number in range(10):
        pixels = np.random.default_rng(number).integers(0, 4096, (24, 28)).astype(np.uint16)
        write_frame(tmp_path / f"raw/images/x{number}.dcm", pixels)
        Image.fromarray(marks).save(tmp_path / f"raw/masks/x{number}.png")
    prepare_pictures("folder", tmp_path / "raw", tmp_path / "set", PLAN)
    check_dataset(DataConfig(name="set", root=tmp_path / "set"))
    found = sorted((tmp_path / "set").glob("*/images/*"))
    assert len(found) == 10
    np.testing.assert_array_equal(
        read_image(next(path for path in found if path.stem == "x3")), read_image(tmp_path / "raw/images/x3.dcm")
    )
    assert not any(b"SECRET-17" in path.read_bytes() for path in found)


def test_photometric_interpretations(tmp_path: Path) -> None:
    grey = np.arange(24 * 28, dtype=np.uint16).reshape(24, 28)
    plain = read_image(write_frame(tmp_path / "a.dcm", grey))
    inverted = read_image(write_frame(tmp_path / "b.dcm", grey, "MONOCHROME1"))
    np.testing.assert_array_equal(inverted, 255 - plain)
    rescaled = read_frame(write_frame(tmp_path / "c.dcm", grey, RescaleSlope=2, RescaleIntercept=-10))
    np.testing.assert_array_equal(rescaled, grey * 2.0 - 10)
    window = read_image(write_frame(tmp_path / "d.dcm", grey), (100, 200))
    assert window[0, 0, 0] == 0
    assert window[-1, -1, 0] == 255
    colours = np.random.default_rng(0).integers(0, 256, (24, 28, 3), dtype=np.uint8)
    np.testing.assert_array_equal(read_image(write_frame(tmp_path / "e.dcm", colours, "RGB")), colours)
    smooth = np.asarray(Image.fromarray(colours[:3, :3]).resize((28, 24), Image.Resampling.BICUBIC))
    with io.BytesIO() as file:
        Image.fromarray(smooth).save(file, "JPEG", quality=95)
        encoded = file.getvalue()
    path = write_frame(tmp_path / "f.dcm", smooth, "YBR_FULL_422", syntax=JPEGBaseline8Bit, encoded=encoded)
    assert np.abs(read_image(path).astype(int) - smooth).mean() < 6
    with pytest.raises(BadFileError, match="holds 4 frames"):
        read_frame(write_frame(tmp_path / "g.dcm", grey, NumberOfFrames=4))
    for broken in (path.read_bytes()[:500], b"not DICOM at all"):
        (tmp_path / "h.dcm").write_bytes(broken)
        with pytest.raises(BadFileError, match=r"h\.dcm"):
            read_frame(tmp_path / "h.dcm")


class Bright(nn.Module):
    """Marks what is above the middle of the image's range."""

    def forward(self, image: Tensor) -> Tensor:
        return image.mean(dim=1, keepdim=True) - 127.5


def test_predict_on_series_writes_one_volume_each(tmp_path: Path) -> None:
    config = DataConfig(name="set", image_size=(32, 32), channels=1)
    images = {f"visit/s{number}": draw(number)[0] for number in range(2)}
    for number, (name, image) in enumerate(images.items()):
        write_series(tmp_path / "in" / name, image, f"1.2.{number}")
    write_frame(tmp_path / "in/single.dcm", images["visit/s0"][0].astype(np.int16))
    (tmp_path / "in/visit/s1/IM000.dcm").write_bytes(b"broken")
    files, aside = find_inputs([tmp_path / "in"], tmp_path / "out")
    assert not aside
    assert {path.name for path in files} == {"s0", "s1", "single.dcm"}
    segmenter = Segmenter(Bright(), config, torch.device("cpu"), InferenceOptions())
    done = predict_files(segmenter, files, Outputs(tmp_path / "out", roots=(tmp_path / "in",)))
    assert {path.relative_to(tmp_path / "out").as_posix() for path in done.masks} == {"visit/s0.nii.gz", "single.png"}
    assert "s1/IM000.dcm" in done.failed[tmp_path / "in/visit/s1"]
    written = read_volume(tmp_path / "out/visit/s0.nii.gz")
    np.testing.assert_allclose(written.affine, read_volume(tmp_path / "in/visit/s0").affine, atol=1e-5)
    assert written.image.shape == SHAPE
    alone = predict_files(
        segmenter, [tmp_path / "in/visit/s0"], Outputs(tmp_path / "one", roots=(tmp_path / "in/visit/s0",))
    )
    assert alone.masks == [tmp_path / "one/s0.nii.gz"]


@pytest.mark.parametrize("name", ["IM{}", "1.2.840.113619.2.{}"])
def test_files_without_an_ending_are_told_by_their_first_bytes(tmp_path: Path, name: str) -> None:
    """As scanners and archives write them, beside other files and the directory of the disc."""
    for number in range(6):
        image, label = draw(number)
        write_frame(tmp_path / "raw/images" / name.format(number), image[2], series=f"1.2.{number}")
        (tmp_path / "raw/masks").mkdir(parents=True, exist_ok=True)
        Image.fromarray(label[2] * np.uint8(255)).save(tmp_path / "raw/masks" / f"{name.format(number)}.png")
    (tmp_path / "raw/images/README").write_text("x" * 200)
    (tmp_path / "raw/images/.hidden").write_bytes((tmp_path / "raw/images" / name.format(0)).read_bytes())
    write_frame(tmp_path / "raw/images/DICOMDIR", draw(0)[0][0])
    made = prepare_pictures("folder", tmp_path / "raw", tmp_path / "set", SplitPlan((0.4, 0.3, 0.0, 0.3)))
    assert sum(made.num_images.values()) == 6
    assert made.from_dicom
    check_dataset(DataConfig(name="set", root=tmp_path / "set"), cache_dir=tmp_path / "cache")
    files, aside = find_inputs([tmp_path / "raw/images"])
    assert [path.name for path in files] == [name.format(number) for number in range(6)]
    assert aside == {"without extension": 2}
    config = DataConfig(name="set", image_size=(32, 32))
    done = predict_files(Segmenter(Bright(), config, torch.device("cpu")), files, Outputs(tmp_path / "out"))
    assert not done.failed
    assert [path.name for path in done.masks] == [f"{name.format(number)}.png" for number in range(6)]


def test_series_without_endings_is_a_volume(tmp_path: Path) -> None:
    image, label = draw(1)
    for number in range(5):
        folder = write_series(tmp_path / f"raw/images/p{number}", image, f"1.2.{number}")
        for path in list(folder.iterdir()):
            path.rename(path.with_suffix(""))
        affine = np.diag([-0.7, -0.8, 2.5, 1])
        affine[:3, 3] = 20, -10, 7
        (tmp_path / "raw/labels").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(label.T, affine), tmp_path / f"raw/labels/p{number}.nii.gz")
    np.testing.assert_array_equal(read_volume(folder).image, image)
    assert [path.name for path in find_inputs([tmp_path / "raw/images"])[0]] == [f"p{n}" for n in range(5)]
    prepare_pictures("folder", tmp_path / "raw", tmp_path / "set", PLAN)
    stored = read_volume(find_volumes(DataConfig(name="set", root=tmp_path / "set"))[0])
    np.testing.assert_array_equal(stored.image, image)
    np.testing.assert_array_equal(stored.label, label)


def test_frames_of_different_series_in_a_folder_are_pictures(tmp_path: Path) -> None:
    for number in range(3):
        write_frame(tmp_path / f"x{number}.dcm", draw(number)[0][0], series=f"1.2.{number}")
    assert [path.name for path in find_inputs([tmp_path])[0]] == ["x0.dcm", "x1.dcm", "x2.dcm"]


def test_series_without_labels_is_named(tmp_path: Path) -> None:
    write_series(tmp_path / "raw/images/p1", draw(1)[0])
    (tmp_path / "raw/labels").mkdir()
    with pytest.raises(InputError, match="1 fault"):
        prepare_pictures("folder", tmp_path / "raw", tmp_path / "set", PLAN)


def test_series_as_itk_reads_it(tmp_path: Path) -> None:
    """Oblique slices, in another order than their names, with a slope of their own each."""
    rng = np.random.default_rng(2)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn[:, 2] = np.cross(turn[:, 0], turn[:, 1])
    exact = []
    for z in range(6):
        pixels = rng.integers(0, 4000, (9, 7)).astype(np.uint16)
        exact.append(pixels * (1 + z / 4) - 1024)
        place = np.array([12.0, -30.0, 7.5]) + turn[:, 2] * 3.25 * z
        write_frame(
            tmp_path / "s" / f"{(z * 5) % 6}.dcm",
            pixels,
            RescaleIntercept=-1024,
            RescaleSlope=1 + z / 4,
            ImagePositionPatient=[round(float(v), 6) for v in place],
            ImageOrientationPatient=[round(float(v), 6) for v in (*turn[:, 0], *turn[:, 1])],
            PixelSpacing=[0.75, 0.5],
            SliceThickness=3,
            InstanceNumber=z + 1,
        )
    reader: Any = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "s")))
    image = reader.Execute()
    found = read_volume(tmp_path / "s")
    np.testing.assert_allclose(found.image, SimpleITK.GetArrayFromImage(image), atol=1)  # ITK cuts fractions off
    np.testing.assert_allclose(found.image, np.stack(exact), rtol=1e-6)
    assert found.spacing == pytest.approx(image.GetSpacing()[::-1], abs=1e-4)
    assert found.affine is not None
    for corner in ([0, 0, 0], [6, 8, 5], [6, 0, 2]):
        place = np.array(image.TransformIndexToPhysicalPoint(corner)) * (-1, -1, 1)
        np.testing.assert_allclose((found.affine @ [*corner, 1])[:3], place, atol=1e-3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("syntax", [RLELossless, JPEGBaseline8Bit, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("content", [bytes(64), b"\xff" * 64, bytes(range(256))], ids=["zeros", "ones", "rising"])
def test_compressed_nonsense_ends_no_process(tmp_path: Path, syntax: str, content: bytes) -> None:
    """GDCM, which ITK reads with, divides by the number of segments of a run-length code."""
    for z in range(3):
        write_frame(
            tmp_path / "s" / f"{z}.dcm",
            np.zeros((4, 4), np.uint8),
            syntax=syntax,
            encoded=content,
            ImagePositionPatient=[0.0, 0.0, float(z)],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        )
    with pytest.raises(BadFileError, match=r"s/0\.dcm"):
        read_volume(tmp_path / "s")
