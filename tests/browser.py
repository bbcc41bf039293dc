"""Controls Chromium without a window, over a pipe, by the DevTools protocol.

https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import contextlib
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--no-first-run", "--disable-background-networking", "--hide-scrollbars",
    "--disable-extensions", "--disable-component-update", "--disable-sync",
    "--remote-debugging-pipe",
)  # fmt: skip
# Chromium reads its orders from file 3 and answers on file 4.
START = "import os, sys; os.dup2({}, 3); os.dup2({}, 4); os.execvp(sys.argv[1], sys.argv[1:])"  # noqa: E501


def path():
    """Returns the path of Chromium; None if it is not installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """A tab.

    Attributes:
        requests: URLs of all its requests.
        errors: exceptions, and messages on the console.
    """

    def __init__(self, orders, answers):
        self.orders, self.answers = orders, answers
        self.numbers, self.rest = itertools.count(1), b""
        self.requests, self.errors = [], []
        self.session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call(
            "Target.attachToTarget", targetId=target, flatten=True
        )["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """Sends a command of the protocol; returns its result."""
        number = next(self.numbers)
        order = {"id": number, "method": method, "params": parameters}
        if self.session:
            order["sessionId"] = self.session
        os.write(self.orders, json.dumps(order).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    def _next(self):
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.answers], [], [], 60)
            part = os.read(self.answers, 1 << 20) if ready else b""
            assert part, "Chromium does not answer"
            self.rest += part
        text, _, self.rest = self.rest.partition(b"\0")
        message = json.loads(text)
        said, about = message.get("method"), message.get("params", {})
        if said == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif said == "Runtime.exceptionThrown":
            details = about["exceptionDetails"]
            self.errors.append(details.get("exception", details).get("description"))
        elif said == "Runtime.consoleAPICalled":
            self.errors.append(str(about["args"]))
        elif said == "Log.entryAdded":
            self.errors.append(about["entry"]["text"])
        return message

    def run(self, code):
        """Returns the value of a JavaScript expression, or of its promise."""
        result = self.call(
            "Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, condition, seconds=40):
        """Waits until a JavaScript expression is true; returns its value."""
        end = time.monotonic() + seconds
        while not (value := self.run(condition)):
            assert time.monotonic() < end, (condition, self.errors, self.run(
                "document.body.innerText"
            ))  # fmt: skip
            time.sleep(0.05)
        return value

    def choose(self, selector, *files):
        """Selects files in an `<input type=file>`."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[*map(str, files)])

    def press(self, key, code):
        """Presses and releases a key; `code` is its Windows virtual key code."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key,
                windowsVirtualKeyCode=code,
            )  # fmt: skip

    def mouse(self, kind, x, y, **more):
        """Moves the mouse, or presses or releases its left button, at (x, y)."""
        self.call(
            "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1,
            clickCount=1, **more,
        )  # fmt: skip

    def resize(self, width, height, scale=1, dark=False):
        """Sets the window's size in CSS pixels, and device pixels per CSS pixel."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height,
            deviceScaleFactor=scale, mobile=False,
        )  # fmt: skip
        scheme = {
            "name": "prefers-color-scheme",
            "value": "dark" if dark else "light",
        }
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, file, whole=False):
        """Writes the visible part, or the whole page, as PNG."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        with open(file, "wb") as out:
            out.write(base64.b64decode(data))


@contextlib.contextmanager
def opened(url):
    """Opens a page in a new Chromium; gives a `Page`."""
    pipes = [*os.pipe(), *os.pipe()]
    # Beyond 3 and 4, so that neither is overwritten before it is copied.
    orders_in, orders, answers, answers_out = (
        fcntl.fcntl(pipe, fcntl.F_DUPFD_CLOEXEC, 10) for pipe in pipes
    )
    for pipe in pipes:
        os.close(pipe)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = subprocess.Popen(
            [
                sys.executable, "-c", START.format(orders_in, answers_out), path(),
                *FLAGS, f"--user-data-dir={folder}",
            ],
            pass_fds=[orders_in, answers_out],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(orders_in)
        os.close(answers_out)
        try:
            page = Page(orders, answers)
            page.call("Page.navigate", url=url)
            yield page
            page.session = None
            page.call("Browser.close")
        finally:
            os.close(orders)
            os.close(answers)
            try:
                browser.wait(5)
            except subprocess.TimeoutExpired:
                browser.kill()
                browser.wait()
