"""Power cuts: the disk of a queue is copied at a random moment, as the block device has it, and looked at."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_job_store_faults import CLIENT, REPOSITORY
from tests.lab.job_queue import Desk

pytestmark = [pytest.mark.ci, pytest.mark.timeout(600)]
SIZE = 48 * 2**20


@contextlib.contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    """Mount an image; it is unmounted without a word to those who use it."""
    at.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-o", "loop", str(image), str(at)], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no loop device here: {done.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)


@pytest.fixture
def disk() -> Iterator[Path]:
    """A directory on a real disk: what a file on a tmpfs has was never synced to anything."""
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("needs root and mkfs.ext4")
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="ports-power-") as directory:
        yield Path(directory)


def cut(disk: Path, chance: random.Random, *, is_full: bool) -> tuple[list[str], Path]:
    """Let a queue work on a disk of its own, cut the power; return what was said, and the image of that moment."""
    # Files of their own: a loop device that is about to go keeps what it has read, and a mount of its file finds it.
    image, copy = (disk / f"{name}-{chance.getrandbits(64):x}" for name in ("image", "copy"))
    with image.open("wb") as file:
        file.truncate(SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-E", "nodiscard", str(image)], check=True)
    said: list[str] = []
    code = CLIENT if is_full else CLIENT.replace("n = 0", "desk.store._database.execute('PRAGMA synchronous = NORMAL')")
    with mounted(image, disk / "mounted") as place:
        command = [sys.executable, "-c", code, str(place), "0"]
        environ = {**os.environ, "PORTS_HOME": str(disk / "state")}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env=environ) as process:
            assert process.stdout is not None
            said += [process.stdout.readline().strip() for _ in range(chance.randint(20, 120))]
            process.send_signal(signal.SIGSTOP)
            shutil.copyfile(image, copy)
            process.kill()
    image.unlink()
    return said, copy


def lost(disk: Path, said: list[str], copy: Path) -> int:
    """Return how much of what was said is not in the image."""
    with mounted(copy, disk / "mounted") as place:
        desk = Desk(place)
        try:
            known = {row["id"]: row for row in desk.answer("list", newest=1000)["rows"]}
            missing = [line for line in said if not line.startswith("done") and line not in known]
            ends = [line.removeprefix("done ") for line in said if line.startswith("done")]
            forgotten = [id for id in ends if id.partition(".")[0] in known and desk.state(id) != "finished"]
            for _ in said:
                desk.key()  # those that were used
            if not missing:
                assert desk.submit() not in said, "an id was used again"
        finally:
            desk.close()
    copy.unlink()
    return len(missing) + len(forgotten)


@pytest.mark.parametrize("n_rounds", [2, pytest.param(20, marks=pytest.mark.long)])
def test_a_power_cut_loses_nothing_that_was_acknowledged(
    disk: Path, monkeypatch: pytest.MonkeyPatch, n_rounds: int
) -> None:
    monkeypatch.setenv("PORTS_HOME", str(disk / "state"))
    chance = random.Random(11)
    for _ in range(n_rounds):
        said, copy = cut(disk, chance, is_full=True)
        assert lost(disk, said, copy) == 0


@pytest.mark.long
def test_a_store_that_syncs_less_loses_what_it_acknowledged(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTS_HOME", str(disk / "state"))
    chance = random.Random(11)
    total = 0
    for _ in range(20):
        said, copy = cut(disk, chance, is_full=False)
        total += lost(disk, said, copy)
    assert total > 0
