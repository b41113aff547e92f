"""Links at home to what runs on other hosts: open, list, close.

::

    with ports.tunnels.open("server1:main") as tunnel:
        print(tunnel.url)

A target is ``HOST`` (all clusters and notebook servers of one's own there), ``HOST:NAME`` or ``HOST:PORT``.

::

    targets → services (which far listeners) → openings (forward, local port, proof) → relay (the bytes)
                                               tunnel_records (for other processes) · keeper (in the background)
"""

from __future__ import annotations

import builtins
import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ports import config, paths, remote, targets
from ports.adapters import processes
from ports.errors import NotFoundError, PortsError, StartError, TimedOutError, UsageError
from ports.targets import Target
from ports.tunnels import proof
from ports.tunnels import records as tunnel_records
from ports.tunnels.opening import Event, Opening
from ports.tunnels.records import OpeningRecord

_PAGES = ("cluster", "notebook")
# "-c" and "-m" put the directory at hand on the path: a module that another user left there would run
_KEEPER = "import sys; sys.path[:] = filter(None, sys.path); from ports.tunnels.keeper import main; sys.exit(main())"


def open(
    target: str,
    *more: str,
    local_port: int | None = None,
    owner: str | None = None,
    batch: bool | None = None,
) -> Opening:
    """Open links to all targets until they are closed; a context manager, whose `url` is the first link.

    Parameters
    ----------
    local_port : int, optional
        Port here, where one thing is opened; 0 picks a free one. Default: the same for the same host and name, always.
    owner : str, optional
        User whose listener may be opened, where a target names a port.
    batch : bool, optional
        Nobody is asked for a password. Default: ask where there is a terminal.

    Raises
    ------
    PortsError
        The first failure, or NotFoundError where there is nothing to open; nothing stays open then.
    """
    opening = open_many((target, *more), local_port=local_port, owner=owner, batch=batch)
    errors = [one.error for one in opening.tunnels if one.error is not None]
    if errors or not any(one.url for one in opening.tunnels):
        opening.close()
        raise errors[0] if errors else NotFoundError("cluster or notebook", target, "nothing of yours runs there")
    return opening


def open_many(
    wanted: Iterable[str],
    *,
    on_event: Event | None = None,
    local_port: int | None = None,
    owner: str | None = None,
    batch: bool | None = None,
    log: str | None = None,
    skip: Collection[tuple[str, str, str]] = (),
) -> Opening:
    """Open links to all targets at once; what fails costs the rest nothing and stays in the result with its error.

    Parameters
    ----------
    wanted : iterable of str
        Targets. None: the hosts of the setting ``hosts``.
    on_event : callable, optional
        Is called with the row of a tunnel at each change, from several threads, but one at a time.
    log : str, optional
        Path of the log of a process that serves nothing but these tunnels.
    skip : collection of tuple
        Host, kind and name of what is not opened.

    Raises
    ------
    UsageError
        No target at all, one that cannot be, or `local_port` for more than one.
    """
    parsed = _parse(wanted)
    if local_port is not None and (len(parsed) != 1 or parsed[0] == Target(parsed[0].host)):
        raise UsageError(f"local port {local_port} was given for more than one link; name one target, HOST:NAME")
    _check_owner(parsed, owner)
    opening = Opening(on_event=on_event, local_port=local_port, owner=owner, batch=batch, log=log, skip=skip)
    try:
        opening.open(targets.by_host(parsed))
    except BaseException:  # Ctrl-C at any moment leaves nothing
        opening.close()
        raise
    return opening


def open_in_background(
    wanted: Iterable[str],
    *,
    on_event: Event | None = None,
    local_port: int | None = None,
    owner: str | None = None,
) -> builtins.list[dict[str, Any]]:
    """Open links in a process of their own that outlives this one; return their rows once all are up or failed.

    Logins are asked for here, before; that process asks nobody. What another such process has open already is not
    opened again: its row is returned.

    Raises
    ------
    UsageError
        As `open_many`.
    StartError
        The process ended before it told what it opened.
    """
    parsed = _parse(wanted)
    by_host = targets.by_host(parsed)
    reached = remote.many(by_host, remote.login)
    rows: builtins.list[dict[str, Any]] = []
    for alias, error in reached.items():
        if isinstance(error, PortsError):
            rows.append({**remote.failed_row(alias, error), "local_url": None, "local_port": None})
            if on_event is not None:
                on_event(rows[-1])
    left = [str(one) for one in parsed if not isinstance(reached[one.host], PortsError)]
    if left:
        there = _open_already(map(targets.parse, left)) if local_port is None else []
        skip = [(row["host"], row["kind"], row["name"]) for row in there]
        request = {"targets": left, "local_port": local_port, "owner": owner, "skip": skip}
        rows += [*there, *_spawn(request, on_event)]
        if on_event is not None:
            for row in there:
                on_event(row)
    return rows


def list() -> builtins.list[dict[str, Any]]:
    """Return all tunnels of this user on this machine, those in the background and those of other terminals.

    The row of a process that died says so (``stopped``), and so does one whose cluster or notebook server answers no
    longer (``down``); that of a record that cannot be read is ``unknown``. Nothing is deleted.
    """
    found = [(record, alive, row) for _, record, alive in tunnel_records.read_all() for row in record.rows]
    with ThreadPoolExecutor(max_workers=16) as threads:
        rows = builtins.list(threads.map(lambda one: _checked(*one), found))
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
        if not any(_is_meant(target, row) for _, record, _ in tunnel_records.read_all() for row in record.rows):
            _tell_unreadable()
            raise NotFoundError("tunnel", str(target), "`ports tunnel list` shows those that are open")
    return _close(lambda row: any(_is_meant(target, row) for target in parsed))


