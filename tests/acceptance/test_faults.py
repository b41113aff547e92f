"""What befalls the way to a server in a month, one after another: cuts of all lengths on each hop, reboots, stops.

During each the page is asked for ten times a second. The quick ones are in tests/integration/test_healing.py.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

import pytest

from ports.state.waiting import wait_until
from tests.lab.leaks import LeakCheck
from tests.lab.namespaces import NamespaceSite
from tests.lab.traffic import MUTE, Journey, Seen, Traffic, at_once, soon, stale

pytestmark = [pytest.mark.long, pytest.mark.root, pytest.mark.timeout(400)]

DEAD_AFTER = 8.0  # what the settings say where nothing is set
LONG = 20  # seconds of download


@pytest.fixture
def journey(root_site: NamespaceSite, fresh_home: NamespaceSite, nothing_left: LeakCheck) -> Iterator[Journey]:
    """Alice's laptop; what she opened is closed with the test."""
    # after a reboot the same files lie below another process of /proc
    for pattern in (
        "file */ssh/*.log",
        "file */logins/*",
        "file */tunnels/forward-methods.json",
        "file */.ssh/authorized_keys",
    ):
        nothing_left.allow(pattern)
    made = Journey(root_site)
    yield made
    made.end()
    # far ends of connections that were cut learn of it when they next send something, or hear nothing for a minute
    nothing_left.verify(timeout=100)


def in_use(journey: Journey, host: str = "server1") -> Traffic:
    """Open a service on `host` and use it: with a download, an idle connection and a websocket."""
    _, port = journey.serve(host)
    use = journey.use(journey.open(f"{host}:{port}", dead_after=DEAD_AFTER)[0]["local_url"])
    use.tell("start", "websocket")
    use.tell("start", "download", LONG)
    assert use.tell("keep", "idle")[2] == 200
    wait_until(lambda: use.is_shown("open"), timeout=stale(), what="the state 'open'")
    wait_until(lambda: use.seen().messages[0]["echoed"] or None, timeout=10, what="an echo")
    return use


def until_answered(use: Traffic, since: float) -> None:
    """Wait until the service answers again, and its state is shown."""
    wait_until(lambda: use.is_answered(since), timeout=60, what="an answer on the link")
    wait_until(lambda: use.is_shown("open"), timeout=60, what="the state 'open'")


def ask_while_down(use: Traffic) -> None:
    """Ask on a new connection and on one that was idle: both get the page at once."""
    for answer in (use.tell("get"), use.tell("ask", "idle")):
        assert answer[2] == 503 and answer[1] < at_once(), answer
        assert "is down" in answer[3]


def judge(seen: Seen, begin: float, end: float) -> None:
    """Check what was shown and answered, of a fault that lasted from `begin` to `end`."""
    assert seen.answered_after(end) < soon()
    assert seen.shown_after(end, "open") < stale()
    wrong = [
        (when - begin, state) for when, state, _ in seen.states if begin + stale() < when < end and state != "down"
    ]
    assert not wrong, wrong
    down = begin + seen.shown_after(begin, "down")
    if down < end:
        assert seen.slowest(down, end) < at_once()
        assert seen.statuses(down, end) == {503}
    assert seen.statuses(0, time.time()) <= {200, 503}


