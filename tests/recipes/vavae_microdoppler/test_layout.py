"""Whose files lie where: noise is passed over, odd files have a reason, suspicious folders are asked about."""

import os
from pathlib import Path

import pytest

from lib.core.config import from_dotted
from lib.core.errors import Stop
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.layout import Found, find_files


def found(root: Path, *names: str, **settings) -> Found:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return find_files(from_dotted(Config, {f"data.{key}": value for key, value in settings.items()}).data, root)


def names(of: Found) -> dict[str, list[str]]:
    return {user: [file.inner for file in files] for user, files in of.users.items()}


def test_what_systems_leave_behind_is_no_data(tmp_path):
    noise = ("__MACOSX/u1/._a.png", "u1/._a.png", "u1/.ipynb_checkpoints/a.png", "u1/Thumbs.db", ".DS_Store",
             ".git/a.png", "u1/@eaDir/a.png", "lost+found/a.png", "sources.json")  # fmt: skip
    made = found(tmp_path, "u1/a.png", "u2/b.png", *noise)
    assert names(made) == {"u1": ["a"], "u2": ["b"]} and not made.strays and not made.notes


def test_users_and_files_are_in_their_natural_order(tmp_path):
    made = found(tmp_path, "ID_10/2.png", "ID_10/10.jpg", "ID_2/x.png", "ID_1/sub/y.TIFF")
    assert names(made) == {"ID_1": ["sub/y"], "ID_2": ["x"], "ID_10": ["2", "10"]}


@pytest.mark.parametrize("tops", [
    ("train", "val"), ("Train", "Test"), ("training_set", "validation_set"), ("01_train", "02_test"), ("u1", "test"),
    ("fold_0", "fold_1"), ("训练集", "测试集"), ("train",), ("dev", "eval"),
], ids=" ".join)  # fmt: skip
def test_sides_of_a_split_are_not_taken_for_users(tmp_path, tops):
    with pytest.raises(Stop, match="look like the sides of a split") as stop:
        found(tmp_path, *(f"{top}/{user}/0.png" for top in tops for user in ("a", "b")))
    assert "data.layout=nested" in stop.value.command and "data.layout=users" in stop.value.command


@pytest.mark.parametrize(("files", "said"), [
    (("images/0.png",), "images are not named like users"),
    (("u1/0.png", "u2/0.png", "New folder/0.png", "backup_2/0.png"), "backup_2, New folder are not named like users"),
    (("u1_session1/0.png", "u1_session2/0.png"), "u1_session1, u1_session2 may be the same user's"),
    (("ID_1/0.png", "ID_1 (1)/0.png", "ID_2/0.png"), r"ID_1, ID_1 \(1\) may be the same user's"),
    (("raw/u1/0.png", "filtered/u1/0.png"), "raw are not named like users"),
    (("Monday/u1/0.png", "Tuesday/u1/0.png"), "Monday, Tuesday look less like users than what lies in them"),
    (("split1/a/0.png", "split2/a/0.png"), "look like the sides of a split"),
])  # fmt: skip
def test_folders_that_may_be_no_users_or_one_user_twice_are_asked_about(tmp_path, files, said):
    with pytest.raises(Stop, match=said) as stop:
        found(tmp_path, *files)
    assert stop.value.code == 2 and "data.layout=users" in stop.value.command
    assert len(found(tmp_path, *files, layout="users").users) == len({file.split("/")[0] for file in files})


@pytest.mark.parametrize("users", [("anna", "bob"), ("walker_1", "walker_2"), ("Deva", "Tessa"), ("1", "2")])
def test_names_of_people_are_not_asked_about(tmp_path, users):
    assert set(found(tmp_path, *(f"{user}/session_1/{i}.png" for user in users for i in range(2))).users) == set(users)


def test_a_user_called_train_is_possible_when_said_so(tmp_path):
    files = ("train/0.png", "val/0.png")
    assert set(found(tmp_path, *files, layout="users").users) == {"train", "val"}


def test_sides_are_no_part_of_a_recording_and_their_users_are_joined(tmp_path):
    made = found(tmp_path, "train/u1/rec0.png", "val/u1/rec0.png", "val/u2/b.png", "val/stray.png", layout="nested")
    assert names(made) == {"u1": ["rec0", "rec0"], "u2": ["b"]}
    assert [(stray.name, stray.problem) for stray in made.strays] == [
        ("val/stray.png", "it lies in no folder of a user")
    ]


