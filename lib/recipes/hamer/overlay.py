"""Pictures of a prediction, without OpenGL: the mesh over the photograph, and the mesh from the side."""

import numpy as np
from PIL import Image

from lib.recipes.hamer import render
from lib.recipes.hamer.config import IMAGE_MEAN, IMAGE_STD

MESH = (0.651, 0.741, 0.859)  # HaMeR's light blue
LIGHT = np.array([-0.4, -0.7, -0.8])
FINER = 2  # pictures are drawn at this scale and averaged down


def photograph(normalised: np.ndarray) -> np.ndarray:
    """(3, h, w) as the network sees it -> (h, w, 3) uint8."""
    mean, deviation = (np.array(value)[:, None, None] for value in (IMAGE_MEAN, IMAGE_STD))
    return (255 * (normalised * deviation + mean)).clip(0, 255).round().astype(np.uint8).transpose(1, 2, 0)


def mesh(
    picture: np.ndarray, vertices: np.ndarray, faces: np.ndarray, focal_px: float, centre: np.ndarray
) -> np.ndarray:
    """The mesh over a picture (h, w, 3) uint8.

    vertices (778, 3) m in the camera's frame, faces (f, 3), centre (2,) px: the picture's principal point.
    """
    height, width = picture.shape[:2]
    points = vertices[:, :2] / vertices[:, 2:] * focal_px + centre
    seen = render.cover(FINER * (points + 0.5) - 0.5, vertices[:, 2], faces, FINER * width, FINER * height)
    normals = seen.interpolate(faces, render.vertex_normals(vertices, faces))
    large = Image.fromarray(picture).resize((FINER * width, FINER * height), Image.Resampling.BILINEAR)
    pixels = np.asarray(large).copy()
    pixels[seen.face >= 0] = 255 * render.shaded(normals, np.broadcast_to(MESH, normals.shape), LIGHT).clip(0, 1)
    return np.asarray(Image.fromarray(pixels).reduce(FINER))


def side_view(vertices: np.ndarray, faces: np.ndarray, side_px: int) -> np.ndarray:
    """The mesh (778, 3) m turned by 90 degrees about the vertical, before white: (side_px, side_px, 3) uint8."""
    centred = vertices - (vertices.max(0) + vertices.min(0)) / 2
    turned = centred @ np.array([[0.0, 0, -1], [0, 1, 0], [1, 0, 0]])
    reach = 2.4 * np.abs(centred).max()
    turned[:, 2] += 100.0  # far away: a parallel projection
    white = np.full((side_px, side_px, 3), 255, np.uint8)
    return mesh(white, turned, faces, 100 * side_px / reach, np.full(2, (side_px - 1) / 2))


def panel(
    image: np.ndarray, vertices: np.ndarray, translation: np.ndarray, faces: np.ndarray, focal_px: float
) -> list[np.ndarray]:
    """Crop, overlay and side view of one prediction in its crop: three pictures of the crop's size.

    image (3, h, w) normalised, vertices (778, 3) m, translation (3,) m in front of the crop's camera.
    """
    picture, outside = photograph(image), render.closed(faces)
    centre = np.full(2, picture.shape[0] / 2)
    return [
        picture,
        mesh(picture, vertices + translation, outside, focal_px, centre),
        side_view(vertices, outside, picture.shape[0]),
    ]
