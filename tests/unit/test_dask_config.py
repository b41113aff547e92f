"""What a process has set in Dask's configuration travels to its clusters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dask
import distributed  # noqa: F401 - its defaults are part of the configuration
import pytest

from ports.clusters import _dask, _options
from ports.clusters._options import ClusterRecord
from ports.errors import UsageError
from ports.sessions import new_identity


def record_of() -> ClusterRecord:
    mine, now = new_identity()
    return ClusterRecord(
        kind="cluster", name="main", created_at=now, interpreter="/python", directory="/", started_by=mine
    )


WRITTEN: dict[str, Any] = {"a": {"b-c": 1, "d": 2}, "distributed": {"comm": {"tls": {"ca-file": None}}}}


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"a": {"b-c": 1, "d": 2}}, {}),
        ({"a": {"b_c": 7}}, {"a.b-c": 7}),
        ({"new": {"deep": [1, 2]}}, {"new.deep": [1, 2]}),
        ({"a": {"d": object()}}, {}),
        ({"ports": {"cluster": {"name": "x"}}}, {}),
        ({"distributed": {"comm": {"tls": {"ca-file": "/secret"}}}}, {}),
        ({"distributed": {"client": {"security-loader": "me.load"}}}, {}),
    ],
)
def test_only_what_was_set_and_is_no_secret_travels(config: dict[str, Any], found: dict[str, Any]) -> None:
    assert _options.changed(config, WRITTEN) == found


def test_what_dask_config_set_says_is_found() -> None:
    with dask.config.set({"distributed.scheduler.allowed-failures": 100, "distributed.worker.memory.pause": 0.77}):
        found = _dask.changed_config()
    assert found["distributed.scheduler.allowed-failures"] == 100
    assert found["distributed.worker.memory.pause"] == 0.77


def test_another_value_of_dask_is_a_difference() -> None:
    running = replace(record_of(), dask_config={"a.b": 1})
    asked = {"a.b": 2, "a.c": 3}
    same = {"interpreter": running.interpreter, "directory": running.directory}
    told = _options.differences(running, {}, **same, dask_config=asked)
    assert told == ("dask's a.b is 1, not 2", "dask's a.c is not 3 there")


@pytest.mark.parametrize(
    ("n", "cores", "memory", "found"),
    [(2, None, None, 2), (None, 5, None, 3), (None, None, 2500, 3), (1, 8, 1000, 4), (0, None, None, 0)],
)
def test_scale_takes_cores_and_memory(n: int | None, cores: int | None, memory: int | None, found: int) -> None:
    record = replace(record_of(), threads_per_worker=2, memory_limit=1000)
    assert _options.how_many(record, n, cores, memory) == found


def test_scale_without_a_size_is_refused() -> None:
    with pytest.raises(UsageError, match="needs a number of workers"):
        _options.how_many(record_of(), None, None, None)


@pytest.mark.parametrize(("file", "found"), [("/work/mine.py", True), ("/other/mine.py", False), ("", False)])
def test_a_directory_matters_where_modules_of_it_are_used(file: str, found: bool) -> None:
    assert _options.directory_matters(record_of(), "/work", [file]) is found
