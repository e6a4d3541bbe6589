"""The line of a step's progress: learning rates by group, every loss with its running mean."""

from lib.core.progress import AVERAGED, Progress
from lib.core.session import Clock


def lines(capsys, numbers):
    progress = Progress("train stage2", 0, len(numbers), "steps", Clock(None, 0.0, 0.0), every_seconds=0.0)
    for done, values in enumerate(numbers, start=1):
        progress.update(done, values)
    return capsys.readouterr().out.splitlines()


def test_rates_stand_by_group_and_losses_with_their_mean(capsys):
    first, second = lines(
        capsys, [{"loss_cls": 4.0, "lr_q": 1e-5, "lr_m": 1e-4}, {"loss_cls": 2.0, "lr_q": 2e-5, "lr_m": 2e-4}]
    )
    assert first.startswith("train stage2 1/2 steps  LR: q=1.00e-05 m=1.00e-04  loss_cls 4 (Avg: 4)  ")
    assert second.startswith("train stage2 2/2 steps  LR: q=2.00e-05 m=2.00e-04  loss_cls 2 (Avg: 3)  ")


def test_the_mean_is_of_the_last_steps(capsys):
    *_, last = lines(capsys, [{"loss_cls": 1000.0}] + [{"loss_cls": 1.0}] * AVERAGED)
    assert "loss_cls 1 (Avg: 1)" in last


def test_a_loss_that_is_not_due_in_every_step_is_averaged_over_its_own(capsys):
    *_, last = lines(capsys, [{"loss_critic": 3.0}, {}, {"loss_critic": 1.0}])
    assert "loss_critic 1 (Avg: 2)" in last


def test_without_a_known_total_nothing_is_left_and_one_is_singular(capsys):
    progress = Progress("prepare", 0, 0, "records", Clock(None, 0.0, 0.0), every_seconds=0.0)
    for done in (1, 2):
        progress.update(done, {})
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("prepare: 1 record  ") and second.startswith("prepare: 2 records  ")
    assert "left" not in first and "0 records" not in first
