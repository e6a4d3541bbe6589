"""`step5_evaluate.py --verify`: a whole run folder, wherever it lies, and every kind of file that is damaged."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lib.commands import verify

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
