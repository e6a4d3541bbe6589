"""Installs what is missing, with the standard library alone: step 1 runs this before anything else can be imported.

What is installed and good enough stays (on Kaggle and Colab a replaced torch no longer fits the driver or its own
companions); it becomes a constraint for pip. An empty environment gets the versions of constraints.txt, which were
tested.
"""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from lib.core.errors import FAILED, Stop

# What the tests need, step 1 --dev; with the packages that only some people's files need.
DEV = (
    "pytest>=8.0", "pytest-timeout>=2.3", "pytest-xdist>=3.6", "ruff>=0.17", "mypy>=2.4",
    "h5py>=3.11", "pillow-heif>=0.18",
)  # fmt: skip
MARK = "PIPELINE_INSTALLED"  # set for the step that starts again after an installation
TESTS = {
    ">=": lambda have, want: have >= want, "<=": lambda have, want: have <= want, "==": lambda have, want: have == want,
    "!=": lambda have, want: have != want, ">": lambda have, want: have > want, "<": lambda have, want: have < want,
}  # fmt: skip


class Requirement(NamedTuple):
    """A line of requirements.txt: "huggingface_hub>=1.0,<3" is (name, ((">=", "1.0"), ("<", "3")))."""

    name: str
    limits: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return self.name + ",".join(sign + version for sign, version in self.limits)


def ensure(
    repository: Path, dev: bool = False, wheels: Path | None = None, attached: Callable[[], Path | None] = lambda: None
) -> None:
    """Returns when everything that requirements.txt asks for is installed; else installs it and starts this program
    again.

    Only the names in requirements.txt are looked at, which takes some milliseconds. wheels: a folder to install from,
    which is filled first where it is empty, for sessions without a connection. attached() finds one that was filled
    before. Stop: pip failed.
    """
    wanted = parse(repository / "requirements.txt") + ([parse_line(line) for line in DEV] if dev else [])
    have = installed()
    needed = lacking(wanted, have)
    if not needed:
        return
    if os.environ.get(MARK):
        raise Stop(f"still missing after the installation: {', '.join(map(str, needed))}", manual(repository), FAILED)
    wheels = wheels or attached()
    constraints = limits(wanted, have, repository / "constraints.txt")
    if wheels and not holds_wheels(wheels):
        download(needed, constraints, wheels, repository)
    install(needed, constraints, repository, wheels)
    os.environ[MARK] = "1"
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def lacking(wanted: list[Requirement], have: Mapping[str, str]) -> list[Requirement]:
    """The requirements that are not installed, or not in a version within their limits."""
    return [one for one in wanted if normal(one.name) not in have or not satisfies(have[normal(one.name)], one)]


def limits(wanted: list[Requirement], have: Mapping[str, str], constraints: Path) -> list[str]:
    """The constraints for pip: everything installed that is not itself too old; the tested versions where nothing is
    installed yet.
    """
    if not any(normal(one.name) in have for one in wanted):
        return constraints.read_text(encoding="utf-8").splitlines()
    replaced = {normal(one.name) for one in lacking(wanted, have)}
    return [f"{name}=={version}" for name, version in sorted(have.items()) if name not in replaced]


def install(
    needed: list[Requirement],
    constraints: list[str],
    repository: Path,
    wheels: Path | None = None,
    run: Callable[..., int] = subprocess.call,
) -> None:
    """One call of pip for everything that is missing; from a folder of wheels alone where there is one.

    pip compiles (43 s of CPU): images of containers often forbid Python to keep what it compiles, and then every step
    would do it anew (20 s each).
    """
    source = ["--no-index", "--find-links", str(wheels)] if wheels else []
    print(f"installing {', '.join(map(str, needed))}" + (f" from {wheels}" if wheels else ""), flush=True)
    if pip("install", [*source, "--quiet"], needed, constraints, run):
        raise Stop(
            f"pip could not install {', '.join(map(str, needed))} (its message is above)", manual(repository), FAILED
        )


