"""The full-size SMALL with random weights on the CPU, by hand:

    python -m tests.recipes.da3_eth3d.fullsize train [--preset small_b] [--steps 50] [--views 2]
    python -m tests.recipes.da3_eth3d.fullsize predict [--photos 20]

train: that many real optimiser steps in fp32 on the views of one world of boxes; then the merged network is exported,
read back, and compared with what was trained. predict: a folder of that many photos of 12 megapixels through --predict;
a second call with more photos shows whether memory is flat. Both print seconds, CPU seconds and the peak (VmHWM).
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.peak import peak_gb, seconds_since

WIDTH_PX, HEIGHT_PX, PHOTO_PX = 504, 336, (4000, 2667)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("train", "predict"))
    parser.add_argument("--preset", default="small_b")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--photos", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="da3-full-size-") as name:
        found = train(args, Path(name)) if args.what == "train" else predict(args, Path(name))
    print(json.dumps(vars(args) | found, indent=1), flush=True)


def settings(preset: str, folder: Path) -> Any:
    """The preset on random weights, in a file saved as the hub does."""
    import torch
    from safetensors.torch import save_file

    from lib import recipes
    from lib.core.config import compose
    from lib.recipes.da3_eth3d import base
    from lib.recipes.da3_eth3d.model import DA3

    file, recipe = folder / "model.safetensors", recipes.load("da3_eth3d")
    words = {"model.weights": str(file), "train.epochs": 1, "cache.policy": "blocks", "data.distinct_epochs": 1}
    config, _ = compose(recipe, preset, False, "full", words)
    torch.manual_seed(0)
    tensors = {f"model.{name}": tensor for name, tensor in DA3(config.model).state_dict().items()}
    save_file(tensors, file, metadata=base.ALIASES)
    return config


def train(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from lib import recipes
    from lib.core.records import Sampler, Stage
    from lib.scenes import samples, stand_in
    from tests.bench import loops

    config, recipe, stage = settings(args.preset, folder), recipes.load("da3_eth3d"), Stage("adapt", args.steps)
    sample = stand_in.box_sample(1, args.views, WIDTH_PX, HEIGHT_PX)
    parts = recipe.build(config, stage, {"base": folder})
    made = loops.training(folder, recipe, config, stage, parts, Sampler(1, lambda index, key: sample), keep=True)
    started, cpu, losses = time.monotonic(), time.process_time(), []
    for _ in range(args.steps):
        losses.append(loops.one_step.optimiser_step(made)["loss_objective"])
        made.step += 1
    said = {"step_seconds": seconds_since(started) / args.steps, "step_cpu": (time.process_time() - cpu) / args.steps}
    said |= {"first_loss": losses[0], "last_loss": losses[-1], "losses": [round(loss, 3) for loss in losses[::7]]}
    said |= {"file_bytes": (folder / "model.safetensors").stat().st_size, "peak_gb": peak_gb()}
    return said | exported(recipe, config, stage, made, samples.collate(config, stage, [sample]), folder)


def exported(recipe: Any, config: Any, stage: Any, made: Any, batch: Any, folder: Path) -> dict[str, Any]:
    """The merged network, written and strictly read back, against the one that was trained."""
    import torch

    from lib.network import adapters

    def depth(parts: Any) -> torch.Tensor:
        adapters.set_mode(parts, training=False)
        with torch.no_grad():
            return parts.modules["da3"](batch["images"])["depth"]

    trained = depth(made.parts)
    made.parts.modules |= adapters.merge(made.wrapped)
    out = folder / "merged"
    out.mkdir()
    recipe.export(config, stage, made.parts, out)
    again = replace(config, model=replace(config.model, weights=str(out / "model.safetensors")))
    read = depth(recipe.build(again, stage, {"base": out}))
    before = depth(recipe.build(config, stage, {"base": folder}))
    return {
        "exported_bytes": (out / "model.safetensors").stat().st_size,
        "largest_difference_of_the_export": ((read - trained).abs().max() / trained.abs().max()).item(),
        "largest_difference_of_the_base": ((before - trained).abs().max() / trained.abs().max()).item(),
    }


def predict(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    import torch

    from lib import recipes
    from lib.core.records import Stage

    config, recipe, stage = settings(args.preset, folder), recipes.load("da3_eth3d"), Stage("adapt", 1)
    photographs(folder / "photos", args.photos)
    parts = recipe.build(config, stage, {"base": folder})
    started, cpu, before = time.monotonic(), time.process_time(), peak_gb()
    with torch.no_grad():
        recipe.predict(config, stage, parts, str(folder / "photos"), folder / "out")
    said = {"seconds": seconds_since(started), "cpu_seconds": round(time.process_time() - cpu, 1)}
    assert (folder / "out" / "points.ply").exists()
    return said | {"threads": torch.get_num_threads(), "before_gb": before, "peak_gb": peak_gb()}


def photographs(folder: Path, count: int) -> None:
    """Views of one world of boxes, enlarged to what a camera leaves."""
    from PIL import Image

    from lib.scenes import stand_in

    folder.mkdir()
    width, height = WIDTH_PX // 2, HEIGHT_PX // 2
    for number, image in enumerate(stand_in.box_sample(1, count, width, height)["images"]):
        picture = Image.fromarray((image.transpose(1, 2, 0) * 255).astype("uint8"))
        picture.resize(PHOTO_PX, Image.Resampling.BICUBIC).save(folder / f"{number:03d}.jpg", quality=90)


if __name__ == "__main__":
    main()
