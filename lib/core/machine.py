"""What this machine is: devices, true precision, wheel architectures, cores, memory, disk, connection.

Nothing here initialises CUDA in the calling process: a step that will start children must not, and step 1 wants to
report a broken torch instead of dying of it. So torch is asked in a child process, and GPUs are counted by the driver's
own tool.
"""

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lib.core.errors import Stop
from lib.core.session import ON_KAGGLE

PACKAGES = (
    "torch",
    "accelerate",
    "peft",
    "transformers",
    "diffusers",
    "huggingface_hub",
    "safetensors",
    "numpy",
    "papermill",
)
CONNECT_SECONDS = 2.0  # an offline session must not wait longer
PROBE_SECONDS = 180.0  # importing torch from a cold network disk
PRECISE = {"bf16": "bfloat16 has fp32's range", "fp16": "tensor cores, no bfloat16 hardware", "fp32": "no tensor cores"}

# Asked in a child: what the installed wheel was built for, and whether each device really computes.
PROBE = """
import json, torch
found = []
for i in range(torch.cuda.device_count()):
    p = torch.cuda.get_device_properties(i)
    found.append({"name": p.name, "capability": [p.major, p.minor], "memory_bytes": p.total_memory})
built = torch.cuda.get_arch_list()
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda, "architectures": built, "devices": found}))
"""


class Problem(NamedTuple):
    """Something that would break a later step, and what the user does about it."""

    cause: str
    fix: str


def inspect_machine(folders: Mapping[str, Path]) -> dict[str, Any]:
    """Everything step 1 prints and stores in run.json, as JSON values.

    folders: name -> folder whose free bytes matter (run, cache, data). A device is {name, capability: [major, minor],
    memory_bytes, in_wheel}; without a GPU the list is empty.
    """
    wheel = ask(PROBE, "torch cannot be imported", "python step1_setup.py --force")
    devices = [
        device | {"in_wheel": in_wheel(device["capability"], wheel["architectures"])} for device in wheel["devices"]
    ]
    return {
        "platform": where(os.environ),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": versions(PACKAGES),
        "cuda": wheel["cuda"],
        "architectures": wheel["architectures"],
        "devices": devices,
        "cores": cores(),
        "memory_bytes": memory_bytes(),
        "free_bytes": {name: free_bytes(folder) for name, folder in folders.items()},
        "internet": reachable(),
        "torchvision": broken_import("torchvision"),
    }


def problems(machine: Mapping[str, Any], needed_bytes: Mapping[str, int]) -> list[Problem]:
    """What would break later. `needed_bytes`: place -> bytes that the run will write there."""
    found = [
        Problem(no_kernels(device, machine["architectures"]), newer_card(device))
        for device in machine["devices"]
        if not device["in_wheel"]
    ]
    if machine["torchvision"]:
        cause = f"the installed torchvision does not import beside torch {machine['packages']['torch']}"
        cause += f" ({machine['torchvision']}) and takes transformers and PEFT down with it"
        found.append(Problem(cause, f"{sys.executable} -m pip uninstall -y torchvision"))
    for place, wanted in needed_bytes.items():
        free = machine["free_bytes"][place]
        if free < wanted:
            cause = f"{place} needs {wanted / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free"
            found.append(Problem(cause, "free some space, or give a --root on another disk"))
    return found


# ---------------------------------------------------------------------------------------------- precision


def precision(devices: Iterable[Mapping[str, Any]], wanted: str, allowed: tuple[str, ...]) -> tuple[str, str]:
    """(precision, reason) for training on these devices, the weakest of them deciding.

    wanted: train.precision ("auto", "bf16", "fp16", "fp32"); allowed: the recipe's PRECISIONS. By compute capability
    and never by torch.cuda.is_bf16_supported, which says True on a T4 because it counts emulation. Stop: a device
    without kernels in the wheel, or a wish that the hardware or the recipe cannot meet.
    """
    devices = list(devices)
    for device in devices:
        if not device["in_wheel"]:
            raise Stop(no_kernels(device), newer_card(device))
    capable, why = capabilities(devices)
    if wanted == "auto":
        for name in capable:
            if name in allowed:
                return name, why if name == capable[0] else f"{why}; the recipe is not trained in {capable[0]}"
        raise Stop(
            f"the recipe is trained in {' or '.join(allowed)} and {why}, which gives {' or '.join(capable)}",
            "use another device",
        )
    if wanted not in allowed:
        raise Stop(f"train.precision={wanted}: the recipe is trained in {', '.join(allowed)}", "train.precision=auto")
    if wanted not in capable:
        raise Stop(f"train.precision={wanted} is not possible: {why}", "train.precision=auto")
    return wanted, f"asked for; {why}"


def devices_here() -> list[dict[str, Any]]:
    """The devices of this process, as `inspect_machine` lists them.

    It initialises CUDA, so only a step that trains may call it.
    """
    import torch

    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    built = torch.cuda.get_arch_list()
    return [
        {
            "name": p.name,
            "capability": [p.major, p.minor],
            "memory_bytes": p.total_memory,
            "in_wheel": in_wheel((p.major, p.minor), built),
        }
        for p in found
    ]


