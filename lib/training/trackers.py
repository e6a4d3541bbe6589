"""Accelerate's trackers: TensorBoard by default, and whatever else --log-with names."""

from pathlib import Path
from typing import Any

from lib.core.job import Job

TENSORBOARD = "tensorboard"


def open_for(job: Job, stage: Path, accelerator: Any) -> None:
    """With the settings: TensorBoard's file is train/<stage>/tensorboard/, the others have a project of the run's name.

    Accelerate opens all under one name, and keeps those of the stage before: here it opens one at a time.
    """
    stage.mkdir(parents=True, exist_ok=True)
    accelerator.project_configuration.logging_dir = stage
    settings, asked, opened = as_scalars(job.record["config"]), accelerator.log_with, []
    for one in asked:
        accelerator.log_with, accelerator.trackers = [one], []
        accelerator.init_trackers(TENSORBOARD if str(one) == TENSORBOARD else job.run.name, settings)
        opened += accelerator.trackers
    accelerator.log_with, accelerator.trackers = asked, opened


def as_scalars(settings: dict[str, Any]) -> dict[str, Any]:
    """What trackers take for a setting: lists become text."""
    return {key: value if isinstance(value, (bool, int, float, str)) else str(value) for key, value in settings.items()}


def log_step(accelerator: Any, values: dict[str, float], step: int) -> None:
    """TensorBoard's `log` would wait for the disk in every step, so its file gets the values without."""
    for tracker in accelerator.trackers:
        if tracker.name != TENSORBOARD:
            tracker.log(values, step=step)
            continue
        for name, value in values.items():
            tracker.tracker.add_scalar(name, value, step)


def flush(accelerator: Any) -> None:
    """What `log_step` left in memory."""
    for tracker in accelerator.trackers:
        if tracker.name == TENSORBOARD:
            tracker.tracker.flush()


def close(accelerator: Any) -> None:
    for tracker in accelerator.trackers:
        tracker.finish()
