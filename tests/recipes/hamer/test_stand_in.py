"""The stand-in data: the true format, the same files on every machine, labels that fit the pictures."""

import hashlib

import numpy as np
from PIL import Image

from lib.core.order import Key
from lib.recipes.hamer import render, stand_in


def digest(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.*"))
    }


def test_same_command_same_files(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        stand_in.write(tmp_path / name, 2, 2, 64)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    assert len(digest(tmp_path / "one")) == 2 * 2 + 1


def test_keypoints_lie_on_the_hand():
    """Drawn without glove, blur and background, the projected joints are covered by the mesh."""
    studio, covered = stand_in.Studio(), []
    for i in range(8):
        wrist, fingers = stand_in.orientation(Key(0, 0, i).generator()), stand_in.fingers(Key(0, 1, i).generator())
        _, vertices, joints = studio.pose(np.concatenate([wrist, fingers]), np.zeros(10))
        points, keypoints = ((array - joints.mean(0))[:, :2] * 500 + 100 for array in (vertices, joints))
        seen = render.cover(points, vertices[:, 2], studio.faces, 200, 200)
        x, y = keypoints.round().astype(int).T
        covered.append((seen.face[y, x] >= 0).mean())
    assert np.mean(covered) > 0.9  # tips lie on the outline


def test_left_hands_are_mirrored_with_their_labels():
    studio, sides = stand_in.Studio(), set()
    for i in range(8):
        picture, row = stand_in.take(studio, stand_in.person(i, 3, gloved=True), Key(3, 0, i).generator(), 64)
        assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
        joints, points = row["hand_keypoints_3d"][:, :3], row["hand_keypoints_2d"][:, :2]
        np.testing.assert_allclose(joints[:, :2] / joints[:, 2:] * stand_in.FOCAL_PX + 31.5, points, atol=1e-3)
        sides.add(bool(row["right"]))
    assert sides == {True, False}


def test_gloves_change_the_picture_and_not_the_labels():
    studio = stand_in.Studio()
    bare, gloved = (
        stand_in.take(studio, stand_in.person(1, 3, gloved=g), Key(3, 0, 1).generator(), 64) for g in (False, True)
    )
    np.testing.assert_array_equal(bare[1]["hand_keypoints_2d"], gloved[1]["hand_keypoints_2d"])
    assert np.abs(bare[0].astype(int) - gloved[0]).mean() > 2


def test_pictures_are_jpegs_in_the_evaluation_layout(tmp_path):
    stand_in.write(tmp_path, 2, 1, 64)
    with np.load(tmp_path / "annotations.npz", allow_pickle=False) as content:
        assert content["hand_pose"].shape == (2, 48) and content["hand_keypoints_3d"].shape == (2, 21, 4)
        for name in content["imgname"]:
            assert Image.open(tmp_path / "images" / str(name)).size == (64, 64)
