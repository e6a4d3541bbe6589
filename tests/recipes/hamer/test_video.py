"""Videos as pictures: turned as players turn them, of one size, and cut ones are said. PyAV is imitated here; frames of
real MP4, MOV, MKV, WebM and AVI files came out of it and of imageio with the same corners (2026-11-29).
"""

import contextlib
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lib.core.errors import Stop
from lib.recipes.hamer import video
from tests.recipes.hamer.test_propose import film


def decoder(monkeypatch, picture: np.ndarray, duration_s: float | None = None):
    """PyAV with one frame at 0.5 s; what it opens lasts so long, as far as it is stated."""
    frame = SimpleNamespace(to_ndarray=lambda format: picture, rotation=0, time=0.5)
    opened = SimpleNamespace(streams=SimpleNamespace(video=[1]), decode=lambda video: [frame])
    opened.duration = duration_s and int(1e6 * duration_s)
    monkeypatch.setitem(sys.modules, "av", SimpleNamespace(open=lambda path: contextlib.nullcontext(opened)))
    return frame, opened


@pytest.mark.parametrize("sides", [(8000, 8000), (65535, 200)])
def test_frames_too_large_for_their_format_are_refused(tmp_path, sides):
    """A header of a few bytes made every frame 64 megapixels, and three of them 2 GB; or wider than a JPEG can be."""
    path = film(tmp_path / "clip.gif", 3)
    content = path.read_bytes()
    path.write_bytes(content[:6] + struct.pack("<HH", *sides) + content[10:])
    with pytest.raises(Stop, match=f"frames have {sides[0]} x {sides[1]} px, too many for"):
        video.extract(path, tmp_path, 1)
    assert not (tmp_path / "frames").exists() or not any((tmp_path / "frames").iterdir())


def test_a_frame_of_another_size_than_the_first_is_refused(tmp_path):
    """It made a picture of 24 x 16 px one of 100 megapixels."""
    frames = [Image.new("L", (24, 16), level) for level in (10, 90, 200)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:])
    content, whole = (tmp_path / "clip.gif").read_bytes(), b",\0\0\0\0" + struct.pack("<HH", 24, 16)
    last = content.rindex(whole)
    (tmp_path / "clip.gif").write_bytes(content[: last + 5] + struct.pack("<HH", 10000, 10000) + content[last + 9 :])
    with pytest.raises(Stop, match=r"decoded at frame 2 .it has 10000 x 10000 px and the first one other ones"):
        video.extract(tmp_path / "clip.gif", tmp_path, 1)


@pytest.mark.parametrize(("rotation", "corner"), [(0, (0, 0)), (90, (2, 0)), (-90, (0, 1)), (-180, (1, 2))])
def test_a_film_is_turned_as_players_turn_it(monkeypatch, tmp_path, rotation, corner):
    """A phone's frames lie on their side, and a box that was read off a player would be elsewhere in them."""
    picture = np.zeros((2, 3, 3), np.uint8)
    picture[0, 0] = 255
    frame, opened = decoder(monkeypatch, picture)
    frame.rotation = rotation
    [found] = video.frames(tmp_path / "clip.mp4")
    assert found[corner].tolist() == [255, 255, 255] and found.shape[:2] == ((3, 2) if rotation % 180 else (2, 3))
    frame.rotation = 30
    with pytest.raises(Stop, match=r"is to be turned by 30 degrees"):
        list(video.frames(tmp_path / "clip.mp4"))
    opened.streams.video = []
    with pytest.raises(Stop, match="holds sound and no pictures"):
        list(video.frames(tmp_path / "clip.mp4"))


@pytest.mark.parametrize(("duration_s", "said"), [(None, ""), (1.6, ""), (9.0, "lasts 9.0 s and shows 0.5 s")])
def test_a_film_that_was_cut_is_said(monkeypatch, tmp_path, capsys, duration_s, said):
    decoder(monkeypatch, np.zeros((2, 3, 3), np.uint8), duration_s)
    assert len(list(video.frames(tmp_path / "clip.mkv"))) == 1
    shown = capsys.readouterr().out
    assert said in shown and bool(shown) == bool(said)


def test_imageio_says_it_too(monkeypatch, tmp_path, capsys):
    given = SimpleNamespace(
        immeta=lambda path: {"fps": 10.0, "duration": 9.0}, imiter=lambda path: iter(np.zeros((5, 2, 3, 3), np.uint8))
    )
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setitem(sys.modules, "imageio", SimpleNamespace(v3=given))
    monkeypatch.setitem(sys.modules, "imageio.v3", given)
    assert len(list(video.frames(tmp_path / "clip.mkv"))) == 5
    assert "clip.mkv says that it lasts 9.0 s and shows 0.5 s: it was cut" in capsys.readouterr().out
