"""A folder of photos -> depth, confidence, cameras, a coloured point cloud, a montage.

- `<photo>.depth.npy`: (h, w) float32 in units of the scene, because the network knows no metres
- `<photo>.depth.png`: the same in colour
- `<photo>.confidence.npy`: (h, w) float32, at least 1
- `images/<photo>.png`: the photo as the network saw it, cut and resized
- `sparse/{cameras,images,points3D}.txt`: a COLMAP text model of these images; the first photo's camera is the world.
  Its points are those that several photos agree on, with the pixels that see them
- `photos/sparse/...`: the same model for the photos at their own size, upright
- `points.ply`: the confident half of the pixels
- `montage.png`
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib.core.errors import Stop
from lib.core.run import atomic
from lib.data import pictures
from lib.scenes import colmap_writer, geometry, tracks
from lib.scenes.colmap_writer import Picture
from lib.scenes.sections import Settings

PHOTOS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp")
KEPT = 0.8  # a photo of which less is seen is named
CONFIDENT_SHARE = 0.5
MOST_POINTS = 400_000
MONTAGE_PHOTOS = 8

# Images (1, s, 3, h, w) on the CPU, and which of the photos they are -> what the network finds.
Forward = Callable[[Tensor, list[int]], dict[str, Tensor]]


@dataclass(frozen=True)
class Photos:
    """called: what each photo's files are called; images (s, 3, h, w), RGB in 0..1.

    whole: what they are cut from, empty for a scene that has a model of its photos already.
    """

    called: list[str]
    images: Tensor
    whole: list[Picture]


def write(out: Path, photos: Photos, found: dict[str, Tensor]) -> None:
    """All files of the photos, from what `run` found for them."""
    called, images = photos.called, photos.images
    depth, confidence = found["depth"][..., 0], found["depth_conf"]  # (s, h, w)
    height_px, width_px = depth.shape[-2:]
    cam_from_world, intrinsics = geometry.decode_cameras(found["pose_enc"], height_px, width_px)
    with torch.autocast("cpu", enabled=False):  # a matrix product in bf16 would move the points
        points = geometry.world_points_from_depth(depth, cam_from_world, intrinsics)
        seen = tracks.find(images, points, cam_from_world, intrinsics, confident(confidence), depth)
    write_images(out, called, images, depth, confidence)
    cut = [Picture(f"{name}.png", width_px, height_px) for name in called]
    colmap_writer.write(out / "sparse", cut, cam_from_world, intrinsics, seen)
    if photos.whole:
        colmap_writer.write(out / "photos" / "sparse", photos.whole, cam_from_world, intrinsics, seen)
    write_cloud(out / "points.ply", points, images, confidence)
    write_montage(out / "montage.png", called, images, depth, confidence)
    print(f"{len(called)} photos, {images.shape[-1]} x {images.shape[-2]} px each")


# ---------------------------------------------------------------------------------------------- in


def photographs(config: Settings, folder: Path) -> Photos:
    """All have the network's width, and are cut at the centre to the shape of the first one.

    A photo that cannot be used is named and left out. Stop: none is left.
    """
    found = sorted(folder.glob("*")) if folder.is_dir() else []
    paths = [path for path in found if path.suffix.lower() in PHOTOS and not path.name.startswith(".")]
    if not paths:
        raise Stop(f"{folder} holds no photos ({', '.join(PHOTOS)})", "give a folder of photos to --predict")
    used, seen, whole, size = [], [], [], None
    for path in paths:
        photo = read(path)
        if photo is None:
            continue
        size = size or network_size(config, photo)
        say_what_is_cut(path, photo, size)
        used.append(path)
        whole.append(cut_from(path.name, photo, size))
        seen.append(np.asarray(fitted(photo, size), np.float32) / 255)
    if not used:
        raise Stop(f"none of the {len(paths)} photos in {folder} can be used", "give other photos to --predict")
    return Photos(names(used), torch.from_numpy(np.stack(seen)).permute(0, 3, 1, 2).contiguous(), whole)


def names(paths: list[Path]) -> list[str]:
    """What each photo's files are called: its name without suffix, which stays where two would be called the same."""
    stems = [path.stem for path in paths]
    return [path.name if stems.count(path.stem) > 1 else path.stem for path in paths]


