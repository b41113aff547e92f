"""How many slots there are: what jobs need of the machine decides, not how many threads a worker has."""

from __future__ import annotations

import sys
import threading
import types
from pathlib import Path

import pytest

from ports.errors import StartError
from ports.jobs.resource import environment, slot
from ports.jobs.resource.crew import Crew, check_environment, missing


@pytest.mark.parametrize(
    ("wanted", "cpus", "live", "starts"),
    [
        (2, 2, 0, 2),
        (2, 2, 2, 0),
        (20, 2, 5, 15),  # twenty jobs of a tenth of a core: none of them waits behind another
        (500, 2, 20, 0),  # smaller ones share
        (5, 0.2, 0, 5),
        (0, 8, 3, 0),
    ],
)
def test_as_many_slots_start_as_jobs_find_room(wanted: int, cpus: float, live: int, starts: int) -> None:
    assert missing(wanted, cpus, live) == starts


def test_a_deleted_environment_is_named_with_both_ways_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check_environment()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    with pytest.raises(StartError, match=r"python3 is gone, .* there again, or after `ports resource stop`, then"):
        check_environment()
    (tmp_path / "python3").touch()
    check_environment()


def test_a_cluster_of_a_deleted_environment_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    crew = Crew({}, lambda: None)
    ended = types.SimpleNamespace(done=lambda: True, status="finished", result=lambda: slot.UPROOTED)
    assert crew.is_over("x", ended)
    assert crew.state["state"] == "error" and "`ports cluster stop jobs`" in crew.state["reason"]
    monkeypatch.setattr(environment, "missing", lambda: "/nowhere")  # its own too: the next look says so
    other = Crew({}, lambda: None)
    assert other.is_over("x", ended) and other.state["reason"] is None


class Starter(Crew):
    """Starts no cluster, and notes that it would."""

    def __init__(self) -> None:
        super().__init__({}, lambda: None)
        self.connects, self.rests = threading.Event(), threading.Event()
        self.changed = Rest(self.rests)

    def connect(self) -> None:
        self.connects.set()


class Rest(threading.Event):
    """Notes that somebody waits for it."""

    def __init__(self, waits: threading.Event) -> None:
        super().__init__()
        self.waits = waits

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.set()
        return super().wait(timeout)


@pytest.mark.parametrize("is_expected", [True, False])
def test_the_cluster_starts_before_a_job_that_is_on_its_way(is_expected: bool) -> None:
    crew = Starter()
    crew.is_expected = is_expected
    crew.start()
    assert crew.rests.wait(60)  # nothing is wanted yet
    assert crew.connects.is_set() is is_expected
