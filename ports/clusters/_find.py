"""Clusters that are there already: list them, get one, read its log, remove what stopped ones left, reuse one."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ports import sessions
from ports.clusters import _dask, _options, _text
from ports.clusters._cluster import Cluster
from ports.clusters._options import KIND, ClusterRecord
from ports.clusters._snapshot import Snapshot
from ports.errors import DifferentClusterError, NameInUseError, NotFoundError, warn
from ports.sessions import Found, environments
from ports.state import paths, settings

if TYPE_CHECKING:
    import builtins

_RECENT_SECONDS = 3600.0  # a death of a worker before that is no news to who connects now
_TOLD: set[tuple[str, float, str]] = set()  # clusters, and differences that were reported in this process


def list() -> builtins.list[Cluster]:
    """Return my clusters on this machine by name: running, starting, stopped (with the reason) or unknown."""
    found = [sessions.find(KIND, name, ClusterRecord) for name in sessions.names(KIND)]
    return [Cluster(Snapshot(one)) for one in found if one is not None]


def get(name: str | None = None) -> Cluster:
    """Return my cluster `name` on this machine, whatever its state.

    Raises
    ------
    NotFoundError
        There is none of that name.
    RecordError
        Its record cannot be read.
    """
    name = paths.check_name(name or settings.get("cluster.name"))
    found = sessions.find(KIND, name, ClusterRecord)
    if found is None:
        raise NotFoundError(KIND, name, _hint(name))
    if found.record is None:
        raise found.error or NotFoundError(KIND, name, _hint(name))
    return Cluster(Snapshot(found))


def logs(name: str | None = None, lines: int = 0, *, warnings: bool = False) -> tuple[str, ...]:
    """Return the last `lines` lines of the log of cluster `name`, even if it is stopped and removed; 0: all.

    With `warnings`, only lines of warning level or worse, with the lines that continue them.

    Raises
    ------
    NotFoundError
        There never was one of that name.
    """
    name = paths.check_name(name or settings.get("cluster.name"))
    log = sessions.files(KIND, name).log
    if not log.exists():
        raise NotFoundError(KIND, name, _hint(name))
    return sessions.tail(log, lines, warnings=warnings)


def stop(name: str | None = None) -> None:
    """Stop my cluster `name` on this machine; raises what `get` and `Cluster.stop` do."""
    get(name).stop()


def prune() -> builtins.list[str]:
    """Remove the records and scratch of clusters that have stopped, and return their names; logs stay."""
    stopped = [one for one in list() if one.state == "stopped"]
    for one in stopped:
        with contextlib.suppress(NameInUseError):  # it has been started again since
            one.stop()
    return [one.name for one in stopped]


def _hint(name: str) -> str:
    if its_node := sessions.elsewhere(KIND, name):
        return its_node
    there = sessions.names(KIND)
    return f"there is {', '.join(there)}" if there else "`ports cluster start` starts one"


def reuse(found: Found[ClusterRecord], asked: Mapping[str, Any], how: str) -> Cluster:
    """Return a running cluster; with `how` ``"exact"`` or ``"warn"``, compare it with what is asked for first.

    Raises
    ------
    DifferentClusterError
        It differs, and `how` is ``"exact"``.
    """
    now = Snapshot(found)
    record = now.record
    different = () if how == "any" else _differences(record, asked, is_told_once=how == "warn")
    if different and how == "exact":
        raise DifferentClusterError(record.name, different)
    if different:
        hint = _options.way_to(record, asked.get("n_workers"))
        hint += f"pass name= for another, stop it (`ports cluster stop {record.name}`), or pass reuse='any'"
        warn(f"cluster {record.name!r} runs, but {'; '.join(different)}: {hint}")
    _warn_of_versions(now)
    counts = now.summary or {}
    deaths = counts.get("memory_deaths")
    if deaths is not None and time.time() - deaths["at"] < _RECENT_SECONDS:
        note = _text.memory_note(deaths, record.memory_typed, counts.get("n_asked"))
        warn(f"cluster {record.name!r}: {note}")
    if counts.get("ends_at"):
        warn(f"cluster {record.name!r}: {_text.cluster_note(counts)}")
    return Cluster(now)


def _differences(record: ClusterRecord, asked: Mapping[str, Any], *, is_told_once: bool) -> tuple[str, ...]:
    interpreter = sys.executable
    if asked.get("env") is not None:
        environment = environments.find(asked["env"], Path.cwd(), environ=sessions.surroundings.of_a_session())
        interpreter = str(environment.python)
    elif record.env is not None and record.env == settings.get("cluster.env"):
        interpreter = record.interpreter
    if is_same_interpreter(record.interpreter, interpreter):
        interpreter = record.interpreter
    typed = _options.typed(asked.get("memory_limit"))
    if "memory_limit" in asked:
        asked = {**asked, "memory_limit": _dask.parse_bytes(asked["memory_limit"])}
    directory = str(Path.cwd())
    files = [str(getattr(module, "__file__", None) or "") for module in [*sys.modules.values()]]
    if not (_options.directory_matters(record, directory, files) and _is_news(record, directory, is_told_once)):
        directory = record.directory
    config = _dask.changed_config()
    # A value that equals Dask's default looks like one that nobody has set.
    for key, value in _dask.configured(set(record.dask_config) - set(config)).items():
        if value != record.dask_config[key] and _is_news(record, f"{key}: {value!r}", is_told_once):
            config[key] = value
    return _options.differences(
        record, asked, interpreter=interpreter, directory=directory, dask_config=config, typed=typed
    )


def _is_news(record: ClusterRecord, what: str, is_told_once: bool) -> bool:
    """Say whether a difference counts: one that a person may not mean is reported once in a process."""
    seen = (record.name, record.created_at, what)
    is_told = is_told_once and seen in _TOLD
    if is_told_once:
        _TOLD.add(seen)
    return not is_told


def is_same_interpreter(one: str, other: str) -> bool:
    """Say whether two paths are one interpreter of one environment: ``bin/python`` and ``bin/python3`` are."""
    return Path(one).parent == Path(other).parent and Path(one).resolve() == Path(other).resolve()


def _warn_of_versions(now: Snapshot) -> None:
    """Warn where Python, Dask or distributed differ between this process and the cluster."""
    here, there = _dask.versions(), now.running.versions
    for package, version in here.items():
        if there.get(package) != version:
            warn(
                f"{package} is {version} here and {there.get(package)} in cluster {now.name!r}; run this with "
                f"{now.record.interpreter}, or start another cluster with name="
            )
