#!/usr/bin/env python
"""Draw docs/pictures/jupyterlab.png: the page in the side panel of a real JupyterLab, with fixed data.

It is no part of what the tests compare, because JupyterLab's own look changes with its version. Run it with the
interpreter of .venv after a change of what it shows.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from pictures import FLAGS, PICTURES, overview
from PIL import Image
from playwright.sync_api import sync_playwright

TOKEN = "of-a-picture"


@contextmanager
def jupyterlab(top: Path) -> Iterator[str]:
    """Run a JupyterLab with files of its own below `top`, and yield its address."""
    own = {f"JUPYTER_{name}": str(top / name) for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")}
    own |= {f"JUPYTERLAB_{name}": str(top / name) for name in ("SETTINGS_DIR", "WORKSPACES_DIR")}
    own |= {"JUPYTER_TOKEN": TOKEN, "PORTS_HOME": str(top / "ports"), "IPYTHONDIR": str(top / "ipython")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=top, env={**os.environ, **own}, stdout=quiet, stderr=quiet) as process:
        try:
            for _ in range(300):
                try:
                    record = json.loads((top / "RUNTIME_DIR" / f"jpserver-{process.pid}.json").read_text())
                    address = f"http://127.0.0.1:{record['port']}/"
                    urlopen(f"{address}api?token={TOKEN}").close()
                    break
                except (OSError, ValueError):
                    time.sleep(0.2)
            yield address
        finally:
            process.terminate()


def draw(path: Path) -> None:
    """Write the picture to `path`."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with tempfile.TemporaryDirectory() as top, jupyterlab(Path(top)) as address, sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1180, "height": 900})
        page.route("**/ports/", lambda route: route.fulfill(body=overview(), content_type="text/html; charset=utf-8"))
        page.goto(f"{address}lab?token={TOKEN}")
        page.locator(".jp-LauncherCard").first.wait_for()
        page.click("[data-id='ports-side']")
        page.frame_locator("#ports-side iframe").locator("main").wait_for()
        page.click(".jp-toast-button:has-text('No')")
        page.mouse.move(700, 700)
        page.wait_for_timeout(1000)
        page.screenshot(path=str(path))
        browser.close()
    with Image.open(path) as shown:
        small = shown.convert("RGB").quantize(192, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES / "jupyterlab.png")
