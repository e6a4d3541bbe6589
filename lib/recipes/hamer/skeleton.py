"""A hand's keypoints as a skeleton over its picture. Apart from the meshes, whose drawing makes no step 3 stale."""

import numpy as np
from PIL import Image, ImageDraw

FINGERS = ((230, 60, 60), (240, 160, 40), (70, 180, 80), (60, 120, 220), (160, 80, 200))  # thumb to pinky


def skeleton(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Keypoints (21, 2 or 3) px in OpenPose's order over a picture (h, w, 3) uint8.

    Those of confidence 0 (in a third column) are left out.
    """
    image = Image.fromarray(picture).convert("RGB")
    canvas, width = ImageDraw.Draw(image), max(1, picture.shape[1] // 100)
    seen = points[:, 2] > 0 if points.shape[1] > 2 else np.ones(len(points), bool)
    for joint in range(1, 21):
        parent, colour = (0 if joint % 4 == 1 else joint - 1), FINGERS[(joint - 1) // 4]
        if seen[joint] and seen[parent]:
            canvas.line([*points[parent, :2], *points[joint, :2]], fill=colour, width=width)
        if seen[joint]:
            x, y = points[joint, :2]
            canvas.ellipse([x - width, y - width, x + width, y + width], fill=colour)
    return np.asarray(image)
