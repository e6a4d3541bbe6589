"""The full-size network on the CPU, from a file in the published format, by hand:

    python -m tests.hamer.fullsize [--preset rank8] [--folder DIR]

Writes a synthetic hamer.ckpt of 2.7 GB (every published name and shape, critic, MANO's buffers, a configuration object), converts it
once as step 4 does, builds the network in a fresh process, attaches the adapters, takes one real optimiser step on one crop, and prints
seconds, VmHWM and what `--plan` estimates. Needs 6 GB of disk, 9 GB of memory and some minutes; --folder keeps the files.
"""
import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from tests.peak import peak_gb, planned_gb, report, seconds_since

ROOT = Path(__file__).resolve().parents[2]
LIMIT_GB = 9.0  # VmHWM of the process that converts, and of the one that takes the step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="rank8")
    parser.add_argument("--folder", type=Path, help="keep the checkpoint here")
    parser.add_argument("--in-child", choices=("write", "convert", "step"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.in_child:
        {"write": write_checkpoint, "convert": convert, "step": take_a_step}[args.in_child](args.folder, args.preset)
        return
    with tempfile.TemporaryDirectory(prefix="hamer-full-size-") as scratch:
        folder = args.folder or Path(scratch)
        folder.mkdir(exist_ok=True)
        for part in ("write", "convert", "step"):
            if part != "write" or not (folder / "hamer.ckpt").exists():
                words = ["--preset", args.preset, "--folder", str(folder), "--in-child", part]
                subprocess.run([sys.executable, "-m", "tests.hamer.fullsize", *words], cwd=ROOT, check=True)


def configuration(folder: Path, preset: str):
    """The preset, with the made-up hand in the place of the licensed one."""
    from lib.config import from_dotted
    from lib.recipes import hamer

    settings = {"model.checkpoint": str(folder / "hamer.ckpt"), "model.mano": "stand_in", "train.global_batch": 1, "train.micro_batch": 1}
    return from_dotted(hamer.Config, hamer.PRESETS[preset] | settings)


def write_checkpoint(folder: Path, preset: str) -> None:
    """A Lightning checkpoint as HaMeR's release has it, with random numbers of plausible size."""
    import omegaconf
    import torch

    from lib.recipes.hamer.critic import Discriminator
    from lib.recipes.hamer.hand import stand_in
    from lib.recipes.hamer.mano import Mano
    from lib.recipes.hamer.model import HaMeR

    torch.manual_seed(0)
    mano = Mano(stand_in())
    network = HaMeR(configuration(folder, preset).model, mano)
    torch.nn.init.trunc_normal_(network.backbone.pos_embed, std=0.02)
    for readout in (network.mano_head.decpose, network.mano_head.decshape, network.mano_head.deccam):
        torch.nn.init.xavier_uniform_(readout.weight, gain=0.01)
    state = network.state_dict()
    state |= {f"discriminator.{name}": tensor for name, tensor in Discriminator().state_dict().items()}
    state |= {f"mano.{name}": tensor for name, tensor in mano.named_buffers()} | {"initialized": torch.tensor(True)}
    parameters = {"cfg": omegaconf.OmegaConf.create({"MODEL": {"IMAGE_SIZE": 256}})}
    torch.save({"state_dict": state, "epoch": 3, "hyper_parameters": parameters}, folder / "hamer.ckpt")
    print(f"wrote {len(state)} tensors, {(folder / 'hamer.ckpt').stat().st_size / 1e9:.2f} GB", flush=True)


def convert(folder: Path, preset: str) -> None:
    from lib.recipes.hamer import assemble

    started = time.monotonic()
    out = assemble.groundwork(configuration(folder, preset), {"base": folder}, folder)
    size = sum(file.stat().st_size for file in out.iterdir())
    report("conversion", {"seconds": seconds_since(started), "size_gb": round(size / 1e9, 2), "peak_gb": peak_gb()}, LIMIT_GB)


def take_a_step(folder: Path, preset: str) -> None:
    import numpy
    import torch

    from lib import adapters, processes, train
    from lib.prefix import PrefixCache
    from lib.recipes import Sampler, Stage, hamer
    from lib.recipes.hamer import assemble, costs
    from lib.state import Training

    config, stage, started = configuration(folder, preset), Stage("adapt", 1), time.monotonic()
    parts = hamer.build(config, stage, {"base": folder, "groundwork": assemble.groundwork(config, {"base": folder}, folder)})
    said = {"threads": torch.get_num_threads(), "read_seconds": seconds_since(started), "read_peak_gb": peak_gb()}
    started, wrapped = time.monotonic(), adapters.attach(parts)
    said["attach_seconds"] = seconds_since(started)
    side, real = config.model.crop_px, lambda *shape: numpy.zeros(shape, numpy.float32)
    sample = {"sample_id": "a", "group": "a", "image": numpy.random.default_rng(0).normal(size=(3, side, side)).astype(numpy.float32)}
    sample |= {"keypoints_2d": real(21, 3) + 1, "keypoints_3d": real(21, 4) + 1, "pose": real(48), "betas": real(10)}
    sample |= {"has_pose": numpy.float32(1), "has_betas": numpy.float32(1)}
    sampler = Sampler(1, lambda index, key: sample)
    job = SimpleNamespace(recipe=hamer, config=config, record={}, args=SimpleNamespace(detect_anomaly=False))
    tensors, objectives = adapters.trainable(parts), hamer.objectives(config, stage)
    alone, prefix = processes.accelerator("fp32", folder), PrefixCache(parts, None, 0) if parts.prefix else None
    training = Training(job, stage, folder, alone, parts, wrapped, objectives, sampler, sampler, prefix, tensors)
    train.set_up(training)
    started = time.monotonic()
    record = train.optimiser_step(training)
    said |= {"step_seconds": seconds_since(started), "peak_gb": peak_gb(), "planned_gb": planned_gb(costs.plan(config).memory_bytes)}
    report("step", said | {"trained_numbers": sum(p.numel() for p in tensors.values()), "record": record}, LIMIT_GB)


if __name__ == "__main__":
    main()
