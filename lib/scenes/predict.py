"""A folder of photos -> depth, confidence, cameras, a coloured point cloud, a montage. NAME is a photo's path below the
folder without its suffix.

- `NAME.depth.npy`: (h, w) float32 in units of the scene, because the network knows no metres (`--scale` does)
- `NAME.depth.png`: the same in colour
- `NAME.confidence.npy`: (h, w) float32, at least 1; 0 where the photo shows nothing
- `images/NAME.png`: the photo as the network saw it, cut and resized
- `sparse/{cameras,images,points3D}.txt`: a COLMAP text model of these images; the first photo's camera is the world.
  Its points are those that several photos agree on, with the pixels that see them
- `photos/sparse/...`: the same model for the photos at their own size, upright, by their names in the folder
- `points.ply`: the confident half of the pixels
- `montage.png`
- `piece2/`, `piece3/`, ...: models, cloud and montage of photos that could not be put into one world with the first
- `scale.json`: where the unit is given, by how much the network's own was larger for each photo
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from lib.core.run import atomic, folder_unless_stopped, write_json
from lib.core.words import counted
from lib.scenes import chunks, colmap_writer, montage, tracks
from lib.scenes.chunks import Forward, View
from lib.scenes.colmap_writer import Picture
from lib.scenes.montage import Limits
from lib.scenes.photos import Photo
from lib.scenes.scale import Scale

CONFIDENT_SHARE = 0.5
MOST_POINTS = 400_000
MOST_SAMPLED = 4_000_000  # pixels of which limits are quantiles; where there are more, they are spread evenly
RAW = ".raw.", ".tmp"  # how the folder of what the network said begins and ends, until all of it is known


def predict(photos: list[Photo], forward: Forward, at_once: int, out: Path, scale: Scale | None = None) -> None:
    """All files of the photos, of which the network sees at most `at_once` at a time. Nothing is written before all of
    them went through it.

    Stop: none can be used, two do not fit into memory, or the unit cannot be told.
    """
    with folder_unless_stopped(out), folder_of_raw(out) as raw:
        views = chunks.through_network(forward, photos, at_once, raw)
        with torch.autocast("cpu", enabled=False):  # a matrix product in bf16 would move the points
            if scale:
                scale.apply(views)
            if scale or photos[0].camera:
                units = {view.photo.called: 1 / view.unit for view in views}
                write_json(out / "scale.json", {"network_units_per_given_unit": units})
            for piece in range(views[-1].piece + 1):
                write_piece(out, [view for view in views if view.piece == piece])
    sizes = sorted({f"{view.photo.window.width} x {view.photo.window.height}" for view in views})
    print(f"{counted(len(views), 'photo')}, {' or '.join(sizes)} px each")


@contextlib.contextmanager
def folder_of_raw(out: Path) -> Iterator[Path]:
    """In `out`, which loses what a killed prediction left there."""
    for leftover in out.glob("*".join(RAW)):
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(dir=out, prefix=RAW[0], suffix=RAW[1]) as raw:
        yield Path(raw)


def write_piece(out: Path, views: list[View]) -> None:
    """The files of photos that lie in one world."""
    found = limits(views)
    for view in views:
        write_maps(out, view, found)
    below = out / chunks.piece_folder(views[0].piece)
    cameras = torch.stack([view.cam_from_world for view in views])
    intrinsics = torch.stack([view.intrinsics for view in views])
    windows = [view.photo.window for view in views]
    sizes = [(window.height, window.width) for window in windows]
    seen = tracks.find(cameras, intrinsics, sizes, lambda number: surface(views[number], found.sure))
    cut = [
        Picture(f"{view.photo.called}.png", window.width, window.height)
        for view, window in zip(views, windows, strict=True)
    ]
    colmap_writer.write(below / "sparse", cut, cameras, intrinsics, seen)
    if whole := [view.photo.whole for view in views if view.photo.whole]:
        colmap_writer.write(below / "photos" / "sparse", whole, cameras, intrinsics, seen)
    write_cloud(below / "points.ply", views, found.sure)
    montage.write(below / "montage.png", views, found)


def surface(view: View, sure: float) -> tracks.Surface:
    return tracks.Surface(view.depth, view.points(), view.confidence >= sure, torch.from_numpy(view.image))


def limits(views: list[View]) -> Limits:
    """A colour scale runs between the ends without 2 % of the pixels on either side."""
    every = -(-sum(view.photo.window.width * view.photo.window.height for view in views) // MOST_SAMPLED)
    depth, confidence = (  # copies: a slice would keep the whole in memory
        np.concatenate([getattr(view, name).numpy().ravel()[::every].copy() for view in views])
        for name in ("depth", "confidence")
    )
    (near, far), (least, most) = (map(float, np.percentile(values, (2, 98))) for values in (depth, confidence))
    return Limits(near, far, least, most, float(np.quantile(confidence[confidence > 0], 1 - CONFIDENT_SHARE)))


def write_maps(out: Path, view: View, found: Limits) -> None:
    """A photo's own files."""
    depth, name = view.depth, view.photo.called
    save_array(out / f"{name}.depth.npy", depth.numpy())
    save_array(out / f"{name}.confidence.npy", view.confidence.numpy())
    save_png(out / f"{name}.depth.png", coloured(depth.numpy(), found.near, found.far))
    save_png(out / "images" / f"{name}.png", view.image)


def save_array(path: Path, values: np.ndarray) -> None:
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.save(file, values, allow_pickle=False)


def save_png(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    with atomic(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


def coloured(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """A map (h, w) in colour, (h, w, 3) uint8."""
    from matplotlib import colormaps

    colours = colormaps["turbo"](((values - low) / max(high - low, 1e-9)).clip(0, 1))[..., :3]
    return (colours * 255).round().astype(np.uint8)


def write_cloud(path: Path, views: list[View], sure: float) -> None:
    """Binary PLY of the most confident pixels, thinned evenly to MOST_POINTS."""
    every = -(-sum(int((view.confidence >= sure).sum()) for view in views) // MOST_POINTS)
    tables, before = [], 0
    for view in views:
        keep = (view.confidence >= sure).numpy()
        chosen = slice(-before % every, None, every)
        before += int(keep.sum())
        xyz, rgb = view.points().numpy()[keep][chosen], view.image[keep][chosen]
        table = np.empty(len(xyz), dtype=[("xyz", "<f4", 3), ("rgb", "u1", 3)])
        table["xyz"], table["rgb"] = xyz, rgb
        tables.append(table)
    properties = [f"property float {axis}" for axis in "xyz"]
    properties += [f"property uchar {colour}" for colour in ("red", "green", "blue")]
    count = sum(map(len, tables))
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {count}", *properties, "end_header", ""]
    with atomic(path) as temporary:
        temporary.write_bytes("\n".join(header).encode() + b"".join(table.tobytes() for table in tables))
