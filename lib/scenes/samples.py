"""Which frames make a sample, as functions of counters: by covisibility, in random order, with a random reference.

`train` draws new frames for every key. `test` is a fixed list of sequences of held-out scenes, which step 5 scores;
`select` is another one, of other scenes, which chooses the checkpoint.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.core.errors import Stop
from lib.core.hashes import checked
from lib.core.order import Key
from lib.core.records import Batch, Manifest, Record, Sample, Sampler, Stage
from lib.core.run import read_json
from lib.scenes.sections import Settings


@dataclass(frozen=True)
class Scene:
    """The prepared views of a scene that lie on one side of the split."""

    name: str
    group: str
    folder: Path
    views: list[str]
    cam_from_world: np.ndarray  # (views, 3, 4), in the unit of the scene
    intrinsics: np.ndarray  # (views, 3, 3) in px
    covisibility: np.ndarray  # (views, views), diagonal 0


def open_scenes(manifest: Manifest, side: str) -> list[Scene]:
    """The scenes of "train", "select" or "test", in the manifest's order. Stop: there is none."""
    scenes: dict[str, list[Record]] = {}  # several of one group, where a folder held several models
    for record in manifest.side(side):
        scenes.setdefault(record.sample_id.partition("/")[0], []).append(record)
    if not scenes:
        raise Stop(f"the manifest has no usable image on the {side} side", "python step3_prepare.py --force")
    return [open_scene(manifest.arrays, name, records) for name, records in scenes.items()]


def open_scene(arrays: Path, name: str, records: list[Record]) -> Scene:
    stored = read_json(checked(arrays / name / "scene.json"))
    wanted = [record.sample_id.partition("/")[2] for record in records]
    rows = [list(stored["views"]).index(view) for view in wanted]
    covisibility = np.array(stored["covisibility"])[np.ix_(rows, rows)]
    np.fill_diagonal(covisibility, 0)
    views = [stored["views"][view] for view in wanted]
    poses, cameras = (np.array([view[key] for view in views]) for key in ("cam_from_world", "intrinsics"))
    return Scene(name, records[0].group, arrays / name, wanted, poses, cameras, covisibility)


def sampler(config: Settings, stage: Stage, manifest: Manifest, side: str) -> Sampler:
    """Samples of `load`, at most eval.select_samples of them to select by, spread evenly.

    Stop: the side is empty, or its views see too little of one another.
    """
    if side == "train":
        return Sampler(config.data.samples_per_epoch, draw_training(config, open_scenes(manifest, "train")))
    sequences = [chosen for scene in open_scenes(manifest, side) for chosen in held_out_sequences(config, scene)]
    if not sequences:
        shortest = min(config.eval.lengths)
        cause = f"no scene of the {side} side has {shortest} views that share what they see (data.val_scenes)"
        raise Stop(cause, "lower eval.lengths, or hold out another scene")
    if side == "select" and len(sequences) > config.eval.select_samples:
        spread = np.linspace(0, len(sequences) - 1, config.eval.select_samples).round().astype(int)
        sequences = [sequences[i] for i in spread]
    with_region = bool(config.data.region_masks)
    purpose = {"chooses": True} if side == "select" else {}  # then only what chooses is scored
    return Sampler(len(sequences), lambda index, key: load(*sequences[index], with_region) | purpose)


def draw_training(config: Settings, scenes: list[Scene]) -> Callable[[int, Key], Sample]:
    """A sample as a function of its key alone: an anchor, partners that see the same, in random order."""
    anchors = anchors_by_length(config, scenes)

    def draw(index: int, key: Key) -> Sample:
        if config.data.distinct_epochs:
            key = Key(key.seed, key.epoch % config.data.distinct_epochs, key.index)
        generator = key.generator()
        available = anchors[generator.integers(len(anchors))]
        scene, anchor, partners, length = available[generator.integers(len(available))]
        frames = np.append(generator.choice(partners, length - 1, replace=False), anchor)
        sample = load(scene, generator.permutation(frames), bool(config.data.region_masks))
        if config.data.scale_jitter:
            sample = enlarge(sample, config.data.scale_jitter, generator)
        return jitter(sample, config.data.colour_jitter, generator) if config.data.colour_jitter else sample

    return draw


def anchors_by_length(config: Settings, scenes: list[Scene]) -> list[list[tuple[Scene, int, np.ndarray, int]]]:
    """For each number of frames the views with enough covisible partners, as (scene, view, partners, frames).

    Lengths that no view can fill are left out. A view with too few partners is never an anchor; views without any
    partner are never drawn, and are named. Stop: no view has enough partners for the fewest frames.
    """
    low, high = config.data.covisibility
    fewest, most = config.data.frames
    views = [(scene, i, row) for scene in scenes for i, row in enumerate(scene.covisibility)]
    partners = [(scene, i, np.flatnonzero((row >= low) & (row <= high) & (row > 0))) for scene, i, row in views]
    if lonely := [f"{scene.name}/{scene.views[i]}" for scene, i, seen in partners if not len(seen) and most > 1]:
        said = f"{len(lonely)} training views share too little with every other one (data.covisibility)"
        print(f"  {said}: {', '.join(lonely[:5])}", flush=True)
    lengths = [
        [(*view, length) for view in partners if len(view[2]) >= length - 1] for length in range(fewest, most + 1)
    ]
    if not lengths[0]:
        cause = f"no training view has {fewest - 1} partners with a covisibility in {config.data.covisibility}"
        raise Stop(cause, "widen data.covisibility, or lower data.frames")
    return [available for available in lengths if available]


