"""The networks of a run: strictly loaded, told what is adapted and what is frozen in front; losses; merged export."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lib.core.errors import Stop
from lib.core.records import Batch, FrozenFeatures, Group, LoraSpec, Manifest, Objective, Parts, Sample, Stage
from lib.core.run import atomic
from lib.network import weights
from lib.recipes.hamer import losses, size
from lib.recipes.hamer.base import base
from lib.recipes.hamer.config import Config
from lib.recipes.hamer.critic import Discriminator
from lib.recipes.hamer.data import mano_of, taught
from lib.recipes.hamer.geometry import hand_rotations
from lib.recipes.hamer.mano import Mano
from lib.recipes.hamer.model import HaMeR

# smplx's buffers hold MANO itself: never loaded from a checkpoint, never saved
LICENSED = (r"mano\..*", r"initialized")
CRITIC = r"discriminator\..*"
CONVERTED = "base.safetensors"
BLOCKS = (r"backbone\.blocks\.\d+",)

Loss = Callable[[Parts, Batch, int], tuple[torch.Tensor, dict[str, Any]]]


def stages(config: Config, manifest: Manifest) -> list[Stage]:
    steps_per_epoch = -(-len(taught(manifest)) // config.train.global_batch)
    return [Stage("adapt", config.train.epochs * steps_per_epoch)]


def stage_inputs(
    config: Config,
    stage: Stage,
    manifest: Manifest,
    asset_dirs: dict[str, Path],
    earlier: tuple[Stage, Path] | None,
    cache: Path,
    pause: Callable[[], None],
) -> Path | None:
    """A folder with the checkpoint as safetensors and without MANO's arrays, so that a pickle is read once.

    None: the checkpoint is not a pickle.
    """
    source = weight_file(config, asset_dirs["base"])
    if source.suffix == ".safetensors":
        return None
    status = source.stat()
    made_from = f"{source.name} {status.st_size} {status.st_mtime_ns}"
    folder = cache / f"base-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}"
    weights.convert(source, folder / CONVERTED, without=LICENSED)
    return folder


def build(config: Config, stage: Stage, asset_dirs: dict[str, Path]) -> Parts:
    """The base on the CPU, every tensor matched.

    With `loss.adversarial` the critic is built as well and trained in full. Stop: a tensor that is missing, unknown or
    of another shape, or no checkpoint.
    """
    mano = Mano(mano_of(config, asset_dirs))
    converted = asset_dirs.get("stage_inputs")
    source = converted / CONVERTED if converted else weight_file(config, asset_dirs["base"])
    with torch.device("meta"):
        network = HaMeR(config.model, mano)
    loaded = load(config, network, source)
    network.eval().gradient_checkpointing = config.train.gradient_checkpointing
    modules: dict[str, Any] = {"hamer": network}
    full = size.fully_trained(config)
    if config.loss.adversarial:
        modules["discriminator"] = critic(config, source)
        full += (CRITIC,)
    features, shard = frozen_features(config, network), {"hamer": BLOCKS}
    return Parts(modules, lora(config), full, features, loaded.fingerprint, source, shard=shard)


def weight_file(config: Config, folder: Path) -> Path:
    """The file that step 2 recorded, whatever else lies beside it. Stop: it is not there."""
    [name] = base(config).files
    if not (folder / name).is_file():
        raise Stop(f"{folder} does not hold {name}", "python step2_download.py, or set model.checkpoint to the file")
    return folder / name


def load(config: Config, network: HaMeR, source: Path) -> weights.Loaded:
    """hamer.ckpt whole, or ViTPose's backbone below a head that starts at the mean hand."""
    if config.model.init != "vitpose":
        return weights.load_strict(network, source, ignore=(*LICENSED, CRITIC), dtype=torch.float32, shard=BLOCKS)
    stored = backbone_tensors(source)
    loaded = weights.load_strict(network.backbone, stored, ignore=(r"keypoint_head\..*",), dtype=torch.float32)
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
    if any(name.startswith("discriminator.") for names in weights.shards(source).values() for name in names):
        weights.load_strict(module, critic_tensors(source))
    return module


