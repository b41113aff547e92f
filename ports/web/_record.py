"""Which pages of this user run on this machine, how another process asks them for a link, and their end."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ports.errors import NotFoundError, PortsError, RecordError, StartError, UsageError
from ports.probe import SAFE_PATH
from ports.sessions import processes
from ports.state import ProcessId, Record, make_private, paths, records

_HOSTS = "hosts.json"
_ASKED_SECONDS = 10.0
_SERVER = f"{SAFE_PATH}; from ports.web._serve import main; sys.exit(main())"


@dataclass(frozen=True, kw_only=True)
class PageRecord(Record):
    """A page that runs. `port` is its port on 127.0.0.1, None on a server alone; on Windows it has no Unix socket."""

    process: ProcessId = field(metadata={"record": ProcessId})
    started_at: float
    socket: str | None
    port: int | None = None
    hosts: tuple[str, ...] = ()
    background: bool = False

    def row(self, state: str = "running") -> dict[str, Any]:
        """Return the row of ``--json``, without a key."""
        return {
            "host": paths.host_name(),
            "kind": "page",
            "name": "page",
            "state": state,
            "url": f"unix:{self.socket}" if self.port is None else f"http://127.0.0.1:{self.port}/",
            "pid": self.process.pid,
            "hosts": list(self.hosts),
            "background": self.background,
        }


def folder() -> Path:
    """Return the directory of these records; it need not exist."""
    return paths.here().root / "pages"


def new_file() -> Path:
    """Return where this process keeps its record; the directory is created."""
    return make_private(paths.make_state().root / "pages") / f"{os.getpid()}.json"


def kept_hosts() -> tuple[str, ...]:
    """Return the hosts that were added on a page: pages show them from then on, where no HOST is named."""
    with contextlib.suppress(RecordError):
        found = (records.read_json(folder() / _HOSTS) or {}).get("hosts")
        return tuple(one for one in found if isinstance(one, str)) if isinstance(found, list) else ()
    return ()


def keep_hosts(hosts: Sequence[str]) -> None:
    """Remember hosts that were added on a page; raises StoreError."""
    make_private(paths.make_state().root / "pages")
    records.write_json(folder() / _HOSTS, {"format": records.FORMAT, "hosts": list(hosts)})


def running() -> list[PageRecord]:
    """Return the pages that run on this machine, the oldest first; what dead ones left is removed."""
    found = []
    for path in folder().glob("[0-9]*.json"):
        with contextlib.suppress(RecordError):
            record = records.read(path, PageRecord)
            if record is not None and processes.is_alive(record.process):
                found.append(record)
            elif record is not None and processes.is_alive(record.process) is False:
                path.unlink(missing_ok=True)
    return sorted(found, key=lambda one: one.started_at)


def stop() -> list[dict[str, Any]]:
    """End all pages of this user on this machine, and return their rows.

    What leads a session of its own goes on: an act that has begun, and the process that keeps the tunnels, which a page
    starts as it looks at hosts.

    Raises
    ------
    NotFoundError
        None runs.
    """
    found = running()
    if not found:
        raise NotFoundError("page", "page", "`ports page` starts one")
    processes.end([one.process for one in found], timeout=10.0, spare=lambda words: True)
    return [one.row("stopped") for one in found]


def in_background(hosts: Sequence[str], *, alone: bool = False) -> PageRecord | None:
    """Return the page in the background that shows all of `hosts`, with a port or `alone`; None if none runs."""
    fit = (one for one in running() if one.background and set(hosts) <= set(one.hosts))
    return next((one for one in fit if alone or one.port is not None), None)


def link(record: PageRecord) -> str | None:
    """Return a link that opens the page once; None for one that has no port here.

    Raises
    ------
    PortsError
        It does not answer.
    """
    if record.port is None or record.socket is None:
        return None
    request = b"GET /-/key HTTP/1.0\r\nHost: 127.0.0.1\r\nX-Ports: key\r\n\r\n"
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_ASKED_SECONDS)
            connection.connect(record.socket)
            connection.sendall(request)
            with connection.makefile("rb") as answer:
                head, _, body = answer.read().partition(b"\r\n\r\n")
    except OSError as error:
        reason = error.strerror or str(error)
        raise PortsError(f"the page, process {record.process.pid}, does not answer ({reason})") from error
    if b" 200 " not in head.partition(b"\r\n")[0]:
        raise PortsError(f"the page, process {record.process.pid}, gave no link")
    return f"{record.row()['url']}-/in?key={body.decode().strip()}"


def check_system() -> None:
    """Raise UsageError on Windows, which has no Unix sockets for Python, and no users of processes."""
    if os.name == "nt":
        hint = "`ports page -H HOST` starts one on a server, and `ports open HOST:page` opens it here"
        raise UsageError(f"no page runs on Windows; {hint}")


def start(hosts: Sequence[str], *, port: int | None = None, alone: bool = False) -> dict[str, Any]:
    """Start a page in a process that outlives this one; return its row, with `local_url`; see `_serve.serve`.

    Raises
    ------
    UsageError
        This system is Windows.
    PortInUseError
        `port` is taken.
    StartError
        It ended before it answered.
    """
    check_system()
    log = paths.make_state().logs / "page.log"
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:  # not as arguments, which all users see: a host's name can tell something
        process.stdin.write(json.dumps({"hosts": list(hosts), "port": port, "alone": alone}).encode() + b"\n")
        process.stdin.close()
        answer = process.stdout.readline()
    if answer:
        row: dict[str, Any] = json.loads(answer)
        return row
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
    raise StartError("the page", f"exit status {process.wait(10)}", log, tuple(lines))
