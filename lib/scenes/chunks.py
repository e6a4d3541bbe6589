"""Photos through the network in chunks, each of which shares some with the chunk before: any number of photos in memory
that does not grow with them.

Every call of the network answers in a world and a unit of its own. The photos that two chunks share are seen in both,
pixel by pixel, and the similarity between their points takes the later chunk to the earlier one. So photos that are
neighbours by name should see the same place. A chunk that does not fit begins a piece: a scene of its own.
What the network says lies on disk, one file per photo, until everything is known that the results depend on.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from lib.core.errors import Stop
from lib.core.words import counted
from lib.data import pictures
from lib.scenes import geometry, photos, similarity
from lib.scenes.photos import Photo
from lib.scenes.similarity import Similarity

SHARED = 1 / 3  # of a chunk: photos of the chunk before
MATCHES = 2000  # points of a shared photo that are compared
FEWEST_MATCHES = 16  # of a shared photo whose points count
AGREES, AGREEING = 0.1, 0.5  # chunks fit where this share of their common points agrees within this relative distance
Map = TypeVar("Map", np.ndarray, Tensor)

# Images (1, s, 3, h, w) on the CPU, and the photos that they are of -> what the network finds.
Forward = Callable[[Tensor, list[Photo]], dict[str, Tensor]]


@dataclass
class View:
    """A photo that went through the network. `stem`: its arrays on disk, of its window of the picture."""

    photo: Photo
    stem: Path
    cam_from_world: Tensor  # (3, 4) float64, in the world of the piece
    intrinsics: Tensor  # (3, 3) float64 in px of the window
    unit: float  # the depth on disk times this has the unit of the piece
    piece: int = 0

    def keep(self, picture: np.ndarray, depth: Tensor, confidence: Tensor) -> None:
        np.save(self.stem.with_suffix(".image.npy"), picture)
        np.save(self.stem.with_suffix(".maps.npy"), torch.stack([depth, confidence]).numpy())

    @property
    def image(self) -> np.ndarray:
        """(h, w, 3) uint8."""
        return np.load(self.stem.with_suffix(".image.npy"))

    @property
    def depth(self) -> Tensor:
        """(h, w) float32 in the unit of the piece."""
        return self.unit * torch.from_numpy(np.load(self.stem.with_suffix(".maps.npy"))[0])

    @property
    def confidence(self) -> Tensor:
        """(h, w) float32, at least 1; 0 where the photo shows nothing."""
        return torch.from_numpy(np.load(self.stem.with_suffix(".maps.npy"))[1])

    def points(self) -> Tensor:
        """(h, w, 3) float64 in the world, which may lie far from its origin."""
        return geometry.world_points_from_depth(self.depth.double(), self.cam_from_world, self.intrinsics)


@dataclass
class Chunk:
    """Photos of one call and their pictures. The first `shared` of them have been seen before."""

    views: list[View] = field(default_factory=list)  # the shared ones at first
    photos: list[Photo] = field(default_factory=list)
    pictures: list[np.ndarray] = field(default_factory=list)

    def last(self, count: int) -> "Chunk":
        """What the next chunk shares with this one."""
        return Chunk(self.views[-count:], self.photos[-count:], self.pictures[-count:])


def through_network(forward: Forward, given: list[Photo], at_once: int, folder: Path) -> list[View]:
    """All photos that can be used, at most `at_once` in one call; when memory is short, fewer.

    Stop: none can be used, or two do not fit into memory.
    """
    waiting, views, shared, found = deque(given), min(len(given), at_once), Chunk(), list[View]()
    while (chunk := filled(shared, waiting, views)) and len(chunk.photos) > len(shared.photos):
        try:
            answer = one_pass(forward, chunk)
        except torch.OutOfMemoryError:
            views = fewer(min(views, len(chunk.photos)))
            waiting.extendleft(reversed(chunk.photos[len(shared.photos) :]))
            shared = shared.last(common(views))
            continue
        found += placed(chunk, answer, folder, len(found))
        shared = chunk.last(common(views))
        del chunk, answer  # or both stay in memory while the next ones are made
    if not found:
        raise Stop(f"none of {counted(len(given), 'photo')} can be used", "give other photos to --predict")
    return found


def common(views: int) -> int:
    """How many of a chunk's photos the next one shows too."""
    return max(1, round(views * SHARED)) if views > 1 else 1