def close_all() -> builtins.list[dict[str, Any]]:
    """Close all tunnels of this user on this machine, and return their rows; raises as `close`, at the end."""
    closed = _close(lambda row: True)
    _tell_unreadable()
    return closed


def prune() -> builtins.list[Path]:
    """Remove what dead processes left behind, and return the paths."""
    removed = []
    for path, record, alive in tunnel_records.read_all():
        if alive is False:
            removed += _remove(path, record)
    return removed


def _check_owner(parsed: Iterable[Target], owner: str | None) -> None:
    if owner is not None and (named := [str(target) for target in parsed if target.port is None]):
        raise UsageError(f"owner {owner!r} was given for {', '.join(named)}; it goes with HOST:PORT only")


def _parse(wanted: Iterable[str]) -> builtins.list[Target]:
    named = builtins.list(wanted) or config.hosts()
    if not named:
        raise UsageError("no target: name HOST, HOST:NAME or HOST:PORT, or list your hosts in the setting ports.hosts")
    return [targets.parse(text) for text in named]


def _close(is_meant: Callable[[dict[str, Any]], bool]) -> builtins.list[dict[str, Any]]:
    closed = []
    for path, record, alive in tunnel_records.read_all():
        meant = [row for row in record.rows if is_meant(row)]
        if not meant or alive is None:
            continue
        if alive:
            try:
                ports = [port for row in meant for port in row.get("ports", ())]
                tunnel_records.ask(record, {"close": ports})
            except TimedOutError:
                if not record.background or not processes.end([record.process], timeout=5):
                    raise
                alive = False
        if not alive:
            _remove(path, record)
        closed += [{**_listed(record, True, row), "state": "closed"} for row in meant]
    return closed


def _tell_unreadable() -> None:
    for error in tunnel_records.unreadable():
        raise error


def _remove(path: Path, record: OpeningRecord) -> builtins.list[Path]:
    control = Path(record.control)
    number = path.stem  # <pid>-<number>, as its sockets
    left = [path, control, *control.parent.glob(f"t{number}-*.sock")]
    found = [one for one in left if one.exists()]
    for one in found:
        one.unlink(missing_ok=True)
    return found


def _listed(record: OpeningRecord, alive: bool | None, row: dict[str, Any]) -> dict[str, Any]:
    shown = {key: value for key, value in row.items() if key not in ("ports", "port")}
    shown.update(kind="tunnel", service=row["kind"], pid=record.process.pid, background=record.background)
    shown.update(log=record.log)
    if not alive:
        shown["state"] = "unknown" if alive is None else "stopped"
        shown["error"] = None if alive is None else "the process that held it was killed; open it again"
    return shown


def _checked(record: OpeningRecord, alive: bool | None, row: dict[str, Any]) -> dict[str, Any]:
    shown = _listed(record, alive, row)
    if shown["state"] == "open" and row["kind"] in _PAGES and not _answers(row):
        shown.update(state="down", error="nothing answers there now; it was stopped, or the connection is slow")
    return shown


def _answers(row: dict[str, Any]) -> bool:
    """Tell whether the link of a row leads to something that speaks HTTP."""
    link = urlsplit(row["local_url"])
    path = link._replace(scheme="", netloc="").geturl()
    return proof.prove(row["local_port"], ask=True, scheme=link.scheme, path=path, timeout=3.0).state == "open"


def _open_already(wanted: Iterable[Target]) -> builtins.list[dict[str, Any]]:
    """Return the rows of what background processes have open and answers, of what `wanted` means."""
    sought, found = builtins.list(wanted), []
    for _, record, alive in tunnel_records.read_all():
        for row in record.rows if alive and record.background else ():
            meant = any(_is_meant(one, row) and (one != Target(one.host) or row["kind"] in _PAGES) for one in sought)
            if meant and row["state"] == "open" and row["kind"] in _PAGES and _answers(row):
                plain = {key: value for key, value in row.items() if key not in ("ports", "port")}
                found.append({**plain, "note": "open already"})
    return found


def _is_meant(target: Target, row: dict[str, Any]) -> bool:
    if row["host"] != target.host:
        return False
    if target.port is not None:
        return target.port in (row.get("port"), row["local_port"]) or row["name"] == str(target.port)
    return target.name is None or row["name"] == target.name


def _spawn(request: dict[str, Any], on_event: Event | None) -> builtins.list[dict[str, Any]]:
    """Start the process that keeps the tunnels, and return what it reports until all are up or have failed."""
    log = paths.make_state().logs / "tunnels.log"
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", _KEEPER, *request["targets"]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )
    assert process.stdin is not None and process.stdout is not None
    with process.stdin, process.stdout:
        process.stdin.write(json.dumps({**request, "log": str(log)}).encode())
        process.stdin.close()
        for line in process.stdout:
            told: dict[str, Any] = json.loads(line)
            if "settled" in told:
                settled: builtins.list[dict[str, Any]] = told["settled"]
                return settled
            if on_event is not None:
                on_event(told)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
    raise StartError("the process that keeps the tunnels", f"exit status {process.wait()}", log, tuple(lines))
