"""The kinds of session: the name of each, where its records are, what it can do, how its process is recognised."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ports import probe
from ports.state import paths, settings


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of session.

    Parameters
    ----------
    name : str
        Its name in rows, in messages and on the command line: ``"cluster"``.
    folder : str, optional
        The directory of its records, below that of the machine. None: it has no records, tmux alone knows of it.
    record : str, optional
        The class of its ``record.json``, as ``"module:name"``: packages above this one define it.
    verbs : tuple of str
        What ``ports KIND VERB`` does with it. Empty where the kind is a command itself.
    command_line : str
        A regular expression that the command line of its own process matches.
    states : tuple of str
        The states that it can be in.
    only_name : str, optional
        The name of the one that there can be. None: the user names them.
    """

    name: str
    folder: str | None = None
    record: str | None = None
    verbs: tuple[str, ...] = ()
    command_line: str
    states: tuple[str, ...]
    only_name: str | None = None

    def record_class(self) -> type[Any]:
        """Import and return the class of its ``record.json``."""
        assert self.record is not None, f"a {self.name} has no records"
        module, _, name = self.record.partition(":")
        found: type[Any] = getattr(importlib.import_module(module), name)
        return found


_RECORDED = ("starting", "running", "stopped", "unknown")
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            name="cluster",
            folder="clusters",
            record="ports.clusters:ClusterRecord",
            verbs=("start", "list", "show", "scale", "restart", "logs", "attach", "stop"),
            command_line=r"\bports_owner\b",
            states=_RECORDED,
        ),
        Kind(
            name="notebook",
            folder="notebooks",
            record="ports.notebooks:NotebookRecord",
            verbs=("start", "list", "show", "logs", "attach", "stop"),
            command_line=r"\bjupyter_launch\.py (lab|server) ",
            states=_RECORDED,
        ),
        Kind(
            name="resource",
            folder="resources",
            record="ports.jobs:ResourceRecord",
            verbs=("start", "list", "show", "drain", "resume", "logs", "stop", "notify"),
            command_line=r"\bports\.jobs\.resource import loop\b",
            states=_RECORDED,
            only_name="jobs",
        ),
        Kind(name="shell", command_line=r"\blaunch\.py \S*/shell-\S+\.launch$", states=("running",)),
    )
}
#: The kinds that have records, with the directory of each: what a listing, the probe and `ports prune` look at.
FOLDERS: dict[str, str] = {kind.name: kind.folder for kind in KINDS.values() if kind.folder is not None}


@dataclass(frozen=True)
class SessionPaths:
    """The files of one session."""

    directory: Path
    log: Path

    @property
    def record(self) -> Path:
        """What was asked for, and by whom. It exists as soon as the name is claimed."""
        return self.directory / "record.json"

    @property
    def running(self) -> Path:
        """Address and process. The session writes it once it answers."""
        return self.directory / "running.json"

    @property
    def exit(self) -> Path:
        """How the session ended. The launcher writes it."""
        return self.directory / "exit.json"

    @property
    def launch(self) -> Path:
        """Arguments and environment for the launcher, which deletes the file."""
        return self.directory / "launch.json"

    @property
    def lock(self) -> Path:
        """The file that the launcher keeps locked for as long as it lives."""
        return self.directory / probe.LOCK

    @property
    def credentials(self) -> Path:
        """Certificate and key (PEM)."""
        return self.directory / "credentials"


def default_name(kind: str) -> str:
    """Return the name of the `kind` that is meant where none is given."""
    return KINDS[kind].only_name or str(settings.get(f"{kind}.name"))


def folder(kind: str, machine: paths.HostPaths | None = None) -> Path:
    """Return the directory of all records of `kind` on `machine`; default: this one."""
    return (machine or paths.here()).root / FOLDERS[kind]


def files(kind: str, name: str, machine: paths.HostPaths | None = None) -> SessionPaths:
    """Return the files of the `kind` called `name` on `machine`; default: this one.

    Raises
    ------
    InvalidNameError
        `name` is not a name.
    """
    own = machine or paths.here()
    return SessionPaths(folder(kind, own) / paths.check_name(name), own.logs / f"{kind}-{name}.log")


def tmux_session(kind: str, name: str) -> str:
    """Return the name of the tmux session of the `kind` called `name`: ``cluster-main``."""
    return f"{kind}-{name}"
