"""What a system refuses to a step, and variables of the environment that cannot be meant, each in a sentence."""

import errno
import os
from pathlib import Path
from urllib.parse import urlsplit

from lib.core.errors import FAILED, Stop

# What a file system may refuse, and what to do.
REFUSALS = {
    errno.EACCES: "correct the permissions, or choose a --root that can be written to",
    errno.EPERM: "correct the permissions, or choose a --root that can be written to",
    errno.EROFS: "choose a --root on a disk that can be written to",
    errno.ENOTDIR: "a file lies where a folder is needed: move it away",
    errno.EISDIR: "a folder lies where a file is needed: move it away",
    errno.ENAMETOOLONG: "choose a shorter --run or --root",
    errno.ELOOP: "remove the loop of links",
    errno.ENOENT: "put back what is missing there, then run the same command",
    errno.EPIPE: "run the same command, with its output where somebody reads it to the end, or in a file",
    errno.EFBIG: "lift the limit on the size of files (ulimit -f), or choose a --root on a disk without one",
    errno.EMFILE: "lift the limit on open files (ulimit -n)",
    errno.ENFILE: "end other programs: the machine has too many open files",
    errno.ENOLCK: "choose a --root on a disk that can lock files",
    errno.EOPNOTSUPP: "choose a --root on a disk that can lock files",
    errno.ESTALE: "mount the network disk again, then run the same command",
    errno.EIO: "the disk may be failing: copy the run folder elsewhere, then run the same command there",
}
REFUSED = "see to what lies there, then run the same command"  # whatever else, of a file that is named

# What a launcher, a notebook or a step sets for a step: whole numbers.
COUNTS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "PIPELINE_MACHINES", "PIPELINE_PARENT")


def refuse_bad_environment() -> None:
    """Stop: a variable that this step reads is not what it must be."""
    for name in COUNTS:
        if not os.environ.get(name, "0").isdecimal():
            raise Stop(f"{name}={os.environ[name]!r} is not a whole number", f"unset {name}")
    try:
        mirror = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
        is_address = mirror.scheme in ("http", "https") and bool(mirror.hostname) and mirror.port != 0
    except ValueError:
        is_address = False
    if not is_address:  # its value may hold a password
        raise Stop("HF_ENDPOINT is not an address such as https://hf-mirror.com", "unset HF_ENDPOINT, or correct it")


def of_system(error: OSError, place: Path) -> Stop:
    """What the file system refused, in a sentence. An error that no user's folder can cause is raised again."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_full(error, place)
    if error.errno is None or (error.errno not in REFUSALS and error.filename is None):
        raise error
    unnamed = "the output" if error.errno == errno.EPIPE else place
    where = error.filename if error.filename is not None else unnamed
    return Stop(f"{where}: {os.strerror(error.errno)}", REFUSALS.get(error.errno, REFUSED), FAILED)


def disk_full(error: OSError, place: Path) -> Stop:
    from lib.core.machine import free_bytes

    free = free_bytes(place)
    needed = getattr(error, "needed_bytes", 0)
    wanted = f", {needed / 1e6:.1f} MB needed" if needed else ""
    return Stop(
        f"the disk is full: {free / 1e6:.1f} MB free below {place}{wanted}; the last good checkpoint stands",
        "free some space, then run the same command",
        FAILED,
    )
