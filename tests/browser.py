"""Pages in a real Chromium without a window, over its DevTools protocol; tornado, which the notebook's kernel brings,
speaks it.
"""

import asyncio
import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
ABSENT = "no Chromium on this machine (Debian: apt install chromium)"
START_SECONDS = 60
# Elements that reach beyond the page, unless a parent scrolls them; and whether the page itself is too wide.
OVERFLOW = """
(() => {
  const width = document.documentElement.clientWidth;
  const free = [...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > width + 1
    && !e.closest(".scroll")).map(e => e.tagName + "." + e.className);
  return JSON.stringify({width, page: document.documentElement.scrollWidth, elements: free.slice(0, 5)});
})()
"""


def executable() -> str:
    """The browser's path, "" where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), "")


@dataclass
class Shown:
    """What a page was in the browser."""

    picture: bytes  # PNG of the whole page
    overflow: dict[str, Any]  # {width, page, elements}
    said: list[str]  # console messages and errors
    asked: list[str]  # addresses that were requested beside the page
    answer: Any  # of `script`


@contextlib.contextmanager
def opened() -> Iterator[str]:
    """Starts the browser; yields the address of its one page's protocol."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [executable(), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "--no-first-run", "about:blank"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
            try:
                assert process.stderr
                line = next(line for line in process.stderr if "DevTools listening on " in line)
                yield line.split("listening on ")[1].strip()
            finally:
                process.kill()


def show(address: str, page: Path, width_px: int, scheme: str, script: str = "null") -> Shown:
    """A file at this width (a phone's below 500 px), with prefers-color-scheme light or dark; `script` runs in it."""
    return asyncio.run(asyncio.wait_for(visit(address, page, width_px, scheme, script), 2 * START_SECONDS))


async def visit(address: str, page: Path, width_px: int, scheme: str, script: str) -> Shown:
    from tornado.websocket import websocket_connect

    socket = await websocket_connect(address, max_message_size=200_000_000)
    events: list[dict[str, Any]] = []
    number, session = 0, {}

    async def call(method: str, **parameters: Any) -> dict[str, Any]:
        nonlocal number
        number += 1
        await socket.write_message(json.dumps({"id": number, "method": method, "params": parameters, **session}))
        while (message := json.loads(await socket.read_message())).get("id") != number:
            events.append(message)
        assert "result" in message, message
        return message["result"]

    target = (await call("Target.createTarget", url="about:blank"))["targetId"]
    attached = await call("Target.attachToTarget", targetId=target, flatten=True)
    session = {"sessionId": attached["sessionId"]}
    for domain in ("Page", "Runtime", "Network", "Log"):
        await call(f"{domain}.enable")
    phone = width_px < 500
    size = {"width": width_px, "height": 844, "deviceScaleFactor": 1, "mobile": phone}
    await call("Emulation.setDeviceMetricsOverride", **size)
    await call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    await call("Page.navigate", url=page.resolve().as_uri())
    while not any(event.get("method") == "Page.loadEventFired" for event in events):
        events.append(json.loads(await socket.read_message()))
    answer = (await call("Runtime.evaluate", expression=script, returnByValue=True))["result"].get("value")
    overflow = json.loads((await call("Runtime.evaluate", expression=OVERFLOW))["result"]["value"])
    picture = await call("Page.captureScreenshot", captureBeyondViewport=True)
    session = {}
    await call("Target.closeTarget", targetId=target)
    socket.close()
    said = [e["method"] + json.dumps(e["params"]) for e in events if e.get("method") in SAID]
    asked = [e["params"]["request"]["url"] for e in events if e.get("method") == "Network.requestWillBeSent"]
    outside = [url for url in asked if url != page.resolve().as_uri() and not url.startswith("data:")]
    return Shown(base64.b64decode(picture["data"]), overflow, said, outside, answer)


SAID = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
