"""Step 5 of 5: the untouched base against the adapted model on the held-out samples; figures and report.

Leaves eval/scores.json, eval/per_sample.csv, figures/ and report.html in the run. Further: --predict INPUTS --out DIR
(your own data), --export adapter|merged|hub, --compare RUN… (table and plot of several runs), --verify FOLDER (is a
run, copied or unpacked elsewhere, whole?). On several devices the samples are divided among them, and a network that
was trained spread over devices is spread again; --processes and --launch-args are those of step 4.
"""

import argparse
import shlex
import sys
from pathlib import Path

from lib.commands import cli, launch
from lib.core.errors import DONE, Stop
from lib.core.job import Job


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        default="",
        metavar="best|last|step-N",
        help="what to score, export or predict with (default: the setting eval.checkpoint)",
    )
    parser.add_argument("--predict", default="", metavar="INPUTS", help="run the adapted model on these inputs")
    parser.add_argument("--out", type=cli.folder, help="folder for --predict")
    parser.add_argument(
        "--scale",
        action="append",
        default=[],
        metavar="KNOWN",
        help='unit for --predict: "a.jpg b.jpg 2.5" apart, "a.jpg 120,340 810,335 1.2", or a folder of known poses',
    )
    parser.add_argument(
        "--export", default="", choices=("adapter", "merged", "hub"), help="write export/ (hub: also push it)"
    )
    parser.add_argument("--hub-repository", default="", metavar="USER/NAME", help="where --export hub pushes to")
    parser.add_argument("--public", action="store_true", help="let everybody see what --export hub pushes")
    parser.add_argument("--compare", nargs="+", default=[], metavar="RUN", help="runs to compare in one table and plot")
    parser.add_argument("--verify", type=cli.folder, metavar="FOLDER", help="say what of a run's folder is whole")
    launch.add_flags(parser)
    # What is scored is a setting, so that another checkpoint makes the scores stale; exporting one does not.
    parser.set_defaults(as_settings=scored_checkpoint)


def scored_checkpoint(args: argparse.Namespace) -> dict[str, str]:
    """A flag that is not given leaves the setting alone."""
    return {"eval.checkpoint": args.checkpoint} if args.checkpoint and not (args.predict or args.export) else {}


def work(job: Job) -> list[Path] | int:
    """An export is the work of one process, which holds the network in its host's memory."""
    from lib.evaluation import evaluate

    made: list[Path] | int = evaluate.outputs(job.run)
    if job.args.predict and job.args.out is None:
        again = job.run.command(5, "--predict", shlex.quote(job.args.predict), "--out", "predictions")
        raise Stop("--predict needs --out DIR", again)
    if job.args.export:
        launch.refuse_group("--export", job.run.command(5, "--export", job.args.export))
    if not_scored(job) or job.args.predict:
        made = launch.over_devices(job, score)
    if job.args.export and launch.is_alone() and (isinstance(made, list) or made == DONE):
        from lib.evaluation import deliver

        deliver.export(job)
    return made


def not_scored(job: Job) -> bool:
    return job.before.word != "complete" or job.args.force


def score(job: Job) -> list[Path]:
    """What all processes do together."""
    from lib.evaluation import deliver, evaluate

    with evaluate.opened(job) as session:
        if not_scored(job):
            evaluate.run(job, session)
        if job.args.predict:
            deliver.predict(job, session)
    return evaluate.outputs(job.run)


def verdict(job: Job) -> str:
    """The sentence that the report begins with."""
    from lib.core.run import existing
    from lib.evaluation import report

    found = report.verdict(existing(job.run.scores, job.run.command(5, "--force")), job.record)
    return f"{found.claim} {found.numbers} {found.basis}"


def main() -> int:
    if cli.asks("--verify"):
        from lib.commands import verify

        return verify.main(sys.argv[1:])
    if cli.asks("--compare"):
        from lib.commands import compare

        return compare.main(sys.argv[1:])
    return cli.main(5, work, add_flags, again=("predict", "export"), result=verdict)


if __name__ == "__main__":
    sys.exit(main())
