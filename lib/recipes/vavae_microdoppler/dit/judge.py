"""The judge: a small network that names the user of a spectrogram, trained on real training images only.

It measures generated images (do they look like the user they were asked for?), so it must not share anything with the
generator: own seed, own weights, no generated image ever. What it reaches on real held-out images stands beside every
number.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE_PX = 64  # of what it looks at; larger images are averaged down
SEED = 7
STEPS, BATCH, LR = 300, 32, 2e-3


class Judge(nn.Module):
    """image (n, 3, h, w) in [-1, 1] -> logits (n, labels). It looks at side_px x side_px, a multiple of 8.

    Velocity tells walkers apart and the moment does not, so the last map keeps its rows and is pooled over time, as
    mean and spread.
    """

    def __init__(self, labels: int, side_px: int = SIDE_PX):
        super().__init__()
        self.side_px = side_px
        self.body = nn.Sequential(*layer(3, 24), *layer(24, 48), *layer(48, 64))
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(2 * 64 * side_px // 8, labels)

    def forward(self, image: Tensor) -> Tensor:
        seen = self.body(F.adaptive_avg_pool2d(image.float(), self.side_px))  # (n, 64, rows, columns)
        pooled = torch.cat([seen.mean(3), seen.std(3)], 1)
        return self.head(self.drop(pooled.flatten(1)))


def layer(before: int, after: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]


def small(image: Tensor, side_px: int = SIDE_PX) -> Tensor:
    """What a judge keeps of images while it learns: (n, 3, side, side) uint8, so that thousands fit into memory."""
    return ((F.adaptive_avg_pool2d(image, side_px) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def learn(images: Tensor, labels: Tensor, count: int, device: torch.device, seed: int = SEED) -> Judge:
    """Trained on `small` images (n, 3, side, side) uint8 and their labels (n,), `count` of them; returned frozen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = Judge(count, images.shape[-1]).to(device).train()
        generator = torch.Generator().manual_seed(seed)
        optimiser = torch.optim.AdamW(judge.parameters(), lr=LR, weight_decay=0.05)
        for step in range(STEPS):
            optimiser.param_groups[0]["lr"] = LR * min(1.0, (step + 1) / 30) * (1 - step / STEPS)
            chosen = torch.randint(len(images), (BATCH,), generator=generator)
            seen = varied(images[chosen].float() / 127.5 - 1, generator).to(device)
            loss = F.cross_entropy(judge(seen), labels[chosen].to(device), label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return judge.eval().requires_grad_(False)


def varied(image: Tensor, generator: torch.Generator) -> Tensor:
    """Images (n, 3, side, side) in [-1, 1] rolled in time, blurred and noisy: the walk may begin at any moment, and an
    autoencoder's softness or noise must not decide.
    """
    shift = int(torch.randint(image.shape[3], (), generator=generator))
    share = torch.rand(len(image), 1, 1, 1, generator=generator)
    soft = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    noise = torch.randn(image.shape, generator=generator) * 0.15 * torch.rand(len(image), 1, 1, 1, generator=generator)
    return (share * soft + (1 - share) * image).roll(shift, 3) + noise
