"""Children of a step: an earlier step that must be repaired, or one process per device through torch's own launcher.

The outcome of the ranks is what the first one of each machine wrote down, never the launcher's exit code, which turns
75 into 1. Where none of them was ever started, the launcher writes its own sentence there.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from lib.core import group
from lib.core.errors import DONE, FAILED, PAUSED, Stop, nearest
from lib.core.run import Run, write_text
from lib.core.session import Clock

T = TypeVar("T")
# torch's launcher, without the page that it prints under what a rank has said; asked in a child, as it needs torch.
LAUNCHER = """
import logging, os, sys
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main
logging.disable(logging.CRITICAL)  # each of its loggers has a level of its own
try:
    main()
except (ChildFailedError, SignalException):
    sys.exit(1)
except Exception as error:
    if not os.path.exists(os.environ["PIPELINE_OUTCOME"]):
        with open(os.environ["PIPELINE_OUTCOME"], "w") as outcome:
            outcome.write(f"torch's launcher: {error}")
    sys.exit(1)
"""

KILLED = "a process of this step failed (its traceback is above) or was killed, perhaps for want of memory"


def is_first_rank() -> bool:
    """Is this the process that writes and prints for all of them?"""
    return os.environ.get("RANK") == "0" or ("RANK" not in os.environ and not further_machine())


def is_first_here() -> bool:
    """Is this the process that says for all of its machine how the step ended?"""
    return os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0")) == "0"


def further_machine() -> str:
    """The number of this machine among several, "" on the first and where there is only one."""
    return os.environ.get("PIPELINE_MACHINE", "")


def note_machine(launch_args: list[str], command: str) -> None:
    """--launch-args may make this machine one of several. Stop: words that torch's launcher needs are missing."""
    words = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    for flag in ("nnodes", "node-rank", "master-addr", "master-port"):
        words.add_argument(f"--{flag}", f"--{flag.replace('-', '_')}", default="")
    said, _ = words.parse_known_args(launch_args)
    if said.nnodes in ("", "1"):
        return
    missing = [f"--{name.replace('_', '-')}" for name, value in vars(said).items() if not value]
    if missing:
        raise Stop(f"--launch-args asks for {said.nnodes} machines without {', '.join(missing)}", command)
    os.environ |= {"PIPELINE_MACHINES": said.nnodes, "PIPELINE_MACHINE": said.node_rank.lstrip("0")}


def launch(run: Run, processes: int, threads: int, launch_args: list[str], clock: Clock) -> int:
    """Runs this command line in `processes` processes of this machine and returns the step's exit code.

    launch_args: words for torch's launcher; those of several machines make this one of them. Stop: the processes ended
    and none of them said why.
    """
    outcome, stop = (run.folder / f".{name}{further_machine()}.tmp" for name in ("outcome", "stop"))
    outcome.unlink(missing_ok=True)
    stop.unlink(missing_ok=True)
    command = [sys.executable, "-c", LAUNCHER, "--nproc-per-node", str(processes)]
    if not any(word.startswith("--master") for word in launch_args):
        command += ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    command += ["--rdzv-conf", f"timeout={group.GROUP_SECONDS}"]  # for machines that never come; torch waits 600 s
    command += [*launch_args, "--", *sys.argv]  # without the dashes the launcher takes --run for a flag of its own
    environment = {"OMP_NUM_THREADS": str(threads), "PIPELINE_OUTCOME": str(outcome), "PIPELINE_STOP": str(stop)}
    run_child(command, clock, environment, lambda child: write_text(stop, clock.stop_asked))
    said = outcome.read_text() if outcome.exists() else KILLED
    outcome.unlink(missing_ok=True)
    stop.unlink(missing_ok=True)
    if not said.isdecimal():
        raise Stop(f"{said}; the last good checkpoint stands", "the same command", FAILED)
    return int(said)


def run_child(
    command: list[str],
    clock: Clock,
    environment: dict[str, str] | None = None,
    ask: "Callable[[subprocess.Popen[bytes]], None]" = subprocess.Popen.terminate,
) -> int:
    """Runs a command to its end and returns its exit code. It shares this session's clock, and a request to stop is
    passed on by `ask`, once: the child has a process group of its own, or Ctrl-C would reach it twice, which means
    "stop at once".

    Ranks are asked through a file (lib.core.session): torch's launcher answers a signal with a traceback and a deadline
    of its own.
    """
    shared = {"PIPELINE_PARENT": str(os.getpid()), "PIPELINE_SESSION_START": str(clock.started)}
    child = subprocess.Popen(command, env=os.environ | shared | (environment or {}), process_group=0)
    asked = False
    while True:
        try:
            return child.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            if clock.stop_asked and not asked:
                ask(child)
                asked = True


def leave(code: int) -> int:
    """The exit code of this process. The first rank of a machine notes the step's outcome for `launch`. Of a pause
    torch's launcher is told that all is well: for anything else it ends the other ranks, which may still be writing.
    """
    if not os.environ.get("PIPELINE_OUTCOME") or not group.is_child():
        return code
    if is_first_here():
        note_outcome(code)
    return DONE if code == PAUSED else code


