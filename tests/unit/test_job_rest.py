"""The queue where no resource runs: what it shows, what is left for the next one, and what it says where it cannot."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ports import errors, state
from ports.jobs import _store
from ports.jobs._places import LOCK
from ports.probe import left, places, rest, words
from tests.lab.job_queue import Desk


@pytest.fixture
def own(desk: Desk) -> Desk:
    """A queue whose resource has ended."""
    desk.store.close()
    return desk


def ask(desk: Desk, op: str, blobs: Any = (), **fields: Any) -> Any:
    """Ask the queue at rest; return header, blobs and whether that is all."""
    runtime, root = str(state.runtime_directory()), str(desk.places.root)
    return rest.answered(
        {"op": op, **fields}, blobs, lambda question, is_lenient: rest.look(root, runtime, question, is_lenient)
    )


def told(desk: Desk, op: str, blobs: Any = (), **fields: Any) -> Any:
    return ask(desk, op, blobs, **fields)[0]


def refusal(desk: Desk, op: str, blobs: Any = (), **fields: Any) -> words.Refused:
    with pytest.raises(words.Refused) as caught:
        ask(desk, op, blobs, **fields)
    return caught.value


def submitted(desk: Desk, count: int | None = None, key: str = "ab" * 16, **spec: Any) -> str:
    blobs = [b"f", *(b"%d" % index for index in range(1 if count is None else count))]
    return str(told(desk, "submit", blobs, key=key, count=count, submission={"kind": "function", **spec})["id"])


def work_of_a_day(desk: Desk) -> list[str]:
    """Let jobs come to each state; return their ids."""
    first = desk.submit(name="fit", tags={"night": "1"}, priority=2)
    many = desk.submit(4, queue="long")
    desk.end("s1", (first, desk.take("s1")[0][1]), peak_memory=5, cpu_time=0.5, note={"cache": "stored"})
    jobs = [desk.take("s1", most=1)[0] for _ in range(1)]
    desk.end("s1", jobs[0], state="error", blob=b"E", error={"type": "ValueError", "text": "no"})
    (second,) = desk.take("s1", most=1)
    desk.answer("begun", by="s1", slot="s1", id=second[0], attempt=1, at=desk.clock)
    waits = desk.submit(after=[many], name="fit")
    gone = desk.submit()
    desk.answer("cancel", ids=[gone])
    large = desk.submit(function=os.urandom(70_000), priority=9)
    (got,) = desk.take("s2", most=1)
    desk.end("s2", got, blob=b"r" * 70_000)
    desk.queue.tick()
    return [first, many, *(f"{many}.{item}" for item in range(4)), waits, gone, large]


def without(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("why", "worker", "process", "n")}


def test_a_queue_at_rest_shows_what_its_resource_showed(desk: Desk) -> None:
    ids = work_of_a_day(desk)
    filters: list[dict[str, Any]] = [{}, {"state": "pending"}, {"name": "fit"}, {"tag": "night"}, {"tag": "night=2"}]
    filters += [{"queue": "long"}, {"before": ids[-2]}, {"state": "cancelled", "name": ""}]
    shown = [without(desk.row(id)) for id in ids]
    lists = [[without(row) for row in desk.answer("list", filters=one)["rows"]] for one in filters]
    counts, newest = desk.answer("list")["counts"], without(desk.answer("list", newest=1)["rows"][0])
    results = [desk.ask("result", id=id, wait=0)[0] for id in ids if id != ids[1]]
    many = desk.ask("result", id=ids[1], wait=0)[0]
    desk.store.close()
    assert [without(told(desk, "show", id=id)["row"]) for id in ids] == shown
    assert [[without(row) for row in told(desk, "list", filters=one)["rows"]] for one in filters] == lists
    assert told(desk, "list")["counts"] == told(desk, "status")["counts"] == counts
    assert [without(row) for row in told(desk, "list", newest=1)["rows"]] == [newest]
    for id, expected in zip([id for id in ids if id != ids[1]], results, strict=True):
        header, blobs, _ = ask(desk, "result", id=id, wait=0)
        assert (without(header), list(blobs)) == (without(expected.header), list(expected.blobs)), id
    header, blobs, is_over = ask(desk, "result", id=ids[1], wait=0)
    assert (header["indices"], header["states"], list(blobs)) == (
        many.header["indices"],
        many.header["states"],
        many.blobs,
    )
    assert not is_over and header["next"] == 1
    desk.start()


def test_looking_changes_nothing_and_refuses_nothing(own: Desk) -> None:
    """Submissions that this machine may never run wait for the resource, which knows what it has."""
    id = submitted(own, needs={"cpus": 4, "gpus": 2, "memory": 2**33})
    for _ in range(2):
        (row,) = told(own, "list")["rows"]
        assert (row["id"], row["state"], row["why"]) == (id, "pending", rest.NO_RESOURCE)
    assert told(own, "show", id=id)["row"]["asked"]["needs"]["cpus"] == 4
    files = {path.name for path in own.places.root.iterdir()}
    assert "store.sqlite-shm" not in files
    own.start()
    own.queue.tick()
    assert own.state(id) == "pending"


def test_a_key_gets_the_same_id_whoever_took_it_in(own: Desk) -> None:
    assert submitted(own) == submitted(own) == "1"
    own.start()
    own.queue.tick()
    other = own.answer("submit", [b"f", b"x"], key="cd" * 16, submission={"kind": "function"}, count=None)["id"]
    own.store.close()
    assert (submitted(own), submitted(own, key="cd" * 16)) == ("1", other)
    own.start()
    own.queue.tick()
    assert own.answer("status")["counts"]["pending"] == 2


def test_a_cancelled_job_of_a_queue_at_rest_never_begins(desk: Desk) -> None:
    kept, many = desk.submit(), desk.submit(3)
    ran = desk.submit()
    desk.end("s1", *[one for one in desk.take("s1") if one[0] == kept])
    desk.restart()
    desk.store.close()
    new = submitted(desk, 2)
    assert told(desk, "cancel", ids=[f"{many}.1", new, ran, kept], reason="no need") == {
        "cancelled": [f"{many}.1", new, ran],
        "ending": [],
        "ended_already": [kept],
        "n_cancelled": 4,
        "at_rest": True,
    }
    shown = {row["id"]: (row["state"], row["counts"]) for row in told(desk, "list")["rows"]}
    assert shown == {
        kept: ("finished", {"finished": 1}),
        many: ("pending", {"pending": 2, "cancelled": 1}),
        ran: ("cancelled", {"cancelled": 1}),
        new: ("cancelled", {"cancelled": 2}),
    }
    assert [row["id"] for row in told(desk, "list", filters={"state": "cancelled"})["rows"]] == [new, ran]
    counts = told(desk, "list")["counts"]
    assert (counts["pending"], counts["cancelled"]) == (2, 4)
    row = told(desk, "show", id=f"{many}.1")["row"]
    assert (row["state"], row["reason"], row["transitions"][-1]["state"]) == ("cancelled", "no need", "cancelled")
    assert told(desk, "cancel", ids=[f"{many}.1"])["ended_already"] == [f"{many}.1"]
    desk.start()
    desk.queue.tick()
    assert desk.work() == [f"{many}.0", f"{many}.2"]
    assert {**desk.answer("status")["counts"]} == {**counts, "pending": 0, "finished": counts["finished"] + 2}
    assert desk.row(ran)["reason"] == "no need"
    assert list(desk.places.submissions.iterdir()) == []


def test_jobs_run_again_from_a_queue_at_rest(desk: Desk) -> None:
    many = desk.submit(3, tags={"a": "b"}, retries={"failure": 2})
    large = desk.submit(function=os.urandom(70_000), arguments=[b"x" * 70_000])
    desk.work()
    desk.store.close()
    left_one = submitted(desk, 2)
    ids = [told(desk, "rerun", id=id)["id"] for id in (f"{many}.2", many, large, f"{left_one}.1")]
    desk.start()
    desk.queue.tick()
    replies = desk.claim("s1", most=1), desk.claim("s2", most=64)
    assert desk.row(ids[0])["tags"] == {"a": "b"} and desk.row(ids[1])["count"] == 3
    assert replies[0][0].header["jobs"][0]["id"] == f"{left_one}.0"
    del replies
    kept = {id: desk.store.arguments([_store.pack(int(id), 0)])[_store.pack(int(id), 0)] for id in (ids[0], ids[3])}
    assert kept == {ids[0]: b"2", ids[3]: b"1"}
    assert desk.store.submission(int(ids[2])).digest == desk.store.submission(int(large)).digest  # type: ignore[union-attr]


def test_a_rerun_at_rest_whose_answer_was_lost_makes_no_second_job(desk: Desk) -> None:
    id = desk.submit(3)
    known = desk.answer("rerun", id=id, key="b" * 32)["id"]
    desk.store.close()
    made = [told(desk, "rerun", id=id, key="a" * 32)["id"] for _ in range(2)]
    assert made[0] == made[1] and told(desk, "rerun", id=id)["id"] not in made
    assert told(desk, "rerun", id=id, key="b" * 32)["id"] == known
    desk.start()
    desk.queue.tick()
    assert desk.answer("rerun", id=id, key="a" * 32)["id"] == made[0]


def test_what_a_job_needs_stays_for_a_rerun_at_rest(desk: Desk) -> None:
    desk.places.workspaces.mkdir(exist_ok=True)
    asked = {"submission": {"kind": "function"}, "count": None}
    first = desk.ask("submit", [b"f", b"1"], key="ab" * 16, **asked)[0].header["id"]
    plain = desk.ask("submit", [b"f", b"1"], key="ef" * 16, **asked)[0].header["id"]
    desk.places.workspace_of("ab" * 16).write_text("{}")
    desk.answer("cancel", ids=[first])
    desk.store.close()
    left = told(desk, "rerun", id=first, key="cd" * 16)["id"]
    told(desk, "rerun", id=left, key="0a" * 16)
    told(desk, "rerun", id=plain, key="0b" * 16)
    desk.start()
    desk.clock += 1
    assert desk.answer("prune", older=0)["ids"] == [first]
    desk.queue.tick()
    found = sorted(path.name for path in desk.places.workspaces.iterdir())
    assert found == ["0a" * 16, "cd" * 16]


def test_a_result_of_a_map_that_was_cancelled_at_rest_is_whole(desk: Desk) -> None:
    many = desk.submit(3)
    desk.end("s1", desk.take("s1", most=1)[0])
    desk.restart()
    desk.store.close()
    told(desk, "cancel", ids=[many])
    header, blobs, is_over = ask(desk, "result", id=many, wait=0)
    assert (header["indices"], header["states"], is_over) == ([0, 1, 2], ["finished", "cancelled", "cancelled"], True)
    assert list(blobs) == [b"r", b"", b""]
    desk.start()
    desk.queue.tick()
    assert desk.ask("result", id=many, wait=0)[0].header["indices"] == [0, 1, 2]


def test_half_a_submission_file_is_no_job_and_is_said(own: Desk) -> None:
    id = submitted(own)
    (path,) = own.places.submissions.iterdir()
    whole = path.read_bytes()
    for cut in (0, 5, 40, len(whole) - 1):
        path.write_bytes(whole[:cut])
        found = told(own, "list")
        assert found["rows"] == [] and "a submission cannot be read: it is damaged" in found["notices"][0], cut
        assert refusal(own, "show", id=id).kind == "NotFoundError"
    (own.places.submissions / ("e" * 32)).write_bytes(b"PJ01" + b"\xff" * 8)
    assert len(told(own, "status")["notices"]) == 2


def test_a_damaged_store_names_the_way_out_and_takes_submissions(desk: Desk) -> None:
    desk.submit(2000)
    desk.store.close()
    with desk.places.store.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(64 * 1024))
    refused = refusal(desk, "list")
    assert refused.kind == "BrokenRecordError" and refused.told()["exit_code"] == 7
    assert "is damaged" in refused.text and "`ports resource start` keeps it aside" in refused.text
    assert submitted(desk) == "2"
    desk.start()
    desk.queue.tick()
    assert desk.state("2") == "pending"


def test_a_store_of_a_newer_format_is_refused_with_exit_code_7(own: Desk) -> None:
    database = sqlite3.connect(own.places.store)
    database.execute("PRAGMA user_version = 99")
    database.close()
    refused = refusal(own, "list")
    assert (refused.kind, refused.told()["exit_code"]) == ("NewerRecordError", 7)
    assert "format 99" in refused.text and "pip install --upgrade ports" in refused.text


def test_a_queue_of_another_machine_is_not_looked_at(own: Desk) -> None:
    own.places.owner.write_text('{"format": 1, "name": "server2", "boot_id": "another"}')
    refused = refusal(own, "list")
    assert refused.kind == "ConflictError" and "belongs to server2; use its jobs there" in refused.text
    own.places.owner.unlink()


def test_a_lock_that_a_starting_resource_holds_is_said(own: Desk) -> None:
    with state.locked(LOCK, timeout=1):
        refused = refusal(own, "list")
    assert isinstance(refused, words.Busy) and "try again in a moment" in refused.text


@pytest.mark.parametrize(
    ("number", "way"),
    [(errno.ENOSPC, "ports job prune"), (errno.EROFS, "mount it for writing"), (errno.EACCES, "set PORTS_HOME")],
    ids=["full", "read-only", "not yours"],
)
def test_a_disk_that_refuses_a_submission_names_the_way_out(
    own: Desk, monkeypatch: pytest.MonkeyPatch, number: int, way: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(left, "write_durably", fail)
    refused = refusal(own, "submit", [b"f", b""], key="ab" * 16, count=None, submission={"kind": "function"})
    assert refused.kind == "StoreError" and os.strerror(number) in refused.text and way in refused.text


@pytest.mark.parametrize(
    ("op", "fields", "text"),
    [
        ("list", {"newest": 0}, "newest: 0 is no whole number from 1 to 1000"),
        ("list", {"newest": True}, "newest: True is no whole number"),
        ("list", {"filters": []}, "filters: list is no object"),
        ("list", {"filters": {"colour": "red"}}, "filters: 'colour' is unknown"),
        ("list", {"filters": {"state": "asleep"}}, "filters.state: 'asleep' is none of"),
        ("list", {"filters": {"name": 3}}, "filters.name: 3 is no text"),
        ("list", {"filters": {"before": "x"}}, "'x' is not the id of a job"),
        ("show", {}, "None is not the id of a job"),
        ("show", {"id": "1.2.3"}, "is not the id of a job"),
        ("show", {"id": "7"}, "no job '7'"),
        ("cancel", {"ids": []}, "ids: list is no list of ids"),
        ("cancel", {"ids": ["7"]}, "no job '7'"),
        ("cancel", {"ids": ["1"], "reason": "a\nb"}, "reason: 'a\\nb' is no text"),
        ("watch", {"ids": "1"}, "ids: '1' is no list of ids"),
        ("submit", {"key": "x", "submission": {}}, "key: 'x' is not 32 hexadecimal digits"),
        ("submit", {"key": "a" * 32, "submission": 3}, "submission: 3 is no object"),
        ("drain", {}, "'drain' needs one; `ports resource start` starts one"),
        ([], {}, "list needs one"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bad_requests_to_a_queue_at_rest_are_refused_in_words(
    own: Desk, op: Any, fields: dict[str, Any], text: str
) -> None:
    submitted(own)
    assert text in refusal(own, op, **fields).text


def test_errors_at_rest_are_errors_of_ports() -> None:
    for kind, code in words.EXIT_CODES.items():
        assert getattr(errors, kind).exit_code == code


def test_the_words_of_both_sides_are_the_same() -> None:
    from ports.jobs import _model, _places

    assert (words.STATES, words.ENDED, words.WORST_FIRST) == (_model.STATES, _model.ENDED, _model.WORST_FIRST)
    assert words.MOST_JOBS == _model.MOST_JOBS and rest.STORE_FORMAT >= _store.FORMAT
    assert f"{_places.LOCK}.lock" == places.QUEUE_LOCK
    assert all(_store.pack(5, 7) == words.pack(5, 7) for _ in "1") and words.unpack(words.pack(5, 7)) == (5, 7)


def script_that_runs(desk: Desk, **spec: Any) -> str:
    id = desk.submit(arguments=[], kind="script", script={"argv": ["true"]}, **spec)
    (job,) = desk.take("s1", most=1)
    process, lease = {"machine": "x"}, f"job-{id}-1"
    told = desk.answer(
        "started", by="s1", slot="s1", id=id, attempt=job[1], at=desk.clock, process=process, lease=lease
    )
    assert "error" not in told, told
    return id


@pytest.mark.parametrize(
    ("noted", "state", "said"),
    [
        ({"status": 0, "size": 4096}, "finished", None),
        ({"ended": "cancel", "reason": "you cancelled it"}, "cancelled", "you cancelled it"),
        ({"status": 3}, "running", "it has ended (exit status 3); whether it is tried again"),
        ({"signal": 9}, "running", "it has ended (signal 9 (SIGKILL))"),
        ({"status": 0, "attempt": 7}, "running", None),
        (None, "running", None),
    ],
    ids=["finished", "cancelled", "failed", "killed", "another attempt", "runs"],
)
def test_a_script_that_ended_without_a_resource_is_shown_as_it_ended(
    desk: Desk, noted: dict[str, Any] | None, state: str, said: str | None
) -> None:
    id = script_that_runs(desk)
    desk.store.close()
    work = desk.places.work / id
    work.mkdir()
    (work / "progress.json").write_text('{"attempt": 1, "done": 3, "total": 4}')
    if noted is not None:
        (work / "exit.json").write_text(json.dumps({"attempt": 1, "ended_at": 5.0, **noted}))
    row = told(desk, "show", id=id)["row"]
    assert row["state"] == state and (said or "") in (row.get("reason") or row.get("why") or "")
    assert told(desk, "list")["counts"][state] == 1 and sum(told(desk, "list")["counts"].values()) == 1
    assert [one["id"] for one in told(desk, "list", filters={"state": state})["rows"]] == [id]
    assert ask(desk, "result", id=id, wait=None)[2] == (state != "running")
    assert told(desk, "status")["running_scripts"] == ([id] if state == "running" else [])
    if noted is not None and "size" in noted:
        assert row["note"]["size"] == told(desk, "list")["rows"][0]["note"]["size"] == 4096
    if noted is None:
        assert row["progress"] == {"done": 3, "total": 4}


def test_a_notice_of_a_job_is_shown_at_rest(desk: Desk) -> None:
    id = desk.submit(notify=True)
    desk.work()
    desk.store.close()
    (desk.places.root / "notices").mkdir()
    (desk.places.root / "notices" / id).write_text('{"at": 1.0, "answers": [], "failed": null}')
    assert told(desk, "show", id=id)["row"]["notice"]["at"] == 1.0
    (desk.places.root / "notices" / id).write_text('{"at": 1.')
    assert "notice" not in told(desk, "show", id=id)["row"]


def test_a_submission_that_is_left_says_how_old_it_is(own: Desk) -> None:
    """A lifetime counts from here on, whatever happens to the clock on the wall."""
    from ports.jobs._clocks import Clocks

    submitted(own, lifetime=60)
    (one,) = left.read_left(str(own.places.root))
    clocks = Clocks()
    assert abs(clocks.real_at(one.header["stamp"], 0.0) - clocks.real()) < 20
    assert abs(clocks.monotonic_at(one.header["stamp"], 0.0) - clocks.monotonic()) < 20


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["1", "2", "2.1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("id", "ids", "newest", "filters", "wait", "from", "key", "count", "submission", "reason")


@given(
    op=st.sampled_from(["list", "show", "result", "status", "watch", "cancel", "submit", "rerun"]),
    fields=st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=5),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_whatever_is_asked_of_a_queue_at_rest_is_answered_or_refused(
    own: Desk, op: str, fields: dict[str, Any]
) -> None:
    if not list(own.places.submissions.iterdir()):
        submitted(own)
        submitted(own, 3, key="cd" * 16)
    with contextlib.suppress(words.Refused):
        ask(own, op, [b"f", b"x"], **{"id": "2", **fields})
    assert told(own, "list")["rows"]


@pytest.mark.parametrize("kind", ["fifo", "directory", "link", "socket"])
def test_what_is_no_file_among_submissions_holds_nobody(own: Desk, kind: str) -> None:
    id = submitted(own)
    path = own.places.submissions / ("c" * 32)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("/etc/passwd")
    else:
        with socket.socket(socket.AF_UNIX) as one:
            monkey = os.open(own.places.submissions, os.O_RDONLY)
            one.bind(f"/proc/self/fd/{monkey}/{path.name}")
            os.close(monkey)
    found = told(own, "list")
    assert [row["id"] for row in found["rows"]] == [id]
    assert len(found["notices"]) == (0 if kind == "directory" else 1)


def test_no_id_is_given_twice_where_the_ids_were_removed(desk: Desk) -> None:
    """They are files and directories without content, so that somebody takes them for rubbish."""
    ids = [desk.submit() for _ in range(3)]
    desk.store.close()
    shutil.rmtree(desk.places.ids)
    assert int(submitted(desk)) > max(map(int, ids))
    desk.start()
    desk.queue.tick()
    assert desk.answer("status")["counts"]["pending"] == 4


def test_an_id_of_what_was_left_is_not_given_again_without_the_ids(own: Desk) -> None:
    first = submitted(own)
    shutil.rmtree(own.places.ids)
    second = submitted(own, key="cd" * 16)
    assert int(second) > int(first)
    assert own.places.ids.joinpath(second, "key").read_text() == "cd" * 16
    own.places.store.write_bytes(b"SQLite format 3\0" + b"x" * 5000)  # a store that cannot be read knows none either
    shutil.rmtree(own.places.ids)
    assert int(submitted(own, key="ef" * 16)) > int(second)


def test_a_resource_gives_no_id_of_what_was_left_without_the_ids(own: Desk) -> None:
    left = submitted(own)
    shutil.rmtree(own.places.ids)
    own.places.ids.mkdir()
    own.start()
    new = own.submit(name="new")
    own.queue.tick()
    assert new != left
    assert {row["id"]: row["name"] for row in own.answer("list")["rows"]} == {left: "", new: "new"}
    assert own.store.notices == []


def test_a_resource_goes_on_where_the_ids_were_removed(desk: Desk) -> None:
    ids = [desk.submit() for _ in range(3)]
    shutil.rmtree(desk.places.ids)
    ids += [desk.submit() for _ in range(40)]  # more than were reserved ahead
    assert len(set(ids)) == 43 and desk.places.ids.stat().st_mode & 0o777 == 0o700
    desk.store._held.close()  # killed
    desk.start()
    assert desk.submit() not in ids


def test_a_submission_whose_id_is_taken_gets_another_one(desk: Desk) -> None:
    desk.store.close()
    id = submitted(desk)
    (left,) = desk.places.submissions.iterdir()
    kept = left.read_bytes()
    left.unlink()
    shutil.rmtree(desk.places.ids)
    desk.places.ids.mkdir()
    desk.start()
    assert desk.submit(name="other") == id
    left.write_bytes(kept)
    desk.restart()
    desk.queue.tick()
    rows = desk.answer("list")["rows"]
    assert [row["state"] for row in rows] == ["pending"] * 2 and len({row["id"] for row in rows}) == 2
    assert f"submission {id} is job {rows[0]['id']}" in " ".join(desk.store.notices)
    assert list(desk.places.submissions.iterdir()) == []


def test_a_link_to_a_submission_elsewhere_is_none(own: Desk, tmp_path: Path) -> None:
    id = submitted(own)
    (path,) = own.places.submissions.iterdir()
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert [row["id"] for row in told(own, "list")["rows"]] != [id]
    assert len(told(own, "list")["notices"]) == 1


def test_what_a_killed_resource_wrote_last_is_shown(own: Desk) -> None:
    """It is in the log beside the store, which nobody has checkpointed."""
    pid = os.fork()
    if pid == 0:
        try:
            own.start()
            own.submit(name="last")
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert (own.places.root / "store.sqlite-wal").stat().st_size
    assert [row["name"] for row in told(own, "list")["rows"]] == ["last"]


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk of its own, with a queue of one job."""
    if os.geteuid() != 0:
        pytest.skip("a disk of its own needs root")
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", str(path)], check=True)
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    one = Desk(path)
    one.submit(name="first")
    one.close()
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def asked(disk: Path, op: str, blobs: Any = (), **fields: Any) -> Any:
    runtime, root = str(state.runtime_directory()), str(disk / "jobs")
    look = lambda question, is_lenient: rest.look(root, runtime, question, is_lenient)  # noqa: E731
    return rest.answered({"op": op, **fields}, blobs, look)[0]


