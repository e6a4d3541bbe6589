"""The one reader of pictures, for training and prediction: a file becomes 8-bit RGB, or one sentence says why not.

Brightness   16-bit grey is scaled, round(value / 257), never clipped; 12-bit TIFF likewise. Of 16-bit colour Pillow
             keeps the upper byte. Where 12 bits lie in 16 it is refused, not read as black. Float and 32-bit pictures
             are scaled where all values lie in [0, 1] and refused elsewhere, because nothing in the file says which
             value is white.
Alpha        is composited on BACKGROUND; what a file stores beneath it is not seen.
Orientation  every caller states it: upright=True for people's photos and the boxes drawn on them, upright=False for
             the pixels as stored, from which COLMAP computes its cameras. HEIC comes as its own boxes turn it, for
             both, because every decoder obeys them; what its EXIF data says beside them is not obeyed again.
Frames       the first of an animation, of a TIFF's pages, of an MPO, and the one that a HEIC calls primary;
             Header.several says that there are more.
Colour       profiles are not applied, as in the published loaders. CMYK is converted by Pillow's plain formula.
Damage       ends as Unreadable and nothing else. What a decoder does not notice (a JPEG with a zeroed middle) is used.
"""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

# The largest camera has 14204 x 10652 = 151 million pixels; reading them took 1.2 GB in RGB, 2.4 GB in float.
MOST_PIXELS = 160_000_000
MOST_SIDE_PX = 1_000_000  # Pillow keeps 8 bytes for every row, whatever it holds
TOO_LARGE = f"it has more than {MOST_PIXELS // 10**6} million pixels, too large to be read"
# Not EPS (it starts Ghostscript), ICO and PSD (their header tells another size), TGA (noise passes for a picture).
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF")
HEIC = (".heic", ".heif")  # Pillow alone does not read it
PHOTOS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", *HEIC)  # files of a folder of photographs
# Bytes 8 to 12 of a HEIC file, after "ftyp" (ISO/IEC 23008-12); mif1 and msf1 may also begin an AVIF.
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
NO_HEIC = "it is HEIC, for which Pillow needs the package pillow-heif (pip install pillow-heif)"
COARSER = ("JPEG", "MPO")  # decoded at 1/2, 1/4 or 1/8; HEIC would come as a thumbnail of any size
DARKEST = 16  # of 255: 4095 of 65535, the largest value of 12 bits
BACKGROUND = (255, 255, 255)  # of transparent pixels: white, as on paper and in VGGT's published example
# EXIF orientation -> the name in PIL.Image.Transpose of what turns the stored picture upright.
TURNS = {
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90",
}  # fmt: skip
ORIENTATION, BITS, PHOTOMETRIC, SAMPLE_FORMAT = 274, 258, 262, 339  # tags of TIFF, the first one also of EXIF

logging.getLogger("PIL").addHandler(logging.NullHandler())  # it reports what a caller hears as Unreadable anyway


class Unreadable(Exception):
    """A file that cannot be used. The text is the reason, for a manifest's `reason` or after "PATH: "."""


class Header(NamedTuple):
    width_px: int
    height_px: int
    mode: str  # Pillow's name of how the file stores pixels: L, RGB, RGBA, P, CMYK, I;16, F, ...
    several: bool  # an animation or a file of pages, of which `read` gives the first
    format: str  # Pillow's name of what the content is, whatever the file is called


def header(source: Path | bytes, *, upright: bool) -> Header:
    """The size that `read` gives, and what the file is. Nothing is decoded, except a PNG that is asked for upright: its
    EXIF data may follow the pixels. Unreadable as `read`, as far as it shows without the pixels.
    """
    with opened(source) as image:
        mode, (width_px, height_px), several = image.mode, image.size, False
        if turn_left(image, upright) >= 5:
            width_px, height_px = height_px, width_px
        with suppress(Exception):  # a second frame that is damaged is none
            several = image.format != "MPO" and bool(getattr(image, "is_animated", False))
        return Header(width_px, height_px, mode, several, str(image.format))


def is_turned(source: Path | bytes) -> bool:
    """Whether the file says that its pixels do not stand upright as they are stored. Unreadable as `header`."""
    with opened(source) as image:
        return image.getexif().get(ORIENTATION) in TURNS


def read(source: Path | bytes, *, upright: bool, at_least: tuple[int, int] | None = None) -> "Image.Image":
    """The picture in RGB; np.asarray of it is (h, w, 3) uint8. Unreadable: its text says why it cannot be used.

    upright: turned as its EXIF orientation says, or the pixels as they are stored. at_least: (width, height) in px to
    which the caller will shrink it; a larger JPEG then comes at 1/2, 1/4 or 1/8, never below, which is much faster.
    """
    from PIL.Image import Transpose

    with opened(source) as image:
        scale_transparent_colour(image)
        turn = turn_left(image, upright)
        if at_least and image.format in COARSER:
            image.draft("RGB", at_least[::-1] if turn >= 5 else at_least)
        is_deep = has_16_bits(image)
        picture = rgb(image)
        if is_deep:
            refuse_lower_bits(picture)
        picture.info = {}  # a colour profile and the like would be saved along, and apply no longer
        return picture if turn == 1 else picture.transpose(Transpose[TURNS[turn]])


def has_16_bits(image: Any) -> bool:
    """Of each value, before the file is decoded."""
    return image.mode.startswith("I;16") or bool(image.tile and ";16" in str(image.tile[0][3]))


def refuse_lower_bits(picture: "Image.Image") -> None:
    """Unreadable: a picture (RGB) of a file of 16 bits has something on it, and nothing beyond the lower 12 of them."""
    import numpy as np

    pixels = np.asarray(picture)
    if pixels.min() < pixels.max() <= DARKEST:
        raise Unreadable(
            "of its 16 bits the lower 12 at most are used, so it would be black: scale its values to all 16"
        )


