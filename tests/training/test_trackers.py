"""--log-with: any tracker of Accelerate gets the numbers, not TensorBoard alone."""

import pytest
from accelerate import tracking
from accelerate.utils import LoggerType

from lib.core.run import read_log


class Elsewhere(tracking.GeneralTracker):
    """A tracker of another program: it has none of TensorBoard's own functions."""

    name, requires_logging_directory, main_process_only = "wandb", False, True
    said: list = []  # noqa: RUF012 (the class is named to Accelerate, which makes the object)

    def __init__(self, run_name, **others):
        super().__init__()
        self.said.append(("opened", run_name))

    @property
    def tracker(self):
        return object()

    def store_init_configuration(self, values):
        self.said.append(("settings", values))

    def log(self, values, step=None, **others):
        self.said.append((step, values))

    def finish(self):
        self.said.append(("closed", None))


@pytest.fixture
def elsewhere(monkeypatch):
    monkeypatch.setattr(Elsewhere, "said", [])
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Elsewhere)
    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType.TENSORBOARD, LoggerType.WANDB])
    return Elsewhere


@pytest.mark.parametrize("names", ["wandb", "tensorboard,wandb"])
def test_another_tracker_gets_settings_losses_and_held_out_scores(step, prepared, folder, elsewhere, names):
    prepared("train.epochs=1", "train.checkpoint_steps=2")
    assert step(4, "--log-with", names) == 0
    kinds = [kind for kind, _ in elsewhere.said]
    assert elsewhere.said[0] == ("opened", "r") and kinds[1] == "settings" and kinds[-1] == "closed"
    logged = [record for record in read_log(folder / "train" / "adapt" / "log.jsonl") if "eval" not in record]
    losses = [(at, values) for at, values in elsewhere.said if at in range(1, 6) and "loss_objective" in values]
    assert [at for at, _ in losses] == [1, 2, 3, 4, 5]
    assert [values["loss_objective"] for _, values in losses] == [record["loss_objective"] for record in logged]
    assert any("select/error" in values for at, values in elsewhere.said if isinstance(at, int))
    written = list((folder / "train" / "adapt").rglob("events.out.tfevents.*"))
    assert {path.relative_to(folder).parts[2] for path in written} == {"tensorboard"} & set(names.split(","))


def test_a_stage_s_file_has_its_own_steps_alone(step, prepared, folder):
    """Two stages in one call: what the second one logs is not in the first one's file."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    prepared("train.epochs=1", "train.stages=2")
    assert step(4) == 0
    for stage in ("adapt", "again"):
        files = list((folder / "train" / stage / "tensorboard").glob("events.out.tfevents.*"))
        counts = [len(EventAccumulator(str(file)).Reload().Scalars("loss_objective")) for file in files]
        assert sum(counts) == len({record["step"] for record in read_log(folder / "train" / stage / "log.jsonl")} - {0})
