"""What a cluster or notebook server that starts here runs in: the interpreter, its packages, and the scratch."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from ports import clusters, sessions
from ports.doctor import _judge
from ports.doctor._checks import Check
from ports.probe import space
from ports.state import paths, settings

PACKAGES = ("dask", "distributed", "jupyterlab", "jupyter_server")


def environment() -> Check:
    """Return whether this interpreter can run clusters and notebook servers, and is the one that its user means."""
    return _judge.environment(
        sys.executable,
        {name: _version(name) for name in PACKAGES},
        prefix=os.path.realpath(sys.prefix),
        active=_active(),
        recorded=_recorded(),
        gone=_gone(),
    )


def scratch() -> Check:
    """Return whether the directory is there, safe and large enough in which workers keep what does not fit in memory.

    Raises
    ------
    PortsError
        No cluster would start with it; says why.
    """
    gone = [
        f"cluster {record.name!r} ({record.scratch})"
        for record in _running()
        if isinstance(record, clusters.ClusterRecord) and record.scratch and not Path(record.scratch).exists()
    ]
    place = clusters.scratch_parent(settings.get("cluster.local_directory"))
    return _judge.scratch(space(str(place)), gone)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _active() -> str | None:
    """Return the environment that is activated in this shell."""
    found = settings.variable("VIRTUAL_ENV") or settings.variable("CONDA_PREFIX")
    return os.path.realpath(found) if found else None


def _recorded() -> str | None:
    """Return the interpreter in which commands from other machines run here."""
    with contextlib.suppress(OSError, ValueError):
        found: Any = json.loads(paths.here().host.read_text(encoding="utf-8"))
        return str(found["python"]) if isinstance(found, dict) and found.get("python") else None
    return None


def _gone() -> list[str]:
    """Return what runs here in an interpreter that was removed: it can start no further process."""
    return [
        f"{record.kind} {record.name!r} ({record.interpreter})"
        for record in _running()
        if not Path(record.interpreter).exists()
    ]


def _running() -> Iterator[sessions.SessionRecord]:
    """Yield the records of what runs here."""
    for kind in sessions.FOLDERS:
        for name in sessions.names(kind):
            one = sessions.find(kind, name, sessions.KINDS[kind].record_class())
            if one is not None and one.state == "running" and one.record is not None:
                yield one.record