def read(path: Path) -> Any:
    """The photo upright and in RGB; None, and its reason is printed, where it cannot be used."""
    try:
        photo = pictures.read(path, upright=True)
        pictures.refuse_one_colour(photo)
    except pictures.Unreadable as reason:
        print(f"  {path.name} is left out: {reason}", flush=True)
        return None
    return photo


def network_size(config: Settings, photo: Any) -> tuple[int, int]:
    """Width and height in px: the model's width, the photo's shape in whole patches, at most a square."""
    width, patch = config.model.image_width_px, config.model.patch_size
    return width, max(patch, min(width, round(photo.height * width / photo.width / patch) * patch))


def say_what_is_cut(path: Path, photo: Any, size: tuple[int, int]) -> None:
    shape, seen = photo.width / photo.height, size[0] / size[1]
    if (kept := min(shape / seen, seen / shape)) < KEPT:
        said = f"{kept:.0%} of it is seen, the rest is cut off: it has {photo.width} x {photo.height} px"
        print(f"  {path.name}: {said}, the network sees {size[0]} x {size[1]}", flush=True)


def fitted(photo: Any, size: tuple[int, int]) -> Any:
    from PIL import Image, ImageOps

    return ImageOps.fit(photo, size, Image.Resampling.BICUBIC)


def cut_from(name: str, photo: Any, size: tuple[int, int]) -> Picture:
    """What `fitted` cuts: the largest rectangle of the size's shape at the photo's centre."""
    shape = size[0] / size[1]
    width, height = min(photo.width, photo.height * shape), min(photo.height, photo.width / shape)
    left, top = (photo.width - width) / 2, (photo.height - height) / 2
    return Picture(name, photo.width, photo.height, left, top, width / size[0], height / size[1])


# ---------------------------------------------------------------------------------------------- through the network


