"""label.html: one static page on which a person corrects hands, or draws regions. No server, nothing from elsewhere.

It lies beside the pictures that it shows and saves what the recipes' readers take: hands.json, or an archive of masks
NAME.png, white on black and of the photograph's size.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.core.run import atomic
from lib.data import pictures

if TYPE_CHECKING:
    from PIL import Image

PAGE = "label.html"
TEMPLATE = Path(__file__).with_name("label_page.html")
MARK = "/*DATA*/"
SMALL_PX = 320
KINDS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "AVIF")  # every browser shows these
SMALL = "small"  # folder of small pictures
WHOLE = "whole"  # folder of copies of what they do not show: TIFF, HEIC, also where they are called .jpg


def small(picture: "Image.Image") -> "Image.Image":
    """A picture of SMALL_PX at most, for the list of pictures: a thousand photographs stay fluid."""
    from PIL import Image

    scale = min(1.0, SMALL_PX / max(picture.size))
    width, height = (max(1, round(scale * side)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BILINEAR)


def is_of(copy: Path, picture: Path) -> bool:
    """Was our copy made after the picture came to lie there? One that replaced it may be older, but not its ctime."""
    return copy.exists() and copy.stat().st_mtime_ns >= picture.stat().st_ctime_ns


def shown(folder: Path, file: str, copy: str, upright: bool) -> str:
    """What the page shows of a photograph: the file, or where not every browser shows it as it is read (upright, or as
    stored) a JPEG `copy`, made once. pictures.Unreadable.

    Of a turned file all heed the orientation of a JPEG, some that of other kinds; none shows it as stored, because a
    page that was opened as a file may not ask for that (CSS Images 3, image-orientation).
    """
    kind = pictures.header(folder / file, upright=False).format
    if kind in KINDS and ((upright and kind == "JPEG") or not pictures.is_turned(folder / file)):
        return file
    if not is_of(folder / copy, folder / file):
        save(pictures.read(folder / file, upright=upright), folder / copy)
    return copy


def save(picture: "Image.Image", path: Path) -> None:
    """One of our own pictures; the folder of them is made where it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        picture.save(temporary, format="JPEG", quality=85)


def write(folder: Path, mode: str, photographs: Sequence[dict[str, Any]], items: Sequence[dict[str, Any]]) -> Path:
    """mode: "hands" or "regions". photographs: file, width, height, shown, small (a small picture, or ""), for regions
    mask. items: hands as in hands.json. What a browser remembers of the page belongs to these pictures and items alone.
    """
    content = {"mode": mode, "pictures": list(photographs), "items": list(items)}
    key = hashlib.sha256(json.dumps([str(folder.resolve()), content]).encode()).hexdigest()[:16]
    inside = json.dumps(content | {"key": key}).replace("<", "\\u003c")  # no text of it ends the script
    page = folder / PAGE
    with atomic(page) as temporary:
        Path(temporary).write_text(TEMPLATE.read_text(encoding="utf-8").replace(MARK, inside), encoding="utf-8")
    return page
