"""What the page does, and where links lead."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from ports.errors import ConflictError, NotFoundError, PortsError
from ports.web import _acts, _command, _logs
from ports.web._acts import Acts, Thing

MAIN = Thing("server1", "cluster", "main")


def test_a_second_act_on_a_thing_waits_for_the_first() -> None:
    began, goes_on = threading.Event(), threading.Event()

    def do(words: Sequence[str]) -> str:
        began.set()
        goes_on.wait(20)
        return " ".join(words)

    acts = Acts(do)
    first = threading.Thread(target=acts.run, args=(MAIN, "stop", ["cluster", "stop", "main"]))
    first.start()
    assert began.wait(20)
    (doing,) = acts.doing()
    assert (doing["verb"], doing["host"], doing["name"]) == ("stop", "server1", "main")
    with pytest.raises(ConflictError, match="cluster 'main' on server1 is being stopped; wait until that has ended"):
        acts.run(MAIN, "scale", ["cluster", "scale", "main", "2"])
    goes_on.set()
    first.join()
    assert acts.doing() == []
    assert acts.run(MAIN, "scale", ["cluster", "scale", "main", "2"]) == "cluster scale main 2"


def test_an_act_that_failed_holds_nothing() -> None:
    def do(words: Sequence[str]) -> None:
        raise PortsError("it failed")

    acts = Acts(do)
    for _ in range(2):
        with pytest.raises(PortsError, match="it failed"):
            acts.run(MAIN, "stop", [])


def row(**more: Any) -> dict[str, Any]:
    return {"host": "server1", "name": "main", "state": "open", "local_url": "http://localhost:8787/?token=ab"} | more


def test_a_link_that_is_open_opens_no_tunnel() -> None:
    def do(words: Sequence[str]) -> None:
        raise AssertionError(words)

    rows = [row(host="server2", local_url="http://localhost:1/"), row(name="lab"), row()]
    assert _acts.link_to(MAIN, "main", rows, do) == "http://localhost:8787/?token=ab"


@pytest.mark.parametrize(
    "before", [[], [row(state="down")], [row(local_url=None)], [row(host="server2")], [row(name="lab")]]
)
def test_a_link_that_is_not_open_is_opened(before: list[dict[str, Any]]) -> None:
    asked: list[Sequence[str]] = []

    def do(words: Sequence[str]) -> list[dict[str, Any]]:
        asked.append(words)
        return [row()]

    assert _acts.link_to(MAIN, "main", before, do) == "http://localhost:8787/?token=ab"
    assert asked == [["open", "server1:main", "--background", "--no-browser"]]


def test_a_link_that_cannot_be_opened_says_why() -> None:
    with pytest.raises(PortsError, match="no route"):
        _acts.link_to(MAIN, "main", [], lambda words: [row(state="error", local_url=None, error="no route")])
    with pytest.raises(NotFoundError, match="`ports list` shows"):
        _acts.link_to(MAIN, "main", [], lambda words: [])


@pytest.mark.parametrize(
    "link",
    [
        "https://evil.example/",
        "http://localhost.evil.example:1/",
        "javascript:alert(1)",
        "http://localhost:1@evil.example/",
    ],
)
def test_no_row_leads_elsewhere_than_to_a_link_of_this_machine(link: str) -> None:
    with pytest.raises(NotFoundError):
        _acts.link_to(MAIN, "main", [row(local_url=link)], lambda words: [row(local_url=link)])


def test_a_port_is_opened_by_its_number_and_found_by_its_name() -> None:
    target, rows = Thing("::1", "listener", "6006"), [row(host="::1", name="python")]
    assert _acts.link_to(target, "python", rows, lambda words: []) == rows[0]["local_url"]
    asked: list[Sequence[str]] = []
    assert _acts.link_to(target, "python", [], lambda words: asked.append(words) or rows) == rows[0]["local_url"]
    assert asked[0][1] == "[::1]:6006"


ERROR = {"type": "NotFoundError", "message": "no cluster", "exit_code": 3, "args": []}


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        ([{"host": "server1", "kind": "host", "state": "error", "error": "no route"}], "no route"),
        ([{"host": "server1", "error": "no route"}, {"kind": "warning", "warning": "old"}], "no route"),
        ({"error": ERROR}, "no cluster"),
    ],
    ids=["a row", "a row and a warning", "an error"],
)
def test_a_command_that_fails_in_a_row_is_an_act_that_failed(
    printed: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ["import json, sys", f"print(json.dumps({printed!r}))", "sys.exit(5)"]
    monkeypatch.setattr(_command, "_COMMAND", "; ".join(made))
    with pytest.raises(PortsError, match=f"^{said}$") as caught:
        _command.run(["open", "server1:main"])
    assert caught.value.exit_code == 5


def test_a_log_from_another_version_of_ports_is_a_trouble_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_command, "run", lambda words, timeout: [{"kind": "warning", "warning": "old"}])
    changed = threading.Event()
    logs = _logs.Logs(lambda host: host, changed.set)
    assert logs.lines("server1", "cluster", "main") == (None, "")
    assert changed.wait(20)
    lines, trouble = logs.lines("server1", "cluster", "main")
    assert lines is None
    assert "it is of another version" in trouble
