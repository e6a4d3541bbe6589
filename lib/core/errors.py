"""One way to stop: a sentence of cause, one command to go on, an exit code."""

import difflib
from collections.abc import Iterable

DONE, FAILED, USAGE, PAUSED = 0, 1, 2, 75
LONGEST = 4000  # characters of a cause; a list of archives to fetch has 3000, a library may quote a whole damaged file


class Stop(Exception):
    """Ends a step without a traceback. `command` is what the user types next; `code` is the exit code."""

    def __init__(self, cause: str, command: str = "", code: int = USAGE):
        cause = cause if len(cause) <= LONGEST else f"{cause[:LONGEST]} …"
        super().__init__(cause)
        self.cause, self.command, self.code = cause, command, code

    @property
    def text(self) -> str:
        """What a person reads."""
        return f"error: {self.cause}" + (f"\n   go on with: {self.command}" if self.command else "")


class Paused(Exception):
    """Raised at a safe point when the session ends; everything done so far is on disk (exit 75)."""


def first_line(error: BaseException) -> str:
    """Of what an error of a library says; its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def nearest(word: str, known: Iterable[str]) -> str:
    """The ending of an error message: the nearest right word, and the allowed ones."""
    known = sorted(known)
    if not known:
        return "there is none yet"
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"{guess}allowed: {', '.join(known)}"
