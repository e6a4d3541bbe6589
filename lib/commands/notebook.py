"""Run a step from a notebook cell, show what it left behind, and end the notebook in peace when it pauses.

A step is a child process: it may install packages that the kernel must not hold, and its memory goes back when it ends.
Its lines appear as they come. Text that ends in a carriage return is a progress line and is replaced in place, because
a saved notebook keeps everything it was sent (a bar of 6 s became 60 outputs).
"""

import argparse
import base64
import codecs
import contextlib
import html
import importlib.util
import inspect
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from lib.core.code import REPOSITORY
from lib.core.errors import DONE, PAUSED, Stop, nearest
from lib.core.run import GOOGLE_DRIVE, SCRIPTS, Run, read_record

# lasting lines of one step that a notebook keeps; later ones replace one another
MAX_LINES = 1000
LAST_LINES = 20
PROGRESS_SECONDS = 0.5  # between two updates of the progress line
PICTURE_PX = 1100  # of a figure in the notebook; the report has it whole
OUTPUT_PATH = "PAPERMILL_OUTPUT_PATH"  # what papermill --inject-output-path calls it
DRIVE = Path(GOOGLE_DRIVE) / "MyDrive"
ON_DRIVE = "fine-tuning"  # the folder in it
WORDS_OF = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class StepFailed(Exception):
    """A step ended with another exit code than 0 (done) or 75 (paused)."""


def start_clock() -> None:
    """The first cell calls this: all steps share one time limit, which counts from here (lib.core.session)."""
    os.environ.setdefault("PIPELINE_SESSION_START", str(time.monotonic()))


def step(
    number: int, recipe: str = "", preset: str = "", demo: bool = False, run: str = "",
    overrides: str = "", time_limit: str = "", root: str = "",
) -> None:  # fmt: skip
    """Run step `number` with the flags of the command line and show its tables and figures.

    `overrides` is text as on the command line ("lora.rank=8 train.epochs=2"); `root` holds runs/, data/ and cache/, and
    is the clone itself when empty. A paused step ends the notebook with exit code 0, so that papermill and Kaggle keep
    what there is; any other code but 0 raises StepFailed.
    """
    words = flags(recipe, preset, demo, run, overrides, time_limit, root)
    code, last_lines = follow([sys.executable, str(REPOSITORY / SCRIPTS[number]), *words], place(root))
    if code not in (DONE, PAUSED):
        raise StepFailed(f"{SCRIPTS[number]} ended with exit code {code}: " + "\n".join(last_lines[-3:]))
    finished = Run(place(root), run or default_run(recipe, preset, demo))
    if code == DONE or number == 4:
        show(number, finished)
    if code == PAUSED:
        end_paused(finished.command(number))


def plan(**settings: Any) -> None:
    """What the steps would do and cost with these settings, before anything starts (`--plan`)."""
    if importlib.util.find_spec("omegaconf") is None:
        print("The plan is known once step 1 has installed what is missing: python step1_setup.py --plan")
        return
    words = flags(**{**settings, "time_limit": ""})
    code, last_lines = follow([sys.executable, str(REPOSITORY / SCRIPTS[1]), *words, "--plan"], place(settings["root"]))
    if code != DONE:
        raise StepFailed("\n".join(last_lines[-3:]))


def next_steps(recipe: str, preset: str, demo: bool, run: str, root: str, **others: str) -> None:
    """Commands that go on from here, with this run's name in them."""
    finished = Run(place(root), run or default_run(recipe, preset, demo))
    record = read_record(finished.record)
    print("Your own inputs:      ", finished.command(5, "--predict", "INPUTS", "--out", "FOLDER"))
    print("Take the adapter away:", finished.command(5, "--export", "adapter"))
    print("... or a merged model:", finished.command(5, "--export", "merged"))
    print("What you saw, kept:   ", finished.folder / "record.md")
    if record and record["demo"]:
        print("Your own data:         demo = False above, with a new name for run; --plan says what it needs")


# ---------------------------------------------------------------------------------------------- parameters


def parameters(given: Mapping[str, Any], history: Sequence[str]) -> dict[str, Any]:
    """The notebook's parameters as `step` takes them, of its variables and the source of the cells so far.

    papermill's -p turns what looks like a number into one and leaves false a text: here a run 7 is called "7", and
    "false" is no. Stop: papermill was given a parameter that does not exist, or one of an impossible type.
    """
    if OUTPUT_PATH in given:
        os.environ[OUTPUT_PATH] = given[OUTPUT_PATH]
    for name in injected(history):
        if name not in KNOWN and not name.startswith("PAPERMILL_"):
            raise Stop(f"the notebook has no parameter {name!r}: {nearest(name, KNOWN)}", "papermill --help-notebook")
    found = {name: as_flag(name, given[name]) if name == "demo" else as_text(name, given[name]) for name in KNOWN}
    return found | {"root": found["root"] or on_drive()}


