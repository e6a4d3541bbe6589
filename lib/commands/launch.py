"""A step's work in one process for each device: this process where there is one, else children of torch's launcher."""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lib.core import group, machine, processes
from lib.core.errors import Stop
from lib.core.job import Job

SETTLING_SECONDS = 3  # before a further machine looks for the first one again, which must have let its old port go


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--processes", type=at_least_one, default=0, help="processes on this machine (default: one per device)"
    )
    parser.add_argument("--launch-args", default="", help="further words for torch's launcher")


def at_least_one(text: str) -> int:
    if text.strip("0") and text.isdecimal():
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")


def over_devices(job: Job, work: Callable[[Job], list[Path]]) -> list[Path] | int:
    """What `work` returns, or the exit code of the children that did it."""
    wanted = job.args.processes or max(1, machine.gpu_count())
    if max(wanted, group.machines_asked()) > 1 and not group.is_child():
        return launch(job, wanted)
    with processes.ending_together("the same command on every machine"):
        return work(job)


def is_alone() -> bool:
    """Is this the one process that may do what one process does after the others' work?"""
    return not group.is_child() and processes.is_first_rank()


def refuse_group(flag: str, command: str) -> None:
    """Stop where a launcher that is not ours made this process one of several: nobody would be left to do it alone."""
    if group.is_child() and "PIPELINE_OUTCOME" not in os.environ:
        raise Stop(f"{flag} is the work of one process, and this is one of {os.environ['WORLD_SIZE']}", command)


def launch(job: Job, count: int) -> int:
    """As often as the processes end to begin again with less memory; --force has removed what it removes by then.

    Each of several machines sees for itself that the file has changed. None removes it while another may look.
    """
    words, again = shlex.split(job.args.launch_args), job.run.again
    while True:
        before = content(again)
        code = ended(job, count, words)
        if content(again) in ("", before):
            if processes.is_first_rank():
                again.unlink(missing_ok=True)
            return code
        sys.argv = [word for word in sys.argv if word != "--force"]
        if processes.further_machine():
            print("the step begins again on all machines", flush=True)
            time.sleep(SETTLING_SECONDS)


def content(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def ended(job: Job, count: int, words: list[str]) -> int:
    """The exit code of the children, said also where none of them could say it."""
    try:
        return processes.launch(job.run, count, job.record["threads"], words, job.clock)
    except Stop as stop:
        print(stop.text, file=sys.stderr)
        return stop.code
