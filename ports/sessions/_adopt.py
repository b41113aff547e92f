"""Take over the records of another machine that shares this home, and is gone, or was this one under another name."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path

from ports import probe
from ports.errors import NotFoundError, RecordError, StoreError, UsageError
from ports.sessions import _kinds
from ports.sessions._records import Exit
from ports.state import paths, record_this_interpreter, records

_FOLDERS = (*_kinds.FOLDERS.values(), "tokens", "logs", "held")
_LINKS = "links.json"


def other_names(*, same_id: bool = False) -> list[str]:
    """Return the names of other machines that have records in this home; with `same_id`, of this machine's id only."""
    own = paths.machine()
    found = [one for one in paths.other_machines() if not same_id or one.root.name.partition("-")[0] == own]
    return sorted({name for one in found if (name := _name(one)) is not None})


def adopt(name: str) -> list[str]:
    """Take over the records of the machine called `name`; return its sessions that were not known to have ended.

    They count as ended. Tokens, logs and the ports of links move here, except where this machine has its own.

    Raises
    ------
    NotFoundError
        No machine of that name has records in this home.
    UsageError
        One of its sessions runs.
    """
    found = [one for one in paths.other_machines() if _name(one) == name]
    if not found:
        known = ", ".join(other_names())
        hint = f"there are records of {known}" if known else "no other machine has records in this home"
        raise NotFoundError("machine", name, hint)
    record_this_interpreter()
    left = [session for one in found for session in _sessions(one, name)]
    for one in found:
        _take(one)
    return [f"{session.parent.name.removesuffix('s')} {session.name}" for session in left]


def _name(machine: paths.HostPaths) -> str | None:
    with contextlib.suppress(RecordError):
        found = (records.read_json(machine.host) or {}).get("name")
        return found if isinstance(found, str) else None
    return None


def _sessions(machine: paths.HostPaths, name: str) -> list[Path]:
    """Return the sessions of a machine that have no end; raises UsageError if one of them runs."""
    found = [
        path
        for kind in _kinds.FOLDERS
        for path in sorted(_kinds.folder(kind, machine).glob("[a-z]*"))
        if paths.NAME.fullmatch(path.name) and not (path / "exit.json").exists()
    ]
    for path in found:
        if probe.is_locked(str(path / probe.LOCK)):
            raise UsageError(f"{path.parent.name.removesuffix('s')} {path.name!r} of {name} runs; stop it there first")
    return found


def _take(machine: paths.HostPaths) -> None:
    own = paths.make_state()
    why = Exit(ended_at=time.time(), reason="its machine is gone, or was restarted under another name")
    try:
        for path in [path for folder in _FOLDERS for path in sorted((machine.root / folder).glob("[!.]*"))]:
            is_session = path.parent.name in _kinds.FOLDERS.values()
            if is_session and not (path / "exit.json").exists():
                records.write(path / "exit.json", why)
            target = own.root / path.parent.name / path.name
            target.parent.mkdir(mode=0o700, exist_ok=True)
            if not target.exists():
                path.rename(target)
        links = _links(machine) | _links(own)
        if links:
            own.tunnels.mkdir(mode=0o700, exist_ok=True)
            records.write_json(own.tunnels / _LINKS, {"format": records.FORMAT, "ports": links})
        shutil.rmtree(machine.root)
    except OSError as error:
        raise StoreError(machine.root, error.strerror or str(error)) from error


def _links(machine: paths.HostPaths) -> dict[str, int]:
    with contextlib.suppress(RecordError):
        found = (records.read_json(machine.tunnels / _LINKS) or {}).get("ports")
        return dict(found) if isinstance(found, dict) else {}
    return {}