def on_drive() -> str:
    """The root where none is named: on Colab a folder of Google Drive, if it is mounted; else "", the clone."""
    if DRIVE.is_dir():
        root, free_gb = str(DRIVE / ON_DRIVE), shutil.disk_usage(DRIVE).free / 1e9
        print(
            f"root = {root!r}   (Google Drive is mounted, so the run outlives this session; {free_gb:.0f} GB are free)"
        )
        return root
    if any(name.startswith("COLAB_") for name in os.environ):
        print("What is made here is gone when this machine is. To keep it, mount Google Drive and run this cell again:")
        print("    from google.colab import drive; drive.mount('/content/drive')")
    return ""


def injected(history: Sequence[str]) -> list[str]:
    """The names in the cell that papermill puts behind the one tagged "parameters"."""
    lines = [line for source in history if source.startswith("# Parameters\n") for line in source.splitlines()]
    return [match[1] for line in lines if (match := re.match(r"(\w+) = ", line))]


def as_text(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (bool, list, dict)):
        raise Stop(f"the parameter {name} is {value!r}, and should be text", f"-r {name} TEXT")
    if not isinstance(value, str):
        print(f"{name} = {str(value)!r}   (papermill reads -p {name} as a number; -r {name} keeps leading zeros)")
    return str(value)


def as_flag(name: str, value: Any) -> bool:
    word = str(value).strip().lower()
    if word not in WORDS_OF:
        raise Stop(f"the parameter {name} is {value!r}, and should be true or false", f"-p {name} True")
    return WORDS_OF[word]


def place(root: str) -> Path:
    return Path(root).expanduser().resolve() if root else REPOSITORY


def flags(recipe: str, preset: str, demo: bool, run: str, overrides: str, time_limit: str, root: str) -> list[str]:
    """Words of the command line; `root` is where the command runs."""
    values = {"--recipe": recipe, "--preset": preset, "--run": run, "--time-limit": time_limit}
    words = [word for flag, value in values.items() if value for word in (flag, value)]
    return words + (["--demo"] if demo else []) + shlex.split(overrides)


def default_run(recipe: str, preset: str, demo: bool) -> str:
    from lib.commands.settings import default_name

    return default_name(argparse.Namespace(recipe=recipe, preset=preset, demo=demo, root=REPOSITORY))


def end_paused(command: str) -> None:
    """SystemExit(0) is the one ending after which papermill runs no later cell and still exits with 0."""
    print("\nPaused. Everything so far is saved, and the notebook stops here on purpose.")
    print("To go on, restart it with the same parameters and run all cells;")
    print("on Kaggle, first attach the output of this session as an input.")
    print(f"In a shell: {command}")
    print("(SystemExit: 0 below is how a notebook stops.)")
    warnings.filterwarnings("ignore", message="To exit: use")
    sys.exit(0)


# ---------------------------------------------------------------------------------------------- the child


