"""The five steps of the default recipe as a user runs them: scripts in child processes, stand-in data, tiny scale."""

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lib import api
from tests import pages

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parent.parent
NAME = "vggt_eth3d-strategy_b-demo"
REAL_SCENES = ROOT.parent / "shared" / "realdata" / "scenes"
PLANTED = {name: f"planted-{name.lower()}-5f2a" for name in ("HF_TOKEN", "WANDB_API_KEY", "KAGGLE_KEY")}
BIT_EQUAL = ("eval/scores.json", "eval/per_sample.csv", "train/adapt/log.jsonl")


def run(number: int, root: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    script = next(ROOT.glob(f"step{number}_*.py"))
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PIPELINE_")}
    return subprocess.run(
        [sys.executable, str(script), "--root", str(root), *words],
        env=kept | {"PIPELINE_SCALE": "tiny"} | PLANTED | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def all_steps(root: Path, *words: str) -> None:
    for number in range(1, 6):
        done = run(number, root, "--demo", *words)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A root with one finished run; tests copy it or only read it."""
    root = tmp_path_factory.mktemp("root")
    all_steps(root)
    return root


def test_every_step_leaves_what_the_design_says(finished):
    folder = finished / "runs" / NAME
    for name in (
        "run.json",
        "manifest.csv",
        "split.json",
        "assets.json",
        "eval/scores.json",
        "eval/per_sample.csv",
        "report.html",
        "train/adapt/done.json",
        "train/adapt/log.jsonl",
    ):
        assert (folder / name).stat().st_size > 0, name
    assert list(folder.glob("train/adapt/tensorboard/events*")) and list(folder.glob("figures/*.png"))
    [scene, *_] = json.loads((folder / "split.json").read_text())["groups"]["test"]
    assert f"<figcaption>A held-out sequence of {scene}, its first photo" in (folder / "report.html").read_text()
    assert json.loads((folder / "split.json").read_text())["overlap"] == {"groups": 0, "files": 0, "near_duplicates": 0}


def secrets_in(place: Path) -> list[str]:
    """Files below a folder in which a planted secret stands, as text or in Base64."""
    marks = [value.encode() for value in PLANTED.values()]
    marks += [base64.b64encode(mark)[:-4] for mark in marks]
    files = [path for path in place.rglob("*") if path.is_file()]
    return [str(path) for path in files if any(mark in path.read_bytes() for mark in marks)]


def test_secrets_of_the_environment_are_in_no_file(finished, tmp_path):
    """Every run of these tests has them; the exports, the card and the notebook are looked at where they are made."""
    (tmp_path / "note.json").write_text(json.dumps(PLANTED))
    assert secrets_in(tmp_path) == [str(tmp_path / "note.json")]
    assert secrets_in(finished) == []


def test_complete_steps_do_nothing(finished):
    for number in range(1, 6):
        done = run(number, finished, "--run", NAME)
        assert done.returncode == 0 and "complete, nothing to do" in done.stdout


def test_no_machine_path_is_in_the_run(finished):
    for path in (finished / "runs" / NAME).rglob("*"):
        if path.suffix in (".json", ".jsonl", ".csv", ".html"):
            assert str(finished) not in path.read_text(encoding="utf-8"), path.name


def test_changed_rank_makes_training_and_evaluation_stale_and_nothing_else(finished):
    states = json.loads(run(5, finished, "--run", NAME, "--plan", "--json", "lora.rank=8").stdout)["states"]
    assert [states[str(n)]["state"] for n in range(1, 6)] == ["complete"] * 3 + ["stale"] * 2
    assert "lora.rank was 16, is 8" in states["4"]["reasons"]


def test_plain_peft_loads_the_exported_adapter_and_the_merged_file_has_the_base_keys(finished, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(finished, root)
    for kind in ("adapter", "merged"):
        done = run(5, root, "--run", NAME, "--export", kind)
        assert done.returncode == 0, done.stderr
    assert secrets_in(root) == []
    import peft
    import torch
    from safetensors.torch import load_file

    from lib.recipes.vggt_eth3d.model import VGGT
    from lib.recipes.vggt_eth3d.pretrain import TARGET
    from lib.scenes.pretrain import demo_config

    export, images = root / "runs" / NAME / "export", torch.rand(1, 2, 3, 84, 112)
    base = load_file(TARGET)
    merged = load_file(export / "merged" / "model.safetensors")
    assert merged.keys() == base.keys()
    one, other = (VGGT(demo_config("vggt_eth3d").model).eval() for _ in range(2))
    one.load_state_dict({name: tensor.float() for name, tensor in base.items()})
    adapted = peft.PeftModel.from_pretrained(one, export / "adapter").eval()
    other.load_state_dict(merged)
    with torch.no_grad():
        first, second = adapted(images)["depth"], other(images)["depth"]
    assert (first - second).abs().max() <= 1e-5 * first.abs().max()
    photos = next(root.glob("data/vggt_eth3d/scenes/*/images/*"))
    page = pages.run("vggt_eth3d", NAME=root / "runs" / NAME, PHOTOS=photos)
    frames, height, width = page["depth"].shape
    assert page["cam_from_world"].shape == (frames, 3, 4) and page["intrinsics"].shape == (frames, 3, 3)
    assert page["images"].shape == (frames, 3, height, width)
    read = api.load(export / "merged").adapted(images)["depth"]
    assert (first - read).abs().max() <= 1e-5 * first.abs().max()
    changed = [name for name in base if not torch.equal(base[name].float(), merged[name])]
    assert changed and all("depth_head" in name or "_blocks.2." in name or "_blocks.3." in name for name in changed)


def test_papermill_with_a_short_limit_pauses_and_a_second_run_equals_one_long_run(finished, tmp_path):
    """The limit leaves time for a part of the training; exit code 0 both times."""
    root = tmp_path / "root"
    shutil.copytree(finished, root)
    shutil.rmtree(root / "runs" / NAME / "train")
    for stamp in ("4_train.json", "5_evaluate.json"):
        (root / "runs" / NAME / stamp).unlink()
    texts = []
    for limit in ("3s", ""):
        done = papermill(root, limit, tmp_path / "executed.ipynb")
        assert done.returncode == 0, done.stderr[-2000:]
        cells = json.loads((tmp_path / "executed.ipynb").read_text())["cells"]
        texts.append("".join(str(output) for cell in cells for output in cell.get("outputs", [])))
    assert "paused" in texts[0].lower() and f"step4_train.py --run {NAME}" in texts[0]
    assert "step 5 (evaluate): done" in texts[1]
    assert secrets_in(tmp_path) == []
    for name in BIT_EQUAL:
        assert (root / "runs" / NAME / name).read_bytes() == (finished / "runs" / NAME / name).read_bytes(), name


def papermill(root: Path, limit: str, out: Path) -> subprocess.CompletedProcess:
    words = [
        sys.executable,
        "-m",
        "papermill",
        str(ROOT / "notebooks" / "pipeline.ipynb"),
        str(out),
        "--cwd",
        str(ROOT),
        "-r",
        "root",
        str(root),
        "-r",
        "time_limit",
        limit,
    ]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PIPELINE_")}
    environment = kept | {"PIPELINE_SCALE": "tiny"} | PLANTED
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


BAD = {
    "an unknown preset": (["--preset", "strategy_d"], "strategy_d"),
    "a wrong type": (["lora.rank=abc"], "lora.rank"),
    "a misspelt key": (["lora.rnak=8"], "lora.rank"),
    "an impossible value": (["lora.rank=0"], "lora.rank"),
    "an unknown recipe": (["--recipe", "vgt"], "vggt_eth3d"),
}


@pytest.mark.parametrize("words, named", BAD.values(), ids=BAD)
def test_bad_settings_end_with_one_sentence_and_nothing_written(words, named, tmp_path):
    done = run(1, tmp_path, "--demo", *words)
    assert done.returncode == 2 and named in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_missing_data_root_names_the_folder_and_the_command(tmp_path):
    words = ("--demo", "data.root=nowhere", "data.scenes=[a]", "data.val_scenes=[b]")
    assert run(1, tmp_path, *words).returncode == 0
    done = run(2, tmp_path, "--run", NAME)
    assert (
        done.returncode == 2
        and "nowhere" in done.stderr
        and "go on with" in done.stderr
        and "Traceback" not in done.stderr
    )


if REAL_SCENES.exists():

    def test_real_scenes_run_through_the_same_five_steps(tmp_path):
        words = (
            "--run",
            "real",
            f"data.root={REAL_SCENES}",
            "data.scenes=[castle-P30]",
            "data.val_scenes=[sceaux-castle]",
            "data.samples_per_epoch=8",
            "train.epochs=1",
        )
        all_steps(tmp_path, *words)
        scores = json.loads((tmp_path / "runs" / "real" / "eval" / "scores.json").read_text())
        assert set(scores["by_group"]) == {"sceaux-castle"}