def held_out_sequences(config: Settings, scene: Scene) -> list[tuple[Scene, np.ndarray]]:
    """Sequences of each length as far as the scene has views; those of one length share no view."""
    lengths, most = (
        [length for length in config.eval.lengths if length <= len(scene.views)],
        config.eval.sequences_per_scene,
    )
    return [(scene, np.array(chain)) for length in lengths for chain in chains(scene, length, most)]


def chains(scene: Scene, length: int, most: int) -> list[list[int]]:
    """Up to `most` disjoint sequences, whose starts are spread over the scene; each takes the unused view that its
    frames see best.

    Where no unused view shares anything with them, the sequence ends too early and is left out: its depth has no common
    scale.
    """
    count = min(most, len(scene.views) // length)
    unused = set(range(len(scene.views)))
    found = []
    for start in np.linspace(0, len(scene.views), count, endpoint=False).astype(int):
        if not unused:
            break  # taken by a sequence that ended too early
        chain = [min(unused, key=lambda view: (abs(view - start), view))]
        unused.remove(chain[0])
        while len(chain) < length:
            following = max(sorted(unused), key=lambda view: scene.covisibility[chain, view].max(), default=None)
            if following is None or scene.covisibility[chain, following].max() == 0:
                said = f"no sequence of {length} held-out views from {scene.views[chain[0]]}, they share nothing"
                print(f"  {scene.name}: {said}", flush=True)
                break
            chain.append(following)
            unused.remove(following)
        else:
            found.append(chain)
    return found


def load(scene: Scene, frames: np.ndarray, with_region: bool) -> Sample:
    """The arrays of some views, the first of which is the reference. Depth 0 is unknown; pixel centres are integers."""
    names = [scene.views[i] for i in frames]

    def stacked(kind: str) -> np.ndarray:
        return np.stack([np.load(checked(scene.folder / f"{name}.{kind}.npy"), mmap_mode="r") for name in names])

    images, depths = stacked("image"), stacked("depth")
    region = {"region": stacked("region")} if with_region else {}  # (frames, h, w) bool
    return region | {
        "sample_id": f"{scene.name}/{'+'.join(names)}",
        "group": scene.group,
        "units": [f"{scene.name}/{name}" for name in names],
        "images": images.transpose(0, 3, 1, 2).astype(np.float32) / 255,  # (frames, 3, h, w) in 0..1
        "depths": depths,  # (frames, h, w) in the unit of the scene
        "valid": depths > 0,  # (frames, h, w)
        "extrinsics": scene.cam_from_world[frames].astype(np.float32),  # (frames, 3, 4) camera from world
        "intrinsics": scene.intrinsics[frames].astype(np.float32),  # (frames, 3, 3) in pixels
    }


def enlarge(sample: Sample, strength: float, generator: np.random.Generator) -> Sample:
    """Crop and scale: of each frame the middle, min(1, 1 +- strength) of its size, at full size.

    The focal length follows, the principal point stays, and depth, which is along the axis, keeps its value.
    """
    shares = np.minimum(1, 1 + strength * generator.uniform(-1, 1, len(sample["images"])))
    images = np.stack([middle(image, share) for image, share in zip(sample["images"], shares, strict=True)])
    intrinsics = sample["intrinsics"].copy()
    intrinsics[:, [0, 1], [0, 1]] /= shares[:, None]
    height, width = sample["depths"].shape[1:]
    # Pixel centres are integers, and the principal point, which stays in place, lies at (width / 2, height / 2).
    rows, columns = (
        np.rint((np.arange(size) - size / 2) * shares[:, None] + size / 2).astype(int) for size in (height, width)
    )
    nearest = (np.arange(len(shares))[:, None, None], rows[:, :, None], columns[:, None, :])
    maps = {name: sample[name][nearest] for name in ("depths", "valid", "region") if name in sample}
    return sample | maps | {"images": images, "intrinsics": intrinsics}


def middle(image: np.ndarray, share: float) -> np.ndarray:
    """(3, h, w) in 0..1: the part of an image around its principal point, `share` of its size, at full size."""
    from PIL import Image

    height, width = image.shape[1:]
    left, top = (1 - share) * (width + 1) / 2, (1 - share) * (height + 1) / 2
    box = (left, top, left + share * width, top + share * height)
    bicubic, size = Image.Resampling.BICUBIC, (width, height)
    channels = [np.asarray(Image.fromarray(channel).resize(size, bicubic, box=box)) for channel in image]
    return np.clip(np.stack(channels), 0, 1)


def jitter(sample: Sample, strength: float, generator: np.random.Generator) -> Sample:
    """Brightness, contrast and saturation by factors in 1 +- strength, hue by +- strength / 5 of the circle.

    Every frame has factors of its own.
    """
    from PIL import Image, ImageEnhance

    frames = []
    for image in sample["images"]:
        picture = Image.fromarray((image.transpose(1, 2, 0) * 255).round().astype(np.uint8))
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            picture = enhance(picture).enhance(max(0.0, 1 + strength * generator.uniform(-1, 1)))
        hue, saturation, value = picture.convert("HSV").split()
        turn = int(strength / 5 * 255 * generator.uniform(-1, 1))
        hue = hue.point([(level + turn) % 256 for level in range(256)])
        picture = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
        frames.append(np.asarray(picture).transpose(2, 0, 1).astype(np.float32) / 255)
    return sample | {"images": np.stack(frames)}


def collate(config: Settings, stage: Stage, samples: list[Sample]) -> Batch:
    """Samples of one length, stacked into tensors; names, groups and units stay lists."""
    import torch

    batch: Batch = {}
    for name, value in samples[0].items():
        values = [sample[name] for sample in samples]
        listed = isinstance(value, str | list)
        batch[name] = values if listed else torch.stack([torch.as_tensor(array) for array in values])
    return batch
