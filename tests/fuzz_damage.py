"""Damages of a file, drawn from a seed: bytes, numbers in text, values of JSON, headers and members of NumPy's formats.

A damage takes the file's content and a generator and gives other content. Which damages fit a file follows from its
beginning, not from its name, so that a JSON index and a JSON table are treated alike.
"""

import io
import json
import re
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

Random = np.random.Generator
Damage = Callable[[bytes, Random], bytes]

COUNTS = (b"\xff" * 8, b"\xff" * 4, b"\0" * 8, (1 << 40).to_bytes(8, "little"), (1 << 31).to_bytes(4, "little"))
WORDS = (b"nan", b"inf", b"-1", b"0", b"1e400", b"9" * 40, b"", b"x", b"\xff", b"1_000", b"\0", "\u0661".encode())
NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:e-?\d+)?")
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 7, 2**31, 2**63, 10**400, 0.5, float("nan"), float("inf"), "", "x", "../out", "a\0b", "\ud800",
    "=1+1", [], [1, 2], [[1], [2, 3]], {}, {"a": 1}, [None], "1" * 5000,
)  # fmt: skip
KINDS = ("<f4", "<f8", "<i8", "|b1", "<c8", "<U4", "|O", "|V8", ">f2", "<i2")


def damaged(content: bytes, random: Random) -> bytes:
    """One damage that fits the content, or two."""
    for _ in range(1 + (random.random() < 0.2)):
        content = pick(random, fitting(content))(content, random)
    return content


def pick(random: Random, choices: Any) -> Any:
    return choices[int(random.integers(len(choices)))]


def fitting(content: bytes) -> tuple[Damage, ...]:
    bytewise = (truncated, flipped, spliced, counted, filled, grown)
    if content[:1] in (b"{", b"["):
        return (*bytewise, number_in_text, *(json_value,) * 12)
    if content[:4] == b"PK\x03\x04":
        return (*bytewise, *(member,) * 10)
    if content[:6] == b"\x93NUMPY":
        return (*bytewise, *(npy_header,) * 6, *(array,) * 6)
    if content and b"\0" not in content[:2000]:
        return (*bytewise, *(number_in_text,) * 6, line)
    return bytewise


# ---------------------------------------------------------------------------------------------- bytes


def truncated(content: bytes, random: Random) -> bytes:
    return content[: int(random.integers(len(content) + 1))]


def flipped(content: bytes, random: Random) -> bytes:
    """Some bits are others; most often near the beginning, where headers are."""
    changed = bytearray(content)
    for _ in range(int(random.integers(1, 5)) if content else 0):
        reach = min(len(content), 200) if random.random() < 0.5 else len(content)
        changed[int(random.integers(reach))] ^= 1 << int(random.integers(8))
    return bytes(changed)


def spliced(content: bytes, random: Random) -> bytes:
    """A piece of the file stands where another piece was, or twice, or is gone."""
    first, second, third = sorted(int(random.integers(len(content) + 1)) for _ in range(3))
    parts = content[:first], content[first:second], content[second:third], content[third:]
    order = pick(random, ((0, 2, 1, 3), (0, 1, 1, 2, 3), (0, 1, 3), (0, 3), (2, 1)))
    return b"".join(parts[number] for number in order)


def counted(content: bytes, random: Random) -> bytes:
    """A count, wherever it stands, is huge or nothing."""
    count, reach = pick(random, COUNTS), len(content) if random.random() < 0.5 else min(len(content), 120)
    at = int(random.integers(reach + 1))
    return content[:at] + count + content[at + len(count) :]


def filled(content: bytes, random: Random) -> bytes:
    first, end = sorted(int(random.integers(len(content) + 1)) for _ in range(2))
    noise = random.bytes(end - first) if random.random() < 0.5 else b"\0" * (end - first)
    return content[:first] + noise + content[end:]


