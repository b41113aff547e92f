"""Records of open tunnels: one for each process that keeps some, so that others can list and close them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ports import probe
from ports.errors import PortsError, RecordError, TimedOutError
from ports.hosts import Target
from ports.listeners import links
from ports.sessions import processes
from ports.state import ProcessId, Record, locked, make_private, paths, records, runtime_directory, wait_until
from ports.tunnels._services import Service

_OWN_SECONDS = 3.0
_BACK_SECONDS = 8.0  # a process looks every three seconds whether its socket is there
#: How connections reach a service: sshd forwards them, or our program on the host connects.
ForwardMethod = Literal["forward", "agent"]


@dataclass(frozen=True, kw_only=True)
class GroupRecord(Record):
    """The tunnels of one process. Its `rows` have links with tokens: the file is 0600, as all records are."""

    process: ProcessId = field(metadata={"record": ProcessId})
    #: Where it answers, and the token to send, see `_event_loop.Reach`.
    control: str
    token: str | None = field(default=None, repr=False)
    started_at: float
    background: bool = False
    log: str | None = None
    rows: tuple[dict[str, Any], ...] = ()


def directory() -> Path:
    """Return the directory of these records; it need not exist."""
    return paths.here().tunnels


def new_paths(pid: int, number: int) -> tuple[Path, Path]:
    """Return where a group of tunnels keeps its record and its control socket; the directory is created."""
    folder = make_private(paths.make_state().tunnels)
    return folder / f"{pid}-{number}.json", runtime_directory() / f"open-{pid}-{number}.sock"


def read_all_records() -> list[tuple[Path, GroupRecord, bool | None]]:
    """Return each record, its path, and whether its process lives; for those that cannot be read see `unreadable`."""
    found = []
    for path in sorted(directory().glob("[0-9]*.json")):
        with contextlib.suppress(RecordError):
            record = records.read(path, GroupRecord)
            if record is not None:
                found.append((path, record, processes.is_alive(record.process)))
    return found


def unreadable_records() -> list[RecordError]:
    """Return the errors of records that cannot be read: a newer `ports` may keep tunnels."""
    errors = []
    for path in sorted(directory().glob("[0-9]*.json")):
        try:
            records.read(path, GroupRecord)
        except RecordError as error:
            errors.append(error)
    return errors


def write(path: Path, **fields: Any) -> None:
    """Replace the record of a group; raises StoreError."""
    records.write(path, GroupRecord(**fields))


def is_meant(target: Target, row: Mapping[str, Any]) -> bool:
    """Tell whether `target` names the tunnel of `row`."""
    if target.host not in (row["host"], row["host"].partition("/")[0]):  # a node is meant by its name, too
        return False
    if target.port is not None:
        return target.port in (row.get("port"), row["local_port"]) or row["name"] == str(target.port)
    return target.name is None or row["name"] == target.name


def port_of(service: Service, first: int, last: int) -> int:
    """Return the usual local port of `service`, see `remembered_port`.

    A page that can compare the Origin of websockets with its own port gets that.
    """
    own = service.own_port if service.compares_origin else None
    return remembered_port(service, first, last) if own is None else own


def remembered_port(service: Service, first: int, last: int) -> int:
    """Return the local port of `service` of the range: the one that it had before, else one derived for it.

    If two services of the user would get the same port, the later one gets the next free port, and keeps it.
    """
    name = f"{service.machine} {service.user} {service.key}"
    path = directory() / "links.json"
    with contextlib.suppress(PortsError), locked("links", timeout=5):  # without the record: the derived port
        known: dict[str, int] = (records.read_json(path) or {}).get("ports", {})
        if first <= known.get(name, 0) <= last:
            return known[name]
        taken = {port for other, port in known.items() if other != name}
        own = service.derived_port(first, last)
        port = next((one for one in (own, *links.next_ports(own, first, last)) if one not in taken), own)
        records.write_json(path, {"format": records.FORMAT, "ports": {**known, name: port}})
        return port
    return service.derived_port(first, last)


def forward_method(alias: str, is_unix: bool) -> ForwardMethod:
    """Return by which method connections to ports, or to Unix sockets, of a host succeeded last."""
    with contextlib.suppress(RecordError):
        if (records.read_json(_methods_file()) or {}).get(_method_key(alias, is_unix)) == "agent":
            return "agent"
    return "forward"


def remember_forward_method(alias: str, is_unix: bool, method: ForwardMethod) -> None:
    """Note by which method connections succeeded: it is tried first the next time."""
    if forward_method(alias, is_unix) == method:
        return
    with contextlib.suppress(PortsError), locked("forward-methods", timeout=5):  # for speed only
        known = records.read_json(_methods_file()) or {}
        records.write_json(_methods_file(), {**known, "format": records.FORMAT, _method_key(alias, is_unix): method})


def _method_key(alias: str, is_unix: bool) -> str:
    return f"{'unix' if is_unix else 'tcp'} {alias}"


def _methods_file() -> Path:
    return directory() / "forward-methods.json"


def port_user(port: int, what: tuple[str, str | None, str | None]) -> str:
    """Return who uses the local `port`: a `ports open` of `what` or of something else, a process, or a user."""
    if link := _link_at(port, what):
        return link
    rows = probe.probe({"port": port, "ask_http": False})["listeners"]
    if not rows:
        return "an unknown process"
    row = rows[0]
    if row.get("pid") == os.getpid():  # another alias in the same command: it is recorded once it has answered
        with contextlib.suppress(TimedOutError):
            return wait_until(lambda: _link_at(port, what), timeout=_OWN_SECONDS, what="record of a link")
        return "another link of this process"
    argv = row.get("argv") or []
    return f"{row['user']} ({Path(argv[0]).name}, process {row['pid']})" if argv else str(row["user"])


def _link_at(port: int, what: tuple[str, str | None, str | None]) -> str | None:
    """Return which `ports open` has the local `port`, and for what; None where no record says so."""
    for _, record, alive in read_all_records():
        for row in record.rows if alive else ():
            if port not in row.get("ports", ()):
                continue
            named = f"{row['host']}:{row['name']}"
            if record.process.pid != os.getpid():
                target = "the same target" if (row["host"], row["kind"], row["name"]) == what else row["host"]
                return f"another `ports open` (process {record.process.pid}) for {target}"
            # a page at its own port: the same number on another host is another page
            is_same = (row["kind"], row["name"]) == what[1:] and row.get("port") != port
            return f"the link to the same service, open already as {named}" if is_same else f"the link to {named}"
    return None


def open_elsewhere(
    service: Service, host: str, *, except_at: str | None = None
) -> tuple[GroupRecord, dict[str, Any]] | None:
    """Return the group that has a link to `service` at the loopback, and that tunnel's row; None where none has.

    The group that answers at `except_at` is left out: it is the one that asks.
    """
    for _, record, alive in read_all_records():
        if not alive or record.control == except_at:
            continue
        for row in record.rows:
            same_host = row["host"] == host or row.get("machine") == service.account_of_boot  # another alias of it
            if (row["kind"], row["name"]) != (service.kind, service.name) or not same_host:
                continue
            with contextlib.suppress(PortsError):  # it does not answer, so its link leads nowhere
                rows = ask(record, {"rows": True}, timeout=3.0).get("rows", ())
                now = [one for one in rows if one.get("number") == row.get("number")]
                if now and f"//{service.name_at_home or 'localhost'}:" in str(now[0]["local_url"]):
                    return record, now[0]
    return None


def ask(
    record: GroupRecord,
    request: dict[str, Any],
    *,
    timeout: float = 15.0,
    on_line: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Return what the process of `record` answers to `request`.

    Parameters
    ----------
    timeout : float
        Longest time between two lines, in seconds.
    on_line : callable, optional
        Called with each line except the last.

    Raises
    ------
    TimedOutError
        It does not answer.
    PortsError
        Its socket is gone, and did not come back, or the connection failed. Or it cannot do that; another version of
        `ports` may not know the request.
    """
    what = f"answer of process {record.process.pid}, which keeps the tunnel,"
    told = request if record.token is None else {**request, "token": record.token}
    with _socket_for(record) as connection:
        connection.settimeout(timeout)
        try:
            _connect(connection, record, min(timeout, _BACK_SECONDS))
            connection.sendall(json.dumps(told).encode() + b"\n")
            last: dict[str, Any] | None = None
            with connection.makefile("rb") as stream:
                for line in stream:
                    if last is not None and on_line is not None:
                        on_line(last)
                    last = json.loads(line)
        except TimeoutError as error:
            raise TimedOutError(what, timeout) from error
        except (OSError, ValueError) as error:
            raise _cannot_be_asked(record, getattr(error, "strerror", None) or str(error)) from error
    if not isinstance(last, dict):
        raise _cannot_be_asked(record, "it ended without an answer")
    if "error" in last and not last.get("closing"):
        raise PortsError(f"process {record.process.pid}, which keeps the tunnel: {last['error']}")
    return last


