"""A page that runs for tests: the command in a process of its own, and those who visit it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from dispose_jax.page.guard import COOKIE

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "assets"
REFERENCE = ASSETS / "reference.png"
REFERENCE_POSE = ASSETS / "reference.poses.json"
POSES = ASSETS / "driving.poses.json"


class Running:
    """A started page: its address, its process and the folder of its files."""

    def __init__(self, url: str, process: subprocess.Popen, folder: Path, log: Path):
        self.url, self.process, self.folder, self.log = url, process, folder, log

    @property
    def files(self) -> list[Path]:
        """All files of visitors."""
        return [path for path in self.folder.glob("dispose_jax_page_*/**/*") if path.is_file()]

    @property
    def worker(self) -> int:
        """The number of the process that animates."""
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        for number in " ".join(path.read_text() for path in threads).split():
            if b"spawn_main" in Path(f"/proc/{number}/cmdline").read_bytes():
                return int(number)
        raise AssertionError("no worker runs")

    def client(self):
        """A visitor without a browser."""
        gradio_client = pytest.importorskip("gradio_client")
        with urllib.request.urlopen(self.url) as page:
            cookie = page.headers["Set-Cookie"].partition(";")[0]
        assert cookie.startswith(COOKIE)
        return gradio_client.Client(self.url, headers={"Cookie": cookie}, verbose=False)


@contextmanager
def started(folder: Path, *flags: str):
    """A page whose files are below a folder, ended with the block."""
    pytest.importorskip("gradio", reason="gradio is not installed (extra: page)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    logs = Path(f"{folder}.log")
    command = [sys.executable, "-m", "dispose_jax.page", f"--port={port}", *flags]
    own = {"JAX_PLATFORMS": "cpu", "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
    # One device, as on a laptop.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    with logs.open("w") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment | own, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        wait_for(lambda: "open http" in logs.read_text() or process.poll() is not None, 180)
        assert process.poll() is None, logs.read_text()
        yield Running(f"http://127.0.0.1:{port}/", process, folder, logs)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def wait_for(what, seconds: float):
    """Return when a function says something true."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.2)
    return found


@contextmanager
def browser():
    """A headless Chromium; the test is skipped where there is none."""
    reason = "needs a chromium and the extra browser"
    sync_api = pytest.importorskip("playwright.sync_api", reason=reason)
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if path is None:
        pytest.skip(reason)
    with sync_api.sync_playwright() as play:
        # A container's root has no sandbox to run it in.
        opened = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


def text(html: str) -> str:
    """HTML without its elements."""
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())