def grown(content: bytes, random: Random) -> bytes:
    at = int(random.integers(len(content) + 1))
    return content[:at] + pick(random, (b"\n", b"{", b"[", b'"', b"\0", b"\xef\xbb\xbf", content[:50])) + content[at:]


# ---------------------------------------------------------------------------------------------- text and JSON


def number_in_text(content: bytes, random: Random) -> bytes:
    places = [found.span() for found in NUMBER.finditer(content[:20_000])]
    if not places:
        return truncated(content, random)
    first, end = pick(random, places)
    return content[:first] + pick(random, WORDS) + content[end:]


def line(content: bytes, random: Random) -> bytes:
    """A line is gone, or comes twice."""
    lines = content.split(b"\n")
    at = int(random.integers(len(lines)))
    return b"\n".join(lines[:at] + [lines[at]] * (2 * int(random.integers(2))) + lines[at + 1 :])


def json_value(content: bytes, random: Random) -> bytes:
    """Any value anywhere in the tree is another one, or is gone, or a key has another name."""
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):
        return flipped(content, random)
    box = [tree]
    owner: Any = box
    key: Any = 0
    while isinstance(owner[key], dict | list) and owner[key] and random.random() < 0.9:
        owner = owner[key]
        key = pick(random, list(owner) if isinstance(owner, dict) else range(len(owner)))
    what = random.random()
    if what < 0.15 and isinstance(owner, dict):
        del owner[key]
    elif what < 0.2 and isinstance(owner, dict):
        owner["other"] = owner.pop(key)
    elif what < 0.25 and isinstance(owner, list):
        owner.append(owner[key])
    else:
        owner[key] = pick(random, VALUES)
    return json.dumps(box[0]).encode()


# ---------------------------------------------------------------------------------------------- NumPy


def array(content: bytes, random: Random) -> bytes:
    """The array has another shape, another type, or numbers that are none."""
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception:
        return flipped(content, random)
    stream = io.BytesIO()
    np.save(stream, changed(np.asarray(found), random), allow_pickle=True)
    return stream.getvalue()


def changed(found: np.ndarray, random: Random) -> np.ndarray:
    what = int(random.integers(6))
    with np.errstate(all="ignore"):
        if what == 0 and found.dtype.kind == "f" and found.size:
            found = found.copy()
            found.flat[int(random.integers(found.size))] = pick(random, (np.nan, np.inf, -np.inf, 1e30, -1.0))
        elif what == 1:
            found = found.reshape(-1)[: max(0, found.size - 1)]
        elif what == 2:
            found = found[None]
        elif what == 3:
            found = found.T
        elif what == 4 and found.dtype.kind in "fiub":
            found = found.astype(pick(random, (np.int8, np.uint64, np.float16, np.complex64, bool, object, "U8")))
        else:
            found = np.zeros(pick(random, ((), (0,), (1,), (2, 0), (3, 3, 3))), found.dtype)
    return found


def npy_header(content: bytes, random: Random) -> bytes:
    kind, shape = pick(random, KINDS).encode(), pick(random, (b"(9999999999,)", b"()", b"(-1,)", b"(3e9,)", b"(0, 5)"))
    if random.random() < 0.5:
        return re.sub(rb"'descr': '[^']*'", b"'descr': '" + kind + b"'", content, count=1)
    return re.sub(rb"'shape': \([^)]*\)", b"'shape': " + shape, content, count=1)


def member(content: bytes, random: Random) -> bytes:
    """One member of an archive (an .npz, weights of torch) is damaged, absent, or another one's; its checksum fits."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except Exception:
        return flipped(content, random)
    name = pick(random, list(members))
    what = random.random()
    if what < 0.1:
        del members[name]
    elif what < 0.2:
        members[name] = pick(random, list(members.values()))
    else:
        members[name] = damaged(members[name], random)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, value in members.items():
            archive.writestr(name, value)
    return stream.getvalue()
