#!/usr/bin/env python
"""Draw the pictures of docs/pictures: the cluster's box, `ports who`, the page of a link that is down, and the page.

Run it with the interpreter of .venv after an edit of what they show; tests/unit/test_pictures.py fails where it was
forgotten. The numbers are examples, and the text is what `ports` makes of them. It needs Chromium and playwright, of
the extra ``test``. docs/pictures/way.svg is drawn by hand.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ports.cli import who
from ports.clusters._documents import ClusterRow
from ports.clusters._text import cluster_html
from ports.errors import ConnectionLostError
from ports.machine import Usage
from ports.machine._usage import from_probe
from ports.tunnels._down_page import answer
from ports.tunnels._tunnel import Tunnel
from ports.web import _render, _view

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP))
from tests.lab import views  # noqa: E402

PICTURES = TOP / "docs" / "pictures"
SOURCES = "sources.json"
GIB = 1 << 30
MOMENT = 1_772_806_380.0
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-proxy-server"]
#: As JupyterLab shows a cell and its output.
CELL = """<!doctype html><meta charset="utf-8"><style>
body{{font:13px/1.3 system-ui,"DejaVu Sans",sans-serif;margin:0;padding:10px;width:860px;background:#fff;color:#222}}
.row{{display:flex;margin-bottom:8px}}.n{{width:52px;color:#307fc1;font:12px monospace;padding-top:6px}}
.n.out{{color:#bf5b3d}}pre{{flex:1;margin:0;padding:5px 8px;background:#f5f5f5;border:1px solid #cfcfcf;
font:13px/1.35 "DejaVu Sans Mono",monospace}}table{{border-collapse:collapse;font-size:12px;margin-top:4px}}
th,td{{padding:4px 8px;vertical-align:top}}tr:nth-child(odd){{background:#f5f5f5}}code{{font:12px monospace}}
</style><div class="row"><div class="n">[1]:</div><pre>import ports
cluster = ports.cluster()
cluster</pre></div><div class="row"><div class="n out">[1]:</div><div>{}</div></div>"""
TERMINAL = """<!doctype html><meta charset="utf-8"><style>body{{margin:0;background:#1c1c1c;color:#ddd}}
pre{{display:inline-block;margin:0;padding:12px 16px;font:14px/1.35 "DejaVu Sans Mono",monospace}}
</style><pre>{}</pre>"""


def usage() -> Usage:
    """Return a server that three people share."""
    people = (
        (0, "root", 3.5, 0.5, 0.0),
        (1001, "alice", 80, 16, 0),
        (1002, "bob", 150, 20.1, 138),
        (1003, "carol", 9, 2, 0),
    )
    users = [
        {
            "uid": uid,
            "user": name,
            "memory_bytes": int(memory * GIB),
            "cores": cores,
            "dask_bytes": int(dask * GIB),
            "dask_cores": 0.0,
            "n_processes": 3,
        }
        for uid, name, memory, cores, dask in people
    ]
    promise = {"uid": 1002, "pid": 7, "n_workers": 16, "n_threads": 32, "bytes": 192 * GIB, "held_bytes": 138 * GIB}
    machine = {"host": "server1", "uid": 1001, "time": MOMENT, "n_cores": 96, "usable_cores": 96, "busy_cores": 38.6}
    memory = {"total_bytes": 512 * GIB, "available_bytes": 212 * GIB, "limit_bytes": 512 * GIB}
    rest = {"limit_available_bytes": 212 * GIB, "swap_bytes": 0, "swap_free_bytes": 0, "load": (40.0, 30.0, 20.0)}
    pressure = {"cpu_some": 3.2, "memory_some": 0.0, "memory_full": 0.0, "io_some": 1.0}
    return from_probe(
        {**machine, **memory, **rest, "pressure": pressure, "hidden": False, "promises": [promise], "users": users}
    )


def box() -> str:
    """Return the cell of a notebook that shows a cluster."""
    share = usage().row()["share"]
    row: ClusterRow = {
        "host": "server1",
        "kind": "cluster",
        "name": "main",
        "state": "running",
        "reason": None,
        "url": None,
        "link": "http://localhost:30709/status",
        "command": "ports open server1:main",
        "log": "",
        "n_workers": share["n_workers"],
        "n_threads": share["n_workers"] * share["threads_per_worker"],
        "memory_bytes": 31 * GIB,
        "memory_limit_bytes": share["n_workers"] * share["memory_limit"],
        "n_tasks": 0,
        "n_clients": 1,
        "guard": None,
        "asleep": None,
        "ends_at": None,
        "note": None,
        "explained": share["explained"],
    }
    return CELL.format(cluster_html(row, row["command"]))


def terminal() -> str:
    """Return a terminal in which somebody asked who uses the machine."""
    text = "\n".join(["$ ports who", *who.lines(usage(), 96)])
    return TERMINAL.format(html.escape(text))


def down() -> str:
    """Return the page of a link whose connection is down."""
    tunnel = Tunnel("server1", "cluster", "main", state="down", since=MOMENT)
    tunnel.error = ConnectionLostError("server1", "the session with it has ended")
    page = tunnel.page("A new connection is being tried.")
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\r\n"
    text = answer(page, request).decode().partition("\r\n\r\n")[2]
    text = re.sub(r"Since \d\d:\d\d:\d\d", "Since 14:02:31", text)  # here it depends on the time zone
    # it reloads itself, and lies in the middle of a large window
    return text.partition("<script>")[0].replace("margin:15vh auto", "margin:0;padding:14px 20px;width")


def screen(template: str, **values: Any) -> str:
    """Return a screen of the page of ports, with its style sheet inside, as the hosts of tests/lab/views.py give it."""
    made = _render.render(template, base="/", token="", who="alice at laptop", **values)
    style = (TOP / "ports" / "web" / "static" / "page.css").read_text("utf-8")
    return re.sub(r"<script[^>]*></script>\n|<link rel=\"icon\"[^>]*>", "", made).replace(
        '<link rel="stylesheet" href="/-/static/page.css">', f"<style>{style}</style>"
    )


def overview(**values: Any) -> str:
    """Return the overview of three servers."""
    hosts = [views.atlas(), views.minerva(), views.second_factor()]
    return screen("overview.html", tab="overview", **_view.overview(hosts, views.NOW), **values)


def stop() -> str:
    """Return the overview under the sheet of a stop."""
    shown = _view.sheet(views.several(), "stop", "atlas", "cluster", "main", now=views.NOW)
    sheet = _render.render("sheet.html", base="/", token="", part="sheet", **shown)
    empty = '<dialog id="sheet" class="sheet" aria-labelledby="sheet-title">'
    return overview().replace(empty, empty + sheet)


def cluster() -> str:
    """Return the page of a cluster."""
    log = ["14:02:07 24 workers on atlas", "15:31:40 memory guard: workers spill", "15:33:12 memory guard: calm again"]
    shown = _view.thing(views.atlas(), "cluster", "main", views.NOW, log=log)
    return screen("thing.html", tab="overview", **shown)


@dataclass(frozen=True)
class Screen:
    """A picture of the page: what it shows, the width of the window, light or dark, and its height if it is cut."""

    make: Callable[[], str]
    width: int = 1180
    scheme: Literal["light", "dark"] = "light"
    height: int | None = None


SCREENS = {
    "page.png": Screen(overview),
    "page-dark.png": Screen(overview, scheme="dark", height=560),
    "page-stop.png": Screen(stop, height=560),
    "page-cluster.png": Screen(cluster, height=760),
    "page-phone.png": Screen(overview, width=390, height=760),
}
DRAWN = {"cluster-box.png": box, "who.png": terminal, "link-down.png": down}


def sources() -> dict[str, str]:
    """Return what each picture shows, as a digest."""
    return {name: hashlib.sha256(make().encode()).hexdigest() for name, make in DRAWN.items()}


def draw(directory: Path) -> None:
    """Write all pictures to `directory`."""
    from playwright.sync_api import sync_playwright

    os.environ["TZ"] = "UTC"  # a page says when a cluster started
    time.tzset()
    digests = sources()
    directory.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 900, "height": 200}, device_scale_factor=1.25, color_scheme="light")
        for name, make in DRAWN.items():
            page.set_content(make())
            shown = page.locator("pre" if name == "who.png" else "body")
            shown.screenshot(path=str(directory / name))
        for name, one in SCREENS.items():
            draw_screen(browser, one, directory / name)
        browser.close()
    (directory / SOURCES).write_text(json.dumps(digests, indent=2) + "\n")


def draw_screen(browser: Any, one: Screen, path: Path) -> None:
    """Write a picture of the page, in few colours: it is text and flat areas."""
    from PIL import Image

    page = browser.new_page(viewport={"width": one.width, "height": one.height or 800}, color_scheme=one.scheme)
    page.emulate_media(reduced_motion="reduce")
    page.set_content(one.make())
    page.evaluate("const sheet = document.getElementById('sheet'); if (sheet.textContent) sheet.showModal()")
    page.evaluate("document.activeElement.blur()")
    page.screenshot(path=str(path), full_page=one.height is None)
    page.close()
    with Image.open(path) as shown:
        small = shown.convert("RGB").quantize(192, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES)
