"""A headless Chromium that a test steers over its own pipe (Chrome DevTools Protocol), without network.

    with browser.started(folder) as chromium:
        chromium.open(file.as_uri())
        assert chromium.ask("document.title") == "..."

It ends with the test, also when that is killed: then the pipe closes, on which Chromium ends itself, and setpriv(1)
has the kernel kill it as well. It finds no host but loopback: Chromium asks for its maker's hosts at every start.
"""

import contextlib
import json
import os
import select
import subprocess
import time
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import packages

SECONDS = 30
_READ_SIZE = 1 << 20


class BrowserError(Exception):
    """Chromium did not do what it was asked for."""


class Page:
    """The one page of a browser."""

    def __init__(self, write_to: int, read_from: int) -> None:
        self._write_to = write_to
        self._read_from = read_from
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self._events: list[dict[str, Any]] = []

    def attach(self) -> None:
        """Take the first page, and listen to its console and network."""
        page = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Emulation.setFocusEmulationEnabled"):
            if "." in domain:
                self.call(domain, enabled=True)
            else:
                self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a method of the protocol."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write_to, json.dumps(message).encode() + b"\0")
        number = self._number
        answer = self._next(lambda one: one.get("id") == number)
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, url: str) -> None:
        """Load an address and wait until it is there."""
        self._events.clear()
        self.call("Page.navigate", url=url)
        self._next(lambda one: one.get("method") == "Page.loadEventFired")

    def ask(self, expression: str) -> Any:
        """The value of an expression of JavaScript in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise BrowserError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def screen(self, width: int, height: int, *, dark: bool = False, javascript: bool = True) -> None:
        """The size of the screen, the colour scheme a person prefers, and whether scripts run."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call("Emulation.setScriptExecutionDisabled", value=not javascript)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Move or press the mouse: mouseMoved, mousePressed, mouseReleased."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def picture(self, *, whole: bool = False) -> bytes:
        """A PNG of the screen, or of the whole page."""
        return b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"])

    def complaints(self) -> list[str]:
        """What the console shows as error or warning, and exceptions, since the page was opened."""
        self.ask("0")
        found = []
        for one in self._events:
            parameters = one.get("params", {})
            if one.get("method") == "Runtime.exceptionThrown":
                found.append(json.dumps(parameters["exceptionDetails"]))
            elif one.get("method") == "Log.entryAdded" and parameters["entry"]["level"] in {"error", "warning"}:
                found.append(parameters["entry"]["text"])
            elif one.get("method") == "Runtime.consoleAPICalled" and parameters["type"] in {"error", "warning"}:
                found.append(json.dumps(parameters["args"]))
        return found

    def requests(self) -> list[str]:
        """Addresses that the page asked for since it was opened."""
        self.ask("0")
        return [
            one["params"]["request"]["url"] for one in self._events if one.get("method") == "Network.requestWillBeSent"
        ]

    def _next(self, wanted: Any) -> dict[str, Any]:
        deadline = time.monotonic() + SECONDS
        while True:
            while b"\0" in self._buffer:
                line, _, self._buffer = self._buffer.partition(b"\0")
                message: dict[str, Any] = json.loads(line)
                if "id" not in message:
                    self._events.append(message)
                if wanted(message):
                    return message
            ready, _, _ = select.select([self._read_from], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self._read_from, _READ_SIZE) if ready else b""
            if not data:
                raise BrowserError(f"Chromium {'ended' if ready else f'did not answer within {SECONDS} s'}")
            self._buffer += data


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Page]:
    """A Chromium with a profile in the folder, which must be empty."""
    with contextlib.ExitStack() as stack:
        to_browser, write_to = os.pipe()
        read_from, from_browser = os.pipe()
        ours = [write_to, read_from]
        stack.callback(lambda: [os.close(one) for one in ours])
        # The shell puts the pipe where Chromium looks for it: it reads descriptor 3 and writes descriptor 4.
        start = f'exec setpriv --pdeathsig KILL chromium "$@" 3<&{to_browser} 4>&{from_browser}'
        command = [
            *("bash", "-c", start, "chromium"),
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-breakpad"),
            *("--disable-dev-shm-usage", "--no-default-browser-check", f"--user-data-dir={folder / 'profile'}"),
            *("--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "--remote-debugging-pipe", "about:blank"),
        ]
        with (folder / "chromium.log").open("wb") as log:
            process = subprocess.Popen(
                command, pass_fds=(to_browser, from_browser), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        os.close(to_browser)
        os.close(from_browser)
        try:
            page = Page(write_to, read_from)
            page.attach()
            yield page
            with contextlib.suppress(BrowserError):
                page._session = None
                page.call("Browser.close")
            process.wait(SECONDS)
        finally:
            process.kill()
            process.wait()


def missing_sentence() -> str | None:
    """Why there can be no Chromium here; None if there is one or can be."""
    return packages.missing_sentence(packages.BROWSER)
