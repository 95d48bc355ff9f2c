"""Files as people have them: each is read in full, or refused with the true reason."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import tifffile
from PIL import ExifTags, Image

from slicemamba.config import DataConfig
from slicemamba.data.checks import check_dataset
from slicemamba.data.findings import BadFileError
from slicemamba.data.pairs import Pair, match_folders
from slicemamba.data.prepare import SplitPlan
from slicemamba.data.prepare_pictures import prepare_pictures
from slicemamba.data.reading import read_image, read_mask, read_mask_values, read_pair
from slicemamba.data.synthetic import draw_lesion
from slicemamba.data.volumes import read_volume

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)
MARKS = np.where(np.arange(32) < 9, 255, 0).astype(np.uint8)[None].repeat(24, axis=0)


def test_clinicdb_as_it_is_downloaded(tmp_path: Path) -> None:
    """Three samples a pixel declared as grey, masks too, which Pillow does not identify."""
    for part in ("Original", "Ground Truth"):
        (tmp_path / "raw" / part).mkdir(parents=True)
    for index in range(12):
        image, mask = draw_lesion(5, "train", index, (40, 48))
        marks = np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)
        for part, pixels in (("Original", image), ("Ground Truth", marks)):
            tifffile.imwrite(
                tmp_path / "raw" / part / f"{index + 1}.tif", pixels, photometric="minisblack", planarconfig="contig"
            )
    with pytest.raises(OSError, match="cannot identify"):
        Image.open(tmp_path / "raw/Original/1.tif")
    made = prepare_pictures("clinicdb", tmp_path / "raw", tmp_path / "set", SplitPlan())
    assert sum(made.num_images.values()) == 12
    report = check_dataset(DataConfig(name="set", root=tmp_path / "set"))
    assert report.warnings == ()
    image, _ = draw_lesion(5, "train", 0, (40, 48))
    assert (read_image(next((tmp_path / "set").glob("*/images/1.tif"))) == image).all()


@pytest.mark.parametrize("photometric", ["rgb", "minisblack"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_of_any_arrangement(tmp_path: Path, photometric: str, planar: str) -> None:
    pixels = COLOURS if planar == "contig" else np.moveaxis(COLOURS, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric=photometric, planarconfig=planar)
    if (photometric, planar) == ("minisblack", "separate"):  # its own header tells three grey pages
        return
    assert (read_image(tmp_path / "a.tif") == COLOURS).all()


def test_colour_of_sixteen_bits_keeps_its_depth(tmp_path: Path) -> None:
    levels = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) * 5  # 12 bits
    deep = np.stack([levels, levels // 2, levels // 4], axis=2)
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb")
    read = read_image(tmp_path / "a.tif")
    assert len(np.unique(read[..., 0])) == 256
    assert (read == np.rint(deep / deep.max() * 255)).all()
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(deep, isVector=True), str(tmp_path / "a.png"))
    with pytest.raises(BadFileError, match=r"16 bits a channel, of which half would be lost.*save it as TIFF"):
        read_image(tmp_path / "a.png")


def test_channels_that_a_network_does_not_take_are_no_broken_file(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((24, 32, 5), np.uint8), photometric="minisblack", planarconfig="contig"
    )
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((4, 24, 32), np.uint8), photometric="minisblack")
    for name, expected in (("a.tif", "another number of channels"), ("b.tif", "form that is not read.*4 pages")):
        with pytest.raises(BadFileError, match=expected) as caught:
            read_image(tmp_path / name)
        assert "intact file" not in str(caught.value)


def test_alpha_that_shows_something_is_asked_about(tmp_path: Path) -> None:
    for alpha, name in ((np.full((24, 32), 200, np.uint8), "even.png"), (COLOURS[..., 0], "infrared.png")):
        Image.fromarray(np.dstack([COLOURS, alpha])).save(tmp_path / name)
    assert (read_image(tmp_path / "even.png") == COLOURS).all()
    with pytest.raises(BadFileError, match="alpha channel is not the same everywhere"):
        read_image(tmp_path / "infrared.png")


def test_mask_in_the_alpha_channel(tmp_path: Path) -> None:
    white = np.full((24, 32, 3), 255, np.uint8)
    Image.fromarray(np.dstack([white, MARKS])).save(tmp_path / "drawn.png")
    Image.fromarray(np.dstack([np.repeat(MARKS[..., None], 3, 2), MARKS])).save(tmp_path / "both.png")
    for read in (lambda path: read_mask(path, 1), read_mask_values):
        with pytest.raises(BadFileError, match="drawn in its alpha channel"):
            read(tmp_path / "drawn.png")
    assert (read_mask(tmp_path / "both.png", 1) == MARKS // 255).all()


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_picture_of_too_many_pixels_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", COLOURS, photometric="minisblack", planarconfig="contig")
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with pytest.raises(BadFileError, match=r"too large to be decoded safely.*tiles"):
        read_image(tmp_path / name)


def test_names_match_in_either_form_of_unicode(tmp_path: Path) -> None:
    for part, form in (("images", "NFC"), ("masks", "NFD")):
        (tmp_path / part).mkdir()
        (tmp_path / part / unicodedata.normalize(form, "größe (1).PNG")).touch()
    [pair], findings = match_folders(tmp_path / "images", tmp_path / "masks", "train")
    assert not findings
    assert pair.name == "größe (1)"


def test_damaged_header_of_a_volume_is_told(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.eye(4))
    image.header["xyzt_units"] = 7
    nib.save(image, tmp_path / "unit.nii")
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.eye(4))
    image.header.set_sform(np.full((4, 4), np.nan), code=1)
    image.header["sform_code"] = 1
    nib.save(image, tmp_path / "affine.nii")
    raw = bytearray((tmp_path / "affine.nii").read_bytes())
    raw[280:284] = np.float32(np.nan).tobytes()
    (tmp_path / "affine.nii").write_bytes(raw)
    for name in ("unit.nii", "affine.nii"):
        with pytest.raises(BadFileError, match=name):
            read_volume(tmp_path / name)


def test_labels_that_are_nearly_whole(tmp_path: Path) -> None:
    stored = (MARKS // 255 * np.float32(1.0000001)).astype(np.float32) + np.float32(1e-7)
    nib.save(nib.Nifti1Image(stored.T[..., None], np.eye(4)), tmp_path / "a.nii")
    assert (read_mask(tmp_path / "a.nii", 1) == MARKS // 255).all()
    assert (read_mask(tmp_path / "a.nii", 3, {0: 0, 1: 2}) == MARKS // 255 * 2).all()
    nib.save(nib.Nifti1Image(stored.T[..., None] / 2, np.eye(4)), tmp_path / "half.nii")
    with pytest.raises(BadFileError, match="not binary"):
        read_mask(tmp_path / "half.nii", 1)


def test_mask_drawn_on_a_turned_image_is_told_so(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(COLOURS).save(tmp_path / "a.jpg", exif=exif)
    Image.fromarray(MARKS.T.copy()).save(tmp_path / "a.png")
    with pytest.raises(BadFileError, match=r"EXIF orientation turns it in viewers.*mogrify -auto-orient"):
        read_pair(Pair("a", tmp_path / "a.jpg", tmp_path / "a.png"), DataConfig(name="set", root=tmp_path))
