"""The tunnels that one process holds: those of all its hosts, what others see of them, and their end."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from ports import hosts, sessions
from ports.errors import ConflictError, NotFoundError, PortsError, UsageError
from ports.hosts import Target, choose_transport, on_each, targets
from ports.sessions import processes
from ports.state import runtime_directory, settings
from ports.tunnels import _browse_request, _browser, _ends, _everywhere
from ports.tunnels import _records as tunnel_records
from ports.tunnels._event_loop import Reach, Relay
from ports.tunnels._events import Event, Events
from ports.tunnels._host_tunnels import HostTunnels
from ports.tunnels._local_address import LocalAddress
from ports.tunnels._requests import OpenRequest
from ports.tunnels._rows import TunnelRow
from ports.tunnels._tunnel import LINKED, Tunnel
from ports.tunnels._viewers import Stream, Viewers

_ROUND_SECONDS = 3.0  # usual ports that are free again, services that did not answer
_NEEDED = (*LINKED, "connecting")
_numbers = itertools.count()


class TunnelGroup:
    """Tunnels that this process holds until `close`; a context manager.

    Parameters
    ----------
    on_event : callable, optional
        Called with the row of a tunnel at each change, in a thread of its own, see `Events`.
    log : str, optional
        Path of the log of a process that does nothing but keep these tunnels.
    """

    def __init__(self, *, on_event: Event | None = None, log: str | None = None) -> None:
        self._log = log
        self._hosts: dict[str, HostTunnels] = {}
        self._lock = threading.RLock()
        self._closing, self._ended, self._closer = threading.Event(), threading.Event(), 0
        self._busy = 0  # requests to open that are under way: no host is dropped meanwhile
        self._asked: list[list[Target]] = []  # what other processes want, until their answer
        self._started_at = time.time()
        self._record, self._control = tunnel_records.new_paths(os.getpid(), next(_numbers))
        self._events = Events(*([] if on_event is None else [on_event]))
        self._relay = Relay()
        self._reach: Reach | None = None
        self._watcher: threading.Thread | None = None
        self._viewers = Viewers(self._follow, self._unwatched)

    @property
    def tunnels(self) -> list[Tunnel]:
        """All that were requested, including those that failed, with their `error`."""
        return [tunnel for host in list(self._hosts.values()) for tunnel in list(host.tunnels)]

    @property
    def url(self) -> str:
        """The first link; raises NotFoundError if there is none."""
        for tunnel in self.tunnels:
            if tunnel.url is not None:
                return tunnel.url
        raise NotFoundError("open tunnel", ", ".join(one.host for one in self.tunnels), "see the errors of its tunnels")

    def __repr__(self) -> str:
        """Return each tunnel with where it is served here and its state; `url` has the token too."""
        shown = [f"{one.host}:{one.name or ''} {_served_at(one)} ({one.state})" for one in self.tunnels]
        return f"<{type(self).__name__}: {', '.join(shown) or 'nothing is open'}>"

    def rows(self) -> list[TunnelRow]:
        """Return all tunnels as JSON-able data."""
        return [tunnel.row() for tunnel in self.tunnels]

    def open(
        self,
        wanted: Iterable[str | Target],
        *,
        local: LocalAddress | None = None,
        owner: str | None = None,
        batch: bool | None = None,
        reuse: bool = False,
    ) -> None:
        """Open all targets at once, of words or parsed; what fails stays in `tunnels`, with its error.

        May be called more than once. After the first call, call `close` (also on Ctrl-C) to remove what it opened. With
        `reuse`, a link that another group has open, here or in another process, is shown, and not opened at a second
        port.

        Raises
        ------
        UsageError
            See `check_targets`.
        """
        chosen = local or LocalAddress()
        by_host = check_targets(wanted, chosen, owner)
        self.serve()
        with self._lock:
            self._busy += 1
            hosts = {alias: self._host(alias) for alias in by_host}

        def visit(alias: str) -> None:
            hosts[alias].open(OpenRequest(tuple(by_host[alias]), owner, chosen, reuse=reuse), batch=batch)

        def tell(alias: str, result: PortsError | None) -> None:
            if result is not None:
                hosts[alias].fail(result)

        try:
            on_each(by_host, visit, on_result=tell)
        finally:
            with self._lock:
                self._busy -= 1
            self._events.flush()
        self._write_record()
        _everywhere.forget_stopped(self.rows())

    def serve(self) -> None:
        """Answer other processes of the user from now on."""
        with self._lock:
            if self._watcher is not None:
                return
            self._reach = self._relay.answer(self._control, self._answer)
            self._watcher = threading.Thread(target=self._watch, name="tunnel-watch", daemon=True)
            self._watcher.start()
        self._write_record()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is open or being opened, and nobody watches a host through the process in the background."""
        watched = self._log is not None and self._viewers.hosts
        return not self._busy and not watched and not any(tunnel.ports for tunnel in self.tunnels)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the last tunnel is closed, by `close` or from another process; False after `timeout` seconds."""
        return self._ended.wait(timeout)

    def close(self) -> None:
        """Free the local ports at once, then cancel the forwards; the connections stay for later commands."""
        with self._lock:
            another = self._closing.is_set() and self._closer not in (0, threading.get_ident())
            if not another:
                self._closer = threading.get_ident()
            self._closing.set()
        if another or self._ended.is_set():
            self._ended.wait(15)  # the process may end once this returns
            return
        self._viewers.close()
        for host in list(self._hosts.values()):
            host.halt()
        self._relay.stop_all()
        on_each(list(self._hosts), lambda alias: self._hosts[alias].close())
        self._relay.close()
        for tunnel in self.tunnels:
            if tunnel.state in _NEEDED:
                tunnel.state, tunnel.since = "closed", time.time()
        self._control.unlink(missing_ok=True)
        self._record.unlink(missing_ok=True)
        self._events.flush()
        self._ended.set()
        self._events.end()

    def close_tunnels(self, wanted: Iterable[Tunnel]) -> list[TunnelRow]:
        """Close some tunnels, and with the last of them the group; return their rows."""
        meant = list(wanted)
        closed = [tunnel for host in list(self._hosts.values()) for tunnel in host.close_tunnels(meant)]
        rows = [tunnel.row() for tunnel in closed]
        self._close_if_idle()
        return rows

    def _close_if_idle(self) -> None:
        with self._lock:
            is_last = self.is_idle and not self._closing.is_set()
            if is_last:
                self._closing.set()  # `_closer` is whoever calls `close` first
        if is_last:
            for host in list(self._hosts.values()):
                host.halt()  # before the answer: after it, somebody may log out
            # not from the thread that must still send the answer
            threading.Timer(0.05, self.close).start()

    def __enter__(self) -> TunnelGroup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _host(self, alias: str) -> HostTunnels:
        if alias not in self._hosts:
            self._hosts[alias] = HostTunnels(
                alias,
                self._relay,
                on_change=self._changed,
                on_browse=self._browse,
                on_node=self._open_on_node,
                on_ends=lambda host, ends: _ends.tell(host, ends, self._events.emit),
                on_news=self._viewers.changed,
            )
        return self._hosts[alias]

    def _follow(self, alias: str) -> HostTunnels:
        with self._lock:
            return self._host(alias)

    def _unwatched(self, alias: str) -> None:
        """Let go of a host that nobody watches any more; the process in the background ends with the last."""
        self._drop_idle(alias)
        if self._log is not None:
            self._close_if_idle()

    def _open_on_node(self, node: str, request: OpenRequest, batch: bool | None, is_first: bool) -> None:
        """Open what lives on another node of a host's name, unless that node's links are watched already."""
        with self._lock:
            known = self._hosts.get(node)  # it can be one that is watched only
            if self._closing.is_set() or (not is_first and known is not None and not known.is_idle):
                return
            links = self._host(node)
            self._busy += 1

        def open_() -> None:
            try:
                links.open(request, batch=batch)
            except PortsError as error:
                links.fail(error)
            finally:
                with self._lock:
                    self._busy -= 1

        if is_first:
            open_()
        else:  # called in the thread that watches another node's connection, which must not wait
            threading.Thread(target=open_, name=f"open-{node}", daemon=True).start()

    def _watch(self) -> None:
        while not self._closing.wait(_ROUND_SECONDS):
            with contextlib.suppress(PortsError, OSError, RuntimeError):
                self._check_control()
            for host in list(self._hosts.values()):
                with contextlib.suppress(PortsError, OSError, RuntimeError):  # the next round looks again
                    host.check_whole()
                    host.reclaim()
                    host.retry()

    def _check_control(self) -> None:
        """Answer at the same path again where somebody removed the runtime directory."""
        if self._reach is None or self._reach.token is not None or self._control.exists():
            return
        runtime_directory()
        with self._lock:
            if not self._closing.is_set():
                self._reach = self._relay.answer(self._control, self._answer)

    # --- other processes ---

    def _answer(self, request: dict[str, Any], say: Event) -> dict[str, Any] | Stream:
        """Answer another process.

        ``{"close": [number, …]}``, also ``share``; ``{"rows": true}``; ``{"open": {…}}``; ``{"watch": [host, …]}``,
        with ``want``, of `_views.WANTED`.
        """
        if "close" in request:
            wanted = set(request["close"])
            return {"closed": self.close_tunnels([one for one in self.tunnels if one.number in wanted])}
        if "share" in request:
            meant = [one for one in self.tunnels if one.number in set(request["share"])]
            return {"shared": [one.number for host in list(self._hosts.values()) for one in host.share(meant)]}
        if "open" in request:
            return self._open_for_another(request["open"], say)
        if "watch" in request:
            if self._closing.is_set():
                return {"closing": True}
            return self._viewers.stream(request["watch"], request.get("want") or ())
        return {"rows": [tunnel.record_row() for tunnel in self.tunnels if tunnel.ports]}

    def _open_for_another(self, request: dict[str, Any], say: Event) -> dict[str, Any]:
        if self._closing.is_set():
            return {"closing": True}
        transport = choose_transport()
        if request.get("transport", transport) != transport:
            return {"transport": transport}
        parsed = [targets.parse(one) for one in request["targets"]]
        with self._lock:
            self._asked.append(parsed)
        try:
            return self._answer_with_links(request, parsed, say)
        finally:
            self._withdraw(parsed)

    def _answer_with_links(self, request: dict[str, Any], parsed: list[Target], say: Event) -> dict[str, Any]:
        before = {one.number for one in self.tunnels}
        named = {target.host for target in parsed}

        def tell(row: Mapping[str, Any]) -> None:
            if named & {row["host"], row["host"].partition("/")[0]}:
                say(row)

        try:
            local = LocalAddress(**request["local"])
            with self._events.listener(tell):
                self.open(parsed, local=local, owner=request["owner"], batch=True, reuse=True)
        except (PortsError, RuntimeError) as error:
            return {"closing": self._closing.is_set(), "error": str(error)}
        found = [one for one in self.tunnels if _is_answer(one, parsed)]
        meant = [one for one in found if one.ports or one.number not in before]
        rows = [_as_open_already(one, local) if one.number in before else one.row() for one in meant]
        for tunnel in meant:
            if not tunnel.ports:
                self._forget(tunnel)
        return {"settled": rows}

    def _forget(self, tunnel: Tunnel) -> None:
        """Report a failure no more; its host may be dropped by now."""
        if (host := self._hosts.get(tunnel.host)) is not None:
            host.forget(tunnel)

    def _withdraw(self, answered: list[Target]) -> None:
        """Follow no target for which nothing was opened: the process that asked has reported that as final.

        What another process asks for at this moment is followed until its answer.
        """
        with self._lock:
            self._asked.remove(answered)
            linked = [one for one in self.tunnels if one.ports]
            wanted = [one for one in answered if not any(one in others for others in self._asked)]
            unserved = [target for target in wanted if not any(_is_meant(one, [target]) for one in linked)]
            for alias, host in list(self._hosts.items()):
                host.withdraw(target for target in unserved if target.host in (alias, alias.partition("/")[0]))
                self._drop_idle(alias)

    def _drop_idle(self, alias: str) -> None:
        """Disconnect from a host on which nothing is open or to be opened, and that nobody watches."""
        with self._lock:
            host = self._hosts.get(alias)
            if host is None or self._busy or not host.is_idle or alias in self._viewers.hosts:
                return
            del self._hosts[alias]
            host.halt()
            # closing waits for an attempt to connect
            threading.Thread(target=host.close, name=f"close-{alias}", daemon=True).start()

    def _browse(self, alias: str, wanted: dict[str, Any]) -> dict[str, Any]:
        """Open in the browser here what somebody on `alias` wants to see; report what was opened, without a token."""
        try:
            asked = _browse_request.parse(alias, wanted)
            tunnel, url = (None, "") if asked.target is None else self._tunnel_to(asked.target)
        except (PortsError, OSError, RuntimeError) as error:  # the last two: closed meanwhile
            return {"ok": False, "error": str(error)}
        link = asked.link.geturl() if tunnel is None else asked.through(url)
        if not _browser.open_once(link):
            return {"ok": False, "error": "no browser opened the link; `ports tunnel list` there shows open links"}
        return {"ok": True, "opened": link if tunnel is None else f"http://localhost:{tunnel.local_port}/"}

    def _tunnel_to(self, target: Target) -> tuple[Tunnel, str]:
        """Return the tunnel to `target` and its link, opened if there is none; raises PortsError if it cannot be."""
        for attempt in (1, 2):
            for tunnel in self.tunnels:
                url = tunnel.url  # another thread may close it at any moment
                if tunnel.host == target.host and url is not None and _is_meant(tunnel, [target]):
                    return tunnel, url
            if attempt == 1:
                self.open([target], batch=True)
        failed = [one for one in self.tunnels if one.host == target.host and one.error is not None and not one.ports]
        for one in failed:  # a failure is reported once
            self._forget(one)
        errors = [one.error for one in failed if one.error is not None]
        raise errors[-1] if errors else NotFoundError("listener", str(target), "nothing of yours listens there")

    # --- what others see ---

    def _changed(self, tunnel: Tunnel) -> None:
        self._events.emit(tunnel.row())
        self._viewers.changed(tunnel.host)
        try:
            self._write_record()
        except PortsError as error:  # a full disk: the tunnel works nevertheless
            tunnel.add_note(f"`ports tunnel` does not show this: {error}")

    def _write_record(self) -> None:
        process = processes.identity()
        assert process is not None
        with self._lock:
            if self._closing.is_set() or self._reach is None:
                return
            tunnel_records.write(
                self._record,
                process=process,
                control=self._reach.control,
                token=self._reach.token,
                started_at=self._started_at,
                background=self._log is not None,
                log=self._log,
                rows=tuple(one.record_row() for one in self.tunnels if one.ports),
            )


def check_targets(wanted: Iterable[str | Target], local: LocalAddress, owner: str | None) -> dict[str, list[Target]]:
    """Return the targets of each host that `wanted` names, by default the hosts of the settings.

    A name alone is what runs on this machine under it, unless it is a Host of the configuration.

    Raises
    ------
    UsageError
        There is no target, one is invalid, or `local` or `owner` does not fit them.
    """
    named = [targets.parse(one) if isinstance(one, str) else one for one in [*wanted] or settings.hosts()]
    if not named:
        raise UsageError("no target: name HOST, HOST:NAME or HOST:PORT, or list your hosts in the setting ports.hosts")
    here = _by_name_here()
    parsed = list(dict.fromkeys(Target(hosts.HERE, one.host) if one in here else one for one in named))
    local.check()
    if local.is_one and (len(parsed) != 1 or parsed[0] == Target(parsed[0].host)):
        given = f"local port {local.port}" if local.socket is None else f"local socket {local.socket}"
        raise UsageError(f"{given} was given for more than one link; name one target, HOST:NAME")
    if owner is not None and (others := [str(target) for target in parsed if target.port is None]):
        raise UsageError(f"--owner {owner} works with HOST:PORT only, not with {', '.join(others)}")
    by_host: dict[str, list[Target]] = {}
    for target in parsed:
        by_host.setdefault(target.host, []).append(target)
    return by_host


def _by_name_here() -> set[Target]:
    """Return the targets that name a cluster or notebook server of this machine, and no Host of the configuration."""
    if not hosts.is_here(hosts.HERE):
        return set()
    return {Target(name) for kind in ("cluster", "notebook") for name in sessions.names(kind)} - {
        Target(alias) for alias in hosts.openssh.aliases()
    }


def _as_open_already(tunnel: Tunnel, local: LocalAddress) -> TunnelRow:
    """Return the row of a tunnel that was open before: an error if another local port or socket was requested."""
    row: TunnelRow = {**tunnel.row(), "note": "already open; shared" if tunnel.local.share else "already open"}
    now, serves = tunnel.local, tunnel.local.socket or f"port {tunnel.local_port}"
    other_port = local.port is not None and (now.socket is not None or local.port not in (0, tunnel.local_port))
    is_private = local.share and local.socket is None and now.socket is not None  # a Unix socket is its owner's
    if (
        is_private
        or other_port
        or (local.socket or now.socket) != now.socket
        or (local.address or now.address) != now.address
    ):
        target = f"{tunnel.host}:{tunnel.name}"
        error = ConflictError(f"{target} is already open at {serves}; `ports tunnel close {target}` first")
        row["state"], row["error"], row["exit_code"] = "error", str(error), error.exit_code
        row["local_url"] = None
    return row


def _served_at(tunnel: Tunnel) -> str:
    """Return the local address of a tunnel, without a path: a repr is kept in notebooks, and a token must not be."""
    if tunnel.url is None:
        return "-"
    link = urlsplit(tunnel.url)
    return f"{link.scheme}://{link.netloc}/"


def _is_answer(tunnel: Tunnel, wanted: Iterable[Target]) -> bool:
    """Tell whether a tunnel answers a request for `wanted`; others can be opened at the same moment."""
    if tunnel.kind == "host":
        return any(target.host in (tunnel.host, tunnel.host.partition("/")[0]) for target in wanted)
    return _is_meant(tunnel, wanted)


def _is_meant(tunnel: Tunnel, wanted: Iterable[Target]) -> bool:
    row = tunnel.record_row()
    return any(tunnel_records.is_meant(target, row) for target in wanted)
