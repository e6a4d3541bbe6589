"""What the five scripts promise about flags, exit codes, the lock, and errors in one sentence."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lib.commands import cli, refusals
from lib.core.errors import Stop
from lib.core.run import existing, read_json, write_record
from lib.recipes import RECIPES
from tests.conftest import TOY

ROOT = Path(__file__).resolve().parents[2]


def said(capsys):
    """The two lines of an error; a traceback or more than that fails."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert 1 <= len(lines) <= 2 and lines[0].startswith("error: "), lines
    return "\n".join(lines)


@pytest.mark.parametrize("number, words, parts", [
    (1, ("--recipe", "vgt_eth3d"), ("unknown recipe 'vgt_eth3d'", "did you mean 'vggt_eth3d'", "--list")),
    (1, ("--preset", "smal"), ("unknown preset 'smal'", "did you mean 'small'")),
    (1, ("lora.rnak=8",), ("unknown setting 'lora.rnak'", "did you mean 'lora.rank'")),
    (1, ("lora.rank=abc",), ("lora.rank='abc' is not an int",)),
    (1, ("--time-limit", "soon"), ("--time-limit 'soon' cannot be read",)),
    (1, ("--time-limit", "1s", "session.reserve_seconds=5"), ("limit of 1 s is shorter than the reserve of 5 s",)),
    (4, ("--run", "typo"), ("there is no run 'typo'", "step1_setup.py --run typo")),
])  # fmt: skip
def test_a_wrong_word_exits_2_with_one_sentence(step, capsys, tmp_path, number, words, parts):
    assert step(number, *words) == 2
    text = said(capsys)
    for part in parts:
        assert part in text
    assert not list(tmp_path.glob("runs/*/*.json"))


def test_a_run_that_was_copied_beside_runs_is_found_and_the_command_moves_it(step, prepared, capsys, tmp_path):
    prepared()
    (tmp_path / "runs" / "r").rename(tmp_path / "r")
    for empty in (False, True):  # with runs/ there, and without
        if empty:
            (tmp_path / "runs").rmdir()
        assert step(3) == 2
        text = said(capsys)
        assert f"the run 'r' lies in {tmp_path / 'r'}, but runs are looked for in {tmp_path / 'runs'}" in text
        assert ("mkdir" in text) == empty and not (tmp_path / "runs" / "r").exists()
    subprocess.run(text.partition("go on with: ")[2], shell=True, check=True)
    assert step(3) == 0


@pytest.mark.parametrize("words, parts", [
    (("lora.rank=3",), ("lora.rank: stored 2, given 3", "step1_setup.py --run r lora.rank=3")),
    (("lora.full=[a, b]",), ("step1_setup.py --run r 'lora.full=[a, b]'",)),
    (("--demo",), ("was made with demo=False, not True",)),
    (("--preset", "large"), ("was made with preset=small, not large",)),
    (("--recipe", "vggt_eth3d"), ("was made with recipe=toy, not vggt_eth3d",)),
])  # fmt: skip
def test_a_contradiction_to_the_stored_run_is_refused_with_the_difference(step, prepared, capsys, words, parts):
    prepared()
    before = Path("runs/r/run.json").read_bytes()
    assert step(4, *words) == 2
    text = said(capsys)
    for part in parts:
        assert part in text
    assert Path("runs/r/run.json").read_bytes() == before and not Path("runs/r/train").exists()


def test_another_scale_than_that_of_the_stored_demo_is_refused(step, capsys, monkeypatch):
    assert step(1, "--demo") == 0
    monkeypatch.setenv("PIPELINE_SCALE", "tiny")
    assert step(2) == 2
    assert "was made with scale=full, not tiny" in said(capsys)


def test_the_same_settings_said_again_are_no_contradiction(step, prepared, folder):
    prepared()
    assert step(3, "lora.rank=2", "--recipe", "toy", "--preset", "small") == 0


def test_step_1_changes_a_run_and_keeps_what_is_not_said_again(step, prepared, folder):
    prepared("train.epochs=3")
    assert step(1, "lora.rank=4") == 0
    record = read_json(folder / "run.json")
    assert record["config"]["lora.rank"] == 4 and record["config"]["train.epochs"] == 3
    assert record["differs_from_preset"] == {"lora.rank": 4, "train.epochs": 3}


def test_demo_and_scale_are_stored(step, monkeypatch, folder):
    monkeypatch.setenv("PIPELINE_SCALE", "tiny")
    assert step(1, "--demo") == 0
    record = read_json(folder / "run.json")
    assert (record["demo"], record["scale"], record["config"]["train.epochs"]) == (True, "tiny", 1)


def test_scale_means_nothing_without_demo(step, monkeypatch, folder):
    monkeypatch.setenv("PIPELINE_SCALE", "tiny")
    assert step(1) == 0
    assert read_json(folder / "run.json")["scale"] == "full"


