"""What `scale` and `adapt` ask of a cluster, on a machine whose free memory the tests say."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ports.clusters import _scheduler
from ports.errors import OverpromisedError
from ports.machine import fair_share
from ports.machine.fair_share import Other
from ports.state import records
from tests.unit.test_owner import recorded

GIB = 1 << 30
DIVIDES = {"n_workers": 1, "threads_per_worker": 1, "memory_limit": 8 * GIB}
DIVIDES |= {"divided_bytes": 8 * GIB, "most_memory": 8 * GIB}
ASKED: dict[str, Any] = {"n_workers": 1, "threads_per_worker": 1, "memory_limit": GIB, "memory_typed": "1GiB"}
BOB = Other(user="bob", memory_bytes=20 * GIB)


class Asked:
    """A running cluster; keeps what its scheduler was asked for."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch, *, available: int, answer: Any = True) -> None:
        room = fair_share.Room(cores=8, memory_bytes=32 * GIB, available_bytes=available, others=(BOB,))
        monkeypatch.setattr(_scheduler.machine, "room", lambda **_: room)
        monkeypatch.setattr(_scheduler, "with_promises", lambda _: ())
        monkeypatch.setattr(_scheduler, "_call", self.call)
        self.path, self.arguments, self.answer = path, dict[str, Any](), answer

    def call(self, now: Any, operation: str, **arguments: Any) -> Any:
        self.arguments = arguments
        return self.answer

    def cluster(self, record: dict[str, Any], **summary: int) -> Any:
        running = SimpleNamespace(process=SimpleNamespace(pid=1))
        made = {"record": recorded(**record), "name": "main", "running": running, "summary": summary}
        files = SimpleNamespace(record=self.path / "record.json")
        return SimpleNamespace(refresh=lambda: None, found=SimpleNamespace(files=files), **made)

    def written(self) -> Any:
        return records.read(self.path / "record.json", _scheduler.ClusterRecord)


def test_a_scaled_cluster_divides_what_is_free_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(tmp_path, monkeypatch, available=3 * GIB)
    resting = asked.cluster(DIVIDES, memory_limit_bytes=0, memory_bytes=0)
    with pytest.warns(match="4 workers × 768.0 MiB, of the 8.0 GiB of this cluster; others have taken the rest"):
        _scheduler.scale(resting, 4, force=None)
    assert asked.arguments == {"n_workers": 4, "memory_limit": 768 << 20}
    holding = asked.cluster(DIVIDES, n_asked=1, memory_limit_bytes=2 * GIB, memory_bytes=GIB)
    with pytest.warns(match="4 workers × 1.0 GiB"):
        _scheduler.scale(holding, 4, force=None)  # what it holds is not free, and its own
    whole = asked.cluster(DIVIDES, n_asked=1, memory_limit_bytes=8 * GIB, memory_bytes=GIB)
    with pytest.warns(match="4 workers × 2.0 GiB, of the 8.0 GiB of this cluster$"):
        _scheduler.scale(whole, 4, force=None)  # what it is promised already is not taken from it
    with pytest.warns(match="4 workers × 2.0 GiB"):
        _scheduler.scale(resting, 4, force=True)


def test_a_cluster_that_is_let_adapt_divides_what_is_free_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(tmp_path, monkeypatch, available=4 * GIB)
    _scheduler.adapt(asked.cluster(DIVIDES, memory_limit_bytes=0), {"maximum": 2}, 1.0, 5.0, 3)
    assert asked.arguments["memory_limit"] == 2 * GIB


def test_a_number_of_workers_beyond_what_is_free_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(tmp_path, monkeypatch, available=3 * GIB)
    cluster = asked.cluster(ASKED, n_asked=1, memory_limit_bytes=GIB, memory_bytes=GIB // 2)
    with pytest.warns(match=r"this cluster may use 8GiB; 3.5GiB are available and not promised \(active: bob\)"):
        _scheduler.scale(cluster, 8, force=None)
    assert asked.arguments == {"n_workers": 8} and asked.written().n_workers == 8
    with pytest.raises(OverpromisedError, match="1000 workers of 1GiB are 1000GiB, more than"):
        _scheduler.scale(cluster, 1000, force=None)


def test_a_scale_that_was_overtaken_writes_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(tmp_path, monkeypatch, available=30 * GIB, answer=False)
    with pytest.warns(match="cluster 'main' was scaled again before 3 workers had started"):
        _scheduler.scale(asked.cluster(ASKED, memory_limit_bytes=GIB), 3, force=None)
    assert not (tmp_path / "record.json").exists()
