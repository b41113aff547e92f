"""How long a slot waits for something to happen: one that never waits takes a core from the jobs."""

from __future__ import annotations

import contextlib
import socket
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ports.jobs.resource.slot import Slot

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
