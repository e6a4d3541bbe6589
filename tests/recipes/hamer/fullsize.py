"""The full-size network on the CPU, from a file in the published format, by hand:

    python -m tests.recipes.hamer.fullsize [--preset rank8] [--folder DIR]

Writes a synthetic hamer.ckpt of 2.7 GB (every published name and shape, critic, MANO's buffers, a configuration
object), converts it once as step 4 does, builds the network in a fresh process, attaches the adapters, takes one real
optimiser step on one crop, and prints seconds, VmHWM and what `--plan` estimates. Needs 6 GB of disk, 9 GB of memory
and some minutes; --folder keeps the files.
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
LIMIT_GB = 9.0  # VmHWM of the process that converts, and of the one that takes the step
PARTS = ("write", "convert", "step")  # each in a process of its own, so that its peak is its own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="rank8")
    parser.add_argument("--folder", type=Path, help="keep the checkpoint here")
    parser.add_argument("--in-child", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.in_child:
        {"write": write_checkpoint, "convert": convert, "step": take_a_step}[args.in_child](args.folder, args.preset)
        return
    with tempfile.TemporaryDirectory(prefix="hamer-full-size-") as scratch:
        folder = args.folder or Path(scratch)
        folder.mkdir(exist_ok=True)
        for part in PARTS:
            if part != "write" or not (folder / "hamer.ckpt").exists():
                words = ["--preset", args.preset, "--folder", str(folder), "--in-child", part]
                subprocess.run([sys.executable, "-m", "tests.recipes.hamer.fullsize", *words], cwd=ROOT, check=True)


def configuration(folder: Path, preset: str):
    """The preset, with the stand-in hand in the place of the licensed one."""
    from lib.core.config import from_dotted
    from lib.recipes import hamer

    settings = {
        "model.checkpoint": str(folder / "hamer.ckpt"),
        "model.mano": "stand_in",
        "train.global_batch": 1,
        "train.micro_batch": 1,
    }
    return from_dotted(hamer.Config, hamer.PRESETS[preset] | settings)


def write_checkpoint(folder: Path, preset: str) -> None:
    """A Lightning checkpoint as HaMeR's release has it, with random numbers of plausible size."""
    import omegaconf
    import torch

    from lib.recipes.hamer.critic import Discriminator
    from lib.recipes.hamer.hand import stand_in_hand
    from lib.recipes.hamer.mano import Mano
    from lib.recipes.hamer.model import HaMeR

    torch.manual_seed(0)
    mano = Mano(stand_in_hand())
    network = HaMeR(configuration(folder, preset).model, mano)
    torch.nn.init.trunc_normal_(network.backbone.pos_embed, std=0.02)
    for readout in (network.mano_head.decpose, network.mano_head.decshape, network.mano_head.deccam):
        torch.nn.init.xavier_uniform_(readout.weight, gain=0.01)
    state = network.state_dict()
    state |= {f"discriminator.{name}": tensor for name, tensor in Discriminator().state_dict().items()}
    state |= {f"mano.{name}": tensor for name, tensor in mano.named_buffers()} | {"initialized": torch.tensor(True)}
    parameters = {"config": omegaconf.OmegaConf.create({"MODEL": {"IMAGE_SIZE": 256}})}
    torch.save({"state_dict": state, "epoch": 3, "hyper_parameters": parameters}, folder / "hamer.ckpt")
    print(f"wrote {len(state)} tensors, {(folder / 'hamer.ckpt').stat().st_size / 1e9:.2f} GB", flush=True)


def converted(config, folder: Path) -> Path:
    """What step 4 makes of the checkpoint before it builds the network."""
    from lib import recipes
    from lib.core.records import Manifest, Stage

    manifest = Manifest([], folder)
    hamer = recipes.load("hamer")
    return hamer.stage_inputs(config, Stage("adapt", 1), manifest, {"base": folder}, None, folder, lambda: None)


def convert(folder: Path, preset: str) -> None:
    started = time.monotonic()
    out = converted(configuration(folder, preset), folder)
    size = sum(file.stat().st_size for file in out.iterdir())
    said = {"seconds": seconds_since(started), "size_gb": round(size / 1e9, 2), "peak_gb": peak_gb()}
    report("conversion", said, LIMIT_GB)


def crop_sample(side_px: int) -> dict:
    """A crop of noise with labels that are all there."""
    import numpy as np

    def real(*shape: int) -> np.ndarray:
        return np.zeros(shape, np.float32)

    return {
        "sample_id": "a",
        "group": "a",
        "image": np.random.default_rng(0).normal(size=(3, side_px, side_px)).astype(np.float32),
        "keypoints_2d": real(21, 3) + 1,
        "keypoints_3d": real(21, 4) + 1,
        "pose": real(48),
        "betas": real(10),
        "has_pose": np.float32(1),
        "has_betas": np.float32(1),
    }


def take_a_step(folder: Path, preset: str) -> None:
    import torch

    from lib import recipes
    from lib.core import processes
    from lib.core.records import Sampler, Stage
    from lib.network import adapters
    from lib.network.frozen_features import FeatureCache
    from lib.training import loop
    from lib.training.state import Training

    hamer, stage, started = recipes.load("hamer"), Stage("adapt", 1), time.monotonic()
    config = configuration(folder, preset)
    parts = hamer.build(config, stage, {"base": folder, "stage_inputs": converted(config, folder)})
    said = {"threads": torch.get_num_threads(), "read_seconds": seconds_since(started), "read_peak_gb": peak_gb()}
    started, wrapped = time.monotonic(), adapters.attach(parts)
    said["attach_seconds"] = seconds_since(started)
    sample = crop_sample(config.model.crop_px)
    sampler = Sampler(1, lambda index, key: sample)
    job = SimpleNamespace(recipe=hamer, config=config, record={}, args=SimpleNamespace(detect_anomaly=False))
    tensors, objectives = adapters.trainable(parts), hamer.objectives(config, stage)
    alone = processes.accelerator("fp32", folder)
    cache = FeatureCache(parts, None, 0) if parts.frozen_features else None
    training = Training(job, stage, folder, alone, parts, wrapped, objectives, sampler, sampler, cache, tensors)
    loop.set_up(training)
    started = time.monotonic()
    record = loop.optimiser_step(training)
    said |= {"step_seconds": seconds_since(started), "peak_gb": peak_gb()}
    said["planned_gb"] = planned_gb(hamer.plan(config))
    said |= {"trained_parameters": sum(p.numel() for p in tensors.values()), "record": record}
    report("step", said, LIMIT_GB)


if __name__ == "__main__":
    main()
