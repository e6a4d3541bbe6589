"""Pictures of a frame (from above and in its six cameras) and precision-recall curves. One legend everywhere."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lib.recipes import Row
from lib.recipes.llava_map import geometry, metrics, polylines
from lib.recipes.llava_map.roadmap import CLASSES
from lib.recipes.llava_map.tables import CAMERAS

COLOURS = ("#d62728", "#1f77b4", "#2ca02c")  # divider, ped_crossing, boundary
MOSAIC = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")
CAR_M = (1.9, 4.8)
NEAREST_DRAWN_M = 0.5  # in front of a camera
STEP_M = 0.25  # between drawn points: lines are cut where they leave the picture
SHOWN_SCORE = 0.3  # of predictions in pictures; evaluation has no threshold

Lines = Sequence[tuple[int, np.ndarray]]  # (class, vertices in metres)
Scored = Sequence[tuple[int, np.ndarray, float]]  # and the score


def scene_figure(
    path: Path,
    title: str,
    pictures: np.ndarray,
    cameras: dict,
    half_extent_m: tuple[float, float],
    truth: Lines = (),
    predicted: Scored = (),
) -> None:
    """Ground truth dashed, prediction solid and as strong as its score.

    pictures (6, 3, h, w); cameras: `intrinsics` and `bev_from_cam` of these pictures.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 5.2), layout="constrained")
    grid = figure.add_gridspec(2, 4, width_ratios=(0.8, 1, 1, 1))
    above = figure.add_subplot(grid[:, 0])
    bird_eye(above, half_extent_m, truth, predicted)
    for number, channel in enumerate(MOSAIC):
        view = CAMERAS.index(channel)
        axes = figure.add_subplot(grid[number // 3, 1 + number % 3])
        camera_view(axes, pictures[view], cameras["intrinsics"][view], cameras["bev_from_cam"][view], truth, predicted)
        axes.set_title(channel, fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110)


def strokes(truth: Lines, predicted: Scored) -> Iterator[tuple[int, np.ndarray, str, float]]:
    """Class, vertices, style and opacity of everything that is drawn."""
    yield from ((label, vertices, "--", 1.0) for label, vertices in truth)
    yield from ((label, vertices, "-", score) for label, vertices, score in predicted)


def bird_eye(axes, half_extent_m: tuple[float, float], truth: Lines, predicted: Scored) -> None:
    """x to the right, y ahead, metres, equal aspect; a dot marks where a line begins."""
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((-CAR_M[0] / 2, -CAR_M[1] / 2), *CAR_M, facecolor="0.3"))
    for label, vertices, style, alpha in strokes(truth, predicted):
        axes.plot(*vertices.T, style, color=COLOURS[label], linewidth=1.6, alpha=alpha)
        axes.plot(*vertices[0], ".", color=COLOURS[label], markersize=5, alpha=alpha)
    x_m, y_m = half_extent_m
    axes.set(xlim=(-x_m, x_m), ylim=(-y_m, y_m), aspect="equal", xlabel="right, m", ylabel="ahead, m")
    for label, name in enumerate(CLASSES):
        axes.plot([], [], color=COLOURS[label], label=name)
    axes.legend(fontsize=6, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, handlelength=1, columnspacing=0.8)


def camera_view(axes, picture: np.ndarray, intrinsics: np.ndarray, bev_from_cam: np.ndarray, truth: Lines, predicted: Scored) -> None:
    height_px, width_px = picture.shape[1:]
    axes.imshow(picture.transpose(1, 2, 0), extent=(0, width_px, height_px, 0))  # pixel edges, not centres
    for label, vertices, style, alpha in strokes(truth, predicted):
        for piece in drawn_in(vertices, intrinsics, bev_from_cam, width_px, height_px):
            axes.plot(*piece.T, style, color=COLOURS[label], linewidth=1.6, alpha=alpha)
    axes.set(xlim=(0, width_px), ylim=(height_px, 0), xticks=[], yticks=[])


def drawn_in(vertices: np.ndarray, intrinsics: np.ndarray, bev_from_cam: np.ndarray, width_px: int, height_px: int) -> list[np.ndarray]:
    """The visible pieces of a map line, in pixels: the line is on the ground (z = 0 of `bev`)."""
    length_m = np.hypot(*np.diff(vertices, axis=0).T).sum()
    points = polylines.resample(vertices, max(2, int(length_m / STEP_M)))
    cam = geometry.transform(geometry.inverse(bev_from_cam.astype(np.float64)), geometry.on_ground(points))
    pixels, depth_m, seen = geometry.project(cam, intrinsics, width_px, height_px)
    seen &= depth_m > NEAREST_DRAWN_M
    breaks = np.flatnonzero(np.diff(seen.astype(int))) + 1
    return [piece for piece, keep in zip(np.split(pixels, breaks), np.split(seen, breaks), strict=True) if keep[0] and len(piece) > 1]


def draw(cfg, base: list[Row], adapted: list[Row], out: Path) -> None:
    """The first held-out frames with ground truth and prediction, and the curves of all of them."""
    from lib.recipes.llava_map.data import read_arrays, read_pictures

    for number, row in enumerate(row for row in adapted if "folder" in row.arrays):
        folder = Path(row.arrays["folder"])
        arrays = read_arrays(folder.with_name(folder.name + ".npz"))
        title = f"{row.sample_id}: ground truth dashed, prediction with score above {SHOWN_SCORE} solid, stronger with its score"
        scene_figure(
            out / f"frame_{number:02d}.png",
            title,
            read_pictures(folder),
            arrays,
            cfg.data.half_extent_m,
            row.arrays["truth"],
            row.arrays["predicted"],
        )
    precision_recall(out / "precision_recall.png", {"untrained": base, "trained": adapted})


def precision_recall(path: Path, columns: dict[str, list[Row]]) -> None:
    from matplotlib.figure import Figure

    from lib.recipes.llava_map.evaluate import detections

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for label, name in enumerate(CLASSES):
        axes = figure.add_subplot(1, 3, label + 1)
        for column, rows in columns.items():
            recall, precision = metrics.curve(detections(rows)[label])
            for i, threshold in enumerate(metrics.THRESHOLDS_M):
                style = {"untrained": ":", "trained": "-"}[column]
                axes.plot(recall[:, i], precision[:, i], style, color=f"C{i}", label=f"{column}, {threshold} m")
        axes.set(title=name, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)
