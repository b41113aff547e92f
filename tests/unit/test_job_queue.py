"""The queue of jobs: what clients and slots ask, and what comes of it, on a real store."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ports.jobs import _where
from ports.jobs._live import Live
from ports.jobs._model import Available, Capacity, JobId, Submission
from ports.jobs._turn import SCRIPTS, Request
from tests.lab import job_queue
from tests.lab.job_queue import Desk, lease_state


def states(desk: Desk, id: str) -> list[tuple[int, str]]:
    return [(one["attempt"], one["state"]) for one in desk.row(id)["transitions"]]


def test_a_job_is_submitted_given_out_and_answered(desk: Desk) -> None:
    id = desk.submit(arguments=[b"41"], name="add_one")
    (given,) = desk.claim()
    (job,) = given.header["jobs"]
    assert (job["id"], job["attempt"], job["kind"], job["name"]) == (id, 1, "function", "add_one")
    assert given.blobs[given.header["functions"][job["function"]]] == b"f"
    assert given.blobs[job["arguments"]] == b"41"
    assert desk.state(id) == "pending"  # nobody said that it runs
    assert desk.answer("result", id=id, wait=0)["state"] == "pending"
    desk.end("s1", (id, 1), blob=b"42")
    (reply,) = desk.ask("result", id=id, wait=0)
    assert reply.header["state"] == "finished"
    assert reply.blobs == [b"42"]
    assert states(desk, id) == [(0, "pending"), (1, "running"), (1, "finished")]


def test_the_same_key_gives_the_same_id(desk: Desk) -> None:
    asked = {"op": "submit", "key": "ab" * 16, "submission": {"kind": "function"}, "count": None}
    first, again = desk.turn(
        Request("a", {**asked, "n": 1}, [b"f", b"1"]), Request("b", {**asked, "n": 2}, [b"f", b"1"])
    )
    assert (first.header["id"], first.header["known"]) == ("1", False)
    assert (again.header["id"], again.header["known"]) == ("1", True)
    desk.restart()
    (later,) = desk.turn(Request("c", {**asked, "n": 3}, [b"f", b"1"]))
    assert (later.header["id"], later.header["known"]) == ("1", True)
    assert desk.answer("status")["counts"]["pending"] == 1


def test_ids_are_never_used_again(desk: Desk) -> None:
    assert [desk.submit() for _ in range(3)] == ["1", "2", "3"]
    desk.answer("cancel", ids=["1", "2", "3"])
    assert desk.answer("prune", older=0)["n_removed"] == 0  # they ended at this very moment
    desk.clock += 1
    assert desk.answer("prune", older=0)["n_removed"] == 3
    desk.restart()
    for file in desk.places.ids.iterdir():
        file.unlink()
    assert desk.submit() == "4"


def test_ids_are_reserved_ahead_and_none_is_left_out(desk: Desk) -> None:
    desk.queue.tick()
    names = {path.name for path in desk.places.ids.iterdir()}
    assert desk.submit() == "1"
    assert {path.name for path in desk.places.ids.iterdir()} == names
    desk.store._held.close()  # killed
    desk.start()
    assert desk.submit() == "2"
    desk.restart()
    left = job_queue.leave(desk.places, "ef" * 16, Submission(kind="function"), [b"f", b""])
    assert left == JobId(3)
    desk.queue.tick()
    assert [desk.submit() for _ in range(40)] == [str(number) for number in range(4, 44)]


@pytest.mark.ci
def test_a_map_of_ten_thousand_is_one_submission(desk: Desk) -> None:
    id = desk.submit(10_000, name="night")
    assert [row["counts"] for row in desk.answer("list")["rows"]] == [{"pending": 10_000}]
    done = desk.work()
    assert len(done) == len(set(done)) == 10_000
    assert desk.row(id)["state"] == "finished"
    replies = desk.ask("result", id=id, wait=0)
    assert [reply.header.get("more", False) for reply in replies][-2:] == [True, False]
    assert sum(len(reply.blobs) for reply in replies) == 10_000
    assert states(desk, f"{id}.9999") == [(0, "pending"), (1, "running"), (1, "finished")]


def test_results_come_in_the_order_of_their_end(desk: Desk) -> None:
    id = desk.submit(3)
    told: list[tuple[int, str, bytes]] = []

    def hear(replies: list[Any]) -> bool:
        for reply in replies:
            if "indices" in reply.header:
                told.extend(zip(reply.header["indices"], reply.header["states"], reply.blobs, strict=True))
        return any("indices" in reply.header and not reply.header.get("more") for reply in replies)

    assert not hear(desk.ask("result", id=id, by="home", wait=None))
    jobs = [desk.take(slot) for slot in ("s1", "s2", "s3")]
    for number in (2, 0, 1):
        desk.end(f"s{number + 1}", *jobs[number], blob=b"%d" % number)
    assert hear(desk.pushed)
    assert told == [(2, "finished", b"2"), (0, "finished", b"0"), (1, "finished", b"1")]
    (rest, last) = desk.ask("result", id=id, wait=0, **{"from": 2})
    assert rest.header["indices"] == [1]
    assert last.header["has_ended"]


def test_a_slot_that_waits_gets_the_next_job(desk: Desk) -> None:
    assert desk.claim("s1") == []
    id = desk.submit()
    (pushed,) = desk.pushed
    assert pushed.connection == "s1"
    assert [job["id"] for job in pushed.header["jobs"]] == [id]


@pytest.mark.parametrize("isolate", [False, True])
def test_batches_double_while_jobs_end_fast(desk: Desk, isolate: bool) -> None:
    desk.submit(500, isolate=isolate)
    sizes = []
    for _ in range(8):
        jobs = desk.take()
        sizes.append(len(jobs))
        desk.end("s1", *jobs)
    assert sizes == [1, 2, 4, 8, 16, 32, 64, 64]
    jobs = desk.take()
    results = [{"id": id, "attempt": 1, "state": "finished", "began": 0.0, "ended": 0.02} for id, _ in jobs]
    desk.ask("ended", [b""] * len(jobs), by="s1", slot="s1", results=results)
    assert len(desk.take()) == 2  # of 20 ms each


def test_a_batch_is_never_larger_than_was_asked_for(desk: Desk) -> None:
    desk.submit(100)
    for _ in range(6):
        desk.end("s1", *desk.take(most=3))
    assert len(desk.take(most=3)) == 3


def test_what_was_claimed_and_never_begun_costs_no_attempt(desk: Desk) -> None:
    id = desk.submit()
    assert desk.take("s1") == [(id, 1)]
    assert desk.take("s1") == [(id, 1)]  # who asks for work holds nothing
    desk.answer("returned", by="s1", slot="s1", ids=[id])
    assert desk.take("s2") == [(id, 1)]
    desk.restart()
    desk.answer("holding", by="s2", slot="s2", lease="/leases/s2", ids=[])
    assert desk.take("s3") == [(id, 1)]
    desk.queue.reap("s3", lease_state(False))
    assert desk.take("s4") == [(id, 1)]


def test_only_what_a_dead_slot_had_begun_counts_as_an_attempt(desk: Desk) -> None:
    desk.submit(200)
    for _ in range(3):
        desk.end("s1", *desk.take())
    jobs = desk.take()
    assert len(jobs) == 8
    desk.queue.reap("s1", lease_state(False, *jobs[:3]))
    again = dict(desk.take("s2", most=8) + desk.take("s3", most=64))
    assert {id: again[id] for id, _ in jobs} == {id: 2 if place < 3 else 1 for place, (id, _) in enumerate(jobs)}


def test_a_slot_gets_256_small_jobs_while_many_wait(desk: Desk) -> None:
    desk.submit(4000)
    sizes = []
    for _ in range(10):
        sizes.append(len(jobs := desk.take(most=256)))
        desk.end("s1", *jobs)
    assert sizes == [1, 2, 4, 8, 16, 32, 64, 128, 256, 256]
    (reply,) = desk.claim(most=257)
    assert "most: 257 is no whole number from 1 to 256" in reply.header["error"]["text"]


def test_of_few_small_jobs_a_slot_leaves_others_their_part(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Capacity(cpus=2, memory=2**30))
    first = desk.submit(1000)
    for _ in range(8):
        desk.end("s1", *desk.take(most=256))  # 1, 2, 4 … 128: 745 are left
    assert len(desk.take("s1", most=256)) == 745 // 4
    desk.answer("cancel", ids=[first])
    desk.submit(100)
    assert desk.queue.wanted_slots == 2  # of which s1 has some; there is room for no more
    assert len(desk.take("s2", most=256)) == 64
    desk.store.close()


def test_how_many_jobs_wait_is_not_counted_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(tmp_path, Capacity(cpus=2, memory=2**30))
    desk.submit(191)  # 1, 2, 4 … 64, 64
    for _ in range(8):
        desk.end("s1", *desk.take(most=256))
    for _ in range(400):
        desk.submit()
    monkeypatch.setattr("ports.jobs._shelves._LOOKED", 100)
    assert len(desk.take("s1", most=256)) == 64
    monkeypatch.undo()
    assert len(desk.take("s2", most=256)) == 336 // 4
    desk.store.close()


def test_without_its_lease_all_that_a_dead_slot_had_may_have_begun(desk: Desk) -> None:
    id = desk.submit()
    desk.take("s1")
    desk.queue.reap("s1", lease_state(False, is_known=False))
    assert desk.take("s2") == [(id, 2)]
    desk.queue.reap("s2", lease_state(False, is_known=False))
    assert desk.state(id) == "lost"
    assert states(desk, id) == [(0, "pending"), (1, "running"), (1, "pending"), (2, "running"), (2, "lost")]


@pytest.mark.parametrize("alive", [True, None])
def test_a_slot_that_may_live_keeps_its_jobs(desk: Desk, alive: bool | None) -> None:
    id = desk.submit()
    desk.take("s1")
    desk.queue.gone("s1")
    desk.leases["s1"] = lease_state(alive)
    desk.clock += 60
    desk.queue.tick()
    assert desk.take("s2") == []
    desk.leases["s1"] = lease_state(False)
    desk.clock += 60
    (given,) = desk.queue.tick()
    assert [job["id"] for job in given.header["jobs"]] == [id]


def test_a_late_result_of_an_attempt_that_was_lost_is_not_taken(desk: Desk) -> None:
    id = desk.submit()
    desk.take("s1")
    desk.queue.reap("s1", lease_state(False, (id, 1)))
    assert desk.take("s2") == [(id, 2)]
    desk.end("s1", (id, 1), blob=b"old")
    assert desk.state(id) == "pending"
    desk.end("s2", (id, 2), blob=b"new")
    desk.end("s2", (id, 2), state="error")  # told twice
    (reply,) = desk.ask("result", id=id, wait=0)
    assert (reply.header["state"], reply.blobs) == ("finished", [b"new"])


def test_a_slot_that_forgot_a_job_that_it_began_lost_it(desk: Desk) -> None:
    id = desk.submit()
    desk.take("s1")
    desk.answer("begun", by="s1", slot="s1", id=id, attempt=1, at=desk.clock)
    assert desk.take("s1") == [(id, 2)]
    assert not desk.answer("begun", by="s1", slot="s1", id=id, attempt=1)["known"]
    desk.end("s1", (id, 1), blob=b"old")  # of the attempt that it had forgotten
    assert desk.state(id) == "pending"
    desk.end("s1", (id, 2), (id, 2), blob=b"new")  # twice in one request
    assert desk.row(id)["attempt"] == 2
    assert desk.answer("status")["counts"]["finished"] == 1


def test_a_failure_is_final_unless_it_has_retries(desk: Desk) -> None:
    once, thrice = desk.submit(), desk.submit(retries={"failure": 2})
    error = {"type": "ValueError", "text": "no such column", "traceback": "…"}
    desk.end("s1", *desk.take("s1"), state="error", error=error, blob=b"pickled")
    assert desk.row(once)["error"] == error
    (reply,) = desk.ask("result", id=once, wait=0)
    assert (reply.header["state"], reply.header["error"], reply.blobs) == ("error", error, [b"pickled"])
    for attempt in (1, 2, 3):
        assert desk.take("s1") == [(thrice, attempt)]
        desk.end("s1", (thrice, attempt), state="error", error=error)
    row = desk.row(thrice)
    assert (row["state"], row["attempt"], row["reason"]) == ("error", 3, "ValueError: no such column")
    assert [one.get("reason") for one in row["transitions"] if one["state"] == "pending"] == [
        None,
        "ValueError: no such column; retry 1 of 2 (failure)",
        "ValueError: no such column; retry 2 of 2 (failure)",
    ]


@pytest.mark.parametrize(("reason", "n_attempts"), [("failure", 1), ("time", 1), ("memory", 1), ("lost", 2)])
def test_by_default_only_a_lost_attempt_is_tried_again(desk: Desk, reason: str, n_attempts: int) -> None:
    id = desk.submit()
    attempts = 0
    while jobs := desk.take():
        attempts += 1
        desk.end("s1", *jobs, state="lost" if reason == "lost" else "error", reason=reason)
    assert attempts == n_attempts
    assert desk.state(id) == ("lost" if reason == "lost" else "error")


def test_the_list_shows_why_a_job_failed(desk: Desk) -> None:
    id = desk.submit()
    error, note = {"text": "exit status 3"}, {"status": 3}
    desk.end("s1", *desk.take(), state="error", error=error, note=note, peak_memory=7, cpu_time=0.5)
    (row,) = desk.answer("list")["rows"]
    assert (row["id"], row["state"], row["attempt"], row["reason"]) == (id, "error", 1, "exit status 3")
    assert (row["note"], row["peak_memory"], row["cpu_time"]) == (note, 7, 0.5)


def test_a_slot_that_another_process_takes_over_had_begun_its_jobs(desk: Desk) -> None:
    id = desk.submit()
    for pid in (1, 2):
        fields = {"slot": "s1", "lease": "/l", "process": {"pid": pid}, "most": 1}
        (given,) = desk.ask("claim", by=f"worker {pid}", **fields)
        assert [(job["id"], job["attempt"]) for job in given.header["jobs"]] == [(id, pid)]


def test_retries_of_one_reason_do_not_use_up_those_of_another(desk: Desk) -> None:
    id = desk.submit(retries={"failure": 1, "lost": 1, "memory": 1})
    for reason in ("failure", "lost", "memory"):
        desk.end("s1", *desk.take(), state="error", reason=reason)
        desk.restart()
    assert desk.row(id)["retried"] == {"failure": 1, "lost": 1, "memory": 1}
    desk.end("s1", *desk.take())
    assert (desk.state(id), desk.row(id)["attempt"]) == ("finished", 4)


def test_a_pending_job_that_is_cancelled_never_runs(desk: Desk) -> None:
    id, other = desk.submit(), desk.submit()
    told = desk.answer("cancel", ids=[id], reason="wrong grid")
    assert (told["cancelled"], told["ending"], told["ended_already"]) == ([id], [], [])
    assert desk.work() == [other]
    row = desk.row(id)
    assert (row["state"], row["reason"], row["attempt"]) == ("cancelled", "wrong grid", 0)
    assert desk.answer("cancel", ids=[id])["ended_already"] == [id]


def test_a_running_job_that_is_cancelled_is_asked_to_end(desk: Desk) -> None:
    id = desk.submit(retries={"failure": 3, "lost": 3})
    desk.take("s1")
    desk.answer("begun", by="s1", slot="s1", id=id, attempt=1, at=desk.clock)
    assert desk.answer("cancel", ids=[id])["ending"] == [id]
    (push,) = desk.pushed
    assert (push.connection, push.header) == ("s1", {"op": "end", "id": id, "attempt": 1, "how": "cancel"})
    assert desk.state(id) == "running"  # until it has ended
    desk.restart()
    desk.pushed.clear()
    desk.answer("holding", by="s1", slot="s1", lease="/leases/s1", ids=[id])
    assert [push.header["how"] for push in desk.pushed] == ["cancel"]
    desk.end("s1", (id, 1), state="error", error={"type": "KeyboardInterrupt", "text": ""})
    assert desk.state(id) == "cancelled"
    assert desk.take("s1") == []


@pytest.mark.parametrize("how", ["returned", "dead", "claims again"])
def test_a_cancelled_job_that_comes_back_is_not_given_out(desk: Desk, how: str) -> None:
    id = desk.submit(retries={"lost": 5})
    desk.take("s1")
    desk.answer("cancel", ids=[id])
    if how == "returned":
        desk.answer("returned", by="s1", slot="s1", ids=[id])
    elif how == "dead":
        desk.queue.reap("s1", lease_state(False, (id, 1)))
    assert desk.take("s1") == []
    assert desk.state(id) == "cancelled"


def test_a_job_that_finished_before_it_was_asked_to_end_is_finished(desk: Desk) -> None:
    id = desk.submit()
    jobs = desk.take()
    desk.answer("cancel", ids=[id])
    desk.end("s1", *jobs)
    assert desk.state(id) == "finished"


def test_one_job_of_a_map_can_be_cancelled(desk: Desk) -> None:
    id = desk.submit(5)
    desk.answer("cancel", ids=[f"{id}.3"])
    assert desk.work() == [f"{id}.{item}" for item in (0, 1, 2, 4)]
    assert desk.row(id)["counts"] == {"finished": 4, "cancelled": 1}
    assert desk.row(id)["failed"] == [f"{id}.3"]
    assert desk.answer("cancel", ids=[id])["ended_already"] == [id]


def test_a_job_waits_for_those_that_it_needs(desk: Desk) -> None:
    first, second = desk.submit(), desk.submit(2)
    id = desk.submit(after=[first, second])
    assert desk.row(id)["why"] == f"waits for {first}, {second}"
    assert desk.take("s1") == [(first, 1)]
    desk.end("s1", (first, 1))
    desk.restart()
    assert desk.row(id)["why"] == f"waits for {second}"
    assert desk.work() == [f"{second}.0", f"{second}.1", id]


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_waits_for_a_failed_job_is_cancelled(desk: Desk, when: str) -> None:
    first = desk.submit()
    ids = [desk.submit(after=[first])] if when == "before" else []
    ids += [desk.submit(3, after=[ids[0]])] if ids else []
    desk.end("s1", *desk.take(), state="error")
    ids = ids or [desk.submit(after=[first]), desk.submit(3, after=[first])]
    assert [desk.row(id)["state"] for id in ids] == ["cancelled", "cancelled"]
    assert desk.row(ids[0])["reason"] == f"dependency {first} failed"
    last = desk.row(f"{ids[1]}.2")["reason"]
    assert last == (f"dependency {ids[0]} was cancelled" if when == "before" else f"dependency {first} failed")
    assert desk.work() == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_waits_for_a_cancelled_job_does_not_say_that_it_failed(desk: Desk, when: str) -> None:
    first = desk.submit()
    ids = [desk.submit(after=[first])] if when == "before" else []
    desk.answer("cancel", ids=[first])
    ids = ids or [desk.submit(after=[first])]
    assert desk.row(ids[0])["reason"] == f"dependency {first} was cancelled"


def test_a_chain_of_a_thousand_jobs_fails_at_once(desk: Desk) -> None:
    ids = [desk.submit()]
    inbox = []
    for number in range(1200):
        asked = {"kind": "function", "after": [str(number + 1)]}
        inbox.append(Request("c", {"op": "submit", "key": desk.key(), "submission": asked, "n": number}, [b"f", b""]))
    assert [reply.header["id"] for reply in desk.turn(*inbox)][-1] == "1201"
    desk.answer("cancel", ids=ids)
    assert desk.answer("status")["counts"]["cancelled"] == 1201


def test_each_job_of_a_map_waits_for_its_own_inputs(desk: Desk) -> None:
    first = desk.submit(2)
    id = desk.submit(3, inputs={"0": [f"{first}.1"], "1": [f"{first}.0"]})
    assert desk.row(f"{id}.0")["why"] == f"waits for {first}.1"
    (given,) = desk.claim("s1", most=1)
    assert [job["id"] for job in given.header["jobs"]] == [f"{first}.0"]
    desk.end("s1", (f"{first}.0", 1), blob=b"zero")
    desk.take("s1", most=1)
    desk.end("s1", (f"{first}.1", 1), state="error")
    (given,) = desk.claim("s1")
    jobs = given.header["jobs"]
    assert [job["id"] for job in jobs] == [f"{id}.1", f"{id}.2"]
    assert given.blobs[jobs[0]["results"][f"{first}.0"]] == b"zero"
    assert desk.row(f"{id}.0")["reason"] == f"dependency {first}.1 failed"


def test_a_job_cannot_wait_for_one_that_does_not_exist(desk: Desk) -> None:
    for after in (["1"], ["7"], ["1.0"]):
        told = desk.answer("submit", [b"f", b""], key=desk.key(), submission={"kind": "function", "after": after})
        assert told["error"]["kind"] == "NotFoundError"
        assert told["error"]["exit_code"] == 3
    one = desk.submit()
    asked = {"kind": "function", "after": [f"{one}.0"]}
    assert desk.answer("submit", [b"f", b""], key=desk.key(), submission=asked)["error"]["kind"] == "NotFoundError"


def test_priority_comes_before_age(desk: Desk) -> None:
    low, middle, high = desk.submit(priority=-1), desk.submit(), desk.submit(priority=5)
    also = desk.submit()
    assert desk.work() == [high, middle, also, low]


def test_a_queue_has_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    desk = Desk(tmp_path, limits={"night": 1})
    id = desk.submit(2, queue="night")
    other = desk.submit()
    assert desk.queue.wanted_slots == 2
    assert desk.take("s1") == [(f"{id}.0", 1)]
    assert desk.take("s2") == [(other, 1)]
    assert desk.take("s3") == []
    assert desk.row(f"{id}.1")["why"] == "waits for queue night: at most 1 at once"
    desk.end("s1", (f"{id}.0", 1))
    assert [job["id"] for job in desk.pushed[-1].header["jobs"]] == [f"{id}.1"]
    assert {"name": "night", "pending": 1, "running": 0, "limit": 1} in desk.answer("status")["queues"]
    desk.close()


def test_what_does_not_fit_now_waits_and_says_why(desk: Desk) -> None:
    wide, small = desk.submit(needs={"cpus": 4}), desk.submit(needs={"cpus": 0.5})
    assert desk.take("s1") == [(wide, 1)]
    assert desk.take("s2") == []
    assert desk.row(small)["why"] == "waits for 0.5 cpus: 0 of 4 free"
    memory = desk.submit(needs={"cpus": 0, "memory": 6 * 2**30})
    assert [job["id"] for job in desk.pushed[-1].header["jobs"]] == [memory]
    again = desk.submit(needs={"cpus": 0, "memory": 6 * 2**30})
    assert desk.row(again)["why"] == "waits for memory: 2.0 GiB free"
    desk.queue.available = Available(memory=2**30, memory_why="bob active")
    assert desk.row(again)["why"] == "waits for memory: bob active"


def test_small_jobs_do_not_pass_a_wide_one_for_ever(desk: Desk) -> None:
    small = desk.submit(20)
    for slot in ("s1", "s2"):
        assert desk.take(slot, most=1) != []
    wide = desk.submit(needs={"cpus": 4}, priority=1)
    assert desk.take("s3", most=1) == [(f"{small}.2", 1)]
    desk.end("s3", (f"{small}.2", 1))
    desk.clock += 601
    assert desk.take("s3", most=1) == []
    assert desk.row(f"{small}.5")["why"] == f"waits for a slot, or for {wide}, which needs more"
    desk.end("s1", (f"{small}.0", 1))
    assert desk.take("s1", most=1) == []
    desk.end("s2", (f"{small}.1", 1))
    assert [job["id"] for job in desk.pushed[-1].header["jobs"]] == [wide]
    desk.end(desk.pushed[-1].connection, (wide, 1))
    assert [job["id"] for job in desk.pushed[-1].header["jobs"]] == [f"{small}.3"]


def test_large_arguments_come_in_several_batches(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ports.jobs._slots._MOST_BYTES_OF_WORK", 150_000)
    monkeypatch.setattr("ports.jobs._slots._MOST_BYTES_OF_A_JOB", 300_000)
    id = desk.submit(8)
    desk.end("s1", *desk.take())
    desk.end("s1", *desk.take())
    desk.end("s1", *desk.take())
    desk.answer("cancel", ids=[id])
    many = desk.submit(6, arguments=[b"%d" % item * 100_000 for item in (1, 2, 3, 44444, 5, 6)])
    done = []
    while jobs := desk.take():
        done.append(jobs)
        desk.end("s1", *jobs)
    assert done == [
        [(f"{many}.0", 1), (f"{many}.1", 1)],
        [(f"{many}.2", 1), (f"{many}.4", 1)],
        [(f"{many}.5", 1)],
    ]
    assert "500000 bytes; at most 300000 are allowed" in desk.row(f"{many}.3")["reason"]


def test_many_large_results_come_turn_by_turn(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ports.jobs._answers._MOST_BYTES_OF_A_REPLY", 10_000)
    monkeypatch.setattr("ports.jobs._answers._MOST_BYTES_AT_ONCE", 15_000)
    id = desk.submit(6)
    while jobs := desk.take():
        desk.end("s1", *jobs, blob=b"x" * 9_000)
    replies = desk.ask("result", id=id, by="home", wait=None)
    assert [len(reply.blobs) for reply in replies] == [1, 1]
    for expected in ([1, 1], [1, 1, 0]):
        replies = desk.queue.tick()
        assert [len(reply.blobs) for reply in replies] == expected
    assert desk.queue.tick() == []


def test_a_fault_of_ours_leaves_nothing_half_done(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    id = desk.submit()
    assert desk.ask("result", id=id, by="home", wait=None) == []
    jobs = desk.take()
    with monkeypatch.context() as broken:
        broken.setattr("ports.jobs._answers.Answers.tell_watches", lambda answers: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            desk.end("s1", *jobs)
    assert desk.state(id) == "pending"
    assert [one.header["error"]["kind"] for one in desk.pushed if one.connection == "home"] == ["PortsError"]
    desk.end("s1", *jobs)
    assert desk.state(id) == "finished"


def test_gpus_are_given_out_one_by_one(desk: Desk) -> None:
    desk.queue.available = Available(taken_gpus={0: "bob"})
    first, second = desk.submit(needs={"gpus": 1}), desk.submit(needs={"gpus": 1})
    (given,) = desk.claim("s1")
    assert [(job["id"], job["gpus"]) for job in given.header["jobs"]] == [(first, [1])]
    assert desk.row(second)["why"] == "waits for a GPU: 0 bob, 1 jobs"
    desk.restart()
    assert desk.take("s2") != []  # nobody computes on GPU 0 now
    assert desk.row(second)["slot"] == "s2"
    third = desk.submit(needs={"gpus": 2})
    assert desk.row(third)["why"] == "waits for a GPU: 0-1 jobs"
    desk.end("s1", (first, 1))
    assert desk.take("s1") == []
    other = desk.submit()  # needs none, in the slot that had one
    assert [job.get("gpus") for job in desk.pushed[-1].header["jobs"]] == [None]
    desk.restart()
    assert desk.answer("status")["free"]["gpus"] == [1]
    desk.capacity = Capacity(cpus=4)  # the GPUs are gone
    desk.restart()
    desk.end("s1", (other, 1))
    desk.end("s2", (second, 1))
    assert desk.answer("status")["free"]["gpus"] == []


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        ({"cpus": 5}, "it needs 5 cpus, and this resource has 4"),
        ({"memory": 9 * 2**30}, "it needs 9.0 GiB of memory, and this resource has 8.0 GiB"),
        ({"gpus": 3}, "it needs 3 gpus, and this resource has 2"),
        ({"tags": ["huge"]}, "it needs huge, and this resource has big"),
    ],
)
def test_what_can_never_run_is_refused_with_what_there_is(desk: Desk, needs: dict[str, Any], words: str) -> None:
    told = desk.answer("submit", [b"f", b""], key=desk.key(), submission={"kind": "function", "needs": needs})
    assert (told["error"]["kind"], told["error"]["exit_code"]) == ("UsageError", 2)
    assert words in told["error"]["text"]
    assert desk.answer("list")["rows"] == []


def test_a_job_waits_for_its_time(desk: Desk) -> None:
    id = desk.submit(at=desk.clock + 3600)
    assert desk.row(id)["why"].startswith("waits until 20")
    assert desk.take("s1") == []
    desk.clock += 3599
    assert desk.queue.tick() == []
    desk.restart()
    assert desk.take("s1") == []
    desk.clock += 2
    (given,) = desk.queue.tick()
    assert [job["id"] for job in given.header["jobs"]] == [id]


def test_what_was_not_begun_within_its_lifetime_is_cancelled(desk: Desk) -> None:
    first, id, other = desk.submit(lifetime=60), desk.submit(3, lifetime=60), desk.submit()
    assert desk.take("s1") == [(first, 1)]
    desk.restart()
    desk.clock += 61
    desk.queue.tick()
    assert desk.row(f"{id}.2")["reason"] == "not begun within its lifetime of 60 s"
    assert desk.row(id)["state"] == "cancelled"
    desk.end("s1", (first, 1))
    assert desk.state(first) == "finished"
    assert desk.work() == [other]


def test_a_job_that_runs_too_long_is_asked_to_end(desk: Desk) -> None:
    id = desk.submit(timeout=60, retries={"time": 1})
    for attempt in (1, 2):
        assert desk.take("s1") == [(id, attempt)]
        desk.answer("begun", by="s1", slot="s1", id=id, attempt=attempt, at=desk.clock)
        if attempt == 2:
            desk.restart()
            desk.answer("holding", by="s1", slot="s1", lease="/leases/s1", ids=[id])
        desk.clock += 59
        assert desk.queue.tick() == []
        desk.clock += 2
        (push,) = desk.queue.tick()
        assert (push.connection, push.header["how"]) == ("s1", "timeout")
        assert desk.queue.tick() == []  # it is asked once
        desk.end("s1", (id, attempt), state="error", error={"type": "KeyboardInterrupt", "text": ""})
    row = desk.row(id)
    assert (row["state"], row["reason"]) == ("error", "it ran longer than its timeout of 60 s")


def test_a_queue_that_drains_gives_nothing_out(desk: Desk) -> None:
    id = desk.submit()
    running = desk.submit(priority=1)
    assert desk.take("s1") == [(running, 1)]
    assert desk.answer("drain")["draining"]
    desk.end("s1", (running, 1))
    assert desk.take("s1") == []
    desk.restart()
    assert desk.take("s1") == []
    assert desk.queue.wanted_slots == 0
    assert "ports resource resume" in desk.row(id)["why"]
    desk.answer("resume")
    assert [job["id"] for job in desk.pushed[-1].header["jobs"]] == [id]


def test_a_script_lives_on_when_its_slot_is_free(desk: Desk) -> None:
    asked = {"kind": "script", "script": {"argv": ["true"]}, "needs": {"gpus": 1}}
    key = desk.key()
    id = desk.answer("submit", [b"{}"], key=key, submission=asked)["id"]
    desk.places.environ_of(key).write_text("secret")
    (given,) = desk.claim("s1")
    (job,) = given.header["jobs"]
    assert given.blobs[job["arguments"]] == b"{}"
    process = {"pid": 7}
    lease = f"/leases/job-{id}-1"
    desk.answer("started", by="s1", slot="s1", id=id, attempt=1, process=process, lease=lease)
    other = desk.submit()
    assert desk.take("s1") == [(other, 1)]
    desk.restart()
    ((found, attempt, kept),) = desk.queue.scripts()
    assert (str(found), attempt, kept.slot, kept.process) == (id, 1, f"job-{id}-1", process)
    assert desk.answer("status")["free"]["gpus"] == [1]
    desk.answer("cancel", ids=[id])
    assert [(push.connection, push.header["how"]) for push in desk.pushed] == [(SCRIPTS, "cancel")]
    results = [{"id": id, "attempt": 1, "state": "cancelled", "peak_memory": 5, "cpu_time": 0.5}]
    assert desk.turn(Request(None, {"op": "ended", "slot": f"job-{id}-1", "results": results}, [b""])) == []
    row = desk.row(id)
    assert (row["state"], row["peak_memory"], row["cpu_time"]) == ("cancelled", 5, 0.5)
    assert desk.queue.scripts() == []
    assert not desk.places.environ_of(key).exists()
    assert desk.answer("status")["free"]["gpus"] == [0, 1]


def test_a_script_that_ended_without_a_word_is_lost(desk: Desk) -> None:
    id = desk.answer("submit", [b"{}"], key=desk.key(), submission={"kind": "script"})["id"]
    for attempt in (1, 2):
        assert desk.take("s1") == [(id, attempt)]
        lease = f"/leases/job-{id}-{attempt}"
        desk.answer("started", by="s1", slot="s1", id=id, attempt=attempt, process={"pid": 7}, lease=lease)
        desk.queue.reap(f"job-{id}-{attempt}", lease_state(False, is_known=False))
    assert desk.state(id) == "lost"


def test_equal_jobs_of_the_cache_run_one_after_the_other(desk: Desk) -> None:
    cache = {"policy": "use", "function": "ab" * 8, "keys": ["aa" * 16, "bb" * 16, "aa" * 16]}
    id = desk.submit(3, cache=cache)
    (given,) = desk.claim("s1")
    (job,) = given.header["jobs"]
    assert job["cache"] == {"policy": "use", "function": "ab" * 8, "key": "aa" * 16}
    assert desk.take("s2") == [(f"{id}.1", 1)]
    assert desk.take("s3") == []
    assert desk.row(f"{id}.2")["why"] == f"waits for an equal job: {id}.0"
    desk.restart()
    assert desk.take("s3") == []
    desk.end("s1", (f"{id}.0", 1), state="error")
    assert [job["id"] for job in desk.pushed[-1].header["jobs"]] == [f"{id}.2"]


def test_large_results_and_arguments_lie_in_files(desk: Desk) -> None:
    large = b"x" * 100_000
    id = desk.submit(2, arguments=[large, b"small"], function=b"f" * 70_000)
    (given,) = desk.claim("s1")
    assert given.blobs[given.header["jobs"][0]["arguments"]] == large
    desk.end("s1", (f"{id}.0", 1), blob=b"y" * 100_000)
    assert desk.places.result_of(JobId(int(id), 0)).stat().st_size == 100_000
    (reply,) = desk.ask("result", id=f"{id}.0", wait=0)
    assert reply.blobs == [b"y" * 100_000]
    assert len(list(desk.places.objects.iterdir())) == 2
    assert desk.store.path.stat().st_size < 200_000
    desk.work()
    desk.clock += 1
    assert desk.answer("prune", older=0, dry=True)["ids"] == [id]
    assert desk.answer("prune", older=0)["n_removed"] == 1
    assert [*desk.places.objects.iterdir(), *desk.places.results.iterdir()] == []


def test_a_job_whose_function_is_gone_ends_with_an_error(desk: Desk) -> None:
    broken, whole = desk.submit(function=b"f" * 70_000), desk.submit()
    for file in desk.places.objects.iterdir():
        file.unlink()
    assert desk.take("s1") == [(whole, 1)]
    assert desk.state(broken) == "error"
    assert "No such file" in desk.row(broken)["reason"]


def test_a_watch_hears_of_changes_and_of_the_end(desk: Desk) -> None:
    id = desk.submit(2)
    (first,) = desk.ask("watch", ids=[id], by="home")
    assert (first.header["rows"][0]["counts"], first.header["more"]) == ({"pending": 2}, True)
    jobs = desk.take("s1")
    desk.end("s1", *jobs)
    assert [push for push in desk.pushed if push.connection == "home"] == []  # ten times a second at most
    desk.clock += 0.2
    (news,) = desk.queue.tick()
    assert news.header["rows"][0]["counts"] == {"pending": 1, "finished": 1}
    desk.work("s1")
    (last,) = [push for push in desk.pushed if push.connection == "home"]  # the end is told at once
    assert "more" not in last.header
    desk.clock += 0.2
    assert desk.queue.tick() == []


def test_a_watch_waits_for_all_of_its_jobs(desk: Desk) -> None:
    first, last = desk.submit(), desk.submit()
    desk.ask("watch", ids=[first, last], by="home")
    desk.end("s1", *desk.take("s1", most=1))
    assert [push for push in desk.pushed if push.connection == "home"] == []
    desk.work("s1")
    (told,) = [push for push in desk.pushed if push.connection == "home"]
    assert ([row["state"] for row in told.header["rows"]], told.header.get("more")) == (["finished"] * 2, None)


def test_a_wait_for_a_result_runs_out(desk: Desk) -> None:
    id = desk.submit()
    assert desk.ask("result", id=id, wait=5, by="home") == []
    desk.clock += 6
    (reply,) = desk.queue.tick()
    assert (reply.connection, reply.header["state"]) == ("home", "pending")
    many = desk.submit(2)
    assert desk.ask("result", id=many, wait=5, by="home") == []
    desk.clock += 6
    (last,) = desk.queue.tick()
    assert (last.header["has_ended"], last.header.get("more")) == (False, None)
    assert desk.ask("result", id=id, wait=None, by="home") == []
    desk.queue.gone("home")
    desk.work()
    assert [push for push in desk.pushed if push.connection == "home"] == []


def test_the_list_filters_by_state_name_tag_and_queue(desk: Desk) -> None:
    a = desk.submit(name="a", tags={"project": "x"})
    b = desk.submit(name="b", tags={"project": "y"}, queue="night")
    desk.answer("cancel", ids=[a])

    def ids(**filters: Any) -> list[str]:
        return [row["id"] for row in desk.answer("list", filters=filters)["rows"]]

    assert ids() == [b, a]
    assert ids(state="cancelled") == [a]
    assert ids(name="b") == ids(queue="night") == ids(tag="project=y") == [b]
    assert ids(tag="project") == [b, a]
    assert ids(before=b) == [a]
    assert desk.answer("list", newest=1)["rows"][0]["id"] == b
    assert desk.answer("list")["counts"] == {
        "pending": 1, "running": 0, "finished": 0, "error": 0, "cancelled": 1, "lost": 0,
    }  # fmt: skip


def test_a_rerun_whose_answer_was_lost_makes_no_second_job(desk: Desk) -> None:
    id = desk.submit(3)
    first = desk.answer("rerun", id=id, key="a" * 32)
    desk.restart()
    again = desk.answer("rerun", id=id, key="a" * 32)
    assert (again["id"], again["count"], first["known"], again["known"]) == (first["id"], 3, False, True)
    assert desk.answer("rerun", id=id, key="b" * 32)["id"] != first["id"] != desk.answer("rerun", id=id)["id"]
    assert "32 hexadecimal digits" in desk.answer("rerun", id=id, key="k")["error"]["text"]


def test_a_job_can_be_run_again_as_a_new_one(desk: Desk) -> None:
    id = desk.submit(3, name="night", after=[desk.submit()])
    desk.work()
    assert desk.answer("rerun", id=id)["count"] == 3
    one = desk.answer("rerun", id=f"{id}.2")
    assert one["count"] is None
    for _ in range(2):
        desk.take("s1", most=64)
        desk.queue.reap("s1", lease_state(False))
    desk.answer("cancel", ids=["3"])
    (given,) = desk.claim("s2")
    (job,) = given.header["jobs"]
    assert (job["id"], job["name"], given.blobs[job["arguments"]]) == (one["id"], "night", b"2")


def test_submission_files_are_taken_in(desk: Desk) -> None:
    key = "cd" * 16
    spec = Submission(kind="function", name="left")
    id = job_queue.leave(desk.places, key, spec, [b"f", b"0", b"1"], count=2)
    assert job_queue.leave(desk.places, key, spec, [b"f", b"0", b"1"], count=2) == id
    assert desk.submit() == "2"
    desk.queue.tick()
    assert desk.row(str(id))["counts"] == {"pending": 2}
    assert list(desk.places.submissions.iterdir()) == []
    assert job_queue.leave(desk.places, key, spec, [b"f", b"0", b"1"], count=2) == id
    assert desk.answer("submit", [b"f", b"0", b"1"], key=key, submission={"kind": "function"}, count=2)["known"]
    desk.queue.tick()
    assert desk.work() == [f"{id}.0", f"{id}.1", "2"]


def test_a_submission_file_that_cannot_run_is_cancelled_and_says_why(desk: Desk) -> None:
    spec = Submission.from_json({"kind": "function", "name": "wide", "needs": {"cpus": 99}})
    id = job_queue.leave(desk.places, "cd" * 16, spec, [b"f", b""])
    (desk.places.submissions / ("ef" * 16)).write_bytes(b"half a fra")
    desk.queue.tick()
    row = desk.row(str(id))
    assert (row["name"], row["state"]) == ("wide", "cancelled")
    assert "it needs 99 cpus, and this resource has 4" in row["reason"]
    assert "it is kept as" in desk.store.notices[-1]
    assert desk.queue.tick() == []


def test_slots_are_counted_without_a_look_at_all_that_wait(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is done in each turn, so that 100,000 single jobs must not take longer than ten."""
    for _ in range(300):
        desk.submit()
    looks: list[int] = []
    n_ready = Live.n_ready
    monkeypatch.setattr(Live, "n_ready", lambda live, shelf: looks.append(1) or n_ready(live, shelf))
    assert desk.queue.wanted_slots == 4 and len(looks) < 20
    desk.take("s1", most=1)
    looks.clear()
    assert desk.queue.wanted_slots == 4 and len(looks) < 20