def follow(command: list[str], folder: Path) -> tuple[int, list[str]]:
    """Run a command in `folder` and show its lines; returns its exit code and its last lines.

    An interrupt of the kernel goes to the child alone, which saves and pauses; the cell waits for that.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PIPELINE_PARENT": str(os.getpid()), "PIPELINE_NOTEBOOK": "1", "PYTHONUNBUFFERED": "1"}
    screen = Screen()
    with subprocess.Popen(
        command, cwd=folder, env=environment, process_group=0,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as child, interrupts_to(child):  # fmt: skip
        for text, lasting in pieces(cast(BufferedReader, child.stdout)):  # a pipe that is read in bytes is one
            screen.line(text) if lasting else screen.progress(text)
        code = child.wait()
    screen.close()
    return code, list(screen.last)


@contextlib.contextmanager
def interrupts_to(child: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Within the block a SIGINT is handed on to the child instead of raising KeyboardInterrupt here."""
    before = signal.signal(signal.SIGINT, lambda number, frame: child.send_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def pieces(stream: BufferedReader) -> Iterator[tuple[str, bool]]:
    """The stream's text up to each line end, and whether it lasts: a carriage return lets the next piece replace it."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    while chunk := stream.read1(1 << 16):
        *whole, rest = re.split(r"(?<=[\r\n])", rest + decoder.decode(chunk))
        for text in whole:
            yield text.rstrip("\r\n"), text.endswith("\n")
    if rest:
        yield rest, True


class Screen:
    """What a cell shows of a step: lasting lines as they come, and one progress line that is replaced in place."""

    def __init__(self) -> None:
        self.printed = 0
        self.last: deque[str] = deque(maxlen=LAST_LINES)
        self.shown: Any = None  # the display of the progress line, once there is one
        self.waiting, self.updated = "", 0.0

    def line(self, text: str) -> None:
        self.last.append(text)
        self.printed += 1
        if self.printed <= MAX_LINES:
            print(text, flush=True)
        else:
            self.progress(text)

    def progress(self, text: str) -> None:
        self.waiting = text or self.waiting
        if self.waiting and time.monotonic() - self.updated >= PROGRESS_SECONDS:
            self.update()

    def update(self) -> None:
        from IPython.display import display

        bundle = {"text/plain": self.waiting}
        if self.shown is None:
            self.shown = display(bundle, raw=True, display_id=True)
        else:
            self.shown.update(bundle, raw=True)
        self.waiting, self.updated = "", time.monotonic()

    def close(self) -> None:
        if self.waiting:
            self.update()
        if self.printed > MAX_LINES:
            hidden = max(0, self.printed - MAX_LINES - LAST_LINES)
            print("\n".join([f"… {hidden} lines are not shown …", *list(self.last)[-(self.printed - MAX_LINES) :]]))


# ---------------------------------------------------------------------------------------------- what a step left behind


def show(number: int, run: Run) -> None:
    """Tables and figures that a step left, from the run's files; of a paused training the curves so far."""
    record = read_record(run.record)
    if record is not None and number in SHOWN:
        SHOWN[number](run, record)


def show_data(run: Run, record: dict[str, Any]) -> None:
    from lib.evaluation import report

    if run.split.exists():
        data = report.data_facts(run)
        print(data["proof"])
        show_html(report.tables().data(data))


def show_curves(run: Run, record: dict[str, Any]) -> None:
    from IPython.display import Image, display

    from lib.evaluation import curves, report

    for stage in report.stage_folders(run):
        drawn = curves.curves(stage)
        if drawn:
            display(Image(filename=drawn, width=900))


def show_scores(run: Run, record: dict[str, Any]) -> None:
    """The verdict, one picture, the metrics in front and a link to the report."""
    from lib.evaluation import report

    scores = read_record(run.scores)
    if scores is None:
        return
    print(report.verdict(scores, record))
    if figures := sorted((run.folder / "figures").glob("*.png")):
        show_picture(figures[0])
        print(report.caption(figures[0]))
    table = report.metrics(scores)
    rows = [report.shown(row) for _, row in table[table["front"]].iterrows()]
    show_html(report.tables().metrics(rows, scores["main"]["metric"]) + report.tables().reading())
    page = run.folder / "report.html"
    link = Path(os.path.relpath(page, notebook_folder())).as_posix()
    show_html(f'<a href="{html.escape(quote(link))}" target="_blank">The whole report</a>', f"The whole report: {page}")


def show_picture(path: Path) -> None:
    """At the width of a page, as JPEG: an executed notebook stays below 3 MB."""
    from io import BytesIO

    from IPython.display import display
    from PIL import Image

    with Image.open(path) as image:
        shown = image.convert("RGB")
    shown.thumbnail((PICTURE_PX, 4 * PICTURE_PX))
    small = BytesIO()
    shown.save(small, "JPEG", quality=88)
    display({"image/jpeg": base64.b64encode(small.getvalue()).decode(), "text/plain": path.name}, raw=True)


def notebook_folder() -> Path:
    """Where the notebook lies that is being run: a link in it counts from there.

    papermill says it with --inject-output-path, Jupyter by JPY_SESSION_NAME, and VS Code, Colab and Kaggle run in the
    notebook's folder. A kernel that papermill started elsewhere is taken to write beside the committed notebook.
    """
    for name in (OUTPUT_PATH, "JPY_SESSION_NAME"):
        if os.environ.get(name):
            return Path(os.environ[name]).resolve().parent
    return REPOSITORY / "notebooks" if Path.cwd() == REPOSITORY else Path.cwd()


KNOWN = tuple(inspect.signature(flags).parameters)  # what the cell tagged "parameters" holds
SHOWN = {3: show_data, 4: show_curves, 5: show_scores}


def show_html(text: str, plain: str = "") -> None:
    """`plain` is what a log shows instead; a table has none, because the step has printed its own."""
    from IPython.display import display

    display({"text/html": text, "text/plain": plain}, raw=True)
