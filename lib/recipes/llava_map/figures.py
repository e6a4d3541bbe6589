"""Pictures of the report: frames with ground truth and prediction, precision-recall curves, and the submission."""

from pathlib import Path

from lib.core.records import Row, Stage
from lib.recipes.llava_map import evaluate, metrics, scene_view
from lib.recipes.llava_map.arrays import read_arrays, read_pictures
from lib.recipes.llava_map.config import Config


def figures(config: Config, stage: Stage, base: list[Row], adapted: list[Row], out: Path) -> None:
    """frame_00.png and so on of the first held-out frames, precision_recall.png and submission.json of all of them."""
    for number, row in enumerate(row for row in adapted if "folder" in row.arrays):
        frame_figure(config, row, out / f"frame_{number:02d}.png")
    precision_recall(config, out / "precision_recall.png", {"untrained": base, "trained": adapted})
    by_tag(config, adapted, out / "mAP_by_tag.png")
    evaluate.write_submission(adapted, out / "submission.json")


def frame_figure(config: Config, row: Row, path: Path) -> None:
    folder = Path(row.arrays["folder"])
    drawn = f"ground truth dashed, prediction with score above {metrics.SHOWN_SCORE} solid, stronger with its score"
    scene_view.scene_figure(
        path,
        f"{row.sample_id}: {drawn}",
        read_pictures(folder),
        read_arrays(folder.with_name(folder.name + ".npz")),
        config.data,
        row.arrays["truth"],
        row.arrays["predicted"],
    )


def by_tag(config: Config, rows: list[Row], path: Path) -> None:
    """mAP of the held-out frames of each location, by day and night, in dry weather and in rain."""
    from matplotlib.figure import Figure

    found = evaluate.by_tag(config, rows)
    figure = Figure(figsize=(7, 0.6 + 0.35 * len(found)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh([f"{tag} ({count})" for tag, count, _ in found], [value for _, _, value in found])
    axes.bar_label(bars, fmt="%.3f", padding=2, fontsize=8)
    axes.set(xlabel="mAP; in brackets the frames", xlim=(0, 1))
    axes.invert_yaxis()
    said = "mAP of the held-out frames by place, light and weather."
    figure.savefig(path, dpi=110, metadata={"Description": said})


def precision_recall(config: Config, path: Path, columns: dict[str, list[Row]]) -> None:
    """A panel for each class, a curve for each threshold; `untrained` dotted, `trained` solid."""
    from matplotlib.figure import Figure

    classes = config.data.classes
    figure = Figure(figsize=(11 / 3 * len(classes), 3.6), layout="constrained")
    for label, name in enumerate(classes):
        axes = figure.add_subplot(1, len(classes), label + 1)
        for column, rows in columns.items():
            recall, precision = metrics.curve(evaluate.detections(rows)[label])
            for i, threshold in enumerate(config.data.thresholds_m):
                style = {"untrained": ":", "trained": "-"}[column]
                axes.plot(recall[:, i], precision[:, i], style, color=f"C{i}", label=f"{column}, {threshold} m")
        axes.set(title=name, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(fontsize=7)
    said = "All held-out frames: precision over recall of each class, for each distance that counts as found."
    figure.savefig(path, dpi=110, metadata={"Description": said})
