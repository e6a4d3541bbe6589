"""Children of a step: one process per device, started through torch's own launcher.

The outcome is read from the step's stamp, never from the launcher's exit code, which turns 75 into 1.
"""
import os
import subprocess
import sys
from types import SimpleNamespace

from lib.errors import DONE, FAILED, PAUSED, Stop
from lib.run import Run, read_json


def is_child() -> bool:
    """Was this process started by a launcher (ours, torchrun or accelerate launch)?"""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch(run: Run, step: int, processes: int, threads: int, argv: list[str]) -> int:
    """Runs the same command line in `processes` processes of this machine and returns the step's exit code."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-addr", "127.0.0.1", "--master-port", str(free_port()), *argv]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PIPELINE_PARENT": ""}
    before = read_json(run.stamp(step))
    child = subprocess.Popen(command, env=environment)
    code = wait(child)
    stamp = read_json(run.stamp(step))
    if stamp is None or (stamp == before and code != 0):
        return FAILED if code else DONE
    return {"complete": DONE, "paused": PAUSED}[stamp["state"]]


def wait(child: subprocess.Popen) -> int:
    """SIGINT and SIGTERM reach the children through the launcher; keep waiting until they have saved."""
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            continue


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def accelerator(precision: str, folder):
    """Accelerate's process group, device, autocast, scaler and trackers. On the CPU its distributed type is asserted: for FSDP and
    DeepSpeed configuration files it falls back to plain processes without a word."""
    import torch
    from accelerate import Accelerator, DistributedType

    cpu = not torch.cuda.is_available()
    chosen = Accelerator(cpu=cpu, mixed_precision={"fp32": "no"}.get(precision, precision), log_with="tensorboard", project_dir=folder)
    if cpu and (os.environ.get("ACCELERATE_USE_FSDP") or os.environ.get("ACCELERATE_USE_DEEPSPEED")):
        raise Stop("FSDP and DeepSpeed need GPUs; this machine has none", "leave out the accelerate configuration file")
    wanted = DistributedType.NO if not is_child() else (DistributedType.MULTI_CPU if cpu else DistributedType.MULTI_GPU)
    if chosen.distributed_type not in (wanted, DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise Stop(f"Accelerate set up {chosen.distributed_type}, wanted {wanted}", code=FAILED)
    return chosen


def any_asks(accelerator, asked: bool) -> bool:
    """True on every process when one process asks: all stop at the same step."""
    import torch

    if accelerator.num_processes == 1:
        return asked
    flag = torch.tensor([float(asked)], device=accelerator.device)
    return bool(accelerator.reduce(flag, "sum").item() > 0)


def alone(device="cpu"):
    """A stand-in for an accelerator where one process scores in fp32 (tests, tools)."""
    import contextlib

    return SimpleNamespace(device=device, num_processes=1, process_index=0, autocast=contextlib.nullcontext)
