"""--predict and the drawing: boxes, mirrored hands, files on disk."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lib.core.errors import Stop
from lib.core.records import Parts
from lib.recipes.hamer import mano_file, overlay, predict, render
from lib.recipes.hamer.crop import normalise
from lib.recipes.hamer.mano import Mano
from tests.recipes.hamer.conftest import STAGE


@pytest.fixture
def parts(network, configure):
    return Parts({"hamer": network(configure())})


def photographs(root, boxes):
    root.mkdir()
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 255, (90, 120, 3), np.uint8)).save(root / "a.png")
    (root / "hands.json").write_text(json.dumps([{"file": "a.png", "hand": hand, "box": box} for hand, box in boxes]))
    return root


def test_each_hand_gets_pictures_mesh_and_numbers(parts, configure, tmp_path, capsys):
    root = photographs(tmp_path / "in", [("right", [20, 20, 60, 70]), ("left", [50, 10, 110, 60])])
    (tmp_path / "out").mkdir()
    with torch.no_grad():
        predict.predict(configure(), STAGE, parts, str(root), tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    of_hands = {f"a_{i}{end}" for i in (0, 1) for end in (".png", "_keypoints.png", ".obj", ".json")}
    assert names == of_hands | {"a_all.jpg"}
    lines = (tmp_path / "out" / "a_0.obj").read_text().splitlines()
    assert lines[0] == "# stand-in hand, not MANO"
    assert sum(line.startswith("v ") for line in lines) == 778 and sum(line.startswith("f ") for line in lines) == 1552
    assert "pred.json is not written" in capsys.readouterr().out


def test_left_hand_is_the_mirror_image_of_a_right_one(parts, configure, tmp_path):
    root = photographs(tmp_path / "in", [("right", [20, 20, 60, 70])])
    picture = np.asarray(Image.open(root / "a.png"))
    entry = {"file": "a.png", "hand": "right", "box": [20, 20, 60, 70]}
    mirrored = {"file": "a.png", "hand": "left", "box": [119 - 60, 20, 119 - 20, 70]}
    with torch.no_grad():
        one = predict.hand(configure(), parts.modules["hamer"], picture, entry)
        other = predict.hand(configure(), parts.modules["hamer"], picture[:, ::-1], mirrored)
    np.testing.assert_allclose(other["vertices"], one["vertices"] * [-1, 1, 1], atol=1e-5)
    # the principal point is the middle, half a pixel off the mirror
    np.testing.assert_allclose(projected(other)[:, 0], 119 - projected(one)[:, 0], atol=1.01)
    np.testing.assert_allclose(projected(other)[:, 1], projected(one)[:, 1], atol=1e-2)


def projected(found):
    joints = found["joints"] + found["translation"]
    return joints[:, :2] / joints[:, 2:] * found["focal_px"] + found["principal"]


def test_hands_of_a_mano_file_are_written_in_freihands_format(network, configure, hand, tmp_path):
    """The file is a twin: the stand-in hand's arrays under MANO's names."""
    arrays = {name: getattr(hand, name) for name in mano_file.SHAPES if name != "kintree_table"}
    arrays["kintree_table"] = np.array([[-1, *mano_file.PARENTS[1:]], range(16)])
    np.savez(tmp_path / "MANO_RIGHT.npz", **arrays)
    module = network(configure())
    module.mano = Mano(mano_file.read(tmp_path / "MANO_RIGHT.npz"))
    root = photographs(tmp_path / "in", [("right", [20, 20, 60, 70]), ("left", [50, 10, 110, 60])])
    out = tmp_path / "out"
    out.mkdir()
    with torch.no_grad():
        predict.predict(configure(), STAGE, Parts({"hamer": module}), str(root), out)
    joints, vertices = json.loads((out / "pred.json").read_text())
    assert np.array(joints).shape == (2, 21, 3) and np.array(vertices).shape == (2, 778, 3)
    np.testing.assert_allclose(joints[0], json.loads((out / "a_0.json").read_text())["keypoints_3d_m"], atol=1e-6)
    assert (out / "a_0.obj").read_text().startswith("# derived from MANO: non-commercial")
    entries = json.loads((root / "hands.json").read_text())
    for count in (1, 2):  # hands with a camera
        for entry in entries[:count]:
            entry["K"] = [300, 300, 60, 45]
        (root / "hands.json").write_text(json.dumps(entries))
        with torch.no_grad():
            predict.predict(configure(), STAGE, Parts({"hamer": module}), str(root), out)
        again = np.array(json.loads((out / "pred.json").read_text())[0])
        shift = json.loads((out / "a_1.json").read_text())["translation_m"] if count == 2 else np.zeros(3)
        np.testing.assert_allclose(again[1], joints[1] + np.array(shift), atol=1e-5)


@pytest.mark.parametrize(
    ("box", "message"),
    [([10, 10, 10, 40], "has no area"), ([200, 10, 240, 40], "lies outside the image of 120 x 90 px")],
)
def test_bad_box_is_named(parts, configure, tmp_path, box, message):
    with pytest.raises(Stop, match=message), torch.no_grad():
        predict.predict(configure(), STAGE, parts, str(photographs(tmp_path / "in", [("right", box)])), tmp_path)


@pytest.mark.parametrize("side", ["right", "left"])
def test_intrinsics_give_the_distance_and_leave_the_hand_where_it_is_in_the_picture(parts, configure, side):
    """A hand that fills `scale` of the box lies at 2 f / (side * scale): half as far for half the focal length."""
    picture = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    entry = {"file": "a", "hand": side, "box": [20, 20, 60, 70]}
    cameras = (None, [300, 300, 60, 45], [[600.0, 0, 70], [0, 600, 40], [0, 0, 1]])
    with torch.no_grad():
        plain, near, far = (
            predict.hand(configure(), parts.modules["hamer"], picture, entry | {"K": camera}) for camera in cameras
        )
    assert (plain["metric"], near["metric"]) == (False, True)
    scale = near["answer"]["pred_cam"][0]
    np.testing.assert_allclose(near["translation"][2], 2 * 300 / (near["side_px"] * scale), rtol=1e-5)
    np.testing.assert_allclose(far["translation"][2], 2 * near["translation"][2], rtol=1e-5)
    for one in (near, far):  # the wrist's own place: perspective moves what lies before or behind it
        at = one["translation"][:2] / one["translation"][2] * one["focal_px"] + one["principal"]
        other = plain["translation"][:2] / plain["translation"][2] * plain["focal_px"] + plain["principal"]
        np.testing.assert_allclose(at, other, atol=1e-2)


@pytest.mark.parametrize(
    ("K", "message"),
    [
        ([1, 2, 3], "K has the shape"),
        ([300, 300, 500, 40], "K is no camera of a picture of 120 x 90 px"),
        ([300, float("nan"), 60, 40], "K is no camera"),
        ([0.5, 0.5, 60, 40], "K is no camera"),
        ([300, 400, 60, 40], "its pixels are not square"),
        ([300, 300, 80, 60], "of another size, or of the picture before it was turned"),  # K of 160 x 120 px
        ([300, 300, 45, 60], "of another size, or of the picture before it was turned"),  # of 90 x 120 px
    ],
)
def test_a_matrix_that_is_no_camera_is_named(parts, configure, K, message):
    entry = {"file": "a", "hand": "right", "box": [20, 20, 60, 70], "K": K}
    with pytest.raises(Stop, match=message):
        predict.hand(configure(), parts.modules["hamer"], np.zeros((90, 120, 3), np.uint8), entry)


def test_the_camera_of_a_picture_that_was_cut_may_look_anywhere(parts, configure):
    entry = {"file": "a", "hand": "right", "box": [20, 20, 60, 70], "K": [300, 300, 100, 20]}
    with torch.no_grad():
        found = predict.hand(configure(), parts.modules["hamer"], np.zeros((90, 120, 3), np.uint8), entry)
    np.testing.assert_allclose(found["principal"], [100, 20])


def test_boxes_are_read_as_the_settings_say(parts, configure, tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    network = parts.modules["hamer"]
    with torch.no_grad():
        one = predict.hand(configure(), network, picture, {"file": "a", "hand": "left", "box": [20, 20, 60, 70]})
        xywh = configure(data__format="folder", data__box_format="xywh")
        other = predict.hand(xywh, network, picture, {"file": "a", "hand": "left", "box": [20, 20, 40, 50]})
    assert (one["image"] == other["image"]).all()


@pytest.mark.parametrize("entry", [{"hand": "right", "box": "abcd"}, {"hand": "both", "box": None}])
def test_entry_that_cannot_be_read_is_named(parts, configure, entry):
    with pytest.raises(Stop, match=r"a\.png: (box is not a table|hand is 'both')"):
        predict.hand(configure(), parts.modules["hamer"], np.zeros((9, 9, 3), np.uint8), {"file": "a.png"} | entry)


def test_sideways_photograph_is_predicted_upright_and_a_damaged_one_is_skipped(parts, configure, tmp_path, capsys):
    root, random = tmp_path / "in", np.random.default_rng(0)
    root.mkdir()
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(random.integers(0, 255, (90, 120, 3), np.uint8)).save(root / "a.png", exif=exif)
    (root / "b.png").write_bytes((root / "a.png").read_bytes()[:400])
    (root / "._a.png").write_bytes(b"a Mac's note")
    with torch.no_grad():
        predict.predict(configure(), STAGE, parts, str(root), tmp_path)
    said = capsys.readouterr().out
    assert "skipped b.png: it" in said and "._a" not in said and "1 hands" in said
    assert Image.open(tmp_path / "a_all.jpg").size == (90, 120)
    with pytest.raises(Stop, match=r"no image in .* can be read"), torch.no_grad():
        (root / "a.png").unlink()
        predict.predict(configure(), STAGE, parts, str(root), tmp_path)


def test_two_pictures_never_share_their_outputs(parts, configure, tmp_path):
    root, random = tmp_path / "in", np.random.default_rng(0)
    root.mkdir()
    for name in ("a.jpg", "a.png", "b/a.PNG", "drafts/a.png", ".thumbs/a.png"):
        (root / name).parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 255, (40, 50, 3), np.uint8)).save(root / name)
    with torch.no_grad():
        predict.predict(configure(), STAGE, parts, str(root), tmp_path)
    assert {path.name for path in tmp_path.glob("*.json")} == {"a_0.json", "a-2_0.json", "b_a_0.json"}
    for files in (["a.jpg", "a.png", "x/a.jpg", "x_a.jpg", "a-2.jpg", "a.webp"], ["a.png", "a-3.jpg", "a.jpg"]):
        names = predict.stems(files)
        assert names[0] == "a" and len(set(names)) == len(files)


def test_folder_without_images_is_named(parts, configure, tmp_path):
    with pytest.raises(Stop, match="holds no images"):
        predict.predict(configure(), STAGE, parts, str(tmp_path), tmp_path)


def test_nearer_face_hides_the_farther_one():
    points = np.array([[0, 0], [0, 20], [20, 0], [0, 0], [0, 20], [20, 0]], float)
    depth = np.array([2.0, 2, 2, 1, 1, 1])
    seen = render.cover(points, depth, np.array([[3, 4, 5], [0, 1, 2]])[:, [0, 2, 1]], 20, 20)
    other = render.cover(points, depth, np.array([[3, 4, 5], [0, 1, 2]]), 20, 20)
    assert (seen.face >= 0).any() != (other.face >= 0).any()  # one of the two windings looks away
    shown = seen if (seen.face >= 0).any() else other
    assert set(np.unique(shown.face)) == {-1, 0} and np.isclose(shown.depth[2, 2], 1)


def test_interpolation_reproduces_a_linear_function():
    points = np.array([[1.0, 1], [28, 3], [5, 27]])
    for faces in (np.array([[0, 1, 2]]), np.array([[0, 2, 1]])):
        seen = render.cover(points, np.ones(3), faces, 30, 30)
        if (seen.face >= 0).any():
            y, x = np.nonzero(seen.face >= 0)
            np.testing.assert_allclose(seen.interpolate(faces, points), np.stack([x, y], 1), atol=1e-9)
            assert abs(len(x) - abs(np.linalg.det(points[1:] - points[0])) / 2) < 30  # pixels of the border
            return
    raise AssertionError("neither winding is seen")


def test_photograph_undoes_the_normalisation():
    levels = np.arange(3 * 16).reshape(3, 4, 4) * 5.0
    assert (overlay.photograph(normalise(levels)) == levels.transpose(1, 2, 0)).all()
