"""Stand-in data and a stand-in base: what `--demo` runs on, so that everybody can try the recipe without your data.

Real files in the layout of real data, and the same bytes on every machine: every number comes from a seed.
CHANGE: draw what looks like your data, with something in it that the base does not know and training can teach.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

GRAIN = 0.05  # standard deviation of the noise of a pixel; white is 1
COMB = (0.06, 0.18)  # even rows are so much darker than odd ones: of the best and the worst camera


def write_base(folder: Path, window_px: int) -> None:
    """A denoiser that knows grain but no combs: the mean of 3 x 3 pixels, written as the network of model.py.

    Channel i of `spread` is the i-th pixel of the window; `gather` takes the mean of the nine in the middle.
    """
    taps, middle = window_px**2, window_px // 2
    spread = np.eye(taps).reshape(taps, 1, window_px, window_px)
    nine = np.zeros((window_px, window_px))
    nine[middle - 1 : middle + 2, middle - 1 : middle + 2] = 1 / 9
    tensors = {"spread.weight": spread, "spread.bias": np.zeros(taps)}
    tensors |= {"gather.weight": nine.reshape(1, taps, 1, 1), "gather.bias": np.zeros(1)}
    save_file({name: value.astype(np.float32) for name, value in tensors.items()}, folder / "base.safetensors")


def write_pictures(folder: Path, cameras: int, count: int, side_px: int) -> None:
    """CAMERA/noisy/NAME.png and CAMERA/clean/NAME.png, grey."""
    rows = np.where(np.arange(side_px) % 2, 0.5, -0.5)[:, None]
    for camera in range(cameras):
        comb = np.random.default_rng(camera).uniform(*COMB) * rows
        for number in range(count):
            generator = np.random.default_rng([camera, number])
            clean = scene(generator, side_px)
            noisy = clean + comb + GRAIN * generator.standard_normal(clean.shape)
            save(clean, folder / f"camera{camera:02d}" / "clean" / f"{number:03d}.png")
            save(noisy, folder / f"camera{camera:02d}" / "noisy" / f"{number:03d}.png")


def scene(generator: np.random.Generator, side_px: int) -> np.ndarray:
    """A bright disc on a ground whose light comes from one side, (side_px, side_px) between 0 and 1."""
    y, x = np.mgrid[:side_px, :side_px] / side_px
    turn = generator.uniform(0, 2 * np.pi)
    ground = 0.3 + 0.2 * (np.cos(turn) * (x - 0.5) + np.sin(turn) * (y - 0.5))
    centre_x, centre_y = generator.uniform(0.2, 0.8, 2)
    inside = np.hypot(x - centre_x, y - centre_y) < generator.uniform(0.15, 0.35)
    return np.where(inside, generator.uniform(0.6, 0.8), ground)


def save(picture: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((255 * picture.clip(0, 1)).round().astype(np.uint8)).save(path)
