"""What tells users apart in their pictures though nobody walked: size, kind of file, colours, proportions. A network
learns that first, and every score by user looks better than it is.
"""

from collections import defaultdict
from typing import TYPE_CHECKING

from lib.core.records import Record
from lib.recipes.vavae_microdoppler.walk import some

if TYPE_CHECKING:
    from PIL import Image

GAP = 32  # levels of 256 between the backgrounds of two users, which the noise of a radar does not make
LIGHT = 240  # levels of 256: no colour map ends in it all round a spectrogram
PROPORTION = 1.5  # by which width to height may differ before a second is much wider in one picture than in another


def background(picture: "Image.Image") -> str:
    """The median red, green and blue of a picture in RGB: "0 0 131"."""
    import numpy as np

    small = np.asarray(picture.resize((16, 16))).reshape(-1, 3)
    return " ".join(f"{level:.0f}" for level in np.median(small, axis=0))


def is_framed(picture: "Image.Image") -> bool:
    """Is the outermost line of pixels of a picture in RGB one light colour all round, as of a plot with axes?"""
    import numpy as np

    pixels = np.asarray(picture)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return bool(edge.min() >= LIGHT and pixels.min() < LIGHT)


def told_apart(usable: list[Record]) -> dict[str, str]:
    """Sentences for `summarise_data`; {} where users' pictures are of one kind."""
    kinds, colours = defaultdict(set), defaultdict(list)
    for record in usable:
        columns = record.columns
        kinds[columns["user"]].add((columns["mode"], str(columns["width_px"]), str(columns["height_px"])))
        if columns.get("background"):
            colours[columns["user"]].append([int(level) for level in columns["background"].split()])
    found = {"users' pictures differ in size or kind of file": of_other_kinds(kinds)}
    found["users' pictures differ in the colour of their background"] = of_other_colours(colours)
    warning = ": a network tells users by that, whoever walks"
    return {name: f"{some(users)}{warning}" for name, users in found.items() if users}


def of_other_kinds(kinds: dict[str, set[tuple[str, str, str]]]) -> list[str]:
    """Users of whose kinds of pictures nobody else has one."""
    return [user for user, mine in kinds.items() if len(kinds) > 1 and not mine & other_kinds(kinds, user)]


def other_kinds(kinds: dict[str, set[tuple[str, str, str]]], user: str) -> set[tuple[str, str, str]]:
    return set().union(*(theirs for other, theirs in kinds.items() if other != user))


def of_other_colours(colours: dict[str, list[list[int]]]) -> list[str]:
    """Users of whose backgrounds none comes near anybody else's, in one of the three colours."""
    found = []
    for user, mine in colours.items():
        theirs = [one for other, ones in colours.items() if other != user for one in ones]
        for own, others in zip(zip(*mine, strict=True), zip(*theirs, strict=True), strict=bool(theirs)):
            if user not in found and (min(own) > max(others) + GAP or max(own) < min(others) - GAP):
                found.append(user)
    return found


def proportions(usable: list[Record]) -> str:
    """Said where pictures of several lengths or heights are all pressed into one square."""
    shapes = [float(r.columns["width_px"]) / float(r.columns["height_px"]) for r in usable]
    if not shapes or max(shapes) < PROPORTION * min(shapes):
        return ""
    return f"width to height from {min(shapes):.2g} to {max(shapes):.2g}: a second is not as wide in all of them"
