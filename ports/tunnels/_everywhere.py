"""The tunnels of all processes of this user on this machine: list, close, remove what dead processes left."""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

from ports.errors import NotFoundError, PortsError
from ports.hosts import Target, targets
from ports.sessions import processes
from ports.tunnels import _records as tunnel_records
from ports.tunnels._records import GroupRecord
from ports.tunnels._rows import ListedTunnelRow


def list() -> Sequence[Mapping[str, Any]]:
    """Return all tunnels of this user on this machine, those in the background and those of other terminals.

    The rows of a process that died are ``stopped``, and left out if the same is open again. Those of a process that
    does not answer are ``unknown``, and so is a record that cannot be read. Nothing is deleted.
    """
    found = [(record, alive) for _, record, alive in tunnel_records.read_all_records()]
    with ThreadPoolExecutor(max_workers=16) as threads:
        several = threads.map(lambda one: _rows_of(*one), found)
        rows = [row for part in several for row in part]
    again = {_linked(row) for row in rows if row["state"] not in ("stopped", "unknown")}
    rows = [row for row in rows if row["state"] != "stopped" or _linked(row) not in again]
    unknown = {"host": None, "kind": "tunnel", "name": None, "state": "unknown", "local_url": None, "local_port": None}
    return [*rows, *({**unknown, "error": str(error)} for error in tunnel_records.unreadable_records())]


def with_targets(rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return rows of this machine's listeners; those that are local ends of tunnels say where they lead."""
    ends = local_ends() if any(row["kind"] == "tunnel" for row in rows) else {}
    return [{**row, "reason": f"leads to {ends[row['port']]}"} if _is_end(row, ends) else row for row in rows]


def without_ends(rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return rows of this machine's listeners without the local ends of tunnels, which `list` shows."""
    ends = local_ends() if any(row["kind"] == "tunnel" for row in rows) else {}
    return [row for row in rows if not _is_end(row, ends)]


def local_ends() -> dict[int, str]:
    """Return the local ports of all tunnels of this user, and where each leads."""
    return {
        port: f"{one['host']}:{one['name']}"
        for _, record, alive in tunnel_records.read_all_records()
        for one in (record.rows if alive else ())
        for port in one.get("ports", ())
    }


def _is_end(row: Mapping[str, Any], ends: Mapping[int, str]) -> bool:
    return row["kind"] == "tunnel" and row.get("port") in ends


def close(*wanted: str) -> builtins.list[ListedTunnelRow]:
    """Close the tunnels that the targets name, whichever process holds them, and return their rows.

    Raises
    ------
    NotFoundError
        No tunnel is open to one of them.
    TimedOutError
        A process that keeps one does not answer.
    RecordError
        No tunnel is known to one of them, and a record cannot be read because a newer `ports` wrote it.
    """
    parsed = [targets.parse(text) for text in wanted]
    for target in parsed:
        if not any(
            tunnel_records.is_meant(target, row)
            for _, record, _ in tunnel_records.read_all_records()
            for row in record.rows
        ):
            _tell_unreadable()
            raise NotFoundError("tunnel", str(target), _hint(target))
    return _close(lambda row: any(tunnel_records.is_meant(target, row) for target in parsed))


def close_all() -> builtins.list[ListedTunnelRow]:
    """Close all tunnels of this user on this machine, and return their rows; raises as `close`, at the end."""
    closed = _close(lambda row: True)
    _tell_unreadable()
    return closed


def prune() -> builtins.list[Path]:
    """Remove what dead processes left behind, and return the paths."""
    removed = []
    for path, record, alive in tunnel_records.read_all_records():
        if alive is False:
            removed += _remove(path, record)
    return removed


def _close(is_meant: Callable[[dict[str, Any]], bool]) -> builtins.list[ListedTunnelRow]:
    closed: builtins.list[ListedTunnelRow] = []
    for path, record, alive in tunnel_records.read_all_records():
        meant = [row for row in record.rows if is_meant(row)]
        if not meant or alive is None:
            continue
        last: dict[tuple[Any, ...], dict[str, Any]] = {}
        if alive:
            try:
                answer = tunnel_records.ask(record, {"close": [row["number"] for row in meant]})
                last = {_same(row): row for row in answer.get("closed", ())}
            except PortsError:
                if not record.background or not processes.end([record.process], timeout=5):
                    raise
                alive = False
        if not alive:
            _remove(path, record)
        for row in meant:
            shown = _listed(record, True, row)
            shown["state"], shown["error"], shown["note"] = "closed", None, None
            if counted := last.get(_same(row)):
                shown["sent_bytes"], shown["received_bytes"] = counted["sent_bytes"], counted["received_bytes"]
            closed.append(shown)
    return closed


def _tell_unreadable() -> None:
    for error in tunnel_records.unreadable_records():
        raise error


def forget_stopped(rows: Iterable[Mapping[str, Any]]) -> None:
    """Remove the records of killed processes if all that they kept is open again, in `rows`."""
    again = {_same(row) for row in rows if not row.get("error")}
    for path, record, alive in tunnel_records.read_all_records():
        if alive is False and again.issuperset(map(_same, record.rows)):
            with contextlib.suppress(OSError):  # `ports prune` removes it, too
                _remove(path, record)


def _same(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["host"], row["kind"], row["name"]


def _hint(target: Target) -> str:
    """Return what to do if `target` names no tunnel; a name without its host is not enough."""
    rows = [row for _, record, _ in tunnel_records.read_all_records() for row in record.rows]
    same_name = sorted({f"{row['host']}:{row['name']}" for row in rows if target == Target(str(row["name"]))})
    meant = f"name it with its host: {', '.join(same_name)}; " if same_name else ""
    return f"{meant}`ports tunnel list` shows those that are open"


def _linked(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["host"], row["service"], row["name"]


def _remove(path: Path, record: GroupRecord) -> builtins.list[Path]:
    control = Path(record.control)
    pid = path.stem.partition("-")[0]
    # without Unix sockets, the control is a port that went with its process
    left = [path] if record.token else [path, control, *control.parent.glob(f"t{pid}-*.sock")]
    found = [one for one in left if one.exists()]
    for one in found:
        one.unlink(missing_ok=True)
    return found


def _rows_of(record: GroupRecord, alive: bool | None) -> builtins.list[ListedTunnelRow]:
    """Return the rows of one process as it reports them now: its record has no byte counts."""
    if not alive:
        return [_listed(record, alive, row) for row in record.rows]
    try:
        rows = tunnel_records.ask(record, {"rows": True}, timeout=3.0)["rows"]
    except (PortsError, KeyError) as error:
        return [{**_listed(record, None, row), "error": str(error)} for row in record.rows]
    return [_listed(record, True, row) for row in rows]


def _listed(record: GroupRecord, alive: bool | None, row: Mapping[str, Any]) -> ListedTunnelRow:
    shown = {key: value for key, value in row.items() if key not in ("machine", "number", "port", "ports")}
    shown.update(kind="tunnel", service=row["kind"], pid=record.process.pid, background=record.background)
    shown.update(log=record.log)
    if not alive:
        shown["state"] = "unknown" if alive is None else "stopped"
        shown["error"] = None if alive is None else "the process that kept it was killed; open it again"
    return cast(ListedTunnelRow, shown)
