"""The step of the recipes whose demo is a run of its own: HaMeR, VA-VAE's alignment, maps; and what begins each run.

Steps 1 to 3 make the data of the demo at tiny scale; the network is the demo's. The loader of the person's own loop
decodes what that person has: hands are cut from JPEGs of 12 megapixels, spectrograms are PNGs, six pictures are JPEGs.
"""

import argparse
import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib.core.job import Job
from lib.core.records import Manifest, Sampler, Stage
from lib.core.session import Clock
from lib.network.frozen_features import FeatureCache
from tests.bench import loops, turns

REPOSITORY = Path(__file__).resolve().parents[2]
PHOTO_PX = (4000, 3000)  # of a picture with a hand in it
RECIPES = {
    "hamer": {"train.global_batch": 8, "train.micro_batch": 8},
    "vavae_microdoppler": {"train.global_batch": 4, "train.micro_batch": 4},
    "llava_map": {"train.global_batch": 2, "train.micro_batch": 2},
}


def measure(name: str, root: Path, turns_each: int) -> dict[str, Any]:
    """Seconds of a step of the demo: ours by default, with nothing kept, a loop of one's own, the floor."""
    job, stage, manifest, places = opened(name, root, RECIPES[name])
    recipe, config = job.recipe, job.config
    work: dict[str, loops.Step] = {}
    for kind, keep in (("default", True), ("uncached", False)):
        sampler = recipe.sampler(config, stage, manifest, "train")
        each = config.train.global_batch
        count = each * min(4, sampler.length // each)  # whole batches
        few = Sampler(count, sampler.draw)  # they come again at once, as in the second epoch
        parts = recipe.build(config, stage, places)
        made = loops.training(root / f"{name}-{kind}", recipe, config, stage, parts, few, keep)
        made.step = max(objective.from_step for objective in made.objectives)
        work[kind] = loops.ours(made)
        for _ in range(4):
            work[kind]()
        if keep:
            work["floor"] = loops.floor(made)
    parts = recipe.build(config, stage, places)
    read = reader(name, recipe, config, stage, manifest, root)
    if name == "vavae_microdoppler":
        parts.modules["vision"].requires_grad_(False)
        read = with_teacher(read, FeatureCache(parts, None, 0))
    work["peer"] = loops.peer(recipe, config, stage, parts, count, read)
    found = turns.in_turns(work, turns_each, 2)
    pairs = (("peer", "default"), ("uncached", "default"), ("default", "floor"))
    return {"seconds": found, "ratios": {f"{slow}/{fast}": turns.ratio(found, slow, fast) for slow, fast in pairs}}


def opened(
    name: str, root: Path, settings: dict[str, int], scale: str = "tiny"
) -> tuple[Job, Stage, Manifest, dict[str, Path]]:
    """The prepared demo of a recipe below `root`: its first stage, its data, where its assets lie."""
    from lib.commands import settings as stored
    from lib.data import places
    from lib.network.setup import make_stage_inputs, read_prepared

    prepare(name, root, settings, scale)
    flags = {"root": root, "run": name, "overrides": [], "inputs": [], "plan": False}
    args = argparse.Namespace(recipe=None, preset=None, demo=None, **flags)
    run, recipe, config, record = stored.of_run(4, args)
    job = Job(4, run, recipe, config, record, args, Clock(None, 1, time.monotonic()))
    manifest = read_prepared(job)
    stage = recipe.stages(config, manifest)[0]
    accelerator = loops.processes.accelerator(loops.precision(), run.folder)
    folders = places.asset_dirs(run, recipe, config, [])
    folders, manifest = make_stage_inputs(job, stage, manifest, folders, accelerator)
    return job, stage, manifest, folders


def prepare(name: str, root: Path, settings: dict[str, int], scale: str = "tiny") -> dict[str, float]:
    """Steps 1 to 3, and the seconds of the last of them."""
    words = [f"{key}={value}" for key, value in settings.items()]
    run_script("step2_download.py", root, name, "--demo", "--recipe", name, *words, scale=scale)
    return run_script("step3_prepare.py", root, name, scale=scale)


def run_script(script: str, root: Path, name: str, *words: str, scale: str = "tiny") -> dict[str, float]:
    """Wall and CPU seconds of one call of a step, its children included."""
    command = [sys.executable, str(REPOSITORY / script), "--run", name, "--root", str(root), *words]
    before, started = os.times(), time.perf_counter()
    environment = os.environ | {"PIPELINE_SCALE": scale}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=root)
    after = os.times()
    assert done.returncode == 0, done.stdout + done.stderr
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall": round(time.perf_counter() - started, 2), "cpu": round(cpu, 2)}


