"""The route to a host, hop by hop: resolve, connect, host key, authentication, session, and what is forwarded."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from ports import hosts
from ports.doctor._checks import Check, failed, from_error, ok, skipped, split, warning
from ports.errors import (
    FarSideError,
    HostKeyError,
    LoginNeededError,
    PortsError,
    ProhibitedError,
    SSHError,
    TimedOutError,
    ToolMissingError,
)
from ports.hosts import Hop, Route, openssh
from ports.hosts.openssh import diagnostics as ssh
from ports.state import settings

T = TypeVar("T")

HOP_CHECKS = ("resolve", "connect", "host-key", "authentication")
JUMP_CHECKS = (*HOP_CHECKS, "session", "forward")


def configuration(alias: str) -> tuple[Check, Route | None]:
    """Return what the configuration of `alias` says, and the route; None where it cannot be used."""
    try:
        route = hosts.resolve(alias)
        found = _read(route.end)
    except PortsError as error:
        return from_error("configuration", error, alias, f"`ssh -G {alias}` shows more"), None
    hops, host = route.hops, route.end
    through = f", through {' and '.join(hop.alias for hop in hops[:-1])}" if hops[1:] else ""
    where = f"{host.user}@{host.hostname} port {host.port}{through}"
    if found.names_it or alias in openssh.aliases():
        return ok("configuration", f"{where} ({'; '.join(found.lines) or 'read without ssh'})"), route
    read = " and ".join(found.files) or "no configuration"
    if not hops[1:] and host.proxy_command is None:
        try:
            within(_patience(), lambda: socket.getaddrinfo(host.hostname, host.port, type=socket.SOCK_STREAM))
        except (OSError, TimedOutError, UnicodeError):
            near = openssh.suggest(alias).removeprefix("; ")
            entry = f"write an entry for it into ~/.ssh/config: a line `Host {alias}`, a line `HostName ADDRESS`"
            cause = f"{alias!r} is neither a Host of ~/.ssh/config nor a name that can be resolved (read: {read})"
            return failed("configuration", cause, f"{near} else {entry}" if near else entry), None
    return ok("configuration", f"{where} (no Host entry names it; read: {read})"), route


def _read(hop: Hop) -> ssh.Configuration:
    try:
        return ssh.configuration(hop)
    except ToolMissingError:  # paramiko reads the file itself
        return ssh.Configuration({}, (), (), False)


class Walk:
    """The checks along a route: first the network to the first hop, then one connection, then what it shows."""

    def __init__(self, route: Route) -> None:
        self.route, self.alias, self.hops = route, route.alias, route.hops
        self.kept: set[str] = set()
        self.error: PortsError | None = None

    def approach(self) -> Iterator[Check]:
        """Yield `resolve` and `connect` of the first hop, asked without ssh."""
        first = self.hops[0]
        with contextlib.suppress(PortsError):
            masters = openssh.masters_of(self.route) if self.route.transport == "ssh" else []
            self.kept = {one.hop.alias for one in masters if openssh.is_running(one.control)}
        if first.alias in self.kept:
            yield from (
                ok(name, "by the connection that is kept from before").at(first.alias) for name in HOP_CHECKS[:2]
            )
        elif first.proxy_command is not None and not self.hops[1:]:
            said = f"a command connects to it: {first.proxy_command}"
            yield from (skipped(name, said).at(first.alias) for name in HOP_CHECKS[:2])
        else:
            yield from (check.at(first.alias) for check in _reach(first))

    def connect(self, run: Callable[[], T]) -> T | None:
        """Connect, and run something at the far end: what is kept from before may be dead, and is replaced then."""
        try:
            return run()
        except PortsError as error:
            self.error = error
            return None

    def hop_checks(self) -> Iterator[Check]:
        """Yield what the connection shows of each hop; ends with the first one that is not up."""
        if self.route.transport == "paramiko":
            yield from self._hops_in_this_process()
            return
        masters = openssh.masters_of(self.route)
        for number, (hop, master) in enumerate(zip(self.hops, masters, strict=True)):
            last = number + 1 == len(self.hops)
            is_up = self.error is None or openssh.is_running(master.control)
            if number:
                through = list(_knock(masters[number - 1], hop, is_up=is_up))
                yield from through
                if any(check.state == "failed" for check in through):
                    return
            if not last and is_up and not openssh.is_running(master.control):
                passed = f"your own connection (ControlMaster) to {self.alias} leads past it"
                yield from (skipped(name, passed).at(hop.alias) for name in JUMP_CHECKS[2:])
                continue
            yield from (check.at(hop.alias) for check in self._login(hop, is_up))
            if not is_up:
                return
            if not last:
                yield _session(master).at(hop.alias)

    def _by_what(self, hop: Hop) -> str:
        if hop.alias in self.kept:
            return ", by the connection that is kept from before"
        master = openssh.running(hop) if self.route.transport == "ssh" and hop is self.route.end else None
        return ", by your own connection (ControlMaster)" if master is not None and master.users else ""

    def _hops_in_this_process(self) -> Iterator[Check]:
        """Yield the same of paramiko's connection, whose error names the hop."""
        named = [hop.alias for hop in self.hops if f"the jump host {hop.alias}: " in str(self.error)]
        broken = "" if self.error is None or isinstance(self.error, FarSideError) else (named or [self.alias])[0]
        for number, hop in enumerate(self.hops):
            is_up = hop.alias != broken
            if number and not is_up and not isinstance(self.error, (HostKeyError, LoginNeededError)):
                assert self.error is not None
                yield from_error("connect", self.error, self.alias, f"`ssh -v {hop.alias}` shows more").at(hop.alias)
                return
            if number:
                yield _dial(self.hops[:number], hop).at(self.hops[number - 1].alias)
                yield from (ok(name, "a connection stands").at(hop.alias) for name in HOP_CHECKS[:2])
            yield from (check.at(hop.alias) for check in self._login(hop, is_up))
            if not is_up:
                return
            if number + 1 < len(self.hops):
                yield skipped("session", "paramiko executes one itself").at(hop.alias)

    def _login(self, hop: Hop, is_up: bool) -> Iterator[Check]:
        if is_up:
            yield ok("host-key", "known and unchanged")
            yield ok("authentication", f"as {hop.user}{self._by_what(hop)}")
            return
        assert self.error is not None
        found = from_error("host-key", self.error, self.alias, f"`ssh -v {hop.alias}` shows more")
        if isinstance(self.error, HostKeyError):
            yield found
            return
        if isinstance(self.error, LoginNeededError) or "login" in found.cause or "account" in found.cause:
            yield ok("host-key", "known and unchanged")
            held = "" if "waits for a login" in found.cause else _keys(hop)
            yield failed("authentication", found.cause + held, found.hint)
            return
        yield failed("host-key", found.cause, found.hint)