class Lines:
    """The lines that the process of `record` sends in answer to `request`, until one end closes; a context manager.

    Raises
    ------
    TimedOutError
        Nothing came within `timeout` seconds.
    PortsError
        It cannot be asked.
    """

    def __init__(self, record: GroupRecord, request: dict[str, Any], *, timeout: float) -> None:
        self._record, self._timeout = record, timeout
        self._request = request if record.token is None else {**request, "token": record.token}
        self._socket = _socket_for(record)

    def __enter__(self) -> Lines:
        self._socket.settimeout(self._timeout)
        try:
            _connect(self._socket, self._record, min(self._timeout, _BACK_SECONDS))
            self._send(self._request)
        except OSError as error:
            self._socket.close()
            raise _cannot_be_asked(self._record, error.strerror or str(error)) from error
        except BaseException:
            self._socket.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield each line as it comes."""
        try:
            with self._socket.makefile("rb") as stream:
                for line in stream:
                    yield json.loads(line)
        except TimeoutError as error:
            what = f"a word of process {self._record.process.pid}, which keeps the tunnels"
            raise TimedOutError(what, self._timeout) from error
        except ValueError as error:  # half a line, or a file that was closed here
            raise _cannot_be_asked(self._record, str(error)) from error
        except OSError as error:
            raise _cannot_be_asked(self._record, error.strerror or str(error)) from error

    def say(self, line: dict[str, Any]) -> None:
        """Send one more line; a process that has gone does not hear it."""
        with contextlib.suppress(OSError):
            self._send(line)

    def close(self) -> None:
        """End the lines; another thread may wait for one."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _send(self, line: dict[str, Any]) -> None:
        self._socket.sendall(json.dumps(line).encode() + b"\n")


