"""Chromium without a window, driven over its DevTools protocol through two pipes.

Pipes need no port, no WebSocket and so no package: messages are JSON, each ended by a zero byte.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Another network came or went on this machine; the browser asks again by itself.
MACHINES_OWN = "ERR_NETWORK_CHANGED"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 90.0
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # root has none to give; the page under test is ours
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
    "--use-fake-device-for-media-stream",  # a microphone that beeps
    "--use-fake-ui-for-media-stream",  # and that a page may use
    "--remote-debugging-pipe",
)
TRIES = 5
# Whether a page is there and has asked for nothing for half a second.
IDLE = """document.readyState === 'complete' && performance.now() - 500 > Math.max(0,
  ...performance.getEntriesByType('resource').map((one) => one.responseEnd || one.startTime))"""
WAIT = """new Promise((done, fail) => {
  const end = Date.now() + %d;
  (function look() {
    let found; try { found = %s; } catch (error) { found = null; }
    if (found) done(found);
    else if (Date.now() > end) fail(new Error("not so in time"));
    else setTimeout(look, 50);
  })();
})"""


def program() -> str | None:
    """Return the path of a Chromium, if there is one."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Failed(AssertionError):
    """The browser could not do what it was told; its message says why."""


@dataclass
class Browser:
    """One browser process and the two pipes to it."""

    process: subprocess.Popen[bytes]
    outbox: int
    inbox: int
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    unread: bytes = b""
    events: list[dict[str, Any]] = field(default_factory=list)

    def tell(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result; events that come before it are kept."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self.outbox, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + 2 * PATIENCE
        while True:
            found = self._next(end)
            if found.get("id") == number:
                if "error" in found:
                    raise Failed(f"{method}: {found['error']['message']}")
                return dict(found["result"])
            if "method" in found:
                self.events.append(found)

    def _next(self, end: float) -> dict[str, Any]:
        while b"\0" not in self.unread:
            ready, _, _ = select.select([self.inbox], [], [], max(0.0, end - time.monotonic()))
            chunk = os.read(self.inbox, 1 << 20) if ready else b""
            if not chunk:
                raise Failed("the browser does not answer")
            self.unread += chunk
        head, _, self.unread = self.unread.partition(b"\0")
        return dict(json.loads(head))

    def open(self, url: str, width: int = 1200, height: int = 800, phone: bool = False) -> Page:
        """Open a page in a window of its own."""
        context = self.tell("Target.createBrowserContext")["browserContextId"]
        target = self.tell("Target.createTarget", url="about:blank", browserContextId=context)
        attached = self.tell("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = Page(self, attached["sessionId"])
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.tell(f"{domain}.enable")
        page.tell(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )
        page.navigate(url)
        return page


@dataclass
class Page:
    """One page; elements are named by CSS selectors."""

    browser: Browser
    session: str

    def tell(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command to this page."""
        return self.browser.tell(method, self.session, **parameters)

    def evaluate(self, expression: str) -> Any:
        """Return what a JavaScript expression or its promise gives."""
        found = self.tell(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in found:
            raise Failed(f"{expression[:300]}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def wait(self, expression: str, seconds: float = PATIENCE) -> Any:
        """Return the value of an expression as soon as it is true."""
        try:
            return self.evaluate(WAIT % (seconds * 1000, expression))
        except Failed as error:
            raise Failed(f"{error}\nthe page says: {self.text()}") from None

    def navigate(self, url: str) -> None:
        """Go to an address; the browser drops all under way when an interface comes or goes."""
        for _ in range(TRIES):
            known = len(self._events("Network.loadingFailed"))
            self.tell("Page.navigate", url=url)
            self.wait(IDLE)
            failed = self._events("Network.loadingFailed")[known:]
            if not any(entry["errorText"] == "net::ERR_NETWORK_CHANGED" for entry in failed):
                return

    def text(self, selector: str = "body") -> str:
        """Return what a person reads in an element."""
        return str(self.evaluate(f"document.querySelector({selector!r})?.innerText ?? ''"))

    def place(self, selector: str) -> dict[str, float]:
        """Scroll to an element and return its x, y, width and height in the window."""
        box = f"document.querySelector({selector!r})"
        self.wait(f"{box} && {box}.getBoundingClientRect().width > 0")
        script = f"(() => {{ {box}.scrollIntoView({{block: 'center'}}); const r = "
        script += f"{box}.getBoundingClientRect(); return [r.x, r.y, r.width, r.height]; }})()"
        return dict(zip(("x", "y", "width", "height"), self.evaluate(script), strict=True))

    def mouse(self, kind: str, x: float, y: float) -> None:
        """Press, move or release the left button at a point of the window."""
        pressed = 0 if kind == "mouseReleased" else 1
        self.tell(
            "Input.dispatchMouseEvent",
            type=kind, x=x, y=y, button="left", buttons=pressed, clickCount=1,
        )  # fmt: skip

    def click(self, selector: str) -> None:
        """Click into the middle of an element."""
        box = self.place(selector)
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.mouse("mousePressed", x, y)
        self.mouse("mouseReleased", x, y)

    def write(self, selector: str, text: str) -> None:
        """Put a text into a field in place of what is there, as a keyboard would."""
        self.click(selector)
        self.evaluate(f"document.querySelector({selector!r}).select()")
        self.tell("Input.insertText", text=text)

    def upload(self, selector: str, path: Path) -> None:
        """Choose a file of this machine in a file field."""
        root = self.tell("DOM.getDocument")["root"]["nodeId"]
        node = self.tell("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.tell("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def picture(self, path: Path) -> None:
        """Write what the window shows as a PNG."""
        found = self.tell("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(found["data"]))

    def _events(self, method: str) -> list[dict[str, Any]]:
        self.evaluate("1")  # whatever is under way comes before the answer
        mine = (event for event in self.browser.events if event.get("sessionId") == self.session)
        return [event["params"] for event in mine if event["method"] == method]

    def addresses(self) -> list[str]:
        """Return every address that the page asked for."""
        return [found["request"]["url"] for found in self._events("Network.requestWillBeSent")]

    def complaints(self) -> list[str]:
        """Return the errors of the page's scripts and of its security policy; not the machine's."""
        thrown = self._events("Runtime.exceptionThrown")
        logged = [found["entry"] for found in self._events("Log.entryAdded")]
        errors = [found["text"] for found in logged if found["level"] == "error"]
        told = [str(found["exceptionDetails"]) for found in thrown] + errors
        return [entry for entry in told if MACHINES_OWN not in entry]


@contextlib.contextmanager
def browsing() -> Iterator[Browser]:
    """Give a browser with a profile of its own; both are gone afterwards."""
    chromium = program()
    if chromium is None:
        raise Failed("no Chromium on this machine")
    ours_in, theirs_out = os.pipe()
    theirs_in, ours_out = os.pipe()

    def give_pipes() -> None:
        """Make the pipes numbers 3 and 4 of the child, where Chromium looks for them."""
        spare = os.dup(theirs_out)  # `theirs_out` may be number 3
        os.dup2(theirs_in, 3)
        os.dup2(spare, 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [chromium, *FLAGS, f"--user-data-dir={profile}"],
            preexec_fn=give_pipes,
            close_fds=False,  # ours are closed on exec anyway
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        browser = Browser(process, ours_out, ours_in)
        try:
            yield browser
        finally:
            with contextlib.suppress(Failed, OSError):
                browser.tell("Browser.close")
            os.close(ours_out)
            os.close(ours_in)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
