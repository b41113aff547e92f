"""The page of `ports` as a process: command → first byte, memory while nobody looks, and of each tab that looks."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from urllib.parse import urlsplit

from benchmarks.clusters import pss
from benchmarks.commands import PORTS, home
from benchmarks.measure import Aim, Result, Samples, interleave
from tests.lab.page import Tab, Visitor

_TABS = 20
PAGE = [*PORTS, "page", "--no-browser", "--local-port", "0", "--json"]
# An extension app of jupyter_server alone, with one page.
JUPYTER = """
import socket, sys, types
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
print(port, flush=True)
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.extension.application import ExtensionApp
class Hello(JupyterHandler):
    def get(self):
        self.finish("<!doctype html><main>hello</main>")
class Plain(ExtensionApp):
    name, load_other_extensions, open_browser = "plain", False, False
    def initialize_handlers(self):
        self.handlers.append(("/plain", Hello))
    @classmethod
    def get_extension_package(cls):
        return "plain"
module = types.ModuleType("plain")
module._jupyter_server_extension_points = lambda: [{"module": "plain", "app": Plain}]
sys.modules["plain"] = module
options = [f"--ServerApp.port={port}", "--ServerApp.token=x", "--ServerApp.log_level=ERROR", "--allow-root"]
Plain.launch_instance(options)
"""
# Panel's hello page.
PANEL = """
import socket
import panel as pn
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
print(port, flush=True)
pn.serve({"/plain": lambda: pn.pane.Markdown("# Hello")}, port=port, address="127.0.0.1", show=False, verbose=False)
"""


def first_byte(
    address: str, path: str, process: subprocess.Popen[str], headers: Mapping[str, str] | None = None
) -> None:
    """Wait until a page at `path` answers with 200."""
    parts = urlsplit(address)
    while process.poll() is None:
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=30)
        try:
            connection.request("GET", path, headers=dict(headers or {}))
            answer = connection.getresponse()
            answer.read(1)
            if answer.status != 200:
                raise RuntimeError(f"{address}{path} answered {answer.status}")
            return
        except ConnectionRefusedError:
            time.sleep(0.002)
        finally:
            connection.close()
    raise RuntimeError("the server ended")


class Server:
    """A server that was started, and how long it took until its page answered."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        began = time.perf_counter()
        self.process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True, env=env
        )
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        if said.startswith("{"):
            self.visitor = Visitor(json.loads(said)["local_url"])
            self.visitor.enter()
            first_byte(f"http://{self.visitor.authority}", "/", self.process, self.visitor.sent)
        else:
            first_byte(f"http://127.0.0.1:{int(said)}", "/plain", self.process)
        self.seconds = time.perf_counter() - began

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()


def page_start(runs: int) -> Iterator[Result]:
    """Compare the time from the command to the first byte of the page."""
    with home() as env:

        def ours() -> float:
            with Server(PAGE, env) as page:
                return page.seconds

        def theirs() -> float:
            with Server([sys.executable, "-c", JUPYTER], env) as page:
                return page.seconds

        samples = interleave(ours, theirs, runs)
    yield Result(
        "page-start",
        "command → first byte of the page",
        "an extension app of jupyter_server",
        "s",
        Aim("ratio", 0.15),
        samples,
    )


def page_memory(runs: int) -> Iterator[Result]:
    """Compare the memory of the page after a look with that of Panel's hello page, and measure that of a tab."""
    tabs: list[float] = []
    with home() as env:

        def ours() -> float:
            with Server(PAGE, env) as page:
                settle(page.process.pid)
                alone = pss(page.process.pid)
                looking = [Tab(page.visitor) for _ in range(_TABS)]
                shown = [tab.next() for tab in looking]
                assert all(shown)
                settle(page.process.pid)
                tabs.append((pss(page.process.pid) - alone) / _TABS)
                for tab in looking:
                    tab.close()
                return alone

        def theirs() -> float:
            with Server([sys.executable, "-c", PANEL], env) as page:
                settle(page.process.pid)
                return pss(page.process.pid)

        samples = interleave(ours, theirs, runs)

    peer = "Panel's hello page"
    yield Result("page-memory", "memory of the page, nobody looks", peer, "MB", Aim("ratio", 0.3), samples)
    yield Result(
        "page-tab",
        f"memory of each of {_TABS} tabs that look",
        "—",
        "MB",
        Aim("alone", 1e6),
        Samples(tuple(tabs[1:]), ()),
    )


def settle(pid: int) -> None:
    """Wait until the memory of a process stays as it is."""
    before = -1.0
    for _ in range(20):
        now = pss(pid)
        if abs(now - before) < 100_000:
            return
        before = now
        time.sleep(1.0)


BENCHMARKS: dict[str, Callable[[int], Iterator[Result]]] = {"page-start": page_start, "page-memory": page_memory}
