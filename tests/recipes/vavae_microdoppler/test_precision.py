"""Every preset takes real optimiser steps in fp32 and in bf16 (the CPU has autocast too), and what measures a network
does not depend on the precision: the untouched base scores alike.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from lib import recipes
from lib.core.config import from_dotted
from lib.core.records import Manifest, Stage
from lib.core.run import read_json
from lib.data import prepared as arrays
from lib.data import split as splitting
from lib.network import scoring
from lib.recipes.vavae_microdoppler import data, membership, metrics, stand_in
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.dit import flow, judge
from lib.recipes.vavae_microdoppler.dit import objectives as dit_objectives
from lib.recipes.vavae_microdoppler.dit.judge import Judge
from lib.recipes.vavae_microdoppler.lpips import Perceptual
from lib.recipes.vavae_microdoppler.presets import DEMO, PRESETS, TINY
from lib.training import loop
from lib.training.state import Training
from tests import one_step, reload_adapter

pytestmark = [pytest.mark.usefixtures("new_precision"), pytest.mark.long]
RECIPE = recipes.load("vavae_microdoppler")
SMALL = DEMO | TINY | {"train.micro_batch": 2, "train.global_batch": 2, "eval.batch": 2, "dit.sampling_steps": 2}
# Stated tolerances of the untouched base: bf16 keeps 8 bits. Shares are of four test images, of which one may change.
PSNR_DB, SHARE, RELATIVE = 0.05, 0.26, {"three_stages": 0.01, "dit_lora": 0.06}  # guided sampling adds rounding up
SHARES = ("user_accuracy", "user_probe", "precision", "recall")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Manifest:
    """Six images of each of two simulated users, of three recordings, on three sides."""
    root, out = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("prepared")
    stand_in.make(root, stand_in.Walks(users=2, recordings=3, windows=2, side_px=64, difference=0.7))
    config = from_dotted(Config, SMALL)
    records = list(data.prepare(config, {"data": root}, out))
    splitting.apply(records, membership.split(config, records, out), 42)
    for record in records:
        record.columns["label"] = str(record.columns["label"])
    arrays.note(out, lambda: None)
    return Manifest(records, out)


def laid(config: Config, manifest: Manifest, folder: Path) -> tuple[Stage, dict[str, Path], Manifest]:
    """The first stage, its assets, and the manifest with its inputs."""
    stage = RECIPE.stages(config, manifest)[0]
    places = {asset.name: Path(asset.source) for asset in RECIPE.assets(config) if asset.kind == "shipped"}
    inputs = RECIPE.stage_inputs(config, stage, manifest, places, None, folder, lambda: None)
    if inputs is None:
        return stage, places, manifest
    return stage, places | {"stage_inputs": inputs}, Manifest(manifest.records, manifest.arrays, inputs)


def training(preset: str, precision: str, prepared: Manifest, folder: Path, **settings) -> Training:
    """The first stage of a preset in memory, without a run around it."""
    config = from_dotted(Config, PRESETS[preset] | SMALL | settings)
    stage, places, manifest = laid(config, prepared, folder)
    return one_step.training(RECIPE, config, stage, places, manifest, precision, folder)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_takes_real_steps(preset, precision, prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(judge, "STEPS", 4)
    made = training(preset, precision, prepared, tmp_path)
    one_step.refuse_no_step(made)  # the critic is listened to by then


def base_scores(preset: str, precision: str, prepared: Manifest, folder: Path) -> dict[str, float]:
    """Of the untouched base on the test side, without classifiers that learn for four steps."""
    made = training(preset, precision, prepared, folder, **{"eval.utility": False})
    sampler = RECIPE.sampler(made.job.config, made.stage, prepared_with(made, prepared, folder), "test")
    for module in made.parts.modules.values():
        module.requires_grad_(False)
    indices = list(range(sampler.length))
    found = scoring.rows(
        RECIPE, made.job.config, made.stage, made.parts, sampler, indices, made.accelerator, made.feature_cache
    )
    AcceleratorState._reset_state(reset_partial_state=True)
    return RECIPE.summarise(made.job.config, made.stage, found)


def prepared_with(made: Training, prepared: Manifest, folder: Path) -> Manifest:
    return laid(made.job.config, prepared, folder)[2]


@pytest.mark.parametrize("preset", RELATIVE)
def test_the_base_scores_alike_in_half_precision(preset, prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(judge, "STEPS", 4)
    full, half = (base_scores(preset, precision, prepared, tmp_path) for precision in ("fp32", "bf16"))
    for name, value in full.items():
        absolute = PSNR_DB if "psnr" in name else SHARE if name in SHARES else 2e-3
        assert half[name] == pytest.approx(value, abs=absolute, rel=RELATIVE[preset], nan_ok=True), name
    assert full != half  # autocast was on


def test_all_five_steps_run_in_bf16(step, folder, monkeypatch):
    """Both kinds of stage; features of the vision network are kept in half, which CPU autocast does not stack."""
    monkeypatch.setattr(judge, "STEPS", 4)
    words = ("--recipe", "vavae_microdoppler", "--demo", "train.stages=[single,dit]", "train.precision=bf16")
    small = [f"{key}={value}" for key, value in (TINY | {"data.stand_in_users": 2, "train.dit_share": 1}).items()]
    for number in range(1, 6):
        assert (
            step(number, *((*words, *small, "eval.resamples=20", "dit.sampling_steps=2") if number == 1 else ())) == 0
        )
    scores = read_json(folder / "eval" / "scores.json")
    assert scores["stage"] == "dit" and np.isfinite(scores["metrics"]["frechet_decoded"]["adapted"])


def test_the_exported_adapter_of_the_dit_with_its_own_table_and_head_is_what_was_scored(step, folder, monkeypatch):
    """Adapters in the trunk; class table, last layer and here a norm are trained fully and travel in a second file."""
    monkeypatch.setattr(judge, "STEPS", 4)
    words = ("--recipe", "vavae_microdoppler", "--preset", "dit_lora", "--demo", "train.precision=fp32")
    small = TINY | {"data.stand_in_users": 2, "train.dit_share": 1, "dit.sampling_steps": 2}
    small |= {"eval.figures": 0, "eval.resamples": 20, "eval.utility": False}
    settings = [f"{key}={value}" for key, value in small.items()]
    for number in range(1, 6):
        words_of_step = (*words, *settings, r"lora.full=['dit\.blocks\.0\.norm1\..*']") if number == 1 else ()
        assert step(number, *words_of_step) == 0
    assert step(5, "--export", "adapter") == 0
    reload_adapter.refuse_other_outputs(folder.name)


def watched(monkeypatch, owner: Any, name: str) -> list[tuple[bool, torch.dtype]]:
    """(autocast was on, dtype of the first argument) of every call of a function from now on."""
    seen, plain = [], getattr(owner, name)

    def watching(*given, **named):
        seen.append((torch.is_autocast_enabled("cpu"), next(one for one in given if torch.is_tensor(one)).dtype))
        return plain(*given, **named)

    monkeypatch.setattr(owner, name, watching)
    return seen


@pytest.mark.parametrize(("preset", "measuring"), [
    ("three_stages", [(metrics, "ssim"), (metrics, "mse"), (torch, "cosine_similarity"), (Perceptual, "features")]),
    ("dit_scratch_s", [(torch, "cdist"), (Judge, "forward")]),
])  # fmt: skip
def test_what_measures_runs_in_fp32_outside_autocast(preset, measuring, prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(judge, "STEPS", 4)
    seen = {name: watched(monkeypatch, owner, name) for owner, name in measuring}
    base_scores(preset, "bf16", prepared, tmp_path)
    assert all(calls and set(calls) <= {(False, torch.float32), (False, torch.bool)} for calls in seen.values()), seen


def test_the_loss_of_velocities_is_computed_in_fp32(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(judge, "STEPS", 4)
    seen = [watched(monkeypatch, owner, name) for owner, name in (
        (flow, "path"), (flow, "velocity_losses"), (dit_objectives, "contrastive"),
    )]  # fmt: skip
    made = training("dit_scratch_s", "bf16", prepared, tmp_path, **{"loss.contrastive": 0.3})
    loop.set_up(made)
    loop.optimiser_step(made)
    assert all(calls and set(calls) == {(False, torch.float32)} for calls in seen)
