"""The way to one host while tunnels to it are open: it is watched by a heartbeat of its own, and mended.

A master connection says that it runs while nothing passes (ssh notices after minutes, or never), so the way is as
alive as the last byte that came from our program on the host. When none comes, the connection is left to itself and a
new one is made beside it; where a person must answer a prompt, it waits until somebody has logged in.
"""

from __future__ import annotations

import contextlib
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ports import hosts
from ports.errors import BusyError, FarSideError, LoginNeededError, PortsError, SlowError, SSHError
from ports.hosts import Carrier, Dial
from ports.state import settings
from ports.tunnels import _agent_session
from ports.tunnels._event_loop import Relay

_TICK = 0.5
_ATTEMPT_SECONDS = 3.0  # an attempt that waits longer than this sends too few packets to see the network come back
_MOST_ATTEMPT_SECONDS = 24.0  # for a host that answers, and slowly
_LEAST_PAUSE, _MOST_PAUSE, _MOST_PAUSE_REFUSED = 0.3, 3.0, 60.0
_SHORT_LIVED = 5.0  # silence is not noticed sooner: a way that ends within it was ended, there or here
_DOCUMENT_SECONDS = 30.0
_JUMP_OF_THE_CLOCK, _ANSWER_AFTER_JUMP = 10.0, 2.0


@dataclass(frozen=True)
class Condition:
    """How a way is: ``up``, ``down`` or ``needs login``, and why."""

    state: str
    since: float
    error: PortsError | None = None

    @property
    def doing(self) -> str:
        """What is being done, for the page."""
        if self.state == "needs login":
            host = self.error.host if isinstance(self.error, SSHError) else "HOST"
            if hosts.choose_transport() == "paramiko":
                return "It goes on once your key is in the agent; or end it, and open the link again."
            return f"It goes on once somebody has logged in: run `ports login {host}` in a terminal."
        return "A new connection is being tried."


