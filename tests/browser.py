# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Chromium without a window, spoken to through a pair of pipes: what a page looks like and does to its reader."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any


NAMES = ("chromium", "chromium-browser", "google-chrome")
FIRST, SECOND = 3, 4  # the descriptors that `--remote-debugging-pipe` reads from and writes to


def find() -> str | None:
    """The program, if there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """
    A browser with one empty page.

    Args:
        profile (`Path`): a folder for what it keeps.
    """

    def __init__(self, profile: Path):
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        # Copies above the two numbers first: one of the pipes may have such a number itself.
        copies = [os.dup2(to_browser, 100), os.dup2(from_browser, 101)]
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        command = [find(), *options, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        shell = f'exec "$@" {FIRST}<&{copies[0]} {SECOND}>&{copies[1]}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *command], pass_fds=copies, stderr=subprocess.DEVNULL
        )
        for descriptor in (to_browser, from_browser, *copies):
            os.close(descriptor)
        self._number, self._buffer, self._session = 0, b"", None
        target = next(page for page in self.call("Target.getTargets")["targetInfos"] if page["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        self.call("Page.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *exception) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a method of the browser's protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (reply := self._next()).get("id") != self._number:
            pass
        assert "error" not in reply, reply
        return reply["result"]

    def open(self, page: Path, fragment: str = "") -> None:
        """Shows a file, and returns when it is loaded."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=page.as_uri() + fragment)
        self.run("new Promise(done => document.readyState == 'complete' ? done() : addEventListener('load', done))")

    def screen(self, width: int, height: int, dark: bool = False) -> None:
        """What the page is shown on."""
        mobile = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def run(self, script: str) -> Any:
        """The value of an expression in the page, waited for if it is a promise."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def picture(self, file: Path, whole: bool = False) -> None:
        """Saves what is seen, or the whole page, as a PNG."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        file.write_bytes(base64.b64decode(data))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._read, 1 << 16)
            assert part, "the browser is gone"
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(line)
