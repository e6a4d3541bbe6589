"""`step5_evaluate.py --verify`: a whole run folder, wherever it lies, and every kind of file that is damaged."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lib.commands import verify
from lib.core.run import write_json

ROOT = Path(__file__).resolve().parents[2]
DAMAGED = {
    "run.json": "records: ",
    "3_prepare.json": "records: ",
    "train/adapt/best.json": "records: ",
    "eval/scores.json": "records: ",
    "manifest.csv": "outputs: ",
    "assets.json": "outputs: ",
    "eval/per_sample.csv": "outputs: ",
    "report.html": "outputs: ",
    "train/adapt/step-000010/optim.safetensors": "checkpoints: ",
    "train/adapt/step-000010/state.json": "checkpoints: ",
    "export/merged/model.safetensors": "exports: ",
    "train/adapt/log.jsonl": "log lines: ",
}


@pytest.fixture
def elsewhere(prepared, step, folder, tmp_path):
    prepared(last=5)
    assert step(5, "--export", "merged") == 0
    return shutil.copytree(folder, tmp_path / "unpacked" / "renamed")


def test_every_kind_of_damage_is_named_and_the_whole_copy_is_whole(elsewhere, capsys):
    assert verify.main(["--verify", str(elsewhere)]) == 0
    said = capsys.readouterr().out
    assert said.count(" 0 damaged") == 5 and said.endswith("is whole\n")
    for name, kind in DAMAGED.items():
        [file] = elsewhere.glob(name.replace("step-000010", max(p.name for p in elsewhere.glob("train/adapt/step-*"))))
        content = file.read_bytes()
        middle = len(content) // 2
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        assert verify.main(["--verify", str(elsewhere)]) == 1, name
        [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith(kind)]
        assert not line.endswith(" 0 damaged"), name
        file.write_bytes(content)
    (elsewhere / "report.html").unlink()
    assert verify.main(["--verify", str(elsewhere)]) == 1


def test_what_is_lost_without_a_trace_of_its_own_is_missed(elsewhere, capsys):
    """A copy that ended early: nothing lists these files, and others tell that they were there."""
    for name in ("1_setup.json", "4_train.json", *(f"train/adapt/{word}" for word in ("best.json", "done.json"))):
        content = (elsewhere / name).read_bytes()
        (elsewhere / name).unlink()
        assert verify.main(["--verify", str(elsewhere)]) == 1, name
        assert f"{elsewhere / name} is missing" in capsys.readouterr().out
        (elsewhere / name).write_bytes(content)
    for name in ("log.jsonl", "timing.jsonl"):
        log = elsewhere / "train" / "adapt" / name
        content = log.read_bytes()
        for kept in (content[: len(content) // 2], b"".join(content.splitlines(keepends=True)[:-4]), b""):
            log.write_bytes(kept)
            assert verify.main(["--verify", str(elsewhere)]) == 1, name
            assert f"train/adapt/{name}: " in capsys.readouterr().out
        log.unlink()
        assert verify.main(["--verify", str(elsewhere)]) == 1, name
        log.write_bytes(content)
    capsys.readouterr()
    assert verify.main(["--verify", str(elsewhere)]) == 0


def test_a_cut_state_is_damage_and_no_traceback(elsewhere, capsys):
    newest = max(elsewhere.glob("train/adapt/step-*/state.json"))
    newest.write_text(newest.read_text()[:40])
    assert verify.main(["--verify", str(elsewhere)]) == 1
    assert "state.json does not have the hash" in capsys.readouterr().out


def test_a_paused_training_is_whole(prepared, folder):
    prepared(last=4)
    for name in ("4_train.json", "train/adapt/done.json"):
        (folder / name).unlink()
    log = folder / "train" / "adapt" / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-9])
    assert verify.main(["--verify", str(folder)]) == 0


def test_it_needs_no_heavy_library(elsewhere):
    code = (
        f"import runpy, sys; sys.argv = ['step5_evaluate.py', '--verify', {str(elsewhere)!r}]\n"
        "try:\n    runpy.run_path('step5_evaluate.py', run_name='__main__')\n"
        "finally:\n    print(sorted({'torch', 'numpy', 'pandas', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("is whole\n[]\n"), done.stdout + done.stderr


def test_what_is_no_run_is_said(tmp_path, capsys):
    assert verify.main(["--verify", str(tmp_path)]) == 2
    assert "is not a run's folder" in capsys.readouterr().err


@pytest.mark.parametrize(("leaders", "chosen"), [([{"step": 999999}], True), ([], False)])
def test_the_newest_checkpoint_is_that_of_the_most_steps(tmp_path, leaders, chosen):
    """By their letters the name with seven digits comes first."""
    for name, kept in (("step-999999", [] if chosen else [{"step": 1}]), ("step-1000000", leaders)):
        write_json(tmp_path / name / "state.json", {"leaders": kept})
    assert verify.has_chosen(tmp_path) == chosen
