"""Take over the records of another machine that shares this home, and is gone, or was this one under another name."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ports import probe
from ports.errors import NotFoundError, RecordError, StoreError, UsageError
from ports.sessions import _kinds
from ports.sessions._end import remove_outside
from ports.sessions._records import Exit, SessionRecord
from ports.state import paths, record_this_interpreter, records

_FOLDERS = (*_kinds.FOLDERS.values(), "tokens", "logs")
_LINKS = "links.json"


def other_names(*, same_id: bool = False) -> list[str]:
    """Return the names of other machines that have records in this home; with `same_id`, of this machine's id only."""
    own = paths.machine()
    found = [one for one in paths.other_machines() if not same_id or one.root.name.partition("-")[0] == own]
    return sorted({name for one in found if (name := _name(one)) is not None})


def adopt(name: str) -> list[str]:
    """Take over the records of the machine called `name`; return its sessions that were not known to have ended.

    They count as ended. Tokens, logs and the ports of links move here, except where this machine has its own. All kept
    results move here.

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
        _take_results(machine, own)
        for path in [path for folder in _FOLDERS for path in sorted((machine.root / folder).glob("[!.]*"))]:
            is_session = path.parent.name in _kinds.FOLDERS.values()
            if is_session and not (path / "exit.json").exists():
                records.write(path / "exit.json", why)
            target = own.root / path.parent.name / path.name
            target.parent.mkdir(mode=0o700, exist_ok=True)
            if not target.exists():
                for record in path.glob("*.json") if is_session else ():
                    _correct(record, {str(machine.root): str(own.root)})
                path.rename(target)
            elif is_session:
                _remove_what_it_left(path)
        links = _links(machine) | _links(own)
        if links:
            own.tunnels.mkdir(mode=0o700, exist_ok=True)
            records.write_json(own.tunnels / _LINKS, {"format": records.FORMAT, "ports": links})
        shutil.rmtree(machine.root)
    except OSError as error:
        raise StoreError(machine.root, error.strerror or str(error)) from error


def _take_results(machine: paths.HostPaths, own: paths.HostPaths) -> None:
    """Move kept results here, and then the notes that say where they are. Nothing of either is ever dropped."""
    places = {}
    for path in sorted(machine.held.glob("*-held")):
        own.held.mkdir(mode=0o700, exist_ok=True)
        target = _free(own.held, path.name)
        path.rename(target)
        places[str(path)] = str(target)
    for note in sorted(machine.held.glob("*-held.json")):
        own.held.mkdir(mode=0o700, exist_ok=True)
        _correct(note, {**places, str(machine.root): str(own.root)})
        note.rename(_free(own.held, note.name))


def _free(folder: Path, name: str) -> Path:
    """Return the path of `name` in `folder`, with a number where something has that name: ``x-2-held``."""
    head, held, tail = name.rpartition("-held")
    names = itertools.chain([name], (f"{head}-{n}{held}{tail}" for n in itertools.count(2)))
    return next(path for path in (folder / one for one in names) if not path.exists())


def _correct(record: Path, places: Mapping[str, str]) -> None:
    """Let a record name the new place of what has moved. One that cannot be read stays as it is."""
    with contextlib.suppress(RecordError):
        before = records.read_json(record)
        if before is not None and (after := moved(before, places)) != before:
            records.write_json(record, after)


def moved(value: Any, places: Mapping[str, str]) -> Any:
    """Return `value` with the new place of each path in it that is, or is below, one of `places`: old → new."""
    if isinstance(value, dict):
        return {key: moved(part, places) for key, part in value.items()}
    if isinstance(value, list):
        return [moved(part, places) for part in value]
    if isinstance(value, str):
        for old, new in places.items():
            if value == old or value.startswith(f"{old}/"):
                return new + value[len(old) :]
    return value


def _remove_what_it_left(directory: Path) -> None:
    """Remove what a session left elsewhere, whose records stay behind because this machine has one of its name."""
    kind = next(kind for kind in _kinds.KINDS.values() if kind.folder == directory.parent.name)
    with contextlib.suppress(RecordError):
        record: SessionRecord | None = records.read(directory / "record.json", kind.record_class())
        for path in record.outside if record is not None else ():
            remove_outside(Path(path))


def _links(machine: paths.HostPaths) -> dict[str, int]:
    with contextlib.suppress(RecordError):
        found = (records.read_json(machine.tunnels / _LINKS) or {}).get("ports")
        return dict(found) if isinstance(found, dict) else {}
    return {}
