"""Names of samples and stored pictures: no two samples meet, whatever their files are called."""

import itertools

import pytest

from lib.recipes.vavae_microdoppler.stored import LONGEST, escaped, image_path, printable, sample_name

# Pairs of names that some rule of naming or some file system takes for one.
NAMES = (
    "u/w0.jpg", "u/w0.png", "U/w0.png", "u/W0.png", "u/w0.png.png", "u/w0", "u_w0.png", "u w0.png", "u/ w0.png",
    "u/w0 .png", "u/w%20.png", "u/+w0.png", "u/w0#0.png", "u/w0.npy#0", "u/w0.npy", "u/行走.png", "u/步行.png",
    "u/w0.png/a.png", "u.png/a.png", "u/\u00e9.png", "u/e\u0301.png", "u/\\udcff.png", "u/\udcff.png",
    "u/a\nb.png", "u/a\\u000ab.png", "../w0.png", "u/../w0.png",
    "u/" + "a" * 300 + ".png", "u/" + "a" * 301 + ".png",
)  # fmt: skip


def test_every_name_has_an_id_and_a_picture_of_its_own(tmp_path):
    ids = [sample_name(printable(name)) for name in NAMES]
    stored = [str(image_path(tmp_path, one)).lower() for one in ids]
    assert len(set(ids)) == len(set(stored)) == len(NAMES)
    assert not [one for one, other in itertools.permutations(stored, 2) if other.startswith(f"{one}/")]


@pytest.mark.parametrize("name", NAMES)
def test_pictures_can_be_stored_below_the_folder(tmp_path, name):
    path = image_path(tmp_path, sample_name(printable(name)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    assert path.resolve().is_relative_to(tmp_path / "images") and path.name.isascii()


def test_windows_of_an_echo_are_samples_of_their_own():
    assert sample_name("u/rec0.npy", 3) == "u/rec0.npy#3"


def test_an_escaped_name_can_be_read():
    assert escaped("ID_1") == "+i+d_1" and escaped("rec00_w0.png", plain_dots=True) == "rec00_w0.png"
    assert len(escaped("ж" * 100)) <= LONGEST
