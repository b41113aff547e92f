"""Tunnels that outlive their terminal: one process in the background keeps them, and is asked to open more."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ports import hosts
from ports.errors import ConflictError, PortsError, StartError
from ports.hosts import Target
from ports.probe import SAFE_PATH
from ports.sessions import processes
from ports.state import locked, paths, wait_until
from ports.tunnels import _everywhere
from ports.tunnels import _records as tunnel_records
from ports.tunnels._events import Event
from ports.tunnels._group import check_targets
from ports.tunnels._local_address import LocalAddress
from ports.tunnels._records import GroupRecord

_LONGEST_OPEN = 300.0  # seconds without a word from the process in the background: a host may be slow to answer
_KEEPER = (
    f"{SAFE_PATH}; "
    # asyncio works without OpenSSL, which takes 4 MB for as long as a tunnel is open; a link to https loads it
    "sys.modules['ssl'] = None; import asyncio; del sys.modules['ssl']; "
    "from ports.tunnels.keeper import main; sys.exit(main())"
)

# Windows has no sessions: these flags let it go on when the terminal is closed
_DETACHED = int(getattr(subprocess, "DETACHED_PROCESS", 0) | getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0))


def open_in_background(
    wanted: Iterable[str | Target],
    *,
    on_event: Event | None = None,
    local: LocalAddress | None = None,
    owner: str | None = None,
) -> Sequence[Mapping[str, Any]]:
    """Open links in a process that outlives this one; return their rows once all are up or failed.

    One process keeps all background tunnels. It asks nobody for a login, so this one asks before.

    Raises
    ------
    UsageError
        As `open_many`.
    ConflictError
        That process uses another transport than the one chosen here.
    StartError
        That process ended before it answered.
    TimedOutError
        That process does not answer.
    PortsError
        It cannot be asked, or cannot do that.
    """
    chosen = local or LocalAddress()
    by_host = check_targets(wanted, chosen, owner)
    if chosen.socket is not None:  # relative to the directory of this process
        chosen = replace(chosen, socket=str(Path(chosen.socket).expanduser().absolute()))
    reached = hosts.on_each(by_host, lambda alias: None if hosts.is_here(alias) else hosts.login(alias))
    rows: list[Mapping[str, Any]] = []
    for alias, error in reached.items():
        if isinstance(error, PortsError):
            rows.append({**hosts.failed_row(alias, error), "local_url": None, "local_port": None})
            if on_event is not None:
                on_event(rows[-1])
    left = [str(one) for alias in by_host for one in by_host[alias] if not isinstance(reached[alias], PortsError)]
    if left:
        request = {"targets": left, "local": asdict(chosen), "owner": owner, "transport": hosts.choose_transport()}
        rows += _ask_keeper({"open": request}, on_event)
    return rows


def _ask_keeper(request: dict[str, Any], on_event: Event | None) -> list[Mapping[str, Any]]:
    """Return the rows of what the background process opened; start it if none runs."""
    for _ in range(3):
        record = running()
        try:
            answer = tunnel_records.ask(record, request, timeout=_LONGEST_OPEN, on_line=on_event)
        except PortsError:
            left = tunnel_records.keeper()
            if left is not None and left.process == record.process:
                raise
            continue  # it ended just now, with its last tunnel
        if "settled" in answer:
            rows: list[Mapping[str, Any]] = answer["settled"]
            for row in rows if on_event is not None else ():
                if str(row.get("note")).startswith("already open"):
                    on_event(row)  # type: ignore[misc]
            _everywhere.forget_stopped(rows)
            return rows
        if "transport" in answer:
            hint = "close them (`ports tunnel close --all`), or leave out --transport"
            raise ConflictError(f"the background tunnels use {answer['transport']}; {hint}")
        _await_end(record)
    raise StartError("the process that keeps the tunnels", "it ended three times", _log())


def running() -> GroupRecord:
    """Return the record of the process in the background; start it if none runs. Raises StartError."""
    with locked("keeper", timeout=30):
        return tunnel_records.keeper() or _spawn()


def _await_end(record: GroupRecord) -> None:
    what = f"end of process {record.process.pid}, which kept tunnels"
    wait_until(lambda: None if processes.is_alive(record.process) else True, timeout=10, what=what)


def _log() -> Path:
    return paths.make_state().logs / "tunnels.log"


def _spawn() -> GroupRecord:
    """Start the process that keeps tunnels in the background; return its record once it answers."""
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
