"""The store of jobs on the disk: who may open it, its format, and what is left of a damaged one."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ports import state
from ports.errors import ConflictError, NewerRecordError, StoreError
from ports.jobs import _durable, _submissions
from ports.jobs._database import MIGRATIONS
from ports.jobs._model import JobId, Submission
from ports.jobs._places import LOCK, make_places
from ports.jobs._store import FORMAT, Store
from ports.probe import left, words
from ports.probe.queue import durable
from tests.lab import job_queue
from tests.lab.job_queue import Desk


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    yield tmp_path


def test_the_places_are_private_and_agree(root: Path) -> None:
    places = make_places()
    for path in places.root, places.ids, places.submissions, places.environs, places.runtime, places.leases:
        assert path.stat().st_mode & 0o777 == 0o700, path
    assert places.lock == state.runtime_directory() / f"{LOCK}.lock"
    assert places.work_of(JobId(12, 7)).name == "12.7"
    with state.locked(LOCK, timeout=1):
        assert places.lock.exists()
        with pytest.raises(ConflictError, match="another process has the queue of jobs open"):
            Store.open(places, timeout=0)


def test_the_store_is_durable_and_needs_no_shared_memory(root: Path) -> None:
    desk = Desk(root)
    desk.submit()
    files = {path.name for path in desk.places.root.iterdir() if path.is_file()}
    assert files == {"owner.json", "store.sqlite", "store.sqlite-wal"}
    assert desk.store.path.stat().st_mode & 0o777 == 0o600
    asked = desk.store._database.execute
    assert asked("PRAGMA synchronous").fetchone() == (2,)
    assert asked("PRAGMA journal_mode").fetchone() == ("wal",)
    assert asked("PRAGMA locking_mode").fetchone() == ("exclusive",)
    desk.close()
    assert not (desk.places.root / "store.sqlite-wal").exists()


def test_nobody_else_reads_the_store_while_it_is_open(root: Path) -> None:
    desk = Desk(root)
    desk.submit()
    other = sqlite3.connect(f"file:{desk.store.path}?mode=ro", uri=True, timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("SELECT * FROM submissions")
    other.close()
    desk.close()


def test_a_store_of_a_newer_version_is_refused(root: Path) -> None:
    desk = Desk(root)
    id = desk.submit()
    desk.close()
    with sqlite3.connect(desk.places.store) as database:
        database.execute(f"PRAGMA user_version = {FORMAT + 1}")
    database.close()
    with pytest.raises(NewerRecordError, match="upgrade ports") as caught:
        Store.open(desk.places)
    assert caught.value.exit_code == 7
    with sqlite3.connect(desk.places.store) as database:
        database.execute(f"PRAGMA user_version = {FORMAT}")
    database.close()
    desk.start()
    assert desk.state(id) == "pending"
    desk.close()


@pytest.mark.parametrize("what", ["the middle", "the head", "no database at all", "empty"])
def test_a_damaged_store_is_kept_and_what_can_be_read_is_listed(root: Path, what: str) -> None:
    desk = Desk(root)
    ended, waiting = desk.submit(name="ended"), desk.submit(300, name="waiting", arguments=[b"x" * 500] * 300)
    desk.take("s1", most=1)
    desk.end("s1", (ended, 1), blob=b"42")
    desk.close()
    path = desk.places.store
    content = bytearray(path.read_bytes())
    if what == "the middle":
        for page in range(40, len(content) // 4096):
            content[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    elif what == "the head":
        content[:100] = b"\0" * 100
    elif what == "no database at all":
        content = bytearray(b"hello" * 1000)
    else:
        content = bytearray()
    path.write_bytes(content)
    desk.start()
    aside = sorted(path.name for path in desk.places.root.glob("store.sqlite.corrupt-*"))
    (notice,) = desk.answer("status")["notices"]
    if what == "empty":  # SQLite takes it for a new store
        assert aside == []
        assert "was removed or emptied; 2 ids were given before" in notice
    else:
        assert len(aside) == 1
        assert "was damaged" in notice
        assert aside[0] in notice
        assert (desk.places.root / aside[0]).read_bytes() == content
    if what == "the middle":
        rows = {row["name"]: row for row in desk.answer("list")["rows"]}
        assert rows["ended"]["state"] == "finished"
        assert rows["waiting"]["state"] == "lost"
        assert "damaged" in rows["waiting"]["reason"]
        (reply,) = desk.ask("result", id=ended, wait=0)
        assert reply.blobs == [b"42"]
        assert desk.work() == []
    assert int(desk.submit()) == int(waiting) + 1
    desk.close()


def damage(path: Path) -> bytes:
    """Damage all but the first pages of a store; return what it contains then."""
    content = bytearray(path.read_bytes())
    for page in range(40, len(content) // 4096):
        content[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    path.write_bytes(content)
    return bytes(content)


def test_a_damaged_store_of_a_newer_version_is_not_touched(root: Path) -> None:
    desk = Desk(root)
    desk.submit(300, arguments=[b"x" * 500] * 300)
    desk.close()
    with contextlib.closing(sqlite3.connect(desk.places.store)) as database:
        database.execute(f"PRAGMA user_version = {FORMAT + 1}")
    content = damage(desk.places.store)
    with pytest.raises(NewerRecordError):
        Store.open(desk.places)
    assert desk.places.store.read_bytes() == content
    assert not list(desk.places.root.glob("store.sqlite.corrupt-*"))


def test_a_store_of_the_first_format_goes_on(root: Path) -> None:
    desk = Desk(root)
    desk.close()
    desk.places.store.unlink()
    with contextlib.closing(sqlite3.connect(desk.places.store, isolation_level=None)) as database:
        for statement in MIGRATIONS[0]:
            database.execute(statement)
        values = (1, None, "function", "old", "default", 0, None, "d", '{"kind": "function"}', 5.0)
        row = (*values, None, None, "pending", None, 1, 0, 0, 0, 0, 0)
        database.execute(f"INSERT INTO submissions VALUES ({', '.join('?' * 20)})", row)
        database.execute("INSERT INTO counts VALUES ('pending', 1)")
        database.execute("PRAGMA user_version = 1")
    desk.start()
    assert desk.row("1")["name"] == "old"
    assert desk.answer("cancel", ids=["1"])["n_cancelled"] == 1
    desk.close()


def test_what_is_in_the_log_of_a_damaged_store_is_read_too(root: Path) -> None:
    desk = Desk(root)
    desk.submit(900, name="old", arguments=[b"x" * 500] * 900)
    desk.store._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    newest = desk.submit(name="newest")
    files = {end: desk.places.store.with_name(f"store.sqlite{end}").read_bytes() for end in ("", "-wal")}
    desk.close()  # which puts the log into the store: the resource was killed before that
    for end, content in files.items():
        desk.places.store.with_name(f"store.sqlite{end}").write_bytes(content)
    damage(desk.places.store)
    desk.start()
    rows = {row["id"]: row for row in desk.answer("list")["rows"]}
    assert (rows[newest]["name"], rows[newest]["state"]) == ("newest", "lost")
    assert desk.answer("result", id=newest, wait=0)["state"] == "lost"
    assert [one["state"] for one in desk.row(newest)["transitions"]] == ["pending", "lost"]
    assert len(list(desk.places.root.glob("store.sqlite.corrupt-*"))) >= 1
    desk.close()


def test_a_kill_while_a_damaged_store_is_replaced_loses_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(root)
    ended = desk.submit(name="ended")
    desk.submit(300, name="waiting", arguments=[b"x" * 500] * 300)
    desk.take("s1", most=1)
    desk.end("s1", (ended, 1), blob=b"42")
    desk.close()
    damaged = damage(desk.places.store)

    class Killed(BaseException):
        pass

    def run(n_steps: int) -> bool:
        """Open the store, and die before the `n_steps`th change of a name."""
        steps = 0

        def counted(change: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*arguments: Any, **named: Any) -> Any:
                nonlocal steps
                if any("store.sqlite" in str(one) for one in arguments):
                    steps += 1
                    if steps > n_steps:
                        raise Killed
                return change(*arguments, **named)

            return wrapped

        with monkeypatch.context() as patch:
            for where, name in ((os, "link"), (Path, "rename"), (Path, "unlink")):
                patch.setattr(where, name, counted(getattr(where, name)))
            try:
                Store.open(desk.places).close()
            except Killed:
                return False
        return True

    n_steps = 0
    while True:
        for path in desk.places.root.glob("store.sqlite*"):
            path.unlink()
        desk.places.store.write_bytes(damaged)
        is_over = run(n_steps)
        desk.start()
        rows = {row["name"]: row["state"] for row in desk.answer("list")["rows"]}
        assert rows == {"ended": "finished", "waiting": "lost"}, n_steps
        assert any(path.read_bytes() == damaged for path in desk.places.root.glob("store.sqlite.corrupt-*"))
        desk.close()
        if is_over:
            break
        n_steps += 1
    assert n_steps >= 5


def test_a_queue_of_another_machine_is_refused(root: Path) -> None:
    desk = Desk(root)
    desk.close()
    owner = json.loads(desk.places.owner.read_text())
    desk.places.owner.write_text(json.dumps({**owner, "name": "server2", "boot_id": "another"}))
    with pytest.raises(ConflictError, match="belongs to server2"):
        Store.open(desk.places)
    for known in ({**owner, "boot_id": "before the reboot"}, {**owner, "name": "before-it-was-renamed"}):
        desk.places.owner.write_text(json.dumps(known))
        Store.open(desk.places).close()
        assert json.loads(desk.places.owner.read_text()) == owner
    desk.places.owner.write_text("{")  # half a file, of a disk that was full
    Store.open(desk.places).close()


def test_a_killed_resource_loses_nothing_that_it_answered(root: Path) -> None:
    code = (
        "import os, sys, pathlib; from tests.lab.job_queue import Desk\n"
        f"desk = Desk(pathlib.Path({str(root)!r}))\n"
        "ids = [desk.submit(), desk.submit(3)]; desk.end('s1', *desk.take('s1'))\n"
        "print(*ids, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "1 2\n", done.stderr
    desk = Desk(root)
    assert [desk.state("1"), desk.row("2")["counts"]] == ["finished", {"pending": 3}]
    for _ in range(2):
        desk.key()  # those of the killed one
    assert desk.submit() == "3"
    desk.close()


def test_a_write_replaces_a_file_and_a_failed_one_leaves_it(root: Path) -> None:
    path = root / "file"
    _durable.write(path, b"one")
    _durable.write(path, b"two")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"two", 0o600)
    assert not _durable.create(path, b"three")
    assert path.read_bytes() == b"two"
    with pytest.raises(StoreError):
        _durable.write(root / "none" / "file", b"")
    assert sorted(one.name for one in root.iterdir()) == ["file"]


def test_eight_processes_reserve_different_ids(root: Path) -> None:
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.extend(_durable.reserve(root, 0) for _ in range(20))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(1, 161))
    assert sorted(_durable.numbers(root)) == sorted(found)


def test_a_submission_file_survives_every_place_where_its_client_dies(root: Path) -> None:
    places = make_places()
    spec, key = Submission(kind="function"), "ab" * 16

    class Killed(BaseException):
        pass

    def run(n_steps: int) -> bool:
        """Leave a submission, and die at the `n_steps`th write."""
        steps = 0
        steps_of = {module: module.sync_directory for module in (durable, left)}
        write, create = left.write_durably, left.create_durably

        def counted(do: Any) -> Any:
            def step(*arguments: Any) -> Any:
                nonlocal steps
                steps += 1
                if steps > n_steps:
                    raise Killed
                return do(*arguments)

            return step

        left.write_durably, left.create_durably = counted(write), counted(create)
        for module, sync in steps_of.items():
            module.sync_directory = counted(sync)
        try:
            job_queue.leave(places, key, spec, [b"f", b""])
        except Killed:
            return False
        finally:
            left.write_durably, left.create_durably = write, create
            for module, sync in steps_of.items():
                module.sync_directory = sync
        return True

    numbers = [number for number in range(20) if run(number)]
    assert numbers[0] > 2
    lefts = list(_submissions.read(places))
    assert len(lefts) == 1
    assert job_queue.leave(places, key, spec, [b"f", b""]) == JobId(lefts[0].number)


def test_a_submission_that_is_too_large_leaves_nothing(root: Path) -> None:
    places = make_places()
    with pytest.raises(words.Refused, match="key"):
        job_queue.leave(places, "x", Submission(kind="function"), [b"f", b""])
    with pytest.raises(words.Refused, match="too large"):
        job_queue.leave(places, "ab" * 16, Submission(kind="function"), [b""] * 100_002, count=100_001)
    assert list(_submissions.read(places)) == []


def test_only_the_newest_ids_keep_their_directory(root: Path) -> None:
    places = make_places()
    for number in range(1, 301):
        (places.ids / str(number)).mkdir()
    _submissions.tidy(places)
    assert min(_durable.numbers(places.ids)) == 45
    assert job_queue.leave(places, "ab" * 16, Submission(kind="function"), [b"f", b""]) == JobId(301)