def test_users_that_are_named_are_found_one_level_down(tmp_path):
    made = found(tmp_path, "train/u1/a.png", "val/u2/b.png", "val/u3/c.png", users=["u1", "u2"])
    assert set(made.users) == {"u1", "u2"} and "lie in train, val" in made.notes[0]


def test_a_user_that_is_not_there_is_named_with_those_that_are(tmp_path):
    with pytest.raises(Stop, match=r"names u9, which is not a user's folder.*there are: u1, u2"):
        found(tmp_path, "u1/a.png", "u2/b.png", users=["u9"])


def test_a_wrapper_of_what_are_plainly_users_is_unwrapped_and_said(tmp_path):
    made = found(tmp_path, "dataset/u1/a.png", "dataset/u2/b.png", "readme/x.txt")
    assert names(made) == {"u1": ["a"], "u2": ["b"]} and "dataset is taken for a wrapper" in made.notes[0]


@pytest.mark.parametrize(("files", "word"), [
    (("all/anna/a.png", "all/ben/b.png"), "data.layout=nested if the users are anna, ben"),
    (("all/train/u1/a.png", "all/val/u1/b.png"), "set data.root to the folder all in it"),
    (("all/imgs/a.png",), "data.layout=users if all is one user"),
])  # fmt: skip
def test_another_wrapper_is_asked_about(tmp_path, files, word):
    with pytest.raises(Stop, match="everything lies in the one folder all") as stop:
        found(tmp_path, *files)
    assert word in stop.value.command


@pytest.mark.parametrize("files", [("anna/session_1/a.png", "anna/session_2/b.png"), ("anna/a.png", "anna/more/b.png")])
def test_one_user_with_sessions_or_with_own_files_is_no_wrapper(tmp_path, files):
    assert set(found(tmp_path, *files).users) == {"anna"}


def test_folders_of_sessions_are_asked_about_and_nested_ones_keep_the_session(tmp_path):
    files = ("session_1/u1/0.png", "session_2/u1/0.png")
    with pytest.raises(Stop, match="look like sessions or recordings"):
        found(tmp_path, *files)
    assert names(found(tmp_path, *files, layout="nested")) == {"u1": ["session_1/0", "session_2/0"]}


def test_files_beside_the_users_are_nobodys(tmp_path):
    made = found(tmp_path, "u1/a.png", "u2/b.png", "overview.png", "notes.txt", "u1/raw.mat")
    assert [stray.problem for stray in made.strays] == ["it lies beside the users' folders"]
    assert made.notes == ["files of other types, not looked at: 1 .txt, 1 .mat"]


def test_what_cannot_be_opened_has_a_reason_and_does_not_block(tmp_path):
    (tmp_path / "u1").mkdir()
    (tmp_path / "u1" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "u1" / "pipe.png")
    (tmp_path / "u1" / "loop").symlink_to(tmp_path / "u1")
    made = found(tmp_path, "u1/a.png", "u1/folder.png/b.png")
    problems = {file.name: file.problem for file in made.users["u1"]}
    assert problems == {
        "u1/a.png": "", "u1/folder.png/b.png": "", "u1/gone.png": "it is a link to nothing",
        "u1/pipe.png": "it is not a file",
    }  # fmt: skip


def test_a_folder_that_may_not_be_entered_is_a_record_of_its_user(tmp_path, monkeypatch):
    """Root may enter every folder, so the refusal is played."""
    scandir = os.scandir

    def refusing(folder):
        if str(folder).endswith("u2"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    (tmp_path / "u2").mkdir()
    monkeypatch.setattr(os, "scandir", refusing)
    [closed] = found(tmp_path, "u1/a.png").users["u2"]
    assert closed.problem == "the folder cannot be opened (Permission denied)" and closed.name == "u2/"


@pytest.mark.parametrize(("files", "cause", "command"), [
    (("u1/a.txt",), "there are 1 .txt", "data.root"), (("u1/a.npy",), "there are 1 .npy", "data.kind=iq"),
    ((), "no other", "data.root"),
])  # fmt: skip
def test_no_image_says_what_is_there_instead(tmp_path, files, cause, command):
    with pytest.raises(Stop, match=rf"\.jpg.*\.png.*{cause}") as stop:
        found(tmp_path, *files)
    assert command in stop.value.command