def fewer(views: int) -> int:
    """Half as many photos in a call. Stop: two were too many."""
    if views <= 2:
        raise Stop("two views do not fit into memory", "use a smaller model.image_width_px") from None
    torch.cuda.empty_cache()
    print(f"out of memory: going on with {max(2, views // 2)} views at a time", flush=True)
    return max(2, views // 2)


def filled(shared: Chunk, waiting: deque[Photo], views: int) -> Chunk:
    """The shared photos and as many more as there is room for. A photo that cannot be decoded is named and left out."""
    chunk = Chunk(list(shared.views), list(shared.photos), list(shared.pictures))
    while waiting and len(chunk.photos) < max(views, len(shared.photos) + 1):
        photo = waiting.popleft()
        try:
            chunk.pictures.append(photo.read())
        except pictures.Unreadable as reason:
            photos.say_left_out(photo.whole.name if photo.whole else photo.called, reason)
            continue
        chunk.photos.append(photo)
    return chunk


def one_pass(forward: Forward, chunk: Chunk) -> dict[str, Tensor]:
    """pose_enc (s, 9), depth (s, h, w), depth_conf (s, h, w) on the CPU. Stop: they are not finite."""
    found = forward(photos.as_tensor(chunk.pictures)[None], chunk.photos)
    answer = {key: found[key][0].float().cpu() for key in ("pose_enc", "depth", "depth_conf")}
    if wrong := next((key for key, values in answer.items() if not values.isfinite().all()), None):
        cause = f"the network's {wrong} of {chunk.photos[0].called} to {chunk.photos[-1].called} is not finite"
        raise Stop(cause, "take another checkpoint: --checkpoint best, last or step-N")
    return answer | {"depth": answer["depth"][..., 0]}


# ---------------------------------------------------------------------------------------------- into one world


def placed(chunk: Chunk, answer: dict[str, Tensor], folder: Path, number: int) -> list[View]:
    """The new views, kept on disk, in the world of those before; chunk.views then holds all of the chunk.

    number: of the first new view. Known cameras stay as they are, and depth gets their unit.
    """
    with torch.autocast("cpu", enabled=False):
        cameras, intrinsics = decoded(chunk, answer)
        fit, piece = fitting(chunk, answer, cameras, intrinsics)
        cameras = known_cameras(chunk.photos) if chunk.photos[0].camera else similarity.moved(cameras, fit)
    new = range(len(chunk.views), len(chunk.photos))
    for k in new:
        photo, stem = chunk.photos[k], folder / f"{number + k - new.start:05d}"
        view = View(photo, stem, cameras[k], intrinsics[k], float(fit.scale), piece)
        confidence = (
            answer["depth_conf"][k] * torch.from_numpy(photo.shown()) if photo.shown else answer["depth_conf"][k]
        )
        view.keep(inside(photo, chunk.pictures[k]), inside(photo, answer["depth"][k]), inside(photo, confidence))
        chunk.views.append(view)
    return chunk.views[new.start :]


def decoded(chunk: Chunk, answer: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Cameras (s, 3, 4) in the chunk's own world and intrinsics (s, 3, 3) in px of each photo's window, float64."""
    cameras, intrinsics = geometry.decode_cameras(answer["pose_enc"], *answer["depth"].shape[1:])
    corner = torch.tensor([[photo.window.left, photo.window.top] for photo in chunk.photos])
    intrinsics = intrinsics.double()
    intrinsics[:, :2, 2] -= corner
    if chunk.photos[0].camera:
        intrinsics = torch.from_numpy(np.stack([photo.camera[1] for photo in chunk.photos if photo.camera]))
    return cameras.double(), intrinsics


def known_cameras(given: list[Photo]) -> Tensor:
    """(s, 3, 4) float64 from world."""
    return torch.from_numpy(np.stack([photo.camera[0] for photo in given if photo.camera])).double()


def fitting(chunk: Chunk, answer: dict[str, Tensor], cameras: Tensor, intrinsics: Tensor) -> tuple[Similarity, int]:
    """What takes the chunk's own world to that of the views before, and the number of the piece that it belongs to.

    Stop: the unit of known cameras cannot be told.
    """
    if chunk.photos[0].camera:
        return similarity.inverse(similarity.of_cameras(known_cameras(chunk.photos), cameras)), 0
    if not chunk.views:
        return similarity.SAME, 0
    piece = chunk.views[-1].piece
    groups = [
        matches(view, inside(view.photo, answer["depth"][k]), inside(view.photo, answer["depth_conf"][k]), camera, own)
        for k, (view, camera, own) in enumerate(zip(chunk.views, cameras, intrinsics, strict=False))
        if view.piece == piece
    ]
    groups = [group for group in groups if len(group[0]) >= FEWEST_MATCHES]
    fit, errors = similarity.of_points(groups) if groups else (similarity.SAME, torch.ones(1))
    share = float((errors < AGREES).double().mean())
    if share >= AGREEING:
        return fit, piece
    say_what_begins(chunk, share, piece + 1)
    return similarity.SAME, piece + 1


def matches(
    view: View, depth: Tensor, confidence: Tensor, camera: Tensor, intrinsics: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Points (n, 3) of a shared photo in the chunk's world, the same in the world before, and their depth there (n,).

    Of the pixels that are sure in both; depth, confidence (h, w), camera and intrinsics are the chunk's.
    """
    before, sure = view.depth, view.confidence
    both = (
        (confidence >= confidence.median()) & (sure >= sure.median()) & geometry.known(depth) & geometry.known(before)
    )
    row, column = both.nonzero()[:: -(-int(both.sum()) // MATCHES) or 1].mT
    source = geometry.world_points_from_depth(depth.double(), camera, intrinsics)[row, column]
    return source, view.points()[row, column], before[row, column].double()


def inside(photo: Photo, values: Map) -> Map:
    """What of a map (h, w, ...) of the network's picture belongs to the photo."""
    left, top, width, height = photo.window
    return values[top : top + height, left : left + width]


def say_what_begins(chunk: Chunk, share: float, piece: int) -> None:
    new = chunk.photos[len(chunk.views) :]
    who = f"{counted(len(new), 'photo')} from {new[0].called} to {new[-1].called}"
    said = f"{share:.0%} of the points that they share with those before agree within {AGREES:.0%}"
    print(f"  {who} begin a scene of their own, in {piece_folder(piece)}: {said}", flush=True)


def piece_folder(piece: int) -> str:
    """Where the models of a piece lie below the folder of predictions: those of the first one at its top."""
    return f"piece{piece + 1}" if piece else ""
