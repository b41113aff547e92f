"""Hosts are watched: what is there, how the way to them is, and what is asked while nobody looks."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ports.state.waiting import wait_until
from tests.lab import Site
from tests.lab.leaks import LeakCheck
from tests.lab.namespaces import NamespaceSite
from tests.lab.traffic import Journey, soon

pytestmark = [pytest.mark.ci, pytest.mark.timeout(150)]

# shows each view with the moment at which it came; a line on its input names a host to look at at once
WATCH = """
import json, sys, time
from ports import tunnels
def show(view):
    print(json.dumps([time.time(), view]), flush=True)
with tunnels.watch(sys.argv[1:], on_change=show) as watching:
    for view in watching.views():
        show(view)
    for line in sys.stdin:
        watching.refresh(line.strip())
"""

View = dict[str, Any]


class Watcher:
    """A process on the laptop that watches hosts."""

    def __init__(self, journey: Journey, *aliases: str, env: dict[str, str] | None = None) -> None:
        self.running = journey.start("laptop", [journey.site.python, "-c", WATCH, *aliases], stdin=-1, env=env or {})
        self.seen: list[tuple[float, View]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.running.stdout is not None
        for line in self.running.stdout:
            self.seen.append(tuple(json.loads(line)))

    def wait(self, is_so: Callable[[View], Any], what: str, *, since: float = 0.0, timeout: float = 40) -> float:
        """Wait for a view that came after `since` and of which `is_so`; return the moment."""
        found = lambda: next((at for at, view in list(self.seen) if at > since and is_so(view)), None)  # noqa: E731
        moment: float = wait_until(found, timeout=timeout, what=what)
        return moment

    def last(self, alias: str) -> View:
        return [view for _, view in self.seen if view["host"] == alias][-1]


@pytest.fixture
def journey(site: Site, fresh_home: Site, nothing_left: LeakCheck) -> Iterator[Journey]:
    for pattern in ("file */ssh/*.log", "file */logins/*", "file */tunnels/forward-methods.json"):
        nothing_left.allow(pattern)
    made = Journey(site)
    yield made
    made.end()


def ports_of(view: View) -> set[int]:
    return {row["port"] for row in view["rows"]}


def test_watching_a_host_shows_what_starts_and_ends_there(journey: Journey) -> None:
    _first, port = journey.serve("server1")
    watcher = Watcher(journey, "server1", "")
    watcher.wait(lambda view: view["host"] == "server1" and view["condition"] == "connected", "a connection")
    watcher.wait(lambda view: port in ports_of(view), "the row of a listener")
    here = next(view for _, view in watcher.seen if view["here"])
    assert here["host"] != "server1"
    begun = time.time()
    second, another = journey.serve("server1")
    assert watcher.wait(lambda view: another in ports_of(view), "a new row", since=begun) - begun < soon() + 5
    second.kill()
    watcher.wait(lambda view: view["host"] == "server1" and another not in ports_of(view), "its end", since=begun + 1)
    journey.open(f"server1:{port}")
    opened = lambda view: any((row["tunnel"] or {}).get("state") == "open" for row in view["rows"])  # noqa: E731
    watcher.wait(opened, "the tunnel of a row")
    assert len([one for one in journey.masters() if one.command[-1] == "server1"]) == 1


def test_after_a_cut_the_view_is_true_again(root_site: NamespaceSite, journey: Journey) -> None:
    login, env = root_site.host("login"), {"DASK_PORTS__OPEN__DEAD_AFTER": "3"}
    watcher = Watcher(journey, "server1", env=env)
    watcher.wait(lambda view: view["condition"] == "connected" and view["machine"], "a look")
    cut = time.time()
    login.cut()
    down = watcher.wait(lambda view: view["condition"] == "down", "the cut", since=cut)
    assert watcher.last("server1")["rows"] is not None and watcher.last("server1")["machine"]
    _, port = journey.serve("server1")
    time.sleep(max(0.0, down + 4 - time.time()))
    login.mend()
    mended = time.time()
    true = lambda view: view["condition"] == "connected" and port in ports_of(view)  # noqa: E731
    after = watcher.wait(true, "a true view", since=mended) - mended
    print(f"the view is true {after:.2f} s after the link")
    assert watcher.wait(lambda view: view["seen_at"] > mended, "a look", since=mended)


def test_a_host_that_asks_for_a_person_is_shown_as_such(journey: Journey) -> None:
    key = "~/.ssh/id_ed25519"
    journey.site.run("laptop", ["sh", "-c", f"ssh-keygen -q -p -P '' -N 'correct horse' -f {key}"], check=True)
    watcher = Watcher(journey, "server1")
    watcher.wait(lambda view: view["condition"] == "needs login", "the condition")
    view = watcher.last("server1")
    assert view["way_out"] == "ports login server1" and view["reason"], view
    journey.site.run("laptop", ["sh", "-c", f"ssh-keygen -q -p -P 'correct horse' -N '' -f {key}"], check=True)
    logged_in = time.time()
    journey.ports("login", "server1")
    watcher.wait(lambda view: view["condition"] == "connected", "the connection", since=logged_in)


def test_nobody_who_watches_means_that_nothing_runs_there(journey: Journey) -> None:
    watcher = Watcher(journey, "server1")
    watcher.wait(lambda view: view["condition"] == "connected" and view["machine"], "a look")
    assert ours(journey)
    watcher.running.kill()
    wait_until(lambda: not ours(journey) or None, timeout=30, what="the end of our program there")


def ours(journey: Journey) -> list[list[str]]:
    """Return the commands of our program on server1."""
    return [one.command for one in journey.site.host("server1").processes() if "python" in " ".join(one.command)]


def test_watching_in_a_terminal_needs_one_session_there(journey: Journey) -> None:
    _, port = journey.serve("server1")
    journey.open(f"server1:{port}")
    logins = journey.logins()
    listed = journey.start("laptop", [journey.site.python, "-m", "ports", "list", "--watch", "server1"])
    who = journey.start("laptop", [journey.site.python, "-m", "ports", "who", "--watch", "server1"])
    assert listed.stdout is not None and who.stdout is not None
    lines, link = [], f"localhost:{journey.tunnels()[0]['local_port']}"
    while not any(line.startswith("server1  ") and "free" in line for line in lines) or not has_row(lines, port, link):
        lines.append(listed.stdout.readline())
        assert lines[-1], listed.communicate()[1]
    looks = 0
    while looks < 3:
        line = who.stdout.readline()
        assert line, who.communicate()[1]
        looks += line.startswith("server1: ")
    programs = [one for one in ours(journey) if "sys.stdin.buffer.readline" in one[-1]]
    assert len({command[0] for command in programs}) == 1 and journey.logins() == logins
    for running in (listed, who):
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 130


def test_the_page_of_a_server_opens_at_home(journey: Journey) -> None:
    journey.ports("page", "-H", "server1")
    try:
        (row,) = journey.open("server1:page")
        assert row["local_url"] == f"http://127.0.0.1:{row['local_port']}/"
        assert "<main" in journey.fetch(row["local_url"])
        again = journey.ports("open", "server1:page", "--background")
        assert [(one["local_url"], one["state"]) for one in again] == [(row["local_url"], "open")]
    finally:
        journey.ports("page", "stop", "-H", "server1")


def has_row(lines: list[str], port: int, link: str) -> bool:
    """Tell whether a look has the row of a listener with its link."""
    return any(f"port {port} " in line and line.rstrip().endswith(link) for line in lines)
