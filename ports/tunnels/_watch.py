"""The watch over the connection to one host: a heartbeat notices that it is dead, and a new one is made.

An ssh master says that it runs while nothing passes: ssh notices after minutes, or never. So a connection counts as
alive for as long as bytes come from our program on the host. When none come, the connection is left alone and a new one
is made beside it. If a person must answer a prompt, the watch waits until somebody has logged in.
"""

from __future__ import annotations

import contextlib
import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ports import hosts
from ports.errors import BusyError, FarSideError, LoginNeededError, PortsError, SlowError, SSHError
from ports.state import settings
from ports.tunnels._agent_session import Agent
from ports.tunnels._event_loop import Relay
from ports.tunnels._host_connection import HostConnection

_TICK = 0.5
_ATTEMPT_SECONDS = 3.0  # an attempt that waits longer than this sends too few packets to see the network come back
_FIRST_SECONDS = 10.0  # of a first attempt: the host may be slow
_MOST_ATTEMPT_SECONDS = 24.0  # for a host that answers slowly
_LEAST_PAUSE, _MOST_PAUSE, _MOST_PAUSE_REFUSED = 0.3, 3.0, 60.0
_SHORT_LIVED = 5.0  # silence is not noticed sooner: a connection that ends within it was ended, there or here
_NETWORK_SECONDS = 60.0  # for which the network is awaited; then a login is tried all the same
_LOOK_UP_SECONDS = 4.0  # after which another network may be there, in which a name has another address
_JUMP_OF_THE_CLOCK, _ANSWER_AFTER_JUMP = 10.0, 2.0


@dataclass(frozen=True)
class Condition:
    """How a connection is: ``connecting`` for the first time, ``up``, ``down`` or ``needs login``, and why."""

    state: str
    since: float
    error: PortsError | None = None

    @property
    def doing(self) -> str:
        """What is being done, for the page."""
        if self.state == "needs login":
            host = self.error.host if isinstance(self.error, SSHError) else "HOST"
            if hosts.choose_transport() == "paramiko":
                return "It continues once your key is in the agent. You can also end it and open the link again."
            return f"It continues once you have logged in: run `ports login {host}` in a terminal."
        return "A new connection is being tried."


class Heartbeat:
    """Judges from what was heard whether a connection still carries anything.

    Parameters
    ----------
    received : callable
        Returns how many bytes came over the connection so far, those of the heartbeat excluded.
    """

    def __init__(self, relay: Relay, received: Callable[[], int]) -> None:
        self._relay, self._received = relay, received
        self.dead_after = float(settings.get("open.dead_after"))
        self.pinged_at = self.waits_since = 0.0
        self._received_before = 0
        self._offset = time.time() - time.monotonic()

    def silence(self, agent: Agent) -> str | None:
        """Send a heartbeat when it is due; return why the connection is dead if none was answered for too long."""
        offset = time.time() - time.monotonic()
        jumped, self._offset = abs(offset - self._offset) > _JUMP_OF_THE_CLOCK, offset
        if jumped and not self._survived_sleep(agent):
            return "the connection did not survive the sleep of this machine"
        now, limit = time.monotonic(), _ANSWER_AFTER_JUMP if jumped else self.dead_after
        if not jumped and now - self.pinged_at >= limit / 4:
            if agent.last_heard >= self.waits_since:
                self.waits_since = now
            self.pinged_at = now
            with contextlib.suppress(RuntimeError):
                self._relay.start(agent.ping(limit))
        received = self._received()
        if received != self._received_before:  # behind a download over a slow line, a heartbeat waits longer
            self._received_before, self.waits_since = received, now
        # counted from a heartbeat that was sent: this thread may have been busy, as with a service that says nothing
        if agent.last_heard < self.waits_since < now - (limit * 3 / 4 - _TICK):
            return f"nothing came back for {limit:g} s"
        return None

    def _survived_sleep(self, agent: Agent) -> bool:
        try:
            self._relay.call(agent.ping(_ANSWER_AFTER_JUMP), timeout=_ANSWER_AFTER_JUMP + 1)
        except (PortsError, TimeoutError, RuntimeError):
            return False
        return True