def within(seconds: float, function: Callable[[], T]) -> T:
    """Return what `function` returns; TimedOutError where that takes longer: a resolver cannot be told to stop."""
    results: list[T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            errors.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimedOutError("an answer", seconds)
    return results[0]


def _reach(hop: Hop) -> Iterator[Check]:
    """Yield whether the name of a host is known, and whether an ssh server listens there."""
    patience = _patience()
    try:
        began = time.monotonic()
        found = within(patience, lambda: socket.getaddrinfo(hop.hostname, hop.port, type=socket.SOCK_STREAM))
    except TimedOutError:
        yield failed(
            "resolve", f"no name server answers within {patience:g} s", "check that the network or the VPN is up"
        )
        return
    except (OSError, UnicodeError) as error:
        said = getattr(error, "strerror", None) or error
        hint = "check the HostName in ~/.ssh/config; a name of the institute needs its VPN"
        yield failed("resolve", f"the name {hop.hostname!r} is unknown ({said})", hint)
        return
    addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
    yield ok("resolve", f"{', '.join(addresses)} in {_ms(time.monotonic() - began)}")
    yield _call(hop, addresses, patience)


def _call(hop: Hop, addresses: list[str], patience: float) -> Check:
    said = ""
    for address in addresses:
        began = time.monotonic()
        try:
            with socket.create_connection((address, hop.port), timeout=patience) as connection:
                took = time.monotonic() - began
                line = connection.recv(256).partition(b"\n")[0].decode(errors="replace").strip()
        except TimeoutError:
            said = f"{address} port {hop.port} does not answer within {patience:g} s"
            continue
        except OSError as error:
            said = f"{address} port {hop.port}: {error.strerror or error}"
            continue
        if line.startswith("SSH-"):
            return ok("connect", f"{line.removeprefix('SSH-2.0-')} in {_ms(took)}")
        said = f"the listener at {address} port {hop.port} is not an ssh server" + (f": {line[:40]!r}" if line else "")
    hint = openssh.suggest(hop.alias, alike=False).removeprefix("; ")
    hint = hint or "check that the network, the VPN and the host are up; a firewall may be in between"
    return failed("connect", said, "check the Port in ~/.ssh/config" if "not an ssh server" in said else hint)


def _knock(via: openssh.Master, hop: Hop, *, is_up: bool) -> Iterator[Check]:
    """Yield whether a jump host forwards to the next hop, and whether that is there."""
    there = f"{hop.hostname} port {hop.port}"
    if not openssh.is_running(via.control):
        yield from (ok(name, "a connection stands").at(hop.alias) for name in HOP_CHECKS[:2])
        return
    answer = ssh.knock(via, hop.hostname, hop.port, timeout=_patience())
    if "prohibited" in answer.said and not answer.line:
        hint = f"ask its administrator for `AllowTcpForwarding yes` and `PermitOpen {hop.hostname}:{hop.port}`"
        if is_up:
            yield _other_method(there, hop).at(via.alias)
            yield from (ok(name, "a connection stands").at(hop.alias) for name in HOP_CHECKS[:2])
            return
        cause = f"its sshd prohibits forwarding to {there} (AllowTcpForwarding or PermitOpen)"
        yield failed("forward", cause, hint).at(via.alias)
        return
    yield ok("forward", f"to {there}").at(via.alias)
    yield from (check.at(hop.alias) for check in _beyond(via, hop, answer, is_up=is_up))


def _beyond(via: openssh.Master, hop: Hop, answer: ssh.Banner, *, is_up: bool) -> Iterator[Check]:
    """Yield the checks of `hop` that a knock through `via` allows."""
    if answer.line.startswith("SSH-") or is_up:
        yield ok("resolve", f"{via.alias} knows {hop.hostname}")
        banner = answer.line.removeprefix("SSH-2.0-") or "a connection stands"
        yield ok("connect", f"{banner} in {_ms(answer.seconds)} from {via.alias}")
        return
    reason = openssh.explain(hop.alias, answer.said).reason if "open failed" in answer.said else ""
    if "does not know its name" in reason:
        hint = f"HostName must be what {via.alias} calls it: try `ssh {via.alias} getent hosts {hop.hostname}`"
        yield failed("resolve", split(reason)[0], hint)
        return
    yield ok("resolve", f"{via.alias} knows {hop.hostname}")
    silent = f"does not answer {via.alias} within {_patience():g} s"
    cause = (
        f"the listener there is not an ssh server: {answer.line[:40]!r}" if answer.line else split(reason)[0] or silent
    )
    yield failed("connect", cause, "it is down or restarting, or a firewall is in between; ask its administrator")


def _dial(before: Sequence[Hop], hop: Hop) -> Check:
    """Return whether the last of the hops `before` forwards to `hop`, by paramiko's connection to it."""
    via, there = before[-1].alias, f"{hop.hostname} port {hop.port}"
    try:
        route = hosts.resolve(via)
        if tuple(before) != route.hops:
            return skipped("forward", f"the alias {via} itself has another route")
        connection = hosts.connect(route, batch=True)
        connection.dial(f"{hop.hostname}:{hop.port}", timeout=_patience()).close()
        connection.close()
    except ProhibitedError:
        return _other_method(there, hop)
    except PortsError as error:
        return skipped("forward", split(str(error))[0])
    return ok("forward", f"to {there}")


def _other_method(there: str, hop: Hop) -> Check:
    cause = f"its sshd prohibits forwarding to {there}; another method worked"
    hint = (
        f"it works, but slower; `AllowTcpForwarding yes` and `PermitOpen {hop.hostname}:{hop.port}` would make it fast"
    )
    return warning("forward", cause, hint)


def _session(master: openssh.Master) -> Check:
    """Return whether a session can be executed on a jump host: until one was, its sshd delays small packets."""
    try:
        reason = ssh.execute(master)
    except SSHError as error:
        reason = error.reason
    if reason:
        hint = "ask for `MaxSessions 10` there; until then, small requests can take 40 ms longer"
        return warning("session", f"nothing can be executed on it ({split(reason)[0]})", hint)
    return ok("session", "executed, so that small packets are not delayed")


def _keys(hop: Hop) -> str:
    """Return what there is to log in with, as part of a sentence."""
    try:
        keys = ssh.keys(_read(hop).values.get("identityfile", []))
    except PortsError:
        return ""
    agent = "there is no agent" if keys.in_agent is None else f"the agent holds {keys.in_agent or 'no'} keys"
    files = f"the key files are {', '.join(keys.files)}" if keys.files else "there is no key file"
    locked = f", with a passphrase {', '.join(keys.locked)}" if keys.locked else ""
    return f"; {agent}, {files}{locked}"


def _patience() -> float:
    return float(settings.get("ssh.connect_timeout"))


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"
