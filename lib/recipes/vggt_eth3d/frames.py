"""Which frames make a sample, as functions of counters: by covisibility, in random order, with a random reference.

`train` draws new frames for every key; `val` is a fixed list of sequences that step 5 scores, `select` a few of them.
"""
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy

from lib.errors import Stop
from lib.order import Key
from lib.recipes import Batch, Manifest, Sample, Sampler
from lib.recipes.vggt_eth3d.config import Config
from lib.run import read_json


@dataclass(frozen=True)
class Scene:
    """The prepared views of a scene that lie on one side of the split."""

    name: str
    group: str
    folder: Path
    views: list[str]
    cam_from_world: numpy.ndarray  # (views, 3, 4)
    intrinsics: numpy.ndarray  # (views, 3, 3)
    covisibility: numpy.ndarray  # (views, views), diagonal 0


def open_scenes(manifest: Manifest, side: str) -> list[Scene]:
    """The scenes of "train" or "val", in the manifest's order."""
    groups: dict[str, list[str]] = {}
    for record in manifest.side(side):
        groups.setdefault(record.group, []).append(record.sample_id)
    if not groups:
        raise Stop(f"the manifest has no usable image on the {side} side", "python step3_prepare.py --force")
    return [open_scene(manifest.arrays, group, ids) for group, ids in groups.items()]


def open_scene(arrays: Path, group: str, ids: list[str]) -> Scene:
    name = ids[0].partition("/")[0]
    stored = read_json(arrays / name / "scene.json")
    wanted = [sample_id.partition("/")[2] for sample_id in ids]
    rows = [list(stored["views"]).index(view) for view in wanted]
    covisibility = numpy.array(stored["covisibility"])[numpy.ix_(rows, rows)]
    numpy.fill_diagonal(covisibility, 0)
    poses, cameras = (numpy.array([stored["views"][view][key] for view in wanted]) for key in ("cam_from_world", "intrinsics"))
    return Scene(name, group, arrays / name, wanted, poses, cameras, covisibility)


def sampler(cfg: Config, manifest: Manifest, split: str) -> Sampler:
    """split: train | select | val (lib.recipes.Sampler). `select` is spread evenly over `val`."""
    if split == "train":
        return Sampler(cfg.data.samples_per_epoch, draw_training(cfg, open_scenes(manifest, "train")))
    sequences = [chosen for scene in open_scenes(manifest, "val") for chosen in held_out_sequences(cfg, scene)]
    if split == "select" and len(sequences) > cfg.eval.select_samples:
        spread = numpy.linspace(0, len(sequences) - 1, cfg.eval.select_samples).round().astype(int)
        sequences = [sequences[i] for i in spread]
    return Sampler(len(sequences), lambda index, key: load(*sequences[index], with_region=bool(cfg.data.region_masks)))


def draw_training(cfg: Config, scenes: list[Scene]) -> Callable[[int, Key], Sample]:
    anchors = anchors_by_length(cfg, scenes)

    def draw(index: int, key: Key) -> Sample:
        if cfg.data.distinct_epochs:
            key = key._replace(epoch=key.epoch % cfg.data.distinct_epochs)
        generator = key.generator()
        available = anchors[generator.integers(len(anchors))]
        scene, anchor, partners, length = available[generator.integers(len(available))]
        frames = numpy.append(generator.choice(partners, length - 1, replace=False), anchor)
        sample = load(scene, generator.permutation(frames), with_region=bool(cfg.data.region_masks))
        if cfg.data.scale_jitter:
            sample = enlarge(sample, cfg.data.scale_jitter, generator)
        return jitter(sample, cfg.data.colour_jitter, generator) if cfg.data.colour_jitter else sample

    return draw


def anchors_by_length(cfg: Config, scenes: list[Scene]) -> list[list[tuple[Scene, int, numpy.ndarray, int]]]:
    """For each number of frames the views that have enough covisible partners; lengths that no view can fill are left out.

    A view that fewer than the fewest partners see is an anchor of nothing; those that nobody sees are never drawn, and named.
    """
    low, high = cfg.data.covisibility
    fewest, most = cfg.data.frames
    views = [(scene, i, row) for scene in scenes for i, row in enumerate(scene.covisibility)]
    partners = [(scene, i, numpy.flatnonzero((row >= low) & (row <= high) & (row > 0))) for scene, i, row in views]
    if lonely := [f"{scene.name}/{scene.views[i]}" for scene, i, seen in partners if not len(seen) and most > 1]:
        names = ", ".join(lonely[:5])
        print(f"  {len(lonely)} training views share too little with every other one (data.covisibility): {names}", flush=True)
    lengths = [[(*view, length) for view in partners if len(view[2]) >= length - 1] for length in range(fewest, most + 1)]
    if not lengths[0]:
        cause = f"no training view has {fewest - 1} partners with a covisibility in {cfg.data.covisibility}"
        raise Stop(cause, "widen data.covisibility, or lower data.frames")
    return [available for available in lengths if available]


def held_out_sequences(cfg: Config, scene: Scene) -> list[tuple[Scene, numpy.ndarray]]:
    """Sequences of each length as far as the scene has views; those of one length share no view."""
    lengths = [length for length in cfg.eval.lengths if length <= len(scene.views)]
    return [(scene, numpy.array(chain)) for length in lengths for chain in chains(scene, length, cfg.eval.sequences_per_scene)]


