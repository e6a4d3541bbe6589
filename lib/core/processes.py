"""Children of a step: an earlier step that must be repaired, or one process per device through torch's own launcher.

The outcome of the ranks is what rank 0 wrote down, never the launcher's exit code, which turns 75 into 1.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib.core.errors import DONE, FAILED, PAUSED, Stop
from lib.core.run import Run, write_text
from lib.core.session import Clock


def is_child() -> bool:
    """Was this process started by a launcher (ours, torchrun or accelerate launch)?"""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def is_first_rank() -> bool:
    """Is this the process that writes and prints for all of them?"""
    return os.environ.get("RANK", "0") == "0"


def launch(run: Run, processes: int, threads: int, launch_args: list[str], clock: Clock) -> int:
    """Runs this command line in `processes` processes of this machine and returns the step's exit code."""
    outcome, stop = run.folder / ".outcome.tmp", run.folder / ".stop.tmp"
    outcome.unlink(missing_ok=True)
    stop.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        str(processes),
        "--master-addr",
        "127.0.0.1",
        "--master-port",
        str(free_port()),
    ]
    command += [*launch_args, "--", *sys.argv]  # without the dashes the launcher takes --run for a flag of its own
    environment = {"OMP_NUM_THREADS": str(threads), "PIPELINE_OUTCOME": str(outcome), "PIPELINE_STOP": str(stop)}
    run_child(command, clock, environment, lambda child: write_text(stop, clock.stop_asked))
    code = int(outcome.read_text()) if outcome.exists() else FAILED
    outcome.unlink(missing_ok=True)
    stop.unlink(missing_ok=True)
    return code


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
    """The exit code of this process. Rank 0 notes the step's outcome for `launch`, and torch's launcher is told 0: for
    anything else it prints a traceback. A rank that fails where rank 0 did not keeps its code, which ends all of them.
    """
    outcome = os.environ.get("PIPELINE_OUTCOME")
    if not outcome or not is_child():
        return code
    if os.environ["RANK"] == "0":
        write_text(Path(outcome), str(code))
        return DONE
    return DONE if code in (DONE, PAUSED) or rank_0_left() else code


def rank_0_left() -> bool:
    """Most errors stop every rank alike, within a moment; then rank 0 has said it for all."""
    outcome = os.environ.get("PIPELINE_OUTCOME", "")
    patience = time.monotonic() + 2
    while outcome and time.monotonic() < patience:
        if Path(outcome).exists():
            return True
        time.sleep(0.1)
    return False


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def accelerator(precision: str, folder: Path) -> Any:
    """Accelerate's process group, device, autocast, scaler and trackers. Its own FSDP and DeepSpeed would have to wrap
    a whole model with its optimiser: asked for by variables they set a type and shard nothing, so they are refused.
    """
    import torch
    from accelerate import Accelerator, DistributedType

    cpu = not torch.cuda.is_available()
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
        if os.environ.get(name, "false").lower() not in ("false", "0", ""):
            raise Stop(
                f"{name} is set (by an accelerate configuration file), which shards nothing here",
                f"unset {name}   (what spreads a network over the processes is the setting train.shard=on)",
            )
    chosen = Accelerator(
        cpu=cpu, mixed_precision={"fp32": "no"}.get(precision, precision), log_with="tensorboard", project_dir=folder
    )
    wanted = DistributedType.NO if not is_child() else (DistributedType.MULTI_CPU if cpu else DistributedType.MULTI_GPU)
    if chosen.distributed_type != wanted:
        raise Stop(f"Accelerate set up {chosen.distributed_type}, where {wanted} was wanted", code=FAILED)
    return chosen


def any_asks(accelerator: Any, asked: bool) -> bool:
    """True on every process when one process asks: all stop at the same step."""
    import torch

    if accelerator.num_processes == 1:
        return asked
    flag = torch.tensor([float(asked)], device=accelerator.device)
    return bool(accelerator.reduce(flag, "sum").item() > 0)
