"""Links at home to what runs on other hosts: open, list, close.

::

    with ports.tunnels.open("server1:main") as tunnel:
        print(tunnel.url)

A target is ``HOST`` (all clusters and notebook servers of one's own there), ``HOST:NAME`` or ``HOST:PORT``.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ports import hosts
from ports.errors import ConflictError, NotFoundError, PortsError, StartError, TimedOutError, UsageError
from ports.hosts import Target, targets
from ports.probe import SAFE_PATH
from ports.sessions import processes
from ports.state import locked, paths, settings, wait_until
from ports.tunnels import _records as tunnel_records
from ports.tunnels._group import Event, TunnelGroup
from ports.tunnels._local_address import LocalAddress
from ports.tunnels._records import GroupRecord

_LONGEST_OPEN = 300.0  # seconds without a word from the process in the background: a host may be slow to answer
_KEEPER = (
    f"{SAFE_PATH}; "
    # asyncio does without OpenSSL, 4 MB for as long as a tunnel is open; a link to https loads it when it is proved
    "sys.modules['ssl'] = None; import asyncio; del sys.modules['ssl']; "
    "from ports.tunnels.keeper import main; sys.exit(main())"
)

# on Windows, which knows no sessions: it lives on when the terminal is closed
_DETACHED = int(getattr(subprocess, "DETACHED_PROCESS", 0) | getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0))


def open(
    target: str,
    *more: str,
    local_port: int | None = None,
    local: LocalAddress | None = None,
    owner: str | None = None,
    batch: bool | None = None,
) -> TunnelGroup:
    """Open links to all targets until they are closed; a context manager, whose `url` is the first link.

    Parameters
    ----------
    local_port : int, optional
        Port here, where one thing is opened; 0 picks a free one. Default: the same for the same host and name, always.
    local : LocalAddress, optional
        More about where the links are served here, and to whom; instead of `local_port`.
    owner : str, optional
        User whose listener may be opened, where a target names a port.
    batch : bool, optional
        Nobody is asked for a password. Default: ask where there is a terminal.

    Raises
    ------
    PortsError
        The first failure, or NotFoundError where there is nothing to open; nothing stays open then.
    """
    chosen = local or LocalAddress(port=local_port)
    group = open_many((target, *more), local=chosen, owner=owner, batch=batch)
    errors = [one.error for one in group.tunnels if one.error is not None]
    if errors or not any(one.ports for one in group.tunnels):
        group.close()
        raise errors[0] if errors else NotFoundError("cluster or notebook", target, "nothing of yours runs there")
    return group


def open_many(
    wanted: Iterable[str],
    *,
    on_event: Event | None = None,
    local: LocalAddress | None = None,
    owner: str | None = None,
    batch: bool | None = None,
) -> TunnelGroup:
    """Open links to all targets at once; what fails costs the rest nothing and stays in the result with its error.

    Parameters
    ----------
    wanted : iterable of str
        Targets. None: the hosts of the setting ``hosts``.
    on_event : callable, optional
        Is called with the row of a tunnel at each change, from several threads, but one at a time.

    Raises
    ------
    UsageError
        No target at all, one that cannot be, or one local port or socket for several.
    """
    parsed = _parse(wanted)
    _check(parsed, local or LocalAddress(), owner)
    group = TunnelGroup(on_event=on_event)
    try:
        group.open(targets.by_host(parsed), local=local, owner=owner, batch=batch)
        _forget_stopped(group.rows())
    except BaseException:  # Ctrl-C at any moment leaves nothing
        group.close()
        raise
    return group


def open_in_background(
    wanted: Iterable[str],
    *,
    on_event: Event | None = None,
    local: LocalAddress | None = None,
    owner: str | None = None,
) -> builtins.list[dict[str, Any]]:
    """Open links in a process that outlives this one; return their rows once all are up or failed.

    There is one such process for all tunnels in the background. Logins are asked for here, before; it asks nobody.

    Raises
    ------
    UsageError
        As `open_many`.
    ConflictError
        The process runs and goes by another transport than the one chosen here.
    StartError
        The process ended before it could be asked.
    TimedOutError
        It does not answer.
    """
    parsed, chosen = _parse(wanted), local or LocalAddress()
    _check(parsed, chosen, owner)
    if chosen.socket is not None:  # of the directory at hand here
        chosen = replace(chosen, socket=str(Path(chosen.socket).expanduser().absolute()))
    reached = hosts.on_each(targets.by_host(parsed), hosts.login)
    rows: builtins.list[dict[str, Any]] = []
    for alias, error in reached.items():
        if isinstance(error, PortsError):
            rows.append({**hosts.failed_row(alias, error), "local_url": None, "local_port": None})
            if on_event is not None:
                on_event(rows[-1])
    left = [str(one) for one in parsed if not isinstance(reached[one.host], PortsError)]
    if left:
        request = {"targets": left, "local": asdict(chosen), "owner": owner, "transport": hosts.choose_transport()}
        rows += _ask_keeper({"open": request}, on_event)
    return rows


def list() -> builtins.list[dict[str, Any]]:
    """Return all tunnels of this user on this machine, those in the background and those of other terminals.

    The row of a process that died says so (``stopped``), unless the same is open again; that of one that does not
    answer is ``unknown``, and so is that of a record that cannot be read. Nothing is deleted.
    """
    found = [(record, alive) for _, record, alive in tunnel_records.read_all_records()]
    with ThreadPoolExecutor(max_workers=16) as threads:
        several = threads.map(lambda one: _rows_of(*one), found)
        rows = [row for part in several for row in part]
    again = {_linked(row) for row in rows if row["state"] not in ("stopped", "unknown")}
    rows = [row for row in rows if row["state"] != "stopped" or _linked(row) not in again]
    unknown = {"host": None, "kind": "tunnel", "name": None, "state": "unknown", "local_url": None, "local_port": None}
    return [*rows, *({**unknown, "error": str(error)} for error in tunnel_records.unreadable())]


def close(*wanted: str) -> builtins.list[dict[str, Any]]:
    """Close the tunnels that the targets name, whichever process holds them, and return their rows.

    Raises
    ------
    NotFoundError
        No tunnel is open to one of them.
    TimedOutError
        The process that holds one does not answer.
    RecordError
        Nothing is known to be open to one of them, and a record cannot be read, as a newer `ports` wrote it.
    """
    parsed = [targets.parse(text) for text in wanted]
    for target in parsed:
        if not any(
            tunnel_records.is_meant(target, row)
            for _, record, _ in tunnel_records.read_all_records()
            for row in record.rows
        ):
            _tell_unreadable()
            raise NotFoundError("tunnel", str(target), _way_to_tunnel(target))
    return _close(lambda row: any(tunnel_records.is_meant(target, row) for target in parsed))


def close_all() -> builtins.list[dict[str, Any]]:
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


def _check(parsed: Sequence[Target], local: LocalAddress, owner: str | None) -> None:
    local.check()
    if local.is_one and (len(parsed) != 1 or parsed[0] == Target(parsed[0].host)):
        given = f"local port {local.port}" if local.socket is None else f"local socket {local.socket}"
        raise UsageError(f"{given} was given for more than one link; name one target, HOST:NAME")
    if owner is not None and (named := [str(target) for target in parsed if target.port is None]):
        raise UsageError(f"owner {owner!r} was given for {', '.join(named)}; it goes with HOST:PORT only")


def _parse(wanted: Iterable[str]) -> builtins.list[Target]:
    named = builtins.list(wanted) or settings.hosts()
    if not named:
        raise UsageError("no target: name HOST, HOST:NAME or HOST:PORT, or list your hosts in the setting ports.hosts")
    return [targets.parse(text) for text in named]


def _close(is_meant: Callable[[dict[str, Any]], bool]) -> builtins.list[dict[str, Any]]:
    closed = []
    for path, record, alive in tunnel_records.read_all_records():
        meant = [row for row in record.rows if is_meant(row)]
        if not meant or alive is None:
            continue
        last: dict[tuple[Any, ...], dict[str, Any]] = {}
        if alive:
            try:
                answer = tunnel_records.ask(record, {"close": [row["number"] for row in meant]})
                last = {_same(row): row for row in answer.get("closed", ())}
            except TimedOutError:
                if not record.background or not processes.end([record.process], timeout=5):
                    raise
                alive = False
        if not alive:
            _remove(path, record)
        for row in meant:
            counted = {key: last[_same(row)][key] for key in ("sent_bytes", "received_bytes") if _same(row) in last}
            closed.append({**_listed(record, True, row), **counted, "state": "closed", "error": None})
    return closed


def _tell_unreadable() -> None:
    for error in tunnel_records.unreadable():
        raise error


def _forget_stopped(rows: Iterable[dict[str, Any]]) -> None:
    """Remove what processes that were killed left behind, where all that they held is open again, in `rows`."""
    again = {_same(row) for row in rows if not row.get("error")}
    for path, record, alive in tunnel_records.read_all_records():
        if alive is False and again.issuperset(map(_same, record.rows)):
            with contextlib.suppress(OSError):  # `ports prune` removes it, too
                _remove(path, record)


def _same(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["host"], row["kind"], row["name"]


def _way_to_tunnel(target: Target) -> str:
    """Return what to do where no tunnel is as `target` says: its name alone is not enough."""
    rows = [row for _, record, _ in tunnel_records.read_all_records() for row in record.rows]
    places = sorted({f"{row['host']}:{row['name']}" for row in rows if target == Target(str(row["name"]))})
    meant = f"name it with its host: {', '.join(places)}; " if places else ""
    return f"{meant}`ports tunnel list` shows those that are open"


def _linked(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["host"], row["service"], row["name"]


def _remove(path: Path, record: GroupRecord) -> builtins.list[Path]:
    control = Path(record.control)
    pid = path.stem.partition("-")[0]
    # where there are no Unix sockets, it is a port that went with its process
    left = [path] if record.token else [path, control, *control.parent.glob(f"t{pid}-*.sock")]
    found = [one for one in left if one.exists()]
    for one in found:
        one.unlink(missing_ok=True)
    return found


def _rows_of(record: GroupRecord, alive: bool | None) -> builtins.list[dict[str, Any]]:
    """Return the rows of one process as it tells them now: its record does not know of bytes."""
    if not alive:
        return [_listed(record, alive, row) for row in record.rows]
    try:
        rows = tunnel_records.ask(record, {"rows": True}, timeout=3.0)["rows"]
    except (PortsError, KeyError) as error:
        return [{**_listed(record, None, row), "error": str(error)} for row in record.rows]
    return [_listed(record, True, row) for row in rows]


def _listed(record: GroupRecord, alive: bool | None, row: dict[str, Any]) -> dict[str, Any]:
    shown = {key: value for key, value in row.items() if key not in ("ports", "port", "number")}
    shown.update(kind="tunnel", service=row["kind"], pid=record.process.pid, background=record.background)
    shown.update(log=record.log)
    if not alive:
        shown["state"] = "unknown" if alive is None else "stopped"
        shown["error"] = None if alive is None else "the process that held it was killed; open it again"
    return shown


def _ask_keeper(request: dict[str, Any], on_event: Event | None) -> builtins.list[dict[str, Any]]:
    """Return the rows of what the process in the background opened; it is started where none runs."""
    for _ in range(3):
        with locked("keeper", timeout=30):
            record = tunnel_records.keeper() or _spawn()
        try:
            answer = tunnel_records.ask(record, request, timeout=_LONGEST_OPEN, on_line=on_event)
        except TimedOutError:
            left = tunnel_records.keeper()
            if left is not None and left.process == record.process:
                raise
            continue  # it ended in this moment, with its last tunnel
        if "settled" in answer:
            rows: builtins.list[dict[str, Any]] = answer["settled"]
            for row in rows if on_event is not None else ():
                if row.get("note") == "open already":
                    on_event(row)  # type: ignore[misc]
            _forget_stopped(rows)
            return rows
        if "transport" in answer:
            hint = "close them (`ports tunnel close --all`), or leave out --transport"
            raise ConflictError(f"the tunnels in the background go by {answer['transport']}; {hint}")
        _await_end(record)
    raise StartError("the process that keeps the tunnels", "it ended three times", _log())


def _await_end(record: GroupRecord) -> None:
    what = f"end of process {record.process.pid}, which kept tunnels"
    wait_until(lambda: None if processes.is_alive(record.process) else True, timeout=10, what=what)


def _log() -> Path:
    return paths.make_state().logs / "tunnels.log"


def _spawn() -> GroupRecord:
    """Start the process that keeps tunnels in the background, and return its record once it can be asked."""
    log = _log()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o600)
    with os.fdopen(descriptor, "wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", _KEEPER, str(log)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
            creationflags=_DETACHED,
        )
    assert process.stdout is not None
    with process.stdout:
        ready = process.stdout.readline()
    found = tunnel_records.keeper() if ready else None
    if found is not None:
        return found
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
    raise StartError("the process that keeps the tunnels", f"exit status {process.wait(10)}", log, tuple(lines))
