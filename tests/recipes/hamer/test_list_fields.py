"""A list of hands with other names, other numbers or unclear persons: noticed, because each would pass in silence."""

import json
from pathlib import Path

import numpy as np
import pytest

from lib.core.errors import Stop
from lib.core.names import spelling
from lib.recipes.hamer import data, detector, doubts, formats, predict, propose
from lib.recipes.hamer.data_config import DataConfig
from lib.recipes.hamer.hand import stand_in_hand


def renamed(ours: str, other: str):
    def edit(entries):
        for entry in entries:
            entry[other] = entry.pop(ours)

    return edit


def changed(**fields):
    """Each of the entries gets its own value of each field, in turn."""

    def edit(entries):
        for i, entry in enumerate(entries):
            entry |= {name: values[i % len(values)] for name, values in fields.items()}

    return edit


def read(root, **settings):
    return list(formats.hands(DataConfig(format="folder", **settings), root, stand_in_hand()))


@pytest.mark.parametrize(
    ("ours", "other"),
    [("box", "bbox"), ("group", "Person"), ("hand", "handedness"), ("keypoints_2d", "keypoints"), ("box", "BOX")],
)
def test_a_field_under_another_name_is_not_passed_over(labelled, ours, other):
    root = labelled(renamed(ours, other))
    with pytest.raises(Stop, match=f"has {other!r}, which is not read") as stopped:
        formats.entries(root)
    assert stopped.value.command == f"call it {ours!r}"


@pytest.mark.parametrize(("given", "due"), [
    ([0, 1, 2, 3], ["0", "1", "2", "3"]), ([1.0, 2.0, 1, "2"], ["1", "2", "1", "2"]),
    (["1.0", "1", "2", "2.0"], list("1122")),
    ([0.0, "00x", "na", "Nan"], ["0", "00x", "na", "Nan"]),
])  # fmt: skip
def test_persons_who_are_numbers_are_persons(labelled, given, due):
    """0 was nobody, and 1.0 another one than 1, who was trained on and tested."""
    found = read(labelled(changed(group=given)))
    assert [hand.group for hand in found] == due and not any(hand.fault for hand in found)


@pytest.mark.parametrize("nobody", [float("nan"), -1, None, "NaN", "None", "N/A", "-1", "?", " "])
def test_what_programs_write_for_nobody_is_no_person(labelled, nobody):
    """All hands whose person is not known would be one person, who may be any of the others."""
    found = read(labelled(changed(group=["anna", "ben", nobody, "cleo"])))
    assert [hand.fault for hand in found] == ["", "", formats.NAMELESS, ""]


def test_a_field_beside_ours_is_named_and_harms_nothing(labelled, capsys):
    root = labelled(changed(bbox=["drawn by hand"], score=[0.9]))
    assert len(formats.entries(root)) == 4
    assert "hands.json has fields that are not read: bbox, score" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("head", "row", "said"),
    [
        ("file,hand,X0,Y0,X1,Y1", "0.png,right,40,50,100,90", "has 'X0', which is not read"),
        ("file,hand,xmin,ymin,xmax,ymax", "0.png,right,40,50,100,90", "has 'xmin', which is not read"),
        ("file,hand,box", "0.png,right,[40,50,100,90]", "line 2 has more cells than the first line"),
        ("file,hand,rejected", "0.png,right,true", "rejected is 'true' instead of true or false"),
    ],
)
def test_a_table_with_other_columns_is_not_whole_pictures(labelled, head, row, said):
    root = labelled()
    (root / "hands.json").unlink()
    (root / "hands.csv").write_text(f"{head}\n{row}\n")
    with pytest.raises(Stop, match=said):
        read(root)


@pytest.mark.parametrize("mark", [", ", ";"])
def test_a_table_of_another_program_is_read(labelled, capsys, mark):
    root = labelled()
    head, row = "file,hand,x0,y0,x1,y1,group", "0.png,right,40,50,100,90,p"
    (root / "hands.csv").write_text(f"{head}\n{row}\n".replace(",", mark))
    read(root)
    assert "hands.csv is not read, because hands.json lies beside it" in capsys.readouterr().out
    (root / "hands.json").unlink()
    [hand] = read(root)
    assert not hand.fault and hand.group == "p" and hand.centre.tolist() == [70, 70]
    (root / "hands.csv").write_text(f"{head}\n0.png,right,,50,100,90,p\n")
    assert read(root)[0].fault == "box is not a table of numbers"


SHARES = np.stack([np.linspace(0.1, 0.9, 21), np.linspace(0.2, 0.8, 21)], 1).tolist()


def test_shares_of_the_picture_are_no_pixels(folder):
    def edit(entries):
        for entry in entries:
            del entry["keypoints_3d"]
        del entries[0]["box"]
        entries[0]["keypoints_2d"] = SHARES
        entries[1]["box"] = [0.1, 0.2, 0.9, 0.8]

    _, records = folder(edit, data__truth="2d")
    assert [record.status for record in records] == ["skipped", "skipped", "ok", "ok"]
    assert "the 2D keypoints are shares of the image" in records[0].reason
    assert "box holds shares of the picture" in records[1].reason


