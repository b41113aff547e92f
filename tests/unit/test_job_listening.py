"""What a job listens on: its own ports, and nobody else's."""

from __future__ import annotations

import types
from typing import Any

import pytest

from ports import listeners
from ports.jobs import _listening


def listener(port: int, **other: Any) -> Any:
    told = {
        "mine": True,
        "pid": 7,
        "job": "12",
        "kind": "web",
        "name": "board",
        "http": True,
        "url": f"http://localhost:{port}/",
    }
    return types.SimpleNamespace(port=port, **{**told, **other})


def test_only_the_pages_of_that_job_are_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    others = [listener(2, job="1"), listener(3, job=None), listener(4, mine=False), listener(5, kind="kernel")]
    monkeypatch.setattr(listeners, "list", lambda _: [*others, listener(7, http=None), listener(9), listener(8)])
    found = _listening.listening(None, "12")
    assert [(one["port"], one["is_page"]) for one in found] == [(8, True), (9, True), (7, False)]


def test_a_port_of_the_process_of_a_function_is_that_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """It began before the job, so no variable of it has the id; what it starts has one."""
    others = [listener(2, job=None, pid=8), listener(3, job="11", pid=7), listener(4, mine=False, job=None, pid=7)]
    found = [*others, listener(8, job=None, pid=7), listener(9, pid=99)]
    monkeypatch.setattr(listeners, "list", lambda _: found)
    assert [one["port"] for one in _listening.listening(None, "12", 7)] == [8, 9]
    assert [one["port"] for one in _listening.listening(None, "12")] == [9]
