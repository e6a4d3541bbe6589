"""The full-size network on the CPU, from a file in the published format, by hand:

    python -m tests.recipes.vavae_microdoppler.fullsize [--folder DIR]

Writes a synthetic vavae-imagenet256-f16d32-dinov2.pt of 2.1 GB (741 tensors of the published names and shapes, and the
optimisers' states, as Lightning leaves them), converts it once as step 4 does, builds every network in a fresh process,
takes one step of `align` on one image of 256 px with both objectives, and saves the checkpoint. Prints seconds, VmHWM,
what `--plan` estimates, and the checkpoint's size. Needs 6 GB of disk, 8 GB of memory and some minutes.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from tests.peak import peak_gb, planned_gb, report, seconds_since

ROOT = Path(__file__).resolve().parents[3]
LIMIT_GB = 8.0  # VmHWM of the process that converts, and of the one that takes the step
CHECKPOINT_GB = 0.9  # autoencoder, projection, critic and their moments; never DINOv2 or LPIPS again
POSITIONS = 37  # side of DINOv2's position table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, help="keep the files here")
    parser.add_argument("--in-child", choices=("write", "convert", "step"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.in_child:
        {"write": write_checkpoint, "convert": convert, "step": take_a_step}[args.in_child](args.folder)
        return
    with tempfile.TemporaryDirectory(prefix="vavae-full-size-") as scratch:
        folder = args.folder or Path(scratch)
        folder.mkdir(exist_ok=True)
        child = [sys.executable, "-m", "tests.recipes.vavae_microdoppler.fullsize", "--folder", str(folder)]
        for part in ("write", "convert", "step"):
            subprocess.run([*child, "--in-child", part], cwd=ROOT, check=True)


def configuration():
    from lib.core.config import from_dotted
    from lib.recipes.vavae_microdoppler import Config

    return from_dotted(Config, {"train.global_batch": 1, "train.micro_batch": 1})


def write_checkpoint(folder: Path) -> None:
    """Lightning's whole checkpoint with random values of plausible size: two Adam moments of all that was trained."""
    import torch

    from lib.recipes.vavae_microdoppler.autoencoder.critic import PatchCritic
    from lib.recipes.vavae_microdoppler.autoencoder.model import build_autoencoder, to_published
    from lib.recipes.vavae_microdoppler.autoencoder.vision import Vision, to_timm
    from lib.recipes.vavae_microdoppler.base import PUBLISHED_FILE
    from lib.recipes.vavae_microdoppler.lpips import Perceptual
    from lib.recipes.vavae_microdoppler.size import AutoencoderSize, VisionSize

    torch.manual_seed(0)
    state = to_published(build_autoencoder(AutoencoderSize()))
    state |= {"linear_proj.weight": 0.1 * torch.randn(1024, 32, 1, 1)}
    critic = {f"loss.discriminator.{name}": tensor for name, tensor in PatchCritic().state_dict().items()}
    moments = [{"state": dict(enumerate(moments_of(list(part.values()))))} for part in (state, critic)]
    vision = to_timm(Vision(VisionSize(grid=POSITIONS)))
    state |= critic | {f"loss.perceptual_loss.{name}": tensor for name, tensor in Perceptual().state_dict().items()}
    state |= {f"foundation_model.model.{name}": tensor for name, tensor in vision.items()}
    state |= {"loss.logvar": torch.zeros(())}
    whole, file = {"state_dict": state, "optimizer_states": moments, "epoch": 129, "global_step": 1}, PUBLISHED_FILE
    torch.save(whole, folder / file)
    (folder / "sources.json").write_text("{}")  # as step 2 leaves its folder
    parameters = sum(tensor.numel() for tensor in state.values())
    size_gb = (folder / file).stat().st_size / 1e9
    print(f"wrote {len(state)} tensors, {parameters:,} parameters, {size_gb:.2f} GB", flush=True)
    assert (len(state), parameters) == (741, 391_720_046), "facts/vavae.md, 1.6"


def moments_of(tensors: list) -> list[dict]:
    return [{"exp_avg": tensor.clone(), "exp_avg_sq": tensor.clone()} for tensor in tensors]


def convert(folder: Path) -> None:
    from lib.recipes.vavae_microdoppler.autoencoder import published

    started = time.monotonic()
    found = published.inventory(published.of_base(configuration(), {"base": folder}))
    tensors = sum(count for count, _ in found.values())
    said = {"seconds": seconds_since(started), "peak_gb": peak_gb(), "tensors": tensors}
    report("conversion and reading", said, LIMIT_GB)


def take_a_step(folder: Path) -> None:
    import torch

    from lib import recipes
    from lib.core.records import Stage
    from lib.network import adapters
    from lib.recipes.vavae_microdoppler import costs
    from lib.training import loop
    from lib.training.state import save

    recipe, config, started = recipes.load("vavae_microdoppler"), configuration(), time.monotonic()
    parts = recipe.build(config, Stage("align", 1, kind="autoencoder"), {"base": folder})
    for module in parts.modules.values():
        module.requires_grad_(False)
    said = {"threads": torch.get_num_threads(), "read_seconds": seconds_since(started), "read_peak_gb": peak_gb()}
    wrapped, tensors = adapters.attach(parts), adapters.trainable(parts)
    training = in_memory(folder, recipe, config, parts, wrapped, tensors)
    loop.set_up(training)
    started = time.monotonic()
    record = loop.optimiser_step(training)
    training.step = 1
    planned = planned_gb(costs.plan(config))
    said |= {"step_seconds": seconds_since(started), "peak_gb": peak_gb(), "planned_gb": planned}
    save(training)
    size_gb = sum(file.stat().st_size for file in training.folder.rglob("*") if file.is_file()) / 1e9
    trained = sum(p.numel() for p in tensors.values())
    said |= {"checkpoint_gb": round(size_gb, 3), "trained_parameters": trained, "record": record}
    report("step", said, LIMIT_GB)
    if size_gb > CHECKPOINT_GB:
        raise SystemExit(f"the checkpoint is above the limit of {CHECKPOINT_GB} GB")


def in_memory(folder: Path, recipe, config, parts, wrapped, tensors):
    """The state of a training of one image, without a run around it."""
    from lib.core import processes
    from lib.core.records import Sampler, Stage
    from lib.network.frozen_features import FeatureCache
    from lib.training.state import Training

    stage, alone = Stage("align", 1, kind="autoencoder"), processes.accelerator("fp32", folder)
    sampler = Sampler(1, lambda index, key: picture(config.model.image_px))
    job = SimpleNamespace(
        recipe=recipe,
        config=config,
        record={"recipe": "", "config": {}},
        args=SimpleNamespace(detect_anomaly=False),
        clock=SimpleNamespace(note_finishing=lambda seconds: None),
    )
    objectives, features = recipe.objectives(config, stage), FeatureCache(parts, None, 0)
    return Training(
        job, stage, folder / "train" / "align", alone, parts, wrapped, objectives, sampler, sampler, features, tensors
    )


def picture(side_px: int) -> dict:
    import numpy as np

    image = np.random.default_rng(0).uniform(-1, 1, (3, side_px, side_px)).astype(np.float32)
    return {"sample_id": "a", "group": "a", "user": "a", "label": 0, "sha256": "a", "image": image}


if __name__ == "__main__":
    main()
