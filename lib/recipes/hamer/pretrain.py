"""Trains the shipped demo base on bare made-up hands and writes demo/base.safetensors (fp16, the checkpoint's key names).

    OMP_NUM_THREADS=1 python -m lib.recipes.hamer.pretrain 6000 10000

Arguments: pictures, optimiser steps. An optimiser step took 0.065 s of one core, a picture 0.02 s. Not part of any step.
"""
import sys
import time
from pathlib import Path

import numpy
import torch
from safetensors.torch import save_file

from lib.config import from_dotted
from lib.gradients import learning_rate
from lib.order import Key
from lib.recipes.hamer import config as configuration
from lib.recipes.hamer import crop, demo, losses, metrics
from lib.recipes.hamer.hand import stand_in
from lib.recipes.hamer.mano import Mano
from lib.recipes.hamer.model import HaMeR

SEED, BATCH, PEAK_LR, HANDS_PER_SUBJECT = 1, 16, 1e-3, 10
# A heavy 2D loss pulls at the camera first: with 0.3 / 0.1 / 0.03 the held-out error stayed at 24 mm for 1500 steps, with these it was 20 mm after 250.
WEIGHTS = configuration.LossConfig(keypoints_3d=1.0, keypoints_2d=0.02, global_orient=1.0, hand_pose=0.3, betas=0.002)
OUT = Path(__file__).parent / "demo" / "base.safetensors"


def main(pictures: int, steps: int) -> None:
    torch.manual_seed(SEED)
    config = from_dotted(configuration.Config, configuration.DEMO)
    started, hands = time.monotonic(), bare_hands(pictures, config.data.made_px)
    print(f"{pictures} pictures in {time.monotonic() - started:.0f} s", flush=True)
    held, model = pictures // 20, HaMeR(config.model, Mano(stand_in()))
    initialise(model)
    optimiser, recent = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, weight_decay=0.02), []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(PEAK_LR, 1e-6, step, steps, 0.05)
        keys = [Key(SEED, step, i) for i in range(BATCH)]
        picks = Key(SEED, step, -1).generator().integers(held, pictures, BATCH)
        images, labels = batch([hands[i] for i in picks], [crop.draw(config.data, key.generator()) for key in keys], config)
        loss = losses.total(losses.terms(model(images), labels), WEIGHTS).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        recent.append(loss.item())  # a single batch of 16 says nothing
        if step % 250 == 0 or step == steps - 1:
            error = held_out_mm(model, hands[: min(held, 200)], config)
            print(f"step {step} mean loss {sum(recent) / len(recent):.4f} held-out PA-MPJPE {error:.2f} mm, {time.monotonic() - started:.0f} s", flush=True)
            recent.clear()
            write(model)


def initialise(model: HaMeR) -> None:
    """Sane starts for training from scratch; the published model never needs this.

    Positions start as sines of the strength of the patches, patch filters as the lowest cosines of brightness and colour.
    """
    with torch.no_grad():
        model.backbone.pos_embed[0, 1:] = sines(model.config)
        model.backbone.patch_embed.proj.weight.copy_(cosines(model.config))
    for module in model.backbone.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.trunc_normal_(module.weight, std=0.02)
            torch.nn.init.zeros_(module.bias)
    for readout in (model.mano_head.decpose, model.mano_head.decshape, model.mano_head.deccam):
        torch.nn.init.xavier_uniform_(readout.weight, gain=0.01)


def sines(config: configuration.ModelConfig) -> torch.Tensor:
    """Sines and cosines of column and row, (patches, width)."""
    rows = (config.crop_px + 4 - config.patch_px) // config.patch_px + 1
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(config.patches // rows), indexing="ij")
    speeds = 100.0 ** -(torch.arange(config.width // 4) / (config.width // 4))
    return torch.cat([wave(axis.flatten()[:, None] * speeds) for axis in (x, y) for wave in (torch.sin, torch.cos)], 1)


def cosines(config: configuration.ModelConfig) -> torch.Tensor:
    """The lowest two-dimensional cosines of brightness (half of the channels) and of two colour differences, (width, 3, patch, patch).

    Their outputs are of one size for natural pictures, whose spectrum falls with the frequency.
    """
    size = config.patch_px
    waves = torch.cos(torch.pi * (torch.arange(size) + 0.5) * torch.arange(size)[:, None] / size)  # (frequency, pixel)
    order = sorted(((u, v) for u in range(size) for v in range(size)), key=lambda pair: (pair[0] + pair[1], pair))
    colours = torch.tensor([[1.0, 1, 1], [1, -1, 0], [0.5, 0.5, -1]]) / 3
    counts = (config.width // 2, config.width // 4, config.width // 4)
    return torch.stack([
        (1 + u + v) / size**2 * colour[:, None, None] * torch.outer(waves[u], waves[v]) for colour, count in zip(colours, counts, strict=True) for u, v in order[:count]
    ])  # fmt: skip


def bare_hands(count: int, side_px: int) -> list[tuple[numpy.ndarray, dict]]:
    studio = demo.Studio()
    people = [demo.person(number, SEED, gloved=False) for number in range(-(-count // HANDS_PER_SUBJECT))]
    return [demo.take(studio, people[i // HANDS_PER_SUBJECT], Key(SEED, -3, i).generator(), side_px) for i in range(count)]


def batch(hands: list, changes: list[crop.Change], config) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    size, images, rows = config.model.crop_px, [], []
    for (picture, row), change in zip(hands, changes, strict=True):
        right, width = bool(row["right"]), picture.shape[1]
        place = crop.placement(row["center"], crop.square(*row["scale"]), right, width, change, size)
        images.append(torch.from_numpy(crop.normalise(crop.warp(picture, place, right, size), change.gain)))
        labels = crop.Labels(row["hand_keypoints_2d"], row["hand_keypoints_3d"], row["hand_pose"], row["betas"], True, True)
        rows.append(crop.move_labels(labels, place, right, width, change.rotation_deg, size))
    stack = lambda name: torch.from_numpy(numpy.stack([getattr(row, name) for row in rows]).astype(numpy.float32))  # noqa: E731
    labels = {name: stack(name) for name in ("keypoints_2d", "keypoints_3d", "betas", "has_pose", "has_betas")}
    labels["global_orient"], labels["hand_pose"] = losses.matrices(stack("hand_pose"))
    return torch.stack(images), labels


@torch.no_grad()
def held_out_mm(model: HaMeR, hands: list, config) -> float:
    images, labels = batch(hands, [crop.Change()] * len(hands), config)
    predicted = torch.cat([model(part)["pred_keypoints_3d"] for part in images.split(50)])
    truth = labels["keypoints_3d"][..., :3].numpy()
    return 1000 * float(metrics.distances(metrics.align(predicted.numpy(), truth), truth).mean())


def write(model: HaMeR) -> None:
    OUT.parent.mkdir(exist_ok=True)
    temporary = OUT.with_suffix(".tmp")
    save_file({name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}, temporary)
    temporary.replace(OUT)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
