"""bf16 on the CPU: the network is rounded, and truth, matching, losses and scores are not."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lib import recipes
from lib.core.config import compose
from lib.core.order import Key
from lib.core.records import Stage
from lib.core.run import read_json, read_log
from lib.recipes.llava_map import assemble, losses, metrics, model, samples
from tests import one_step
from tests.recipes.llava_map.language_models import write

STAGE2 = Stage("stage2", 1)
# Stated tolerances of the untouched base, whose logits spread over 0.6 and whose points over 60 m.
LOGIT, POINT_M, LOSS = 0.05, 0.25, 0.01


def bf16():
    return torch.autocast("cpu", dtype=torch.bfloat16)


def batch_of(config, manifest, count: int = 2) -> dict:
    sampler = samples.sampler(config, STAGE2, manifest, "train")
    return samples.collate(config, STAGE2, [sampler.draw(i, Key(0, 0, i)) for i in range(count)])


def moving(parts) -> None:
    """Offsets of the decoder start at zero, and points that cannot move cannot differ."""
    torch.manual_seed(5)
    for layer in parts.modules["decoder"].layers:
        torch.nn.init.normal_(layer.offset[-1].weight, std=0.05)


@pytest.mark.parametrize("llm", ["demo", "none", "qwen2"])
def test_base_in_bf16_is_the_base_of_fp32_within_the_tolerance(llm, config, base, manifest, tmp_path):
    if llm == "qwen2":
        llm = str(write(tmp_path, llm, base / "tokenizer.json", torch.bfloat16))
    config.model.llm, config.model.scene_interaction = llm, llm == "none"
    parts = assemble.build(config, STAGE2, {"base": base, "llm": tmp_path})
    moving(parts)
    batch = batch_of(config, manifest)
    with torch.no_grad():
        logits, points = model.detect(parts.modules, config, batch)
        wanted, _ = assemble.loss(config)(parts, batch, 0)
        with bf16():
            rounded_logits, rounded_points = model.detect(parts.modules, config, batch)
            found, _ = assemble.loss(config)(parts, batch, 0)
    extent_m = 2 * torch.tensor(config.data.half_extent_m)
    assert 0 < (rounded_logits - logits).abs().max() < LOGIT
    assert 0 < ((rounded_points - points) * extent_m).abs().max() < POINT_M
    assert float(found) == pytest.approx(float(wanted), rel=LOSS)


def test_losses_are_outside_autocast_and_in_fp32(config, base, manifest, monkeypatch):
    """Truth, matching and losses; what autocast rounds differs from version to version."""
    seen, plain = [], losses.map_loss

    def watched(logits, points, truths, *arguments):
        seen.append((torch.is_autocast_enabled("cpu"), logits.dtype, points.dtype, truths[0].orders.dtype))
        return plain(logits, points, truths, *arguments)

    monkeypatch.setattr(losses, "map_loss", watched)
    parts = assemble.build(config, STAGE2, {"base": base})
    with bf16():
        total, _ = assemble.loss(config)(parts, batch_of(config, manifest), 0)
    assert seen == [(False, torch.float32, torch.float32, torch.float32)] and total.dtype == torch.float32


def test_scores_are_outside_autocast_and_in_fp64(monkeypatch):
    seen, plain = [], torch.cdist

    def watched(one, other, **named):
        seen.append((torch.is_autocast_enabled("cpu"), one.dtype, other.dtype))
        return plain(one, other, **named)

    monkeypatch.setattr(torch, "cdist", watched)
    curve = np.stack([np.linspace(-3, 3, 12), np.linspace(-20, 20, 12)], axis=1)
    with bf16():
        similarities = metrics.similarity([curve], [curve + 0.25])
    assert seen == [(False, torch.float64, torch.float64)] and -1 < similarities[0, 0] < 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("preset", ["stage2", "stage3_lora", "stage3_full", "no_llm"])  # stage2_scratch_lr: other rates
def test_every_kind_of_preset_takes_a_real_step(preset, precision, manifest, tmp_path, new_precision):
    """Of its last stage, from the shipped base, whose language model stage3_full trains."""
    recipe = recipes.load("llava_map")
    config = compose(recipe, preset, True, "tiny", {"train.micro_batch": 2, "train.global_batch": 2})[0]
    places = {"base": Path(assemble.__file__).parent / "demo"}
    stage = assemble.stages(config, manifest)[-1]
    one_step.refuse_no_step(one_step.training(recipe, config, stage, places, manifest, precision, tmp_path))


def test_all_five_steps_run_in_bf16(step, world, folder, new_precision):
    """Image tokens are kept in half, which CPU autocast in bf16 does not stack; the base's scores are numbers."""
    words = ("--recipe", "llava_map", "--preset", "stage3_lora", "--demo", f"data.root={world}", "train.precision=bf16")
    short = ("train.epochs=1", "train.stage3_epochs=1", "eval.resamples=20", "eval.figures=0", "data.overlays=0")
    for number in range(1, 6):
        assert step(number, *(words + short if number == 1 else ())) == 0
    for stage in ("stage2", "stage3"):
        terms = [
            record["loss_total"]
            for record in read_log(folder / "train" / stage / "log.jsonl")
            if "loss_total" in record
        ]
        assert terms and np.isfinite(terms).all()
    assert 0 <= read_json(folder / "eval" / "scores.json")["metrics"]["mAP"]["base"] < 0.02  # as in fp32: untrained
