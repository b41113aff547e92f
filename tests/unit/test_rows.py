"""What the probe answers has the fields that `ports.probe.rows` writes down, no more and no fewer."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from ports import probe
from ports.probe import examine, rows
from ports.probe.nodes import left_running


def check(found: Any, wanted: Any) -> None:
    """Hold the keys of a document equal to those of a TypedDict, which may leave some out."""
    assert set(wanted.__required_keys__) <= set(found) <= set(get_type_hints(wanted)), wanted.__name__


def session(top: Path, machine: str, name: str, **parts: object) -> None:
    for part, text in parts.items():
        file = top / "hosts" / machine / "clusters" / name / f"{part}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(text))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Records of a cluster that runs, of a broken one, and of one on another machine."""
    monkeypatch.setenv("PORTS_HOME", str(tmp_path))
    this = probe.process_identity(os.getpid())
    record = {"format": 1, "started_by": this, "created_at": 1.0, "directory": "/"}
    running = {"format": 1, "process": this, "address": "a", "dashboard": "/d", "started_at": 1.0}
    for machine in (probe.machine_id(), "0" * 32):
        session(tmp_path, machine, "main", record=record, running=running)
    session(tmp_path, probe.machine_id(), "broken", record={})
    (tmp_path / "hosts" / ("0" * 32) / "host.json").write_text('{"format": 1, "name": "elsewhere"}')
    return tmp_path


def test_the_answer_of_probe_has_the_fields_that_are_written_down(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        document = probe.probe({"all": True, "silence": 0.0, "patience": 0.0})
        port = server.getsockname()[1]
    check(document, rows.Document)
    [own] = [row for row in document["listeners"] if row["port"] == port]
    check(own, rows.Listener)
    for row in document["listeners"]:
        check(row, rows.Listener if row["uid"] == document["uid"] else rows.OthersListener)
    broken, main = sorted(document["clusters"], key=lambda one: one["name"])
    assert main["alive"] and "error" in broken
    for one in (broken, main):
        check(one, rows.Session)
    [elsewhere] = left_running()
    check(elsewhere, rows.Elsewhere)


def test_the_answer_of_who_has_the_fields_that_are_written_down(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    promise = {"uid": os.getuid(), "pid": os.getpid(), "n_workers": 1, "n_threads": 1, "bytes": 7, "lent_bytes": 0}
    promise |= {"path": "/tmp/ports-promise", "published": 1}
    monkeypatch.setattr("ports.probe.programs.who.promises", lambda: [promise])  # real ones lie in /tmp, for all to see
    document = probe.who.who({"interval": 0.0})
    check(document, rows.Use)
    [one] = document["promises"]
    check(one, rows.PromiseOfCluster)
    for user in document["users"]:
        check(user, rows.UserOfMachine)


def test_the_answer_of_examine_has_the_fields_that_are_written_down() -> None:
    check(examine({"ports": True, "env": "/nowhere"}), rows.Facts)
    assert set(examine({"ports": True, "env": "/nowhere"})) == set(get_type_hints(rows.Facts))
