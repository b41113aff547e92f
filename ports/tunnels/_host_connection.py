"""The connection to one host while tunnels to it are open, with a program of ours that runs there.

The program reports what listens on the host, answers heartbeats, and connects where sshd forwards nothing. `_watch`
keeps the connection alive.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterable
from typing import Any

from ports import hosts
from ports.errors import FarSideError, PortsError, SSHError
from ports.hosts import Connection, Dial, Route
from ports.tunnels import _agent_session
from ports.tunnels._agent_session import Agent
from ports.tunnels._event_loop import Relay

_DOCUMENT_SECONDS = 30.0
_TICK = 0.5
_DOUBT_SECONDS = 5.0  # of silence, after which another question shows what start files do
_QUICK_SECONDS = 1.0  # of a host that is not overloaded


class HostConnection:
    """The connection to one host, made again by `reconnect`; `close` leaves it to later commands.

    Attributes
    ----------
    alias : str
        The host; empty before the first connection.
    agent : Agent or None
        The session of our program on the host; None where the connection is lost.
    messages : Queue
        What the program says, with the session that it came through; None with what this process says itself.
    closing : Event
        Set once nothing is to be connected again.
    """

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self.alias = ""
        self.agent: Agent | None = None
        self.messages: queue.Queue[tuple[Agent | None, dict[str, Any]]] = queue.Queue()
        self.closing = threading.Event()
        self._request: dict[str, Any] = {"all": False}
        self._connection: Connection | None = None
        self._left: list[Connection] = []  # whose sockets were removed: what goes through them goes on until `close`
        self._route: Route | None = None
        self._machine, self._node = "", ""  # to which the first connection led

    def start(self, connection: Connection) -> dict[str, Any]:
        """Go on with the first `connection`: start our program on the host, and return what listens there.

        Raises
        ------
        FarSideError
            There is no python3.
        SSHError
            The connection was lost.
        """
        self.alias = connection.route.alias
        self._request.update(hosts.probe_names(connection.route))
        document = self._use(connection, _DOCUMENT_SECONDS)
        self._machine, self._node = document["machine_id"], document["host"]
        return document

    def reconnect(self, alias: str, *, timeout: float) -> dict[str, Any]:
        """Connect again, or at last, asking nobody; return what listens there.

        A host's name can lead to several nodes. The connection goes back to the node to which it led first, unless
        that node has gone.

        Raises
        ------
        SSHError
            The host cannot be reached.
        FarSideError
            There is no python3.
        """
        self.alias = alias
        route = hosts.resolve(alias, timeout=timeout)  # in another network it may be another route
        self._request.update(hosts.probe_names(route))
        document = self._connect_to(route, timeout)
        if self._machine not in ("", document["machine_id"]) and "/" not in alias:
            self._drop_agent()
            to_another, self._connection = self._connection, None
            try:
                with contextlib.suppress(PortsError, OSError):  # that node has gone
                    there = self._connect_to(hosts.resolve(f"{alias}/{self._node}"), timeout)
                    if there["machine_id"] == self._machine:
                        return there
            finally:
                if to_another is not None:
                    to_another.close()
            if self._connection is not None:
                self._connection.close()
            document = self._connect_to(route, timeout)
        self._machine, self._node = document["machine_id"], document["host"]
        return document

    def probe(self, *, everybody: bool, batch: bool | None) -> dict[str, Any]:
        """Return what listens there now; raises as `reconnect`."""
        alias = self._route.alias if self._route else self.alias  # in another network it may be another route
        return hosts.probe(alias, {**self._request, "all": everybody}, batch=batch)

    def report_everybody(self) -> None:
        """Let other users' listeners be reported, too, from now on."""
        if not self._request["all"]:
            self._request["all"] = True
            if self.agent is not None:
                self.ask_again()

    def ask_again(self) -> None:
        """Let the watch start our program again with the present request."""
        self.messages.put((None, {"type": "renew"}))

    def look(self) -> None:
        """Let our program there look at once; it reports what has changed."""
        agent = self.agent
        if agent is not None:
            self._relay.soon(lambda: agent.send({"type": "look"}))

    def view(self, request: dict[str, Any], *, timeout: float) -> dict[str, Any]:
        """Return what our program there sees of the machine, see `Agent.view`; raises as that."""
        agent = self.agent
        if agent is None:
            raise SSHError(self.alias, "the connection was lost")
        return self._relay.call(agent.view(request, timeout=timeout), timeout=timeout + 1)

    def forward(self, remotes: Iterable[str]) -> dict[str, Dial]:
        """Return what connects to each of ``host:port`` or a socket's path there; raises SSHError."""
        if self._connection is None:
            raise SSHError(self.alias, "the connection was lost")
        return self._connection.forward(remotes)

    def forward_by_agent(self, remote: str, owner: str | None) -> Dial:
        """Return what connects to `remote` through our program there, where sshd forwards nothing."""
        agent = self.agent

        async def dial() -> Any:
            if agent is None:
                raise SSHError(self.alias, "the connection was lost")
            return await agent.dial(remote, owner)

        return dial

    def cancel(self, remotes: Iterable[str]) -> None:
        """Forward these no more; connections through them go on."""
        if self._connection is not None:
            self._connection.cancel(remotes)

    def watch_users(self, remotes: Iterable[str]) -> None:
        """Ask for a message when another user takes one of these; that works even while a home there hangs."""
        agent, message = self.agent, {"type": "users", "remotes": sorted(set(remotes))}
        if agent is not None:
            self._relay.soon(lambda: agent.send(message))

    def first_addresses(self) -> list[Any]:
        """Return the addresses to which the route begins, as far as they are known."""
        return hosts.first_addresses(self._route) if self._route is not None else []

    def refusal(self, remote: str) -> PortsError | None:
        """Return why `remote` was not connected to, if that is known."""
        return self._connection.refusal(remote) if self._connection is not None else None

    def is_there(self) -> bool:
        """Tell whether the connection exists; the watch's condition says whether it carries anything."""
        return self._connection is not None and self._connection.is_there()

    def check_whole(self) -> None:
        """Let the watch make everything anew where somebody removed the sockets of the connection."""
        if self._connection is not None and not self._connection.is_whole():
            reason = "its sockets on this machine were removed, with the runtime directory"
            self._left.append(self._connection)
            self.messages.put((self.agent, {"type": "lost", "reason": reason}))

    def give_up(self) -> None:
        """Leave the connection alone, as it fell silent: what goes through it may recover."""
        self._drop_agent()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.give_up()

    def close(self) -> None:
        """Cancel all forwards and end our program; the connection stays for later commands."""
        self.closing.set()
        self._drop_agent()
        connection, self._connection = self._connection, None
        for one in (*self._left, *([] if connection is None else [connection])):
            one.close()
        self._left.clear()

    def restart_agent(self, *, timeout: float) -> dict[str, Any] | None:
        """Start our program there again; return what listens there, None where there is no connection."""
        self._drop_agent()
        return None if self._connection is None else self._start_agent(self._connection, timeout)

    def _connect_to(self, route: Route, timeout: float) -> dict[str, Any]:
        return self._use(hosts.connect(route, batch=True, timeout=timeout), timeout)

    def _use(self, connection: Connection, timeout: float) -> dict[str, Any]:
        """Start our program through `connection`, and go on with it."""
        self._drop_agent()
        self._route = connection.route
        try:
            document = self._start_agent(connection, timeout)
        except BaseException:
            self._drop_agent()
            connection.close()
            raise
        self._connection = connection
        return document

    def _start_agent(self, connection: Connection, timeout: float) -> dict[str, Any]:
        pythons = ["python3", *hosts.named_pythons(self.alias)]
        while True:
            try:
                return self._start_agent_in(pythons.pop(0), connection, timeout)
            except FarSideError:
                is_explained = self.agent is not None and self.agent.abandoned is not None
                self._drop_agent()
                if is_explained:
                    raise
                if not pythons:
                    hosts.explain_silence(connection.route, timeout=timeout, quick=0.0)
                    raise

    def _doubt(self, agent: Agent, route: Route, timeout: float) -> None:
        """Ask another question when our program is silent, and end the wait where that shows the reason."""
        try:
            hosts.explain_silence(route, timeout=timeout, quick=_QUICK_SECONDS)
        except FarSideError as error:
            reason = error  # of an `except` the name is gone afterwards
            self.closing.wait(_DOUBT_SECONDS / 2)  # it may just have been about to answer
            self._relay.soon(lambda: agent.abandon(reason))

    def _start_agent_in(self, python: str, connection: Connection, timeout: float) -> dict[str, Any]:
        agent = self.agent = Agent(self.alias)
        start = agent.start(
            connection.exec_channel(_agent_session.PYTHON.format(python=python)),
            {"probe": self._request, "came": hosts.came_by(connection.route)},
            on_message=lambda message: self.messages.put((agent, message)),
            on_lost=lambda reason: self.messages.put((agent, {"type": "lost", "reason": reason})),
            timeout=timeout,
        )
        doubt = threading.Timer(_DOUBT_SECONDS, self._doubt, [agent, connection.route, timeout])
        doubt.daemon = True
        doubt.start()
        try:
            self._relay.call(start, timeout=timeout + 5)
        except RuntimeError as error:  # the relay was closed: Ctrl-C
            raise SSHError(self.alias, "it was closed while it opened") from error
        finally:
            doubt.cancel()
        return self._first_document(agent)

    def _first_document(self, agent: Agent) -> dict[str, Any]:
        deadline = time.monotonic() + _DOCUMENT_SECONDS
        while not self.closing.is_set():
            with contextlib.suppress(queue.Empty):
                sender, message = self.messages.get(timeout=max(0.0, min(_TICK, deadline - time.monotonic())))
                if sender is agent and message["type"] == "lost":
                    raise FarSideError(self.alias, str(message["reason"]))
                if sender is agent and message["type"] == "document":
                    document: dict[str, Any] = message["document"]
                    return document
            if time.monotonic() > deadline:
                raise FarSideError(self.alias, f"it did not report its listeners within {_DOCUMENT_SECONDS:g} s")
        raise SSHError(self.alias, "it was closed while it opened")

    def _drop_agent(self) -> None:
        agent, self.agent = self.agent, None
        if agent is not None:
            self._relay.soon(agent.close)
