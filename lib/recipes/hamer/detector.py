"""Boxes from a hand detector, where a person installs one: `--detector mediapipe`, or `--detector module:function` for
any other, a function that takes a picture (h, w, 3) uint8 and gives (side, (x0, y0, x1, y1) px) for every hand.
"""

import importlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from lib.core.errors import Stop
from lib.recipes.hamer.conventions import FRACTION_PX

RIGHT = "let it give (side, (x0, y0, x1, y1)), left or right and pixels"
# The last MediaPipe that carries its weights. Its own list of packages would take NumPy and protobuf back to versions
# with which pandas and TensorBoard do not start; it works with NumPy 2.4 and protobuf 6.33.
INSTALL = (
    "python -m pip install --no-deps 'mediapipe<0.10.22' 'protobuf>=6.31.1,<7' flatbuffers "
    "opencv-contrib-python-headless"
)
Found = list[tuple[str, list[float]]]  # left or right, x0, y0, x1, y1 px
Detector = Callable[[np.ndarray], Iterable[tuple[str, Iterable[float]]]]


def detector(name: str) -> Detector | None:
    """The detector of this name, None for "". Stop: it is not installed, or there is no such function."""
    if not name:
        return None
    module, _, function = name.partition(":")
    try:
        loaded = importlib.import_module(module)
    except ImportError as error:
        cause = f"the detector {module} is not installed ({error})"
        command = INSTALL if module == "mediapipe" else f"python -m pip install {module}"
        raise Stop(cause, f"{command}   (or leave --detector out and draw boxes)") from error
    if module == "mediapipe" and not function:
        return mediapipe(loaded)
    if not callable(getattr(loaded, function, None)):
        raise Stop(f"{module} has no function {function!r}", "say --detector module:function, or --detector mediapipe")
    found: Detector = getattr(loaded, function)
    return found


def mediapipe(module: Any) -> Detector:
    """MediaPipe's hand landmarks as tight boxes. It names sides as in a mirror, so they are exchanged here."""
    if not hasattr(module, "solutions"):
        cause = "this mediapipe has no `solutions`, the part that carries its own weights"
        raise Stop(cause, f"{INSTALL}   (or say --detector module:function)")
    hands = module.solutions.hands.Hands(static_image_mode=True, max_num_hands=4, min_detection_confidence=0.3)

    def detect(picture: np.ndarray) -> Found:
        height, width = picture.shape[:2]
        answer = hands.process(picture)
        found: Found = []
        for marks, sides in zip(answer.multi_hand_landmarks or [], answer.multi_handedness or [], strict=True):
            points = np.array([[mark.x * width, mark.y * height] for mark in marks.landmark])
            side = {"Left": "right", "Right": "left"}[sides.classification[0].label]
            found.append((side, [*points.min(0), *points.max(0)]))
        return found

    return detect


def boxes(detect: Detector, picture: np.ndarray, file: str) -> Found:
    """What a detector finds in one picture. Stop: an answer that is no side with four numbers."""
    found: Found = []
    for answer in detect(picture):
        try:
            side, box = answer
            numbers = [float(number) for number in box]
        except (TypeError, ValueError) as error:
            raise Stop(f"the detector answers {answer!r} for {file}", RIGHT) from error
        lost = len(numbers) != 4 or not np.isfinite(numbers).all() or np.abs(numbers).max() < FRACTION_PX
        if side not in ("left", "right") or lost:
            raise Stop(f"the detector answers {answer!r} for {file}", RIGHT)
        found.append((side, numbers))
    return found
