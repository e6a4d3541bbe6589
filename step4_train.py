"""Step 4 of 5: train the recipe's stages; pause and go on at any step, on any number of processes.

Leaves train/<stage>/ in the run: checkpoints of the trained tensors alone, best.json, log.jsonl, timing.jsonl,
tensorboard/. On one device it needs no launcher; on several devices of one machine it starts its own children
(--processes forces a number). What none of them could hold is spread over them (train.shard). On several machines,
with GPUs or without, each runs the same line with its own --node-rank, and --root lies on a disk that all of them
share:

    python step4_train.py --run NAME --root SHARED \\
        --launch-args "--nnodes 2 --node-rank 0 --master-addr 10.0.0.1 --master-port 29500"
"""

import argparse
import os
import sys
from pathlib import Path

from lib.commands import cli, launch
from lib.core import steps
from lib.core.errors import Stop
from lib.core.job import Job


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stages", default="", metavar="a,b", help="train only these stages")
    launch.add_flags(parser)
    parser.add_argument(
        "--sweep",
        nargs="+",
        default=[],
        metavar="key=v1,v2",
        help="one run per combination of values; --set key=value beside it is for all of them",
    )
    parser.add_argument("--checkpoint", default="", metavar="X", help="start a new run from this checkpoint folder")
    parser.add_argument(
        "--log-with",
        default="tensorboard",
        metavar="a,b",
        help="trackers that Accelerate knows: tensorboard (default), wandb, trackio, …; losses, held-out metrics and "
        "settings go there",
    )
    parser.add_argument(
        "--detect-anomaly",
        action="store_true",
        help="go back to the last good checkpoint and name the module that makes the first bad number",
    )


def work(job: Job) -> list[Path] | int:
    refuse_other_run(job)
    return launch.over_devices(job, train)


def train(job: Job) -> list[Path]:
    from lib.training import stages

    return stages.run(job)


def refuse_other_run(job: Job) -> None:
    """A training is never thrown away because something else changed: the message says what, and the user decides."""
    reasons = () if job.args.force else steps.harmful(job.before.reasons, job.config)
    if not reasons:
        return
    if not steps.only_code(reasons):
        raise Stop(
            f"the run {job.run.name} was trained with different inputs: {'; '.join(reasons)}",
            job.run.command(4, "--force")
            + "   (retrains from scratch and removes the old checkpoints), or another --run NAME",
        )
    if not job.args.accept_code:
        raise Stop(
            f"since the training began, {'; '.join(reasons)}",
            job.run.command(4, "--accept-code") + "   (goes on; it is recorded), or --force (retrains from scratch)",
        )
    job.record.setdefault("accepted_code", []).extend(reasons)


if __name__ == "__main__":
    if cli.asks("--sweep"):
        from lib.commands import sweep

        sys.exit(sweep.main(sys.argv[1:]))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(cli.main(4, work, add_flags, again=("checkpoint",)))
