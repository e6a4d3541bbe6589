"""Trains the shipped demo base on pictures of the bare stand-in hand.

Writes demo/base.safetensors (fp16, the checkpoint's key names):

    OMP_NUM_THREADS=1 python -m lib.recipes.hamer.pretrain 12000 14000

Arguments: pictures, optimiser steps. A picture took 0.02 s of one core, an optimiser step 0.1 s: half an hour, after
which PA-MPJPE of held-out people was 8.9 mm; the mean hand has 17.4 mm. Not part of any step.

As with the published model, the backbone learns where keypoints are before the hand is asked of it (ViTPose's task: a
heat map for each keypoint). Without that, and with the linear layers' usual deviation of 0.02, which is far too small
for a width of 128, the held-out error stayed at the mean hand's for 2000 steps.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from lib.core.config import from_dotted
from lib.core.order import Key
from lib.network.gradients import learning_rate
from lib.recipes.hamer import config as configuration
from lib.recipes.hamer import crop, losses, metrics, samples, stand_in
from lib.recipes.hamer.geometry import hand_rotations
from lib.recipes.hamer.hand import stand_in_hand
from lib.recipes.hamer.mano import Mano
from lib.recipes.hamer.model import HaMeR

SEED, BATCH, PEAK_LR, HANDS_PER_SUBJECT, HELD_OUT = 1, 16, 1e-3, 10, 300
CROPS = 2  # of each picture, with other scale, rotation and shift
# Heat maps alone; then the hand's losses grow to SHARE, where their gradient is as large as that of the heat maps.
HEAT_STEPS, RAMP_STEPS, SHARE = 1000, 500, 0.05
WEIGHTS = configuration.LossConfig(keypoints_3d=1.0, keypoints_2d=0.2, global_orient=1.0, hand_pose=1.0, betas=0.1)
MEAN_CAMERA = 8.0  # scale at which a hand fills its crop
OUT = Path(__file__).parent / "demo" / "base.safetensors"


def main(pictures: int, steps: int) -> None:
    torch.manual_seed(SEED)
    config, started = from_dotted(configuration.Config, configuration.DEMO), time.monotonic()
    hands = bare_hands(pictures, config.data.stand_in_px)
    held_out = crops(hands[:HELD_OUT], config, None)
    images, labels = joined([crops(hands[HELD_OUT:], config, epoch) for epoch in range(CROPS)])
    print(f"{pictures} pictures, {len(images)} crops in {time.monotonic() - started:.0f} s", flush=True)
    model, heat = HaMeR(config.model, Mano(stand_in_hand())), torch.nn.Linear(config.model.width, 21)
    initialise(model, labels["hand_pose"])
    train(model, heat, images, labels, steps, lambda: errors(model, *held_out))


def train(
    model: HaMeR, heat: torch.nn.Linear, images: Tensor, labels: dict[str, Tensor], steps: int, judge: Callable[[], str]
) -> None:
    """Writes the base every 500 steps and prints what `judge` says of it."""
    trained, started = [*model.parameters(), *heat.parameters()], time.monotonic()
    recent: list[list[float]] = []
    optimiser = torch.optim.AdamW(trained, lr=PEAK_LR, weight_decay=0.02)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(PEAK_LR, 1e-6 / PEAK_LR, step, steps, 0.05)
        values = both(model, heat, *drawn(images, labels, Key(SEED, step, -1).generator()))
        ramp = min(1.0, max(0.0, (step - HEAT_STEPS) / RAMP_STEPS))
        optimiser.zero_grad()
        (values[0] + SHARE * ramp * values[1]).backward()
        torch.nn.utils.clip_grad_norm_(trained, 5.0)
        optimiser.step()
        recent.append([value.item() for value in values])
        if step % 500 == 0 or step == steps - 1:
            heat_mean, hand_mean = np.mean(recent, 0)  # single batches say nothing
            seconds = time.monotonic() - started
            print(f"step {step} heat {heat_mean:.3f} hand {hand_mean:.3f}, {judge()}, {seconds:.0f} s", flush=True)
            recent.clear()
            write(model)


def drawn(
    images: Tensor, labels: dict[str, Tensor], generator: np.random.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    picks, gain = torch.from_numpy(generator.integers(0, len(images), BATCH)), generator.uniform(0.8, 1.2, (BATCH, 3))
    return normalised(images[picks], gain), {name: value[picks] for name, value in labels.items()}


def both(model: HaMeR, heat: torch.nn.Linear, images: Tensor, labels: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Cross entropy of the heat maps; the hand's losses, and with them what PA-MPJPE measures: bent fingers alone."""
    tokens = model.backbone(model.columns(images))
    found = model.decode(tokens)
    maps = heat_maps(model.config, labels["keypoints_2d"])
    entropy = -(maps * F.log_softmax(heat(tokens).mT, -1)).sum(-1).mean()
    bent = model.mano(labels["global_orient"], found["hand_pose"], labels["betas"])[1]
    truth = model.mano(labels["global_orient"], labels["hand_pose"], labels["betas"])[1]
    truth = torch.cat([truth, torch.ones(len(bent), 21, 1)], -1)
    hand = losses.total(losses.terms(found, labels), WEIGHTS)
    hand = hand + losses.keypoints(losses.rooted(bent), losses.rooted(truth))
    return entropy, hand.mean()