# ---------------------------------------------------------------------------------------------- one's own loader


def reader(
    name: str, recipe: Any, config: Any, stage: Stage, manifest: Manifest, root: Path
) -> Callable[[int], dict[str, Any]]:
    """Samples whose pictures come from the files that a person has."""
    from lib.core.order import Key

    sampler = recipe.sampler(config, stage, manifest, "train")

    def draw(index: int) -> dict[str, Any]:
        return sampler.draw(index, Key(0, 0, index))

    if name != "hamer":
        return draw
    photo, labels = root / "photo.jpg", functools.cache(draw)
    hand_in_photo(photo)

    def read(index: int) -> dict[str, Any]:
        """The labels cost nothing here; the crop comes out of the decoded photo."""
        from PIL import Image

        found = labels(index)
        picture = Image.open(photo).convert("RGB")
        box = (1500, 1000, 2500, 2000)
        crop = picture.resize((config.model.crop_px,) * 2, Image.Resampling.BILINEAR, box=box)
        return found | {"image": (np.asarray(crop, np.float32) / 255).transpose(2, 0, 1).copy()}

    return read


def with_teacher(read: Callable[[int], dict[str, Any]], front: FeatureCache) -> Callable[[int], dict[str, Any]]:
    """What the alignment compares with is computed again for each sample, as the published training does."""

    @torch.no_grad()
    def made(index: int) -> dict[str, Any]:
        return front.fill(read(index))

    return made


def hand_in_photo(path: Path) -> None:
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(PHOTO_PX, Image.Resampling.BICUBIC).save(path, quality=92)


# ---------------------------------------------------------------------------------------------- how a run begins


def start_up(root: Path, name: str = "vggt_eth3d") -> dict[str, Any]:
    """Seconds of `--help` and `--plan`, of step 3 of the demo, and of step 4 until its first optimiser step."""
    found: dict[str, Any] = {"step 3 of the tiny demo": prepare(name, root, {})}
    found["--help"] = run_script("step4_train.py", root, name, "--help")
    found["--plan"] = run_script("step4_train.py", root, name, "--plan")
    found["step 4 to its first optimiser step"] = run_first_step(root, name)
    return found


def run_first_step(root: Path, name: str) -> dict[str, float]:
    """Step 4 in a child that ends itself where the first optimiser step would begin."""
    script = "import sys; from tests.bench.demos import until_first_step; until_first_step(sys.argv.pop(1))"
    command = [sys.executable, "-c", script, str(REPOSITORY / "step4_train.py"), "--run", name, "--root", str(root)]
    environment = os.environ | {"PIPELINE_SCALE": "tiny", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=root)
    [line] = [line for line in done.stdout.splitlines() if line.startswith("first step:")]
    wall, cpu = map(float, line.split()[2:])
    return {"wall": round(wall, 2), "cpu": round(cpu, 2)}


def until_first_step(path: str) -> None:
    import runpy

    started = time.perf_counter()

    def begin(training: Any) -> None:
        print("first step:", time.perf_counter() - started, time.process_time(), flush=True)
        os._exit(0)

    class Patch:
        """`lib.training.loop` has its step replaced where it is first looked for, so that nothing comes before it."""

        def find_spec(self, name: str, path: object, target: object = None) -> None:
            if name == "lib.training.stages":
                sys.meta_path.remove(self)
                from lib.training import loop

                loop.optimiser_step = begin  # type: ignore[attr-defined,assignment]

    sys.meta_path.insert(0, Patch())
    sys.argv[0] = path
    runpy.run_path(path, run_name="__main__")