def note_outcome(code: int) -> None:
    """The exit code of the step on this machine, for the process that started its ranks."""
    outcome = os.environ.get("PIPELINE_OUTCOME")
    if outcome:
        write_text(Path(outcome), str(code))


def speaks() -> bool:
    """Does this process say why the step ends? The first one of each machine does, or one that fails alone."""
    return is_first_here() or not first_left()


def first_left() -> bool:
    """Most errors stop every rank alike, within a moment; then the first of this machine has said it for all."""
    outcome = os.environ.get("PIPELINE_OUTCOME", "")
    patience = time.monotonic() + 2
    while outcome and time.monotonic() < patience:
        if Path(outcome).exists():
            return True
        time.sleep(0.1)
    return False


@contextlib.contextmanager
def ending_together(command: str) -> Iterator[None]:
    """What a process says when another one is gone, or has never come."""
    try:
        yield
    except RuntimeError as error:
        if not group.is_child() or not group.is_loss(error):
            raise
        end(Stop(group.what_is_lost(), command, FAILED))


def end(stop: Stop) -> NoReturn:
    """The end of a process whose group is broken: at once, because leaving the group would wait for the others."""
    if speaks():
        print(stop.text, file=sys.stderr, flush=True)
    if is_first_here():
        note_outcome(stop.code)
    sys.stdout.flush()
    os._exit(stop.code)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def accelerator(precision: str, folder: Path, trackers: Sequence[str] = ("tensorboard",)) -> Any:
    """Accelerate's process group, device, autocast, scaler and trackers. Its own FSDP and DeepSpeed would have to wrap
    a whole model with its optimiser: asked for by variables they set a type and shard nothing, so they are refused.

    trackers: names that Accelerate knows (--log-with). Stop: one that it does not know, or that is not installed.
    """
    import torch
    from accelerate import Accelerator, DistributedType, InitProcessGroupKwargs

    cpu = not torch.cuda.is_available()
    if cpu:
        group.refuse_loopback()
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
        if os.environ.get(name, "false").lower() not in ("false", "0", ""):
            raise Stop(
                f"{name} is set (by an accelerate configuration file), which shards nothing here",
                f"unset {name}   (what spreads a network over the processes is the setting train.shard=on)",
            )
    refuse_unknown_tracker(trackers)
    patience = InitProcessGroupKwargs(timeout=timedelta(seconds=group.GROUP_SECONDS))
    chosen = Accelerator(
        cpu=cpu,
        mixed_precision={"fp32": "no"}.get(precision, precision),
        log_with=list(trackers),
        project_dir=folder,
        kwargs_handlers=[patience],
    )
    several = DistributedType.MULTI_CPU if cpu else DistributedType.MULTI_GPU
    wanted = several if group.is_child() else DistributedType.NO
    if chosen.distributed_type != wanted:
        raise Stop(f"Accelerate set up {chosen.distributed_type}, where {wanted} was wanted", code=FAILED)
    group.refuse_fewer(chosen.num_processes, "the same command")
    return chosen


def refuse_unknown_tracker(names: Sequence[str]) -> None:
    """Accelerate would leave out a tracker that is not installed without a word that stops anybody."""
    from accelerate.tracking import get_available_trackers
    from accelerate.utils import LoggerType

    known = [str(one.value) for one in LoggerType if one is not LoggerType.ALL]
    there = {str(one.value) for one in get_available_trackers()}
    for name in names:
        if name not in known:
            raise Stop(f"--log-with {name}: {nearest(name, known)}", "--log-with tensorboard")
        if name not in there:
            raise Stop(f"--log-with {name}: it is not installed", f"{sys.executable} -m pip install {name}")


def any_asks(accelerator: Any, asked: bool) -> bool:
    """True on every process when one process asks: all stop at the same step."""
    return wishes(accelerator, asked)[0]


def wishes(accelerator: Any, *mine: bool) -> tuple[bool, ...]:
    """Of each wish, whether some process has it: the same on all of them."""
    import torch

    if accelerator.num_processes == 1:
        return mine
    flags = torch.tensor([float(wish) for wish in mine], device=accelerator.device)
    return tuple(bool(count > 0) for count in accelerator.reduce(flags, "sum").tolist())


def alone(accelerator: Any, clock: Clock, work: Callable[[Callable[[], None]], T]) -> T | None:
    """What rank 0 makes while the others wait, for hours if need be. None on the others.

    work(pause) calls pause() between two units of work, each shorter than group.GROUP_SECONDS: there the others hear
    that rank 0 is alive, and rank 0 whether one of them was asked to stop. Paused: on all of them.
    """

    def together(finished: bool) -> bool:
        stop, done = wishes(accelerator, not clock.has_time(), finished)
        if stop and not done:
            raise clock.pause()
        return done

    if not is_first_rank():
        while not together(False):
            pass
        return None

    def pause() -> None:
        together(False)

    made = work(pause)
    together(True)
    return made