SUBMIT: dict[str, Any] = {"key": "ab" * 16, "count": None, "submission": {"kind": "function"}}


def test_a_queue_on_a_full_disk_is_shown_and_takes_nothing(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "others").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    assert [row["name"] for row in asked(disk, "list")["rows"]] == ["first"]
    for op, fields in (("submit", SUBMIT), ("cancel", {"ids": ["1"]})):
        with pytest.raises(words.Refused, match=r"No space left on device; free space there"):
            asked(disk, op, [b"f", b"x"], **fields)
    assert [row["state"] for row in asked(disk, "list")["rows"]] == ["pending"]
    (disk / "others").unlink()
    assert asked(disk, "submit", [b"f", b"x"], **SUBMIT)["known"] is False


def test_a_queue_on_a_disk_that_can_only_be_read_is_shown(disk: Path) -> None:
    remount = ["mount", "-o"]
    subprocess.run([*remount, "remount,ro", str(disk)], check=True)
    try:
        assert [row["name"] for row in asked(disk, "list")["rows"]] == ["first"]
        with pytest.raises(words.Refused, match=r"Read-only file system; that disk can only be read: mount it for"):
            asked(disk, "submit", [b"f", b"x"], **SUBMIT)
    finally:
        subprocess.run([*remount, "remount,rw", str(disk)], check=True)
