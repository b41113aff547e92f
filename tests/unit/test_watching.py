"""Hosts are watched: the views of several watchers, and what ends with the last of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ports import probe, tunnels
from ports.errors import TimedOutError
from ports.state import runtime_directory
from ports.state.waiting import wait_until
from ports.tunnels import _background, _here, _viewers, _views
from ports.tunnels import _records as tunnel_records
from ports.tunnels._group import TunnelGroup
from ports.tunnels._records import GroupRecord
from ports.tunnels._viewers import Watched
from ports.tunnels._watching import _machine, _There

View = dict[str, Any]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    yield
    directory = runtime_directory()

    def held() -> list[str]:
        return [path.name for path in directory.iterdir() if path.suffix != ".lock"]

    wait_until(lambda: not held() or None, timeout=20, what=f"the end of what is in {directory}")
    for lock in directory.glob("*.lock"):
        lock.unlink()
    directory.rmdir()


@pytest.fixture
def keepers(home: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[TunnelGroup]]:
    """What holds the ways to hosts in the background, in this process."""
    made: list[TunnelGroup] = []

    def spawn() -> GroupRecord:
        made.append(TunnelGroup(log="tunnels.log"))
        made[-1].serve()
        found = tunnel_records.keeper()
        assert found is not None
        return found

    monkeypatch.setattr(_background, "_spawn", spawn)
    yield made
    for group in made:
        group.close()


class Follower:
    """One who watches a host, with all its views. ``localhost`` is asked as another host, and needs no ssh."""

    def __init__(self, alias: str = "localhost") -> None:
        self.views: list[View] = []
        self.one = _There(alias, lambda _: self.views.append(self.one.view), batch=True, want=_views.WANTED)
        self.one.start()

    def wait(self, is_so: Callable[[View], Any], what: str) -> View:
        return wait_until(lambda: next(filter(is_so, list(self.views)), None), timeout=30, what=what)

    def end(self) -> None:
        self.one.end()
        self.one._thread.join(20)


def is_connected(view: View) -> bool:
    return bool(view["condition"] == "connected" and view["seen_at"])


def test_all_who_watch_a_host_share_one_connection(keepers: list[TunnelGroup]) -> None:
    followers = [Follower() for _ in range(3)]
    for one in followers:
        one.wait(is_connected, "a connection")
    (group,) = keepers
    assert [*group._hosts] == ["localhost"]
    assert [one.name for one in threading.enumerate() if one.name == "look-localhost"] == ["look-localhost"]
    for one in followers:
        one.end()
    assert group.wait(20), "it ends with the last who watches"


def test_who_watches_goes_on_when_the_process_in_the_background_ended(keepers: list[TunnelGroup]) -> None:
    follower = Follower()
    follower.wait(is_connected, "a connection")
    keepers[0].close()
    wait_until(lambda: keepers[1:] or None, timeout=20, what="another process")
    seen = len(follower.views)
    wait_until(lambda: any(map(is_connected, follower.views[seen:])) or None, timeout=20, what="another connection")
    follower.end()
    assert keepers[1].wait(20)


def test_a_keeper_of_an_older_ports_is_named_until_it_is_ended(
    keepers: list[TunnelGroup], monkeypatch: pytest.MonkeyPatch
) -> None:
    _background.running()
    old, answer = keepers[0], keepers[0]._answer

    def older(request: dict[str, Any], say: Any) -> Any:
        return {"rows": []} if "watch" in request else answer(request, say)

    monkeypatch.setattr(old, "_answer", older)
    old._relay.answer(old._control, older)
    follower = Follower()
    told = follower.wait(lambda view: view["reason"], "the reason")
    assert told["condition"] == "down" and "ports tunnel close --all" in told["reason"]
    tunnels.close_all()
    old.close()  # it had no tunnel, so it ends when it has been idle
    follower.wait(is_connected, "a connection by a new process")
    follower.end()
    assert keepers[1].wait(20)


def test_this_machine_is_watched_without_another_process(keepers: list[TunnelGroup]) -> None:
    views: list[View] = []
    watching = tunnels.watch([""], on_change=views.append)
    assert [view["condition"] for view in watching.views()] == ["connecting"]
    with watching:
        wait_until(lambda: any(map(is_connected, views)) or None, timeout=20, what="a look at this machine")
        assert [view["here"] for view in watching.views()] == [True]
    assert not keepers


def test_a_disk_that_fails_for_a_while_is_what_the_view_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_here, "EVERY", 0.05)
    works, glance, views = threading.Event(), probe.glance, list[View]()

    def fails(*given: Any) -> Any:
        if works.is_set():
            return glance(*given)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(probe, "glance", fails)
    with tunnels.watch([""], on_change=views.append, want=()):
        wait_until(lambda: views or None, timeout=20, what="the reason")
        assert (views[0]["condition"], views[0]["reason"]) == ("down", "[Errno 5] Input/output error")
        works.set()
        wait_until(lambda: any(map(is_connected, views)) or None, timeout=20, what="a look at this machine")


def test_a_view_has_every_key_from_the_beginning() -> None:
    view = _views.empty("server1", here=False, since=1.0)
    assert set(view) == {
        "host", "here", "condition", "since", "seen_at", "reason", "way_out",
        "rows", "machine", "jobs", "history", "warnings",
    }  # fmt: skip
    assert _views.merged(view, {"rows": [{"kind": "cluster", "name": "main"}]}, None)["rows"][0]["cluster"] is None


def test_the_machine_its_jobs_and_its_history_are_in_a_view(keepers: list[TunnelGroup]) -> None:
    follower, views = Follower(), []
    with tunnels.watch([""], on_change=views.append):
        for found in (follower.views, views):
            wait_until(lambda found=found: any(one["machine"] for one in found) or None, timeout=30, what="a look")
            view = found[-1]
            assert view["machine"]["kind"] == "machine" and view["machine"]["host"] == view["host"]
            assert view["jobs"]["rows"] == [] and view["warnings"] == []
    follower.end()
    assert keepers[0].wait(20)


def test_points_of_a_history_travel_once() -> None:
    history = {"machine": [[1.0, 5, 1.0], [2.0, 6, 1.0]], "clusters": {"main": [[2.0, 1]], "old": []}}
    told, last = _views.later(history, {})
    assert told == history and last == {"": 2.0, "main": 2.0}
    kept = _views.with_history(_views.no_history(), told)
    more = _views.with_history(kept, {"machine": [[2.0, 6, 1.0], [3.0, 7, 2.0]], "clusters": {"main": [[3.0, 2]]}})
    assert more == {"machine": [*history["machine"], [3.0, 7, 2.0]], "clusters": {"main": [[2.0, 1], [3.0, 2]]}}
    told, last = _views.later(more, last)
    assert told == {"machine": [[3.0, 7, 2.0]], "clusters": {"main": [[3.0, 2]]}}
    assert _views.later(more, last)[0] == {"machine": [], "clusters": {"main": []}}


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
PARTS = ("who", "jobs", "clusters", "history", "troubles")


@given(answers=st.lists(st.fixed_dictionaries(dict.fromkeys(PARTS, ANYTHING)), max_size=3))
def test_whatever_a_host_answers_gives_a_view(answers: list[dict[str, Any]]) -> None:
    view, history, last = _views.empty("server1", here=False, since=1.0), _views.no_history(), {}
    for answer in [*answers, {}]:
        told = answer.get("history")
        history = _views.with_history(history, told if isinstance(told, dict) else {})
        points, last = _views.later(history, last)
        parts = _views.looked(answer)
        view = _views.merged(view, parts, _machine(parts["who"], "server1"))
        view["history"] = _views.with_history(view["history"], points)
        assert all(row["host"] == "server1" for row in (view["jobs"] or {"rows": []})["rows"])
        json.dumps([view, _views.request(_views.WANTED, history)])


def test_a_listener_that_fails_hears_of_the_next_view(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[View] = []
    monkeypatch.setattr(threading, "excepthook", lambda failed: heard.append({"failed": str(failed.exc_value)}))

    def fail(view: View) -> None:
        heard.append(view)
        raise ValueError("no room")

    with tunnels.watch([""], on_change=fail, want=()):
        wait_until(lambda: len([one for one in heard if "failed" not in one]) > 1 or None, timeout=30, what="two views")
    assert {"failed": "no room"} in heard


class Host:
    """Stands for a host that answers the third look only, and whose name leads to a second node."""

    is_up = True

    def __init__(self) -> None:
        self.answers: list[Any] = [ValueError("half an answer"), TimedOutError("a look at server1", 10), {"who": None}]

    def parts(self) -> dict[str, Any]:
        return {"rows": [], "warnings": [], "reason": None}

    def follow(self) -> None:
        """It is connected."""

    def nodes(self) -> list[str]:
        return ["server1/second"]

    def look(self) -> None:
        """Nothing listens."""

    def ask(self, request: dict[str, Any], *, timeout: float) -> dict[str, Any]:
        answer = self.answers.pop(0) if self.answers[1:] else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]


def test_a_look_that_fails_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    failed: list[str] = []
    monkeypatch.setattr(_viewers, "EVERY", 0.05)
    monkeypatch.setattr(threading, "excepthook", lambda told: failed.append(str(told.exc_value)))
    told: list[Any] = []
    node = Host()
    watched = Watched(Host(), find=lambda alias: node, wanted=lambda: (), tell=lambda: told.append(watched.parts()))
    watched.start("server1")
    wait_until(lambda: any(one["seen_at"] for one in told) or None, timeout=20, what="a look")
    assert failed == ["half an answer"] and told[0]["troubles"] and not told[0]["seen_at"]
    wait_until(lambda: watched.nodes or None, timeout=20, what="the node")
    assert watched.nodes == {"server1/second": node}
    watched.end()
