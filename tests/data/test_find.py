import os

import pytest

from lib.core.errors import Stop
from lib.core.run import Run, write_record
from lib.data import find


def write_run(folder, step=10, changed_seconds=1_000_000_000, **record):
    """A run folder as an earlier session leaves it, with one time for all its files."""
    checkpoint = folder / "train" / "main" / f"step-{step:06d}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "sha256.json").write_text("{}")
    write_record(folder / "run.json", {"recipe": "vggt_eth3d"} | record)
    (folder / "4_train.json").write_text('{"state": "paused"}')
    for file in folder.rglob("*.json"):
        os.utime(file, (changed_seconds, changed_seconds))
    return folder


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "working", "facades")


LAYOUTS = [
    "old-slug/runs/facades", "notebooks/someone/my-notebook/runs/facades", "datasets/someone/my-runs/facades",
    "models/someone/name/pytorch/default/1/runs/facades", "facades",
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_earlier_run_is_found_in_every_mount_layout_and_copied(run, tmp_path, layout, capsys):
    there = write_run(tmp_path / "input" / layout)
    assert find.continue_run(run, [tmp_path / "input"]) == {"recipe": "vggt_eth3d"}
    assert (run.folder / "train" / "main" / "step-000010" / "sha256.json").exists()
    assert f"continuing the run facades from {there}" in capsys.readouterr().out


def test_renamed_run_is_known_by_its_run_json(run, tmp_path):
    write_run(tmp_path / "input" / "renamed-by-kaggle", run="facades")
    assert find.continue_run(run, [tmp_path / "input"])["run"] == "facades"


def test_run_of_another_name_is_left_alone(run, tmp_path):
    write_run(tmp_path / "input" / "windows", run="windows")
    assert find.continue_run(run, [tmp_path / "input"]) is None
    assert not run.folder.exists()


def test_newer_of_two_is_taken_and_said(run, tmp_path, capsys):
    older = write_run(tmp_path / "input" / "a" / "facades", step=90, changed_seconds=1_000_000_000)
    newer = write_run(tmp_path / "input" / "b" / "facades", step=20, changed_seconds=1_000_000_500)
    find.continue_run(run, [tmp_path / "input"])
    said = capsys.readouterr().out
    assert f"from {newer}" in said and f"newer than {older}" in said
    assert (run.folder / "train" / "main" / "step-000020").is_dir()


def test_more_steps_decide_where_a_mount_gives_every_file_one_time(run, tmp_path):
    write_run(tmp_path / "input" / "a" / "facades", step=90)
    write_run(tmp_path / "input" / "b" / "facades", step=200)
    assert [one.steps for one in find.find_runs("facades", [tmp_path / "input"])] == [200, 90]


def test_read_only_input_becomes_a_writable_copy_with_its_times(run, tmp_path):
    there = write_run(tmp_path / "input" / "facades")
    for path in [*there.rglob("*"), there]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        find.continue_run(run, [tmp_path / "input"])
    finally:
        for path in [there, *there.rglob("*")]:
            path.chmod(0o755)
    assert run.record.stat().st_mode & 0o200
    assert all(folder.stat().st_mode & 0o200 for folder in [run.folder, *run.folder.rglob("*")])
    assert run.record.stat().st_mtime == 1_000_000_000


def test_checkpoints_behind_a_link_are_copied_with_their_run(run, tmp_path):
    """A full disk made somebody move `train` and leave a link: an empty copy would have lost the checkpoints."""
    place = write_run(tmp_path / "input" / "facades", step=9)
    (place / "train").rename(tmp_path / "large")
    (place / "train").symlink_to(tmp_path / "large")
    find.continue_run(run, [tmp_path / "input"])
    copy = run.folder / "train"
    assert not copy.is_symlink() and (copy / "main" / "step-000009" / "sha256.json").read_text() == "{}"


@pytest.mark.parametrize("make, said", [
    (lambda path, place: path.symlink_to(place), "is a link to a folder that holds it"),
    (lambda path, place: path.symlink_to(place / "nothing"), "is neither a file nor a folder"),
    (lambda path, place: os.mkfifo(path), "is neither a file nor a folder"),
])  # fmt: skip
def test_what_cannot_be_copied_is_named_and_leaves_no_half_run(run, tmp_path, make, said):
    place = write_run(tmp_path / "input" / "facades")
    make(place / "odd", place)
    with pytest.raises(Stop, match=said):
        find.continue_run(run, [tmp_path / "input"])
    assert not run.folder.exists()


def test_empty_folder_of_a_call_that_failed_does_not_hide_the_earlier_run(run, tmp_path):
    write_run(tmp_path / "input" / "facades")
    run.folder.mkdir(parents=True)
    (run.folder / ".lock").write_text("")
    assert find.continue_run(run, [tmp_path / "input"]) is not None


def test_a_folder_with_work_in_it_is_never_replaced(run, tmp_path):
    write_run(tmp_path / "input" / "facades")
    (run.folder / "train" / "adapt" / "step-000009").mkdir(parents=True)
    (run.folder / "notes.md").write_text("mine")
    with pytest.raises(Stop, match=r"has no run.json but holds notes.md, train, which an earlier session"):
        find.continue_run(run, [tmp_path / "input"])
    assert (run.folder / "notes.md").read_text() == "mine" and (run.folder / "train" / "adapt" / "step-000009").is_dir()


@pytest.mark.parametrize("content", ["", "[1]", "{", "\x00"])
def test_a_foreign_run_json_does_not_stop_the_search(run, tmp_path, content):
    write_run(tmp_path / "input" / "facades")
    (tmp_path / "input" / "a").mkdir()
    (tmp_path / "input" / "a" / "run.json").write_text(content)
    assert find.continue_run(run, [tmp_path / "input"]) is not None


def test_a_damaged_run_of_the_name_is_passed_over_and_said(run, tmp_path, capsys):
    """The newer one is cut in the middle; the older one that is whole is continued."""
    whole = write_run(tmp_path / "input" / "a" / "facades")
    broken = write_run(tmp_path / "input" / "b" / "facades", changed_seconds=1_000_000_500)
    (broken / "run.json").write_text((broken / "run.json").read_text()[:-20])
    assert find.continue_run(run, [tmp_path / "input"]) == {"recipe": "vggt_eth3d"}
    said = capsys.readouterr().out
    assert f"{broken} is passed over" in said and f"continuing the run facades from {whole}" in said


def test_the_runs_own_root_is_no_earlier_session(run):
    write_run(run.folder)
    assert find.continue_run(run, [run.root]) is None


def test_loop_of_links_ends_and_a_linked_mount_is_searched(run, tmp_path):
    place = tmp_path / "input"
    place.mkdir()
    write_run(tmp_path / "elsewhere" / "facades")
    (place / "mount").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(place)
    assert [one.path for one in find.find_runs("facades", [place])] == [place / "mount" / "facades"]


def test_same_run_below_two_places_counts_once(tmp_path):
    write_run(tmp_path / "input" / "facades")
    assert len(find.find_runs("facades", [tmp_path, tmp_path / "input"])) == 1


def test_search_is_bounded_in_depth_and_number(tmp_path, monkeypatch, capsys):
    deep = tmp_path.joinpath(*"abcdefghijkl")
    write_run(deep / "facades")
    assert find.find_runs("facades", [tmp_path]) == []
    monkeypatch.setattr(find, "MOST_FOLDERS", 3)
    assert len(list(find.folders(tmp_path))) == 3
    assert "more than 3 folders" in capsys.readouterr().out


def test_places_are_the_given_folders_and_existing_mounts(tmp_path, monkeypatch):
    (tmp_path / "kaggle").mkdir()
    monkeypatch.setattr(find, "MOUNTS", (str(tmp_path / "kaggle"), str(tmp_path / "colab")))
    assert find.search_roots([tmp_path / "none", tmp_path]) == [tmp_path, tmp_path / "kaggle"]


@pytest.mark.parametrize("place", ["wheels-slug", "datasets/owner/wheels-slug/wheels", "notebooks/user/slug/wheels"])
def test_wheels_are_found_wherever_a_mount_puts_them(tmp_path, monkeypatch, place):
    """Kaggle's layouts of before and of 2026."""
    monkeypatch.setattr(find, "MOUNTS", (str(tmp_path),))
    assert find.wheels() is None
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "peft-0.18-py3-none-any.whl").touch()
    assert find.wheels() == tmp_path / place
