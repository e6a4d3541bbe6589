"""HEIC, as phones write it: real files where pillow-heif is installed, an imitation of that package where it is not."""

import io
import sys

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from lib.core.errors import Stop
from lib.data import pictures
from lib.recipes.hamer import predict, propose
from lib.recipes.template import data as template
from lib.recipes.vavae_microdoppler import readers, walk
from lib.scenes import photos
from tests.data.test_pictures import UPRIGHT, orientation

ROWS, COLUMNS = np.mgrid[:96, :160]
STORED = np.stack([255 * COLUMNS / 160, 255 * ROWS / 96, 0 * ROWS + 90], -1).astype(np.uint8)
LOSS = 6  # levels by which a compressed pixel may differ


class Imitation:
    """The package pillow-heif for files that are PNG inside; their pixels lie as a decoder of HEIC turned them."""

    class Opened(PngImagePlugin.PngImageFile):
        format = "HEIF"

    @classmethod
    def register_heif_opener(cls):
        Image.register_open("HEIF", cls.Opened, lambda prefix: prefix.startswith(b"\x89PNG"))


@pytest.fixture
def imitated(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", Imitation)
    monkeypatch.setattr(pictures, "FORMATS", ("HEIF",))
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    assert pictures.reads_heic()


@pytest.fixture
def heif(monkeypatch):
    package = pytest.importorskip("pillow_heif")
    if not package.libheif_info()["encoders"]:
        pytest.skip("this pillow-heif cannot write")
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    package.register_heif_opener()
    return package


def written(pixels: np.ndarray, **how) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "HEIF", quality=95, **how)
    return file.getvalue()


def alike(content: bytes, due: np.ndarray) -> bool:
    """Read upright and as stored, with the size that the header says."""
    found = [np.asarray(pictures.read(content, upright=upright)).astype(int) for upright in (True, False)]
    sizes = [pictures.header(content, upright=upright)[:2] for upright in (True, False)]
    assert sizes == [due.shape[1::-1]] * 2
    return all(one.shape == due.shape and np.abs(one - due).max() <= LOSS for one in found)


@pytest.mark.parametrize("number", UPRIGHT)
def test_a_photo_whose_boxes_turn_it_is_turned_once(heif, number):
    assert alike(written(STORED, exif=orientation(number).tobytes()), UPRIGHT[number](STORED))


def test_an_orientation_in_exif_alone_is_not_obeyed(heif):
    content = written(STORED, exif=orientation(6))  # as an object it is only kept
    assert b"irot" not in content and alike(content, STORED)


def test_ten_bits_alpha_and_grey_become_eight_bit_rgb(heif):
    deep = heif.from_bytes("RGB;16", (160, 96), (STORED.astype(np.uint16) * 257).tobytes())
    clear = np.dstack([STORED, np.where(COLUMNS < 80, 0, 255).astype(np.uint8)])
    grey = heif.from_bytes("L;16", (160, 96), (STORED[..., 0].astype(np.uint16) * 257).tobytes())
    files = []
    for image in (deep, grey):
        files.append(io.BytesIO())
        image.save(files[-1], quality=95)
    assert heif.open_heif(files[0], convert_hdr_to_8bit=False).info["bit_depth"] == 10
    assert alike(files[0].getvalue(), STORED) and alike(files[1].getvalue(), STORED[..., [0, 0, 0]])
    found = np.asarray(pictures.read(written(clear), upright=True)).astype(int)
    assert (found[:, :72] > 255 - LOSS).all() and np.abs(found - STORED)[:, 88:].max() <= LOSS


def test_of_a_sequence_the_primary_picture_is_read(heif):
    other = [Image.fromarray(STORED[::-1].copy())]
    for primary, due in ((0, STORED), (1, STORED[::-1])):
        content = written(STORED, save_all=True, append_images=other, primary_index=primary)
        assert pictures.header(content, upright=True).several and alike(content, due)


def test_a_thumbnail_is_never_taken_for_the_photo(heif):
    large = np.asarray(Image.fromarray(STORED).resize((1600, 960)))
    content = written(large, thumbnails=[300])
    assert heif.open_heif(io.BytesIO(content)).info["thumbnails"] == [300]
    assert pictures.read(content, upright=True, at_least=(120, 72)).size == (1600, 960)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.9])
def test_a_truncated_file_is_unreadable(heif, share):
    content = written(STORED)
    with pytest.raises(pictures.Unreadable, match=r"damaged|decoded"):
        pictures.read(content[: int(share * len(content))], upright=True)


# ---------------------------------------------------------------------------------------------- imitated


@pytest.mark.parametrize("number", UPRIGHT)
def test_what_the_decoder_has_turned_is_not_turned_again(imitated, number):
    file = io.BytesIO()
    Image.fromarray(STORED).save(file, "PNG", exif=orientation(number))
    assert alike(file.getvalue(), STORED)


def test_every_reader_of_photographs_takes_heic(imitated, tmp_path, monkeypatch):
    Image.fromarray(STORED).save(tmp_path / "a.heic", "PNG")
    path = tmp_path / "a.heic"
    assert list(predict.listed(tmp_path)) == ["a.heic"] == propose.photographs_of(tmp_path, [], set())
    assert photos.below(tmp_path) == photos.with_reader([path]) == [path] and photos.size_of(path, tmp_path) == (
        160,
        96,
    )
    [(_, picture, _)] = readers.image_of(None, walk.File(path, "a.heic"))
    assert np.array_equal(picture, STORED) and ".heic" in walk.IMAGE_TYPES
    assert template.read_grey(path).shape == (96, 160)


@pytest.mark.parametrize("brand", pictures.HEIC_BRANDS)
def test_without_the_package_the_sentence_names_it(monkeypatch, brand, tmp_path):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    content = b"\0\0\0\x1cftyp" + brand + b"\0\0\0\0mif1heic" + bytes(40)
    with pytest.raises(pictures.Unreadable, match="pip install pillow-heif"):
        pictures.read(content, upright=True)
    (tmp_path / "a.heic").write_bytes(content)
    with pytest.raises(Stop, match="1 HEIC photo cannot be read: Pillow needs the package pillow-heif"):
        photos.with_reader([tmp_path / "a.heic"])
