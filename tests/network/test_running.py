"""Running statistics move once a step, by the whole batch: whatever the micro-batches, their order, the processes."""

from types import SimpleNamespace

import torch
from torch import nn

from lib.core.records import Parts
from lib.network.running import RunningStatistics, buffers

PATTERN = r"critic\.(running_mean|running_var|num_batches_tracked)"


def critic():
    norm = nn.BatchNorm1d(3)
    norm.running_mean.copy_(torch.tensor([0.1, -2.0, 1e4]))
    return norm, RunningStatistics(Parts({"critic": norm}, buffers=(PATTERN,)))


def batches(count):
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(4, 3, generator=draw) * 3 + 1 for _ in range(count)]


def state(norm):
    return {name: buffer.clone() for name, buffer in norm.named_buffers()}


def after_a_step(of_processes):
    """The statistics of every process after one step, of each of which the micro-batches are given."""
    each = [critic() for _ in of_processes]
    for (norm, running), mine in zip(each, of_processes, strict=True):
        running.begin()
        for batch in mine:
            norm(batch)
            running.collect()
    total = sum(running.moved.clone() for _, running in each)
    together = SimpleNamespace(num_processes=len(each), reduce=lambda moved, how: total.clone())
    for _, running in each:
        running.finish(together, sum(map(len, of_processes)))
    return [state(norm) for norm, _ in each]


def test_one_micro_batch_moves_them_as_a_batch_norm_does_bit_for_bit():
    norm, _ = critic()
    norm(batches(1)[0])
    torch.testing.assert_close(after_a_step([batches(1)])[0], state(norm), rtol=0, atol=0)


def test_several_move_them_by_their_mean_and_counts_by_one():
    first, second = (after_a_step([[batch]])[0] for batch in batches(2))
    found = after_a_step([batches(2)])[0]
    torch.testing.assert_close(found["running_var"], (first["running_var"] + second["running_var"]) / 2)
    assert found["num_batches_tracked"] == 1


def test_processes_hold_the_statistics_of_one():
    whole = after_a_step([batches(4)])[0]
    for found in (*after_a_step([batches(4)[0::2], batches(4)[1::2]]), after_a_step([batches(4)[::-1]])[0]):
        torch.testing.assert_close(found, whole, rtol=1e-7, atol=0)


def test_a_step_that_is_undone_moves_nothing():
    norm, running = critic()
    before = state(norm)
    running.begin()
    norm(batches(1)[0])
    running.undo()
    torch.testing.assert_close(state(norm), before, rtol=0, atol=0)


def test_only_what_the_recipe_names_is_a_running_statistic():
    norm = nn.BatchNorm1d(3)
    assert set(buffers(Parts({"critic": norm}, buffers=(r"critic\.running_mean",)))) == {"critic.running_mean"}
    idle = RunningStatistics(Parts({"critic": norm}))
    idle.begin(), norm(batches(1)[0]), idle.collect(), idle.finish(SimpleNamespace(num_processes=1), 1)
    assert norm.num_batches_tracked == 1
