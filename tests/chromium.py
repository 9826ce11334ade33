"""A real browser without a window: Chromium, spoken to over two pipes, with nothing to install beside it.

The browser gets a profile and a home of its own, and may reach no network: every request that a page makes is noted.
`REWARDLADDER_CHROMIUM` names the program where it is not on the path.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE_S = 60.0
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # which needs rights that a container seldom has; every page here is our own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
)

ON_3_AND_4 = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for end, place in zip(ends, (3, 4)):
    os.dup2(end, place)
os.execvp(sys.argv[3], sys.argv[3:])
"""
"""Becomes the browser, which reads commands from descriptor 3 and answers on 4, each message ended by a NUL."""


def program() -> str | None:
    """The browser's program, or None where there is none."""
    named = os.environ.get("REWARDLADDER_CHROMIUM")
    return named or next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One tab; what its pages say and ask for is kept in `complaints` and `requests`."""

    def __init__(self, folder: Path) -> None:
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        environment = {**os.environ, "HOME": str(folder)}
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-S", "-c", ON_3_AND_4, str(to_browser), str(from_browser), str(program())),
                *(*FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"),
            ],
            pass_fds=(to_browser, from_browser),
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._unread, self._number, self._session = b"", 0, ""
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._loaded = False
        target = next(t for t in self.ask("Target.getTargets")["targetInfos"] if t["type"] == "page")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command of the DevTools protocol and wait for its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._send(message)
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])

    def open(self, address: str) -> None:
        """Load a page; what the last one said and asked for is forgotten."""
        self.complaints.clear()
        self.requests.clear()
        self._loaded = False
        self.ask("Page.navigate", url=address)
        self.wait()

    def wait(self) -> None:
        """Wait until a page that was asked for, by a click too, is loaded."""
        while not self._loaded:
            self._next()
        self._loaded = False

    def value(self, script: str) -> Any:
        """What a JavaScript expression is worth on this page."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["exception"].get("description", script))
        return found["result"].get("value")

    def media(self, scheme: str = "light", kind: str = "screen", width: int = 1280, height: int = 900) -> None:
        """Show pages in a light or dark scheme, on a screen or as for a printer, in a window of so many pixels."""
        self.ask("Emulation.setEmulatedMedia", media=kind, features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press a key, as a person without a mouse does."""
        for kind in ("keyDown", "keyUp"):
            typed = text if kind == "keyDown" else ""
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=typed)

    def picture(self, path: Path, whole: bool = True) -> None:
        """Write what is seen as PNG."""
        found = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def pdf(self) -> bytes:
        """The page as it is printed, on the paper its styles ask for."""
        return base64.b64decode(self.ask("Page.printToPDF", preferCSSPageSize=True, printBackground=True)["data"])

    def names(self, role: str) -> list[str]:
        """What a screen reader calls the elements of a role, in order."""
        nodes = self.ask("Accessibility.getFullAXTree")["nodes"]
        shown = [node for node in nodes if not node.get("ignored") and node.get("role", {}).get("value") == role]
        return [str(node.get("name", {}).get("value", "")) for node in shown]

    def close(self) -> None:
        """End the browser."""
        for descriptor in (self._out, self._in):
            os.close(descriptor)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, message: dict[str, Any]) -> None:
        rest = json.dumps(message).encode() + b"\0"
        while rest:
            rest = rest[os.write(self._out, rest) :]

    def _next(self) -> dict[str, Any]:
        """The next message; events are noted on the way."""
        until = time.monotonic() + PATIENCE_S
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._in], [], [], max(0.0, until - time.monotonic()))
            more = os.read(self._in, 1 << 20) if ready else b""
            if not more:
                raise RuntimeError("the browser says nothing")
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, facts: dict[str, Any]) -> None:
        if event == "Page.loadEventFired":
            self._loaded = True
        elif event == "Network.requestWillBeSent" and not facts["request"]["url"].startswith("data:"):
            self.requests.append(facts["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(str(facts["exceptionDetails"].get("exception", facts)))
        elif event == "Log.entryAdded":
            self.complaints.append(f"{facts['entry']['level']}: {facts['entry']['text']}")
        elif event == "Runtime.consoleAPICalled" and facts["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(facts["args"]))
