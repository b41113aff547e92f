"""What another user could exchange, pre-create or leave behind, and what is not taken from it."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ports.clusters import _owner, _scratch
from ports.errors import BrokenRecordError, StoreError, UnsafePathError, UsageError
from ports.probe import accounts
from ports.probe.records import read_record, read_token
from ports.probe.sockets import is_socket_of
from ports.sessions import launch
from ports.state import exchangeable, paths, records, runtime

SOMEBODY = 54_321


@pytest.fixture
def give_away(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Return a function that makes a path somebody else's: as root by chown, else by being another user oneself."""

    def give(path: Path) -> None:
        if os.getuid() == 0:
            os.chown(path, SOMEBODY, SOMEBODY, follow_symlinks=False)
        else:
            monkeypatch.setattr(os, "getuid", lambda: SOMEBODY)

    return give


GiveAway = Callable[[Path], None]


def test_nobody_can_exchange_what_lies_in_a_directory_of_one_s_own(tmp_path: Path) -> None:
    assert exchangeable(tmp_path) is None
    assert exchangeable(Path("/tmp")) is None and exchangeable(tmp_path / "not" / "there") is None


def test_a_directory_that_everybody_writes_is_told_at_any_height(tmp_path: Path) -> None:
    (tmp_path / "open" / "mine").mkdir(parents=True)
    (tmp_path / "open").chmod(0o777)
    assert f"what is in {tmp_path / 'open'}," in str(exchangeable(tmp_path / "open" / "mine"))
    (tmp_path / "open").chmod(0o1777)
    assert exchangeable(tmp_path / "open" / "mine") is None


def test_a_directory_of_somebody_else_is_told_also_behind_a_link(tmp_path: Path, give_away: GiveAway) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    give_away(tmp_path / "theirs")
    for place in ("theirs", "link"):
        assert "who could replace what is in it" in str(exchangeable(tmp_path / place))


def test_people_are_not_trusted_where_their_uids_begin_at_500(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.getuid():
        pytest.skip("needs root")
    (tmp_path / "login.defs").write_text("UID_MIN 500\n")
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 501, -1)
    monkeypatch.setattr(accounts, "LOGIN_DEFS", str(tmp_path / "login.defs"))
    monkeypatch.setattr(accounts, "FIRST", [])
    assert "belongs to uid 501" in str(exchangeable(tmp_path / "theirs"))
    os.chown(tmp_path / "theirs", 499, -1)
    assert exchangeable(tmp_path / "theirs") is None


def test_a_link_of_somebody_else_is_told(tmp_path: Path, give_away: GiveAway) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    give_away(tmp_path / "link")
    assert f"{tmp_path / 'link'} belongs to" in str(exchangeable(tmp_path / "link")) or os.getuid()


def test_scratch_where_others_could_exchange_it_is_refused(tmp_path: Path) -> None:
    place = Path(os.environ.get("TEST_DISK", "/var/tmp")) / f"test-{os.getpid()}"
    place.mkdir()
    try:
        place.chmod(0o777)
        with pytest.raises(UsageError, match=f"local_directory {place} is not safe: any user could replace"):
            _scratch.choose("main", str(place))
    finally:
        place.rmdir()


def test_code_of_a_cluster_is_put_nowhere_where_others_could_exchange_it(tmp_path: Path) -> None:
    """Workers that start days later import it."""
    directory = tmp_path / "open" / "ports" / "main"
    directory.mkdir(parents=True)
    _owner.copy_code(directory)
    assert (directory / "code" / "ports_owner" / "owner.py").is_file()
    shutil.rmtree(directory / "code")
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(UnsafePathError, match=r"any user could replace .*; set PORTS_HOME to a directory"):
        _owner.copy_code(directory)
    assert not list(directory.iterdir())


def test_scratch_of_a_user_without_an_account_has_no_blank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "user_name", lambda: "uid 70001")
    place = Path(os.environ.get("TEST_DISK", "/var/tmp")).resolve()
    assert _scratch.choose("main", str(place)).name.startswith("ports-uid-70001-main-")


