"""Photos of a folder as the network sees them: decoded when they are asked for, and only as finely as it takes.

A network sees the pictures of one call at one size, which is as wide as the model's and as high as the first photo's
shape says. A photo of another shape is cut at the centre while KEPT of it is left. Where more would be lost (a portrait
among landscapes), it is fitted in whole with white beside it, as VGGT's published "pad" does, and only its own part of
the answer is kept. Calls by orientation would cost nothing of the resolution, but two calls share no world and no unit.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lib.core.errors import Stop
from lib.core.words import counted
from lib.data import pictures
from lib.scenes.colmap_writer import Picture
from lib.scenes.crop import FINER, KEPT
from lib.scenes.sections import Settings

if TYPE_CHECKING:
    from torch import Tensor

SCENE = ("images", "sparse")  # folders of a COLMAP scene


class Window(NamedTuple):
    """A part of the network's picture, in px."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Photo:
    called: str  # what its files are called below the folder of predictions: sub/a for sub/a.jpg
    read: Callable[[], np.ndarray]  # the network's picture (h, w, 3) uint8, RGB. Unreadable: it cannot be used
    window: Window  # the part of that picture which shows the photo
    whole: Picture | None = None  # the photo that it is cut from; None where a scene has a model of its photos already
    shown: Callable[[], np.ndarray] | None = None  # (h, w) bool of the window, where a lens does not fill it
    camera: tuple[np.ndarray, np.ndarray] | None = None  # known: from world (3, 4), intrinsics (3, 3) in px


def photographs(config: Settings, folder: Path, out: Path | None = None) -> list[Photo]:
    """The photos in a folder and its sub-folders, as they are numbered; of a scene, those in images/.

    out: where predictions go; photos below it are none of the user's. A photo that cannot be used is named and left
    out. Stop: none is left, or predictions would lie among the photos, or the folder holds whole scenes.
    """
    if not folder.is_dir():
        raise Stop(f"there is no folder {folder}", "give a folder of photos to --predict")
    if (folder / "images").is_dir():
        say_what_lies_beside(folder)
        folder = folder / "images"
    refuse_scenes(folder)
    if out and out.resolve() == folder.resolve():
        raise Stop(f"the predictions of {folder} would lie among its photos", "give another folder to --out")
    paths = with_reader([path for path in below(folder) if not out or not path.resolve().is_relative_to(out.resolve())])
    if not paths:
        raise Stop(f"{folder} holds no photos ({', '.join(pictures.PHOTOS)})", "give a folder of photos to --predict")
    sizes = {path: size for path in paths if (size := size_of(path, folder))}
    if not sizes:
        raise Stop(f"none of the {len(paths)} photos in {folder} can be used", "give other photos to --predict")
    return as_seen(config, folder, sizes)


def say_what_lies_beside(folder: Path) -> None:
    beside = [path.name for path in sorted(folder.iterdir()) if path.suffix.lower() in pictures.PHOTOS]
    if beside:
        said = f"of {folder} the photos in images/ are taken, and {counted(len(beside), 'photo')} beside it left out"
        print(f"  {said}: {', '.join(beside[:5])}", flush=True)


def refuse_scenes(folder: Path) -> None:
    """Stop: whole scenes lie below, whose depth maps and masks would pass for photos."""
    scenes = [below.name for below in sorted(folder.iterdir()) if all((below / name).is_dir() for name in SCENE)]
    if scenes:
        said = f"{folder} holds {counted(len(scenes), 'scene')} ({', '.join(scenes[:5])}) instead of photos of one"
        raise Stop(said, f"--predict {folder / scenes[0]}")


