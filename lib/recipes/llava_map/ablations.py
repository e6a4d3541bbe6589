"""What of the score hangs on the pictures, on the prompt and on the language model (eval.ablations).

Each is taken from a trained network while it is scored, and nothing is trained again: what the network has learnt to
rely on is missed. A network that was trained without the language model is the preset no_llm.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from lib.core.records import Batch, Parts
from lib.recipes.llava_map.arrays import read_pictures
from lib.recipes.llava_map.config import Config

WORDS = {
    "mAP_other_pictures": "with the pictures of another scene",
    "mAP_shuffled_prompt": "with the words of the prompt shuffled",
    "mAP_past_llm": "where the map queries pass the language model by",
}
NAMES = tuple(WORDS)

Given = tuple[dict[str, Any], Batch]  # networks, batch


def other_pictures(modules: dict[str, Any], batch: Batch) -> Given:
    pictures = np.stack([read_pictures(Path(folder)) for folder in batch["other_folder"]])
    shown = torch.from_numpy(pictures).to(batch["intrinsics"].device)
    return modules, {name: value for name, value in batch.items() if name != "frozen_features"} | {"pictures": shown}


def shuffled_prompt(modules: dict[str, Any], batch: Batch) -> Given:
    prompt = modules["prompt"]
    order = torch.randperm(len(prompt.ids), generator=torch.Generator().manual_seed(0)).to(prompt.ids.device)
    return modules | {"prompt": SimpleNamespace(ids=prompt.ids[order], before=prompt.before)}, batch


def past_llm(modules: dict[str, Any], batch: Batch) -> Given:
    return {name: module for name, module in modules.items() if name != "llm"}, batch


TAKEN: dict[str, Callable[[dict[str, Any], Batch], Given]] = dict(
    zip(NAMES, (other_pictures, shuffled_prompt, past_llm), strict=True)
)


def given(config: Config, parts: Parts, batch: Batch) -> Iterator[tuple[str, Parts, Batch]]:
    """(name, networks, batch) of each ablation; nothing where none is asked for, or while a checkpoint is chosen."""
    if not config.eval.ablations or not all(batch["ablated"]):
        return
    for name, take in TAKEN.items():
        if "llm" in parts.modules or name == NAMES[0]:
            modules, changed = take(dict(parts.modules), batch)
            yield name, Parts(modules), changed


def said(metrics: dict[str, Any]) -> list[str]:
    """Lines of the table; none where no ablation was asked for."""
    return [f"mAP {metrics[name]['adapted']:.3f} {words}" for name, words in WORDS.items() if name in metrics]
