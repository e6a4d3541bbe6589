"""A frame as a person sees it: map lines from above and in the six cameras. One legend everywhere."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lib.core.run import atomic
from lib.recipes.llava_map import geometry, polylines
from lib.recipes.llava_map.config import DataConfig
from lib.recipes.llava_map.tables import CAMERAS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#ff7f0e")  # divider, ped_crossing, boundary, centreline
MOSAIC = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")
CAR_M = (1.9, 4.8)
NEAREST_DRAWN_M = 0.5  # in front of a camera
STEP_M = 0.25  # between drawn points: lines are cut where they leave the picture

Lines = Sequence[tuple[int, np.ndarray]]  # (class, vertices (n, 2) in metres)
Scored = Sequence[tuple[int, np.ndarray, float]]  # and the score


def scene_figure(
    path: Path,
    title: str,
    pictures: np.ndarray,
    cameras: Mapping[str, np.ndarray],
    data: DataConfig,
    truth: Lines = (),
    predicted: Scored = (),
) -> None:
    """Ground truth dashed, prediction solid and as strong as its score.

    pictures (6, 3, height, width) uint8; cameras: `intrinsics` (6, 3, 3) and `bev_from_cam` (6, 4, 4) of these
    pictures.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 5.2), layout="constrained")
    grid = figure.add_gridspec(2, 4, width_ratios=(0.8, 1, 1, 1))
    above = figure.add_subplot(grid[:, 0])
    bird_eye(above, data, truth, predicted)
    for number, channel in enumerate(MOSAIC):
        view = CAMERAS.index(channel)
        axes = figure.add_subplot(grid[number // 3, 1 + number % 3])
        camera_view(axes, pictures[view], cameras["intrinsics"][view], cameras["bev_from_cam"][view], truth, predicted)
        axes.set_title(channel, fontsize=8)
    figure.suptitle(title, fontsize=10)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png", metadata={"Description": f"What six cameras see. {title}."})


def strokes(truth: Lines, predicted: Scored) -> Iterator[tuple[int, np.ndarray, str, float]]:
    """Class, vertices, style and opacity of everything that is drawn."""
    yield from ((label, vertices, "--", 1.0) for label, vertices in truth)
    yield from ((label, vertices, "-", score) for label, vertices, score in predicted)


def bird_eye(axes: "Axes", data: DataConfig, truth: Lines, predicted: Scored) -> None:
    """x to the right, y ahead, metres, equal aspect; a dot marks where a line begins."""
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((-CAR_M[0] / 2, -CAR_M[1] / 2), *CAR_M, facecolor="0.3"))
    for label, vertices, style, alpha in strokes(truth, predicted):
        axes.plot(*vertices.T, style, color=COLOURS[label], linewidth=1.6, alpha=alpha)
        axes.plot(*vertices[0], ".", color=COLOURS[label], markersize=5, alpha=alpha)
    x_m, y_m = data.half_extent_m
    axes.set(xlim=(-x_m, x_m), ylim=(-y_m, y_m), aspect="equal", xlabel="right, m", ylabel="ahead, m")
    for label, name in enumerate(data.classes):
        axes.plot([], [], color=COLOURS[label], label=name)
    axes.legend(fontsize=6, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, handlelength=1, columnspacing=0.8)


def camera_view(
    axes: "Axes",
    picture: np.ndarray,
    intrinsics: np.ndarray,
    bev_from_cam: np.ndarray,
    truth: Lines,
    predicted: Scored,
) -> None:
    """The lines in one picture (3, height, width) uint8."""
    height_px, width_px = picture.shape[1:]
    axes.imshow(picture.transpose(1, 2, 0), extent=(0, width_px, height_px, 0))  # pixel edges, not centres
    for label, vertices, style, alpha in strokes(truth, predicted):
        for piece in drawn_in(vertices, intrinsics, bev_from_cam, width_px, height_px):
            axes.plot(*piece.T, style, color=COLOURS[label], linewidth=1.6, alpha=alpha)
    axes.set(xlim=(0, width_px), ylim=(height_px, 0), xticks=[], yticks=[])


def drawn_in(
    vertices: np.ndarray, intrinsics: np.ndarray, bev_from_cam: np.ndarray, width_px: int, height_px: int
) -> list[np.ndarray]:
    """The visible pieces of a map line, each (points, 2) in pixels: the line is on the ground (z = 0 of `bev`).

    vertices (n, 2) in metres, intrinsics (3, 3), bev_from_cam (4, 4).
    """
    points = polylines.resample(vertices, max(2, int(polylines.length_m(vertices) / STEP_M)))
    cam = geometry.transform(geometry.inverse(bev_from_cam.astype(np.float64)), geometry.on_ground(points))
    pixels, depth_m, seen = geometry.project(cam, intrinsics, width_px, height_px)
    seen &= depth_m > NEAREST_DRAWN_M
    breaks = np.flatnonzero(np.diff(seen.astype(int))) + 1
    return [
        piece
        for piece, keep in zip(np.split(pixels, breaks), np.split(seen, breaks), strict=True)
        if keep[0] and len(piece) > 1
    ]
