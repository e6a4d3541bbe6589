"""Two machines on one disk: network namespaces where this machine may make them, else two groups on its loopback.

One training goes through everything: paused by a signal to one machine, one machine killed, gone on with, and at the
end it is the training of a single process.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from lib.core import group, processes
from lib.core.run import SCRIPTS

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ("train.epochs=8", "train.micro_batch=1", "train.checkpoint_steps=2", "train.fault=slow")
QUIET = ("train.evaluate_epochs=6", "session.reserve_seconds=2")
HASTY = """
import runpy, sys
from lib.core import group
group.GROUP_SECONDS = 3
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
NAMES = tuple(f"machine{number}-{os.getpid()}" for number in (0, 1))
MAKE = (
    *(f"ip netns add {name}" for name in NAMES),
    f"ip link add eth0 netns {NAMES[0]} type veth peer name eth0 netns {NAMES[1]}",
    *(f"ip -n {name} addr add 10.99.7.{number + 1}/24 dev eth0" for number, name in enumerate(NAMES)),
    *(f"ip -n {name} link set {link} up" for name in NAMES for link in ("lo", "eth0")),
)


@dataclass
class Place:
    """Where the two machines are: what stands before a command, how they reach each other."""

    before: tuple[list[str], list[str]]
    address: str
    interface: str


