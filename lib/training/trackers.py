"""Accelerate's trackers: TensorBoard by default, and whatever else --log-with names."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lib.training.state import Training

TENSORBOARD = "tensorboard"


def open_for(training: "Training") -> None:
    """With the settings: TensorBoard's file is train/<stage>/tensorboard/, the others have a project of the run's name.

    Accelerate opens all under one name, and keeps those of the stage before: here it opens one at a time.
    """
    accelerator, settings = training.accelerator, as_scalars(training.job.record["config"])
    training.folder.mkdir(parents=True, exist_ok=True)
    accelerator.project_configuration.logging_dir = training.folder
    asked, opened = accelerator.log_with, []
    for one in asked:
        accelerator.log_with, accelerator.trackers = [one], []
        accelerator.init_trackers(TENSORBOARD if str(one) == TENSORBOARD else training.job.run.name, settings)
        opened += accelerator.trackers
    accelerator.log_with, accelerator.trackers = asked, opened


def as_scalars(settings: dict[str, Any]) -> dict[str, Any]:
    """What trackers take for a setting: lists become text."""
    return {key: value if isinstance(value, (bool, int, float, str)) else str(value) for key, value in settings.items()}


def log_step(training: "Training", values: dict[str, float]) -> None:
    """TensorBoard's `log` would wait for the disk in every step, so its file gets the values without."""
    for tracker in training.accelerator.trackers:
        if tracker.name != TENSORBOARD:
            tracker.log(values, step=training.step)
            continue
        for name, value in values.items():
            tracker.tracker.add_scalar(name, value, training.step)


def flush(accelerator: Any) -> None:
    """What `log_step` left in memory."""
    for tracker in accelerator.trackers:
        if tracker.name == TENSORBOARD:
            tracker.tracker.flush()


def close(accelerator: Any) -> None:
    for tracker in accelerator.trackers:
        tracker.finish()
