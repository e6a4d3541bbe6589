"""The made-up data: the true format, the same files on every machine, labels that fit the pictures."""
import hashlib

import numpy
from PIL import Image

from lib.order import Key
from lib.recipes.hamer import demo


def digest(folder):
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*.*"))}


def test_same_command_same_files(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        demo.write(tmp_path / name, 2, 2, 64)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    assert len(digest(tmp_path / "one")) == 2 * 2 + 1


def test_keypoints_lie_on_the_hand():
    """Drawn without glove, blur and background, the projected joints are covered by the mesh."""
    from lib.recipes.hamer import render

    studio, covered = demo.Studio(), []
    for i in range(8):
        pose = numpy.concatenate([demo.orientation(Key(0, 0, i).generator()), demo.fingers(Key(0, 1, i).generator())])
        _, vertices, joints = studio.pose(pose, numpy.zeros(10))
        project = lambda points: points[:, :2] * 500 + 100
        middle = joints.mean(0)
        seen = render.cover(project(vertices - middle), vertices[:, 2], studio.faces, 200, 200)
        x, y = project(joints - middle).round().astype(int).T
        covered.append((seen.face[y, x] >= 0).mean())
    assert numpy.mean(covered) > 0.9  # tips lie on the outline


def test_left_hands_are_mirrored_with_their_labels():
    studio, sides = demo.Studio(), set()
    for i in range(8):
        picture, row = demo.take(studio, demo.person(i, 3, gloved=True), Key(3, 0, i).generator(), 64)
        assert picture.shape == (64, 64, 3) and picture.dtype == numpy.uint8
        joints, points = row["hand_keypoints_3d"][:, :3], row["hand_keypoints_2d"][:, :2]
        numpy.testing.assert_allclose(joints[:, :2] / joints[:, 2:] * demo.FOCAL_PX + 31.5, points, atol=1e-3)
        sides.add(bool(row["right"]))
    assert sides == {True, False}


def test_gloves_change_the_picture_and_not_the_labels():
    studio = demo.Studio()
    bare, gloved = (demo.take(studio, demo.person(1, 3, gloved=g), Key(3, 0, 1).generator(), 64) for g in (False, True))
    numpy.testing.assert_array_equal(bare[1]["hand_keypoints_2d"], gloved[1]["hand_keypoints_2d"])
    assert numpy.abs(bare[0].astype(int) - gloved[0]).mean() > 2


def test_pictures_are_jpegs_in_the_evaluation_layout(tmp_path):
    demo.write(tmp_path, 2, 1, 64)
    with numpy.load(tmp_path / "annotations.npz", allow_pickle=False) as content:
        assert content["hand_pose"].shape == (2, 48) and content["hand_keypoints_3d"].shape == (2, 21, 4)
        for name in content["imgname"]:
            assert Image.open(tmp_path / "images" / str(name)).size == (64, 64)