def test_scratch_leads_through_no_link_that_somebody_may_turn(give_away: GiveAway) -> None:
    top = Path(os.environ.get("TEST_DISK", "/var/tmp")) / f"test-{os.getpid()}"
    for name in ("real", "other", "theirs"):
        (top / name).mkdir(parents=True)
    try:
        (top / "theirs" / "link").symlink_to(top / "real")
        (top / "mine").symlink_to(top / "theirs" / "link")
        if os.getuid() == 0:
            give_away(top / "theirs")
        chosen = _scratch.choose("main", str(top / "mine"))
        (top / "theirs" / "link").unlink()
        (top / "theirs" / "link").symlink_to(top / "other")
        _scratch.create(chosen)
        assert chosen.parent == top / "real" and not list((top / "other").iterdir())
        (top / "circle").symlink_to(top / "circle")
        with pytest.raises(UsageError, match=f"local_directory {top / 'circle'} is missing"):
            _scratch.choose("main", str(top / "circle"))
    finally:
        shutil.rmtree(top)


def test_sockets_do_not_go_where_everybody_may_rename_them(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o777)
    with pytest.raises(UnsafePathError, match="no sticky bit; ask an administrator to fix that"):
        runtime._first_private(tmp_path / "tmp" / "ports-7")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_full_tmp_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    with pytest.raises(StoreError, match="cannot use /proc/ports-7: "):  # where nobody makes a directory, root neither
        runtime._first_private(Path("/proc/ports-7"))


def test_a_state_directory_of_somebody_else_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, give_away: GiveAway
) -> None:
    (tmp_path / "state").mkdir()
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    assert paths.here()
    give_away(tmp_path / "state")
    with pytest.raises(UnsafePathError, match="another user owns it; remove it, or set PORTS_HOME elsewhere"):
        paths.here()


def hostile(path: Path, kind: str, give_away: GiveAway) -> None:
    text = json.dumps({"format": 1})
    if kind == "link":
        path.with_name("there").write_text(text)
        path.symlink_to("there")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.write_text(text)
        give_away(path)


@pytest.mark.parametrize(("kind", "why"), [("link", "a link"), ("fifo", "no file"), ("theirs", "belongs to uid")])
def test_a_record_that_is_no_file_of_mine_is_not_read(tmp_path: Path, kind: str, why: str, give_away: GiveAway) -> None:
    path = tmp_path / "record.json"
    hostile(path, kind, give_away)
    with pytest.raises(BrokenRecordError, match=why):
        records.read_json(path)
    with pytest.raises(ValueError, match="cannot be read"):  # the probe's own reader
        read_record(str(path))


@pytest.mark.parametrize("kind", ["link", "fifo", "theirs"])
def test_a_token_that_is_no_file_of_mine_is_not_read(tmp_path: Path, kind: str, give_away: GiveAway) -> None:
    path = tmp_path / "token"
    path.write_text("ab" * 24 + "\n")
    path.chmod(0o600)
    assert read_token(str(path)) == "ab" * 24
    path.chmod(0o640)
    assert read_token(str(path)) is None
    path.unlink()
    hostile(path, kind, give_away)
    assert read_token(str(path)) is None


def test_a_socket_counts_only_where_nobody_can_exchange_it(tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        assert is_socket_of(str(tmp_path / "s"), os.getuid())
        tmp_path.chmod(0o777)
        assert not is_socket_of(str(tmp_path / "s"), os.getuid())


@pytest.mark.parametrize(("core_files", "soft"), [(False, 0), (True, None)])
def test_what_is_launched_writes_no_core_file(tmp_path: Path, core_files: bool, soft: int | None) -> None:
    code = "import resource; print('limit', *resource.getrlimit(resource.RLIMIT_CORE))"
    spec = {"argv": [sys.executable, "-c", code], "cwd": "/", "environ": {}, "log": str(tmp_path / "log")}
    spec |= {"log_bytes": 1000, "exit": str(tmp_path / "exit.json"), "hold": [], "title": "t", "core_files": core_files}
    (tmp_path / "launch.json").write_text(json.dumps(spec))
    command = [sys.executable, "-I", "-S", launch.__file__, str(tmp_path / "launch.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    before = resource.getrlimit(resource.RLIMIT_CORE)
    limits = next(line for line in done.stdout.splitlines() if line.startswith("limit")).split()
    assert [int(limit) for limit in limits[1:]] == [before[0] if soft is None else soft, before[1]]


def test_the_launcher_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("{}")
    (tmp_path / "launch.json").symlink_to("there")
    command = [sys.executable, "-I", "-S", launch.__file__, str(tmp_path / "launch.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode != 0 and "Too many levels of symbolic links" in done.stderr
