"""When memory is short: the global batch stays, the micro-batch shrinks, then activations are recomputed.

Before a training the largest sample is tried once, so that a run does not find out in its third hour. What is chosen is kept
in run.json, because dropout noise depends on the micro-batch and a resume must use the same one.
"""
import torch

from lib import adapters, order, score
from lib.cli import is_first_rank
from lib.errors import FAILED, Stop
from lib.processes import any_asks
from lib.recipes import Sample
from lib.run import write_json
from lib.state import Training

TRIED_SAMPLES = 32  # the largest of them stands for the largest of all
SHARE = 0.9  # of the device: the rest is for fragments, and for a sample that is larger still


def probe(training: Training) -> None:
    """Before the first step on a device with memory of its own; it changes nothing but the micro-batch and checkpointing."""
    device = training.accelerator.device
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(SHARE, device)
        try:
            shrink_until_it_fits(training)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)


def shrink_until_it_fits(training: Training) -> None:
    """Where nothing is left to lower, the training goes on: it may fit into what the probe left free."""
    sample = largest_sample(training)
    while any_asks(training.accelerator, not fits(training, sample)) and can_use_less(training):
        use_less(training, f"the largest of {min(TRIED_SAMPLES, training.train.length)} samples needs more than {SHARE:.0%} of the memory")


def largest_sample(training: Training) -> Sample:
    """The first of the training's samples that has the most bytes."""
    count, orders = training.train.length, {}
    keys = [order.sample_at(position, training.config.seed, count, orders) for position in range(min(TRIED_SAMPLES, count))]
    sizes = {key: sum(getattr(value, "nbytes", 0) for value in training.train.draw(key.index, key).values()) for key in keys}
    largest = max(sizes, key=sizes.get)
    return training.train.draw(largest.index, largest)


def fits(training: Training, sample: Sample) -> bool:
    """Whether a micro-batch of this sample can be trained on, with every objective; gradients and statistics are put back."""
    statistics = [(buffer, buffer.clone()) for module in training.parts.modules.values() for buffer in module.buffers()]
    try:
        train_on(training, sample)
        return True
    except torch.OutOfMemoryError:
        return False
    finally:
        for tensor in training.tensors.values():
            tensor.requires_grad_(True)
            tensor.grad = None
        for buffer, before in statistics:
            buffer.copy_(before)


def train_on(training: Training, sample: Sample) -> None:
    """Forward and backward beside the memory that the optimisers' two moments will take."""
    adapters.set_mode(training.parts, training=True)
    device = training.accelerator.device
    moments = torch.empty(2 * sum(p.numel() for p in training.tensors.values()), device=device)
    if training.prefix is not None:
        with torch.no_grad(), training.accelerator.autocast():
            sample = training.prefix.fill(sample)
    batch = score.to_device(training.job.recipe.collate([sample] * training.micro_batch), device)
    for objective in training.objectives:
        for name, tensor in training.tensors.items():
            tensor.requires_grad_(name in training.sums[objective.name].tensors)
            tensor.grad = None
        with training.accelerator.autocast():
            loss, _ = objective.loss(training.parts, batch, max(training.step, objective.from_step))
        training.accelerator.backward(loss)
    del moments


# ---------------------------------------------------------------------------------------------- what can be lowered


def can_halve(training: Training) -> bool:
    each = training.accelerator.num_processes
    return training.micro_batch > 1 and training.config.global_batch % (training.micro_batch // 2 * each) == 0


def can_use_less(training: Training) -> bool:
    return can_halve(training) or not training.checkpointing


def use_less(training: Training, cause: str) -> None:
    """The guide's order: a smaller micro-batch, then recomputed activations; then only a person can help."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if can_halve(training):
        training.micro_batch //= 2
        what = f"micro_batch is now {training.micro_batch}, the global batch stays {training.config.global_batch}"
    elif not training.checkpointing:
        training.checkpointing = training.job.config.train.checkpointing = True
        for module in training.parts.modules.values():
            module.checkpointing = True
        what = "activations are recomputed in the backward pass (train.checkpointing)"
    else:
        raise Stop("out of memory with micro_batch 1 and recomputed activations", "use a lower resolution or a lower lora.rank", FAILED)
    print(f"{cause}; {what}", flush=True)
    note(training, what)


def note(training: Training, what: str) -> None:
    training.job.record |= {"micro_batch": training.micro_batch}
    training.job.record.setdefault("changes", []).append({"step": training.step + 1, "what": what})
    if is_first_rank():
        write_json(training.job.run.record, training.job.record)
