"""On Colab a run lies on Google Drive, which outlives the session; caches do not. Tried against an imitated tree."""

import shutil

import pytest

from lib.commands import notebook
from lib.core import run
from tests.commands.test_notebook import GIVEN


@pytest.fixture
def drive(tmp_path, monkeypatch):
    """An imitated mount; the machine's own disk is scratch/ beside it."""
    monkeypatch.setattr(run, "NETWORK_DISKS", {str(tmp_path / "drive"): str(tmp_path / "scratch")})
    monkeypatch.setattr(notebook, "DRIVE", tmp_path / "drive" / "MyDrive")
    notebook.DRIVE.mkdir(parents=True)
    return notebook.DRIVE


def test_the_first_cell_takes_a_mounted_drive_as_root_and_says_what_is_free(drive, capsys):
    assert notebook.parameters(GIVEN, [])["root"] == str(drive / "fine-tuning")
    assert "outlives this session" in (said := capsys.readouterr().out) and "GB are free" in said
    assert notebook.parameters(GIVEN | {"root": "mine"}, [])["root"] == "mine"


def test_without_a_drive_the_first_cell_says_how_to_mount_it_and_elsewhere_nothing(drive, monkeypatch, capsys):
    drive.rmdir()
    assert notebook.parameters(GIVEN, [])["root"] == "" and capsys.readouterr().out == ""
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    notebook.parameters(GIVEN, [])
    assert "drive.mount('/content/drive')" in capsys.readouterr().out


def test_a_run_on_drive_keeps_its_caches_on_the_machine_and_makes_them_again_next_session(
    step, drive, tmp_path, capsys
):
    root = ("--root", str(drive / "fine-tuning"))
    assert [step(number, *root, *(("train.epochs=1",) if number == 1 else ())) for number in (1, 2, 3, 4)] == [0] * 4
    assert f"caches go to {tmp_path / 'scratch'}" in capsys.readouterr().out
    assert list((tmp_path / "scratch").glob("prepared-*")) and not (drive / "fine-tuning" / "cache").exists()
    shutil.rmtree(tmp_path / "scratch")
    assert step(5, *root) == 0
    said = capsys.readouterr().out
    assert "step 3 (prepare) is" in said and "prepared-" in said and "is missing" in said
    assert (drive / "fine-tuning" / "runs" / "r" / "report.html").is_file()
