"""A real Chromium without a window, driven through two pipes: pages are opened, clicked, dragged and photographed.

Chromium speaks its DevTools protocol on file descriptors 3 and 4 (`--remote-debugging-pipe`): one JSON object a
message, ended by a zero byte. So no package and no port is needed.
"""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), "")
needed = pytest.mark.skipif(not PROGRAM, reason="no Chromium on this machine (chromium, google-chrome)")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # a page that wants anything from elsewhere does not get it
    "--force-device-scale-factor=1",
    "--hide-scrollbars",
    "--no-first-run",
    "--remote-debugging-pipe",
)

GONE = ("context was destroyed", "Cannot find context", "navigated or closed")


class Page:
    """One tab. Positions are CSS pixels of the window."""

    def __init__(self, to_browser: int, from_browser: int):
        self.to_browser, self.from_browser = to_browser, from_browser
        self.rest, self.number, self.session = b"", 0, ""
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **parameters: Any) -> Any:
        """One command of the protocol and its result; what else arrives meanwhile is kept in `events`.

        LookupError: the page that was asked has gone, since another is being loaded.
        """
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to_browser, json.dumps(message).encode() + b"\0")
        while (answer := self.receive()).get("id") != self.number:
            self.events.append(answer)
        if any(word in str(answer.get("error")) for word in GONE):
            raise LookupError(answer["error"])
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def receive(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            arrived = os.read(self.from_browser, 1 << 20)
            assert arrived, "Chromium ended"
            self.rest += arrived
        message, self.rest = self.rest.split(b"\0", 1)
        return dict(json.loads(message))

    def open(self, address: str | Path, width: int, height: int) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.resize(width, height)
        self.go(address)

    def resize(self, width: int, height: int) -> None:
        """A window of this size; of a telephone below 600 px."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def go(self, address: str | Path) -> None:
        """Opens a file or an address and waits until it is loaded."""
        self.events.clear()
        url = address.resolve().as_uri() if isinstance(address, Path) else address
        self.call("Page.navigate", url=url)
        self.wait(f"document.readyState === 'complete' && location.href === {json.dumps(url)}")

    def run(self, script: str) -> Any:
        """The value of a script; a promise is waited for."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, condition: str, limit_s: float = 60) -> None:
        until = time.monotonic() + limit_s
        while not self.holds(condition):
            assert time.monotonic() < until, f"never true: {condition}"
            time.sleep(0.02)

    def holds(self, condition: str) -> bool:
        try:
            return bool(self.run(condition))
        except LookupError:
            return False

    def errors(self) -> list[str]:
        """Everything that the page complained about: exceptions, the console's errors, files that did not come."""
        self.run("1")
        return [json.dumps(event["params"]) for event in self.events if is_complaint(event)]

    def requests(self) -> list[str]:
        """The addresses that the page asked for since it was opened."""
        self.run("1")
        sent = [e["params"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [one["request"]["url"] for one in sent]

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 4) -> None:
        self.mouse("mouseMoved", *start)
        self.mouse("mousePressed", *start, button="left", buttons=1, clickCount=1)
        for step in range(1, steps + 1):
            x, y = (a + (b - a) * step / steps for a, b in zip(start, end, strict=True))
            self.mouse("mouseMoved", x, y, button="left", buttons=1)
        self.mouse("mouseReleased", *end, button="left", clickCount=1)

    def click(self, x: float, y: float) -> None:
        self.drag((x, y), (x, y), steps=0)

    def click_on(self, selector: str) -> None:
        """A click in the middle of the first element that the CSS selector finds."""
        x, y = self.run(f"""(() => {{
            const element = document.querySelector({json.dumps(selector)});
            element.scrollIntoView({{block: "nearest"}});
            const box = element.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }})()""")
        self.click(x, y)

    def key(self, key: str, modifiers: int = 0) -> None:
        """One key as `KeyboardEvent.key` names it; modifiers: 1 Alt, 2 Ctrl, 4 Meta, 8 Shift."""
        text = {"text": key} if len(key) == 1 and not modifiers & 3 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, modifiers=modifiers, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, modifiers=modifiers)

    def downloads(self, folder: Path) -> None:
        """What the page saves goes into this folder without a question."""
        session, self.session = self.session, ""
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        self.session = session

    def picture(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


def is_complaint(event: dict[str, Any]) -> bool:
    """A file that was no longer wanted, since the page was left, is none."""
    method, said = event.get("method"), event.get("params", {})
    return bool(
        method == "Runtime.exceptionThrown"
        or (method == "Network.loadingFailed" and not said.get("canceled"))
        or (method == "Log.entryAdded" and said["entry"]["level"] == "error")
    )


@contextlib.contextmanager
def page(address: str | Path, width: int = 1280, height: int = 800) -> Iterator[Page]:
    """A page in a browser of its own, with a fresh profile; both are gone afterwards."""
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    with tempfile.TemporaryDirectory() as profile:
        command = [PROGRAM, *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        browser = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{from_write}', "bash", *command],
            pass_fds=(to_read, from_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(from_write)
        tab = Page(to_write, from_read)
        try:
            tab.open(address, width, height)
            yield tab
        finally:
            with contextlib.suppress(AssertionError, OSError):
                tab.session = ""
                tab.call("Browser.close")
            try:
                browser.wait(10)
            except subprocess.TimeoutExpired:
                browser.kill()
                browser.wait()
            os.close(to_write)
            os.close(from_read)
            shutil.rmtree(profile, ignore_errors=True)  # Chromium's children write into it a moment longer
            Path(profile).mkdir(exist_ok=True)
