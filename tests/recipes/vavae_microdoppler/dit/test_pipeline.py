"""From raw images to samples: papermill begins the chain and ends it, and every stage is interrupted once."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import torch
from safetensors.torch import load_file

from lib import api
from lib.core.errors import Stop
from lib.core.run import SCRIPTS, read_log
from lib.recipes.vavae_microdoppler.autoencoder.model import build_autoencoder, from_published
from lib.recipes.vavae_microdoppler.config import Config
from tests.test_pipeline import ROOT

pytestmark = pytest.mark.long

STAGES = ("align", "reconstruct", "margin", "dit")
SETTINGS = (
    "train.stages=[align,reconstruct,margin,dit] train.plan=deep train.epochs=6 train.reconstruct_share=1 "
    "train.margin_share=1 train.dit_share=2 train.evaluate_epochs=20 data.stand_in_users=2 data.stand_in_windows=1 "
    "train.global_batch=2 train.micro_batch=2 eval.resamples=20 dit.sampling_steps=4 model.dit_depth=2 "
    "session.reserve_seconds=0 eval.utility=false"
)
RUN = "chain"


def begin(root: Path, *command: str) -> subprocess.Popen:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PIPELINE_")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, *command], cwd=root, env=kept | {"PIPELINE_SCALE": "tiny"}, **pipes)


def papermill(root: Path, stage: str = "") -> str:
    """One run of the notebook; with a stage, its training is interrupted after its first step. What cells printed."""
    source, out = ROOT / "notebooks" / "pipeline.ipynb", root / "executed.ipynb"
    words = {"recipe": "vavae_microdoppler", "preset": "three_stages", "run": RUN, "overrides": SETTINGS}
    given = [word for name, value in (words | {"root": str(root)}).items() for word in ("-r", name, value)]
    child = begin(root, "-m", "papermill", str(source), str(out), "--cwd", str(ROOT), *given)
    if stage:
        interrupt(child, stage, root)
    said = child.communicate(timeout=300)[0]
    assert child.returncode == 0, said[-3000:]
    cells = nbformat.read(out, as_version=4).cells
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))


def step_4(root: Path, stage: str) -> str:
    """Step 4 alone, interrupted after the first step of a stage; what it printed."""
    child = begin(root, str(ROOT / SCRIPTS[4]), "--run", RUN)
    interrupt(child, stage, root)
    said = child.communicate(timeout=300)[0]
    assert child.returncode == 75, said[-3000:]
    return said


def interrupt(child: subprocess.Popen, stage: str, root: Path) -> None:
    log = root / "runs" / RUN / "train" / stage / "log.jsonl"
    while child.poll() is None and not any("loss_objective" in record for record in read_log(log)):
        time.sleep(0.05)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            ours = b"step4_train.py" in (process / "cmdline").read_bytes() and (process / "cwd").readlink() == root
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        if ours:
            os.kill(int(process.name), signal.SIGINT)


def test_the_whole_chain_interrupted_once_in_every_stage(tmp_path):
    first, *others = STAGES
    said = papermill(tmp_path, first)
    assert "Paused" in said and f"steps of stage {first}" in said and "step 5" not in said
    for stage in others:
        assert f"steps of stage {stage}" in step_4(tmp_path, stage)
    said = papermill(tmp_path)
    folder = tmp_path / "runs" / RUN
    for stage in STAGES:
        log, done = read_log(folder / "train" / stage / "log.jsonl"), folder / "train" / stage / "done.json"
        taken, done = [record["step"] for record in log if "loss_objective" in record], json.loads(done.read_text())
        assert taken == list(range(1, done["steps"] + 1))
    assert "step 5 (evaluate): done" in said and "going on from step-" in said
    scores = json.loads((folder / "eval" / "scores.json").read_text())
    assert (scores["stage"], scores["main"]["metric"]) == ("dit", "frechet_decoded")
    assert scores["comparison"] == "random_init"
    assert (folder / "figures" / "generated_by_user.png").stat().st_size > 0
    check_that_the_adapted_autoencoder_made_the_latents(tmp_path)
    check_that_python_draws_each_user(folder)


def check_that_the_adapted_autoencoder_made_the_latents(root: Path) -> None:
    """What the stage margin left is what encodes and decodes, and it is not the base."""
    [latents] = (root / "cache").glob("latents-*")
    run = json.loads((root / "runs" / RUN / "run.json").read_text())["config"]
    model = {key.removeprefix("model."): value for key, value in run.items() if key.startswith("model.")}
    network = build_autoencoder(type(Config().model)(**model).autoencoder)
    best = json.loads((root / "runs" / RUN / "train" / "margin" / "best.json").read_text())["step"]
    trained = load_file(root / "runs" / RUN / "train" / "margin" / f"step-{best:06}" / "weights.safetensors")
    used = from_published(load_file(latents / "autoencoder.safetensors"), network)
    assert all(torch.equal(tensor, trained[f"autoencoder.{name}"]) for name, tensor in used.items())


def check_that_python_draws_each_user(folder: Path) -> None:
    """The page's line: images of a user, the same ones however many are asked for."""
    diffusion = api.load(folder).adapted
    one, other = diffusion.users
    drawn = diffusion.sample(one, 3)
    assert drawn.shape[:2] == (3, 3) and drawn.isfinite().all() and drawn.std() > 0
    torch.testing.assert_close(diffusion.sample(one, 1), drawn[:1], rtol=0, atol=1e-4)
    assert not torch.allclose(drawn[0], drawn[1], atol=1e-2)
    assert not torch.equal(diffusion.sample(other, 1), drawn[:1])
    with pytest.raises(Stop, match="nobody"):
        diffusion.sample("nobody", 1)