def test_a_copy_in_which_nothing_was_made_is_pruned(desk: Desk) -> None:
    script = {"kind": "script", "script": {"argv": ["true"]}}
    ids = [desk.answer("submit", [b"{}"], key=desk.key(), submission=script)["id"] for _ in range(4)]
    desk.answer("cancel", ids=ids)
    for id, noted in zip(ids, ('"made": false', '"made": true', '"made": null', '"made": false'), strict=True):
        copy = desk.places.copy_of(JobId(int(id)))
        copy.mkdir(parents=True)
        attempt = int(id == ids[3])  # an attempt before the last one: nobody saw how that ended
        (copy.parent / "exit.json").write_text(f'{{"format": 1, "attempt": {attempt}, {noted}}}')
    desk.clock += 1
    told = desk.answer("prune", unfetched=False)
    assert (told["ids"], told["unfetched"]) == ([ids[0]], ids[1:])


def test_output_that_nobody_fetched_stays_unless_it_is_said(desk: Desk) -> None:
    ids = [
        desk.answer("submit", [b"{}"], key=desk.key(), submission={"kind": "script", "script": {"argv": ["true"]}})[
            "id"
        ]
        for _ in range(2)
    ]
    desk.answer("cancel", ids=ids)
    for id in ids:
        desk.places.copy_of(JobId(int(id))).mkdir(parents=True)
    desk.places.fetched(JobId(int(ids[0]))).touch()
    desk.clock += 1
    told = desk.answer("prune", unfetched=False)
    assert (told["ids"], told["unfetched"]) == ([ids[0]], [ids[1]])
    assert desk.places.copy_of(JobId(int(ids[1]))).exists() and not desk.places.copy_of(JobId(int(ids[0]))).exists()
    assert desk.answer("prune")["ids"] == [ids[1]]


