"""The networks of a run: strictly loaded, told what is adapted and what is frozen in front; losses; the merged export."""
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from lib import weights
from lib.errors import Stop
from lib.recipes import Batch, Group, LoraSpec, Objective, Parts, Prefix, Sample
from lib.recipes.hamer import losses, size
from lib.recipes.hamer.config import Config
from lib.recipes.hamer.critic import Discriminator
from lib.recipes.hamer.data import mano_of
from lib.recipes.hamer.mano import Mano
from lib.recipes.hamer.model import HaMeR

LICENSED = (r"mano\..*", r"initialized")  # smplx's buffers hold MANO itself: never loaded from a checkpoint, never saved
CRITIC = r"discriminator\..*"
CONVERTED = "base.safetensors"
SUFFIXES = (".safetensors", ".ckpt", ".pth", ".pt")


def groundwork(config: Config, where: dict[str, Path], cache: Path) -> Path | None:
    """A folder with the checkpoint as safetensors and without MANO's arrays: a pickle is read once. None: it is no pickle."""
    source = weight_file(config, where["base"])
    if source.suffix == ".safetensors":
        return None
    status = source.stat()
    made_from = f"{source.name} {status.st_size} {status.st_mtime_ns}"
    folder = cache / f"base-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}"
    weights.convert(source, folder / CONVERTED, without=LICENSED)
    return folder


def build(config: Config, where: dict[str, Path]) -> Parts:
    """The base on the CPU, every tensor matched. With `loss.adversarial` the critic is built as well and trained in full."""
    mano = Mano(mano_of(config, where))
    source = where["groundwork"] / CONVERTED if "groundwork" in where else weight_file(config, where["base"])
    with torch.device("meta"):
        network = HaMeR(config.model, mano)
    loaded = load(config, network, source)
    network.eval().checkpointing = config.train.checkpointing
    modules, full = {"hamer": network}, size.fully_trained(config)
    if config.loss.adversarial:
        modules["discriminator"] = critic(config, source)
        full += (CRITIC,)
    return Parts(modules, lora(config), full, prefix(config, network), loaded.fingerprint, source)


def weight_file(config: Config, folder: Path) -> Path:
    if config.model.checkpoint:
        return folder / Path(config.model.checkpoint).name
    found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if len(found) != 1:
        raise Stop(f"{folder} holds {len(found)} checkpoints instead of one", "set model.checkpoint to the file")
    return found[0]


def load(config: Config, network: HaMeR, source: Path) -> weights.Loaded:
    """hamer.ckpt whole, or ViTPose's backbone below a head that starts at the mean hand."""
    if config.model.init != "vitpose":
        return weights.load_strict(network, source, ignore=(*LICENSED, CRITIC), dtype=torch.float32)
    loaded = weights.load_strict(network.backbone, backbone_tensors(source), ignore=(r"keypoint_head\..*",), dtype=torch.float32)
    torch.manual_seed(config.train.seed)
    fresh = type(network.mano_head)(config.model)
    for readout in (fresh.decpose, fresh.decshape, fresh.deccam):
        torch.nn.init.xavier_uniform_(readout.weight, gain=0.01)
    network.mano_head = fresh
    return loaded


