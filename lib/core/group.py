"""The process group: who was asked for and who came, the address it binds, and what is said when one of it is gone.

A machine that died closes its connections and is noticed at once; a pulled cable is noticed after GROUP_SECONDS. Either
way every other process ends with one sentence, and the same command goes on from the last checkpoint.
"""

import contextlib
import ipaddress
import os
import socket

from lib.core.errors import FAILED, Stop

GROUP_SECONDS = 150  # that one process waits for another; torch's own are 30 minutes (gloo) and 10 (NCCL)
ADDRESS, PORT = "10.0.0.1", "29500"  # in the lines that messages show
GONE = "a process of the group is gone (it, its machine or the network); the last good checkpoint stands"


def is_child() -> bool:
    """Was this process started by a launcher (ours, torchrun or accelerate launch)?"""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def line(command: str, machines: int = 2) -> str:
    """What a person types on every one of several machines."""
    words = f"--nnodes {machines} --node-rank R --master-addr {ADDRESS} --master-port {PORT}"
    where = f"on each machine, R = 0 to {machines - 1}; {ADDRESS} is machine 0"
    return f'{command} --root SHARED --launch-args "{words}"   ({where})'


def refuse_alone(command: str) -> None:
    """Stop where a launcher was asked for several processes and gave this one no place among them.

    `accelerate launch` starts a single process on a CPU, whatever --num_machines and --num_processes say, and each of
    them would train alone.
    """
    if is_child():
        return
    world = os.environ.get("WORLD_SIZE", "1")
    if world != "1":
        raise Stop(f"WORLD_SIZE={world}, but this process has no RANK: nothing is trained", line(command))
    if "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ:
        raise Stop(
            "accelerate launch was asked for several processes and made no group of them, as it does on CPUs: "
            "nothing is trained",
            f"{command} --processes N, or {line(command)}",
        )


def machines_asked() -> int:
    """How many machines --launch-args asks for (lib.core.processes.note_machine)."""
    return int(os.environ.get("PIPELINE_MACHINES", "1"))


def refuse_fewer(came: int, command: str) -> None:
    """Before anything is trained: the group is as large as was asked for."""
    asked = max(int(os.environ.get("WORLD_SIZE", "1")), machines_asked())
    if came != asked:
        raise Stop(f"{asked} processes were asked for and {came} joined: nothing is trained", line(command), FAILED)


# ---------------------------------------------------------------------------------------------- addresses


def several_machines() -> bool:
    """Are there processes of this group on another machine?"""
    world = os.environ.get("WORLD_SIZE", "1")
    return is_child() and os.environ.get("LOCAL_WORLD_SIZE", world) != world


def refuse_loopback() -> None:
    """gloo binds the address that the machine's own name stands for. Where that is 127.0.0.1, or none of this machine,
    the others cannot reach it and all would wait without a word.
    """
    master = os.environ.get("MASTER_ADDR", "")
    if not several_machines() or os.environ.get("GLOO_SOCKET_IFNAME") or is_loopback(master):
        return
    name = socket.gethostname()
    bound = bound_address(name)
    if bound is None or is_loopback(bound):
        stands = f"stands for {bound}" if bound else "stands for no address of this machine"
        raise Stop(
            f"the name of this machine, {name}, {stands}, where the other machines cannot reach it",
            f"the same command with GLOO_SOCKET_IFNAME={interface_to(master)} before it",
        )


def is_loopback(address: str) -> bool:
    """Does an address stay on this machine? A name of another one is no address."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def bound_address(name: str) -> str | None:
    """The first address of a name that a socket of this machine can be bound to, as gloo looks for it."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return None
    for family, kind, _, _, address in found:
        with socket.socket(family, kind) as probe, contextlib.suppress(OSError):
            probe.bind(address)
            return str(address[0])
    return None


def interface_to(address: str) -> str:
    """The name of the interface over which this machine reaches another; "eth0" where that cannot be found out."""
    import fcntl
    import struct

    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # nothing is sent
        own = probe.getsockname()[0]
        for _, interface in socket.if_nameindex():
            with contextlib.suppress(OSError):
                told = fcntl.ioctl(probe, 0x8915, struct.pack("256s", interface.encode()))  # SIOCGIFADDR
                if socket.inet_ntoa(told[20:24]) == own:
                    return interface
    return "eth0"


# ---------------------------------------------------------------------------------------------- one is gone


def what_is_lost() -> str:
    """The sentence for a collective that failed."""
    from torch import distributed

    if distributed.is_initialized():
        return GONE
    return f"not all of the {os.environ['WORLD_SIZE']} processes came within {GROUP_SECONDS} s: nothing was trained"


def is_loss(error: RuntimeError) -> bool:
    """Did a collective fail because of another process? torch has a class for NCCL and its store, gloo only words."""
    from torch import distributed

    return isinstance(error, distributed.DistError) or "gloo" in str(error)
