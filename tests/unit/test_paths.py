"""Names, paths, and directories that are one's own."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ports import sessions
from ports.errors import InvalidNameError, StoreError, TimedOutError, UnsafePathError
from ports.state import locked, make_private, paths, prune_runtime, runtime, runtime_directory

NAMES = st.from_regex(paths.NAME, fullmatch=True)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    yield tmp_path / "state"
    runtime = runtime_directory()
    for lock in runtime.glob("*.lock"):
        lock.unlink()
    runtime.rmdir()


@settings(max_examples=50)
@given(name=NAMES, kind=st.sampled_from(["cluster", "notebook"]))
def test_a_name_is_a_directory_of_its_own_and_comes_back(name: str, kind: str) -> None:
    assert paths.check_name(name) == name
    files = sessions.files(kind, name)
    assert files.directory.name == name and files.directory.parent == sessions.folder(kind)
    assert files.log.name == f"{kind}-{name}.log"
    inside = [files.record, files.running, files.exit, files.launch, files.credentials]
    assert {path.parent for path in inside} == {files.directory} and len(set(inside)) == 5


@settings(max_examples=50)
@given(one=NAMES, other=NAMES)
def test_two_names_never_share_a_file(one: str, other: str) -> None:
    here = paths.here()
    assert (sessions.files("cluster", one, here) == sessions.files("cluster", other, here)) == (one == other)
    assert sessions.files("cluster", one, here).log != sessions.files("notebook", other, here).log


@settings(max_examples=50)
@given(text=st.text(max_size=40))
def test_what_is_no_name_never_becomes_a_path(text: str) -> None:
    if not paths.NAME.fullmatch(text):
        with pytest.raises(InvalidNameError) as caught:
            sessions.files("cluster", text)
        assert repr(text) in str(caught.value) and caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["a\n", "a/b", "..", "A", "1a", "-a", "", "a" * 32, "a b", "é", "a\0"])
def test_these_are_no_names(name: str) -> None:
    with pytest.raises(InvalidNameError):
        paths.check_name(name)


def test_a_name_is_a_text() -> None:
    with pytest.raises(InvalidNameError, match="'7' is not a name"):
        paths.check_name(7)  # type: ignore[arg-type]


def test_the_state_directory_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTS_HOME", "~/mine")
    assert paths.state_directory() == Path.home() / "mine"
    monkeypatch.delenv("PORTS_HOME")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert paths.state_directory() == tmp_path / "ports"
    monkeypatch.setenv("XDG_STATE_HOME", "relative/is/no/directory")
    assert paths.state_directory() == Path.home() / ".local" / "state" / "ports"


def test_looking_creates_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    sessions.files("cluster", "main")
    assert list(tmp_path.iterdir()) == []


def test_all_directories_are_private(state: Path) -> None:
    before = os.umask(0)
    try:
        made = paths.make_state()
        runtime = runtime_directory()
    finally:
        os.umask(before)
    assert made.root.parent == state / "hosts" and made.root.name == paths.machine()
    for path in (state, state / "hosts", made.root, made.logs, runtime, runtime.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_machine_is_known_by_an_id_that_is_not_its_secret_one(state: Path) -> None:
    assert len(paths.machine()) == 32
    file = Path("/etc/machine-id")
    assert not file.exists() or paths.machine() != file.read_text().strip()


def test_each_state_directory_has_a_runtime_directory_with_a_short_path(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = runtime_directory()
    assert first == runtime_directory()
    assert len(os.fsencode(first / f"cluster-{'a' * 31}.sock")) < 100
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "other"))
    second = runtime_directory()
    assert second != first
    second.rmdir()
    monkeypatch.setenv("PORTS_HOME", str(state))


@pytest.mark.parametrize("kind", ["link", "file", "open to others", "dangling link"])
def test_a_name_that_was_taken_is_replaced_and_all_processes_agree(state: Path, tmp_path: Path, kind: str) -> None:
    taken = tmp_path / "taken"
    if kind == "link":
        (tmp_path / "there").mkdir(mode=0o700)
        taken.symlink_to(tmp_path / "there")
    elif kind == "dangling link":
        taken.symlink_to(tmp_path / "nowhere")
    elif kind == "file":
        taken.write_text("")
    else:
        taken.mkdir()
        taken.chmod(0o777)
    found = runtime._first_private(taken)
    try:
        assert found.parent == Path("/tmp") and found.name.startswith(f"ports-{os.getuid()}-")
        assert stat.S_IMODE(found.stat().st_mode) == 0o700
        assert runtime._first_private(taken) == found
        found.rmdir()
        again = runtime._first_private(taken)  # tmpfiles removed it
        assert again != found and again.is_dir()
        again.rmdir()
    finally:
        paths.here().runtime.unlink()


def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    with pytest.raises(UnsafePathError, match="link is not private: it is a link, or another user owns it") as caught:
        make_private(tmp_path / "link")
    assert caught.value.exit_code == 4
    if os.getuid() == 0:
        (tmp_path / "of-another").mkdir()
        os.chown(tmp_path / "of-another", 65534, 65534)
        with pytest.raises(UnsafePathError):
            make_private(tmp_path / "of-another")


def test_what_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot use .*/file/below: Not a directory"):
        make_private(tmp_path / "file" / "below")
    with pytest.raises(StoreError, match=r"cannot use .*/file: File exists"):
        make_private(tmp_path / "file")


def test_a_lock_is_held_by_one_process_and_ends_with_it(state: Path) -> None:
    code = "import sys; from ports.state import locked\n"
    code += "with locked('one'): print('held', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    with (
        pytest.raises(TimedOutError, match="waiting for lock 'one', which another process of ports holds"),
        locked("one", timeout=0.05),
    ):
        pass
    with locked("two", timeout=0.05):
        pass
    other.kill()
    other.communicate()
    with locked("one", timeout=2):
        pass


def test_directories_of_locks_that_nobody_holds_are_pruned(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = runtime_directory()

    def make(name: str, *, young: bool = False) -> Path:
        with monkeypatch.context() as patch:
            patch.setenv("PORTS_HOME", str(tmp_path / name))
            with locked("tmux"):
                place = runtime_directory()
        if not young:
            os.utime(place, (0, 0))
        return place

    free, young, used, held, in_use = (
        make("free"),
        make("young", young=True),
        make("used"),
        make("held"),
        make("locked"),
    )
    (used / "cluster-main.sock").touch()
    os.utime(used, (0, 0))
    os.utime(own, (0, 0))
    descriptors = [os.open(held, os.O_RDONLY), os.open(in_use / "tmux.lock", os.O_RDONLY)]
    fcntl.flock(descriptors[0], fcntl.LOCK_SH)  # as a launcher does
    fcntl.flock(descriptors[1], fcntl.LOCK_EX)
    try:
        removed = prune_runtime()
        assert free in removed and not free.exists()
        assert not {young, used, held, in_use, own} & {*removed}
        assert all(place.exists() for place in (young, used, held, in_use, own))
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
        for place in (young, used, held, in_use):
            shutil.rmtree(place)


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_anew(state: Path) -> None:
    with locked("tmux"):
        (runtime_directory() / "tmux.lock").unlink()
        with locked("tmux", timeout=1):
            pass


def test_configuration_is_read_where_dask_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import dask.config; print(*dask.config.paths, sep='\\n')"
    for environ in ({}, {"DASK_CONFIG": "/some/where"}, {"DASK_ROOT_CONFIG": "/root/config"}):
        for name in ("DASK_CONFIG", "DASK_ROOT_CONFIG"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        theirs = list(dict.fromkeys(done.stdout.split()))
        assert list(dict.fromkeys(map(str, paths.configuration_directories()))) == theirs


def test_a_disk_without_locks_is_not_a_lock_that_is_held(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    began = time.monotonic()
    with pytest.raises(StoreError, match="it cannot be locked"), locked("tmux"):
        pass
    assert time.monotonic() - began < 5


def test_machines_that_cannot_be_listed_are_not_none(state: Path) -> None:
    assert paths.other_machines() == []
    paths.state_directory().mkdir(parents=True, exist_ok=True)
    (paths.state_directory() / "hosts").write_text("no directory")
    with pytest.raises(StoreError, match="Not a directory"):
        paths.other_machines()