def test_shares_are_refused_of_predictions_flags_and_detectors():
    entry = {"file": "a.png", "hand": "right", "box": [0.1, 0.2, 0.9, 0.8]}
    with pytest.raises(Stop, match=r"a\.png: box holds shares of the picture"):
        predict.hand(None, None, np.zeros((90, 120, 3), np.uint8), entry)
    with pytest.raises(Stop, match="is not SIDE:X0,Y0,X1,Y1 in pixels"):
        propose.asked_box("right:0.1,0.2,0.9,0.8")
    with pytest.raises(Stop, match=r"the detector answers .* for a\.png"):
        detector.boxes(lambda picture: [("left", (0.1, 0.2, 0.9, 0.8))], np.zeros((9, 9, 3), np.uint8), "a.png")


@pytest.mark.parametrize("without", ["keypoints_3d", "box"])
def test_keypoints_with_x_and_y_exchanged_are_noticed(own, tmp_path, monkeypatch, without):
    """By the 3D keypoints, and without them by the boxes."""
    monkeypatch.setattr(doubts, "SAMPLED", {"box": 2}.get(without, 16))

    def edit(entry):
        points = np.array(entry["keypoints_2d"])
        entry["box"] = [*points.min(0), *points.max(0)]
        entry["keypoints_2d"] = points[:, ::-1].tolist()
        del entry[without], entry["hand_pose"], entry["betas"]

    config, records = own(edit, data__truth="2d")
    with pytest.raises(Stop, match="2D keypoints are y, x instead of x, y") as stopped:
        data.split(config, records, tmp_path)
    assert "exchange the first two columns of keypoints_2d" in stopped.value.command


@pytest.mark.parametrize(
    "names",
    [
        ("Anna", "anna"),
        ("anna ", "anna"),
        ("p1", "P_01"),
        (7, "07"),
        ("Jose\u0301", "José"),
        ("it speaker", "it-speaker"),
    ],
)
def test_one_person_under_two_names_is_asked_about(labelled, names):
    with pytest.raises(Stop, match="look like one person's"):
        read(labelled(changed(group=names)))


def test_persons_with_similar_names_are_not_one(labelled):
    names = ("p1", "p11", "p1_1", "Jose", "José", "के", "का", "张三", "张四")
    assert len({spelling(name) for name in names}) == len(names)
    assert len({hand.group for hand in read(labelled(changed(group=names)))}) == 4


def test_a_labelled_hand_of_nobody_beside_others_is_left_out(labelled):
    def edit(entries):
        for entry in entries[1:]:
            entry["group"] = ""
        entries[2]["draft"] = True  # teaches nothing, so it is whose it likes

    root = labelled(edit)
    faults = [hand.fault for hand in read(root)]
    assert faults == ["", formats.NAMELESS, "", formats.NAMELESS]
    assert not any(hand.fault for hand in read(root, group_pattern=r"(\d)\.png"))


@pytest.mark.parametrize("folders", [("anna/s1", "anna/s2"), ("train/anna", "val/anna", "val/ben")])
def test_folders_below_folders_are_asked_about(labelled, folders):
    """Each would be a person of its own, and Anna on both sides."""

    def edit(entries):
        for i, entry in enumerate(entries):
            del entry["group"]
            entry["file"] = f"{folders[i % len(folders)]}/{i}.png"

    root = labelled(edit)
    with pytest.raises(Stop, match="nothing says whose hands they are") as stopped:
        read(root)
    assert "data.group_pattern='^([^/]+)/'" in stopped.value.command
    assert "anna" in {hand.group for hand in read(root, group_pattern="(anna|ben)")}
    entries = json.loads((root / "hands.json").read_text())
    for clear in ("anna/0.png", "ben/1.png"), ("pictures/anna/0.png", "pictures/ben/1.png"):
        changed(file=clear)(entries)
        (root / "hands.json").write_text(json.dumps(entries))
        assert {Path(hand.group).name for hand in read(root)} == {"anna", "ben"}


@pytest.mark.parametrize(
    ("names", "clear"),
    [
        (("s1/box/1.jpg", "s1/cup/1.jpg", "s2/box/1.jpg"), False),
        (("evaluation/SM1/rgb/1.jpg", "evaluation/AP1/rgb/1.jpg"), True),
        (("anna/1.jpg", "bert/1.jpg", "bert/2.jpg"), True),
    ],
)
def test_folders_of_an_evaluation_file_are_asked_about(tmp_path, names, clear):
    arrays = {"center": np.full((len(names), 2), 20.0), "scale": np.full(len(names), 12.0)}
    np.savez(tmp_path / "eval.npz", imgname=np.array(names), **arrays)
    settings = DataConfig(format="hamer_npz")
    if clear:
        assert len(list(formats.hands(settings, tmp_path, stand_in_hand()))) == len(names)
        return
    with pytest.raises(Stop, match="nothing says whose hands they are"):
        list(formats.hands(settings, tmp_path, stand_in_hand()))


def test_pictures_elsewhere_are_not_read(tmp_path):
    """Nobody would notice that they change."""
    names = np.array(["a/1.jpg", "/etc/hostname", "../1.jpg"])
    np.savez(tmp_path / "eval.npz", imgname=names, center=np.full((3, 2), 20.0), scale=np.full(3, 12.0))
    for root in (tmp_path, tmp_path / "eval.npz"):
        found = list(formats.hands(DataConfig(format="hamer_npz"), root, stand_in_hand()))
        assert [bool(hand.fault) for hand in found] == [False, True, True]
