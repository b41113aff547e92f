"""What clusters are promised, for all users of a machine to read; a hostile user can do little with it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ports
from ports.probe import promises

sys.path.append(str(Path(ports.__file__).parent / "clusters/owner"))  # last, as in a cluster

from ports_owner import promise as ports_promise

OWNER_FOLDER = Path(ports.__file__).parent / "clusters/owner"
UID = os.getuid()
NUMBERS = (8, 16, 1 << 33)
OWNER = """
import sys
sys.path.append(sys.argv[1])
from ports_owner import promise as ports_promise
promise = ports_promise.Promise(sys.argv[2], (8, 16, 1 << 33))
print("ready", flush=True)
for line in sys.stdin:
    if line.strip() == "close":
        promise.close()
    else:
        promise.tell(tuple(map(int, line.split())))
    print("done", flush=True)
"""


def name(number: int = 1, uid: int = UID) -> str:
    return f"ports-promise-{uid}-{number:016x}"


class Owner:
    """The owner of a cluster with its promise, in its own process, because locks belong to a process."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-c", OWNER, str(OWNER_FOLDER), str(path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None and self.process.stdin is not None
        self.said, self.told = self.process.stdout, self.process.stdin
        self.before = self.said.readline().strip()

    def do(self, words: str) -> None:
        self.told.write(words + "\n")
        self.told.flush()
        assert self.said.readline() == "done\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def owner(path: Path) -> Iterator[Owner]:
    made = Owner(path)
    try:
        yield made
    finally:
        made.kill()
        made.said.close()
        made.told.close()


def numbers(place: Path) -> list[tuple[int, int, int]]:
    return [(one["n_workers"], one["n_threads"], one["bytes"]) for one in promises.promises(str(place))]


def test_a_promise_lives_as_long_as_its_owner(tmp_path: Path) -> None:
    with owner(tmp_path / name()) as one:
        [found] = promises.promises(str(tmp_path))
        promised = {"n_workers": 8, "n_threads": 16, "bytes": 1 << 33, "lent_bytes": 0}
        assert 0 <= time.time() - found.pop("published") / 1e6 < 600
        assert found == {"path": str(tmp_path / name()), "uid": UID, "pid": one.process.pid, **promised}
        one.kill()
        assert (tmp_path / name()).exists() and numbers(tmp_path) == []


def test_it_says_numbers_only_and_everybody_may_read_them(tmp_path: Path) -> None:
    with owner(tmp_path / name()) as one:
        path = tmp_path / name()
        assert path.read_text().split()[:-1] == ["1", "8", "16", str(1 << 33), "0"]
        assert path.stat().st_mode & 0o777 == 0o644
        one.do("1 2 3")
        assert numbers(tmp_path) == [(1, 2, 3)]
        one.do("1 0 3 4")
        assert promises.promises(str(tmp_path))[0]["lent_bytes"] == 4
        one.do("close")
        assert not path.exists()


def test_the_next_owner_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    with owner(tmp_path / name(1)) as first, owner(tmp_path / name(2)):
        first.kill()
        os.utime(tmp_path / name(1), (0, 0))
        with owner(tmp_path / name(3)):
            assert sorted(path.name for path in tmp_path.iterdir()) == [name(2), name(3)]
            assert numbers(tmp_path) == [NUMBERS, NUMBERS]


def test_a_guard_counts_others_with_a_promise_of_memory_and_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with owner(tmp_path / name(1)) as first, owner(tmp_path / name(2)) as second:
        assert ports_promise.others(tmp_path) == 0  # of nobody but me
        with monkeypatch.context() as patched:
            patched.setattr(os, "getuid", lambda: UID + 1)
            assert ports_promise.others(tmp_path) == 1
            first.do("1 2 0")
            second.do("0 0 0")
            assert ports_promise.others(tmp_path) == 0
    mine = ports_promise.Promise(tmp_path / name(3), NUMBERS)
    try:
        assert ports_promise.others(tmp_path) == 0
        code = "import sys; from ports.probe.promises import is_void; sys.exit(is_void(sys.argv[1]))"
        assert subprocess.run([sys.executable, "-c", code, tmp_path / name(3)], check=False).returncode == 0
    finally:
        mine.close()


def test_an_owner_whose_name_is_taken_tells_nothing_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / name()).write_text("1 1 1 1\n")
    with owner(tmp_path / name()) as one:
        assert " warning: other users do not see what this cluster is promised: " in one.before
        assert numbers(tmp_path) == [] and (tmp_path / name()).read_text() == "1 1 1 1\n"


