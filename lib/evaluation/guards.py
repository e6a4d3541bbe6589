"""What stood between the scores and a wrong number, in sentences for the report and scores.json."""

from pathlib import Path

from lib.core.job import Job
from lib.core.run import existing, read_json, read_record
from lib.core.words import counted
from lib.data import split


def of_scores(job: Job, source: Path) -> list[str]:
    """What was checked on the way to the scores of this checkpoint, each in one sentence."""
    proof, state = existing(job.run.split), read_json(source / "state.json")
    return [
        f"the base was loaded strictly before the adapters; its fingerprint is {state['base'][:16]}",
        "the base of the comparison was built separately and never had an adapter",
        "attaching the adapters changed no score by more than 1e-5",
        "after the first backward pass every trained tensor had a finite gradient and no frozen tensor had moved",
        f"training and held-out data, split by {proof['by']}, share {split.in_words(proof['overlap'])}",
        f"training steps skipped because a number was not finite: {state['skipped']}",
        how_chosen(job, source),
    ]


def how_chosen(job: Job, source: Path) -> str:
    """How the scored checkpoint came to be it: the test side had no part in it."""
    proof = existing(job.run.split)
    select = proof["groups"]["select"]
    if not select:
        why = "there are too few groups" if job.config.eval.select_share else "eval.select_share=0 leaves no groups"
        return f"{source.name} is the last step: {why} to choose a checkpoint by"
    if job.config.eval.checkpoint != "best":
        return f"{source.name} was asked for (eval.checkpoint={job.config.eval.checkpoint})"
    if read_record(source.parent / "best.json") is None:
        return f"{source.name} is the last step: no best checkpoint was kept (train.keep_best, train.evaluate_epochs)"
    return (
        f"{source.name} was chosen on the select side ({counted(len(select), proof['by'])}), which is not in the scores"
    )
