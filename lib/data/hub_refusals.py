"""What the hub answered, in one sentence with the thing to do: the same for what is fetched and for what is pushed.

A repository that must be accepted first, one that is not there, and one that is asked for too often all used to read
"cannot be fetched".
"""

import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

from lib.core.errors import FAILED, Stop, first_line

SITE = "https://huggingface.co"
TOKENS = f"{SITE}/settings/tokens"
RETRIED = (408, 429, 500, 502, 503, 504)  # answers that another moment may change
TRIES, LONGEST_WAIT_SECONDS = 5, 30.0
# The transport's errors by name: httpx in hub 1, httpx2 in hub 2.
BROKEN = ("ConnectError", "ReadError", "RemoteProtocolError", "ReadTimeout", "WriteError")

Answer = TypeVar("Answer")


def patiently(call: Callable[[], Answer]) -> Answer:
    """The call's answer, asked for again while the hub is busy or the connection broke; waits of 1, 2, 4, 8 s, or as
    long as the hub says.
    """
    for attempt in range(TRIES - 1):
        try:
            return call()
        except Exception as error:
            if not may_change(error):
                raise
            time.sleep(wait_seconds(error, attempt))
    return call()


def origin(error: BaseException) -> BaseException:
    """The hub client wraps what the upload of a large file met in a RuntimeError."""
    return origin(error.__cause__) if isinstance(error, RuntimeError) and error.__cause__ else error


def may_change(error: Exception) -> bool:
    status = status_of(error)
    return status in RETRIED or (not status and type(origin(error)).__name__ in BROKEN)


def status_of(error: Exception) -> int:
    """The HTTP status of an answer; 0 where there was none."""
    return int(getattr(getattr(origin(error), "response", None), "status_code", 0))


def headers_of(error: Exception) -> Any:
    return getattr(getattr(origin(error), "response", None), "headers", {})


def wait_seconds(error: Exception, attempt: int) -> float:
    asked = headers_of(error).get("Retry-After", "")
    return min(float(asked) if asked.isdigit() else 2.0**attempt, LONGEST_WAIT_SECONDS)


def refusal(error: Exception, repository: str, doing: str, command: str, otherwise: str = "") -> Stop:
    """Why the hub did not do it. doing: "fetched" or "pushed"; otherwise: how to go on without a connection."""
    status, code = status_of(error), headers_of(error).get("X-Error-Code", "")
    cannot = f"{repository} cannot be {doing}"
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return Stop(
            f"{cannot}: HF_HUB_OFFLINE forbids connections", with_other(f"unset HF_HUB_OFFLINE; {command}", otherwise)
        )
    if code == "GatedRepo":
        return Stop(
            f"{repository} is gated: its licence must be accepted at {SITE}/{repository} by the account of HF_TOKEN",
            f"accept it there, export HF_TOKEN=… ({TOKENS}), then {command}",
        )
    if code in ("RevisionNotFound", "EntryNotFound"):
        what = "revision" if code == "RevisionNotFound" else "file"
        return Stop(f"{cannot}: it has no such {what}", "check the revision")
    if code == "RepoNotFound" or (status == 404 and doing == "fetched"):
        return Stop(
            f"{cannot}: there is no such repository, or it is private and {token()}",
            f"check the name; for a private one export HF_TOKEN=… ({TOKENS}), then {command}",
        )
    if status in SENTENCES:
        why, what = SENTENCES[status]
        return Stop(
            f"{cannot}: {why.format(token=token())} (status {status})", what.format(command=command, tokens=TOKENS)
        )
    if status >= 500:
        return Stop(f"{cannot}: the hub itself has failed (status {status})", f"{command}, later", FAILED)
    if status:
        return Stop(f"{cannot}: the hub answered {status} ({first_line(origin(error))})", command, FAILED)
    cause = f"{cannot}: no connection ({type(origin(error)).__name__}: {first_line(origin(error))})"
    return Stop(cause, with_other(f"{command}, when there is a connection", otherwise))


SENTENCES = {  # status -> why, what to do
    401: ("{token}", "export HF_TOKEN=… ({tokens}), then {command}"),
    403: (
        "the account of HF_TOKEN may not do that",
        "export HF_TOKEN=… with the right to it ({tokens}), then {command}",
    ),
    404: ("there is no such place on the hub", "check the name USER/NAME, then {command}"),
    409: ("somebody changed it at the same moment", "{command}, once more"),
    413: ("the hub takes no file of this size", "check what lies in export/"),
    429: (
        "too many requests from here, it says",
        "{command}, in some minutes; signed in (HF_TOKEN) one may ask more often",
    ),
}


def with_other(command: str, otherwise: str) -> str:
    return f"{command}, or {otherwise}" if otherwise else command


def token() -> str:
    return "HF_TOKEN is not accepted" if os.environ.get("HF_TOKEN") else "HF_TOKEN is not set"
