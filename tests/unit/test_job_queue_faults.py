"""Faults that a review of the queue found: what was cancelled, cut short or refused, on a real store."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from ports import probe
from ports.errors import StoreError
from ports.jobs import _durable, _places
from ports.jobs._live import GIVEN, OVER, READY, WAITS, Live
from ports.jobs._model import LARGE, Capacity, JobId, Lease, Submission
from ports.jobs._store import SubmissionRow
from ports.jobs._turn import SCRIPTS, QueueLostError, Request
from ports.probe import left as left_files
from tests.lab import job_queue
from tests.lab.job_queue import Desk, lease_state


def script(desk: Desk, **asked: Any) -> str:
    """Submit a script, and return its id."""
    told = desk.answer("submit", [b"{}"], key=desk.key(), submission={"kind": "script", **asked})
    return str(told["id"])


# --- where a job is ---


def test_a_cancelled_job_that_has_waited_for_another_never_runs(desk: Desk) -> None:
    needed = desk.submit()
    id = desk.submit(3, inputs={"2": [needed]})
    desk.end("s1", *desk.take("s1"))
    assert desk.answer("cancel", ids=[f"{id}.2"])["n_cancelled"] == 1
    assert desk.work("s2") == [f"{id}.0", f"{id}.1"]
    assert desk.row(id)["counts"] == {"finished": 2, "cancelled": 1}


def test_a_job_that_came_back_and_waited_is_in_one_place(desk: Desk) -> None:
    """Cancelled are, one by one: one that came back, one that was never touched, one that waits, one that has ended."""
    needed = desk.submit()
    id = desk.submit(4, inputs={"3": [needed]}, priority=1)
    desk.answer("returned", by="s1", slot="s1", ids=[desk.take("s1")[0][0]])
    for item in (0, 1, 3):
        assert desk.answer("cancel", ids=[f"{id}.{item}"])["n_cancelled"] == 1
        assert desk.answer("cancel", ids=[f"{id}.{item}"])["n_cancelled"] == 0
    assert desk.work("s2") == [f"{id}.2", needed]
    assert desk.row(id)["counts"] == {"finished": 1, "cancelled": 3}


def test_a_job_goes_only_where_the_table_lets_it() -> None:
    counts = [3, 0, 0, 0, 0, 0]
    row = SubmissionRow(7, None, "function", "", "q", 0, 3, "d", "{}", 0.0, None, None, "pending", None, counts)
    live = Live(row, Submission(kind="function"), Capacity())
    assert live.pop(live.shelf) == 0
    live.wait_for(1, JobId(3))
    assert [live.place(item) for item in range(3)] == [GIVEN, WAITS, READY]
    with pytest.raises(ValueError, match=r"job 7\.0 cannot go from given to waits"):
        live.wait_for(0, JobId(3))
    live.move(0, OVER)
    for place in (READY, GIVEN, WAITS, OVER):
        with pytest.raises(ValueError, match="from over to"):
            live.move(0, place)


def test_a_job_never_ends_twice(desk: Desk) -> None:
    id = desk.submit()
    desk.end("s1", *desk.take("s1"))
    ledger = desk.queue._exchange.ledger
    with pytest.raises(ValueError, match="cannot be lost after it was finished"):
        ledger._note(int(id) << 20, 1, ("finished", "lost"), 0.0)


# --- what a slot holds ---


def full_disk(*_: Any, **__: Any) -> None:
    raise StoreError(Path("results"), "No space left on device")


def test_a_result_that_the_disk_refuses_stays_the_slots(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    id = desk.submit()
    desk.take("s1")
    told = {"op": "ended", "slot": "s1", "results": [{"id": id, "attempt": 1, "state": "finished"}]}
    claim = {"op": "claim", "slot": "s1", "worker": "w", "lease": "/leases/s1", "most": 1, "known": []}
    blob = b"r" * (LARGE + 1)
    monkeypatch.setattr(_durable, "write", full_disk)
    replies = desk.turn(Request("s1", {"n": 1, **told}, [blob]), Request("s1", {"n": 2, **claim}))
    assert [(one.header["n"], one.header["error"]["kind"]) for one in replies] == [(1, "StoreError"), (2, "StoreError")]
    assert desk.state(id) == "pending"  # the slot has it still
    monkeypatch.undo()
    replies = desk.turn(Request("s1", {"n": 3, **claim, "holds": [[id, 1]]}), Request("s1", {"n": 4, **told}, [blob]))
    assert [one.header["n"] for one in replies] == [4]
    assert desk.state(id) == "finished"
    assert desk.row(id)["attempt"] == 1


@pytest.mark.parametrize("holds", [[["1", 1]], ["1"]])
def test_a_slot_gets_nothing_while_it_answers_for_something(desk: Desk, holds: list[Any]) -> None:
    desk.submit(2)
    assert desk.take("s1") == [("1.0", 1)]
    held = [["1.0", 1]] if isinstance(holds[0], list) else ["1.0"]
    claim = {"slot": "s1", "worker": "w", "lease": "/leases/s1", "most": 1, "known": [], "holds": held}
    assert desk.ask("claim", by="s1", **claim) == []
    desk.end("s1", ("1.0", 1))
    assert [job["id"] for push in desk.pushed for job in push.header["jobs"]] == ["1.1"]


def test_what_a_claim_does_not_list_goes_back(desk: Desk) -> None:
    id = desk.submit(2)
    desk.end("s1", *desk.take("s1"))
    desk.submit(4, function=b"g")
    held = desk.take("s2")[0]
    claim = {"slot": "s2", "worker": "w", "lease": "/leases/s2", "most": 1, "known": [], "holds": [[held[0], 7]]}
    (told,) = desk.ask("claim", by="s2", **claim)  # of another attempt
    assert [job["id"] for job in told.header["jobs"]] == [held[0]]
    assert id


def test_one_bad_result_keeps_no_other_one_back(desk: Desk) -> None:
    desk.submit(8)
    for _ in range(3):
        desk.end("s1", *desk.take("s1", most=2))
    jobs = desk.take("s1", most=4)
    assert len(jobs) == 3
    results = [{"id": id, "attempt": attempt, "state": "finished"} for id, attempt in jobs]
    results[1]["note"] = {"big": "x" * 5000}
    results[2]["attempt"] = "one"
    told = desk.answer("ended", [b"r"] * 3, by="s1", slot="s1", results=results)
    assert told["refused"] == [{"place": 2, "text": "attempt: 'one' is no number"}]
    assert [desk.state(id) for id, _ in jobs] == ["finished", "error", "pending"]
    assert desk.row(jobs[1][0])["reason"] == "UsageError: its result was refused: note: dict is no small object"


def test_a_script_whose_worker_died_before_it_said_so_runs_once(desk: Desk) -> None:
    id = script(desk)
    assert desk.take("s1") == [(id, 1)]
    desk.scripts[id, 1] = Lease(f"job-{id}-1", f"/leases/job-{id}-1", None)
    desk.queue.gone("s1")
    desk.leases["s1"] = lease_state(False, (id, 1))
    desk.clock += 2
    desk.queue.tick()
    assert desk.take("s2") == []
    assert [(str(one), attempt) for one, attempt, _ in desk.queue.scripts()] == [(id, 1)]
    assert desk.state(id) == "running"
    desk.answer("cancel", ids=[id])
    assert [push.header["how"] for push in desk.pushed if push.connection == SCRIPTS] == ["cancel"]
    done = {"op": "ended", "slot": f"job-{id}-1", "results": [{"id": id, "attempt": 1, "state": "finished"}]}
    desk.turn(Request(None, done, [b""]))
    assert desk.state(id) == "finished"


def test_a_script_that_a_dead_worker_never_started_is_given_out_again(desk: Desk) -> None:
    id = script(desk)
    desk.take("s1")
    desk.queue.reap("s1", lease_state(False))
    assert desk.take("s2") == [(id, 1)]


def test_a_script_that_its_slot_forgot_is_looked_at_before_it_goes_back(desk: Desk) -> None:
    id = script(desk)
    desk.take("s1")
    desk.scripts[id, 1] = Lease(f"job-{id}-1", f"/leases/job-{id}-1", {"pid": 7})
    assert desk.take("s1") == []
    assert desk.state(id) == "running"


# --- a turn that fails ---


def test_a_queue_that_cannot_be_read_again_ends_the_process(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.submit()
    taken = desk.take("s1")

    def fail(*_: Any) -> None:
        raise StoreError(desk.store.path, "disk I/O error")

    monkeypatch.setattr(type(desk.store), "commit", fail)
    monkeypatch.setattr(type(desk.store), "unended_jobs", fail)
    results = [{"id": id, "attempt": attempt, "state": "finished"} for id, attempt in taken]
    with pytest.raises(QueueLostError, match="disk I/O error"):
        desk.ask("ended", [b"r"], by="s1", slot="s1", results=results)
    assert not issubclass(QueueLostError, Exception)  # who answers failed requests does not go on


def test_a_full_disk_does_not_stop_the_clocks(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    id = desk.submit(timeout=10)
    desk.take("s1")
    desk.ask("begun", by="s1", slot="s1", id=id, attempt=1, at=desk.clock)
    left = job_queue.leave(desk.places, "ab" * 16, Submission(kind="function"), [b"f" * (LARGE + 1), b""])
    monkeypatch.setattr(_durable, "write", full_disk)
    desk.clock += 11
    with pytest.raises(StoreError):
        desk.queue.tick()
    assert [push.header["how"] for push in desk.queue.tick()] == ["timeout"]
    monkeypatch.undo()
    desk.clock += 3
    desk.queue.tick()
    assert desk.state(str(left)) == "pending"


def test_an_object_that_is_submitted_again_while_it_is_pruned_stays(desk: Desk) -> None:
    function = b"f" * (LARGE + 1)
    desk.submit(function=function)
    desk.work()
    desk.clock += 10
    key, asked = desk.key(), {"op": "submit", "n": 2, "submission": {"kind": "function"}, "count": None}
    prune, told = desk.turn(
        Request("a", {"op": "prune", "n": 1, "older": 0}), Request("b", {**asked, "key": key}, [function, b"x"])
    )
    assert prune.header["n_removed"] == 1
    (given,) = desk.claim("s1")
    assert given.blobs[0] == function
    desk.end("s1", (told.header["id"], 1))
    desk.clock += 10
    desk.answer("prune", older=0)
    assert list(desk.places.objects.iterdir()) == []


def test_files_of_turns_that_were_cut_short_are_removed_at_the_start(desk: Desk) -> None:
    desk.submit(function=b"f" * (LARGE + 1))
    (kept,) = desk.places.objects.iterdir()
    half = desk.places.objects / ("0" * 64)
    half.write_bytes(b"of a turn that was not committed")
    part = desk.places.results / f".1.{'0' * 16}"
    part.write_bytes(b"of a writer that was killed")
    os.utime(part, (0, 0))
    young = desk.places.environs / f".{'ab' * 16}.{'1' * 16}"
    young.write_text("somebody writes it now")
    desk.restart()
    assert list(desk.places.objects.iterdir()) == [kept]
    assert not part.exists()
    assert young.exists()


# --- where a submission ends ---


def test_prune_removes_what_was_kept_for_submissions_that_never_came(desk: Desk) -> None:
    known, left = desk.key(), "b" * 32
    desk.answer("submit", [b"{}"], key=known, submission={"kind": "script", "script": {"argv": ["true"]}})
    job_queue.leave(desk.places, left, Submission(kind="function"), [b"f", b""])
    never, new = "c" * 32, "d" * 32
    for directory in (desk.places.environs, desk.places.workspaces):
        directory.mkdir(exist_ok=True)
        for key in (known, left, never, new):
            (directory / key).write_text("{}")
            os.utime(directory / key, (desk.clock - 90_000, desk.clock - 90_000))
        os.utime(directory / new, (desk.clock - 80_000, desk.clock - 80_000))
    desk.answer("prune", older=0, dry=True)
    assert (desk.places.environs / never).exists()
    desk.answer("prune", older=10**6)
    for directory in (desk.places.environs, desk.places.workspaces):
        assert {path.name for path in directory.iterdir()} == {known, left, new}


def test_prune_removes_environments_that_no_job_has_used_for_long(desk: Desk) -> None:
    removed: list[Path] = []
    desk.queue.dispose_by(removed.extend)
    for name, age in (("old", 100), ("new", 10)):
        (desk.places.environments / name).mkdir(parents=True)
        os.utime(desk.places.environments / name, (desk.clock - age, desk.clock - age))
    desk.answer("prune", older=50)
    assert len(removed) == 1 and [one.name for one in desk.places.environments.iterdir() if one.name == "old"] == []
    assert (desk.places.environments / "new").is_dir()


@pytest.mark.parametrize("how", ["cancelled", "lifetime", "dependency", "never fits", "restart"])
def test_the_environment_of_a_script_goes_with_its_end(desk: Desk, how: str) -> None:
    needed = desk.submit()
    asked = {"kind": "script", "after": [needed], "lifetime": 60, "needs": {"cpus": 4}}
    key = desk.key()
    desk.places.environ_of(key).write_text("secret")
    if how == "never fits":
        spec = Submission.from_json({**asked, "needs": {"cpus": 400}, "after": []})
        job_queue.leave(desk.places, key, spec, [b"{}"])
        desk.queue.tick()
    else:
        id = desk.answer("submit", [b"{}"], key=key, submission=asked)["id"]
    if how in ("cancelled", "restart"):
        desk.answer("cancel", ids=[id])
    elif how == "lifetime":
        desk.clock += 61
        desk.queue.tick()
    elif how == "dependency":
        desk.answer("cancel", ids=[needed])
    if how == "restart":  # killed between commit and removal
        desk.places.environ_of(key).write_text("secret")
        desk.restart()
    assert not desk.places.environ_of(key).exists()


def test_a_script_gets_all_cores_of_the_resource_that_takes_it_in(desk: Desk) -> None:
    asked = {"kind": "script", "script": {"argv": ["true"], "whole": True}, "needs": {"cpus": None}}
    id = desk.answer("submit", [b"{}"], key=desk.key(), submission=asked)["id"]
    left = job_queue.leave(desk.places, "ab" * 16, Submission.from_json(asked), [b"{}"])
    desk.queue.tick()
    desk.take("s1")
    assert desk.answer("status")["free"]["cpus"] == 0
    assert desk.row(str(left))["why"] == "waits for 4 cpus: 0 of 4 free"
    desk.capacity = Capacity(cpus=2)
    desk.restart()
    desk.queue.reap("s1", lease_state(False))
    assert desk.take("s2") == [(id, 1)]
    assert desk.answer("status")["free"]["cpus"] == 0


# --- clocks ---


@pytest.mark.parametrize("step", [3600.0, -3600.0])
@pytest.mark.parametrize("has_restarted", [False, True])
def test_a_timeout_outlasts_steps_of_the_clock_and_a_suspend(desk: Desk, step: float, has_restarted: bool) -> None:
    id = desk.submit(timeout=100)
    desk.take("s1")
    desk.ask("begun", by="s1", slot="s1", id=id, attempt=1, at=desk.clock)
    desk.clock += 50
    desk.step(step)
    desk.suspend(7200)
    if has_restarted:
        desk.restart()
        desk.ask("holding", by="s1", slot="s1", worker="w", lease="/leases/s1", ids=[id])
    desk.clock += 49
    assert desk.queue.tick() == []
    desk.clock += 2
    assert [push.header["how"] for push in desk.queue.tick()] == ["timeout"]


def test_a_timeout_counts_from_the_wall_after_a_reboot(desk: Desk) -> None:
    id = desk.submit(timeout=100)
    desk.take("s1")
    desk.ask("begun", by="s1", slot="s1", id=id, attempt=1, at=desk.clock)
    desk.clock += 50
    desk.boot, desk.stepped = "boot-2", desk.clock - 5.0
    desk.restart()
    desk.ask("holding", by="s1", slot="s1", worker="w", lease="/leases/s1", ids=[id])
    desk.clock += 49
    assert desk.queue.tick() == []
    desk.clock += 2
    assert [push.header["how"] for push in desk.queue.tick()] == ["timeout"]


@pytest.mark.parametrize("step", [3600.0, -3600.0])
@pytest.mark.parametrize("has_restarted", [False, True])
def test_a_lifetime_is_time_that_passed_whatever_the_clock_shows(desk: Desk, step: float, has_restarted: bool) -> None:
    id = desk.submit(lifetime=100, needs={"gpus": 2})
    desk.submit(needs={"gpus": 1}, priority=9)
    desk.take("s1")
    desk.step(step)
    if has_restarted:
        desk.restart()
    desk.clock += 60
    desk.queue.tick()
    assert desk.state(id) == "pending"
    desk.suspend(41)
    desk.queue.tick()
    assert desk.row(id)["reason"] == "not begun within its lifetime of 100 s"


def test_a_lifetime_counts_from_when_a_file_was_left(desk: Desk) -> None:
    desk.boot, desk.stepped = probe.boot_id(), desk.clock - left_files.since_boot()
    desk.restart()
    spec = Submission(kind="function", lifetime=1000, after=(JobId(1),))
    desk.submit()
    left = job_queue.leave(desk.places, "ab" * 16, spec, [b"f", b""])
    desk.clock += 600
    desk.queue.tick()
    assert desk.state(str(left)) == "pending"
    desk.clock += 401
    desk.queue.tick()
    assert desk.row(str(left))["reason"] == "not begun within its lifetime of 1000 s"


def test_a_job_that_began_within_its_lifetime_is_tried_again_after_it(desk: Desk) -> None:
    id = desk.submit(lifetime=100, retries={"failure": 1})
    desk.end("s1", *desk.take("s1"), state="error")
    desk.clock += 101
    desk.queue.tick()
    desk.restart()
    desk.queue.tick()
    assert desk.take("s1") == [(id, 2)]


@pytest.mark.parametrize(("step", "is_due"), [(3600.0, True), (-3600.0, False)])
def test_a_time_of_the_day_follows_the_clock_on_the_wall(desk: Desk, step: float, is_due: bool) -> None:
    desk.submit(at=desk.clock + 1800)
    desk.step(step)
    desk.queue.tick()
    assert bool(desk.take("s1")) is is_due


@pytest.mark.parametrize("step", [3600.0, -3600.0])
def test_retries_are_given_out_at_once_whatever_the_clock_shows(desk: Desk, step: float) -> None:
    id = desk.submit(retries={"failure": 1, "lost": 1})
    for attempt in (1, 2):
        assert desk.take("s1") == [(id, attempt)]
        desk.step(step)
        desk.end("s1", (id, attempt), state="error" if attempt == 1 else "lost")
    assert desk.take("s1") == [(id, 3)]


# --- retries ---


def test_an_exit_status_can_have_retries_of_its_own(desk: Desk) -> None:
    id = script(desk, retries={"failure": 1, "exit 75": 2, "exit 2": 0})
    for attempt, status in enumerate([75, 1, 75], 1):
        assert desk.take("s1") == [(id, attempt)]
        desk.end("s1", (id, attempt), state="error", note={"status": status})
    words = [one.get("reason", "").partition("; ")[2] for one in desk.row(id)["transitions"]]
    assert [one for one in words if one] == [
        "retry 1 of 2 (exit 75)",
        "retry 1 of 1 (failure)",
        "retry 2 of 2 (exit 75)",
    ]
    desk.take("s1")
    desk.end("s1", (id, 4), state="error", note={"status": 2})
    assert desk.state(id) == "error"


def test_the_next_attempt_gets_more_memory_up_to_all_that_there_is(desk: Desk) -> None:
    gib = 2**30
    id = desk.submit(2, needs={"memory": 3 * gib}, retries={"memory": 5}, memory_growth=2)
    given = []
    for attempt in (1, 2, 3):
        (told,) = desk.claim("s1", most=1)
        (job,) = told.header["jobs"]
        assert (job["id"], job["attempt"]) == (f"{id}.0", attempt)
        given.append(job["memory"] / gib)
        assert desk.answer("status")["free"]["memory"] == 8 * gib - job["memory"]
        if attempt == 2:
            desk.restart()
        desk.end("s1", (f"{id}.0", attempt), state="error", reason="memory")
        desk.answer("cancel", ids=[f"{id}.1"])
    assert given == [3, 6, 8]
    row = desk.row(f"{id}.0")
    assert row["state"] == "error"
    assert row["reason"].endswith("it had all memory of this resource, so it is not tried again")
    assert "retry 1 of 5 (memory, with 6.0 GiB)" in json.dumps(row["transitions"])
    assert desk.answer("status")["free"]["memory"] == 8 * gib


def test_jobs_of_a_map_that_need_more_memory_do_not_hold_up_the_others(desk: Desk) -> None:
    gib = 2**30
    id = desk.submit(3, needs={"memory": 5 * gib}, retries={"memory": 1}, memory_growth=1.5)
    desk.submit(needs={"memory": 3 * gib}, function=b"g", priority=5)
    desk.take("s0")
    desk.end("s1", *desk.take("s1"), state="error", reason="memory")
    assert "waits for memory" in desk.row(f"{id}.0")["why"]
    assert desk.take("s1", most=1) == [(f"{id}.1", 1)]
    desk.end("s1", (f"{id}.1", 1))
    desk.answer("cancel", ids=[id])
    assert desk.row(id)["counts"] == {"finished": 1, "cancelled": 2}


# --- submission files ---


@pytest.mark.parametrize("n_bytes", [0, 3, 12, 60])
def test_a_submission_file_that_was_half_written_is_kept_aside_and_said(desk: Desk, n_bytes: int) -> None:
    job_queue.leave(desk.places, "ab" * 16, Submission(kind="function"), [b"f", b""])
    path = desk.places.submissions / ("ab" * 16)
    path.write_bytes(path.read_bytes()[:n_bytes])
    good = job_queue.leave(desk.places, "cd" * 16, Submission(kind="function"), [b"f", b""])
    desk.queue.tick()
    (notice,) = desk.answer("status")["notices"]
    assert "a submission cannot be read" in notice
    assert desk.work() == [str(good)]
    desk.restart()
    assert desk.answer("status")["notices"] == []


def test_a_resource_decides_what_can_never_run_and_nobody_else(desk: Desk) -> None:
    spec = Submission(kind="function", needs=Submission.from_json({"kind": "function", "needs": {"cpus": 4}}).needs)
    desk.store.close()
    left = job_queue.leave(desk.places, "ab" * 16, spec, [b"f", b""])
    desk.start()
    desk.queue.tick()
    assert desk.state(str(left)) == "pending"


def test_names_of_what_comes_later_are_refused_in_words(desk: Desk) -> None:
    for name in ("sweep", "metrics", "image", "grant"):
        told = desk.answer("submit", [b"f", b"1"], key=desk.key(), submission={"kind": "function", name: {}})
        assert told["error"]["text"].startswith(f"{name}: this version of ports has no such jobs")


WRONG: list[object] = ["0", "-1", "x", "1.x", "1.-1", "\u0661", " 1", "1e3", 10**30, 1.5, True, None, ["1"]]


@pytest.mark.parametrize("op", ["show", "result", "cancel", "watch", "rerun"])
def test_a_wrong_id_is_refused_in_words(desk: Desk, op: str) -> None:
    desk.submit()
    desk.submit(2)
    for id in [*WRONG, "9", "1.0", "2.2"]:
        error = desk.answer(op, **({"ids": [id]} if op in ("cancel", "watch") else {"id": id}))["error"]
        if id in WRONG:
            assert error["kind"] == "UsageError", id
            assert "is not the id of a job; an id is 12, or 12.7 for a job of a map" in error["text"]
        else:
            assert error["kind"] == "NotFoundError", id
            assert str(id) in error["text"]
    assert desk.answer("status")["counts"]["pending"] == 3


def test_a_removed_directory_is_made_again_at_the_next_start(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTS_HOME", str(desk.places.root))

    desk.places = _places.make_places()
    desk.store.close()
    desk.start()
    shutil.rmtree(desk.places.objects)
    asked = {"key": "ab" * 16, "submission": {"kind": "function"}, "count": None}
    error = desk.ask("submit", [os.urandom(70_000), b"1"], **asked)[0].header["error"]
    assert error["kind"] == "StoreError" and "`ports resource stop`, then `ports resource start`" in error["text"]
    desk.store.close()
    assert _places.make_places().objects.is_dir()  # as a resource does that starts
    desk.start()
    assert desk.ask("submit", [os.urandom(70_000), b"1"], **asked)[0].header["id"] == "1"
