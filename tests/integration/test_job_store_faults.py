"""The store of jobs on a disk that is full, and a resource that is killed while it writes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ports.jobs._model import Submission
from ports.jobs._places import Places
from tests.lab import job_queue
from tests.lab.job_queue import Desk

pytestmark = pytest.mark.ci
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("mounting needs root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_on_a_full_disk_what_was_acknowledged_stays(small_disk: Path) -> None:
    desk = Desk(small_disk)
    acknowledged: list[str] = []
    refused = ""
    while not refused:
        asked = {"kind": "function", "name": "x"}
        told = desk.answer("submit", [b"f", os.urandom(30_000)], key=desk.key(), submission=asked, count=None)
        if "error" in told:
            refused = told["error"]["text"]
        else:
            acknowledged.append(told["id"])
    assert "No space left on device" in refused
    assert len(acknowledged) > 10
    assert {desk.state(id) for id in acknowledged} == {"pending"}
    assert desk.answer("status")["counts"]["pending"] == len(acknowledged)
    with pytest.raises(OSError, match="No space"):
        places = Places(small_disk / "jobs", small_disk / "runtime")
        job_queue.leave(places, "ab" * 16, Submission(kind="function"), [b"f", os.urandom(2**20)])
    assert list(desk.places.submissions.iterdir()) == []
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert desk.answer("submit", [b"f", b""], key=desk.key(), submission=asked, count=None)["id"] not in acknowledged
    desk.restart()
    assert {desk.state(id) for id in acknowledged} == {"pending"}
    assert len(desk.work()) == len(acknowledged) + 1
    desk.close()


CLIENT = """
import os, sys, pathlib
from tests.lab.job_queue import Desk
desk = Desk(pathlib.Path(sys.argv[1]))
n = 0
for _ in range(int(sys.argv[2])):
    desk.key()
while True:
    id = desk.submit(3)
    sys.stdout.write(f"{id}\\n"); sys.stdout.flush()
    desk.queue.tick()
    for slot in ("s1", "s2"):
        jobs = desk.take(slot)
        if jobs:
            desk.end(slot, *jobs[:1])
            desk.answer("returned", by=slot, slot=slot, ids=[one for one, _ in jobs[1:]] or [jobs[0][0]])
            sys.stdout.write(f"done {jobs[0][0]}\\n"); sys.stdout.flush()
"""


@pytest.mark.parametrize("n_rounds", [3, pytest.param(40, marks=pytest.mark.long)])
def test_a_queue_that_is_killed_keeps_all_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_rounds: int
) -> None:
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    chance = random.Random(11)
    said: list[str] = []
    for _ in range(n_rounds):
        command = [sys.executable, "-c", CLIENT, str(tmp_path), str(len(said) * 10)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
            assert process.stdout is not None
            for _ in range(chance.randint(3, 60)):
                said.append(process.stdout.readline().strip())
            process.send_signal(signal.SIGKILL)
            said += [line.strip() for line in process.stdout if line.endswith("\n")]
    desk = Desk(tmp_path)
    ids = [line for line in said if line and not line.startswith("done")]
    assert len(ids) == len(set(ids)) > n_rounds
    assert all(desk.row(id)["count"] == 3 for id in ids)
    assert {desk.state(line.removeprefix("done ")) for line in said if line.startswith("done")} <= {"finished"}
    counts = desk.answer("status")["counts"]
    rows = desk.answer("list", newest=1000)["rows"]
    for state, n in counts.items():
        assert n == sum(row["counts"].get(state, 0) for row in rows)
    desk.close()