def as_seen(config: Settings, folder: Path, sizes: dict[Path, tuple[int, int]]) -> list[Photo]:
    """sizes: width and height in px of each photo, upright."""
    base = network_size(config, *next(iter(sizes.values())))
    seen = {path: seen_size(config, size, base) for path, size in sizes.items()}
    patch = config.model.patch_size
    picture = (base[0], -(-max(height for _, height in seen.values()) // patch) * patch)
    say_what_is_padded(folder, sizes, seen, picture)
    called = names([path.relative_to(folder) for path in sizes])
    return [
        photo(path, path.relative_to(folder).as_posix(), name, sizes[path], seen[path], picture)
        for path, name in zip(sizes, called, strict=True)
    ]


def photo(
    path: Path, name: str, called: str, size: tuple[int, int], seen: tuple[int, int], picture: tuple[int, int]
) -> Photo:
    """name: as COLMAP calls it, relative to the folder. seen, picture: in px, the photo's part and the whole."""
    window = Window((picture[0] - seen[0]) // 2, (picture[1] - seen[1]) // 2, *seen)
    whole = cut_from(name, size, seen)
    return Photo(called, partial(read, path, whole, window, picture), window, whole)


# ---------------------------------------------------------------------------------------------- which there are


def below(folder: Path) -> list[Path]:
    """Files and folders that begin with a dot are no photos: some systems leave one beside each file."""
    found = sorted(folder.rglob("*"), key=as_counted) if folder.is_dir() else []
    open_ones = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    return [path for path in open_ones if path.suffix.lower() in pictures.PHOTOS and path.is_file()]


def as_counted(path: Path) -> list[str | int]:
    """2.jpg before 10.jpg: neighbours by name were taken one after the other, and are to see the same place."""
    parts = re.split(r"([0-9]+)", path.as_posix())
    return [*(int(part) if number % 2 else part for number, part in enumerate(parts)), path.as_posix()]


def with_reader(paths: list[Path]) -> list[Path]:
    """Without HEIC where no package reads it; how many are left out is said. Stop: there are no others."""
    heic = [path for path in paths if path.suffix.lower() in pictures.HEIC]
    if not heic or pictures.reads_heic():
        return paths
    cause = f"{counted(len(heic), 'HEIC photo')} cannot be read: Pillow needs the package pillow-heif for them"
    if len(heic) == len(paths):
        raise Stop(cause, "pip install pillow-heif")
    print(f"  {cause} (pip install pillow-heif); they are left out", flush=True)
    return [path for path in paths if path not in heic]


def size_of(path: Path, folder: Path) -> tuple[int, int] | None:
    """Upright, in px; None, and the reason is printed, where the photo cannot be used."""
    try:
        found = pictures.header(path, upright=True)
    except pictures.Unreadable as reason:
        say_left_out(path.relative_to(folder).as_posix(), reason)
        return None
    return found.width_px, found.height_px


def say_left_out(name: str, reason: Exception) -> None:
    print(f"  {name} is left out: {reason}", flush=True)


def names(paths: list[Path]) -> list[str]:
    """What each photo's files are called: its path without suffix, which stays where two would be called the same."""
    stems = [path.with_suffix("").as_posix() for path in paths]
    return [path.as_posix() if stems.count(stem) > 1 else stem for path, stem in zip(paths, stems, strict=True)]


# ---------------------------------------------------------------------------------------------- their part


def network_size(config: Settings, width: int, height: int) -> tuple[int, int]:
    """Width and height in px: the model's width, a photo's shape in whole patches, at most a square."""
    widest, patch = config.model.image_width_px, config.model.patch_size
    return widest, max(patch, min(widest, round(height * widest / width / patch) * patch))


def seen_size(config: Settings, size: tuple[int, int], base: tuple[int, int]) -> tuple[int, int]:
    """The part of the network's picture for a photo: `base`, or its own shape where that would cut off too much."""
    shape, wanted = size[0] / size[1], base[0] / base[1]
    if min(shape / wanted, wanted / shape) >= KEPT:
        return base
    widest = config.model.image_width_px
    return max(1, round(widest * min(1, shape))), max(1, round(widest * min(1, 1 / shape)))


def say_what_is_padded(
    folder: Path, sizes: dict[Path, tuple[int, int]], seen: dict[Path, tuple[int, int]], picture: tuple[int, int]
) -> None:
    narrow = [path for path in sizes if seen[path] != picture]
    if narrow:
        example = f"{narrow[0].relative_to(folder).as_posix()} has {' x '.join(map(str, sizes[narrow[0]]))} px"
        said = f"{len(narrow)} of {counted(len(sizes), 'photo')} fill a part of the network's picture, so that they are"
        print(f"  {said} seen whole: {example}, the picture {picture[0]} x {picture[1]}", flush=True)


def cut_from(name: str, size: tuple[int, int], seen: tuple[int, int]) -> Picture:
    """What is cut from a photo: the largest rectangle of the shape of `seen` at its centre. Both in px."""
    shape = seen[0] / seen[1]
    width, height = min(size[0], size[1] * shape), min(size[1], size[0] / shape)
    left, top = (size[0] - width) / 2, (size[1] - height) / 2
    return Picture(name, *size, left, top, width / seen[0], height / seen[1])


def read(path: Path, whole: Picture, window: Window, picture: tuple[int, int]) -> np.ndarray:
    """The network's picture (h, w, 3) uint8. A JPEG that is more than FINER times finer comes coarser already.

    Unreadable: the photo is damaged, or of one colour.
    """
    from PIL import Image

    at_least = (round(FINER * whole.width_px / whole.scale_x), round(FINER * whole.height_px / whole.scale_y))
    image = pictures.read(path, upright=True, at_least=at_least)
    pictures.refuse_one_colour(image)
    drawn = Image.new("RGB", picture, pictures.BACKGROUND)
    drawn.paste(fitted(image, whole, window), (window.left, window.top))
    return np.asarray(drawn)


def as_tensor(seen: list[np.ndarray]) -> "Tensor":
    """Pictures (h, w, 3) uint8 as the network takes them, (s, 3, h, w) in 0..1."""
    import torch

    return torch.from_numpy(np.stack(seen)).permute(0, 3, 1, 2).float() / 255


def fitted(image: Any, whole: Picture, window: Window) -> Any:
    """The cut of a photo (PIL) at its size in the network's picture. The image may be 2, 4 or 8 times coarser."""
    from PIL import Image

    coarser = round(max(whole.width_px, whole.height_px) / max(image.size))
    right, bottom = whole.left + whole.scale_x * window.width, whole.top + whole.scale_y * window.height
    box = (whole.left, whole.top, min(right, whole.width_px), min(bottom, whole.height_px))
    return image.resize(window[2:], Image.Resampling.BICUBIC, box=tuple(edge / coarser for edge in box))
