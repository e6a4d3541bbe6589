"""One stage of a recipe in memory, without a run around it, and one real optimiser step of it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from lib.core import processes
from lib.core.records import Footprint, Manifest, Parts, Stage
from lib.network import adapters, sharding
from lib.network.frozen_features import FeatureCache
from lib.network.setup import choosing
from lib.training import loop
from lib.training.state import Training


def training(
    recipe: Any, config: Any, stage: Stage, places: dict[str, Path], manifest: Manifest, precision: str, folder: Path
) -> Training:
    """places: asset name -> folder. folder: for the cache of frozen features."""
    accelerator = processes.accelerator(precision, folder)
    parts = recipe.build(config, stage, places)
    wrapped = adapters.attach(parts)
    refuse_other_blocks(recipe.plan(config).footprint, parts)
    flags = SimpleNamespace(detect_anomaly=False)
    job = SimpleNamespace(recipe=recipe, config=config, record={"recipe": "", "config": {}}, args=flags)
    train = recipe.sampler(config, stage, manifest, "train")
    select = recipe.sampler(config, stage, choosing(manifest), "select")
    features = FeatureCache(parts, folder / "features", 1e9) if parts.frozen_features else None
    objectives = recipe.objectives(config, stage)
    return Training(
        job, stage, folder, accelerator, parts, wrapped, objectives, train, select, features, adapters.trainable(parts)
    )


def refuse_other_blocks(footprint: Footprint, parts: Parts) -> None:
    """The blocks that the plan counts are those that may be spread over processes, byte by byte."""
    found = []
    for name, patterns in parts.shard.items():
        for inner in sharding.blocks(parts.modules[name], patterns, name):
            block = parts.modules[name].get_submodule(inner)
            own = [tensor for key, tensor in block.named_parameters() if ".lora_" not in key]
            frozen = sum(tensor.nbytes for tensor in own if not tensor.requires_grad)
            found.append((frozen, sum(tensor.numel() for tensor in own if tensor.requires_grad)))
    counted = [(block.frozen, block.trained) for block in footprint.blocks]
    assert sorted(counted) == sorted(found)


def refuse_no_step(made: Training) -> None:
    """The last step of the stage is finite and moves every module that is trained, which is held in fp32."""
    before = {name: tensor.detach().clone() for name, tensor in made.tensors.items()}
    loop.set_up(made)
    made.step = made.stage.steps - 1
    record = loop.optimiser_step(made)
    assert "skipped" not in record and all(np.isfinite(value) for value in record.values())
    moved = [name for name, tensor in made.tensors.items() if not torch.equal(tensor, before[name])]
    assert {name.split(".")[0] for name in moved} == {name.split(".")[0] for name in before}
    assert all(tensor.dtype == torch.float32 for tensor in made.tensors.values())
