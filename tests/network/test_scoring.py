"""The noise that a sample is scored with is its own: neither batch nor process changes what a checkpoint is worth."""

from types import SimpleNamespace

import pytest
import torch

from lib.core.errors import Stop
from lib.core.records import Row, Sampler, Stage
from lib.network import scoring

STAGE = Stage("adapt", 1)


def recipe(draw) -> SimpleNamespace:
    """Scores a sample by the first of the numbers that `draw` gives for a batch."""

    def score_batch(config, stage, parts, batch):
        return [Row(name, "g", {"score": float(one[0])}) for name, one in zip(batch["name"], draw(batch), strict=True)]

    def collate(config, stage, samples):
        return {"name": [sample["sample_id"] for sample in samples]}

    return SimpleNamespace(name="noisy", score_batch=score_batch, collate=collate)


def scores(draw, indices: list[int], batch: int = 1) -> dict[str, float]:
    from accelerate import Accelerator

    config = SimpleNamespace(eval=SimpleNamespace(batch=batch), train=SimpleNamespace(seed=0))
    sampler = Sampler(7, lambda index, key: {"sample_id": f"s{index}"})
    found = scoring.rows(recipe(draw), config, STAGE, None, sampler, indices, Accelerator(cpu=True))
    return {row.sample_id: row.numbers["score"] for row in found}


def test_a_sample_has_the_same_noise_in_every_batch_and_on_every_process():
    def draw(batch):
        return scoring.noise(batch, 4, 4).flatten(1)

    alone = scores(draw, list(range(7)))
    assert len(set(alone.values())) == 7
    assert scores(draw, list(range(7)), batch=3) == alone == scores(draw, [0, 2, 4, 6], 2) | scores(draw, [1, 3, 5], 2)
    torch.manual_seed(5)
    assert alone["s5"] == float(torch.randn(1, 4, 4)[0, 0, 0])  # what a batch of one was scored with before


def test_a_recipe_that_draws_from_the_shared_generator_stops():
    with pytest.raises(Stop, match="the recipe noisy scores with random numbers of its own accord"):
        scores(lambda batch: torch.randn(len(batch["name"]), 4), [0, 1])