def test_wanted_slots_are_those_that_fit(desk: Desk) -> None:
    assert desk.queue.wanted_slots == 0
    desk.submit(100)
    assert desk.queue.wanted_slots == 4
    desk.take("s1")
    assert desk.queue.wanted_slots == 4
    desk.submit(needs={"cpus": 0, "gpus": 1})
    assert desk.queue.wanted_slots == 5


def test_nothing_of_a_turn_counts_when_the_disk_refuses(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    id = desk.submit(2)
    waiting = desk.submit(needs={"cpus": 4})
    assert desk.take("s1") == [(f"{id}.0", 1)]
    assert desk.claim("s2") != []
    assert desk.claim("s3") == []

    with monkeypatch.context() as full:
        full.setattr("ports.jobs._durable.sync_directory", _store_error)
        told = desk.answer("submit", [b"f", b""], key="ab" * 16, submission={"kind": "function"})
        assert told["error"]["kind"] == "StoreError"
        assert "No space left on device" in told["error"]["text"]
    assert desk.answer("status")["counts"]["pending"] == 3
    assert desk.state(waiting) == "pending"
    told = desk.answer("submit", [b"f", b""], key="ab" * 16, submission={"kind": "function"})
    assert not told["known"]
    desk.end("s1", (f"{id}.0", 1))
    assert desk.state(f"{id}.0") == "finished"


def _store_error(path: Path) -> None:
    from ports.errors import StoreError

    raise StoreError(path, "No space left on device")


def test_a_restart_knows_what_ran_and_what_ended(desk: Desk) -> None:
    id = desk.submit(6)
    desk.end("s1", *desk.take("s1"))
    jobs = desk.take("s1")
    desk.answer("begun", by="s1", slot="s1", id=jobs[0][0], attempt=1, at=desk.clock)
    before = desk.row(id)["counts"]
    desk.restart()
    assert desk.row(id)["counts"] == before == {"pending": 4, "running": 1, "finished": 1}
    assert desk.take("s2") == [(f"{id}.3", 1)]
    desk.answer("holding", by="s1", slot="s1", lease="/leases/s1", ids=[jobs[0][0]])
    desk.end("s1", jobs[0])
    assert sorted(desk.work("s1")) == [f"{id}.{item}" for item in (2, 4, 5)]
    assert desk.answer("status")["counts"] == {
        "pending": 1, "running": 0, "finished": 5, "error": 0, "cancelled": 0, "lost": 0,
    }  # fmt: skip


def test_capacity_that_shrank_keeps_jobs_pending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    desk = Desk(tmp_path)
    id = desk.submit(needs={"cpus": 4})
    desk.capacity = Capacity(cpus=2)
    desk.restart()
    assert desk.take("s1") == []
    assert desk.row(id)["why"] == "it needs 4 cpus, and this resource has 2"
    desk.close()


def test_jobs_that_wait_have_their_counts_in_common(desk: Desk) -> None:
    desk.submit()
    desk.submit()
    desk.submit(3)
    lives = list(desk.queue._exchange.ledger.lives.values())
    assert lives[0].counts is lives[1].counts
    assert [list(live.counts) for live in lives] == [[1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0]]
    lives[0].count_change(0, 1)
    lives[2].count_change(0, 2)
    assert [live.counts[:3] for live in lives] == [(0, 1, 0), (1, 0, 0), (2, 0, 1)]


def test_reasons_that_name_jobs_name_those_of_a_server_at_home(desk: Desk) -> None:
    """Each reason that the queue gives is known at home: an id that is shown can be typed."""
    first, second = desk.submit(), desk.submit()
    both = desk.submit(after=[first, second])
    last = desk.submit(after=[both])
    assert desk.row(both)["why"] == f"waits for {first}, {second}"
    many = desk.submit(after=[desk.submit() for _ in range(5)])
    reasons = [desk.row(one)["why"] for one in (both, last, many)]
    desk.answer("cancel", ids=[first])
    reasons += [desk.row(one)["reason"] for one in (both, last)]
    reasons += ["waits for an equal job: 7.1", "waits for a slot, or for 9, which needs more; the disk is full"]
    for text in reasons:
        at_home = _where.reason_at_home("server1", text)
        assert re.sub("server1:", "", at_home) == text and "server1:" in at_home
        assert not re.search(r"(?<![:.\d])\d+(?![\d.]* more)", at_home.replace("server1:", ":"))


@pytest.mark.parametrize(
    "text",
    [
        "waits for 4 cpus: 2 of 8 free", "waits for 1 cpu: 0 of 4 free", "waits for a GPU: 0-1 jobs",
        "ValueError: dependency 7 failed", "waits until 2026-01-01", "waits for queue 12: at most 1 at once",
    ],
)  # fmt: skip
def test_a_number_that_is_no_job_stays_as_it_is(text: str) -> None:
    assert _where.reason_at_home("server1", text) == text
    row = {"id": "3", "state": "pending", "why": "waits for 4", "transitions": [{"reason": "dependency 4 failed"}]}
    told = _where.at_home("server1", row)
    assert told["why"] == "waits for server1:4"
    assert told["transitions"] == [{"reason": "dependency server1:4 failed"}]


@pytest.mark.parametrize(("pid", "shown"), [(4711, 4711), (None, None), (-1, None), ("7", None), (True, None)])
def test_the_process_of_a_function_that_runs_is_shown(desk: Desk, pid: Any, shown: int | None) -> None:
    id = desk.submit()
    desk.take("s1")
    assert "pid" not in desk.row(id)
    desk.answer("begun", by="s1", slot="s1", id=id, attempt=1, at=desk.clock, pid=pid)
    assert desk.row(id).get("pid") == shown
    desk.end("s1", (id, 1))
    assert "pid" not in desk.row(id)


def test_what_a_job_needs_stays_for_the_one_that_runs_it_again(desk: Desk) -> None:
    desk.places.workspaces.mkdir(exist_ok=True)
    asked = {"submission": {"kind": "function"}, "count": None}
    first, other = (desk.ask("submit", [b"f", b"1"], key=key * 16, **asked)[0].header["id"] for key in ("ab", "ef"))
    desk.places.workspace_of("ab" * 16).write_text("{}")
    assert desk.answer("rerun", id=first, key="cd" * 16)["known"] is False
    desk.answer("cancel", ids=[first])
    desk.clock += 1
    assert desk.answer("prune", older=0)["ids"] == [first]
    assert desk.places.workspace_of("cd" * 16).read_text() == "{}"
    assert not desk.places.workspace_of("ab" * 16).exists()
    assert desk.answer("rerun", id=other, key="01" * 16)["known"] is False  # it needs none
    assert not desk.places.workspace_of("01" * 16).exists()
