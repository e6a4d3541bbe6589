"""--propose: what is drafted, carried on through a video, kept of a person's work, and refused."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from lib.core.errors import Stop
from lib.core.records import Parts
from lib.data import label_page as page_of
from lib.recipes.hamer import carry, detector, drafts, formats, predict, propose, video
from lib.recipes.hamer.drafts import Wanted
from lib.recipes.hamer.hand import stand_in_hand

WISHES = {"every": "1", "box": "", "detector": ""}
FINGERS = np.stack([np.linspace(-1, 1, 21), np.tile([-1.0, 0, 1], 7)], 1)  # keypoints around a blob, in its sizes


class Blob:
    """A network that sees one thing: where the bright pixels of a crop are, and how far they reach."""

    mano = SimpleNamespace(stand_in=True)
    backbone = SimpleNamespace(pos_embed=torch.zeros(1))

    def __call__(self, images):
        count, side = images.shape[0], images.shape[-1]
        found = np.zeros((count, 21, 2))
        for i, image in enumerate(images.mean(1).numpy()):
            y, x = np.nonzero(image > image.min() + 0.5 * (image.max() - image.min() + 1e-6))
            seen = np.stack([x, y], 1) / side - 0.5 if len(x) else np.zeros((1, 2))
            found[i] = (seen.max(0) + seen.min(0)) / 2 + FINGERS * (seen.max(0) - seen.min(0)) / 2
        turns = torch.eye(3).expand(count, 16, 3, 3)
        return {
            "pred_keypoints_2d": torch.from_numpy(found).float(), "pred_keypoints_3d": torch.zeros(count, 21, 3),
            "global_orient": turns[:, :1], "hand_pose": turns[:, 1:], "betas": torch.zeros(count, 10),
        }  # fmt: skip


def run(configure, folder, out="", network=None, **wishes):
    parts = Parts({"hamer": network or Blob()})
    config = configure(data__format="folder", data__root=str(folder), data__truth="2d")
    propose.propose(config, lambda: parts, str(folder), out, WISHES | wishes)


def blob(x: float, y: float, half: int = 12) -> Image.Image:
    """A bright square in a dark picture of 200 x 160 px."""
    pixels = np.full((160, 200, 3), 20, np.uint8)
    pixels[round(y) - half : round(y) + half, round(x) - half : round(x) + half] = 220
    return Image.fromarray(pixels)


def film(path, count: int = 8, step: int = 9):
    frames = [blob(40 + step * i, 60 + 4 * i) for i in range(count)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=40, loop=0)
    return path


def hands_of(folder):
    return json.loads((folder / "hands.json").read_text())


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    (folder / "anna").mkdir(parents=True)
    for file, x in (("a.png", 60), ("anna/b.png", 90), ("c.png", 120)):
        blob(x, 80).save(folder / file)
    return folder


def test_pictures_are_drafted_and_shown_on_a_page(configure, photographs):
    run(configure, photographs)
    found = hands_of(photographs)
    assert [entry["file"] for entry in found] == ["a.png", "anna/b.png", "c.png"]
    for entry, x in zip(found, (60, 90, 120), strict=True):
        points = np.array(entry["keypoints_2d"])
        assert entry["draft"] and 0 < entry["confidence"] <= 1 and points.shape == (21, 3)
        np.testing.assert_allclose(points[:, :2].mean(0), [x, 80], atol=6.3)  # a pixel of the crop is 6.25 px
        assert len(entry["hand_pose"]) == 48 and len(entry["betas"]) == 10 and "not MANO" in entry["hand_model"]
        small = Image.open(photographs / "drafts" / "small" / f"{entry['file']}.jpg")
        assert small.size == (200, 160)
    assert (photographs / page_of.PAGE).stat().st_size > 10_000
    read = list(
        formats.hands(configure(data__format="folder", data__root=str(photographs)).data, photographs, stand_in_hand())
    )
    assert all(hand.draft and not hand.fault and not hand.labels.keypoints_2d.any() for hand in read)


def test_what_a_person_decided_is_kept_word_for_word(configure, photographs):
    run(configure, photographs)
    accepted, rejected, draft = hands_of(photographs)
    accepted = {"file": "a.png", "hand": "left", "keypoints_2d": (20 * FINGERS + 70).tolist(), "my own": "note"}
    rejected["rejected"] = True
    draft["box"] = [100, 60, 140, 100]
    (photographs / "hands.json").write_text(json.dumps([draft, accepted, rejected]))
    run(configure, photographs)
    again = hands_of(photographs)
    assert again[:2] == [accepted, rejected]
    assert again[2]["draft"] and again[2]["box"] == [100, 60, 140, 100]
    before = (photographs / "hands.json").read_bytes()
    run(configure, photographs)
    assert (photographs / "hands.json").read_bytes() == before  # the frames and drafts themselves are no new pictures


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ({"hand": "rihgt"}, "hand is 'rihgt'"),
        ({"box": "wide"}, "box"),
        ({"draft": "perhaps"}, "draft"),
        ({"keypoints_2d": [[1, 2], "=1+1"]}, "keypoints_2d is not a table of numbers"),
        ({"keypoints_2d": [[0, 0]] * 20}, "keypoints_2d has the shape"),
        ({"keypoints_2d": [[2**31, 0]] + [[0, 0]] * 20}, "keypoints_2d go from 0 to 2.14748e"),  # drawn for minutes
        ({"confidence": {"a": 1}}, "confidence is not a table of numbers"),
    ],
)
def test_a_list_that_cannot_be_read_is_not_drafted_over(configure, photographs, harm, said):
    run(configure, photographs)
    entries = hands_of(photographs)
    entries[0] |= harm
    (photographs / "hands.json").write_text(json.dumps(entries))
    with pytest.raises(Stop, match=said):
        run(configure, photographs)
    assert hands_of(photographs) == entries


def test_a_hand_without_a_keypoint_says_nothing_of_the_next_frame(tmp_path):
    entry = {"file": "a.png", "hand": "left", "keypoints_2d": [[5, 5, 0]] * 21}
    blob(40, 60).save(tmp_path / "a.png")
    assert not list(carry.following(tmp_path, entry))
    assert len(list(carry.following(tmp_path, entry | {"keypoints_2d": [[5, 5, 1]] * 21}))) == 1


def test_a_rejected_hand_is_no_record(configure, photographs):
    run(configure, photographs)
    entries = hands_of(photographs)
    entries[0]["rejected"] = True
    (photographs / "hands.json").write_text(json.dumps(entries))
    assert len(formats.entries(photographs)) == 2 and len(formats.entries(photographs, rejected=True)) == 3


@pytest.mark.parametrize("given", ["flag", "list", "middle"])
def test_one_box_is_carried_through_a_video(configure, tmp_path, given):
    """Of the first frame by a flag or under the video's name, or of any frame: on and back from there."""
    path, out = film(tmp_path / "clip.gif"), tmp_path / "out"
    box = [20, 40, 60, 80]
    if given == "flag":
        run(configure, path, str(out), box="left:20,40,60,80")
    elif given == "list":
        out.mkdir()
        (out / "hands.json").write_text(json.dumps([{"file": "clip.gif", "hand": "left", "box": box}]))
        run(configure, path, str(out))
    else:
        run(configure, path, str(out), box="left:0,0,10,10")
        middle = {"file": hands_of(out)[4]["file"], "hand": "left", "box": [56, 56, 96, 96]}
        (out / "hands.json").write_text(json.dumps([middle]))
        run(configure, path, str(out))
    found = hands_of(out)
    run(configure, path, str(out))  # a round later the box need not be said again
    assert hands_of(out) == found
    assert len(found) == 8 and {entry["group"] for entry in found} == {"clip.gif"}
    for i, entry in enumerate(found):
        points = np.array(entry["keypoints_2d"])[:, :2]
        np.testing.assert_allclose(points.mean(0), [40 + 9 * i, 60 + 4 * i], atol=4)
        assert entry["hand"] == "left" and entry["draft"]
        if not entry.get("given"):  # around its own keypoints, not those of the frame before
            np.testing.assert_allclose(entry["box"], [*points.min(0), *points.max(0)], atol=0.06)


