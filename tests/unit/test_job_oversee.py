"""How the resource hears of the end of scripts, and what it forgets of them."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from ports.jobs._model import LeaseState, parse_id
from ports.jobs.resource import oversee, script
from tests.lab.job_queue import Desk


def started(desk: Desk, **asked: Any) -> str:
    """Submit a script, and start it as a slot does; return its id."""
    submission = {"kind": "script", "script": {"argv": ["true"]}, **asked}
    id = desk.answer("submit", [b"{}"], key=desk.key(), submission=submission)["id"]
    desk.answer("claim", slot="slot-1", worker="w", lease="/leases/slot-1", most=1)
    desk.answer("started", slot="slot-1", id=id, attempt=1, lease=f"job-{id}-1")
    return str(id)


def noted(desk: Desk, id: str, **told: Any) -> None:
    work = desk.places.work_of(parse_id(id))
    work.mkdir(parents=True, exist_ok=True)
    (work / "exit.json").write_text(json.dumps({"attempt": 1, "status": None, "signal": None, "ended": None, **told}))


@pytest.mark.parametrize(
    ("told", "state", "reason"),
    [
        ({"status": 0}, "finished", None),
        ({"status": 3}, "error", "exit status 3"),
        ({"signal": 11}, "error", "signal 11 (SIGSEGV)"),
        ({"signal": 9, "ended": "memory"}, "error", "it used more memory than it asked for"),
        ({"signal": 15, "ended": "timeout"}, "error", "it ran out of its time"),
        ({"signal": 15, "ended": "cancel"}, "cancelled", "cancelled"),
    ],
)
def test_what_a_script_noted_of_its_end_counts(
    desk: Desk, told: dict[str, Any], state: str, reason: str | None
) -> None:
    id = started(desk)
    noted(desk, id, **told, peak_memory=5_000, cpu_time=0.25)
    alive = LeaseState(True)  # what the script left running
    desk.queue.turn(oversee.ended(desk.queue, desk.places, lambda lease: alive))
    row = desk.answer("show", id=id)["row"]
    assert (row["state"], row.get("reason"), row["peak_memory"], row["cpu_time"]) == (state, reason, 5_000, 0.25)
    assert desk.queue.scripts() == []


def test_the_size_of_a_job_on_the_disk_is_kept_with_its_end(desk: Desk) -> None:
    id = started(desk)
    work = desk.places.work_of(parse_id(id))
    (work / "workspace" / "deep").mkdir(parents=True)
    (work / "workspace" / "deep" / "model").write_bytes(bytes(100_000))
    (work / "workspace" / "link").symlink_to("/")
    n_bytes = script.kept_size(str(work))
    assert 100_000 <= n_bytes <= 150_000
    noted(desk, id, status=0, size=n_bytes)
    desk.queue.turn(oversee.ended(desk.queue, desk.places, lambda lease: LeaseState(True)))
    assert desk.answer("show", id=id)["row"]["note"]["size"] == n_bytes
    assert desk.answer("list", newest=5)["rows"][0]["note"]["size"] == n_bytes


def test_a_script_without_a_note_goes_on_until_its_lease_ends(desk: Desk) -> None:
    id = started(desk, retries={"lost": 0})
    for state in (LeaseState(True), LeaseState(None)):
        assert oversee.ended(desk.queue, desk.places, lambda lease, state=state: state) == []
    noted(desk, id, status=0, attempt=7)  # of another attempt
    dead = LeaseState(False, None, "its process is gone")
    desk.queue.turn(oversee.ended(desk.queue, desk.places, lambda lease: dead))
    row = desk.answer("show", id=id)["row"]
    assert (row["state"], row["reason"]) == ("lost", "its process is gone")


def test_an_environment_that_no_job_has_is_forgotten(desk: Desk) -> None:
    submission = {"kind": "script", "script": {"argv": ["true"]}}
    key = desk.key()
    desk.answer("submit", [b"{}"], key=key, submission=submission)
    places = desk.places
    (places.submissions / ("b" * 32)).touch()
    for name in (key, "a" * 32, "b" * 32, "c" * 32):
        places.environ_of(name).write_text("{}")
        os.utime(places.environ_of(name), (1000.0, 1000.0))
    os.utime(places.environ_of("c" * 32), (9000.0, 9000.0))  # its client may be about to submit
    oversee.forget_environs(desk.queue, places, 10_000.0)
    assert {path.name for path in places.environs.iterdir()} == {key, "b" * 32, "c" * 32}