def backbone_tensors(source: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in weights.tensors(source):
        yield name.removeprefix("backbone."), tensor


def critic(config: Config, source: Path) -> Discriminator:
    """The checkpoint's critic; a file without one gets a new one."""
    torch.manual_seed(config.train.seed)
    module = Discriminator()
    found = ((name.removeprefix("discriminator."), tensor) for name, tensor in weights.tensors(source) if name.startswith("discriminator."))
    if any(name.startswith("discriminator.") for file in weights.shards(source).values() for name in file):
        weights.load_strict(module, found)
    return module


def lora(config: Config) -> dict[str, LoraSpec]:
    targets = size.targets(config)
    if not targets:
        return {}
    expected = None if size.fully_trained(config) else size.adapter_numbers(config)
    return {"hamer": LoraSpec(targets, config.lora.rank, config.lora.alpha, config.lora.dropout, config.lora.peft, expected)}


# ---------------------------------------------------------------------------------------------- the frozen front


def prefix(config: Config, network: HaMeR) -> Prefix | None:
    """The patch embedding and the blocks before the first adapter, once per crop."""
    blocks = size.frozen_blocks(config)
    if blocks <= 0:
        return None
    frozen = rf"hamer\.backbone\.(patch_embed\..*|pos_embed|blocks\.({'|'.join(map(str, range(blocks)))})\..*)"
    refused = "data.augment changes the crop in every epoch" if config.data.augment else ""
    compute = lambda sample, unit: front(network, sample, blocks)
    return Prefix(f"first {blocks} blocks", lambda sample: [sample["sample_id"]], compute, frozen, refused)


def front(network: HaMeR, sample: Sample, blocks: int) -> torch.Tensor:
    """(n, width)"""
    crop = torch.as_tensor(sample["image"]).to(network.backbone.pos_embed.device)
    return network.front(crop[None], blocks)[0]


def forward(config: Config, parts: Parts, batch: Batch) -> dict[str, torch.Tensor]:
    network = parts.modules["hamer"]
    if "prefix" not in batch:
        return network(batch["image"])
    return network.finish(batch["prefix"][:, 0].to(batch["image"].device), size.frozen_blocks(config))


# ---------------------------------------------------------------------------------------------- objectives


def objectives(config: Config) -> list[Objective]:
    """Fine-tuning; with `loss.adversarial` also the critic, with its own optimiser, as in HaMeR."""
    fit = Objective("hand", fitting(config), (Group("hamer", r"hamer\..*", config.train.lr, config.train.weight_decay),))
    if not config.loss.adversarial:
        return [fit]
    return [fit, Objective("critic", judging(config), (Group("critic", CRITIC, config.loss.critic_lr, config.train.weight_decay),))]


def labels_of(batch: Batch) -> dict[str, torch.Tensor]:
    global_orient, hand_pose = losses.matrices(batch["pose"])
    names = ("keypoints_2d", "keypoints_3d", "betas", "has_pose", "has_betas")
    return {name: batch[name] for name in names} | {"global_orient": global_orient, "hand_pose": hand_pose}


def fitting(config: Config) -> Callable[[Parts, Batch, int], tuple[torch.Tensor, dict[str, Any]]]:
    def loss(parts: Parts, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, Any]]:
        prediction = forward(config, parts, batch)
        with torch.autocast(batch["image"].device.type, enabled=False):
            terms = losses.terms(prediction, labels_of(batch))
            if config.loss.adversarial:
                terms["adversarial"] = losses.fooling(parts.modules["discriminator"](prediction["hand_pose"], prediction["betas"]))
            return losses.total(terms, config.loss).mean(), {f"loss_{name}": value.detach().mean() for name, value in terms.items()}

    return loss


def judging(config: Config) -> Callable[[Parts, Batch, int], tuple[torch.Tensor, dict[str, Any]]]:
    def loss(parts: Parts, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, Any]]:
        if "real_pose" not in batch:
            raise Stop("loss.adversarial needs real hands, but no training hand has pose and shape", "set loss.adversarial=0")
        with torch.no_grad():
            fake = forward(config, parts, batch)
        with torch.autocast(batch["image"].device.type, enabled=False):
            module = parts.modules["discriminator"]
            real = module(losses.matrices(batch["real_pose"].flatten(0, 1))[1], batch["real_betas"].flatten(0, 1))
            value = losses.judging(module(fake["hand_pose"], fake["betas"]), real)
            return config.loss.adversarial * value, {"loss_critic": value.detach()}

    return loss


# ---------------------------------------------------------------------------------------------- export


def export(parts: Parts, out: Path) -> None:
    """One safetensors file with the base's keys; MANO's arrays are in no state dict of ours, so they cannot be in it."""
    from safetensors.torch import save_file

    from lib.run import atomic

    tensors = dict(parts.modules["hamer"].state_dict())
    for name, module in parts.modules.items():
        tensors |= {f"{name}.{key}": value for key, value in module.state_dict().items()} if name == "discriminator" else {}
    with atomic(out / "hamer.safetensors") as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
