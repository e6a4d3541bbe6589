"""`--propose FOLDER|VIDEO`: drafts of labels by the current model, and a page on which a person corrects them.

Leaves in the folder hands.json (formats.py), label.html, small pictures of the drafts in drafts/ and the frames of
videos in frames/. What a person accepted or rejected is kept word for word; the rest is drafted again, so rounds are
draft, correct, train, draft better. A draft is not used in training.

Where a hand is: its box in hands.json, else what the detector finds, else --box, else the whole picture. In a video the
boxes of one frame are enough, of any frame or under the video's own name: the keypoints of each draft give the next
box.
"""

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from lib.core.errors import Stop
from lib.core.records import Parts
from lib.core.run import write_json
from lib.core.words import counted
from lib.recipes.hamer import carry, detector, formats, label_page, video
from lib.recipes.hamer.config import Config
from lib.recipes.hamer.conventions import FRACTION_PX, BadLabel
from lib.recipes.hamer.data_config import DataConfig
from lib.recipes.hamer.labelled import table
from lib.recipes.hamer.proposals import Entry, of_photographs

OURS = {"joint_order_2d": "openpose", "joint_order_3d": "openpose", "axes": "opencv", "box_format": "corners"}


def propose(config: Config, parts: Callable[[], Parts], inputs: str, out: str, wishes: Mapping[str, str]) -> None:
    """wishes: "every" (frames), "box" (SIDE:X0,Y0,X1,Y1 or ""), "detector" ("" for none).

    Stop: nothing to draft, a picture or video that cannot be read, labels in other conventions than drafts have.
    """
    refuse_other_conventions(config.data)
    source = Path(inputs)
    folder = folder_of(source, out)
    given, find = listed(folder), detector.detector(wishes["detector"])
    box = asked_box(wishes["box"])
    films = films_of(source, folder)
    photographs = photographs_of(folder, given, {film.name for film in films})
    if not films and not photographs:
        raise Stop(f"{source} holds no pictures and no video", "give a folder of pictures, or a video, to --propose")
    every = every_of(wishes["every"])
    folder.mkdir(parents=True, exist_ok=True)
    frames = {film: video.extract(film, folder, every) for film in films}
    network = parts().modules["hamer"]
    found = of_photographs(config, network, folder, photographs, given, find, box)
    for film, files in frames.items():
        found += carry.of_film(config, network, folder, film, files, given, find, box)
    found += of_other_frames(given, found, {film.name for film in films})
    write_json(folder / "hands.json", found)
    label_page.write(folder, found)
    tell(folder, found)


def refuse_other_conventions(data: DataConfig) -> None:
    for name, value in OURS.items():
        if getattr(data, name) != value:
            cause = (
                f"data.{name}={getattr(data, name)}, but drafts are written as {value}: one file would mean two things"
            )
            raise Stop(cause, f"convert the labels, and draft in a run with data.{name}={value}")


def folder_of(source: Path, out: str) -> Path:
    if not source.exists():
        raise Stop(f"{source} does not exist", "give a folder of pictures, or a video, to --propose")
    if out and source.is_dir():
        raise Stop("--out is the folder of a video's drafts; those of a folder lie in it", "leave --out out")
    return Path(out) if out else source if source.is_dir() else source.with_name(f"{source.stem}-hands")


def listed(folder: Path) -> list[Entry]:
    """The hands of the folder's list, rejected ones too. Stop: one that cannot be read."""
    if not any((folder / name).exists() for name in formats.LABEL_FILES):
        return []
    found = formats.entries(folder, rejected=True)
    for entry in found:
        try:
            formats.side_of(entry)
            formats.box_in(entry)
            formats.is_draft(entry)
            refuse_undrawable(entry)
        except BadLabel as error:
            raise Stop(f"{entry['file']}: {error}", "correct the list of hands") from error
    return found


def refuse_undrawable(entry: Entry) -> None:
    """BadLabel: keypoints that are no table or lie where no picture is, or a confidence that is no number."""
    if entry.get("keypoints_2d") is not None:
        points = table(entry["keypoints_2d"], "keypoints_2d", (21, 2), (21, 3), kind=np.float64)
        if not (np.abs(points) < formats.MOST_PX).all():
            raise BadLabel(f"keypoints_2d go from {points.min():g} to {points.max():g}: no picture has such places")
    if entry.get("confidence") is not None:
        table(entry["confidence"], "confidence", ())


def asked_box(text: str) -> tuple[str, list[float]] | None:
    """SIDE:X0,Y0,X1,Y1. Stop: it is something else."""
    if not text:
        return None
    side, _, numbers = text.partition(":")
    try:
        box = [float(number) for number in numbers.split(",")]
    except ValueError:
        box = []
    inverse = len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]) or max(box) < FRACTION_PX
    if side not in ("left", "right") or inverse:
        raise Stop(f"--box {text} is not SIDE:X0,Y0,X1,Y1 in pixels", "say for example --box right:20,40,180,220")
    return side, box


def every_of(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise Stop(f"--every {text} is not a number of frames above 0", "say for example --every 5")
    return int(text)


def films_of(source: Path, folder: Path) -> list[Path]:
    if not source.is_dir():
        if not video.is_video(source):
            raise Stop(f"{source} is not a video", "give a folder of pictures, or a video, to --propose")
        return [source]
    return [path for path in sorted(folder.iterdir()) if path.is_file() and video.is_video(path)]


def photographs_of(folder: Path, given: list[Entry], films: set[str]) -> list[str]:
    """Pictures below the folder, and those of the list, that are no video and none of ours."""
    listed = {entry["file"] for entry in given if Path(entry["file"]).parts[0] not in label_page.OURS}
    return sorted((label_page.photographs(folder) | listed) - films)


def of_other_frames(given: list[Entry], found: list[Entry], films: set[str]) -> list[Entry]:
    """What a person said of frames that this call did not look at: of a video that is gone, or of another --every."""
    seen = {entry["file"] for entry in found} | films
    return [entry for entry in given if entry["file"] not in seen and carry.from_you(entry)]


def tell(folder: Path, found: list[Entry]) -> None:
    made = [entry for entry in found if entry.get("draft")]
    stated = (entry.get("confidence") for entry in made)  # None: of another program, in a picture that is damaged
    sure = [float(one) for one in stated if one is not None]
    median = f", confidence {np.median(sure):.2f} in the median" if sure else ""
    kept = len(found) - len(made)
    print(f"{counted(len(made), 'draft')}{median}; {counted(kept, 'hand')} of yours kept: {folder / 'hands.json'}")
    print(f"  correct them in {folder / 'label.html'} and put the list that it saves in place of hands.json")
    root = shlex.quote(str(folder.resolve()))
    print(f"  then train in a new run (step 1) with data.format=folder data.root={root} data.truth=2d")