def chains(scene: Scene, length: int, most: int) -> list[list[int]]:
    """Up to `most` disjoint sequences: each starts spread over the scene and takes the unused view that its frames see best.

    Where no unused view shares anything with them the sequence ends too early and is left out: its depth has no common scale.
    """
    count = min(most, len(scene.views) // length)
    unused = set(range(len(scene.views)))
    found = []
    for start in numpy.linspace(0, len(scene.views), count, endpoint=False).astype(int):
        if not unused:
            break  # taken by a sequence that ended too early
        chain = [min(unused, key=lambda view: (abs(view - start), view))]
        unused.remove(chain[0])
        while len(chain) < length:
            following = max(sorted(unused), key=lambda view: scene.covisibility[chain, view].max(), default=None)
            if following is None or scene.covisibility[chain, following].max() == 0:
                first = scene.views[chain[0]]
                print(f"  {scene.name}: no sequence of {length} held-out views from {first}, they share nothing", flush=True)
                break
            chain.append(following)
            unused.remove(following)
        else:
            found.append(chain)
    return found


def load(scene: Scene, frames: numpy.ndarray, with_region: bool = False) -> Sample:
    """The arrays of some views, the first of which is the reference. Depth 0 is unknown; pixel centres are integers."""
    names = [scene.views[i] for i in frames]
    images = numpy.stack([numpy.load(scene.folder / f"{name}.image.npy", mmap_mode="r") for name in names])
    depths = numpy.stack([numpy.load(scene.folder / f"{name}.depth.npy", mmap_mode="r") for name in names])
    region = {"region": numpy.stack([numpy.load(scene.folder / f"{name}.region.npy") for name in names])} if with_region else {}
    return region | {  # region: (frames, h, w) bool
        "sample_id": f"{scene.name}/{'+'.join(names)}",
        "group": scene.group,
        "units": [f"{scene.name}/{name}" for name in names],
        "images": images.transpose(0, 3, 1, 2).astype(numpy.float32) / 255,  # (frames, 3, h, w) in 0..1
        "depths": depths,  # (frames, h, w)
        "valid": depths > 0,  # (frames, h, w)
        "extrinsics": scene.cam_from_world[frames].astype(numpy.float32),  # (frames, 3, 4) camera from world
        "intrinsics": scene.intrinsics[frames].astype(numpy.float32),  # (frames, 3, 3) in pixels
    }


def enlarge(sample: Sample, strength: float, generator: numpy.random.Generator) -> Sample:
    """Crop and scale: of each frame the middle, min(1, 1 +- strength) of its size, at full size. The focal length follows, the
    principal point stays, and depth, which is along the axis, keeps its value."""
    shares = numpy.minimum(1, 1 + strength * generator.uniform(-1, 1, len(sample["images"])))
    images = numpy.stack([middle(image, share) for image, share in zip(sample["images"], shares)])
    intrinsics = sample["intrinsics"].copy()
    intrinsics[:, [0, 1], [0, 1]] /= shares[:, None]
    height, width = sample["depths"].shape[1:]
    # Pixel centres are integers, and the principal point, which stays in place, lies at (width / 2, height / 2).
    rows, columns = (numpy.rint((numpy.arange(size) - size / 2) * shares[:, None] + size / 2).astype(int) for size in (height, width))
    nearest = (numpy.arange(len(shares))[:, None, None], rows[:, :, None], columns[:, None, :])
    maps = {name: sample[name][nearest] for name in ("depths", "valid", "region") if name in sample}
    return sample | maps | {"images": images, "intrinsics": intrinsics}


def middle(image: numpy.ndarray, share: float) -> numpy.ndarray:
    """(3, h, w) in 0..1: the part of an image around its principal point, at full size."""
    from PIL import Image

    height, width = image.shape[1:]
    left, top = (1 - share) * (width + 1) / 2, (1 - share) * (height + 1) / 2
    box = (left, top, left + share * width, top + share * height)
    channels = [Image.fromarray(channel).resize((width, height), Image.Resampling.BICUBIC, box=box) for channel in image]
    return numpy.clip(numpy.stack([numpy.asarray(channel) for channel in channels]), 0, 1)


def jitter(sample: Sample, strength: float, generator: numpy.random.Generator) -> Sample:
    """Brightness, contrast and saturation by factors in 1 +- strength, hue by +- strength / 5 of the circle, for each frame anew."""
    from PIL import Image, ImageEnhance

    frames = []
    for image in sample["images"]:
        picture = Image.fromarray((image.transpose(1, 2, 0) * 255).round().astype(numpy.uint8))
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            picture = enhance(picture).enhance(max(0.0, 1 + strength * generator.uniform(-1, 1)))
        hue, saturation, value = picture.convert("HSV").split()
        turn = int(strength / 5 * 255 * generator.uniform(-1, 1))
        picture = Image.merge("HSV", (hue.point(lambda level, turn=turn: (level + turn) % 256), saturation, value)).convert("RGB")
        frames.append(numpy.asarray(picture).transpose(2, 0, 1).astype(numpy.float32) / 255)
    return sample | {"images": numpy.stack(frames)}


def collate(samples: list[Sample]) -> Batch:
    """Samples of one length, stacked into tensors; names and groups stay lists."""
    import torch

    batch = {}
    for name, value in samples[0].items():
        values = [sample[name] for sample in samples]
        batch[name] = values if isinstance(value, (str, list)) else torch.stack([torch.as_tensor(array) for array in values])
    return batch