def critic_tensors(source: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in weights.tensors(source):
        if name.startswith("discriminator."):
            yield name.removeprefix("discriminator."), tensor


def lora(config: Config) -> dict[str, LoraSpec]:
    targets, chosen = size.targets(config), config.lora
    if not targets:
        return {}
    expected = None if size.fully_trained(config) else size.adapter_parameters(config)
    return {"hamer": LoraSpec(targets, chosen.rank, chosen.alpha, chosen.dropout, chosen.peft, expected)}


# ---------------------------------------------------------------------------------------------- the frozen front


def frozen_features(config: Config, network: HaMeR) -> FrozenFeatures | None:
    """The patch embedding and the blocks before the first adapter, once per crop."""
    blocks = size.frozen_blocks(config)
    if blocks <= 0:
        return None
    frozen = rf"hamer\.backbone\.(patch_embed\..*|pos_embed|blocks\.({'|'.join(map(str, range(blocks)))})\..*)"
    refused = "data.augment changes the crop in every epoch" if config.data.augment else ""
    return FrozenFeatures(
        f"first {blocks} blocks",
        lambda sample: [sample["sample_id"]],
        lambda sample, unit: front(network, sample, blocks),
        frozen,
        refused,
    )


def front(network: HaMeR, sample: Sample, blocks: int) -> torch.Tensor:
    """What the frozen blocks make of one sample's image, (n, width)."""
    crop = torch.as_tensor(sample["image"]).to(network.backbone.pos_embed.device)
    return network.front(crop[None], blocks)[0]


def forward(config: Config, parts: Parts, batch: Batch) -> dict[str, torch.Tensor]:
    """What HaMeR.decode gives for a batch, from its images or from what the frozen blocks made of them."""
    network = parts.modules["hamer"]
    if "frozen_features" not in batch:
        return network(batch["image"])
    tokens = batch["frozen_features"][:, 0].to(batch["image"].device).float()  # the stream between blocks is fp32
    return network.finish(tokens, size.frozen_blocks(config))


# ---------------------------------------------------------------------------------------------- objectives


def objectives(config: Config, stage: Stage) -> list[Objective]:
    """Fine-tuning; with `loss.adversarial` also the critic, with its own optimiser, as in HaMeR."""
    decay = config.train.weight_decay
    found = [Objective("hand", fitting(config), (Group("hamer", r"hamer\..*", config.train.lr, decay),))]
    if config.loss.adversarial:
        group = Group("critic", CRITIC, config.loss.critic_lr, decay)
        found.append(Objective("critic", discriminator_loss(config), (group,)))
    return found


def labels_of(batch: Batch) -> dict[str, torch.Tensor]:
    global_orient, hand_pose = hand_rotations(batch["pose"])
    names = ("keypoints_2d", "keypoints_3d", "betas", "has_pose", "has_betas")
    return {name: batch[name] for name in names} | {"global_orient": global_orient, "hand_pose": hand_pose}


def fitting(config: Config) -> Loss:
    def loss(parts: Parts, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, Any]]:
        prediction = forward(config, parts, batch)
        with torch.autocast(batch["image"].device.type, enabled=False):
            terms = losses.terms(prediction, labels_of(batch))
            if config.loss.adversarial:
                scores = parts.modules["discriminator"](prediction["hand_pose"], prediction["betas"])
                terms["adversarial"] = losses.generator_loss(scores)
            logged = {f"loss_{name}": value.detach().mean() for name, value in terms.items()}
            return losses.total(terms, config.loss).mean(), logged

    return loss


def discriminator_loss(config: Config) -> Loss:
    def loss(parts: Parts, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, Any]]:
        if "real_pose" not in batch:
            cause = "loss.adversarial needs real hands, but no training hand has pose and shape"
            raise Stop(cause, "set loss.adversarial=0")
        with torch.no_grad():
            fake = forward(config, parts, batch)
        with torch.autocast(batch["image"].device.type, enabled=False):
            module = parts.modules["discriminator"]
            real = module(hand_rotations(batch["real_pose"].flatten(0, 1))[1], batch["real_betas"].flatten(0, 1))
            value = losses.discriminator_loss(module(fake["hand_pose"], fake["betas"]), real)
            return config.loss.adversarial * value, {"loss_critic": value.detach()}

    return loss


# ---------------------------------------------------------------------------------------------- export


def export(config: Config, stage: Stage, parts: Parts, out: Path) -> None:
    """One safetensors file with the base's keys.

    MANO's arrays are in no state dict of ours, so they cannot be in it.
    """
    tensors = dict(parts.modules["hamer"].state_dict())
    if "discriminator" in parts.modules:
        stored = parts.modules["discriminator"].state_dict()
        tensors |= {f"discriminator.{name}": tensor for name, tensor in stored.items()}
    with atomic(out / "hamer.safetensors") as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
