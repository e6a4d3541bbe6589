"""Does a trained network look at its pictures? Held-out mAP with each frame's own pictures, and with those of another scene:

    python -m tests.bench.map_pictures RUN [--root DIR]

What is left with wrong pictures is what the network knows of roads in general; only the rest was seen.
"""

import argparse
import json
from pathlib import Path

import torch

from lib import adapters, assets, checkpoint, split
from lib.config import from_dotted
from lib.order import Key
from lib.recipes import llava_map
from lib.run import Run, read_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run")
    parser.add_argument("--root", type=Path, default=Path())
    args = parser.parse_args()
    cfg, parts, samples = opened(Run(args.root, args.run))
    shift = len(samples) // 2  # frames come by scene: half of them on is another one
    own, other = (scored(cfg, parts, samples, shown) for shown in (samples, samples[shift:] + samples[:shift]))
    print(json.dumps({name: {"own": round(own[name], 4), "other": round(other[name], 4)} for name in own if not name.endswith("m")}))


def opened(run: Run):
    """The run's settings, its trained network and its held-out samples."""
    cfg = from_dotted(llava_map.Config, read_json(run.record)["config"])
    prepared = next(name for name in read_json(run.stamp(3))["outputs"] if name.startswith("cache/"))
    manifest = split.read_manifest(run.manifest, run.root / prepared)
    stage = llava_map.stages(cfg, manifest)[-1]
    parts = llava_map.build(cfg, stage, assets.places(run, llava_map, cfg, []))
    wrapped = adapters.attach(parts)
    checkpoint.load(checkpoint.choose(run.stage(stage.name), "best"), parts, wrapped, parts.base)
    adapters.set_mode(parts, training=False)
    sampler = llava_map.sampler(cfg, stage, manifest, "val")
    return cfg, parts, [sampler.draw(i, Key(cfg.train.seed, 0, i)) for i in range(sampler.length)]


@torch.no_grad()
def scored(cfg, parts, samples: list[dict], shown: list[dict]) -> dict[str, float]:
    """The metrics of `samples` when the network is shown the pictures of `shown`."""
    rows = []
    for sample, pictures in zip(samples, shown, strict=True):
        rows += llava_map.score_batch(cfg, parts, llava_map.collate([sample | {"folder": pictures["folder"]}]))
    return llava_map.summarise(cfg, rows)


if __name__ == "__main__":
    main()