def capabilities(devices: list[Mapping[str, Any]]) -> tuple[tuple[str, ...], str]:
    """What the weakest device can be trained in, the best first, and the reason in words."""
    if not devices:
        return ("fp32", "bf16"), "a CPU trains fastest in fp32 and has no fp16 autocast"
    weakest = min(devices, key=lambda device: tuple(device["capability"]))
    major, minor = weakest["capability"]
    why = f"{weakest['name']} has compute capability {major}.{minor}"
    if major >= 8:
        return ("bf16", "fp16", "fp32"), f"{why}: {PRECISE['bf16']}"
    if major == 7:
        return ("fp16", "fp32"), f"{why}: {PRECISE['fp16']}"
    return ("fp32",), f"{why}: {PRECISE['fp32']}"


def in_wheel(capability: Iterable[int], architectures: Iterable[str]) -> bool:
    """Does the installed torch have kernels for a device?

    A binary (sm_XY) runs on its own major version from its minor on; sm_XYa on exactly its own; PTX (compute_XY) on
    everything later (CUDA programming guide, "Application Compatibility").
    """
    major, minor = capability
    for name in architectures:
        kind, _, number = name.partition("_")
        exact = number.endswith("a")
        number = number.rstrip("af")
        built = (int(number[:-1]), int(number[-1]))
        if kind == "compute" and built <= (major, minor):
            return True
        if kind == "sm" and built[0] == major and (built[1] == minor if exact else built[1] <= minor):
            return True
    return False


def no_kernels(device: Mapping[str, Any], architectures: Iterable[str] = ()) -> str:
    major, minor = device["capability"]
    built = f" (it has {', '.join(architectures)})" if architectures else ""
    card = f"{device['name']} (sm_{major}{minor})"
    return f"the installed torch has no kernels for {card}{built}: the first operation on it would fail"


def newer_card(device: Mapping[str, Any]) -> str:
    """Cards before Turing lost their wheels; for newer ones the wheel is too old."""
    if device["capability"][0] < 8 and tuple(device["capability"]) != (7, 5):
        other = "choose another accelerator (Kaggle: GPU T4 x2)"
        return f"{other}, or hide it with CUDA_VISIBLE_DEVICES= to train on the CPU"
    return f"{sys.executable} -m pip install --upgrade torch"


# ---------------------------------------------------------------------------------------------- facts


def gpu_count() -> int:
    """Devices that a child of this process would see, without touching CUDA here."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        listed = [part.strip() for part in visible.split(",")]
        # the driver stops at the first bad one
        return next((i for i, part in enumerate(listed) if part in ("", "-1")), len(listed))
    if not shutil.which("nvidia-smi"):
        return 0
    found = child_of(["nvidia-smi", "-L"])
    return sum(line.startswith("GPU ") for line in found.stdout.splitlines()) if found.returncode == 0 else 0


def ask(code: str, failure: str, command: str) -> dict[str, Any]:
    """The JSON value that some code prints in a child process of this Python."""
    child = child_of([sys.executable, "-c", code])
    if child.returncode:
        raise Stop(f"{failure}: {last_line(child.stderr)}", command)
    return json.loads(child.stdout.splitlines()[-1])


def broken_import(package: str) -> str:
    """Why an installed package cannot be imported; "" where it can, or where it is not installed."""
    if importlib.util.find_spec(package) is None:
        return ""
    child = child_of([sys.executable, "-c", f"import {package}"])
    return last_line(child.stderr) if child.returncode else ""


def child_of(command: list[str], limit_seconds: float = PROBE_SECONDS) -> "subprocess.CompletedProcess[str]":
    """A finished child process. Its exit code is an answer, so it is not checked here."""
    return subprocess.run(command, capture_output=True, text=True, timeout=limit_seconds, check=False)


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "no message"


def reachable() -> bool:
    """Does the hub (or HF_ENDPOINT) accept a connection? In a child, because a name look-up knows no time limit."""
    from urllib.parse import urlsplit

    address = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    port = address.port or (443 if address.scheme == "https" else 80)
    code = f"import socket; socket.create_connection(({address.hostname!r}, {port})).close()"
    try:
        return child_of([sys.executable, "-c", code], CONNECT_SECONDS).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def where(environment: Mapping[str, str]) -> str:
    """The word "kaggle", "colab" or "other"."""
    if ON_KAGGLE in environment:
        return "kaggle"
    return "colab" if any(name.startswith("COLAB_") for name in environment) else "other"


def versions(packages: Iterable[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = ""
    return found


def cores() -> int:
    """Cores that this process may use, not those of the host."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Physical memory, or the container's limit where that is lower."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return physical if text == "max" else min(physical, int(text))


def free_bytes(folder: Path) -> int:
    """Of the disk that a folder lies on, or will lie on."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