def download(
    needed: list[Requirement],
    constraints: list[str],
    wheels: Path,
    repository: Path,
    run: Callable[..., int] = subprocess.call,
) -> None:
    """Fills a folder with the wheels of what is missing on this machine, and of what that needs and is missing too.

    `pip download` by itself would fetch what is installed as well: for PEFT a torch with CUDA, 3 GB.
    """
    print(f"fetching the wheels of {', '.join(map(str, needed))} into {wheels}", flush=True)
    wheels.mkdir(parents=True, exist_ok=True)
    binary = ["--only-binary", ":all:", "--quiet"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        code = pip("install", ["--dry-run", "--report", str(report), *binary], needed, constraints, run)
        chosen = [] if code else [one["metadata"] for one in json.loads(report.read_text(encoding="utf-8"))["install"]]
    exact = [f"{one['name']}=={one['version']}" for one in chosen]
    if code or pip("download", ["--dest", str(wheels), "--no-deps", *binary], exact, constraints, run):
        raise Stop(f"pip could not fill {wheels} (its message is above)", manual(repository), FAILED)


def pip(word: str, flags: list[str], needed: Iterable[object], constraints: list[str], run: Callable[..., int]) -> int:
    """Its exit code. needed: names with their limits."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "constraints.txt"
        file.write_text("\n".join(constraints) + "\n", encoding="utf-8")
        start = [sys.executable, "-m", "pip", word, "--disable-pip-version-check", *flags]
        return run([*start, "--constraint", str(file), *map(str, needed)])


def holds_wheels(folder: Path) -> bool:
    return any(folder.glob("*.whl"))


def quiet_kernel(prefix: Path) -> Path | None:
    """In a virtual environment the notebook's kernel logs only what is critical; None elsewhere.

    At every start it warns of TCP on the machine's own loopback, and at every end that it was asked to end: a user
    takes both for faults. A file that is there stays.
    """
    file = prefix / "etc" / "ipython" / "ipython_kernel_config.json"
    if not (prefix / "pyvenv.cfg").is_file():
        return None
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text('{"Application": {"log_level": 50}}\n', encoding="utf-8")
    return file


def manual(repository: Path) -> str:
    """What the user does when pip cannot: a new environment, or wheels from an attached folder."""
    script = repository / "step1_setup.py"
    return (
        f"python3 -m venv .venv && . .venv/bin/activate && python {script}   (a new environment)\n"
        "   without a connection: python step1_setup.py --wheels FOLDER, which a session with one has filled"
    )


def installed() -> dict[str, str]:
    """Name -> version of every distribution that this Python sees; the first on the path counts."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:  # a half-removed package has none
            found.setdefault(normal(name), distribution.version)
    return found


def parse(file: Path) -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [parse_line(line) for line in lines if line]


def parse_line(line: str) -> Requirement:
    """A name with simple limits; nothing else is used in requirements.txt, and anything else is refused."""
    match = re.fullmatch(r"([A-Za-z0-9._-]+)\s*((?:(?:>=|<=|==|!=|>|<)\s*[0-9][0-9A-Za-z.+]*,?\s*)*)", line)
    if not match:
        raise Stop(f"requirements.txt: {line!r} is not a name with versions")
    return Requirement(match[1], tuple(re.findall(r"(>=|<=|==|!=|>|<)\s*([^,\s]+)", match[2])))


def satisfies(version: str, wanted: Requirement) -> bool:
    return all(TESTS[sign](release(version), release(limit)) for sign, limit in wanted.limits)


def release(version: str) -> tuple[int, ...]:
    """A version's numbers without trailing zeros: "2.13.0+cu128" is (2, 13). A pre-release counts as its release."""
    match = re.match(r"(?:\d+!)?(\d+(?:\.\d+)*)", version)
    numbers = [int(part) for part in match[1].split(".")] if match else [0]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def normal(name: str) -> str:
    """The canonical form of a distribution's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
