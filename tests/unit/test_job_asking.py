"""What people ask of jobs on this machine while no compute resource runs."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ports.errors import ConflictError, NotFoundError, StoreError
from ports.jobs import _asking, _client, _places, _resource, _scripts
from ports.jobs._model import Capacity, LeaseState
from ports.jobs._store import Store
from ports.jobs._turn import Queue, Request
from ports.probe import left

FOUR = Capacity(cpus=4)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextlib.contextmanager
def resource() -> Iterator[Any]:
    """A resource for a moment; yields a function that asks it."""
    store = Store.open(_places.make_places())
    queue = Queue(store, capacity=FOUR, is_alive=lambda _: LeaseState(None))

    def ask(op: str, blobs: Any = (), **fields: Any) -> dict[str, Any]:
        return next(one.header for one in queue.turn([Request("x", {"op": op, "n": 1, **fields}, blobs)]))

    try:
        queue.tick()
        yield ask
    finally:
        store.close()


def submit(**options: Any) -> str:
    return str(_asking.submit_script(_scripts.describe(["true"], **options), start=False))


def environs() -> list[str]:
    return sorted(path.name for path in _places.here().environs.iterdir())


def test_a_look_without_a_resource_refuses_no_job(home: Path) -> None:
    wide = submit(cpus=4, memory="3GB")
    for _ in range(2):
        rows, counts = _asking.list_jobs()
        assert [(row["id"], row["state"]) for row in rows] == [(wide, "pending")] and counts["pending"] == 1
    assert _asking.show(wide)["why"] == "no compute resource runs here; `ports resource start` goes on"
    with resource() as ask:
        assert ask("show", id=wide)["row"]["state"] == "pending"
        assert ask("show", id=wide)["row"]["asked"]["needs"]["cpus"] == 4


def test_a_script_left_without_cpus_gets_those_of_the_resource(home: Path) -> None:
    id = submit()
    assert _asking.show(id)["asked"]["needs"]["whole"] is True
    with resource() as ask:
        assert ask("show", id=id)["row"]["asked"]["needs"]["cpus"] == FOUR.cpus


def test_an_interrupted_submit_leaves_a_queued_job_whole(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = left.create_durably

    def then_interrupted(path: str, data: bytes) -> bool:
        create(path, data)
        raise KeyboardInterrupt

    monkeypatch.setattr(left, "create_durably", then_interrupted)
    with pytest.raises(KeyboardInterrupt):
        submit()
    ((row,), _) = _asking.list_jobs()
    assert row["state"] == "pending" and len(environs()) == 1
    assert environs() == sorted(path.name for path in _places.here().submissions.iterdir())


def test_a_submit_interrupted_before_it_was_sent_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_resource, "connect", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _asking.submit_script(_scripts.describe(["true"]))
    assert environs() == [] and _asking.list_jobs()[0] == []


def test_a_refused_submit_leaves_no_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: str, data: bytes) -> bool:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    monkeypatch.setattr(left, "create_durably", full)
    with pytest.raises(StoreError, match="No space left on device; free space there"):
        submit()
    assert environs() == []


def test_a_submission_that_is_repeated_after_a_resource_ended_is_one_job(home: Path) -> None:
    script = _scripts.describe(["true"])
    asked = {"key": "ab" * 16, "submission": script.submission.to_json(), "count": None}
    with resource() as ask:
        first = ask("submit", [script.blob("ab" * 16)], **asked)
    again = _asking.ask("submit", [script.blob("ab" * 16)], **asked)
    assert (again["id"], again["known"]) == (first["id"], True)
    assert len(_asking.list_jobs()[0]) == 1


def test_a_job_cancelled_without_a_resource_is_cancelled_for_good(home: Path) -> None:
    one, two = submit(), submit()
    assert _asking.cancel([one]) == {"cancelled": [one], "ending": [], "ended_already": []}
    (row,) = _asking.wait([one], within=0)
    assert (row["state"], row["reason"]) == ("cancelled", "you cancelled it")
    with resource() as ask:
        assert ask("show", id=one)["row"]["state"] == "cancelled"
        assert ask("show", id=one)["row"]["reason"] == "you cancelled it"
        assert ask("show", id=two)["row"]["state"] == "pending"
    assert len(environs()) == 1
    with pytest.raises(NotFoundError, match="no job '9'"):
        _asking.cancel(["9", two])
    assert _asking.show(two)["state"] == "pending"


def test_prune_without_a_resource_keeps_what_a_left_job_waits_for(home: Path) -> None:
    first, second = submit(), submit()
    with resource() as ask:
        ask("cancel", ids=[first, second])
    third = submit(after=[first])
    assert _asking.prune(older=0, dry_run=True)["removed"] == [second]
    assert _asking.prune(older=0)["removed"] == [second]
    assert [row["id"] for row in _asking.list_jobs()[0]] == [third, first]
    assert [path.name for path in _places.here().submissions.iterdir()] != []  # it was not taken in


def test_a_queue_of_another_machine_is_refused_at_once(home: Path) -> None:
    submit()
    _places.here().owner.write_text('{"format": 1, "name": "server2", "boot_id": "another"}')
    with pytest.raises(ConflictError, match="belongs to server2"):
        _asking.list_jobs()


def test_nothing_is_made_by_a_look_where_nothing_was_submitted(home: Path) -> None:
    assert _asking.list_jobs()[0] == []
    assert not (home / "state" / "hosts").exists()
    assert _asking.prune()["removed"] == []


def refusing(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Let no resource take anything; return whether each one was asked to start for a job."""
    told: list[bool] = []

    def connect(*, for_a_job: bool) -> Any:
        told.append(for_a_job)
        raise StoreError("queue", "it is full")

    monkeypatch.setattr(_resource, "connect", connect)
    return told


@pytest.mark.parametrize(("options", "begins"), [({}, True), ({"after": ["1"]}, False), ({"at": "2h"}, False)])
def test_a_cluster_starts_early_only_for_a_job_that_can_begin(
    home: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], begins: bool
) -> None:
    submit()
    told = refusing(monkeypatch)
    with pytest.raises(StoreError):
        _asking.submit_script(_scripts.describe(["true"], **options))
    assert told == [begins]


@pytest.mark.parametrize(("op", "begins"), [("submit", True), ("cancel", False), ("result", False)])
def test_a_cluster_starts_early_for_no_question(
    home: Path, monkeypatch: pytest.MonkeyPatch, op: str, begins: bool
) -> None:
    told = refusing(monkeypatch)
    with pytest.raises(StoreError):
        _client.ask(op)
    assert told == [begins]
