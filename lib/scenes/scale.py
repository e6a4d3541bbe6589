"""The unit of a prediction, from what a person knows of the scene: `--scale`, which may be said more than once.

    "a.jpg b.jpg 2.5"               the two photos were taken 2.5 apart
    "a.jpg 120,340 810,335 1.2"     what these two pixels (x,y) of the upright photo show is 1.2 apart
    "FOLDER"                        a scene (COLMAP or transforms.json) that lists some of the photos: the prediction is
                                    moved into its world, too

The network's unit is free, and what it says is right only up to that; two statements must agree within TOLERANCE.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from lib.core.errors import Stop, nearest
from lib.scenes import chunks, colmap, geometry, similarity
from lib.scenes.chunks import View
from lib.scenes.photos import Photo
from lib.scenes.similarity import Similarity

TOLERANCE = 0.1  # between the units of two statements
MISFIT = 0.1  # of the extent of known camera centres: the median distance at which predicted ones may lie from them
NUMBER = r"\d+(?:\.\d*)?(?:[eE][-+]?\d+)?"
PIXELS = re.compile(rf"(.+?) +({NUMBER}),({NUMBER}) +({NUMBER}),({NUMBER}) +({NUMBER})")
PHOTOS = re.compile(rf"(.+?) +({NUMBER})")
SAY = '--scale "a.jpg b.jpg 2.5", "a.jpg 120,340 810,335 1.2" or a folder with a COLMAP model'


@dataclass(frozen=True)
class Statement:
    """One thing that is known: the photos it is about by name, and either a distance or their cameras.

    pixels: (2, 2) x, y in px of the one photo, pixel centres at +0.5; cameras: (3, 4) from the world, by photo.
    """

    said: str
    photos: list[str]
    distance: float = 0.0
    pixels: Tensor | None = None
    cameras: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Scale:
    statements: list[Statement]

    def apply(self, views: list[View]) -> None:
        """Depth and cameras of the views in the stated unit, and of known cameras in their world.

        Stop: the statements do not agree, or one is about photos that lie in two pieces or could not be used.
        """
        pieces: dict[int, list[tuple[Statement, Similarity]]] = {}
        for statement in self.statements:
            for about in in_one_world(statement, views):
                pieces.setdefault(about[0].piece, []).append((statement, fit(statement, about)))
        for piece, fits in pieces.items():
            found = agreed(fits)
            move([view for view in views if view.piece == piece], found)
            print(f"  --scale: lengths of {called(piece)} are the network's times {float(found.scale):.4g}", flush=True)
        for piece in sorted({view.piece for view in views} - set(pieces)):
            print(f"  {called(piece)} keeps the network's unit: --scale says nothing of its photos", flush=True)


def called(piece: int) -> str:
    return chunks.piece_folder(piece) or "the first piece"


def read(texts: list[str], photos: list[Photo]) -> Scale | None:
    """What --scale says, None for nothing. Stop: a photo, pixel or distance that cannot be."""
    names = {name_of(photo): photo for photo in photos}
    return Scale([statement(text.strip(), names) for text in texts]) if texts else None


def name_of(photo: Photo) -> str:
    return photo.whole.name if photo.whole else photo.called


# ---------------------------------------------------------------------------------------------- what is said


def statement(text: str, names: dict[str, Photo]) -> Statement:
    if Path(text).is_dir():
        return of_cameras(text, names)
    if found := PIXELS.fullmatch(text):
        photo, *pixel, distance = found.groups()
        refuse_unknown(text, [photo], names)
        return of_pixels(text, names[photo], [float(number) for number in pixel], float(distance))
    if not (found := PHOTOS.fullmatch(text)):
        raise Stop(f"--scale {text!r} is no distance between two photos or two pixels, and no folder", SAY)
    both, distance = found.groups()
    pairs = [(both[: gap.start()], both[gap.end() :]) for gap in re.finditer(" +", both)]
    pair = next((pair for pair in pairs if set(pair) <= set(names)), pairs[0] if pairs else (both,))
    refuse_unknown(text, list(pair), names)
    if len(set(pair)) < 2:
        raise Stop(f"--scale {text!r} needs two photos and their distance", SAY)
    return Statement(text, list(pair), positive(text, float(distance)))


def refuse_unknown(text: str, said: list[str], names: dict[str, Photo]) -> None:
    for name in said:
        if name not in names:
            raise Stop(f"--scale {text!r}: there is no photo {name!r}, {nearest(name, list(names)[:50])}", SAY)


def positive(text: str, distance: float) -> float:
    if not 0 < distance < float("inf"):
        raise Stop(f"--scale {text!r}: a distance is larger than 0", SAY)
    return distance


def of_pixels(text: str, photo: Photo, numbers: list[float], distance: float) -> Statement:
    """Stop: a pixel lies outside the photo, or where it is cut off."""
    pixels = torch.tensor(numbers).view(2, 2) + 0.5
    x, y = in_window(photo, pixels).round().T
    if not ((x >= 0) & (x < photo.window.width) & (y >= 0) & (y < photo.window.height)).all():
        assert photo.whole
        size = f"{photo.whole.width_px} x {photo.whole.height_px}"
        raise Stop(f"--scale {text!r}: a pixel lies outside what the network sees of the {size} px", SAY)
    if torch.equal(pixels[0], pixels[1]):
        raise Stop(f"--scale {text!r} names one pixel twice", SAY)
    return Statement(text, [name_of(photo)], positive(text, distance), pixels)


def in_window(photo: Photo, pixels: Tensor) -> Tensor:
    """Pixels (n, 2) of a photo in px of its window, centres at whole numbers."""
    assert photo.whole
    corner = pixels.new_tensor([photo.whole.left, photo.whole.top])
    return (pixels - corner) / pixels.new_tensor([photo.whole.scale_x, photo.whole.scale_y]) - 0.5


def of_cameras(text: str, names: dict[str, Photo]) -> Statement:
    """Stop: the folder holds no model, or one that lists fewer than two of the photos."""
    folder = Path(text)
    listed = {view.image.relative_to(folder / "images").as_posix(): view for view in colmap.read(folder).views}
    known = [name for name in names if name in listed]
    if len(known) < 2:
        raise Stop(f"--scale {text}: its model lists {len(known)} of the {len(names)} photos, and two are needed", SAY)
    return Statement(text, known, cameras={name: torch.from_numpy(listed[name].cam_from_world) for name in known})


# ---------------------------------------------------------------------------------------------- what it means


def in_one_world(said: Statement, views: list[View]) -> list[list[View]]:
    """The views that a statement is about, by the pieces that they lie in. Stop: their distance cannot be told."""
    by_name = {name_of(view.photo): view for view in views}
    about = [by_name[name] for name in said.photos if name in by_name]
    pieces = [[view for view in about if view.piece == piece] for piece in sorted({view.piece for view in about})]
    if said.cameras:
        return [piece for piece in pieces if len(piece) > 1]
    if len(about) < len(said.photos):
        raise Stop(f"--scale {said.said!r}: a photo of it could not be used", "name another photo")
    if len(pieces) > 1:
        raise Stop(f"--scale {said.said!r}: its photos could not be put into one world", "name photos of one piece")
    return pieces


def fit(said: Statement, views: list[View]) -> Similarity:
    """What takes the piece's world to the stated unit, and to the known cameras' world."""
    if said.cameras:
        return of_known(said, views)
    if said.pixels is None:
        ends = torch.stack([geometry.inverse(view.cam_from_world)[:, 3] for view in views])
    else:
        column, row = in_window(views[0].photo, said.pixels).round().long().T
        ends = views[0].points()[row, column]
    found = float((ends[0] - ends[1]).norm())
    if not found > 0:
        raise Stop(f"--scale {said.said!r}: the prediction has both ends in one place", "give another distance")
    return Similarity(torch.tensor(said.distance / found).double(), *similarity.SAME[1:])


def of_known(said: Statement, views: list[View]) -> Similarity:
    """Stop: the predicted cameras do not lie where the known ones do, whatever the unit."""
    predicted = torch.stack([view.cam_from_world for view in views])
    cameras = torch.stack([said.cameras[name_of(view.photo)] for view in views])
    found, known = similarity.of_cameras(predicted, cameras), geometry.inverse(cameras)[..., 3]
    off = (similarity.apply(found, geometry.inverse(predicted)[..., 3]) - known).norm(dim=-1).median()
    extent = float((similarity.spread(known).sum() / len(known)).sqrt())
    if not off <= MISFIT * extent:
        cause = f"--scale {said.said}: the predicted cameras lie {off / extent:.0%} of the known ones' extent from them"
        raise Stop(cause, "see that both are of the same photos, or give a distance instead")
    return found


def agreed(fits: list[tuple[Statement, Similarity]]) -> Similarity:
    """Known cameras before distances; of distances alone the geometric mean. Stop: they do not agree."""
    factors = torch.stack([found.scale for _, found in fits])
    if float(factors.max() / factors.min()) > 1 + TOLERANCE:
        listed = ", ".join(f"{said.said!r} times {float(found.scale):.4g}" for said, found in fits)
        cause = (
            f"what --scale says does not agree within {TOLERANCE:.0%}; the prediction would have to be taken {listed}"
        )
        raise Stop(cause, "leave the wrong one out")
    moving = next((found for said, found in fits if said.cameras), None)
    return moving or Similarity(factors.log().mean().exp(), *similarity.SAME[1:])


def move(views: list[View], found: Similarity) -> None:
    for view in views:
        view.cam_from_world = similarity.moved(view.cam_from_world, found)
        view.unit *= float(found.scale)