def refuse_one_colour(picture: "Image.Image") -> None:
    """Unreadable: all pixels (RGB) are the same. For training, which learns nothing from it; prediction may read it."""
    if all(low == high for low, high in (channel.getextrema() for channel in picture.split())):
        raise Unreadable("it is a picture of one colour")


@contextmanager
def opened(source: Path | bytes) -> Iterator[Any]:
    """Pillow's image of a file, not decoded yet; whatever fails while it is open becomes Unreadable.

    On damaged files Pillow raises almost any exception. It gets an open file, because it maps one that it opens itself
    into memory, and a mapped file that is cut meanwhile kills the process.
    """
    from PIL import Image

    Image.init()
    lacking = False
    try:
        with warnings.catch_warnings(), io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            warnings.simplefilter("ignore")
            start = file.read(12)
            if not start:
                raise Unreadable("the file is empty")
            lacking = start[4:8] == b"ftyp" and start[8:] in HEIC_BRANDS and not reads_heic()
            with Image.open(file, formats=readable()) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise Unreadable(TOO_LARGE)
                if max(image.size) > MOST_SIDE_PX:
                    raise Unreadable(f"it is {image.width} x {image.height} px, as no picture is")
                yield image
    except Unreadable:
        raise
    except Exception as error:
        raise Unreadable(NO_HEIC if lacking else reason(error)) from error


def reads_heic() -> bool:
    """Whether Pillow reads HEIC here: with the package pillow-heif, which is then made known to it."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def readable() -> list[str]:
    """Those of FORMATS that are here: a build of Pillow may lack AVIF, and HEIF comes with the package pillow-heif."""
    from PIL import Image

    return [name for name in FORMATS if name in Image.OPEN]


def reason(error: Exception) -> str:
    """A sentence for what Pillow or the file system raised."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, FileNotFoundError):
        return "the file is missing"
    if isinstance(error, Image.DecompressionBombError):  # Pillow's own limit: 179 million pixels
        return TOO_LARGE
    if isinstance(error, UnidentifiedImageError):
        return f"it is damaged, or in no format or depth that can be read ({', '.join(readable())})"
    return f"it cannot be decoded ({' '.join(str(error).split())[:120] or type(error).__name__})"


def turn_left(image: Any, upright: bool) -> int:
    """The orientation by which the decoded picture is still to be turned, 1 for none.

    Pillow turns TIFF upright while it decodes, and of the others HEIC alone; TIFF is turned back for its stored pixels.
    """
    if image.format == "HEIF":
        return 1
    done = image.format == "TIFF"
    orientation = 1 if upright == done else image.getexif().get(ORIENTATION)
    if done and orientation in (6, 8):  # the others undo themselves
        return 14 - orientation
    return orientation if orientation in TURNS else 1


def scale_transparent_colour(image: Any) -> None:
    """PNG states its transparent colour in the file's depth; Pillow looks for it among pixels of 8 bits."""
    raw_mode = image.tile[0][3] if "transparency" in image.info and image.tile else ""
    if raw_mode in ("L;2", "L;4"):
        image.info["transparency"] *= {"L;2": 85, "L;4": 17}[raw_mode]
    if raw_mode == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in image.info["transparency"])


def rgb(image: "Image.Image") -> "Image.Image":
    """An image of any mode in RGB, on BACKGROUND where it is transparent. Unreadable: its values have no scale."""
    from PIL import Image

    if image.mode[0] in "IF":  # I, I;16, I;16B, ..., F
        image = eight_bits(image)
    elif getattr(image, "tag_v2", {}).get(SAMPLE_FORMAT, (1,))[0] == 2:
        raise Unreadable("its values are signed 8-bit numbers, of which none is known to be white")
    if image.mode == "La":  # the one mode that Pillow converts to RGBA only in two steps
        image = image.convert("LA")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    picture = Image.new("RGB", image.size, BACKGROUND)
    picture.paste(image, mask=image.getchannel("A"))
    return picture


def eight_bits(image: "Image.Image") -> "Image.Image":
    """A grey image of more than 8 bits as L, or as LA where one of its values is the transparent one."""
    import numpy as np
    from PIL import Image

    values, tags = np.asarray(image), getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):  # which Pillow scales to 16 bits
        white = 2 ** tags.get(BITS, (16,))[0] - 1
        grey = ((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)
    else:
        grey = (unit_range(image.mode, values, tags) * 255 + 0.5).astype(np.uint8)
    if tags.get(PHOTOMETRIC) == 0:  # white is stored as 0; Pillow inverts that for 8 bits, but not for more
        grey = 255 - grey
    picture = Image.fromarray(grey)
    if "transparency" in image.info:
        picture.putalpha(Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)))
    return picture


def unit_range(mode: str, values: "np.ndarray", tags: Any) -> "np.ndarray":
    """Values (h, w) within [0, 1], as float32. Unreadable: there are others, and the sentence gives their range."""
    import numpy as np

    if tags and mode == "I" and tags.get(SAMPLE_FORMAT, (1,))[0] == 1:
        values = values.view(np.uint32)  # Pillow has no unsigned 32 bits, and wraps them
    low, high = values.min(), values.max()  # both NaN where one value is
    if np.isnan(low):
        raise Unreadable("its float values include NaN")
    if low < 0 or high > 1:
        kind = "float" if mode == "F" else "whole-number"
        raise Unreadable(f"its {kind} values go from {low:.10g} to {high:.10g}; only those within 0 to 1 can be scaled")
    return values.astype(np.float32)