class Watch:
    """A thread that watches a `HostConnection`, and mends it, from `start` to `close`.

    Parameters
    ----------
    on_condition : callable
        Called when the connection goes down, waits for a login, or is up again.
    on_document : callable
        Called with what listens on the host: when that has changed, and after each mending.
    on_stranger : callable
        Called with a remote that tunnels lead to, and the name of another user who has taken it.
    on_ends : callable
        Called with the jobs that ended last on the host: at first, and at each end.
    on_browse : callable
        Called, in a thread of its own, with what somebody on the host wants to see at home; returns the answer.
    received : callable
        See `Heartbeat`.
    """

    def __init__(
        self,
        connection: HostConnection,
        relay: Relay,
        *,
        on_condition: Callable[[Condition], None],
        on_document: Callable[[dict[str, Any]], None],
        on_stranger: Callable[[str, str], None],
        on_browse: Callable[[dict[str, Any]], dict[str, Any]],
        on_ends: Callable[[dict[str, Any]], None],
        received: Callable[[], int],
    ) -> None:
        self._connection, self._relay = connection, relay
        self._on_condition, self._on_document = on_condition, on_document
        self._on_stranger, self._on_browse, self._on_ends = on_stranger, on_browse, on_ends
        self._heartbeat = Heartbeat(relay, received)
        self.condition = Condition("down", time.time())
        self._alias = ""
        self._thread: threading.Thread | None = None
        self._up_at, self._rest = float("-inf"), 0.0
        self._first_addresses: list[Any] | None = None
        self._looks_up: threading.Thread | None = None
        self._again = threading.Event()
        self._pause, self._patience = _LEAST_PAUSE, _ATTEMPT_SECONDS

    @property
    def is_running(self) -> bool:
        """Whether it was started."""
        return self._thread is not None

    @property
    def is_up(self) -> bool:
        """Whether the connection carries something, as far as that is known."""
        return self.condition.state == "up"

    def note_up(self) -> None:
        """Take the connection as up, as it was just made."""
        self.condition, self._up_at = Condition("up", time.time()), time.monotonic()

    def start(self, alias: str, *, connecting: bool = False) -> None:
        """Start to watch the connection to `alias`, which need not be up yet; `connecting`: nobody has tried so far."""
        if connecting:
            self.condition = Condition("connecting", time.time())
            self._connection.ask_again()  # wakes the thread
        self._alias = self._connection.alias = alias
        self._thread = threading.Thread(target=self._keep, name=f"connection-{alias}", daemon=True)
        self._thread.start()

    def hurry(self) -> None:
        """Try at once what is tried later, also what was refused."""
        self._again.set()

    def close(self) -> None:
        """End the watch."""
        self._connection.closing.set()
        self._again.set()
        self._connection.messages.put((None, {"type": "closing"}))  # wakes the thread
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(2 * _ATTEMPT_SECONDS)

    def _keep(self) -> None:
        while not self._connection.closing.is_set():
            try:
                self._look()
            except Exception as error:  # noqa: BLE001 - a connection that nobody watches would never be mended
                threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, self._thread)))
                self._connection.closing.wait(_MOST_PAUSE)
                self._connection.ask_again()  # the last document may not have been handled

    def _look(self) -> None:
        lost, network_is_down = None, False
        if self._first_addresses is None and self.is_up:
            self._first_addresses = self._connection.first_addresses()
        with contextlib.suppress(queue.Empty):
            lost = self._take(*self._connection.messages.get(timeout=_TICK))
        if lost is None:
            agent = self._connection.agent
            silence = "the connection was lost" if agent is None else self._heartbeat.silence(agent)
            lost = None if silence is None else SSHError(self._alias, silence)
            network_is_down = agent is not None
        if lost is not None and not self._connection.closing.is_set():
            self._mend(lost, network_is_down=network_is_down)

    def _take(self, sender: Agent | None, message: dict[str, Any]) -> PortsError | None:
        """Act on a message of our program on the host; return why the connection is lost, if it is."""
        if message["type"] == "renew":
            return self._renew()
        if sender is None or sender is not self._connection.agent:
            return None
        if message["type"] == "lost":
            return SSHError(self._alias, f"the connection was lost: {message['reason']}")
        if message["type"] == "document":
            self._tell_document(message["document"])
        elif message["type"] == "ends":
            self._on_ends(message)
        elif message["type"] == "users" and message["user"] is not None and not message["mine"]:
            self._on_stranger(str(message["remote"]), str(message["user"]))
        elif message["type"] == "browse":
            # in another thread: a browser takes its time, and the connection must be watched meanwhile
            threading.Thread(target=self._browse, args=(sender, message), daemon=True).start()
        return None

    def _browse(self, sender: Agent, message: dict[str, Any]) -> None:
        answer = self._on_browse(message)
        self._relay.soon(lambda: sender.send({"type": "browse", "id": message.get("id"), **answer}))

    def _renew(self) -> PortsError | None:
        """Start our program on the host again, with another request."""
        try:
            document = self._connection.restart_agent(timeout=_MOST_ATTEMPT_SECONDS)
        except (PortsError, OSError) as error:
            return self._as_lost(error)
        if document is not None:
            self._tell_document(document)
        return None

    def _mend(self, lost: PortsError, *, network_is_down: bool = False) -> None:
        """Try until the connection is up again."""
        is_first = self.condition.state == "connecting"
        if not is_first:
            self._change("down", lost)
        self._connection.give_up()
        # A connection that ends again as soon as it is up must not be made again without end: the kernel on the host
        # may kill our program each time.
        short = time.monotonic() - self._up_at < _SHORT_LIVED
        self._rest = min(_MOST_PAUSE_REFUSED, max(_LEAST_PAUSE, 2 * self._rest)) if short else 0.0
        self._connection.closing.wait(self._rest)
        self._pause, self._patience = _LEAST_PAUSE, _FIRST_SECONDS if is_first else _ATTEMPT_SECONDS
        while not self._connection.closing.is_set():
            if network_is_down:
                self._await_network()
            began = time.monotonic()
            try:
                document = self._connection.reconnect(self._alias, timeout=self._patience)
            except LoginNeededError as error:
                self._change("needs login", error)
                self._wait_for_login()
            except (PortsError, OSError) as error:  # a full disk and too many open files pass, too
                network_is_down = isinstance(error, SSHError) and error.is_network
                self._take_failure(error, waited=time.monotonic() - began)
            else:
                self._heartbeat.pinged_at, self._up_at = 0.0, time.monotonic()
                self._change("up", None)
                self._tell_document(document)
                return

    def _await_network(self) -> None:
        """Wait until the network leads to the first hop: an attempt that is under way by then sees it late."""
        end = time.monotonic() + _NETWORK_SECONDS
        while self._first_addresses and time.monotonic() < end and not self._again.is_set():
            closing = self._connection.closing
            if hosts.await_answer(self._first_addresses, timeout=_LOOK_UP_SECONDS, over=closing) or closing.is_set():
                return
            if self._looks_up is None or not self._looks_up.is_alive():
                # in a thread: without a network, looking up a name takes long
                self._looks_up = threading.Thread(target=self._look_up, name=f"look-up-{self._alias}", daemon=True)
                self._looks_up.start()

    def _look_up(self) -> None:
        with contextlib.suppress(PortsError):  # as long as nobody knows better, the addresses of before
            route = hosts.resolve(self._alias)
            found = hosts.first_addresses(route)
            if found or route.hops[0].proxy_command is not None:
                self._first_addresses = found

    def _take_failure(self, error: PortsError | OSError, *, waited: float) -> None:
        """Say why an attempt failed that took so many seconds, and wait before the next one."""
        if not isinstance(error, BusyError):  # it says less than what was known before
            self._change("down", self._as_lost(error))
        network = isinstance(error, SSHError) and error.is_network
        # the host answers slowly: a busy directory service, start files that load a whole environment
        slow = isinstance(error, (SlowError, FarSideError))
        if type(error) is SSHError and self._up_at == float("-inf"):
            self._wait_for_login()  # refused attempts count there: after some this machine is banned
            return
        self._patience = min(2 * self._patience, _MOST_ATTEMPT_SECONDS) if slow else _ATTEMPT_SECONDS
        self._pause = min(
            self._pause * 1.5, max(_LEAST_PAUSE, _MOST_PAUSE - waited) if network else _MOST_PAUSE_REFUSED
        )
        # with jitter: thirty laptops of one institute must not come back in step
        self._again.wait(self._pause * random.uniform(0.7, 1.0))
        self._again.clear()

    def _as_lost(self, error: PortsError | OSError) -> PortsError:
        return error if isinstance(error, PortsError) else SSHError(self._alias, str(error))

    def _wait_for_login(self) -> None:
        """Wait until somebody has logged in; nothing is tried meanwhile, because refused attempts lock accounts."""
        known: set[object] = set()
        while not self._again.wait(1.0) and not self._connection.closing.is_set():
            with contextlib.suppress(PortsError, OSError):
                route = hosts.resolve(self._alias)
                known.add(hosts.login_keys(route))
                if hosts.is_connected(route) or len(known) > 1:
                    return
        self._again.clear()

    def _tell_document(self, document: dict[str, Any]) -> None:
        with contextlib.suppress(PortsError, OSError, RuntimeError):  # lost or closed meanwhile: the next look sees it
            self._on_document(document)

    def _change(self, state: str, error: PortsError | None) -> None:
        before = self.condition
        since = before.since if before.state == state else time.time()
        self.condition = Condition(state, since, error)
        if (before.state, str(before.error)) != (state, str(error)):
            self._on_condition(self.condition)
