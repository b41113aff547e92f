"""The tunnels that one process holds, from the first hop to the byte that came back."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from ports import config, links, listeners, paths, records, remote
from ports.adapters import openssh, processes
from ports.errors import NotFoundError, PortInUseError, PortsError, SSHError
from ports.targets import Target
from ports.tunnels import proof, services
from ports.tunnels import records as tunnel_records
from ports.tunnels.doors import Door, to_unix_socket
from ports.tunnels.relay import Relay, bind, bind_first
from ports.tunnels.services import Service

Event = Callable[[dict[str, Any]], None]

_WATCH_SECONDS = 1.0
_RECLAIM_SECONDS = 3.0
_numbers = itertools.count()


@dataclass(eq=False)
class Tunnel:
    """One link: what it leads to, and how that goes.

    `state` is ``connecting``, ``open`` (a byte came back from the service), ``silent`` (connected, and nothing was
    said), ``down``, ``error``, ``closed``; for a host on which nothing is to be opened ``nothing``.
    """

    host: str
    kind: str | None = None
    name: str | None = None
    state: str = "connecting"
    service: Service | None = field(default=None, repr=False)
    local_port: int | None = None
    usual_port: int | None = None
    since: float = field(default_factory=time.time)
    error: PortsError | None = None
    note: str | None = None
    #: Local end of the forward of the master, which the local port leads to.
    socket: Path | None = field(default=None, repr=False)
    door: Door | None = field(default=None, repr=False)
    ports: set[int] = field(default_factory=set, repr=False)

    @property
    def url(self) -> str | None:
        """The link that works on this machine, with the token."""
        if self.service is None or self.local_port is None or self.state not in ("open", "silent", "down"):
            return None
        service = self.service
        return links.url(self.local_port, scheme=service.scheme, path=service.path, token=service.token)

    def row(self) -> dict[str, Any]:
        """Return the tunnel as JSON-able data; `local_url` holds the token."""
        row: dict[str, Any] = {"host": self.host, "kind": self.kind, "name": self.name, "state": self.state}
        row.update(local_url=self.url, local_port=self.local_port, since=self.since, note=self.note)
        row.update(error=str(self.error) if self.error else None)
        if self.error is not None:
            row["exit_code"] = self.error.exit_code
        return row


@dataclass
class _Way:
    """The connection to one host, the forwards on it, and a session that keeps it and tells its end."""

    master: openssh.Master
    forwards: list[tuple[Path, str]] = field(default_factory=list)
    hold: subprocess.Popen[bytes] | None = None


class Opening:
    """Tunnels that this process holds until `close`; a context manager.

    Attributes
    ----------
    tunnels : list of Tunnel
        All that were asked for, those that failed too, with their `error`.
    """

    def __init__(
        self,
        *,
        on_event: Event | None = None,
        local_port: int | None = None,
        owner: str | None = None,
        batch: bool | None = None,
        log: str | None = None,
        skip: Collection[tuple[str, str, str]] = (),
    ) -> None:
        self._skip = skip
        self.tunnels: list[Tunnel] = []
        self._on_event, self._local_port, self._owner, self._batch, self._log = on_event, local_port, owner, batch, log
        self._ways: dict[str, _Way] = {}
        self._lock = threading.RLock()
        self._events = threading.Lock()
        self._closing, self._ended, self._closer = threading.Event(), threading.Event(), 0
        self._sockets = itertools.count()
        self._number = next(_numbers)
        self._started_at = time.time()
        self._record, self._control = tunnel_records.new_paths(os.getpid(), self._number)
        self._relay = Relay()

    @property
    def url(self) -> str:
        """The first link; raises NotFoundError where there is none."""
        for tunnel in self.tunnels:
            if tunnel.url is not None:
                return tunnel.url
        raise NotFoundError("open tunnel", ", ".join(one.host for one in self.tunnels), "see the errors of its tunnels")

    def rows(self) -> list[dict[str, Any]]:
        """Return all tunnels as JSON-able data."""
        return [tunnel.row() for tunnel in self.tunnels]

    def open(self, targets: dict[str, list[Target]]) -> None:
        """Open the targets of all hosts at once; what fails stays in `tunnels`, with its error.

        Until here nothing is there that Ctrl-C could leave; from here on `close` takes it away.
        """
        self._relay.answer(self._control, self._answer)
        threading.Thread(target=self._watch, name="tunnel-watch", daemon=True).start()

        def tell(alias: str, result: PortsError | None) -> None:
            if result is not None:
                self._fail(Tunnel(alias, "host"), result)

        remote.many(targets, lambda alias: self._open_host(alias, targets[alias]), on_result=tell)
        self._write_record()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the last tunnel is closed, by `close` or from another process; False after `timeout` seconds."""
        return self._ended.wait(timeout)

    def close(self) -> None:
        """Free the local ports at once, then take the forwards back; the connections stay for later commands."""
        with self._lock:
            another = self._closing.is_set() and self._closer != threading.get_ident()
            if not another:
                self._closer = threading.get_ident()
            self._closing.set()
        if another or self._ended.is_set():
            self._ended.wait(15)  # the process may end once this returns
            return
        self._relay.close()
        for way in list(self._ways.values()):
            if way.hold is not None:
                openssh.end(way.hold)
            openssh.cancel(way.master, way.forwards)
        for tunnel in self.tunnels:
            if tunnel.state in ("open", "silent", "down", "connecting"):
                self._change(tunnel, "closed")
        self._control.unlink(missing_ok=True)
        self._record.unlink(missing_ok=True)
        self._ended.set()

    def close_tunnels(self, wanted: Iterable[Tunnel]) -> list[dict[str, Any]]:
        """Close some tunnels, with the last of them the opening, and return their rows."""
        with self._lock:  # two processes may ask for the same at once
            mine = [one for one in dict.fromkeys(wanted) if one in self.tunnels]
            for tunnel in mine:
                self.tunnels.remove(tunnel)
        for tunnel in mine:
            self._release(tunnel)
            self._change(tunnel, "closed")
        closed = [tunnel.row() for tunnel in mine]
        if not any(tunnel.ports for tunnel in self.tunnels):
            # not from the thread that must still send the answer
            threading.Timer(0.05, self.close).start()
        return closed

    def __enter__(self) -> Opening:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_host(self, alias: str, targets: list[Target]) -> None:
        self._emit({"host": alias, "kind": "host", "name": None, "state": "connecting"})
        document = remote.probe(alias, {"all": any(target.port is not None for target in targets)}, batch=self._batch)
        found = listeners.from_probe(document, host=alias)
        tunnels: dict[tuple[str, str], Tunnel] = {}
        for target in targets:
            try:
                chosen = services.choose(document, found, target, owner=self._owner)
            except PortsError as error:
                self._fail(Tunnel(alias, None, target.name or str(target.port)), error)
                continue
            for service in chosen:
                if (alias, service.kind, service.name) in self._skip:
                    continue
                made = Tunnel(alias, service.kind, service.name, service=service, note=service.note)
                tunnels.setdefault((service.key, service.remote), made)
            if not chosen:
                self._nothing(alias)
        if tunnels:
            self._forward(alias, list(tunnels.values()))

    def _forward(self, alias: str, tunnels: list[Tunnel]) -> None:
        master = openssh.connect(alias, batch=self._batch, warm=False)
        way = _Way(master)
        for tunnel in tunnels:
            assert tunnel.service is not None
            name = f"t{os.getpid()}-{self._number}-{next(self._sockets)}.sock"
            tunnel.socket = paths.runtime_directory() / name
            way.forwards.append((tunnel.socket, tunnel.service.remote))
        with self._lock:
            if self._closing.is_set():
                raise SSHError(alias, "it was closed while it opened")
            self._ways[alias] = way  # before the forward: `close` takes back what may not be there yet
            self.tunnels += tunnels
        said = master.said_bytes()
        try:
            openssh.forward(master, way.forwards)
        except (PortsError, OSError) as error:
            for tunnel in tunnels:
                self._give_up(tunnel, error)
            return
        workers = [threading.Thread(target=self._bring_up, args=(one, master, said), daemon=True) for one in tunnels]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        with self._lock:
            if not self._closing.is_set():
                with contextlib.suppress(PortsError, OSError):  # without it, `_check` asks the master
                    way.hold = openssh.popen(master, "exec cat")

    def _bring_up(self, tunnel: Tunnel, master: openssh.Master, said: int) -> None:
        service = tunnel.service
        assert service is not None and tunnel.socket is not None
        try:
            self._listen(tunnel)
            assert tunnel.local_port is not None
            patience = 0.0 if service.known_web else 0.05
            found = proof.prove(
                tunnel.local_port, ask=service.asked, patience=patience, scheme=service.scheme, path=f"/{service.path}"
            )
            if found.state == "refused":
                reason = openssh.explain_forward(tunnel.host, service.remote, master.said(said))
                if reason is not None or not openssh.is_running(master.control):
                    raise reason or SSHError(tunnel.host, "the connection was lost; try again")
                self._add_note(tunnel, "it closes connections without an answer")
            if tunnel.ports:  # else it was closed meanwhile
                self._change(tunnel, "open" if found.state == "open" else "silent")
        except (PortsError, OSError) as error:
            self._give_up(tunnel, error)
        except RuntimeError:  # the relay was closed meanwhile
            self._release(tunnel)

    def _listen(self, tunnel: Tunnel) -> None:
        assert tunnel.service is not None and tunnel.socket is not None
        limits = config.get("open")
        first, last = int(limits["first_port"]), int(limits["last_port"])
        usual = tunnel.service.usual_port(first, last) if self._local_port is None else self._local_port
        tunnel.usual_port = usual or None
        try:
            bound = bind(usual)
        except PortInUseError as error:
            holder = tunnel_records.holder(usual, (tunnel.host, tunnel.kind, tunnel.name))
            if self._local_port is not None:
                raise PortInUseError(usual, holder) from error
            bound = bind_first(links.next_ports(usual, first, last))
            port = bound[0].getsockname()[1]
            self._add_note(tunnel, f"port {usual} is held by {holder}; {port} serves until it is free")
        if tunnel.door is None:
            tunnel.door = Door(http=tunnel.service.asked)
            self._relay.call(tunnel.door.lead(to_unix_socket(tunnel.socket)))
        tunnel.local_port = self._relay.listen(bound, tunnel.door)
        tunnel.ports.add(tunnel.local_port)

    def _release(self, tunnel: Tunnel) -> None:
        """Free the tunnel's ports and take its forward back."""
        with self._lock:  # `_reclaim` must not give it a port meanwhile
            if tunnel.door is not None:
                self._relay.stop(tunnel.door)
            tunnel.ports = set()
        way = self._ways.get(tunnel.host)
        if way is not None and tunnel.socket is not None and tunnel.service is not None:
            forward = (tunnel.socket, tunnel.service.remote)
            if forward in way.forwards:
                way.forwards.remove(forward)
                openssh.cancel(way.master, [forward])

    def _watch(self) -> None:
        """Tell when a connection is lost, and go back to the usual port when its holder left it."""
        rounds = 0
        while not self._closing.wait(_WATCH_SECONDS):
            rounds += 1
            for alias, way in list(self._ways.items()):
                with contextlib.suppress(PortsError, OSError):  # the next round looks again
                    self._check(alias, way)
            for tunnel in list(self.tunnels) if rounds % round(_RECLAIM_SECONDS / _WATCH_SECONDS) == 0 else ():
                try:
                    self._reclaim(tunnel)
                except (PortsError, OSError) as error:
                    self._add_note(tunnel, str(error))

    def _check(self, alias: str, way: _Way) -> None:
        if (way.hold is not None and way.hold.poll() is None) or openssh.is_running(way.master.control):
            return
        lost = SSHError(alias, "the connection was lost; close this and open it again")
        for tunnel in [one for one in self.tunnels if one.host == alias and one.state in ("open", "silent")]:
            tunnel.error = lost
            self._change(tunnel, "down")

    def _reclaim(self, tunnel: Tunnel) -> None:
        usual = tunnel.usual_port
        if usual is None or tunnel.door is None:
            return
        with self._lock:  # it may be closed at this moment
            if self._closing.is_set() or not tunnel.ports or usual in tunnel.ports or tunnel not in self.tunnels:
                return
            try:
                port = self._relay.listen(bind(usual), tunnel.door)
            except (PortInUseError, RuntimeError):
                return
            # the other port goes on: a page may be open there
            tunnel.ports.add(port)
            tunnel.note, tunnel.local_port = f"port {usual} is free again; {tunnel.local_port} serves too", port
        self._change(tunnel, tunnel.state)

    def _answer(self, request: dict[str, Any], say: Event) -> dict[str, Any]:
        """Answer another process: ``{"close": [[local port, …]]}``."""
        wanted = set(request.get("close") or ())
        return {"closed": self.close_tunnels([one for one in self.tunnels if one.ports & wanted])}

    def _nothing(self, alias: str) -> None:
        tunnel = Tunnel(alias, "host", state="nothing")
        tunnel.note = f"no cluster or notebook server runs there; `ports cluster start -H {alias}` starts one"
        with self._lock:
            self.tunnels.append(tunnel)
        self._emit(tunnel.row())

    def _give_up(self, tunnel: Tunnel, error: PortsError | OSError) -> None:
        self._release(tunnel)
        if isinstance(error, OSError):  # too many open files, say
            error = SSHError(tunnel.host, f"it cannot be opened on this machine: {error.strerror or error}")
        self._fail(tunnel, error)

    def _fail(self, tunnel: Tunnel, error: PortsError) -> None:
        tunnel.error = error
        with self._lock:
            if tunnel not in self.tunnels:
                self.tunnels.append(tunnel)
        self._change(tunnel, "error")

    def _add_note(self, tunnel: Tunnel, note: str) -> None:
        if note not in (tunnel.note or ""):
            tunnel.note = f"{tunnel.note}; {note}" if tunnel.note else note

    def _change(self, tunnel: Tunnel, state: str) -> None:
        tunnel.state, tunnel.since = state, time.time()
        self._emit(tunnel.row())
        try:
            self._write_record()
        except PortsError as error:  # a full disk: the tunnel works all the same
            self._add_note(tunnel, f"`ports tunnel` cannot know of this: {error}")

    def _emit(self, row: dict[str, Any]) -> None:
        if self._on_event is not None:
            with self._events:
                self._on_event(row)

    def _write_record(self) -> None:
        process = processes.identity()
        assert process is not None
        with self._lock:
            if self._closing.is_set():
                return
            rows = tuple(
                {**one.row(), "ports": sorted(one.ports), "port": one.service.port if one.service else None}
                for one in self.tunnels
                if one.ports
            )
            record = tunnel_records.OpeningRecord(
                process=process,
                control=str(self._control),
                started_at=self._started_at,
                background=self._log is not None,
                log=self._log,
                rows=rows,
            )
            records.write(self._record, record)