def _connect(connection: socket.socket, record: GroupRecord, limit: float) -> None:
    """Connect to the process; one that lives makes its socket anew after somebody removed it."""

    def attempt() -> OSError | None:
        try:
            connection.connect(_address(record))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            return error
        return None

    failed: list[OSError | None] = []

    def is_over() -> bool | None:
        failed.append(attempt())
        return True if failed[-1] is None or processes.is_alive(record.process) is False else None

    with contextlib.suppress(TimedOutError):
        wait_until(is_over, timeout=limit, what="socket", every=0.1)
    if (error := failed[-1]) is not None:
        raise _cannot_be_asked(record, error.strerror or str(error)) from error


def _cannot_be_asked(record: GroupRecord, why: str) -> PortsError:
    who = f"process {record.process.pid}, which keeps the tunnel,"
    return PortsError(f"{who} cannot be asked ({record.control}: {why})")


def _socket_for(record: GroupRecord) -> socket.socket:
    return socket.socket(socket.AF_UNIX if record.token is None else socket.AF_INET)


def _address(record: GroupRecord) -> str | tuple[str, int]:
    if record.token is None:
        return record.control
    host, _, port = record.control.rpartition(":")
    return host, int(port)


def keeper() -> GroupRecord | None:
    """Return the record of the process that keeps tunnels in the background; None if none runs."""
    running = [record for _, record, alive in read_all_records() if alive and record.background]
    return max(running, key=lambda one: one.started_at, default=None)