def test_a_later_step_runs_the_earlier_ones_first(step, capsys):
    assert step(3, "--recipe", str(TOY)) == 0
    text = capsys.readouterr().out
    assert (
        text.index("step 1 (setup) is absent: running it first")
        < text.index("step 2 (download) is absent")
        < text.index("step 3 (prepare): done")
    )


def test_an_earlier_step_that_fails_ends_the_later_one_with_its_code(step, capsys, monkeypatch):
    monkeypatch.setattr(cli, "run_child", lambda command, clock: 75)
    assert step(3, "--recipe", str(TOY)) == 75


def test_step_5_never_starts_a_training(step, prepared, capsys, folder):
    prepared()
    assert step(5) == 2
    text = said(capsys)
    assert "step 4 (train) is absent" in text and "go on with: python step4_train.py --run r" in text
    assert not (folder / "train").exists()


HOLDER = (
    "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); input()"
)


def test_two_steps_do_not_work_on_one_run(step, prepared, capsys, folder):
    prepared()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder / ".lock")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout.readline() == "held\n"
    assert step(3, "--force") == 2
    assert "another step is working on the run r" in said(capsys)
    holder.kill()  # however it ends, the lock is free
    holder.wait()
    assert step(3, "--force") == 0


def test_a_full_disk_exits_1_with_free_and_needed_bytes(step, capsys, monkeypatch):
    def full(*arguments):
        error = OSError(errno.ENOSPC, "no space")
        error.needed_bytes = 12_345_678
        raise error

    monkeypatch.setattr(cli, "perform", full)
    assert step(1) == 1
    text = said(capsys)
    assert "12.3 MB needed" in text and "MB free below" in text and "the last good checkpoint stands" in text


def test_other_system_errors_are_not_hidden(step, monkeypatch):
    def broken(*arguments):
        raise OSError(errno.EBADF, "a mistake of ours")

    monkeypatch.setattr(cli, "perform", broken)
    with pytest.raises(OSError, match="mistake of ours"):
        step(1)


@pytest.mark.parametrize("number", refusals.REFUSALS)
def test_what_a_file_system_refuses_is_a_sentence_with_the_path(step, capsys, monkeypatch, number):
    def refused(*arguments):
        raise OSError(number, os.strerror(number), "/data/x")

    monkeypatch.setattr(cli, "perform", refused)
    assert step(1) == 1
    assert said(capsys).startswith(f"error: /data/x: {os.strerror(number)}\n   go on with: ")


def test_a_file_where_the_runs_should_lie_is_a_sentence(step, capsys, tmp_path):
    (tmp_path / "runs").write_text("notes")
    assert step(1) == 1
    assert "a file lies where a folder is needed" in said(capsys)


@pytest.mark.parametrize("name", ["../../x", "/abs", "..", ".", "a/b", "a\\b", "a\nb", "x" * 300, " a", "-x"])
def test_the_name_of_a_run_is_no_path(step, capsys, tmp_path, name):
    before = sorted(tmp_path.parent.rglob("*"))
    assert step(1, f"--run={name}") == 2
    assert "--run" in said(capsys) and sorted(tmp_path.parent.rglob("*")) == before


def test_names_of_runs_keep_their_letters(step, tmp_path):
    assert step(1, "--run", "立面 №7") == 0
    assert (tmp_path / "runs" / "立面 №7" / "run.json").is_file()


