"""A headless Chromium, driven over a pipe by the DevTools protocol; for tests of pages.

It cannot reach the network: every name resolves to nothing and every request goes to a proxy that
does not exist, and what a page asks for is on record all the same.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-extensions", "--hide-scrollbars", "--force-device-scale-factor=1"),
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9"),
)
WAIT_SECONDS = 60


def binary() -> str:
    """The path of a Chromium; without one the test is skipped."""
    for name in NAMES:
        if (found := shutil.which(name)) is not None:
            return found
    pytest.skip(f"no Chromium is installed; looked for {', '.join(NAMES)}")


class Page:
    """One tab. What went wrong in it is in `problems`, what it asked for in `requests`."""

    def __init__(self, pipe: _Pipe, session: str):
        self._pipe, self._session = pipe, session
        self.problems: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network", "DOM", "Accessibility"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        answer = self._pipe.call(method, parameters, self._session)
        self._read()
        return answer

    def _read(self) -> None:
        for event in self._pipe.take(self._session):
            name, said = event["method"], event["params"]
            if name == "Runtime.exceptionThrown":
                details = said["exceptionDetails"]
                what = details.get("exception", {}).get("description") or details["text"]
                self.problems.append(what)
            elif name == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
                self.problems.append(said["entry"]["text"])
            elif name == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning"):
                self.problems.append(" ".join(str(a.get("value")) for a in said["args"]))
            elif name == "Network.requestWillBeSent":
                self.requests.append(said["request"]["url"])

    def open(self, path: Path, fragment: str = "") -> None:
        """Loads a file and waits until it is loaded and its script says that it is ready."""
        self.call("Page.navigate", url=path.resolve().as_uri() + fragment)
        self.until("document.readyState === 'complete' && document.documentElement.dataset.ready")

    def look(self, expression: str) -> Any:
        """The value of a JavaScript expression, which may be a promise."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def until(self, expression: str) -> Any:
        end = time.monotonic() + WAIT_SECONDS
        while not (found := self.look(expression)):
            if time.monotonic() > end:
                raise AssertionError(f"not in {WAIT_SECONDS} s: {expression}; {self.problems}")
            time.sleep(0.02)
        return found

    def size(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def scheme(self, name: str) -> None:
        """`light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def press(self, key: str, code: int = 0, text: str = "") -> None:
        more = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **more)
        self.call("Input.dispatchKeyEvent", type="keyUp", **more)

    def picture(self, path: Path, *, whole: bool = False) -> None:
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))


class _Pipe:
    """Messages are JSON that ends in a zero byte."""

    def __init__(self, write: int, read: int):
        self._write, self._read, self._left, self._last = write, read, b"", 0
        self._events: list[dict[str, Any]] = []

    def call(self, method: str, parameters: dict[str, Any], session: str = "") -> dict[str, Any]:
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        message |= {"sessionId": session} if session else {}
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        end = time.monotonic() + WAIT_SECONDS
        while True:
            for answer in self._messages(end):
                if answer.get("id") == self._last:
                    if "error" in answer:
                        raise AssertionError(f"{method}: {answer['error']['message']}")
                    result: dict[str, Any] = answer["result"]
                    return result

    def _messages(self, end: float) -> list[dict[str, Any]]:
        ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            raise AssertionError(f"Chromium has not answered for {WAIT_SECONDS} s")
        data = os.read(self._read, 1 << 20)
        if not data:
            raise AssertionError("Chromium has ended")
        *whole, self._left = (self._left + data).split(b"\0")
        messages = [json.loads(part) for part in whole]
        self._events += [message for message in messages if "method" in message]
        return [message for message in messages if "id" in message]

    def take(self, session: str) -> list[dict[str, Any]]:
        mine = [event for event in self._events if event.get("sessionId") == session]
        self._events = [event for event in self._events if event.get("sessionId") != session]
        return mine


@contextmanager
def chromium() -> Iterator[Page]:
    """An empty page in a browser of its own."""
    program = binary()
    to_read, to_write = os.pipe(), os.pipe()  # what Chromium reads, and what it writes
    with TemporaryDirectory(prefix="chimera-browser-", ignore_cleanup_errors=True) as home:
        # The shell moves the ends to the numbers at which Chromium looks for them.
        shell = f'exec "$0" "$@" 3<&{to_read[0]} 4>&{to_write[1]}'
        own = (f"--user-data-dir={home}", "--remote-debugging-pipe")
        process = subprocess.Popen(
            ["bash", "-c", shell, program, *FLAGS, *own, "about:blank"],
            pass_fds=(to_read[0], to_write[1]),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        os.close(to_read[0])
        os.close(to_write[1])
        try:
            pipe = _Pipe(to_read[1], to_write[0])
            made = pipe.call("Target.createTarget", {"url": "about:blank"})
            found = {"targetId": made["targetId"], "flatten": True}
            yield Page(pipe, pipe.call("Target.attachToTarget", found)["sessionId"])
        finally:
            os.close(to_read[1])
            os.close(to_write[0])
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
