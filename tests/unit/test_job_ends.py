"""The ends of jobs as they are said at home: what is news, in which words, and on which desktop."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ports.cli.output import Output
from ports.cli.tunnel import Links
from ports.tunnels import _desktop, _ends
from ports.tunnels._ends import NewEnds

NIGHT = {"id": "12", "name": "night", "state": "error", "reason": "exit status 3", "ended_at": 5.0, "notify": True}


def report(*rows: Any, machine: str = "m1") -> dict[str, Any]:
    return {"type": "ends", "machine": machine, "ends": list(rows)}


def test_an_end_is_news_once_and_not_if_it_was_before_the_first_look() -> None:
    news = NewEnds()
    first, second = ({"id": id, "ended_at": 1.0} for id in ("1", "2"))
    assert news.take(report(first)) == []
    assert news.take(report(first, second)) == [second]
    assert news.take(report(first, second)) == []
    assert news.take(report()) == []  # the file was removed
    assert news.take(report(first)) == []
    again = {"id": "2", "ended_at": 9.0}  # after a reconnect, with what came meanwhile
    assert news.take(report(second, again)) == [again]


def test_the_ends_of_another_node_are_no_news_at_first() -> None:
    news = NewEnds()
    news.take(report())
    assert news.take(report({"id": "1", "ended_at": 1.0}, machine="m2")) == []
    assert news.take(report({"id": "1", "ended_at": 1.0})) == [{"id": "1", "ended_at": 1.0}]


@pytest.mark.parametrize("ends", [None, 3, "x", {"a": 1}, [3, None, "x"]], ids=repr)
def test_what_is_no_list_of_ends_is_no_news(ends: Any) -> None:
    news = NewEnds()
    for _ in range(2):
        assert news.take({"type": "ends", "ends": ends}) == []


def heard(host: str, *rows: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    _ends.tell(host, rows, found.append)
    return found


@pytest.fixture
def no_desktop(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    shown: list[Any] = []
    monkeypatch.setattr(_desktop, "show_once", shown.append)
    return shown


def test_an_end_has_the_id_of_home_and_says_what_to_do(no_desktop: list[Any]) -> None:
    (row,) = heard("server1", NIGHT)
    assert (row["host"], row["kind"], row["name"], row["state"]) == ("server1", "job", "server1:12", "error")
    said = "job server1:12 (night) failed: exit status 3; `ports job show server1:12` shows more"
    assert row["note"] == said


def test_many_ends_at_once_are_one_line(no_desktop: list[Any]) -> None:
    (row,) = heard("server1", *({"id": str(n), "state": "finished", "notify": n > 90} for n in range(1, 101)))
    assert row["note"] == "100 jobs ended: 100 finished, 0 did not"


def test_what_a_host_sends_cannot_write_to_the_terminal(no_desktop: list[Any]) -> None:
    hostile = {"id": "1\x1b[2J", "name": "\x07\n\x9b31m", "state": "\x1bc", "reason": "\u202e" * 9, "count": 1, "counts": {"\x1b": "\x1b"}}  # fmt: skip # noqa: E501
    (row,) = heard("server1", hostile)
    assert str(row["note"]).isprintable()


def test_ports_open_shows_an_end_in_its_terminal(no_desktop: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = heard("server1", NIGHT)
    Links(Output(False), False).event(row)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", f"{row['note']}\n")
    Links(Output(True), False).event(row)
    assert capsys.readouterr().err == ""


# --- the desktop ---


@pytest.mark.parametrize(
    ("platform", "there", "environ", "has_bus", "program"),
    [
        ("linux", "notify-send", {"DISPLAY": ":0"}, True, "notify-send"),
        ("linux", "notify-send", {"WAYLAND_DISPLAY": "wayland-0"}, True, "notify-send"),
        ("linux", "notify-send", {"DISPLAY": ":0"}, False, None),
        ("linux", "notify-send", {}, True, None),  # a login by ssh has a bus and no desktop
        ("linux", "", {"DISPLAY": ":0"}, True, None),
        ("darwin", "osascript", {}, False, "osascript"),
        ("win32", "powershell", {}, False, "powershell"),
        ("win32", "", {}, False, None),
    ],
)
def test_each_desktop_has_its_program(
    platform: str, there: str, environ: dict[str, str], has_bus: bool, program: str | None
) -> None:
    found = _desktop.command(platform, lambda name: f"/bin/{name}" if name == there else None, environ, has_bus)
    assert (found[0] if found else None) == (f"/bin/{program}" if program else None)


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_a_notice_is_never_code(platform: str) -> None:
    hostile = "<b>'; $(touch /x) \" `id`"
    command = _desktop.command(platform, lambda name: name, {"DISPLAY": ":0"}, True)
    arguments, environ = _desktop.words(platform, hostile, hostile)
    assert command is not None
    assert "touch" not in " ".join(command)
    if platform == "win32":
        assert (arguments, environ["PORTS_BODY"]) == ([], hostile)
    else:
        assert arguments[0] == hostile
        assert ("<b>" in arguments[1]) is (platform == "darwin")


@pytest.mark.skipif(sys.platform != "linux", reason="notify-send is of Linux")
def test_of_several_processes_one_shows_an_end_on_the_desktop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    tool = tmp_path / "notify-send"
    tool.write_text(f'#!/bin/sh\nprintf "%s|" "$@" >> {log}\n')
    tool.chmod(0o755)
    for name, value in {"PATH": f"{tmp_path}:/usr/bin:/bin", "DISPLAY": ":7", "DBUS_SESSION_BUS_ADDRESS": "x"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    told = [{"title": "job server1:12 failed", "body": "it <b>failed</b>", "ids": ["server1:12"]}]
    _desktop.show_once(told)
    _desktop.show_once(told)
    assert log.read_text() == "--app-name=ports|--|job server1:12 failed|it &lt;b&gt;failed&lt;/b&gt;|"
