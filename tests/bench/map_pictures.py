"""Does a trained network look at its pictures? Held-out mAP with a frame's own, and with those of another scene:

    python -m tests.bench.map_pictures RUN [--root DIR]

What is left with wrong pictures is what the network knows of roads in general; only the rest was seen.
"""

import argparse
import json
from pathlib import Path

import torch

from lib import recipes
from lib.core.config import from_dotted
from lib.core.order import Key
from lib.core.run import Run, read_json
from lib.data import places, split
from lib.network import adapters, checkpoint

RECIPE = recipes.load("llava_map")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run")
    parser.add_argument("--root", type=Path, default=Path())
    args = parser.parse_args()
    config, stage, parts, samples = opened(Run(args.root, args.run))
    shift = len(samples) // 2  # frames come by scene: half of them on is another one
    shuffled = samples[shift:] + samples[:shift]
    own, other = (scored(config, stage, parts, samples, shown) for shown in (samples, shuffled))
    over_thresholds = [name for name in own if not name.endswith("m")]
    print(json.dumps({name: {"own": round(own[name], 4), "other": round(other[name], 4)} for name in over_thresholds}))


def opened(run: Run):
    """The run's settings, its last stage, the trained network and the held-out samples."""
    config = from_dotted(RECIPE.Config, read_json(run.record)["config"])
    prepared = next(name for name in read_json(run.stamp(3))["outputs"] if name.startswith("cache/"))
    manifest = split.read_manifest(run.manifest, run.root / prepared)
    stage = RECIPE.stages(config, manifest)[-1]
    parts = RECIPE.build(config, stage, places.asset_dirs(run, RECIPE, config, []))
    wrapped = adapters.attach(parts)
    checkpoint.load(checkpoint.choose(run.stage(stage.name), "best"), parts, wrapped, parts.base)
    adapters.set_mode(parts, training=False)
    sampler = RECIPE.sampler(config, stage, manifest, "test")
    return config, stage, parts, [sampler.draw(i, Key(config.train.seed, 0, i)) for i in range(sampler.length)]


@torch.no_grad()
def scored(config, stage, parts, samples: list[dict], shown: list[dict]) -> dict[str, float]:
    """The metrics of `samples` when the network is shown the pictures of `shown`."""
    rows = []
    for sample, pictures in zip(samples, shown, strict=True):
        batch = RECIPE.collate(config, stage, [sample | {"folder": pictures["folder"]}])
        rows += RECIPE.score_batch(config, stage, parts, batch)
    return RECIPE.summarise(config, stage, rows)


if __name__ == "__main__":
    main()
