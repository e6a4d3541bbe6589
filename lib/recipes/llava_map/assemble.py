"""The networks of a stage: published parts, new parts drawn from the run's seed, and what of them is trained."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib.core.errors import Stop, first_line, nearest
from lib.core.hashes import checked
from lib.core.records import Batch, FrozenFeatures, Group, LoraSpec, Manifest, Objective, Parts, Sample, Stage
from lib.recipes.llava_map import causal, losses, model, published, samples
from lib.recipes.llava_map.config import Config
from lib.recipes.llava_map.language_model import (
    adapter_parameters,
    asset_name,
    hidden_width,
    lora_target,
    tokenizer_files,
)
from lib.recipes.llava_map.qformer import VIEWS

TRAINED_PARTS = ("bridge", "queries", "decoder", "interaction", "qformer")


def stages(config: Config, manifest: Manifest) -> list[Stage]:
    """Stage 2 with the language model frozen; stage 3 goes on from it with adapters, or with all of it."""
    steps = -(-len(manifest.side("train")) // config.train.global_batch)
    found: list[Stage] = []
    for name in config.train.stages:
        epochs = config.train.epochs if name == "stage2" else config.train.stage3_epochs
        found.append(Stage(name, epochs * steps, found[-1].name if found else "base"))
    return found


def build(config: Config, stage: Stage, asset_dirs: dict[str, Path]) -> Parts:
    """Everything on the CPU. What is new is drawn from train.seed: base and adapted start from the same weights."""
    modules, fingerprints = published.load(config, stage.name, asset_dirs)
    torch.manual_seed(config.train.seed)
    llm = modules.get("llm")
    modules |= model.new_parts(config, hidden_width(config, llm.config.hidden_size if llm else None))
    if config.model.qformer == "scratch":
        print("the Q-Former starts from random weights (model.qformer=scratch)")
        modules["qformer"] = model.new_qformer(config)
    full = [rf"{name}\..*" for name in TRAINED_PARTS if name in modules] + list(config.lora.full)
    adapters = {}
    if llm:
        modules["prompt"] = prompt_of(config, llm, asset_dirs)
        if stage.name == "stage3" and config.train.stage3 == "full":
            full.append(r"llm\..*")
        elif stage.name == "stage3":
            adapters["llm"] = lora(config, llm)
    for module in modules.values():
        module.eval()
    base = hashlib.sha256("".join(fingerprints).encode()).hexdigest()
    shard = {"llm": causal.parts_to_shard(llm)} if llm and config.model.llm_bits == 16 else {}
    return Parts(modules, adapters, tuple(full), frozen_features(config, modules), base, shard=shard)


class Prompt(nn.Module):
    """The instruction's token ids, the same for every sample. The first `before` of them come before the scene."""

    def __init__(self, ids: list[int], before: int, tokenizer: Path):
        super().__init__()
        self.register_buffer("ids", torch.tensor(ids, dtype=torch.long), persistent=False)
        self.before, self.tokenizer = before, tokenizer  # the folder that holds it


def prompt_of(config: Config, llm: Any, asset_dirs: dict[str, Path]) -> Prompt:
    """Beginning of sequence where the tokenizer has one, then the instruction.

    Stop where an id is not in the embedding table (the tokenizer is then another model's), or where prompt, scene and
    map queries are more than the language model takes.
    """
    folder = asset_dirs["base" if config.model.llm == "demo" else asset_name(config)]
    ids, vocabulary = prompt_ids(config, folder), llm.get_input_embeddings().num_embeddings
    if max(ids) >= vocabulary:
        raise Stop(
            f"the tokenizer in {folder} gives id {max(ids)}, but the language model has {vocabulary} words",
            "use the tokenizer of the same model",
        )
    scene = VIEWS * config.model.tokens_per_view + len(ids)
    queries = config.model.instances * (1 + config.model.points)
    causal.refuse_short_sight(llm, scene + queries, scene + 1 + config.model.points)
    return Prompt(ids, int(ids[0] == llm.config.bos_token_id), folder)