def test_a_promise_that_another_process_locks_to_read_is_dead(tmp_path: Path) -> None:
    """Any user who can read a file can hold a read lock on it."""
    path = tmp_path / name()
    path.write_text("1 8 8 8\n")
    code = (
        "import fcntl, os, sys; fd = os.open(sys.argv[1], os.O_RDONLY); fcntl.lockf(fd, fcntl.LOCK_SH); "
        "print('ready', flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=pipe, stdout=pipe, text=True) as reader:
        assert reader.stdout is not None and reader.stdout.readline() == "ready\n"
        assert numbers(tmp_path) == []
        reader.communicate()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a write lock on `path` in another process."""
    code = (
        "import fcntl, os, sys; fd = os.open(sys.argv[1], os.O_RDWR); fcntl.lockf(fd, fcntl.LOCK_EX); "
        "print('ready', flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=pipe, stdout=pipe, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "ready\n"
        yield
        holder.communicate()


LIE = "1 8 8 8\n"


def a_file_that_counts(path: Path) -> Path:
    path.write_text(LIE)
    return path


def a_link(path: Path) -> Path:
    target = path.with_name("target")
    target.write_text(LIE)
    path.symlink_to(target)
    return target


def a_hard_link(path: Path) -> Path:
    path.write_text(LIE)
    os.link(path, path.with_name("beside"))
    return path


def a_large_file(path: Path) -> Path:
    path.write_text(LIE + " " * 4096)
    return path


def a_file_that_all_may_write(path: Path) -> Path:
    path.write_text(LIE)
    path.chmod(0o666)
    return path


def words(path: Path) -> Path:
    path.write_text("1 many 8 8\n")
    return path


def another_format(path: Path) -> Path:
    path.write_text("2 8 8 8\n")
    return path


def numbers_past_all_measure(path: Path) -> Path:
    path.write_text(f"1 8 8 {10**19}\n")
    return path


LIES = [a_link, a_hard_link, a_large_file, a_file_that_all_may_write, words, another_format, numbers_past_all_measure]


@pytest.mark.parametrize("make", LIES, ids=lambda make: make.__name__)
def test_what_is_no_promise_is_passed_over_though_it_is_locked(tmp_path: Path, make: object) -> None:
    with locked(make(tmp_path / name())):  # type: ignore[operator]
        assert promises.promises(str(tmp_path)) == []


def test_a_file_of_the_right_kind_counts(tmp_path: Path) -> None:
    with locked(a_file_that_counts(tmp_path / name())):
        assert numbers(tmp_path) == [(8, 8, 8)]


def test_fifos_sockets_and_directories_cost_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name(1))
    (tmp_path / name(2)).mkdir()
    (tmp_path / name(3)).symlink_to("/dev/zero")
    (tmp_path / name(4)).symlink_to(tmp_path / name(4))
    began = time.monotonic()
    assert promises.promises(str(tmp_path)) == [] and time.monotonic() - began < 1


def test_a_fifo_that_takes_the_place_of_a_promise_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name())  # exchanged between the look and the opening
    assert promises.read_promise(str(tmp_path / name()), UID) is None


def test_a_promise_in_another_users_name_does_not_count(tmp_path: Path) -> None:
    with locked(a_file_that_counts(tmp_path / name(uid=UID + 1))):
        assert promises.promises(str(tmp_path)) == []


@pytest.mark.skipif(UID != 0, reason="needs root: it makes a file another user's")
def test_a_promise_of_another_user_counts_for_them(tmp_path: Path) -> None:
    path = a_file_that_counts(tmp_path / name(uid=54321))
    os.chown(path, 54321, 54321)
    with locked(path):
        assert [one["uid"] for one in promises.promises(str(tmp_path))] == [54321]


def test_of_thousands_by_one_user_few_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3000):
        (tmp_path / name(number)).touch()
    opened = []
    read = promises.read_promise
    monkeypatch.setattr(promises, "read_promise", lambda path, uid: opened.append(path) or read(path, uid))
    began = time.process_time()  # other processes of a busy machine do not count
    assert promises.promises(str(tmp_path)) == []
    assert len(opened) == promises.MOST and time.process_time() - began < 1


def test_a_directory_that_cannot_be_read_holds_none(tmp_path: Path) -> None:
    assert promises.promises(str(tmp_path / "missing")) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(content=st.binary(max_size=80) | st.from_regex(rb"1( \d{1,20}){0,4}\n?", fullmatch=True))
def test_any_content_is_a_promise_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    path = tmp_path / name()
    path.write_bytes(content)
    path.chmod(0o644)
    with monkeypatch.context() as patch:
        patch.setattr(promises, "lock_holder", lambda fd: 7)
        found = promises.promises(str(tmp_path))
    assert all(0 <= one["bytes"] < 10**18 and 0 <= one["n_threads"] < 10**9 for one in found)


def test_locks_of_this_process_are_not_seen_and_do_no_harm(tmp_path: Path) -> None:
    path = a_file_that_counts(tmp_path / name())
    with path.open("r+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert promises.promises(str(tmp_path)) == []
