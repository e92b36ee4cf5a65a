"""Drives headless Chromium (Debian's `chromium`) over its debugging pipe, without a library between."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

# A first start reads hundreds of megabytes.
ANSWER_SECONDS = 120.0
# What Chromium says of an expression whose page goes while it is looked at.
PAGE_GONE = ("Execution context was destroyed", "Cannot find", "navigated or closed")


class BrowserFailed(Exception):
    """The browser did not do what it was told."""


class Browser:
    """One browser with one page. What the page complains of is in `complaints`."""

    def __init__(self) -> None:
        program = shutil.which("chromium")
        if program is None:
            raise SystemExit("there is no chromium; install Debian's package chromium")
        self.complaints: list[str] = []
        self._profile = tempfile.mkdtemp(prefix="profilestore-chromium-")
        self._number = 0
        self._unread = b""
        self._session = ""
        commands_in, self._commands = os.pipe()
        self._answers, answers_out = os.pipe()
        # Chromium reads commands from 3 and writes answers to 4. High numbers first, so that none of them is one of those.
        for_child = [os.dup(commands_in), os.dup(answers_out)]
        high = [os.dup2(fd, 200 + place, inheritable=True) for place, fd in enumerate(for_child)]
        arguments = [
            program,
            "--headless=new",
            # The checks run as root, and the page is ours.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--hide-scrollbars",
            f"--user-data-dir={self._profile}",
            "--remote-debugging-pipe",
            "about:blank",
        ]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{high[0]} 4>&{high[1]} {high[0]}<&- {high[1]}>&-', "bash", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=high,
        )
        for fd in [commands_in, answers_out, *for_child, *high]:
            os.close(fd)
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)
        shutil.rmtree(self._profile, ignore_errors=True)

    def shape(self, width: int, height: int, *, dark: bool, scale: float = 1.0) -> None:
        """The size of the window, and whether its user likes it dark."""
        mobile = width < 600
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str) -> None:
        """Goes to a page."""
        # Until the new page takes its place the old one answers, also when it is the same.
        self.value("window.left = true")
        failed = self._call("Page.navigate", url=url).get("errorText")
        if failed:
            raise BrowserFailed(f"the page does not open: {failed}")
        self.wait_until("!window.left && document.readyState === 'complete'")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives in the page."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise BrowserFailed(f"{expression} fails: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait_until(self, expression: str, seconds: float = ANSWER_SECONDS) -> None:
        """Waits until an expression is true in the page."""
        deadline = time.monotonic() + seconds
        while not self._is_so(expression):
            if time.monotonic() > deadline:
                raise BrowserFailed(f"after {seconds:.0f} s it is not true that {expression}")
            time.sleep(0.05)

    def _is_so(self, expression: str) -> bool:
        try:
            return bool(self.value(f"Boolean({expression})"))
        except BrowserFailed as failure:
            # Asked of a page that went meanwhile, it is asked of the next one.
            if any(gone in str(failure) for gone in PAGE_GONE):
                return False
            raise

    def screenshot(self, path: Path, *, whole: bool = True, height: int | None = None) -> None:
        """Saves a picture of the page: all of it, what the window shows, or so much from its top."""
        options: dict[str, Any] = {"format": "png", "captureBeyondViewport": whole}
        if height is not None:
            width = self.value("innerWidth")
            options["clip"] = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", **options)["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        command: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            message = self._read(deadline, method)
            if message.get("id") == self._number:
                if "error" in message:
                    raise BrowserFailed(f"{method} fails: {message['error']}")
                return message["result"]
            self._note(message)

    def _read(self, deadline: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            more = os.read(self._answers, 1 << 20) if ready else b""
            if not more:
                raise BrowserFailed(f"the browser does not answer {method}")
            self._unread += more
        one, self._unread = self._unread.split(b"\0", 1)
        return json.loads(one)

    def _note(self, message: dict[str, Any]) -> None:
        """Keeps what the page complains of: exceptions, errors on the console, requests that fail or are forbidden."""
        method, what = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(what["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(what["args"]))
        elif method == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
            self.complaints.append(what["entry"]["text"])
        elif method == "Network.loadingFailed" and not what.get("canceled"):
            self.complaints.append(f"a request failed: {what['errorText']}")
