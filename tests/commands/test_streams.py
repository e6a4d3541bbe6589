"""A step's streams and environment, as a shell, a scheduler or another user leaves them."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lib.commands import cli, compare, verify
from tests.conftest import TOY

ROOT = Path(__file__).resolve().parents[2]
PLAIN = {name: value for name, value in os.environ.items() if not name.startswith(("PIPELINE_", "KAGGLE_"))}


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`line` in bash, where $STEP1 is that script."""
    words = PLAIN | {"STEP1": f"{sys.executable} {ROOT / 'step1_setup.py'}"} | environment
    given = {"cwd": folder, "env": words, "capture_output": True, "text": True, "timeout": 60}
    return subprocess.run(["bash", "-c", line], check=False, **given)


@pytest.mark.parametrize("words", ["--list", f"--recipe {TOY} --plan", "--list --json"])
def test_who_reads_one_line_alone_gets_it_and_no_traceback(tmp_path, words):
    ended = shell(f"$STEP1 {words} | head -n 1; echo ${{PIPESTATUS[0]}}", tmp_path)
    assert ended.stdout.splitlines()[-1] == "0" and "Traceback" not in ended.stderr


def test_a_step_whose_reader_is_gone_says_so(tmp_path):
    ended = shell(f"$STEP1 --recipe {TOY} | true; echo ${{PIPESTATUS[0]}}", tmp_path)
    assert ended.stdout == "1\n" and ended.stderr.startswith("error: the output: Broken pipe\n   go on with: ")


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", ">&-", "2>&-"])
def test_closed_streams_are_no_numbers_for_files(tmp_path, closed):
    ended = shell(f"$STEP1 --recipe {TOY} --run r --json {closed}; echo $?", tmp_path)
    assert ended.stdout.splitlines()[-1] == "0" and "Traceback" not in ended.stderr
    record = json.loads((tmp_path / "runs" / "r" / "1_setup.json").read_text())
    assert record["state"] == "complete"


@pytest.mark.parametrize("environment", [
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "latin-1"},
])  # fmt: skip
def test_a_locale_without_a_sign_ends_nothing(tmp_path, environment):
    """The names of metrics hold Greek letters, and verdicts a minus sign."""
    ended = shell("$STEP1 --list", tmp_path, **environment)
    assert ended.returncode == 0 and "\\u" in ended.stdout


def test_a_folder_that_is_gone_is_said(tmp_path):
    (tmp_path / "gone").mkdir()
    ended = shell('cd gone && rmdir "$PWD" && $STEP1 --list', tmp_path)
    assert ended.stderr == "error: the current folder is gone\n   go on with: cd into one that is there\n"


@pytest.mark.parametrize(("name", "value"), [
    ("RANK", "x"), ("WORLD_SIZE", "two"), ("PIPELINE_PARENT", "1e3"), ("PIPELINE_MACHINES", "-1"),
    ("HF_ENDPOINT", "hf-mirror.com"), ("HF_ENDPOINT", "http://[::1"), ("HF_ENDPOINT", "https://me:secret@h:99999"),
    ("PIPELINE_SESSION_START", "nan"), ("PIPELINE_SESSION_START", "inf"), ("PIPELINE_SESSION_START", "1e12"),
])  # fmt: skip
def test_a_variable_that_is_none_is_named(step, capsys, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert step(1) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {name}") and "unset " in said and "secret" not in said


@pytest.mark.parametrize(("number", "words"), [
    (errno.EFBIG, "ulimit -f"), (errno.EMFILE, "ulimit -n"), (errno.ENOENT, "put back"), (errno.ESTALE, "network disk"),
])  # fmt: skip
def test_further_refusals_of_a_system_are_sentences(step, capsys, monkeypatch, number, words):
    def refused(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(cli, "carry_out", refused)
    assert step(1) == 1
    assert words in capsys.readouterr().err


def test_what_a_library_says_of_a_full_disk_is_a_full_disk(step, capsys, monkeypatch):
    from safetensors import SafetensorError

    def refused(*arguments):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(cli, "carry_out", refused)
    assert step(1) == 1
    assert "error: the disk is full: " in capsys.readouterr().err


@pytest.mark.parametrize("command", [
    lambda root: verify.main(["--verify", "r", "--root", str(root)]),
    lambda root: compare.main(["--compare", "r", "--root", str(root)]),
])  # fmt: skip
def test_what_is_no_step_says_what_the_system_refuses_too(prepared, tmp_path, folder, capsys, command):
    prepared()
    (folder / "run.json").unlink()
    (folder / "run.json").mkdir()
    assert command(tmp_path) == 1
    said = capsys.readouterr()
    assert "run.json: Is a directory" in said.err + said.out and "Traceback" not in said.err


def test_a_name_that_is_no_text_and_a_user_who_is_not_there_are_refused(step, capsys):
    assert step(1, "--run", "a\udcff") == 2
    assert "is not text in UTF-8" in capsys.readouterr().err
    assert step(1, "--root", "~nobody-of-this-name/x") == 2
    assert "the name of no user" in capsys.readouterr().err
