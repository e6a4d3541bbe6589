"""--scale: what a person knows of a walk whose prediction has a unit of its own."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from lib.core.errors import Stop
from lib.scenes import chunks, geometry, scale
from tests.scenes.walk import INTRINSICS, Truth, camera, depth, photo

PHOTOS = [photo(number) for number in range(7)]
AWAY = float(np.linalg.norm(np.subtract(*(-camera(n)[:, :3].T @ camera(n)[:, 3] for n in (0, 4)))))


@pytest.fixture
def views(tmp_path):
    return chunks.through_network(Truth(), PHOTOS, 7, tmp_path)


def between_pixels(number: int, *pixels: tuple[int, int]) -> float:
    """Metres between what two pixels of the network's picture show."""
    ends = [np.linalg.inv(INTRINSICS) @ (x, y, 1) * depth(number)[y, x] for x, y in pixels]
    return float(np.linalg.norm(ends[0] - ends[1]))


def given(*texts: str) -> scale.Scale:
    return scale.read(list(texts), PHOTOS)


@pytest.mark.parametrize("text", [
    f"walk/000.jpg walk/004.jpg {AWAY}",
    f"walk/002.jpg 104,205 505,302 {between_pixels(2, (10, 20), (50, 30))}",
])  # fmt: skip
def test_one_known_distance_gives_metres(views, text):
    given(text).apply(views)
    for number in (0, 5):
        torch.testing.assert_close(views[number].depth.double(), torch.from_numpy(depth(number)), rtol=1e-4, atol=0)
    centres = geometry.inverse(torch.stack([view.cam_from_world for view in views]))[..., 3]
    assert float((centres[0] - centres[4]).norm()) == pytest.approx(AWAY, rel=1e-4)


def model(folder, cameras):
    """A COLMAP text model of photos by number, camera (3, 4)."""
    (folder / "sparse" / "0").mkdir(parents=True)
    lines = []
    for number, pose in cameras.items():
        x, y, z, w = Rotation.from_matrix(pose[:, :3]).as_quat()
        lines += [f"{number + 1} {w} {x} {y} {z} {' '.join(map(str, pose[:, 3]))} 1 walk/{number:03d}.jpg", ""]
    for name, text in (
        ("cameras", "1 PINHOLE 600 400 500 500 300 200"),
        ("images", "\n".join(lines)),
        ("points3D", ""),
    ):
        (folder / "sparse" / "0" / f"{name}.txt").write_text(text + "\n")
    return str(folder)


def test_known_poses_give_their_unit_and_their_world(views, tmp_path):
    said = given(model(tmp_path / "known", {number: camera(number) for number in (0, 2, 3, 6)}))
    said.apply(views)
    for number in (1, 6):
        torch.testing.assert_close(views[number].cam_from_world, torch.from_numpy(camera(number)), rtol=0, atol=1e-4)
        torch.testing.assert_close(views[number].depth.double(), torch.from_numpy(depth(number)), rtol=1e-4, atol=0)


def test_poses_of_something_else_are_refused(views, tmp_path):
    other = {0: camera(3), 2: camera(0), 3: camera(6), 6: camera(1)}
    with pytest.raises(Stop, match="of the known ones' extent"):
        given(model(tmp_path / "other", other)).apply(views)


def test_statements_must_agree(views):
    near = f"walk/002.jpg 104,205 505,302 {1.05 * between_pixels(2, (10, 20), (50, 30))}"
    given(f"walk/000.jpg walk/004.jpg {AWAY}", near).apply(views)
    torch.testing.assert_close(views[0].depth.double(), torch.from_numpy(depth(0)) * 1.05**0.5, rtol=1e-4, atol=0)
    with pytest.raises(Stop, match=r"does not agree within 10%.*times 1, .*times 2"):
        given(f"walk/000.jpg walk/004.jpg {1.05**0.5 * AWAY}", f"walk/000.jpg walk/004.jpg {2.05 * AWAY}").apply(views)


def test_photos_of_two_pieces_have_no_distance_and_a_piece_of_which_nothing_is_said_keeps_its_unit(views, capsys):
    views[5].piece = views[6].piece = 1
    before = views[6].depth
    with pytest.raises(Stop, match="could not be put into one world"):
        given("walk/000.jpg walk/006.jpg 2").apply(views)
    given("walk/000.jpg walk/004.jpg 2").apply(views)
    said = capsys.readouterr().out
    assert "lengths of the first piece are the network's times" in said and "piece2 keeps the network's unit" in said
    assert torch.equal(views[6].depth, before)
    with pytest.raises(Stop, match="could not be used"):
        given("walk/000.jpg walk/006.jpg 2").apply(views[:4])


@pytest.mark.parametrize("text, message", [
    ("2.5", "no distance between two photos"), ("walk/000.jpg walk/001.jpg", "no distance between two"),
    ("walk/000.jpg walk/0001.jpg 2", "no photo 'walk/0001.jpg', did you mean 'walk/001.jpg'"),
    ("walk/000.jpg 2", "no photo|two photos"), ("walk/000.jpg walk/000.jpg 2", "needs two photos"),
    ("walk/000.jpg walk/001.jpg 0", "larger than 0"), ("walk/000.jpg walk/001.jpg 1e999", "larger than 0"),
    ("walk/000.jpg 1,1 700,2 3", "a pixel lies outside"), ("walk/000.jpg 1,1 1,1 3", "one pixel twice"),
    ("walk/000.jpg 1,1 9,9 0", "larger than 0"),
    ("walk/009.jpg 1,1 2,2 3", "no photo 'walk/009.jpg'"),
])  # fmt: skip
def test_what_cannot_be_meant_is_refused_before_anything_is_computed(text, message):
    with pytest.raises(Stop, match=message):
        given(text)


def test_a_model_that_lists_one_of_the_photos_is_refused(tmp_path):
    with pytest.raises(Stop, match="lists 1 of the 7 photos"):
        given(model(tmp_path / "one", {0: camera(0), 40: camera(40)}))


@pytest.mark.parametrize("text", ["walk/000.jpg  walk/004.jpg   2", "walk/002.jpg  1,1   2,2  2"])
def test_more_than_one_space_is_one(text):
    [said] = given(text).statements
    assert said.distance == 2 and not any(name.endswith(" ") for name in said.photos)


def test_a_name_with_spaces_is_a_name():
    named = [
        replace(one, whole=replace(one.whole, name=name))
        for one, name in zip(PHOTOS[:2], ("my a.jpg", "a b c.jpg"), strict=True)
    ]
    [said] = scale.read(["my a.jpg a b c.jpg 2"], named).statements
    assert said.photos == ["my a.jpg", "a b c.jpg"] and said.distance == 2