def test_settings_are_never_replaced_by_what_the_environment_holds(step, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_planted")
    assert step(1, "data.root=${oc.env:HF_TOKEN}") == 2
    assert "holds ${" in said(capsys)
    assert step(1, "--run", "foreign") == 0
    record = tmp_path / "runs" / "foreign" / "run.json"
    write_record(record, existing(record) | {"overrides": {"data.root": "${oc.env:HF_TOKEN}"}})
    assert step(2, "--run", "foreign") == 2
    assert "hf_planted" not in "".join(capsys.readouterr()) + record.read_text()


def test_an_unknown_scale_is_refused(step, capsys, monkeypatch):
    monkeypatch.setenv("PIPELINE_SCALE", "huge")
    assert step(1) == 2
    assert "PIPELINE_SCALE='huge' is unknown" in said(capsys)


LIGHT = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as ended:
    slow = "torch numpy pandas peft huggingface_hub transformers accelerate PIL scipy".split()
    heavy = [name for name in slow if name in sys.modules]
    sys.exit(f"imported {heavy}" if heavy or ended.code else 0)
"""


@pytest.mark.parametrize("words", [
    ("step4_train.py", "--help"), ("step1_setup.py", "--list"), ("step5_evaluate.py", "--plan"),
    ("step1_setup.py", "--plan", "--json", "lora.rank=4"),
    *(("step1_setup.py", "--plan", "--recipe", name) for name in RECIPES[1:]),
])  # fmt: skip
def test_help_list_and_plan_import_nothing_heavy_and_write_nothing(tmp_path, words):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIPELINE_")} | {
        "PYTHONPATH": str(ROOT)
    }
    command = [sys.executable, "-c", LIGHT, str(ROOT / words[0]), *words[1:]]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout and list(tmp_path.iterdir()) == []


def test_wrong_flags_exit_2(tmp_path):
    words = [sys.executable, str(ROOT / "step4_train.py"), "--proceses", "2"]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and "--proceses" in ended.stderr
    words = [sys.executable, str(ROOT / "step2_download.py"), "--help"]
    helped = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "exit codes: 0 done, 75 paused" in " ".join(helped.stdout.split())


def test_list_as_json_holds_every_setting(step, capsys):
    assert step(1, "--list", "--json", "--recipe", str(TOY)) == 0
    table = json.loads(capsys.readouterr().out)
    rank = table["toy"]["settings"]["lora.rank"]
    assert rank["default"] == 16 and rank["type"] == "int" and rank["allowed"] == "at least 1"
    assert table["toy"]["presets"]["small"]["shows"] == "an error below the base's"


def test_json_of_a_step_is_alone_on_stdout(step, prepared, capfd):
    """Also what its children print goes to the other stream."""
    prepared()
    assert step(3, "--json") == 0
    found = capfd.readouterr()
    told = json.loads(found.out)
    assert (told["run"], told["step"], told["state"], told["exit_code"]) == ("r", 3, "complete", 0)
    assert "manifest.csv" in told["outputs"] and "complete, nothing to do" in found.err
    assert step(4, "--json", "lora.rank=5") == 2
    refused = json.loads(capfd.readouterr().out)
    assert "lora.rank: stored 2, given 5" in refused["error"] and refused["exit_code"] == 2


@pytest.mark.parametrize("number, words, parts", [
    (1, ("--list", "--force"), ("--force does nothing with --list",)),
    (4, ("--plan", "--stages", "a"), ("--stages does nothing with --plan",)),
    (5, ("--out", "there"), ("--out does nothing without --predict",)),
    (5, ("--scale", "a.jpg b.jpg 2"), ("--scale does nothing without --predict",)),
    (5, ("--export", "merged", "--hub-repository", "a/b"), ("--hub-repository does nothing without --export hub",)),
    (2, ("--accept-code",), ("unrecognized arguments: --accept-code", "step2_download.py --help")),
])  # fmt: skip
def test_a_flag_that_does_nothing_is_refused(step, capsys, number, words, parts):
    assert step(number, *words) == 2
    text = said(capsys)
    assert all(part in text for part in parts), text


@pytest.mark.parametrize("given", ["-2", "0", "two"])
def test_a_number_of_processes_that_is_none_is_refused(step, capsys, given):
    """It was taken for 1 where it was negative."""
    assert step(4, "--processes", given) == 2
    assert f"--processes: {given!r} is no whole number of at least 1" in said(capsys)


def test_the_command_to_go_on_names_run_and_root_whoever_says_it(monkeypatch):
    """A room that knows no run names a step alone."""
    stop = Stop("gone", "python step2_download.py --force, or python step1_setup.py --list")
    monkeypatch.setattr(sys, "argv", ["step4_train.py", "--root", "a b"])
    told = "python step2_download.py --run mine --root 'a b' --force, or python step1_setup.py --list"
    assert cli.of_this_run(stop, "mine").command == told


def test_words_of_several_machines_are_looked_at_before_anything_runs(step, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(cli, "note_machine", lambda *words: asked.append(words))
    assert step(1) == 0 and asked
    capsys.readouterr()


def test_step_2_does_not_end_well_where_a_person_must_fetch_something(step, monkeypatch, capsys, folder):
    from lib.core.records import Asset
    from lib.recipes.toy import sources

    licensed = Asset("hand", "licensed", files={"hand.pkl": ""}, how_to_get="from the publisher's page")
    monkeypatch.setattr(sources, "assets", lambda config: [licensed])
    assert step(1) == 0
    capsys.readouterr()
    assert step(2) == 2
    assert "from the publisher's page" in capsys.readouterr().err
    assert not (folder / "assets.json").exists()


def test_a_file_that_is_not_imported_leaves_step_2_complete(step, capsys, folder):
    assert step(1) == 0 and step(2) == 0
    before = (folder / "2_download.json").read_bytes()
    capsys.readouterr()
    for words in (("--import", "nowhere.pt"), ("--propose", "nowhere")):
        assert step(2, *words) == 2 and said(capsys)
        assert (folder / "2_download.json").read_bytes() == before
