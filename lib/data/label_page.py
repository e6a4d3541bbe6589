"""label.html: one static page on which a person corrects hands, or draws regions. No server, nothing from elsewhere.

It lies beside the pictures that it shows and saves what the recipes' readers take: hands.json, or an archive of masks
NAME.png, white on black and of the photograph's size.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.core.run import atomic

if TYPE_CHECKING:
    from PIL import Image

PAGE = "label.html"
TEMPLATE = Path(__file__).with_name("label_page.html")
MARK = "/*DATA*/"
SMALL_PX = 320
BROWSERS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".avif")  # what they all show
WHOLE = "whole"  # folder of copies of what they do not show: TIFF, HEIC


def small(picture: "Image.Image") -> "Image.Image":
    """A picture of SMALL_PX at most, for the list of pictures: a thousand photographs stay fluid."""
    from PIL import Image

    scale = min(1.0, SMALL_PX / max(picture.size))
    width, height = (max(1, round(scale * side)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BILINEAR)


def shown(folder: Path, file: str, copy: str, read: Callable[[], "Image.Image"]) -> str:
    """What the page shows of a photograph: the file, or where browsers do not read it a JPEG `copy`, made once."""
    if Path(file).suffix.lower() in BROWSERS:
        return file
    if not (folder / copy).exists():
        save(read(), folder / copy)
    return copy


def save(picture: "Image.Image", path: Path) -> None:
    """One of our own pictures; the folder of them is made where it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        picture.save(temporary, format="JPEG", quality=85)


def write(folder: Path, mode: str, pictures: Sequence[dict[str, Any]], items: Sequence[dict[str, Any]]) -> Path:
    """mode: "hands" or "regions". pictures: file, width, height, shown, small (a small picture, or ""), mask (regions).

    items: hands as in hands.json. What a browser remembers of this page belongs to these pictures and items alone.
    """
    content = {"mode": mode, "pictures": list(pictures), "items": list(items)}
    key = hashlib.sha256(json.dumps([str(folder.resolve()), content]).encode()).hexdigest()[:16]
    inside = json.dumps(content | {"key": key}).replace("<", "\\u003c")  # no text of it ends the script
    page = folder / PAGE
    with atomic(page) as temporary:
        Path(temporary).write_text(TEMPLATE.read_text(encoding="utf-8").replace(MARK, inside), encoding="utf-8")
    return page