def prompt_ids(config: Config, folder: Path) -> list[int]:
    """Stop where the folder has no tokenizer, or one that gives the prompt no token."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    ids: list[int]
    for file in tokenizer_files(folder):
        checked(file)
    try:
        if (folder / "tokenizer.json").is_file():
            ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(config.prompt).ids
        else:
            ids = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)(config.prompt)["input_ids"]
    except Exception as error:  # each kind of tokenizer has its own
        raise Stop(
            f"{folder} has no tokenizer that can be read: {first_line(error)}", "bring the model's tokenizer"
        ) from error
    if not ids:
        raise Stop(f"the tokenizer in {folder} gives model.prompt no token", "set a longer model.prompt")
    return ids


# ---------------------------------------------------------------------------------------------- what is trained


def lora(config: Config, llm: nn.Module) -> LoraSpec:
    """Adapters of the language model. A bare name in lora.targets means that layer in every block.

    Stop where a target is not a linear layer of the model; its own names are said.
    """
    layers = {name: tuple(part.weight.shape) for name, part in llm.named_modules() if isinstance(part, nn.Linear)}
    targets = tuple(lora_target(target) for target in config.lora.targets)
    for target, pattern in zip(config.lora.targets, targets, strict=True):
        if not any(re.fullmatch(pattern, name) for name in layers):
            known = nearest(target, {name.rpartition(".")[2] for name in layers})
            raise Stop(
                f"lora.targets={target} is not a linear layer of {config.model.llm}: {known}", "correct lora.targets"
            )
    expected = adapter_parameters(config, layers)
    return LoraSpec(targets, config.lora.rank, config.lora.alpha, config.lora.dropout, config.lora.peft, expected)


def frozen_features(config: Config, modules: dict[str, Any]) -> FrozenFeatures | None:
    """Image tokens of the frozen encoder, kept for each frame and its mirror image."""
    if any(pattern.startswith("image") for pattern in config.lora.full):
        return None
    refused = "data.colour_jitter changes the pictures" if config.data.colour_jitter else ""

    def units(sample: Sample) -> list[str]:
        return [sample["sample_id"] + ("/mirrored" if sample["flip"] else "")]

    def compute(sample: Sample, unit: int) -> Tensor:
        device = next(modules["image"].parameters()).device
        pictures = torch.from_numpy(samples.pictures_of(sample)).to(device)[None]
        return model.image_tokens(modules["image"], pictures)[0].half()  # (6, tokens, width)

    return FrozenFeatures("image tokens", units, compute, r"image\..*", refused)


def objectives(config: Config, stage: Stage) -> list[Objective]:
    """One loss; the guide's three learning rates by module (q, m, d), and one each for what it does not name."""
    rates = {
        "q": ("qformer", config.train.lr * config.train.lr_share_qformer),
        "m": ("queries", config.train.lr),
        "d": ("decoder", config.train.lr),
        "b": ("bridge", config.train.lr),
    }
    if config.model.scene_interaction:
        rates["i"] = ("interaction", config.train.lr)
    if stage.name == "stage3":
        rates["l"] = ("llm", config.train.lr_llm)
    clip = config.train.clip or None
    elsewhere = f"(?!(?:{'|'.join(config.lora.full)})$)" if config.lora.full else ""  # those are groups of their own
    groups = [
        Group(name, rf"{elsewhere}{module}\..*", rate, config.train.weight_decay, clip=clip)
        for name, (module, rate) in rates.items()
    ]
    groups += [
        Group(f"full_{i}", pattern, config.train.lr, config.train.weight_decay, clip=clip)
        for i, pattern in enumerate(config.lora.full)
    ]
    return [Objective("map", loss(config), tuple(groups))]


def loss(config: Config) -> Callable[[Parts, Batch, int], tuple[Tensor, dict[str, Any]]]:
    weights = losses.Weights(config.loss.cls, config.loss.pts, config.loss.dir)

    def objective(parts: Parts, batch: Batch, step: int) -> tuple[Tensor, dict[str, Any]]:
        logits, points = model.detect(parts.modules, config, batch)
        with torch.autocast(points.device.type, enabled=False):  # truth, matching and losses are fp32
            half = torch.tensor(config.data.half_extent_m, device=points.device)
            truths = [
                losses.Truth(labels, (orders / half + 1) / 2)
                for labels, orders in zip(batch["labels"], batch["orders"], strict=True)
            ]
            return losses.map_loss(logits, points, truths, weights, 2 * half)

    return objective