def test_every_nth_frame_is_taken_and_what_looks_the_same_is_left_out(tmp_path):
    frames = [blob(40 + 25 * (i // 3), 60) for i in range(9)]
    for i, frame in enumerate(frames):
        frame.putpixel((i, 0), (60, 60, 60))  # a still camera's frames are not the same bytes
    frames[0].save(tmp_path / "still.png", save_all=True, append_images=frames[1:], duration=40)
    assert video.is_video(tmp_path / "still.png")
    kept = [number for number, _ in video.kept(tmp_path / "still.png", 1)]
    assert kept == [0, 3, 6]
    names = [path.stem for path in video.extract(film(tmp_path / "clip.gif"), tmp_path, 3)]
    assert names == ["000000", "000003", "000006"]


def test_frames_of_a_video_that_changed_are_not_taken_for_its_own(configure, tmp_path):
    path = film(tmp_path / "clip.gif")
    video.extract(path, tmp_path, 3)
    with pytest.raises(Stop, match="holds frames of another video"):
        video.extract(film(tmp_path / "clip.gif", step=11), tmp_path, 3)
    video.extract(film(tmp_path / "x-clip.gif"), tmp_path, 3)
    with pytest.raises(Stop, match="holds frames of another video"):  # one folder would serve both
        video.extract(film(tmp_path / "x.clip.gif"), tmp_path, 3)


def test_what_was_labelled_in_frames_stays_when_others_are_drafted(configure, tmp_path):
    """Of another --every, and of a video that was moved away meanwhile."""
    (tmp_path / "films").mkdir()
    path = film(tmp_path / "films" / "clip.gif")
    run(configure, path.parent, every="3")
    accepted, *rest = hands_of(path.parent)
    accepted["draft"] = False
    (path.parent / "hands.json").write_text(json.dumps([accepted, *rest]))
    run(configure, path.parent, every="4")
    assert accepted in hands_of(path.parent)
    path.unlink()
    blob(90, 80).save(path.parent / "a.png")
    run(configure, path.parent)
    assert [entry["file"] for entry in hands_of(path.parent)] == ["a.png", accepted["file"]]
    assert accepted in hands_of(path.parent)


def test_small_pictures_follow_their_pictures(configure, photographs):
    """Two names never share one, and a picture that was replaced is drawn anew."""
    blob(40, 40).save(photographs / "anna-b.png")
    run(configure, photographs)
    entries = [entry | {"draft": False} for entry in hands_of(photographs)]
    (photographs / "hands.json").write_text(json.dumps(entries))
    small = photographs / "drafts" / "small"
    before = {path: path.read_bytes() for path in small.rglob("*.jpg")}
    assert len(set(before.values())) == 4
    blob(150, 40).save(photographs / "a.png")
    run(configure, photographs)
    changed = [path for path, content in before.items() if path.read_bytes() != content]
    assert changed == [small / "a.png.jpg"]


def test_a_video_that_ends_in_the_middle_leaves_nothing_half_written(configure, tmp_path):
    path = film(tmp_path / "clip.gif")
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(Stop, match=r"clip\.gif cannot be decoded at frame"):
        run(configure, path, str(tmp_path / "out"))
    assert not list((tmp_path / "out").rglob("*.*"))


def test_a_film_without_a_decoder_is_one_sentence(configure, tmp_path, monkeypatch):
    for name in ("av", "imageio", "imageio.v3"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "clip.mp4").write_bytes(b"film")
    with pytest.raises(Stop, match="neither PyAV nor imageio is installed") as stopped:
        run(configure, tmp_path / "clip.mp4")
    assert "pip install av" in stopped.value.command


def test_a_left_hand_is_drafted_as_the_mirror_image_of_a_right_one(network, configure):
    config, picture = configure(), np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    box = np.array([20.0, 20, 60, 70])
    mirrored = np.array([119 - 60.0, 20, 119 - 20, 70])
    wanted = [Wanted(picture, box, True), Wanted(picture[:, ::-1], mirrored, False)]
    one, other = drafts.draft(config, network(config), wanted)
    np.testing.assert_allclose(other.keypoints_2d[:, 0], 119 - one.keypoints_2d[:, 0], atol=1e-3)
    np.testing.assert_allclose(other.keypoints_2d[:, 1:], one.keypoints_2d[:, 1:], atol=1e-3)
    np.testing.assert_allclose(other.keypoints_3d, one.keypoints_3d * [-1, 1, 1], atol=1e-5)
    np.testing.assert_allclose(other.hand_pose.reshape(-1, 3), one.hand_pose.reshape(-1, 3) * [1, -1, -1], atol=1e-4)


def test_a_draft_lies_where_the_prediction_is_drawn(network, configure):
    config, picture = configure(), np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    module = network(config)
    with torch.no_grad():
        [found] = drafts.draft(config, module, [Wanted(picture, np.array([30.0, 20, 70, 60]), False)])
        entry = {"file": "a", "hand": "left", "box": [30, 20, 70, 60]}
        other = predict.hand(config, module, picture, entry)
    joints = other["joints"] + other["translation"]
    drawn = joints[:, :2] / joints[:, 2:] * other["focal_px"] + other["principal"]
    # two cameras, close to parallel: the crop's and the whole picture's
    np.testing.assert_allclose(found.keypoints_2d[:, :2], drawn, atol=1.5)


def test_confidence_falls_with_the_distance_of_the_two_answers():
    still = 50 * FINGERS
    assert (drafts.agreement(still, still) == 1).all()
    near, far = (drafts.agreement(still, still + np.array([apart, 0])) for apart in (5, 10))
    np.testing.assert_allclose(far, 0.5)  # a tenth of the hand's size
    assert (near > far).all()


def test_a_box_stays_where_the_model_is_not_sure():
    box = np.array([10.0, 10, 50, 50])
    points = np.hstack([30 * FINGERS + 80, np.ones((21, 1))])
    nothing = np.zeros(0)
    lost = drafts.Draft(points, nothing, nothing, nothing, 0.1)
    assert (drafts.carried(box, lost, 200, 160) == box).all()
    np.testing.assert_allclose(drafts.carried(box, lost._replace(confidence=0.9), 200, 160), [50, 50, 110, 110])


def test_detector_gives_the_boxes_and_its_absence_is_one_sentence(configure, photographs, monkeypatch):
    with pytest.raises(Stop, match="the detector mediapipe is not installed"):
        run(configure, photographs, detector="mediapipe")
    mark = SimpleNamespace
    answer = SimpleNamespace(
        multi_hand_landmarks=[mark(landmark=[mark(x=0.25, y=0.4), mark(x=0.5, y=0.6)])],
        multi_handedness=[mark(classification=[mark(label="Left")])],
    )
    hands = SimpleNamespace(Hands=lambda **settings: SimpleNamespace(process=lambda picture: answer))
    monkeypatch.setitem(sys.modules, "mediapipe", SimpleNamespace(solutions=SimpleNamespace(hands=hands)))
    run(configure, photographs, detector="mediapipe")
    assert [(e["hand"], e["box"]) for e in hands_of(photographs)] == [("right", [50, 64, 100, 96])] * 3


@pytest.mark.parametrize("answer", [("both", (1, 2, 3, 4)), ("left", (1, 2, 3)), ("left", (1, 2, 3, float("nan"))), 7])
def test_a_detector_that_answers_nonsense_is_named(answer):
    with pytest.raises(Stop, match=r"the detector answers .* for a\.png"):
        detector.boxes(lambda picture: [answer], np.zeros((9, 9, 3), np.uint8), "a.png")


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"box": "right:1,2,3"}, "is not SIDE:X0,Y0,X1,Y1"),
        ({"box": "up:1,2,30,40"}, "is not SIDE:X0,Y0,X1,Y1"),
        ({"box": "right:500,20,600,90"}, "has no area in the picture of 200 x 160 px"),
        ({"every": "0"}, "is not a number of frames above 0"),
        ({"detector": "json:nothing"}, "json has no function 'nothing'"),
    ],
)
def test_a_wrong_wish_is_one_sentence_and_changes_nothing(configure, photographs, wishes, message):
    with pytest.raises(Stop, match=message):
        run(configure, photographs, **wishes)
    assert not (photographs / "hands.json").exists()


def test_drafts_are_not_mixed_with_labels_in_another_convention(configure, photographs):
    config = configure(data__format="folder", data__box_format="xywh")
    with pytest.raises(Stop, match=r"data\.box_format=xywh, but drafts are written as corners"):
        propose.propose(config, lambda: pytest.fail("no model is needed"), str(photographs), "", WISHES)


@pytest.mark.parametrize(("name", "message"), [("nowhere", "does not exist"), ("empty", "holds no pictures")])
def test_nothing_to_draft_is_one_sentence(configure, tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(Stop, match=message):
        run(configure, tmp_path / name)


def test_a_damaged_picture_is_named_and_the_others_go_on(configure, photographs, capsys):
    (photographs / "b.jpg").write_bytes(b"no picture")
    run(configure, photographs)
    assert "skipped b.jpg: it is damaged" in capsys.readouterr().out and len(hands_of(photographs)) == 3
    unsure = {"file": "b.jpg", "hand": "left", "draft": True}  # by hand, or by another program
    (photographs / "hands.json").write_text(json.dumps([*hands_of(photographs), unsure]))
    run(configure, photographs)
    assert "4 drafts, confidence " in capsys.readouterr().out and unsure in hands_of(photographs)
