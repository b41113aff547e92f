"""Which directory of a home is this machine's: the rule for machines with one machine id."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

import pytest

from ports import probe
from ports.probe import living
from ports.probe.own_host import directory_name
from ports.state import paths, records

FIRST = {"m": {"boot_id": "b1", "name": "node1"}}
OWN = "m-" + probe.sha256(b"node2")[:8]


@pytest.mark.parametrize(
    ("boot", "name", "known", "expected"),
    [
        ("b1", "node1", {}, "m"),
        ("b1", "node1", {"m": {}}, "m"),  # made, or of a version that cannot be read
        ("b1", "node1", FIRST, "m"),
        ("b1", "renamed", FIRST, "m"),  # the same boot: the network gave a laptop another name
        ("b2", "node1", FIRST, "m"),  # a reboot
        ("b2", "node2", FIRST, OWN),  # another machine of the same image
        ("b2", "node2", {**FIRST, OWN: {"boot_id": "b2", "name": "node2"}}, OWN),
        ("b3", "node2", {**FIRST, OWN: {"boot_id": "b2", "name": "node2"}}, OWN),
        ("b2", "node1", {**FIRST, OWN: {"boot_id": "b2", "name": "node2"}}, OWN),  # the boot decides first
        ("", "node1", FIRST, "m"),  # macOS has no boot id
        ("b2", "node2", {"m": {"name": "node1"}}, OWN),  # written before boot ids were
    ],
)
def test_boot_and_name_say_which_machine_this_is(
    boot: str, name: str, known: dict[str, dict[str, str]], expected: str
) -> None:
    assert directory_name("m", boot, name, known) == expected


def test_of_two_machines_that_begin_at_once_one_gets_its_own_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    first = paths.here()
    first.root.mkdir(parents=True, mode=0o700)
    create = records.create_json

    def too_late(path: Path, data: dict[str, object]) -> bool:
        create(path, {**data, "boot_id": "of the other", "name": "the-other"})
        return create(path, data)

    monkeypatch.setattr(records, "create_json", too_late)
    own = paths.make_state()
    assert own != first and own.root.parent == first.root.parent == paths.here().root.parent
    assert (records.read_json(first.host) or {})["name"] == "the-other"
    assert paths.here() == own and [one.root for one in paths.other_machines()] == [first.root]


def test_a_lock_answers_for_a_process_that_has_no_pid_here(tmp_path: Path) -> None:
    who = probe.process_identity(os.getpid()) | {"pid_namespace": "pid:[1]"}
    lock = tmp_path / probe.LOCK

    def alive() -> bool | None:
        return probe.is_session_alive(who, str(tmp_path), list)

    assert alive() is None
    with lock.open("w") as file:
        assert alive() is False
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack(living.FLOCK, fcntl.F_WRLCK, 0, 0, 0, 0))
        assert alive() is True
    assert alive() is False


def test_a_former_name_of_this_machine_is_known_after_a_reboot(tmp_path: Path) -> None:
    who = probe.process_identity(os.getpid()) | {"boot_id": "before", "node": "former"}
    assert probe.is_session_alive(who, str(tmp_path), lambda: ["former", "now"]) is False
    assert probe.is_session_alive(who, str(tmp_path), lambda: ["now"]) is None