def heat_maps(config: configuration.ModelConfig, points: Tensor) -> Tensor:
    """Keypoints (b, 21, 3) in fractions of the crop -> how they lie between the centres of the tokens.

    (b, 21, tokens), rows sum to 1.
    """
    rows, columns = grid(config)
    # the patches start 2 px outside
    pixels = (points[..., :2] + 0.5) * config.crop_px - points.new_tensor([config.margin_px, 0]) + 2
    x, y = (pixels / config.patch_px - 0.5).clamp(min=0).unbind(-1)
    across = (1 - (x.clamp(max=columns - 1)[..., None] - torch.arange(columns)).abs()).clamp(min=0)
    down = (1 - (y.clamp(max=rows - 1)[..., None] - torch.arange(rows)).abs()).clamp(min=0)
    return (down[..., :, None] * across[..., None, :]).flatten(-2)


def grid(config: configuration.ModelConfig) -> tuple[int, int]:
    rows = (config.crop_px + 4 - config.patch_px) // config.patch_px + 1
    return rows, config.patches // rows


def initialise(model: HaMeR, poses: Tensor) -> None:
    """Sane starts for training from scratch; the published model never needs this.

    Positions start as sines of the strength of the patches, patch filters as the lowest cosines of brightness and
    colour, the mean hand as the mean of `poses` (n, 15, 3, 3), upright.
    """
    for module in model.backbone.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(module.weight)
            torch.nn.init.zeros_(module.bias)
    head = model.mano_head
    for readout in (head.decpose, head.decshape, head.deccam):
        torch.nn.init.xavier_uniform_(readout.weight, gain=0.01)
    with torch.no_grad():
        model.backbone.pos_embed[0, 1:] = sines(model.config)
        model.backbone.patch_embed.proj.weight.copy_(cosines(model.config))
        mean = torch.cat([torch.tensor(stand_in.UPRIGHT).float()[None], poses.mean(0)])
        head.init_hand_pose.copy_(mean[:, :, :2].mT.reshape(1, -1))
        head.init_cam[0, 0] = MEAN_CAMERA


