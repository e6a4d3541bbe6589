"""Step 5 of 5: the untouched base against the adapted model on the held-out samples; figures and report.

Leaves eval/scores.json, eval/per_sample.csv, figures/ and report.html in the run. Further: --predict INPUTS --out DIR
(your own data), --export adapter|merged|hub, --compare RUN… (table and plot of several runs),
--verify FOLDER (is a run, copied or unpacked elsewhere, whole?).
"""

import argparse
import sys
from pathlib import Path

from lib.commands import cli
from lib.core.errors import Stop
from lib.core.job import Job


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        default="",
        metavar="best|last|step-N",
        help="what to score, export or predict with (default: the setting eval.checkpoint)",
    )
    parser.add_argument("--predict", default="", metavar="INPUTS", help="run the adapted model on these inputs")
    parser.add_argument("--out", type=Path, help="folder for --predict")
    parser.add_argument(
        "--export", default="", choices=("adapter", "merged", "hub"), help="write export/ (hub: also push it)"
    )
    parser.add_argument("--hub-repository", default="", metavar="USER/NAME", help="where --export hub pushes to")
    parser.add_argument("--compare", nargs="+", default=[], metavar="RUN", help="runs to compare in one table and plot")
    parser.add_argument("--verify", type=Path, metavar="FOLDER", help="say what of a run's folder is whole")
    # What is scored is a setting, so that another checkpoint makes the scores stale; exporting one does not.
    parser.set_defaults(as_settings=scored_checkpoint)


def scored_checkpoint(args: argparse.Namespace) -> dict[str, str]:
    """A flag that is not given leaves the setting alone."""
    return {"eval.checkpoint": args.checkpoint} if args.checkpoint and not (args.predict or args.export) else {}


def work(job: Job) -> list[Path]:
    from lib.evaluation import deliver, evaluate

    outputs = evaluate.outputs(job.run)
    if job.before.word != "complete" or job.args.force:
        outputs = evaluate.run(job)
    if job.args.predict:
        if job.args.out is None:
            raise Stop(
                "--predict needs --out DIR", job.run.command(5, "--predict", job.args.predict, "--out", "predictions")
            )
        deliver.predict(job)
    if job.args.export:
        deliver.export(job)
    return outputs


def verdict(job: Job) -> str:
    """The sentence that the report begins with."""
    from lib.core.run import existing
    from lib.evaluation import report

    found = report.verdict(existing(job.run.scores, job.run.command(5, "--force")), job.record)
    return f"{found.claim} {found.numbers} {found.basis}"


def main() -> int:
    if "--verify" in sys.argv:
        from lib.commands import verify

        return verify.main(sys.argv[1:])
    if "--compare" in sys.argv:
        from lib.commands import compare

        return compare.main(sys.argv[1:])
    return cli.main(5, work, add_flags, again=("predict", "export"), result=verdict)


if __name__ == "__main__":
    sys.exit(main())
