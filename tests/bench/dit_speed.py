"""Training latents/s and sampling steps/s of the stage dit, against diffusers' DiTTransformer2DModel of equal size:

    python -m tests.bench.dit_speed [--size S] [--side 16] [--batch 4] [--turns 3]

diffusers' network is of the same depth, width, heads and tokens, with LayerNorm, GELU and no rotary positions; it is no
LightningDiT and loads no published weights. Both get the same noise, times and labels; sampling is guided, so that
every step costs two evaluations. The two take turns; best of the turns, in seconds of this process.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from lib.recipes.vavae_microdoppler.dit import flow
from lib.recipes.vavae_microdoppler.dit.model import LightningDiT
from lib.recipes.vavae_microdoppler.size import DITS, DiTSize

LABELS, GUIDANCE, SAMPLING_STEPS = 31, 2.0, 4


class Diffusers(nn.Module):
    """DiTTransformer2DModel behind our signature; its label embedding adds a null row of its own, the last one."""

    def __init__(self, size: DiTSize):
        super().__init__()
        from diffusers import DiTTransformer2DModel

        self.null = size.labels
        self.network: Any = DiTTransformer2DModel(
            num_attention_heads=size.heads,
            attention_head_dim=size.width // size.heads,
            in_channels=size.latent_channels,
            out_channels=size.latent_channels,
            num_layers=size.depth,
            sample_size=size.latent_side,
            patch_size=size.patch,
            num_embeds_ada_norm=size.labels,
            dropout=0.0,
        )

    def forward(self, latent: torch.Tensor, t: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return self.network(latent, timestep=(1000 * t).long(), class_labels=label).sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", default="S", choices=DITS)
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    depth, width, heads = DITS[args.size]
    size = DiTSize(depth, width, heads, args.side, labels=LABELS)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    networks = {"ours": LightningDiT(size).to(device), "diffusers": Diffusers(size).to(device)}
    found: dict[str, dict[str, list[float]]] = {name: {"train": [], "sample": []} for name in networks}
    for _ in range(args.turns + 1):  # the first turn warms up
        for name, network in networks.items():
            for kind, work in (("train", train_step), ("sample", sample)):
                found[name][kind].append(seconds(partial(work, network, size, args.batch, device), device))
    result = {"size": args.size, "side": args.side, "batch": args.batch, "device": device}
    result["threads"] = torch.get_num_threads()
    for name, network in networks.items():
        result[name] = {
            "parameters": sum(p.numel() for p in network.parameters()),
            "training_latents_per_second": round(args.batch / min(found[name]["train"][1:]), 2),
            "sampling_steps_per_second": round(SAMPLING_STEPS / min(found[name]["sample"][1:]), 2),
        }
    print(json.dumps(result))


def seconds(work: Callable[[], None], device: str) -> float:
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - started


def drawn(size: DiTSize, batch: int, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(batch, size.latent_channels, size.latent_side, size.latent_side, generator=generator)
    times, label = torch.rand(batch, generator=generator), torch.arange(batch, device=device) % LABELS
    return latent.to(device), times.to(device), label


def train_step(network: nn.Module, size: DiTSize, batch: int, device: str) -> None:
    data, t, label = drawn(size, batch, device)
    point, velocity = flow.path(data, torch.randn_like(data), t)
    squared, cosine = flow.velocity_losses(network(point, t, label), velocity)
    (squared + cosine).mean().backward()
    for parameter in network.parameters():
        parameter.grad = None


@torch.no_grad()
def sample(network: nn.Module, size: DiTSize, batch: int, device: str) -> None:
    noise, _, label = drawn(size, batch, device)
    network.eval()
    flow.euler(flow.velocity_of(network, label, GUIDANCE), noise, flow.time_grid(SAMPLING_STEPS + 1, 0.3))
    network.train()


if __name__ == "__main__":
    main()
