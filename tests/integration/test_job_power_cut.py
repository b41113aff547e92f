"""Power cuts: the disk of a queue is copied at a random moment, as the block device has it, and looked at."""

from __future__ import annotations

import contextlib
import filecmp
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

from ports.state import wait_until
from tests.integration.test_job_store_faults import CLIENT, REPOSITORY
from tests.lab.job_queue import Desk

pytestmark = [pytest.mark.ci, pytest.mark.timeout(600)]
SIZE = 48 * 2**20
_HEAD = 1 << 20  # bytes: the superblock, whose UUID each image has for itself, and what follows


def attached(image: Path) -> Path:
    """Return a loop device of its own for an image, which reads nothing that the device had before.

    `mount -o loop` names no device, and one that is about to go keeps what it has read: a mount of the next image found
    that once. Others take free devices at the same moment, so a second try can help.
    """
    for _ in range(20):
        words = ["losetup", "--find", "--show", str(image)]
        done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)
        if not done.returncode:
            break
    else:
        pytest.skip(f"no loop device here: {done.stderr.strip()}")
    device = Path(done.stdout.strip())
    subprocess.run(["blockdev", "--flushbufs", str(device)], check=True, timeout=60)
    assert backing(device) == image
    with device.open("rb") as one, image.open("rb") as other:
        assert one.read(_HEAD) == other.read(_HEAD), f"{device} is not {image}"
    return device


def backing(device: Path) -> Path | None:
    """Return the file of a loop device; None if it has none."""
    try:
        return Path(Path("/sys/block", device.name, "loop/backing_file").read_text().strip())
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    """Mount an image; it is unmounted without a word to those who use it, and its device is free again."""
    at.mkdir(exist_ok=True)
    device = attached(image)
    try:
        subprocess.run(["mount", str(device), str(at)], check=True, timeout=60)
        try:
            assert os.stat(at).st_dev == os.stat(device).st_rdev
            yield at
        finally:
            subprocess.run(["umount", str(at)], check=True, timeout=60)
    finally:
        subprocess.run(["losetup", "--detach", str(device)], check=True, timeout=60)
        wait_until(lambda: True if backing(device) != image else None, timeout=60, what=f"end of {device}")


def copied(image: Path, copy: Path) -> None:
    """Copy the image of a disk as it was at one moment: nothing was written from the first read to the last.

    The kernel writes what is due after the processes have stopped. A copy of two moments is no power cut: it can have
    an old block and the journal that no longer has the new one.
    """

    def same() -> bool | None:
        shutil.copyfile(image, copy)
        return filecmp.cmp(image, copy, shallow=False) or None  # each block is read again, after all were read

    wait_until(same, timeout=120, what="a moment without a write")


@pytest.fixture
def disk() -> Iterator[Path]:
    """A directory on a real disk: what a file on a tmpfs has was never synced to anything."""
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("needs root and mkfs.ext4")
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="ports-power-") as directory:
        yield Path(directory)


def cut(disk: Path, chance: random.Random, *, is_full: bool) -> tuple[list[str], Path]:
    """Let a queue work on a disk of its own, cut the power; return what was said, and the image of that moment."""
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
            copied(image, copy)
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