def sines(config: configuration.ModelConfig) -> Tensor:
    """Sines and cosines of column and row, (patches, width)."""
    rows, columns = grid(config)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    speeds = 100.0 ** -(torch.arange(config.width // 4) / (config.width // 4))
    return torch.cat([wave(axis.flatten()[:, None] * speeds) for axis in (x, y) for wave in (torch.sin, torch.cos)], 1)


def cosines(config: configuration.ModelConfig) -> Tensor:
    """The lowest two-dimensional cosines of brightness (half of the channels) and of two colour differences.

    (width, 3, patch, patch). Their outputs are of one size for natural pictures, whose spectrum falls with the
    frequency.
    """
    size = config.patch_px
    waves = torch.cos(torch.pi * (torch.arange(size) + 0.5) * torch.arange(size)[:, None] / size)  # (frequency, pixel)
    order = sorted(((u, v) for u in range(size) for v in range(size)), key=lambda pair: (pair[0] + pair[1], pair))
    colours = torch.tensor([[1.0, 1, 1], [1, -1, 0], [0.5, 0.5, -1]]) / 3
    counts = (config.width // 2, config.width // 4, config.width // 4)
    chosen = [(colour, pair) for colour, count in zip(colours, counts, strict=True) for pair in order[:count]]
    pattern = [(1 + u + v) / size**2 * torch.outer(waves[u], waves[v]) for _, (u, v) in chosen]
    return torch.stack([colour[:, None, None] * wave for (colour, _), wave in zip(chosen, pattern, strict=True)])


def bare_hands(count: int, side_px: int) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Pictures (side_px, side_px, 3) uint8 and their annotations."""
    studio = stand_in.Studio()
    people = [stand_in.person(number, SEED, gloved=False) for number in range(-(-count // HANDS_PER_SUBJECT))]
    return [
        stand_in.take(studio, people[i // HANDS_PER_SUBJECT], Key(SEED, -3, i).generator(), side_px)
        for i in range(count)
    ]


def crops(
    hands: list[tuple[np.ndarray, dict[str, Any]]], config: configuration.Config, epoch: int | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Crops (n, 3, crop_px, crop_px) uint8 and their labels.

    `epoch` draws scale, rotation and shift, None changes nothing.
    """
    size, images, moved = config.model.crop_px, [], []
    for i, (picture, row) in enumerate(hands):
        change = crop.Change()
        if epoch is not None:
            change = samples.random_change(config.data, Key(SEED, epoch, i).generator())
        right, width_px = bool(row["right"]), picture.shape[1]
        place = crop.placement(row["center"], crop.square(*row["scale"]), right, width_px, change, size)
        images.append(torch.from_numpy(crop.warp(picture, place, right, size).astype(np.uint8)))
        points, joints = row["hand_keypoints_2d"], row["hand_keypoints_3d"]
        labels = crop.Labels(points, joints, row["hand_pose"], row["betas"], True, True)
        moved.append(crop.move_labels(labels, place, right, width_px, change.rotation_deg, size))
    return torch.stack(images), stacked(moved)


def stacked(moved: list[crop.Labels]) -> dict[str, Tensor]:
    """As losses.terms takes them."""
    columns = {
        name: torch.from_numpy(np.stack([vars(labels)[name] for labels in moved]).astype(np.float32))
        for name in ("keypoints_2d", "keypoints_3d", "betas", "has_pose", "has_betas", "hand_pose")
    }
    columns["global_orient"], columns["hand_pose"] = hand_rotations(columns["hand_pose"])
    return columns


def joined(parts: list[tuple[Tensor, dict[str, Tensor]]]) -> tuple[Tensor, dict[str, Tensor]]:
    columns = {name: torch.cat([labels[name] for _, labels in parts]) for name in parts[0][1]}
    return torch.cat([images for images, _ in parts]), columns


def normalised(images: Tensor, gain: np.ndarray) -> Tensor:
    """(n, 3, h, w) uint8, gain of red, green, blue (n, 3) -> what the network sees."""
    pairs = zip(images.numpy(), gain.tolist(), strict=True)
    return torch.from_numpy(np.stack([crop.normalise(image, (r, g, b)) for image, (r, g, b) in pairs]))


@torch.no_grad()
def errors(model: HaMeR, images: Tensor, labels: dict[str, Tensor]) -> str:
    """Of held-out people; at step 0 of the mean hand."""
    found = [model(normalised(part, np.ones((len(part), 3)))) for part in images.split(50)]
    joints = torch.cat([answer["pred_keypoints_3d"] for answer in found]).numpy()
    points = torch.cat([answer["pred_keypoints_2d"] for answer in found]).numpy()
    truth, seen = labels["keypoints_3d"][..., :3].numpy(), labels["keypoints_2d"][..., :2].numpy()
    aligned = metrics.distances(metrics.align(joints, truth), truth).mean()
    rooted = metrics.distances(joints - joints[:, :1], truth - truth[:, :1]).mean()
    flat = metrics.distances(points, seen).mean()
    return f"held-out PA-MPJPE {1000 * aligned:.2f} mm, MPJPE {1000 * rooted:.1f} mm, 2D {100 * flat:.1f} % of the crop"


def write(model: HaMeR) -> None:
    OUT.parent.mkdir(exist_ok=True)
    temporary = OUT.with_suffix(".tmp")
    save_file({name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}, temporary)
    temporary.replace(OUT)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
