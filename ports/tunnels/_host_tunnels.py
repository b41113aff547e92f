"""The tunnels to one host: brought up, proved, followed when their services move, ended with them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from ports import listeners
from ports.errors import ForeignListenerError, LoginNeededError, PortInUseError, PortsError, ProhibitedError, SSHError
from ports.hosts import Dial
from ports.state import settings, wait_until
from ports.tunnels import _local_address, _requests, _services, _verify
from ports.tunnels import _records as tunnel_records
from ports.tunnels._event_loop import LOOPBACK, Relay, bind
from ports.tunnels._host_connection import Condition, HostConnection
from ports.tunnels._local_forward import LocalForward
from ports.tunnels._requests import OpenRequest
from ports.tunnels._services import Service
from ports.tunnels._tunnel import Tunnel

_FIRST_SECONDS, _LATER_SECONDS = 10.0, 3.0  # for an answer; news of the host wait meanwhile, but for the first time
_NO_ANSWER = "it closes connections without an answer"
_PATIENCE = 0.05  # seconds for which a service that may be no web server may speak first


class HostTunnels:
    """The tunnels to one host, and the way to it.

    Parameters
    ----------
    on_change : callable
        Is called with each tunnel whose state or link has changed, from several threads.
    on_browse : callable
        Is called with the host and what somebody there wants to see at home, and returns the answer.
    on_node : callable
        Is called with another node of the host's name, what is wanted there, whether nobody may be asked to log in, and
        whether somebody waits for it.
    """

    def __init__(
        self,
        alias: str,
        relay: Relay,
        *,
        on_change: Callable[[Tunnel], None],
        on_browse: Callable[[str, dict[str, Any]], dict[str, Any]],
        on_node: Callable[[str, OpenRequest, bool | None, bool], None],
    ) -> None:
        self.alias, self._relay, self._on_change, self._on_node = alias, relay, on_change, on_node
        self.tunnels: list[Tunnel] = []
        self.lock = threading.RLock()
        self._requests: list[OpenRequest] = []
        self._closing = threading.Event()
        self._turn = threading.Lock()  # one document at a time
        self._starting, self._is_watched = threading.Lock(), False
        self._connection = HostConnection(
            alias,
            relay,
            on_condition=self._tell_condition,
            on_document=lambda document: self._take(document, self._requests),
            received=lambda: sum(one.forward.received for one in list(self.tunnels) if one.forward is not None),
            on_stranger=self._cut,
            on_browse=lambda wanted: on_browse(alias, wanted),
        )

    def open(self, request: OpenRequest, *, batch: bool | None) -> None:
        """Open what `request` names; what fails stays in `tunnels`, with its error.

        Raises
        ------
        SSHError
            There is no way to the host.
        """
        everybody = any(target.port is not None for target in request.targets)
        self._requests[:] = [*(one for one in self._requests if replace(one, skip=frozenset()) != request), request]
        with self._starting:  # of several at once, the first connects
            if not self._is_watched:
                self._open_first(request, everybody=everybody, batch=batch)
                return
        if request.owner is not None:
            self._connection.watch_everybody()
        document = self._connection.probe(everybody=everybody, batch=batch)
        with contextlib.suppress(PortsError):  # after a login, what was asked answers, and the way is up in a moment
            wait_until(lambda: self._connection.condition.state == "up" or None, timeout=_FIRST_SECONDS, what="the way")
        self._take(document, [request], is_first=True, batch=batch)

    def _open_first(self, request: OpenRequest, *, everybody: bool, batch: bool | None) -> None:
        try:
            document = self._connection.open(everybody=everybody, batch=batch)
        except PortsError as error:
            if isinstance(error, LoginNeededError) or (isinstance(error, SSHError) and error.is_network):
                self._watch()  # it is opened when the host comes back, while something else keeps this process
            else:
                self._requests.remove(request)
            raise
        try:
            self._take(document, [request], is_first=True, batch=batch)
        finally:
            self._watch()

    def _watch(self) -> None:
        if not self._closing.is_set():
            self._is_watched = True
            self._connection.watch()

    def halt(self) -> None:
        """Bring nothing up any more."""
        with self.lock:
            self._closing.set()

    def close(self) -> None:
        """Take back what the way carries; the ports are free already."""
        self._connection.close()

    def forget(self, tunnel: Tunnel) -> None:
        """Tell of this failure no more."""
        with self.lock:
            if tunnel in self.tunnels:
                self.tunnels.remove(tunnel)

    def close_tunnels(self, wanted: Iterable[Tunnel]) -> list[Tunnel]:
        """Close some, and open them no more; return those that were there."""
        with self.lock:  # two processes may ask for the same at once
            mine = [one for one in dict.fromkeys(wanted) if one in self.tunnels]
            for tunnel in mine:
                self.tunnels.remove(tunnel)
        closed = frozenset((str(one.kind), str(one.name)) for one in mine)
        self._requests[:] = [replace(request, skip=request.skip | closed) for request in self._requests]
        for tunnel in mine:
            self._release(tunnel)
            self._change(tunnel, "closed")
        return mine

    def reclaim(self) -> None:
        """Go back to usual ports whose holders have left them."""
        for tunnel in list(self.tunnels):
            try:
                self._reclaim(tunnel)
            except (PortsError, OSError) as error:
                tunnel.add_note(str(error))

    def retry(self) -> None:
        """Ask again what did not answer, as it may by now."""
        waiting = [one for one in self.tunnels if one.is_due(time.time())]
        if waiting and self._connection.condition.state == "up":
            with self._turn:
                self._bring_up([], waiting)

    def fail(self, error: PortsError) -> None:
        """Tell that the host itself failed."""
        self._add(Tunnel(self.alias, "host"), error)

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
            found = listeners.from_probe(document, host=self.alias)
            wanted, failed = _requests.choose(document, found, requests)
            known = {one.key[1]: one for one in self.tunnels if one.service is not None}
            if is_first:
                for target, error in failed.items():
                    self._add(Tunnel(self.alias, None, target.name or str(target.port)), error)
                if not wanted and not failed and not on_nodes:
                    self._tell_nothing()
            else:
                for tunnel in [known[key] for key in known.keys() - wanted.keys()]:
                    assert tunnel.service is not None
                    self._end(tunnel, _services.ended(tunnel.service, failed, found))
            fresh = [self._new(*one, is_first) for key, one in wanted.items() if key not in known]
            moved = []
            for key, tunnel in known.items():
                service = wanted[key][0] if key in wanted else None
                if service is not None and (not tunnel.leads or service.remote != tunnel.remote):
                    moved.append(tunnel)
                    if service.remote != tunnel.remote:
                        self._connection.take_back([tunnel.remote])
                if service is not None:
                    tunnel.service, tunnel.gone = service, False
            self._bring_up([one for one in fresh if one is not None], moved, is_first=is_first)
        for node, request in on_nodes:
            self._on_node(node, request, batch, is_first)

    def _new(self, service: Service, request: OpenRequest, is_first: bool) -> Tunnel | None:
        notice = None if is_first else _notice(service)
        if notice == "ignore":
            return None
        made = Tunnel(self.alias, service.kind, service.name, service=service, note=service.note, notice=notice)
        made.local, made.owner = request.local, request.owner
        return made

    def _cut(self, remote: str, user: str) -> None:
        """Shut at once what leads to a port that another user has taken; news of what listens there may come late."""
        for tunnel in list(self.tunnels):
            if tunnel.service is not None and tunnel.remote == remote and tunnel.owner != user:
                self._end(tunnel, ForeignListenerError(f"{self.alias}:{tunnel.service.port}", user))

    def _end(self, tunnel: Tunnel, error: PortsError) -> None:
        """Shut the link of a service that is gone; what another user put in its place is never reached."""
        assert tunnel.service is not None
        if tunnel.gone and str(error) == str(tunnel.error):
            return
        tunnel.gone = True
        tunnel.error, tunnel.last_error = error, str(error)
        self._shut(tunnel, "ended", cut=True)
        self._connection.take_back([tunnel.service.remote])

    # --- bringing up ---

    def _bring_up(self, fresh: Sequence[Tunnel], again: Sequence[Tunnel], *, is_first: bool = False) -> None:
        with self.lock:
            if self._closing.is_set():
                raise SSHError(self.alias, "it was closed while it opened")
            tunnels = [*fresh, *(one for one in again if one in self.tunnels)]  # the others were closed meanwhile
            self.tunnels += fresh
        with contextlib.suppress(PortsError, OSError):  # all in one go; where that fails, each tells its own reason
            self._connection.lead([one.remote for one in tunnels if not self._by_agent(one)])
        # what failed at first is told and forgotten; a link that was open stays
        firsts = [is_first and one in fresh for one in tunnels]
        workers = [
            threading.Thread(target=self._connect, args=each, daemon=True) for each in zip(tunnels, firsts, strict=True)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        self._connection.watch_users(one.remote for one in self.tunnels if one.service is not None and not one.gone)

    def _connect(self, tunnel: Tunnel, is_first: bool) -> None:
        try:
            if not tunnel.ports:
                self._listen(tunnel)
            state = self._prove(tunnel, _FIRST_SECONDS if is_first else _LATER_SECONDS)
        except (PortsError, OSError) as error:
            self._give_up(tunnel, error, is_first=is_first)
        except RuntimeError:  # the relay was closed meanwhile
            self._release(tunnel)
        else:
            if tunnel.ports and self._connection.condition.state == "up":  # else it was closed, or lost, meanwhile
                tunnel.error = None
                if state == "open":
                    tunnel.drop_note(_NO_ANSWER)
                self._change(tunnel, state)

    def _prove(self, tunnel: Tunnel, limit: float) -> str:
        """Let the port lead to the service, by the first door that is not closed, and return ``open`` or ``silent``."""
        service = tunnel.service
        assert service is not None and tunnel.forward is not None and tunnel.where is not None
        methods = ["agent", "forward"] if self._by_agent(tunnel) else ["forward", "agent"]
        tunnel.tried_at, patience = time.time(), 0.0 if service.known_web else _PATIENCE
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
                tunnel_records.remember_forward_method(self.alias, service.is_unix, method)
                return found.state
            # the agent reports its own refusals; sshd's message is about the ssh forward
            reason = tunnel.forward.refusal
            if reason is None and method == "forward":
                reason = self._connection.refusal(service.remote)
            if not isinstance(reason, ProhibitedError):
                break
        if reason is not None or not self._connection.is_there():
            raise reason or SSHError(self.alias, "the connection was lost; try again")
        if not self._closing.is_set() and self._connection.condition.state == "up":
            tunnel.add_note(_NO_ANSWER)
        return "silent"

    def _dial(self, tunnel: Tunnel, method: str) -> Dial:
        service = tunnel.service
        assert service is not None
        if method == "agent":
            return self._connection.lead_by_agent(service.remote, tunnel.owner)
        return self._connection.lead([service.remote])[service.remote]

    def _by_agent(self, tunnel: Tunnel) -> bool:
        """Tell whether sshd there was seen to forward nothing of this kind."""
        return (
            tunnel.service is not None and tunnel_records.forward_method(self.alias, tunnel.service.is_unix) == "agent"
        )

    def _listen(self, tunnel: Tunnel) -> None:
        assert tunnel.service is not None
        place = _local_address.take(tunnel.local, tunnel.service, (tunnel.host, tunnel.kind, tunnel.name))
        tunnel.usual_port = place.usual
        if place.note is not None:
            tunnel.add_note(place.note)
        with self.lock:
            if self._closing.is_set() or tunnel not in self.tunnels:
                for half in place.bound:
                    half.close()
                raise SSHError(self.alias, "it was closed while it opened")
            tunnel.where = _local_address.where(place.bound, tunnel.local)
            tunnel.forward = LocalForward(http=tunnel.service.asked)
            tunnel.local_port = self._relay.listen(place.bound, tunnel.forward)
            tunnel.ports.add(tunnel.local_port)

    def _reclaim(self, tunnel: Tunnel) -> None:
        usual = tunnel.usual_port
        if usual is None or tunnel.forward is None:
            return
        with self.lock:  # it may be closed at this moment
            if self._closing.is_set() or not tunnel.ports or usual in tunnel.ports or tunnel not in self.tunnels:
                return
            try:
                port = self._relay.listen(
                    bind(usual, (tunnel.local.address,) if tunnel.local.address else LOOPBACK), tunnel.forward
                )
            except (PortInUseError, RuntimeError):
                return
            # the other port goes on: a page may be open there
            tunnel.ports.add(port)
            tunnel.note = f"port {usual} is free again; {tunnel.local_port} serves too"
            tunnel.local_port, tunnel.where = port, (tunnel.local.address_here, port)
        self._change(tunnel, tunnel.state)

    # --- the way down and up ---

    def _tell_condition(self, condition: Condition) -> None:
        for tunnel in list(self.tunnels):
            if tunnel.forward is None or tunnel.gone:
                continue
            if condition.state == "up":
                tunnel.reconnects += 1
            else:
                tunnel.error = condition.error
                tunnel.last_error = str(condition.error)
                self._shut(tunnel, condition.state)

    def _shut(self, tunnel: Tunnel, state: str, *, cut: bool = False) -> None:
        since = tunnel.since if tunnel.state == state else time.time()
        tunnel.state = state
        with contextlib.suppress(RuntimeError, TimeoutError):
            if tunnel.forward is not None:
                page = replace(tunnel.page(self._doing(state)), since=since)
                self._relay.call(tunnel.forward.shut(page, cut=cut))
        self._change(tunnel, state, since=since)

    def _doing(self, state: str) -> str:
        return "This link leads there again when it is back." if state == "ended" else self._connection.condition.doing

    # --- small steps ---

    def _give_up(self, tunnel: Tunnel, error: PortsError | OSError, *, is_first: bool) -> None:
        if tunnel not in self.tunnels:  # it was closed meanwhile
            self._release(tunnel)
            return
        told = error if isinstance(error, PortsError) else SSHError(self.alias, str(error))
        tunnel.error, tunnel.last_error = told, str(told)
        if is_first or not tunnel.ports:
            self._release(tunnel)
            self._change(tunnel, "error")
        elif self._connection.condition.state == "up":
            self._shut(tunnel, "ended")

    def _release(self, tunnel: Tunnel) -> None:
        """Free the tunnel's ports and take its forward back."""
        with self.lock:  # `_reclaim` must not give it a port meanwhile
            if tunnel.forward is not None:
                self._relay.stop(tunnel.forward)
            tunnel.ports = set()
        if tunnel.service is not None and not any(one.service is tunnel.service for one in self.tunnels if one.ports):
            self._connection.take_back([tunnel.service.remote])

    def _tell_nothing(self) -> None:
        tunnel = Tunnel(self.alias, "host")
        tunnel.note = f"no cluster or notebook server runs there; `ports cluster start -H {self.alias}` starts one"
        self._add(tunnel, None)

    def _add(self, tunnel: Tunnel, error: PortsError | None) -> None:
        tunnel.error = error
        with self.lock:
            self.tunnels.append(tunnel)
        self._change(tunnel, "error" if error else "nothing")

    def _change(self, tunnel: Tunnel, state: str, *, since: float | None = None) -> None:
        if tunnel.state != state or since is not None:
            tunnel.since = since or time.time()
        tunnel.state = state
        self._on_change(tunnel)


def _notice(service: Service) -> str:
    """Return what the settings say of a new service: by its name, else by its kind."""
    chosen = settings.get("open.new")
    return str(chosen.get(service.name) or chosen.get(service.kind) or "notify")