@pytest.fixture(scope="module")
def namespaces():
    """Two network namespaces with a cable between them; None, and why, where this machine may not make them."""
    refused = ""
    try:
        for command in MAKE:
            subprocess.run(command.split(), check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        refused = f"there is no {error.filename} here"
    except subprocess.CalledProcessError as error:
        refused = f"{' '.join(error.cmd)}: {error.stderr.strip()}"
    before = tuple(["ip", "netns", "exec", name] for name in NAMES)
    yield (None, refused) if refused else (Place(before, "10.99.7.1", "eth0"), "")
    for name in NAMES:
        with contextlib.suppress(FileNotFoundError):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.fixture
def start(tmp_path):
    """start(place, port, NAME=value) starts step 4 of the run on both machines; they are killed at the end."""
    started: list[subprocess.Popen] = []

    def both(place: Place, port: int, **environment: str) -> list[subprocess.Popen]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIPELINE_", "KAGGLE_"))}
        step = [sys.executable, str(ROOT / SCRIPTS[4]), "--run", "r", "--processes", "1", "--launch-args"]
        for number, before in enumerate(place.before):
            words = f"--nnodes 2 --node-rank {number} --master-addr {place.address} --master-port {port}"
            said = kept | environment | {"OMP_NUM_THREADS": "1", "TEST_MACHINE": mark(tmp_path, number)}
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            started.append(subprocess.Popen([*before, *step, words], cwd=tmp_path, env=said, **pipes))
        return started[-2:]

    yield both
    for number in (0, 1):
        pull_the_plug(mark(tmp_path, number))
    for child in started:
        child.communicate()


def mark(folder: Path, number: int) -> str:
    return f"{folder}#{number}"


def pull_the_plug(machine: str) -> None:
    """SIGKILL to every process of a machine."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if f"TEST_MACHINE={machine}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes():
                os.kill(int(pid), signal.SIGKILL)


def until_step(folder: Path, number: int) -> None:
    patience = time.monotonic() + 120
    while last_step(folder) < number:
        assert time.monotonic() < patience, f"step {number} never came"
        time.sleep(0.1)


def last_step(folder: Path) -> int:
    return max((int(one.name[5:]) for one in (folder / "train" / "adapt").glob("step-*")), default=0)


def end(child: subprocess.Popen) -> tuple[int, str, str]:
    out, err = child.communicate(timeout=240)
    assert "Traceback" not in err, err
    return child.returncode, out, err


def errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error: ")]


def test_two_machines_pause_lose_one_and_go_on_as_one_process_does(
    namespaces, start, prepared, step, folder, tmp_path, tmp_path_factory
):
    place = namespaces[0] or Place(([], []), "127.0.0.1", "lo")
    prepared(*SETTINGS, *QUIET)
    wanted = alone(step, folder, tmp_path_factory.mktemp("whole"))
    first, second = start(place, processes.free_port(), GLOO_SOCKET_IFNAME=place.interface)
    until_step(folder, 4)
    second.send_signal(signal.SIGTERM)
    for child in (first, second):
        code, out, err = end(child)
        assert code == 75 and "paused at" in out and not errors(err), out + err
    paused = last_step(folder)
    first, second = start(place, processes.free_port(), GLOO_SOCKET_IFNAME=place.interface)
    until_step(folder, paused + 4)
    pull_the_plug(mark(tmp_path, 1))
    code, _, err = end(first)
    assert code == 1 and errors(err) == [f"error: {group.GONE}"], err
    second.communicate()
    for child in start(place, processes.free_port(), GLOO_SOCKET_IFNAME=place.interface):
        code, out, err = end(child)
        assert code == 0 and not errors(err), out + err
    assert trained(folder) == wanted


def test_out_of_memory_on_one_machine_makes_both_begin_again_with_less(namespaces, start, prepared, folder):
    place = namespaces[0] or Place(([], []), "127.0.0.1", "lo")
    prepared("train.epochs=2", "train.fault=memory-5", "train.shard=on", "train.checkpoint_steps=2")
    said = []
    for child in start(place, processes.free_port(), GLOO_SOCKET_IFNAME=place.interface):
        code, out, err = end(child)
        assert code == 0, out + err
        said.append(out)
    assert [text.count("micro_batch is now 1") for text in said] == [0, 1], said
    assert "the step begins again on all machines" in said[1] and "going on from step-000005" in said[0]
    assert not (folder / ".again.tmp").exists()


def alone(step, folder: Path, elsewhere: Path) -> dict:
    """What one process trains that nobody interrupts; the run is as before afterwards."""
    assert step(4) == 0
    found = trained(folder)
    (folder / "train").rename(elsewhere / "train")
    (folder / "4_train.json").unlink()
    return found


def trained(folder: Path) -> dict[str, bytes]:
    """log.jsonl and the tensors of the last checkpoint, byte for byte."""
    stage = folder / "train" / "adapt"
    last = max(stage.glob("step-*"))
    files = [*last.rglob("*.safetensors"), stage / "log.jsonl"]
    assert len(files) > 1
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_a_machine_whose_name_means_itself_is_told_the_interface(namespaces, start, prepared, folder):
    """In a namespace of its own the machine's name stands for an address that is not there, or for the loopback."""
    place, refused = namespaces
    if not place:
        pytest.skip(refused)
    prepared(*SETTINGS, *QUIET)
    for child in start(place, processes.free_port()):
        code, out, err = end(child)
        [said] = errors(err)
        assert code == 2 and "where the other machines cannot reach it" in said, out + err
        assert "GLOO_SOCKET_IFNAME=eth0" in err
    assert not (folder / "train").exists()


def test_a_machine_that_cannot_see_the_run_says_so(start, prepared, tmp_path):
    """--launch-args without the first machine's address: nothing starts, nothing waits."""
    prepared(*SETTINGS, *QUIET)
    words = [sys.executable, str(ROOT / SCRIPTS[4]), "--run", "r", "--launch-args", "--nnodes 2 --node-rank 0"]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and "without --master-addr, --master-port" in ended.stderr


def test_a_machine_that_never_comes_is_waited_for_as_long_as_one_that_is_lost(prepared, tmp_path):
    """The sentence of torch's launcher, after GROUP_SECONDS (here 3) instead of its own ten minutes."""
    prepared(*SETTINGS, *QUIET)
    words = f"--nnodes 2 --node-rank 0 --master-addr 127.0.0.1 --master-port {processes.free_port()}"
    step = [str(ROOT / SCRIPTS[4]), "--run", "r", "--processes", "1", "--launch-args", words]
    command = [sys.executable, "-c", HASTY, *step]
    said = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, env=said, check=False)
    [said] = errors(ended.stderr)
    assert ended.returncode == 1 and "1/2 clients joined" in said and "traceback is above" not in said
    assert not list((tmp_path / "runs" / "r").glob(".*.tmp"))
