"""The pictures that one file of a person's data gives, whatever its type: for step 3 and for --predict.

An image is one picture, an echo has one for every window (echoes.py), an array of real numbers is one of 16 bit
(level_arrays.py).
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lib.data import pictures
from lib.recipes.vavae_microdoppler import echoes, level_arrays, styles
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.stored import sample_name
from lib.recipes.vavae_microdoppler.walk import File

if TYPE_CHECKING:
    from PIL import Image

Images = Iterable[tuple[str, "Image.Image", dict[str, Any]]]  # sample id, RGB or 16-bit levels, what it was


def image_of(config: Config, file: File) -> Images:
    """Unreadable: the file cannot be opened, or is not a picture."""
    header = pictures.header(file.path, upright=True)
    seen = {"mode": header.mode, "width_px": header.width_px, "height_px": header.height_px, "several": header.several}
    picture = pictures.read(file.path, upright=True)
    look = {"background": styles.background(picture), "framed": int(styles.is_framed(picture))}
    return [(sample_name(file.name), picture, seen | look)]


def windows_of(config: Config, file: File) -> Images:
    """OSError, Unusable: the file cannot be opened, or is not an echo."""
    (echo, how), side = echoes.ready(config, file.path), config.model.image_px
    seen = {"mode": "iq", "width_px": side, "height_px": side, "several": False, "unseen": echoes.unseen(echo, how)}
    made = echoes.images_of(echo, how, config.data.stride_s)
    return ((sample_name(file.name, number), image, seen) for number, image in enumerate(made))


def levels_of(config: Config, file: File) -> Images:
    """OSError, Unusable: the file cannot be opened, or is no spectrogram."""
    from PIL import Image

    power = level_arrays.spectrogram(config.data, file.path)
    made = Image.fromarray(level_arrays.sized(config, power))
    seen = {"mode": made.mode, "width_px": power.shape[1], "height_px": power.shape[0], "several": False}
    return [(sample_name(file.name), made, seen)]


READERS = {"images": image_of, "iq": windows_of, "arrays": levels_of}


def at_size(image: "Image.Image", side_px: int) -> "Image.Image":
    """side_px x side_px, as the network sees it."""
    from PIL import Image

    return image if image.size == (side_px, side_px) else image.resize((side_px, side_px), Image.Resampling.LANCZOS)