@pytest.mark.parametrize("host", ["laptop", "login", "server1"])
@pytest.mark.parametrize("seconds", [1, 8, 30, 120])
def test_a_cut_of_any_length_on_any_hop_is_survived(journey: Journey, host: str, seconds: int) -> None:
    use, cut_off, before = in_use(journey), journey.site.host(host), journey.logins()
    if seconds >= 30:
        use.tell("start", "under_way", "never")
    begin = time.time()
    cut_off.cut()
    if seconds >= 30:
        down = wait_until(lambda: use.is_shown("down"), timeout=stale(), what="the state 'down'")
        asked, took, status, _ = wait_until(lambda: [*use.seen().asked, None][0], timeout=5, what="what was under way")
        assert status == 503 and asked + took < down + at_once()
        ask_while_down(use)
    time.sleep(max(0.0, begin + seconds - time.time()))
    cut_off.mend()
    end = time.time()
    until_answered(use, end)
    wait_until(lambda: "ended" in use.seen().downloads[0] or None, timeout=100, what="the end of the download")
    assert use.tell("ask", "idle")[2] == 200
    seen, after = use.end(), journey.logins()
    judge(seen, begin, end)
    if seconds <= 8:
        assert seen.downloads[0]["whole"], seen.downloads
    if seconds == 1:
        assert seen.messages[0]["error"] is None and seen.messages[0]["last"] > end
        assert after == before
    assert all(after[name] - before[name] <= 1 for name in after), (before, after)


def test_a_jump_host_that_is_rebooted_costs_nothing_but_its_absence(journey: Journey) -> None:
    use, login, before = in_use(journey), journey.site.host("login"), journey.logins()
    begin = time.time()
    login.power_off()
    wait_until(lambda: use.is_shown("down"), timeout=stale(), what="the state 'down'")
    ask_while_down(use)
    login.power_on()
    end = time.time()
    until_answered(use, end)
    judge(use.end(), begin, end)
    assert journey.logins()["server1"] == before["server1"] + 1


def test_a_cluster_that_was_started_again_after_a_reboot_has_the_same_link(journey: Journey) -> None:
    start = ("cluster", "start", "main", "-H", "server1", "--n-workers", "1")
    server = journey.site.host("server1")
    journey.ports(*start)
    (row,) = journey.open("server1", dead_after=DEAD_AFTER)
    assert "Dask" in journey.fetch(row["local_url"])
    server.power_off()
    wait_until(lambda: journey.tunnels()[0]["state"] == "down" or None, timeout=stale(), what="the state 'down'")
    assert "is down" in journey.fetch(row["local_url"])
    server.power_on()
    wait_until(lambda: journey.tunnels()[0]["state"] == "ended" or None, timeout=stale(), what="the state 'ended'")
    assert "is not there" in journey.fetch(row["local_url"])
    journey.ports(*start)
    wait_until(lambda: journey.tunnels()[0]["state"] == "open" or None, timeout=stale(), what="the state 'open'")
    (again,) = journey.tunnels()
    assert again["local_url"] == row["local_url"]
    assert "Dask" in journey.fetch(row["local_url"])
    journey.ports("cluster", "stop", "main", "-H", "server1")


@pytest.mark.parametrize("name", ["login", "server1"])
def test_an_sshd_that_is_stopped_for_twenty_seconds_is_waited_for(journey: Journey, name: str) -> None:
    use, host = in_use(journey), journey.site.host(name)
    assert hasattr(host, "pid")
    stopped = [host.pid, *journey.sessions(name)]  # sshd is the first process of a host
    begin = time.time()
    try:
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: use.is_shown("down"), timeout=stale(), what="the state 'down'")
        ask_while_down(use)
        time.sleep(max(0.0, begin + 20 - time.time()))
    finally:
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    end = time.time()
    until_answered(use, end)
    judge(use.end(), begin, end)


def test_a_service_that_never_answers_is_silent_before_and_after_a_cut(journey: Journey) -> None:
    _, port = journey.serve("server1", code=MUTE)
    journey.open(f"server1:{port}", dead_after=DEAD_AFTER)
    wait_until(lambda: journey.tunnels()[0]["state"] == "silent" or None, timeout=30, what="the state 'silent'")
    for wanted, change in (("down", journey.site.host("login").cut), ("silent", journey.site.host("login").mend)):
        change()
        wait_until(
            lambda wanted=wanted: journey.tunnels()[0]["state"] == wanted or None,  # type: ignore[misc]
            timeout=stale() + 10,
            what=wanted,
        )
