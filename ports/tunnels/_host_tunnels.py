"""The tunnels to one host: which of its services are open, as they start, move and end there."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from ports import hosts, listeners
from ports.errors import (
    ConnectionLostError,
    ForeignListenerError,
    LoginNeededError,
    PortsError,
    SSHError,
    TimedOutError,
)
from ports.hosts import Target
from ports.listeners import Listener
from ports.state import settings, wait_until
from ports.tunnels import _requests, _services, _views
from ports.tunnels._bring_up import TunnelOpener
from ports.tunnels._ends import NewEnds
from ports.tunnels._event_loop import Relay
from ports.tunnels._host_connection import HostConnection
from ports.tunnels._local_address import LocalAddress
from ports.tunnels._requests import OpenRequest
from ports.tunnels._services import Service
from ports.tunnels._tunnel import Tunnel
from ports.tunnels._tunnel_list import TunnelList
from ports.tunnels._watch import Condition, Watch

_UP_SECONDS = 10.0
_LOOK_SECONDS = 2.0  # for a look at the host, which reports only what has changed


class HostTunnels:
    """The tunnels to one host, and the connection that carries them.

    Parameters
    ----------
    on_change : callable
        Called with each tunnel whose state or link has changed, from several threads.
    on_browse : callable
        Called with the host and what somebody there wants to see at home; returns the answer.
    on_ends : callable
        Called with the host and the jobs that have ended there since the last call.
    on_node : callable
        Called with another node of the host's name, what is wanted there, whether to ask nobody for a login, and
        whether somebody waits for it.
    on_news : callable, optional
        Called with the host when its condition, or what listens there, has changed.
    """

    def __init__(
        self,
        alias: str,
        relay: Relay,
        *,
        on_change: Callable[[Tunnel], None],
        on_browse: Callable[[str, dict[str, Any]], dict[str, Any]],
        on_node: Callable[[str, OpenRequest, bool | None, bool], None],
        on_ends: Callable[[str, list[dict[str, Any]]], None],
        on_news: Callable[[str], None] = lambda alias: None,
    ) -> None:
        self.alias, self._on_node, self._on_news = alias, on_node, on_news
        self.tunnels = TunnelList(on_change)
        self._requests: list[OpenRequest] = []  # replaced, never changed, with the lock held
        self._requests_lock = threading.Lock()
        self._document: dict[str, Any] = {}  # the last one
        self._found: tuple[Listener, ...] = ()  # in it
        self._turn = threading.Lock()  # one document at a time
        self._starting = threading.Lock()
        self._ends = NewEnds()
        self._connection = HostConnection(relay)
        self._watch = Watch(
            self._connection,
            relay,
            on_condition=self._take_condition,
            on_document=lambda document: self._take(document, self._requests),
            on_stranger=self._cut,
            on_browse=lambda wanted: on_browse(alias, wanted),
            on_ends=lambda told: self._hear(told, on_ends),
            received=lambda: sum(one.forward.received for one in self.tunnels if one.forward is not None),
        )
        self._opener = TunnelOpener(relay, self._connection, self._watch, self.tunnels)

    def open(self, request: OpenRequest, *, batch: bool | None) -> None:
        """Open what `request` names; what fails stays in `tunnels`, with its error.

        Raises
        ------
        SSHError
            The host cannot be reached.
        """
        everybody = any(target.port is not None for target in request.targets)
        with self._starting:  # of several at once, the first connects
            if not self._watch.is_running:
                self._open_first(request, everybody=everybody, batch=batch)
                return
        self._add_request(request)
        if request.owner is not None:
            self._connection.report_everybody()
        document = self._document_now(everybody=everybody, batch=batch)
        with contextlib.suppress(PortsError):  # the host answers: the connection is up in a moment, after a login too
            wait_until(lambda: self._watch.is_up or None, timeout=_UP_SECONDS, what=f"connection to {self.alias}")
        self._take(document, [request], is_first=True, batch=batch)

    def _document_now(self, *, everybody: bool, batch: bool | None) -> dict[str, Any]:
        """Return what listens there now; where no second session is permitted, our program there looks."""
        try:
            return self._connection.probe(everybody=everybody, batch=batch)
        except SSHError as error:
            if error.is_network or isinstance(error, ConnectionLostError) or not self._watch.is_up:
                raise
        before = self._document
        self._connection.look()
        with contextlib.suppress(TimedOutError):  # nothing has changed there
            wait_until(lambda: self._document is not before or None, timeout=_LOOK_SECONDS, what="a look")
        return self._document

    # --- for those who watch the host ---

    @property
    def is_up(self) -> bool:
        """Whether the connection to it stands, as far as that is known."""
        return self._watch.is_running and self._watch.is_up

    def follow(self) -> None:
        """Connect to the host, asking nobody, and stay connected; it is tried again and again."""
        with self._starting:
            if not self._watch.is_running and not self.tunnels.is_halted:
                self._watch.start(self.alias, connecting=True)

    def nodes(self) -> list[str]:
        """Return other nodes of the host's name on which something of mine runs."""
        return [f"{self.alias}/{one['node']}" for one in self._document.get("elsewhere") or ()]

    def look(self) -> None:
        """Let our program there look at once, and report what has changed; where it is down, connect at once."""
        self._connection.look()
        if not self._watch.is_up:
            self._watch.hurry()

    def ask(self, request: dict[str, Any], *, timeout: float) -> dict[str, Any]:
        """Return what our program there sees of the machine; raises PortsError, TimeoutError, RuntimeError."""
        return self._connection.view(request, timeout=timeout)

    def parts(self) -> dict[str, Any]:
        """Return what a view shows of the host's condition and of its listeners, see `_views.PARTS`."""
        now = self._watch.condition
        by_ssh = not isinstance(now.error, LoginNeededError) or hosts.choose_transport() == "ssh"
        told = _views.condition(self.alias, now.state, now.since, now.error, by_ssh=by_ssh)
        told["rows"] = _views.rows(self._found, [one.row() for one in self.tunnels])
        return {**told, "warnings": list(self._document.get("warnings") or ())}

    def halt(self) -> None:
        """Open nothing from now on, and connect no more."""
        self.tunnels.halt()
        self._connection.closing.set()

    def close(self) -> None:
        """End the watch, and cancel all forwards; the ports are free already."""
        self._watch.close()
        self._connection.close()

    def forget(self, tunnel: Tunnel) -> None:
        """Report this failure no more."""
        self.tunnels.remove([tunnel])

    def withdraw(self, wanted: Iterable[Target]) -> None:
        """Open these targets no more, whatever appears there later."""
        things = {(target.name, target.port) for target in wanted}
        with self._requests_lock:
            kept = [
                replace(request, targets=tuple(one for one in request.targets if (one.name, one.port) not in things))
                for request in self._requests
            ]
            self._requests = [request for request in kept if request.targets]

    @property
    def is_idle(self) -> bool:
        """Whether nothing is open there, and nothing is to be opened."""
        return not self._requests and not any(tunnel.ports for tunnel in self.tunnels)

    def close_tunnels(self, wanted: Iterable[Tunnel]) -> list[Tunnel]:
        """Close some, for good; return those that were there."""
        mine = self.tunnels.remove(wanted)
        closed = frozenset((str(one.kind), str(one.name)) for one in mine)
        with self._requests_lock:
            self._requests = [replace(one, skip=one.skip | closed) for one in self._requests]
        for tunnel in mine:
            self._opener.release(tunnel)
            self.tunnels.change(tunnel, "closed")
        return mine

    def share(self, wanted: Iterable[Tunnel]) -> list[Tunnel]:
        """Let other users of this machine use some; return those that are shared."""
        mine = [one for one in wanted if one in self.tunnels]
        for tunnel in mine:
            self._opener.share(tunnel)
        return [one for one in mine if one.local.share]

    def reclaim(self) -> None:
        """Go back to usual ports that are free again."""
        for tunnel in self.tunnels:
            try:
                self._opener.reclaim(tunnel)
            except (PortsError, OSError) as error:
                tunnel.add_note(str(error))

    def check_whole(self) -> None:
        """Make the connection anew where its sockets on this machine are gone."""
        if self._watch.is_running and self._watch.is_up:
            self._connection.check_whole()

    def retry(self) -> None:
        """Ask again what did not answer before, and open here what the process that kept it has closed."""
        waiting = [one for one in self.tunnels if one.is_due(time.time())]
        left = [one for one in self.tunnels if one.is_elsewhere and not self._opener.is_open_elsewhere(one)]
        condition = self._watch.condition
        for tunnel in left:
            tunnel.error = condition.error
            self.tunnels.change(tunnel, "connecting" if condition.state == "up" else condition.state)
        if (waiting or left) and condition.state == "up":
            with self._turn:
                self._opener.open([], [*waiting, *left])

    def fail(self, error: PortsError) -> None:
        """Report that the host itself failed."""
        self.tunnels.add_result(Tunnel(self.alias, "host"), error)

    def _open_first(self, request: OpenRequest, *, everybody: bool, batch: bool | None) -> None:
        if everybody:
            self._connection.report_everybody()
        try:
            document = self._connection.start(hosts.connect(hosts.resolve(self.alias), batch=batch))
        except PortsError as error:
            # a host that may come back is waited for, while something else keeps this process
            if isinstance(error, LoginNeededError) or (isinstance(error, SSHError) and error.is_network):
                self._add_request(request)
                self._start_watch()
            raise
        self._add_request(request)
        self._watch.note_up()
        try:
            self._take(document, [request], is_first=True, batch=batch)
        finally:
            self._start_watch()

    def _start_watch(self) -> None:
        if not self.tunnels.is_halted:
            self._watch.start(self.alias)

    def _add_request(self, request: OpenRequest) -> None:
        """Follow `request` from now on, also for what was closed before."""
        with self._requests_lock:
            self._requests = [*(one for one in self._requests if replace(one, skip=frozenset()) != request), request]

    # --- what listens there, at first and when it has changed ---

    def _take(
        self,
        document: dict[str, Any],
        requests: Sequence[OpenRequest],
        *,
        is_first: bool = False,
        batch: bool | None = True,
    ) -> None:
        on_nodes = _requests.on_nodes(document, requests)
        with self._turn:
            self._document = document
            found = self._found = listeners.from_probe(document, host=self.alias)
            self._on_news(self.alias)
            wanted, failed = _requests.choose(document, found, requests)
            known = {one.key[1]: one for one in self.tunnels if one.service is not None}
            self.share(one for key, one in known.items() if key in wanted and wanted[key][1].local.share)
            if is_first:
                self._add_results(failed)
                if not wanted and not on_nodes and not failed:
                    self._add_nothing(can_start=bool(document.get("ports")))
            else:
                self._end_missing([known[key] for key in known.keys() - wanted.keys()], failed, found)
            fresh = [self._new(*one, is_first) for key, one in wanted.items() if key not in known]
            moved = [one for key, one in known.items() if key in wanted and self._follow(one, wanted[key][0])]
            self._opener.open([one for one in fresh if one is not None], moved, is_first=is_first)
        for node, request in on_nodes:
            self._on_node(node, request, batch, is_first)

    def _add_results(self, failed: dict[Target, PortsError]) -> None:
        """Report the targets that cannot be opened."""
        for target, error in failed.items():
            self.tunnels.add_result(Tunnel(self.alias, None, target.name or str(target.port)), error)

    def _add_nothing(self, *, can_start: bool) -> None:
        """Report that there is nothing to open; `can_start`: `ports` ran there before."""
        tunnel = Tunnel(self.alias, "host")
        start = f"`ports cluster start{hosts.host_option(self.alias)}` starts one"
        listed = f"`ports list{hosts.host_argument(self.alias)}` shows what else listens"
        look = f"{listed}, and `ports open {self.alias}:PORT` opens it"
        tunnel.note = f"no cluster or notebook server of yours runs there; {start if can_start else look}"
        self.tunnels.add_result(tunnel, None)

    def _end_missing(
        self, missing: Sequence[Tunnel], failed: dict[Target, PortsError], found: Sequence[Listener]
    ) -> None:
        for tunnel in missing:
            assert tunnel.service is not None
            self._end(tunnel, _services.ended(tunnel.service, failed, found))

    def _new(self, service: Service, request: OpenRequest, is_first: bool) -> Tunnel | None:
        notice = None if is_first else _notice(service)
        if notice == "ignore":
            return None
        made = Tunnel(self.alias, service.kind, service.name, service=service, note=service.note, notice=notice)
        made.local, made.owner = request.local, request.owner
        made.reuse = request.reuse and replace(request.local, share=False) == LocalAddress()
        return made

    def _follow(self, tunnel: Tunnel, service: Service) -> bool:
        """Let `tunnel` be that of `service` as it is now; return whether it must be opened again."""
        moved = service.remote != tunnel.remote
        if moved:
            self._connection.cancel([tunnel.remote])
        is_shut = not tunnel.leads
        tunnel.service, tunnel.gone = service, False
        return moved or is_shut

    def _cut(self, remote: str, user: str) -> None:
        """Shut at once what leads to a port that another user has taken; news of what listens there may come late."""
        for tunnel in self.tunnels:
            if tunnel.service is not None and tunnel.remote == remote and tunnel.owner != user:
                self._end(tunnel, ForeignListenerError(f"{self.alias}:{tunnel.service.port}", user))

    def _end(self, tunnel: Tunnel, error: PortsError) -> None:
        """Shut the link of a service that is gone: what another user put in its place must never be reached."""
        if tunnel.gone and str(error) == str(tunnel.error):
            return
        tunnel.gone = True
        tunnel.error, tunnel.last_error = error, str(error)
        self._opener.shut(tunnel, "ended", cut=True)
        self._connection.cancel([tunnel.remote])

    def _hear(self, told: dict[str, Any], on_ends: Callable[[str, list[dict[str, Any]]], None]) -> None:
        """Hand on which jobs have ended, also while the connection was down."""
        if fresh := self._ends.take(told):
            on_ends(self.alias, fresh)

    def _take_condition(self, condition: Condition) -> None:
        self._on_news(self.alias)
        for tunnel in self.tunnels:
            if tunnel.forward is None or tunnel.gone:
                continue
            if condition.state == "up":
                tunnel.reconnects += 1
            else:
                tunnel.error = condition.error
                tunnel.last_error = str(condition.error)
                self._opener.shut(tunnel, condition.state)


def _notice(service: Service) -> str:
    """Return what the settings say of a new service: by its name, else by its kind."""
    chosen = settings.get("open.new")
    return str(chosen.get(service.name) or chosen.get(service.kind) or "notify")