def run(forward: Forward, images: Tensor, at_once: int = 0) -> dict[str, Tensor]:
    """pose_enc (s, 9), depth (s, h, w, 1), depth_conf (s, h, w).

    All views at once, or at most `at_once`; when memory is short, fewer.
    """
    views = min(len(images), at_once or len(images))
    while True:
        try:
            return joined([one_pass(forward, images, chunk) for chunk in chunks(len(images), views)])
        except torch.OutOfMemoryError:
            if views <= 2:
                raise Stop("two views do not fit into memory", "use a smaller model.image_width_px") from None
            views = max(2, views // 2)
            torch.cuda.empty_cache()
            print(f"out of memory: going on with {views} views at a time", flush=True)


def chunks(count: int, views: int) -> list[list[int]]:
    """Groups of at most `views` photos that all begin with the first one, so that its camera is the world of all."""
    if count <= views:
        return [list(range(count))]
    return [[0, *range(start, min(start + views - 1, count))] for start in range(1, count, views - 1)]


def one_pass(forward: Forward, images: Tensor, chunk: list[int]) -> dict[str, Tensor]:
    """One pass over some of the images (s, 3, h, w), its results on the CPU."""
    found = forward(images[chunk][None], chunk)
    return {key: found[key][0].float().cpu() for key in ("pose_enc", "depth", "depth_conf")}


def joined(found: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Every chunk has a unit of its own: each is scaled so that the medians of the shared first photo's depth agree."""
    first = found[0]
    for one in found[1:]:
        scale = (first["depth"][0] / one["depth"][0]).median()
        one["depth"] *= scale
        one["pose_enc"][:, :3] *= scale
    return {key: torch.cat([first[key], *(one[key][1:] for one in found[1:])]) for key in first}


# ---------------------------------------------------------------------------------------------- out


def write_images(out: Path, names: list[str], images: Tensor, depth: Tensor, confidence: Tensor) -> None:
    """Every photo's depth and confidence, from (s, 3, h, w), (s, h, w) and (s, h, w)."""
    low, high = limits(depth)
    for name, image, far, sure in zip(names, images, depth, confidence, strict=True):
        save_array(out / f"{name}.depth.npy", far)
        save_array(out / f"{name}.confidence.npy", sure)
        save_png(out / f"{name}.depth.png", coloured(far, low, high))
        save_png(out / "images" / f"{name}.png", eight_bit(image.permute(1, 2, 0).numpy()))


def save_array(path: Path, values: Tensor) -> None:
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.save(file, values.numpy(), allow_pickle=False)


def save_png(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    with atomic(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


def limits(values: Tensor) -> tuple[float, float]:
    """What a colour scale runs between: the ends without 2 % of the pixels on either side."""
    low, high = np.percentile(values.numpy(), (2, 98))
    return low, high


def coloured(values: Tensor, low: float, high: float) -> np.ndarray:
    """A map (h, w) in colour, (h, w, 3) uint8."""
    from matplotlib import colormaps

    return eight_bit(colormaps["turbo"](((values.numpy() - low) / max(high - low, 1e-9)).clip(0, 1))[..., :3])


def eight_bit(values: np.ndarray) -> np.ndarray:
    """0..1 as uint8."""
    return (values * 255).round().astype(np.uint8)


def confident(confidence: Tensor) -> Tensor:
    """(s, h, w) bool: the surer half of all pixels."""
    return confidence >= float(np.quantile(confidence.numpy(), 1 - CONFIDENT_SHARE))


def write_cloud(path: Path, points: Tensor, images: Tensor, confidence: Tensor) -> None:
    """Binary PLY of the most confident pixels, thinned evenly to MOST_POINTS.

    points: (s, h, w, 3) in the world; images: (s, 3, h, w) in 0..1; confidence: (s, h, w).
    """
    keep = confident(confidence).numpy()
    every = slice(None, None, -(-int(keep.sum()) // MOST_POINTS))
    xyz, rgb = points.numpy()[keep][every], images.permute(0, 2, 3, 1).numpy()[keep][every]
    table = np.empty(len(xyz), dtype=[("xyz", "<f4", 3), ("rgb", "u1", 3)])
    table["xyz"], table["rgb"] = xyz, eight_bit(rgb)
    properties = [f"property float {axis}" for axis in "xyz"]
    properties += [f"property uchar {colour}" for colour in ("red", "green", "blue")]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(table)}", *properties, "end_header", ""]
    with atomic(path) as temporary:
        temporary.write_bytes("\n".join(header).encode() + table.tobytes())


def write_montage(path: Path, names: list[str], images: Tensor, depth: Tensor, confidence: Tensor) -> None:
    """One column per photo, as far as there is room: photo, depth, confidence."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = range(min(MONTAGE_PHOTOS, len(names)))
    figure, axes = plt.subplots(3, len(shown), figsize=(2.2 * len(shown) + 1, 5.4), layout="constrained", squeeze=False)
    (near, far), (least, most) = limits(depth), limits(confidence)
    for column in shown:
        axes[0, column].imshow(images[column].permute(1, 2, 0).numpy())
        axes[0, column].set_title(names[column][:18], fontsize=8)
        deep = axes[1, column].imshow(depth[column].numpy(), cmap="turbo", vmin=near, vmax=far)
        sure = axes[2, column].imshow(confidence[column].numpy(), cmap="viridis", vmin=least, vmax=most)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.colorbar(deep, ax=axes[1], label="depth (scene units)")
    figure.colorbar(sure, ax=axes[2], label="confidence")
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
