"""`step2_download.py --propose`: the current model drafts labels for pictures of the user's own. What it leaves is no
output of the step: a person has to look at it first.
"""

import argparse
import contextlib
from pathlib import Path

from lib.core.errors import Stop
from lib.core.job import Job
from lib.core.records import Parts

WISHES = ("every", "box", "detector")


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--propose",
        default="",
        metavar="FOLDER|VIDEO",
        help="draft labels with the run's model, to be corrected by hand",
    )
    parser.add_argument("--out", default="", metavar="DIR", help="with --propose VIDEO: the folder of its drafts")
    parser.add_argument("--every", default="5", metavar="N", help="with --propose: every n-th frame of a video")
    parser.add_argument(
        "--box", default="", metavar="SIDE:X0,Y0,X1,Y1", help="with --propose: the hand where nothing else says it"
    )
    parser.add_argument("--detector", default="", metavar="NAME", help="with --propose: mediapipe, or module:function")


def run(job: Job) -> None:
    """The recipe drafts; it asks for the model once the inputs are known to be sound, or not at all."""
    wishes = {name: getattr(job.args, name) for name in WISHES}
    with contextlib.ExitStack() as entered:
        job.recipe.propose(job.config, lambda: current(job, entered), job.args.propose, job.args.out, wishes)


def current(job: Job, entered: contextlib.ExitStack) -> Parts:
    """The adapted model where the run has a checkpoint, else the base.

    From here on and until `entered` is left, computing is without gradients and in the run's precision.
    """
    import torch

    from lib.core.records import Manifest
    from lib.data import places
    from lib.evaluation import evaluate
    from lib.network import adapters, checkpoint
    from lib.network.setup import make_stage_inputs, open_device

    accelerator, _ = open_device(job)
    asset_dirs = places.asset_dirs(job.run, job.recipe, job.config, job.args.inputs)
    stage = job.recipe.stages(job.config, Manifest([], Path()))[-1]
    asset_dirs, nothing = make_stage_inputs(job, stage, Manifest([], Path()), asset_dirs, accelerator)
    trained = job.run.stage(stage.name)
    source = checkpoint.choose(trained, job.config.eval.checkpoint) if any(trained.glob("step-*")) else None
    print(f"  drafted by the {'adapted model of ' + source.name if source else 'untouched base'}", flush=True)
    session = evaluate.Session(accelerator, asset_dirs, nothing, stage)
    parts, _ = evaluate.network(job, "adapted" if source else "base", session, source or Path())
    assert parts is not None
    adapters.set_mode(parts, training=False)
    entered.enter_context(torch.no_grad())
    entered.enter_context(accelerator.autocast())
    return parts


def refuse_alone(args: argparse.Namespace) -> None:
    """Stop: a flag of --propose without it."""
    for name in ("out", "box", "detector"):
        if getattr(args, name) and not args.propose:
            raise Stop(f"--{name} belongs to --propose", f"say --propose FOLDER|VIDEO as well, or leave --{name} out")
