"""How long a slot waits for something to happen: one that never waits takes a core from the jobs."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ports.jobs._protocol import Decoder, Frame
from ports.jobs.resource import environment
from ports.jobs.resource.slot import UPROOTED, Slot

JOB = {"id": "1", "attempt": 1, "place": 0}


class Child:
    """A child that runs a job and says nothing."""

    pid, look_at = 1, float("inf")
    bounded = 0
    signals: tuple[int, ...] = ()

    def has_ended(self) -> bool:
        return False

    def bound_output(self, now: float) -> None:
        self.bounded += 1

    def end(self, signal: int) -> None:
        self.signals += (signal,)


@pytest.fixture
def slot(tmp_path: Path) -> Iterator[Slot]:
    """A slot without a resource."""
    for name in ("jobs/streams", "run/leases"):
        (tmp_path / name).mkdir(parents=True)
    options = {"root": str(tmp_path / "jobs"), "runtime": str(tmp_path / "run"), "task": "x", "idle": 60, "grace": 30}
    made = Slot(options)
    yield made
    made.child, made.batch = None, []
    with contextlib.suppress(OSError):  # it has ended by itself
        made.close()


def run_job(slot: Slot, **told: Any) -> Child:
    """Let a slot have a job that began a second ago."""
    job, child = {**JOB, **told}, Child()
    slot.batch, slot.given, slot.child = [job], [job], child  # type: ignore[assignment]
    slot.write_lease([job])
    slot.lease.note_begun(0)
    slot.since, slot.is_busy = time.monotonic() - 1, True
    return child


def test_a_slot_of_a_paused_worker_waits_without_work(slot: Slot) -> None:
    slot.worker = types.SimpleNamespace(status="paused", address="x")
    waits: list[float] = []
    patience = slot.patience

    def counted(now: float) -> float:
        waits.append(patience(now))
        if len(waits) == 4:
            slot.worker.status = "closing"
        return waits[-1]

    slot.patience = counted  # type: ignore[method-assign]
    assert slot.run() == "closing"
    assert len(waits) <= 6 and all(one > 0.1 for one in waits[:4])


@pytest.mark.parametrize("what", ["results", "sent", "started"])
def test_a_slot_of_a_paused_worker_tells_what_it_holds(slot: Slot, what: str) -> None:
    slot.is_paused = True
    assert not slot.may_connect
    held: dict[str, Any] = {"results": [({}, b"")], "sent": {1: []}, "started": {1: {}}}
    setattr(slot, what, held[what])
    assert slot.may_connect


def test_a_slot_waits_for_its_job_while_no_resource_runs(slot: Slot) -> None:
    child = run_job(slot)
    now = time.monotonic()
    slot.link.next_try = now + 2
    slot.mind_the_child(now)
    assert slot.patience(now) > 0.1 and not slot.told_begun
    assert child.bounded == 1  # what it prints is bounded, whoever hears of it


def test_a_slot_waits_for_a_job_that_ignores_its_timeout(slot: Slot) -> None:
    child = run_job(slot, timeout=0.5)
    now = time.monotonic()
    slot.link.next_try = now + 60
    slot.mind_the_child(now)
    assert len(child.signals) == 1 and slot.patience(now) > 0.1
    slot.mind_the_child(slot.kill_at)
    assert len(child.signals) == 2 and slot.patience(slot.kill_at + 1) > 0.01


def test_a_job_is_told_when_a_resource_is_there_again(slot: Slot) -> None:
    run_job(slot)
    slot.mind_the_child(time.monotonic())
    assert not slot.link.unsent
    slot.link.socket = socket.socket()
    slot.mind_the_child(time.monotonic())
    assert slot.told_begun and b'"begun"' in slot.link.unsent[0]


def given(*kinds: str) -> Frame:
    jobs = [
        {"id": str(n), "attempt": 1, "kind": kind, "function": "f", "arguments": 0} for n, kind in enumerate(kinds, 1)
    ]
    return Frame({"n": 1, "jobs": jobs, "functions": {"f": 0}}, [b"{}"])


@pytest.mark.parametrize("kind", ["script", "function"])
@pytest.mark.parametrize("gone", ["interpreter", "programs"])
def test_a_job_waits_where_the_environment_is_gone(
    slot: Slot, kind: str, gone: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    away = str(tmp_path / "bin" / "python3")
    if gone == "interpreter":
        monkeypatch.setattr(sys, "executable", away)
    else:
        monkeypatch.setattr(environment, "_PROGRAMS", (away,))
    slot.link.socket = socket.socket()
    slot.take(given(kind, kind))
    (said,) = [json.loads(one[one.index(b"{") :].split(b"}")[0] + b"}") for one in slot.link.unsent]
    assert (said["op"], said["ids"]) == ("returned", ["1", "2"])
    assert slot.is_free and not slot.results and slot.child is None
    slot.link.unsent.clear()
    slot.ask()
    assert slot.link.unsent == []  # it asks for nothing more, and ends
    assert slot.reason_to_end(time.monotonic()) == UPROOTED


def test_a_script_waits_whose_environment_goes_while_it_starts(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    def deleted(*_: Any) -> None:
        monkeypatch.setattr(sys, "executable", "/nowhere/python3")
        raise FileNotFoundError(2, "No such file or directory", "/nowhere/python3")

    monkeypatch.setattr("ports.jobs.resource.script.start", deleted)
    slot.link.socket = socket.socket()
    slot.take(given("script"))
    assert not slot.results and b'"returned"' in slot.link.unsent[0]


def test_a_slot_without_its_environment_first_tells_what_it_holds(slot: Slot) -> None:
    slot.is_uprooted, slot.sent = True, {1: [({"id": "1", "attempt": 1}, b"")]}
    assert slot.reason_to_end(time.monotonic()) is None
    slot.sent.clear()
    assert slot.reason_to_end(time.monotonic()) == UPROOTED


@pytest.mark.parametrize(("told", "asked"), [({"most": 256}, 256), ({}, 64)], ids=["of today", "older"])
def test_a_slot_asks_for_as_many_jobs_as_its_resource_gives(slot: Slot, told: dict[str, int], asked: int) -> None:
    here, there = socket.socketpair()
    with here, there:
        slot.options = {**slot.options, **told}
        slot.link.socket = here
        slot.ask()
        slot.link.push()
        (frame,) = Decoder().feed(there.recv(1 << 16))
        slot.link.socket = None
    assert (frame.header["op"], frame.header["most"]) == ("claim", asked)
