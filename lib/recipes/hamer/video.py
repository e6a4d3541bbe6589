"""A video as pictures on disk: every n-th frame, without those that look like the last one that was kept.

GIF, WebP and APNG are read by Pillow; others by PyAV or imageio where a person installed one of them.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lib.core.errors import Stop
from lib.core.hashes import sha256_of
from lib.core.run import atomic_folder, read_record, write_record
from lib.data import pictures
from lib.recipes.hamer.label_page import FRAMES

MOVING = (".gif", ".webp", ".apng", ".png")  # for Pillow, where there are several frames
FILMS = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
QUALITY = 95  # of the JPEG files: keypoints of the demo's base move by less than 0.1 px
SOURCE = "video.json"  # beside the frames: what they were taken from
MOST_FRAME_PIXELS = 16_000_000  # of what Pillow reads: 4K has 9 million, a damaged header of ten bytes may claim 100
MOST_SIDE_PX = 65_500  # of a JPEG file
# A frame in which none of 32 x 32 cells changed by more grey levels is the last one again. A hash of the whole picture
# would miss a hand that moves before a still background.
CELLS, STILL_LEVELS = 32, 10


def is_video(path: Path) -> bool:
    """By its ending, and where that is also a picture's, by the number of frames."""
    if path.suffix.lower() in FILMS:
        return True
    try:
        return path.suffix.lower() in MOVING and pictures.header(path, upright=True).several
    except pictures.Unreadable:
        return False


def extract(video: Path, folder: Path, every: int) -> list[Path]:
    """The kept frames as folder/frames/NAME-everyN/NNNNNN.jpg, numbered as in the video; made once.

    Stop: no decoder, or a video that cannot be decoded: then nothing of it is left behind. The frames are another
    video's, or this one's before it changed: labels may have been drawn on them.
    """
    place = folder / FRAMES / f"{video.name.replace('.', '-')}-every{every}"
    made_from = {"video": video.name, "content": sha256_of(video)}
    if place.is_dir() and read_record(place / SOURCE) != made_from:
        cause = f"{place} holds frames of another video than {video} is now"
        raise Stop(cause, f"rename the video, or delete {place} with what was labelled there")
    if not place.is_dir():
        with atomic_folder(place) as temporary:
            write_record(temporary / SOURCE, made_from)
            for number, picture in kept(video, every):
                Image.fromarray(picture).save(temporary / f"{number:06d}.jpg", quality=QUALITY)
            if not any(temporary.glob("*.jpg")):
                raise Stop(f"{video} holds no frames", "give another video to --propose")
    return sorted(place.glob("*.jpg"))


def kept(video: Path, every: int) -> Iterator[tuple[int, np.ndarray]]:
    """(number in the video, (h, w, 3) uint8) of every n-th frame that differs from the last one kept."""
    last = None
    for number, picture in enumerate(frames(video)):
        if number % every:
            continue
        small = np.asarray(Image.fromarray(picture).convert("L").resize((CELLS, CELLS), Image.Resampling.BOX), int)
        if last is None or np.abs(small - last).max() > STILL_LEVELS:
            last = small
            yield number, picture


def frames(video: Path) -> Iterator[np.ndarray]:
    """All frames (h, w, 3) uint8 in order. Stop: one of them cannot be decoded."""
    reader, number = (by_decoder if video.suffix.lower() in FILMS else by_pillow)(video), 0
    while True:
        try:
            picture = next(reader, None)
        except Stop:
            raise
        except Exception as error:  # decoders raise almost anything
            cause = f"{video} cannot be decoded at frame {number} ({' '.join(str(error).split())[:120]})"
            raise Stop(cause, "fetch it again, or cut it before that frame") from error
        if picture is None:
            return
        number += 1
        yield picture


def by_pillow(video: Path) -> Iterator[np.ndarray]:
    refuse_vast(pictures.header(video, upright=True), video)
    with pictures.opened(video) as image:
        size = image.size
        for number in range(image.n_frames):
            image.seek(number)
            if image.size != size:  # a damaged frame makes the whole picture as large as it claims to be
                raise pictures.Unreadable(f"it has {image.width} x {image.height} px and the first one other ones")
            yield np.asarray(pictures.rgb(image))


def refuse_vast(header: pictures.Header, video: Path) -> None:
    """Stop: the frames are larger than any GIF, WebP or APNG has; each would take seconds and a gigabyte, or be wider
    than a picture can be.
    """
    sides = header.width_px, header.height_px
    if math.prod(sides) > MOST_FRAME_PIXELS or max(sides) > MOST_SIDE_PX:
        cause = f"{video} says that its frames have {header.width_px} x {header.height_px} px, too many for its format"
        raise Stop(cause, "give it to --propose as .mp4, or make it smaller")


def by_decoder(video: Path) -> Iterator[np.ndarray]:
    """PyAV, else imageio with ffmpeg, which turns frames by itself. Stop: neither is installed; no pictures."""
    try:
        import av
    except ImportError:
        yield from by_imageio(video)
        return
    with av.open(str(video)) as container:
        if not container.streams.video:
            raise Stop(f"{video} holds sound and no pictures", "give another video to --propose")
        shown_s = 0.0
        for frame in container.decode(video=0):
            shown_s = frame.time or shown_s
            yield upright(frame.to_ndarray(format="rgb24"), frame.rotation, video)
        say_if_cut(video, shown_s, (container.duration or 0) / 1e6)


def say_if_cut(video: Path, shown_s: float, stated_s: float) -> None:
    """Decoders end a film that was cut without a word. Sound may go on a little longer than pictures do."""
    if shown_s < 0.9 * stated_s - 1:
        said = f"{video.name} says that it lasts {stated_s:.1f} s and shows {shown_s:.1f} s"
        print(f"  {said}: it was cut, or its sound goes on", flush=True)


def upright(picture: np.ndarray, rotation_deg: float, video: Path) -> np.ndarray:
    """As players show it: a phone that was held upright writes lying frames, and by how much they are to be turned
    counterclockwise. Stop: that is no quarter.
    """
    if rotation_deg % 90:
        raise Stop(f"{video} is to be turned by {rotation_deg:g} degrees", "turn it by a quarter, or not at all")
    return np.ascontiguousarray(np.rot90(picture, round(rotation_deg / 90)))


def by_imageio(video: Path) -> Iterator[Any]:
    try:
        import imageio.v3
    except ImportError as error:
        cause = f"{video} needs a decoder, and neither PyAV nor imageio is installed"
        raise Stop(cause, "python -m pip install av, or give a GIF, WebP or APNG to --propose") from error
    about, shown = imageio.v3.immeta(video), 0
    for picture in imageio.v3.imiter(video):
        shown += 1
        yield picture
    say_if_cut(video, shown / about.get("fps", 1), about.get("duration", 0))
