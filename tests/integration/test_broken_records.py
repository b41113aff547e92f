"""Records that are half, edited by hand, or of something else: rows and errors that tell it, never anything else."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ports import clusters, listeners, notebooks, sessions
from ports.cli import tables
from ports.doctor import _prune
from ports.errors import NotFoundError, RecordError
from ports.sessions import processes
from ports.state import make_private, paths
from tests.integration.conftest import Home, new_home

pytestmark = [pytest.mark.ci, pytest.mark.xdist_group("machine")]

ODD = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("\0") | st.just("\ud800")
VALUES = ODD | st.lists(ODD, max_size=2) | st.dictionaries(st.text(max_size=5), ODD, max_size=2) | st.just(10**30)
PARTS = ("record", "running", "exit")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with new_home(tmp_path_factory.mktemp("broken") / "home") as home:
        paths.make_state()
        yield home


def whole(kind: str) -> dict[str, dict[str, Any]]:
    """Return records of a session that runs: of this very process."""
    me = processes.identity()
    assert me is not None
    record = {
        "format": 1, "kind": kind, "name": "main", "created_at": 1.0, "interpreter": sys.executable, "directory": "/",
        "started_by": me.to_json(), "launcher": me.to_json(), "scratch": "", "dashboard": "/nowhere", "root": "/",
        "server": "lab", "runtime": "", "token_file": "/nowhere", "tmux_socket": None,
    }  # fmt: skip
    running = {
        "format": 1, "process": me.to_json(), "address": "tls://127.0.0.1:1", "dashboard": "/nowhere", "versions": {},
        "started_at": 1.0, "port": 1, "base_url": "/", "url_path": "lab", "root": "/", "token_file": "/nowhere",
        "server": "lab", "version": "2",
    }  # fmt: skip
    return {"record": record, "running": running, "exit": {"format": 1, "status": 3, "ended_at": 2.0}}


@contextlib.contextmanager
def written(kind: str, parts: dict[str, Any]) -> Iterator[Path]:
    directory = make_private(sessions.files(kind, "main").directory)
    try:
        for part, data in parts.items():
            (directory / f"{part}.json").write_text(json.dumps(data))
        yield directory
    finally:
        for file in directory.iterdir():
            file.unlink()
        directory.rmdir()


def rows_of(kind: str) -> list[dict[str, Any]]:
    """Return every row that is shown of it, as the command line does it."""
    found = [one.row() for one in (clusters.list() if kind == "cluster" else notebooks.list())]
    found += [one.row() for one in listeners.list()]
    for row in found:
        json.dumps(row)
        "".join(map(str, tables.cells(row, time.time()).values())).encode()
    return [row for row in found if row["kind"] == kind and row["name"] == "main"]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
@pytest.mark.parametrize("kind", ["cluster", "notebook"])
def test_no_content_of_records_ends_in_anything_but_rows_or_a_record_error(
    place: Home, kind: str, data: st.DataObject
) -> None:
    parts = {part: records for part, records in whole(kind).items() if data.draw(st.booleans(), label=part)}
    for part in parts:
        keys = st.sampled_from(sorted(parts[part]))
        for key in data.draw(st.lists(keys, max_size=2), label="gone"):
            parts[part].pop(key, None)
        parts[part] |= data.draw(st.dictionaries(keys, VALUES, max_size=2), label="changed")
        for name in [name for name, value in parts[part].items() if isinstance(value, dict) and "pid" in value]:
            inner = st.sampled_from(sorted(parts[part][name]))
            parts[part][name] |= data.draw(st.dictionaries(inner, VALUES, max_size=1), label=f"in {name}")
    with written(kind, parts):
        rows = rows_of(kind)
        assert {row["state"] for row in rows} <= {"running", "starting", "stopped", "unknown"}
        for row in rows:
            assert row["reason"] or row["state"] in ("running", "starting")
        with contextlib.suppress(RecordError, NotFoundError):
            one = clusters.get("main") if kind == "cluster" else notebooks.get("main")
            repr(one)
            one._repr_html_()


@settings(max_examples=60, deadline=None)
@given(content=st.recursive(VALUES, lambda inner: st.dictionaries(st.text(max_size=5), inner, max_size=3)))
@pytest.mark.parametrize("part", PARTS)
def test_no_document_at_all_ends_in_anything_else(place: Home, part: str, content: Any) -> None:
    with written("cluster", {**whole("cluster"), part: content}):
        assert rows_of("cluster")


@pytest.mark.parametrize("key", ["address", "dashboard", "process", "versions"])
@pytest.mark.quick
def test_a_cluster_without_an_address_is_unknown_and_names_its_record(place: Home, key: str) -> None:
    parts = whole("cluster")
    del parts["exit"], parts["running"][key]
    with written("cluster", parts) as directory:
        [row] = [one.row() for one in clusters.list()]
        assert row["state"] == "unknown" and str(directory / "running.json") in row["reason"] and key in row["reason"]
        assert (row["url"], row["pid"]) == (None, None)
        with pytest.raises(RecordError, match=key):
            _ = clusters.get("main").scheduler_address
        with pytest.raises(RecordError, match=key):
            clusters.cluster("main")


@pytest.mark.quick
def test_a_record_of_another_name_is_not_taken_for_this_one(place: Home) -> None:
    parts = whole("cluster")
    parts["record"]["name"] = "other"
    with written("cluster", parts), pytest.raises(RecordError, match="it is the record of cluster 'other'"):
        clusters.get("main")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


@pytest.mark.quick
def test_a_session_with_unreadable_records_is_stopped_but_not_pruned(
    place: Home, sleeper: subprocess.Popen[bytes]
) -> None:
    parts, who = whole("cluster"), processes.identity(sleeper.pid)
    assert who is not None
    parts["record"]["launcher"] = who.to_json()
    del parts["exit"], parts["running"]["address"]
    directory = make_private(sessions.files("cluster", "main").directory)
    for part, data in parts.items():
        (directory / f"{part}.json").write_text(json.dumps(data))
    # sockets of tests that were here before may be old enough to go
    [row] = [row for row in _prune.prune() if row["kind"] != "sockets"]
    way_out = row["state"].removeprefix("not moved, because it can run: `ports cluster stop main").partition("`")[0]
    assert directory.exists() and way_out in ("", " --force")
    place.ports("cluster", "stop", "main", *way_out.split())
    assert sleeper.wait(5) == -signal.SIGTERM and not directory.exists()


@pytest.mark.quick
def test_what_is_gone_and_says_nothing_that_can_be_read_is_moved_aside(place: Home) -> None:
    parts = whole("cluster")
    parts["record"]["launcher"]["pid"] = 2**22 + 1  # above what Linux gives out
    del parts["exit"], parts["running"]["address"]
    with written("cluster", parts) as directory:
        [row] = _prune.prune()
        assert "moved aside to" in row["state"]
        Path(row["state"].removeprefix("moved aside to ")).rename(directory)
