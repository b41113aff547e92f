"""Tunnels brought up: each gets its local port, leads to its service, and is proved by an answer; and is shut again."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ports import hosts
from ports.errors import ConnectionLostError, PortInUseError, PortsError, RefusedError, SSHError
from ports.hosts import Dial
from ports.state import settings
from ports.tunnels import _local_address, _origins, _verify
from ports.tunnels import _records as tunnel_records
from ports.tunnels._event_loop import LOOPBACK, Relay, bind
from ports.tunnels._host_connection import HostConnection
from ports.tunnels._local_forward import LocalForward
from ports.tunnels._records import ForwardMethod, GroupRecord
from ports.tunnels._tunnel import Tunnel
from ports.tunnels._tunnel_list import TunnelList
from ports.tunnels._watch import Watch

_FIRST_SECONDS, _LATER_SECONDS = 10.0, 3.0  # for an answer; except at first, news of the host wait meanwhile
_CLOSED = "it was closed while it opened"
_NO_ANSWER = "it closes connections without an answer"
_ORIGIN_SECONDS = 2.0
_PATIENCE = 0.05  # seconds for which a service that may not be a web server can speak first


class TunnelOpener:
    """Opens the tunnels to one host over its connection, and shuts them."""

    def __init__(self, relay: Relay, connection: HostConnection, watch: Watch, tunnels: TunnelList) -> None:
        self._relay, self._connection, self._watch, self._tunnels = relay, connection, watch, tunnels

    def open(self, fresh: Sequence[Tunnel], again: Sequence[Tunnel], *, is_first: bool = False) -> None:
        """Open new tunnels, and those that are to lead to their services `again`, all at once.

        Parameters
        ----------
        is_first : bool
            The user waits for the new ones: a failure is reported, and their ports are freed. A link that was open
            before stays.

        Raises
        ------
        SSHError
            The list was halted.
        """
        if not self._tunnels.add(fresh):
            raise SSHError(self._connection.alias, _CLOSED)
        tunnels = [*fresh, *(one for one in again if one in self._tunnels)]  # the others were closed meanwhile
        with contextlib.suppress(PortsError, OSError):  # all at once; where that fails, each reports its own reason
            self._connection.forward([one.remote for one in tunnels if self._method(one) == "forward"])
        workers = [
            threading.Thread(target=self._connect, args=(one, is_first and one in fresh), daemon=True)
            for one in tunnels
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        self._connection.watch_users(one.remote for one in self._tunnels if one.service is not None and not one.gone)

    def reclaim(self, tunnel: Tunnel) -> None:
        """Serve `tunnel` at its usual port, too, if that port is free by now."""
        usual = tunnel.usual_port
        if usual is None or tunnel.forward is None or not tunnel.local_port:
            return
        with self._tunnels.lock:  # it may be closed at this moment
            if not self._tunnels.may_open(tunnel) or not tunnel.ports or usual in tunnel.ports:
                return
            try:
                bound = bind(usual, (tunnel.local.address,) if tunnel.local.address else LOOPBACK)
                port = self._relay.listen(bound, tunnel.forward)
            except (PortInUseError, RuntimeError):
                return
            # the other port stays: a page may be open there
            tunnel.ports.add(port)
            works = f"; {tunnel.local_port} works as well" if tunnel.origin_note is None else ""
            tunnel.port_note, tunnel.origin_note = f"port {usual} is free again{works}", None
            tunnel.local_port, tunnel.where = port, (tunnel.local.address_here, port)
        self._tunnels.change(tunnel, tunnel.state)

    def share(self, tunnel: Tunnel) -> None:
        """Let other users of this machine use the link from now on; a Unix socket stays its owner's."""
        if tunnel.forward is not None and tunnel.local.socket is None and not tunnel.local.share:
            tunnel.local, tunnel.forward.visitors = replace(tunnel.local, share=True), None
            self._tunnels.change(tunnel, tunnel.state)

    def shut(self, tunnel: Tunnel, state: str, *, cut: bool = False) -> None:
        """Let a page answer at the tunnel's ports, which says why; `cut` ends connections that stand."""
        since = tunnel.since if tunnel.state == state else time.time()
        tunnel.state = state
        doing = "This link works again when it is back." if state == "ended" else self._watch.condition.doing
        with contextlib.suppress(RuntimeError, TimeoutError):
            if tunnel.forward is not None:
                page = replace(tunnel.page(doing), since=since)
                self._relay.call(tunnel.forward.shut(page, cut=cut))
        self._tunnels.change(tunnel, state, since=since)

    def release(self, tunnel: Tunnel) -> None:
        """Free the tunnel's ports, and cancel its forward."""
        with self._tunnels.lock:  # `reclaim` must not give it a port meanwhile
            if tunnel.forward is not None:
                self._relay.stop(tunnel.forward)
            tunnel.ports = set()
        if tunnel.service is not None and not any(one.service is tunnel.service for one in self._tunnels if one.ports):
            self._connection.cancel([tunnel.service.remote])

    def _connect(self, tunnel: Tunnel, is_first: bool) -> None:
        try:
            if not tunnel.ports:
                if tunnel.reuse and self.is_open_elsewhere(tunnel):
                    return
                self._listen(tunnel)
            state = self._prove(tunnel, _FIRST_SECONDS if is_first else _LATER_SECONDS)
        except (PortsError, OSError) as error:
            self._fail(tunnel, error, is_first=is_first)
        except RuntimeError:  # the relay was closed meanwhile
            self.release(tunnel)
        else:
            if tunnel.ports and self._watch.is_up:  # else it was closed, or the connection was lost, meanwhile
                tunnel.error = None
                if state == "open":
                    tunnel.drop_note(_NO_ANSWER)
                self._tunnels.change(tunnel, state)

    def is_open_elsewhere(self, tunnel: Tunnel) -> bool:
        """Tell whether another group has it open; the tunnel then shows that link, and gets no port."""
        assert tunnel.service is not None
        found = tunnel_records.open_elsewhere(tunnel.service, tunnel.host, except_at=self._relay.control)
        tunnel.is_elsewhere = False
        if found is None:
            tunnel.port_note = None
            return False
        record, row = found
        if tunnel.local.share and not _is_shared_by(record, row):
            return False  # an older `ports` keeps it: another port is shared
        shown = tunnel.state, tunnel.local_port
        tunnel.is_elsewhere = True
        tunnel.local_port, tunnel.port_note = row["local_port"], f"already open; {_keeps(record)} keeps it"
        if shown != (row["state"], row["local_port"]):
            self._tunnels.change(tunnel, str(row["state"]))
        return True

    def _listen(self, tunnel: Tunnel) -> None:
        assert tunnel.service is not None
        bound = _local_address.take(tunnel.local, tunnel.service, (tunnel.host, tunnel.kind, tunnel.name))
        tunnel.usual_port = bound.usual
        tunnel.port_note = bound.note
        with self._tunnels.lock:
            if not self._tunnels.may_open(tunnel):
                bound.close()
                raise SSHError(tunnel.host, _CLOSED)
            tunnel.where = _local_address.where(bound.sockets, tunnel.local)
            visitors = _local_address.visitors(tunnel.local, tunnel.service)
            tunnel.forward = LocalForward(http=tunnel.service.asked, visitors=visitors)
            tunnel.local_port = self._relay.listen(bound.sockets, tunnel.forward)
            tunnel.ports.add(tunnel.local_port)

    def _prove(self, tunnel: Tunnel, limit: float) -> str:
        """Let the port lead to the service, by the first method that is permitted; return ``open`` or ``silent``."""
        service = tunnel.service
        assert service is not None and tunnel.forward is not None and tunnel.where is not None
        methods: list[ForwardMethod] = ["forward", "agent"]
        if self._method(tunnel) == "agent":
            methods.reverse()
        tunnel.tried_at, patience = time.time(), 0.0 if service.known_web else _PATIENCE
        reason: PortsError | None = None
        for method in methods:
            self._relay.call(tunnel.forward.lead(self._dial(tunnel, method)))
            found = _verify.prove(
                tunnel.where,
                ask=service.asked,
                patience=patience,
                scheme=service.scheme,
                path=f"/{service.path}",
                timeout=limit,
            )
            if found.state != "refused":
                tunnel_records.remember_forward_method(tunnel.host, service.is_unix, method)
                if found.state == "open":
                    self._settle_origin(tunnel, found.answer)
                return found.state
            told = tunnel.forward.refusal
            if told is None and method == "forward":  # the agent reports its own refusals
                told = self._connection.refusal(service.remote)
            is_answer = isinstance(told, RefusedError)
            reason = reason if is_answer and isinstance(reason, RefusedError) else told
            # Some SSH servers say "Connection refused" of what they forward nothing to: the agent knows what listens.
            if told is None or (is_answer and method == "agent") or isinstance(told, ConnectionLostError):
                break  # the service's own answer, or the end of the connection; any other refusal leads on
        if reason is not None or not self._connection.is_there():
            raise reason or SSHError(tunnel.host, "the connection was lost; try again")
        if not self._tunnels.is_halted and self._watch.is_up:
            tunnel.add_note(_NO_ANSWER)
        return "silent"

    def _settle_origin(self, tunnel: Tunnel, answer: bytes) -> None:
        """Serve the tunnel where its page can open websockets; if that is impossible, note what to do."""
        service, where, at = tunnel.service, tunnel.where, tunnel.local_port
        assert service is not None and where is not None
        tunnel.origin_note = None
        ask = partial(_verify.first_answer, where, timeout=_ORIGIN_SECONDS)
        asked = _origins.of(service, answer, ask, tunnel.local.host)
        if not at or (asked is None and not service.compares_origin):
            return
        accepted = None if asked is None else asked.accepts(at)
        if accepted is None and service.compares_origin and at != service.own_port:
            tunnel.origin_note = _origins.doubt(at)
        if asked is None or accepted is not False:
            if asked is not None and tunnel.usual_port not in (None, at) and asked.accepts(tunnel.usual_port) is False:
                tunnel.usual_port = tunnel.port_note = None  # its page would stay empty there
            return
        limits = settings.get("open")
        others = (service.own_port, tunnel_records.remembered_port(service, limits["first_port"], limits["last_port"]))
        better = next((one for one in others if one not in (None, at) and asked.accepts(one)), None)
        if better is not None and better == service.own_port and hosts.is_here(tunnel.host):
            tunnel.origin_note = f"its page stays empty here; it works at http://localhost:{better}/ itself"
            return
        tunnel.origin_note = _origins.note(service, at, better)
        if tunnel.local.port is None and better is not None:
            tunnel.usual_port = better
            self.reclaim(tunnel)
            if tunnel.local_port == better and tunnel.forward is not None:
                with self._tunnels.lock:
                    tunnel.port_note = None
                    tunnel.ports.discard(at)  # a page that works there may want it
                self._relay.call(tunnel.forward.leave(at))

    def _dial(self, tunnel: Tunnel, method: ForwardMethod) -> Dial:
        if method == "agent":
            return self._connection.forward_by_agent(tunnel.remote, tunnel.owner)
        return self._connection.forward([tunnel.remote])[tunnel.remote]

    def _method(self, tunnel: Tunnel) -> ForwardMethod:
        """Return what let connections to services of this kind on the host through before."""
        return tunnel_records.forward_method(tunnel.host, tunnel.service is not None and tunnel.service.is_unix)

    def _fail(self, tunnel: Tunnel, error: PortsError | OSError, *, is_first: bool) -> None:
        if tunnel not in self._tunnels:  # it was closed meanwhile
            self.release(tunnel)
            return
        tunnel.error = error if isinstance(error, PortsError) else SSHError(tunnel.host, str(error))
        tunnel.last_error = str(tunnel.error)
        if is_first or not tunnel.ports:
            self.release(tunnel)
            self._tunnels.change(tunnel, "error")
        elif self._watch.is_up:
            self.shut(tunnel, "ended")


def _keeps(record: GroupRecord) -> str:
    if record.process.pid == os.getpid():
        return "this process"
    return "the background process" if record.background else f"`ports open` in process {record.process.pid}"


def _is_shared_by(record: GroupRecord, row: Mapping[str, Any]) -> bool:
    """Let the process that keeps the tunnel of `row` share it; return whether it did."""
    with contextlib.suppress(PortsError):
        return row["number"] in tunnel_records.ask(record, {"share": [row["number"]]}).get("shared", ())
    return False