class HostConnection:
    """The connection to one host, kept alive in a thread from `watch` to `close`.

    Parameters
    ----------
    on_condition : callable
        Is called, in the way's thread, when the way goes down, waits for a login, or was mended.
    on_document : callable
        Is called, in the way's thread, with what listens there: when that has changed, and after each mending.
    received : callable
        Returns how many bytes came over the way so far, but for those of the heartbeat.
    on_stranger : callable
        Is called, in the way's thread, with what is guarded there and the name of the user who has taken it.
    on_browse : callable
        Is called, in a thread of its own, with what somebody on the host wants to see at home; returns the answer.
    """

    def __init__(
        self,
        alias: str,
        relay: Relay,
        *,
        on_condition: Callable[[Condition], None],
        on_document: Callable[[dict[str, Any]], None],
        received: Callable[[], int],
        on_stranger: Callable[[str, str], None],
        on_browse: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> None:
        self.alias, self._relay = alias, relay
        self._request: dict[str, Any] = {"all": False}
        self._on_condition, self._on_document = on_condition, on_document
        self._on_stranger, self._on_browse, self._received = on_stranger, on_browse, received
        self.condition = Condition("down", time.time())
        self.reconnects = 0
        self.carrier: Carrier | None = None
        self._agent: _agent_session.Agent | None = None
        self._messages: queue.Queue[tuple[_agent_session.Agent | None, dict[str, Any]]] = queue.Queue()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._dead_after = float(settings.get("open.dead_after"))
        self._pinged_at = self._waits_since = self._offset = 0.0
        self._up_at, self._rest = float("-inf"), 0.0
        self._received_before = 0
        self._machine, self._node = "", ""  # to which the way led first
        self._place = alias

    def open(self, *, everybody: bool = False, batch: bool | None = None) -> dict[str, Any]:
        """Connect for the first time, where a person may be asked, and return what listens there.

        Parameters
        ----------
        everybody : bool
            Other users' listeners, too, from now on.

        Raises
        ------
        SSHError
            There is no way to the host.
        FarSideError
            There is no python3.
        """
        self._request.update(hosts.probe_names(self.alias), all=everybody)
        document = self._connect(batch=batch, timeout=None)
        self.condition, self._up_at = Condition("up", time.time()), time.monotonic()
        return document

    def probe(self, *, everybody: bool, batch: bool | None) -> dict[str, Any]:
        """Return what listens there now; raises as `open`."""
        request = {**hosts.probe_names(self.alias), "all": everybody}
        return hosts.probe(self._place, request, batch=batch)

    def watch_everybody(self) -> None:
        """Be told of other users' listeners, too, from now on."""
        if not self._request["all"]:
            self._request["all"] = True
            self._messages.put((None, {"type": "renew"}))

    def watch(self) -> None:
        """Start to watch it, and to mend it."""
        self._thread = threading.Thread(target=self._keep, name=f"connection-{self.alias}", daemon=True)
        self._thread.start()

    def lead(self, remotes: Iterable[str]) -> dict[str, Dial]:
        """Return what connects to each of ``host:port`` or a socket's path there; raises SSHError."""
        if self.carrier is None:
            raise SSHError(self.alias, "the connection was lost")
        return self.carrier.lead(remotes)

    def lead_by_agent(self, remote: str, owner: str | None) -> Dial:
        """Return what connects to `remote` through our program there, where sshd forwards nothing."""
        made = self._agent

        async def dial() -> Any:
            if made is None:
                raise SSHError(self.alias, "the connection was lost")
            return await made.dial(remote, owner)

        return dial

    def take_back(self, remotes: Iterable[str]) -> None:
        """Connect to these no more."""
        if self.carrier is not None:
            self.carrier.take_back(remotes)

    def watch_users(self, remotes: Iterable[str]) -> None:
        """Be told when somebody else takes one of these: a home there that hangs does not hold that up."""
        made, message = self._agent, {"type": "users", "remotes": sorted(set(remotes))}
        if made is not None:
            self._relay.soon(lambda: made.send(message))

    def refusal(self, remote: str) -> PortsError | None:
        """Return why `remote` was not connected to, where that is known."""
        return self.carrier.refusal(remote) if self.carrier is not None else None

    def is_there(self) -> bool:
        """Tell whether the connection exists; whether it carries anything, `condition` tells."""
        return self.carrier is not None and self.carrier.is_there()

    def close(self) -> None:
        """End the watch, and take back what was opened; the connection stays for later commands."""
        self._closing.set()
        self._messages.put((None, {"type": "closing"}))  # wakes the thread
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(2 * _ATTEMPT_SECONDS)
        self._drop_agent()
        carrier, self.carrier = self.carrier, None
        if carrier is not None:
            carrier.close()

    # --- the connection ---

    def _connect(self, *, batch: bool | None, timeout: float | None) -> dict[str, Any]:
        """Connect to the node to which the way led first, where the host's name leads to several."""
        document = self._connect_to(self.alias, batch=batch, timeout=timeout)
        if self._machine not in ("", document["machine_id"]) and "/" not in self.alias:
            by_another = self.carrier
            with contextlib.suppress(PortsError, OSError):  # that node has gone
                there = self._connect_to(f"{self.alias}/{self._node}", batch=True, timeout=timeout)
                if there["machine_id"] == self._machine:
                    if by_another is not None:
                        by_another.close()
                    self._place = f"{self.alias}/{self._node}"
                    return there
            if self.carrier is not None and self.carrier is not by_another:
                self.carrier.close()
            if by_another is not None:
                by_another.close()
            document = self._connect_to(self.alias, batch=batch, timeout=timeout)
        self._machine, self._node, self._place = document["machine_id"], document["host"], self.alias
        return document

    def _connect_to(self, place: str, *, batch: bool | None, timeout: float | None) -> dict[str, Any]:
        self._drop_agent()
        carrier = hosts.connect(place, batch=batch, timeout=timeout)
        try:
            document = self._start_agent(carrier, timeout or _DOCUMENT_SECONDS)
        except BaseException:
            self._drop_agent()
            carrier.close()
            raise
        self.carrier = carrier
        return document

    def _start_agent(self, carrier: Carrier, timeout: float) -> dict[str, Any]:
        named = hosts.named_python(self.alias)
        try:
            return self._start_agent_in("python3", carrier, timeout)
        except FarSideError:
            self._drop_agent()
            if named is None:
                hosts.probe(self._place, batch=True, timeout=timeout)  # it tells what to do where there is no python3
                raise
        return self._start_agent_in(named, carrier, timeout)

    def _start_agent_in(self, python: str, carrier: Carrier, timeout: float) -> dict[str, Any]:
        made = self._agent = _agent_session.Agent(self.alias)
        start = made.start(
            carrier.session(_agent_session.PYTHON.format(python=python)),
            {"probe": self._request},
            on_message=lambda message: self._messages.put((made, message)),
            on_lost=lambda reason: self._messages.put((made, {"type": "lost", "reason": reason})),
            timeout=timeout,
        )
        try:
            self._relay.call(start, timeout=timeout + 5)
        except RuntimeError as error:  # the relay was closed: Ctrl-C
            raise SSHError(self.alias, "it was closed while it opened") from error
        deadline = time.monotonic() + _DOCUMENT_SECONDS
        while not self._closing.is_set():
            with contextlib.suppress(queue.Empty):
                sender, message = self._messages.get(timeout=max(0.0, min(_TICK, deadline - time.monotonic())))
                if sender is made and message["type"] == "lost":
                    raise FarSideError(self.alias, str(message["reason"]))
                if sender is made and message["type"] == "document":
                    document: dict[str, Any] = message["document"]
                    return document
            if time.monotonic() > deadline:
                raise FarSideError(self.alias, f"it did not tell what listens there within {_DOCUMENT_SECONDS:g} s")
        raise SSHError(self.alias, "it was closed while it opened")

    def _drop_agent(self) -> None:
        gone, self._agent = self._agent, None
        if gone is not None:
            self._relay.soon(gone.close)

    # --- the watch, in a thread of its own ---

    def _keep(self) -> None:
        self._offset = time.time() - time.monotonic()
        while not self._closing.is_set():
            try:
                self._look()
            except Exception as error:  # noqa: BLE001 - a way that nobody watches would never be mended
                threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, self._thread)))
                self._closing.wait(_MOST_PAUSE)
                self._messages.put((None, {"type": "renew"}))  # what was told may not have been taken

    def _look(self) -> None:
        lost = None
        with contextlib.suppress(queue.Empty):
            lost = self._take(*self._messages.get(timeout=_TICK))
        now = time.time() - time.monotonic()
        jumped, self._offset = abs(now - self._offset) > _JUMP_OF_THE_CLOCK, now  # the machine slept
        lost = lost or self._silence(jumped=jumped)
        if lost is not None and not self._closing.is_set():
            self._mend(lost)

    def _take(self, sender: _agent_session.Agent | None, message: dict[str, Any]) -> PortsError | None:
        """Act on what our program there says; return why the way is lost, where it is."""
        if message["type"] == "renew":
            return self._renew()
        if sender is None or sender is not self._agent:
            return None
        if message["type"] == "lost":
            return SSHError(self.alias, f"the connection was lost: {message['reason']}")
        if message["type"] == "document":
            self._tell_document(message["document"])
        elif message["type"] == "users" and message["user"] is not None and not message["mine"]:
            self._on_stranger(str(message["remote"]), str(message["user"]))
        elif message["type"] == "browse":
            # beside: a browser takes its time, and the way must be watched meanwhile
            threading.Thread(target=self._browse, args=(sender, message), daemon=True).start()
        return None

    def _browse(self, sender: _agent_session.Agent, message: dict[str, Any]) -> None:
        answer = self._on_browse(message)
        self._relay.soon(lambda: sender.send({"type": "browse", "id": message.get("id"), **answer}))

    def _renew(self) -> PortsError | None:
        """Start our program there again, with another request."""
        self._drop_agent()
        if self.carrier is not None:  # else it is made with this request
            try:
                self._tell_document(self._start_agent(self.carrier, _MOST_ATTEMPT_SECONDS))
            except (PortsError, OSError) as error:
                return self._as_lost(error)
        return None

    def _silence(self, *, jumped: bool) -> PortsError | None:
        """Send a heartbeat when it is time; return that the way is dead when none was answered for too long."""
        made = self._agent
        if made is None:
            return SSHError(self.alias, "the connection was lost")
        limit = _ANSWER_AFTER_JUMP if jumped else self._dead_after
        now = time.monotonic()
        if jumped:
            try:
                self._relay.call(made.ping(limit), timeout=limit + 1)
            except (PortsError, TimeoutError, RuntimeError):
                return SSHError(self.alias, "the connection did not survive the sleep of this machine")
        elif now - self._pinged_at >= limit / 4:
            if made.last_heard >= self._waits_since:
                self._waits_since = now
            self._pinged_at = now
            with contextlib.suppress(RuntimeError):
                self._relay.start(made.ping(limit))
        received = self._received()
        if received != self._received_before:  # behind a download over a slow line, a heartbeat waits longer
            self._received_before, self._waits_since = received, now
        # from a heartbeat that was sent on: this thread may have been busy, as with a service that says nothing
        if made.last_heard < self._waits_since < now - (limit * 3 / 4 - _TICK):
            return SSHError(self.alias, f"nothing came back for {limit:g} s")
        return None

    def _mend(self, lost: PortsError) -> None:
        """Try until the way is up again."""
        self._change("down", lost)
        self._drop_agent()
        carrier, self.carrier = self.carrier, None
        if carrier is not None:
            carrier.give_up()
        # what ends again as soon as it is up, as a program that the kernel there kills, is not started without end
        short = time.monotonic() - self._up_at < _SHORT_LIVED
        self._rest = min(_MOST_PAUSE_REFUSED, max(_LEAST_PAUSE, 2 * self._rest)) if short else 0.0
        self._closing.wait(self._rest)
        pause, patience = _LEAST_PAUSE, _ATTEMPT_SECONDS
        while not self._closing.is_set():
            started = time.monotonic()
            try:
                document = self._connect(batch=True, timeout=patience)
            except LoginNeededError as error:
                self._wait_for_login(error)
            except (PortsError, OSError) as error:  # a full disk, too many open files: they pass
                if not isinstance(error, BusyError):  # that tells less than what was known before
                    self._change("down", self._as_lost(error))
                # the host is there, and slow: a busy directory service, start files that load a whole environment
                slow = isinstance(error, (SlowError, FarSideError))
                patience = min(2 * patience, _MOST_ATTEMPT_SECONDS) if slow else _ATTEMPT_SECONDS
                network = isinstance(error, SSHError) and error.is_network
                waited = time.monotonic() - started
                pause = min(pause * 1.5, max(_LEAST_PAUSE, _MOST_PAUSE - waited) if network else _MOST_PAUSE_REFUSED)
                # with jitter: thirty laptops of one institute must not come back in step
                self._closing.wait(pause * random.uniform(0.7, 1.0))
            else:
                self.reconnects += 1
                self._pinged_at, self._up_at = 0.0, time.monotonic()
                self._change("up", None)
                self._tell_document(document)
                return

    def _as_lost(self, error: PortsError | OSError) -> PortsError:
        return error if isinstance(error, PortsError) else SSHError(self.alias, str(error))

    def _wait_for_login(self, error: PortsError) -> None:
        """Wait until somebody has logged in; nothing is tried meanwhile, as refused attempts lock accounts."""
        self._change("needs login", error)
        known: set[object] = set()
        while not self._closing.wait(1.0):
            with contextlib.suppress(PortsError, OSError):
                known.add(hosts.login_keys(self.alias))
                if hosts.is_connected(self.alias) or len(known) > 1:
                    return

    def _tell_document(self, document: dict[str, Any]) -> None:
        with contextlib.suppress(PortsError, OSError, RuntimeError):  # lost or closed meanwhile, which is seen next
            self._on_document(document)

    def _change(self, state: str, error: PortsError | None) -> None:
        before = self.condition
        since = before.since if before.state == state else time.time()
        self.condition = Condition(state, since, error)
        if (before.state, str(before.error)) != (state, str(error)):
            self._on_condition(self.condition)
