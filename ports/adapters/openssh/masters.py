"""Master connections: one per hop, each with a private control socket, chained through jump hosts."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ports import config, paths, records
from ports.adapters.openssh import children
from ports.adapters.openssh.refusals import explain
from ports.adapters.openssh.routes import Host, config_arguments, program, route, suggest
from ports.deadlines import wait_until
from ports.errors import HostKeyError, LoginNeededError, SSHError, StoreError, TimedOutError, UnknownHostError
from ports.probe import sha256

# Nothing of the user's configuration may add to, or take away from, a connection that only carries what ports asks for.
_OPTIONS = {
    "ClearAllForwardings": "yes",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "PermitLocalCommand": "no",
    "Tunnel": "no",
    "LogLevel": "INFO",  # below it, refused forwards are not told
    "ServerAliveCountMax": "3",
    "StreamLocalBindMask": "0177",
}
LOGIN_TIMEOUT = 300.0  # a person looks for the telephone with the second factor


@dataclass(frozen=True)
class Master:
    """A running connection to `alias`: its control socket, and the file that gets its stderr."""

    alias: str
    control: Path
    log: Path
    host: Host
    fresh: bool = False

    def said(self, since: int = 0) -> str:
        """Return what ssh wrote to its stderr from byte `since` on."""
        try:
            return self.log.read_bytes()[since:].decode(errors="replace")
        except OSError:
            return ""

    def said_bytes(self) -> int:
        """Return the size of what ssh wrote so far, for `said`."""
        try:
            return self.log.stat().st_size
        except OSError:
            return 0


def connect(alias: str, *, batch: bool | None = None, warm: bool = True) -> Master:
    """Return a running master connection to `alias`; it and those to the jump hosts are started where they do not run.

    Parameters
    ----------
    batch : bool, optional
        Nobody is asked for a password or code. Default: ask where there is a terminal.
    warm : bool
        Execute one session on the new connection, so that sshd sets TCP_NODELAY; a caller that runs something at once
        needs it not.

    Raises
    ------
    UnknownHostError, HostKeyError, LoginNeededError, SSHError
        There is no way to the host; the message names the hop that failed.
    """
    asking = _can_ask() if batch is None else not batch and _can_ask()
    master: Master | None = None
    hops = route(alias)
    for hop in hops:
        last = hop is hops[-1]
        try:
            master = _ensure(hop, master, asking=asking)
        except SSHError as error:
            raise _at_hop(error, alias, hop, last=last) from error
        if master.fresh and (warm or not last):
            # for the next hop, TCP_NODELAY may come a moment later
            children.start_and_forget(client_arguments(master, ["--", hop.alias, "true"]), limit=10)
    assert master is not None
    return Master(alias, master.control, master.log, master.host, fresh=master.fresh)


def client_arguments(master: Master, rest: list[str]) -> list[str]:
    """Return the command line of an ssh that asks `master` for something, and never logs in by itself.

    The configuration was the master's affair: its forwards would be asked for again by ``-O forward``.
    """
    # a full or dying master makes ssh open a connection of its own, silently; the proxy command ends that attempt
    guard = ["-o", "ControlMaster=no", "-o", "BatchMode=yes", "-o", "ProxyCommand=false"]
    return [program(), "-F", "none", "-S", str(master.control), *guard, *rest]


def is_running(control: Path) -> bool:
    """Tell whether an ssh listens on the control socket; a socket file that was left behind is not enough."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(2)
        try:
            connection.connect(str(control))
        except OSError:
            return False
    return True


def running(alias: str) -> Master | None:
    """Return the master to `alias` where one runs; nothing is connected."""
    master = places(alias)[-1]
    return master if is_running(master.control) else None


def places(alias: str) -> list[Master]:
    """Return where the masters on the way to `alias` are, or would be, the last one being its own."""
    found: list[Master] = []
    for hop in route(alias):
        found.append(_place(hop, found[-1] if found else None))
    return found


def close(alias: str) -> bool:
    """End the master to `alias`, and with it all that uses it; False where none ran. Jump hosts' masters stay."""
    master = running(alias)
    if master is None:
        return False
    end_master(master)
    return True


def close_all() -> int:
    """End all masters of `ports`, and return how many there were; the user's own ssh processes are not touched."""
    controls = kept()
    for control in controls:
        log = control.with_name(control.name + ".log")
        end_master(Master(control.name, control, log, Host(None, "", "", 0)))  # type: ignore[arg-type]
    return len(controls)


def kept() -> list[Path]:
    """Return the control sockets of all masters of `ports` that run, whatever they lead to."""
    return [log.with_suffix("") for log in sorted(_directory().glob("*.log")) if is_running(log.with_suffix(""))]


def _ensure(hop: Host, via: Master | None, *, asking: bool) -> Master:
    place = _place(hop, via)
    if is_running(place.control):
        return place
    limit = 2 * float(config.get("ssh.connect_timeout")) + 20
    with paths.locked(f"ssh-{place.control.name}", timeout=LOGIN_TIMEOUT if asking else limit):
        if is_running(place.control):  # another process was faster
            return place
        place.control.unlink(missing_ok=True)
        place.log.unlink(missing_ok=True)
        place.log.touch(mode=0o600)
        try:
            _log_in(place, via, asking=asking)
        except BaseException:
            if not is_running(place.control):  # Ctrl-C a moment too late: the connection stands, and keeps its log
                place.control.unlink(missing_ok=True)
                place.log.unlink(missing_ok=True)
            raise
    _note(place).unlink(missing_ok=True)
    return Master(hop.alias, place.control, place.log, hop, fresh=True)


def _log_in(place: Master, via: Master | None, *, asking: bool) -> None:
    """Start the master: first without asking, as that needs no turn; then, where a person is needed, one at a time."""
    waits = records.read_json(_note(place)) is not None
    if not waits:
        try:
            return _start(place, via, asking=False)
        except LoginNeededError as error:
            note = {"format": records.FORMAT, "host": place.alias, "reason": error.reason, "since": time.time()}
            with contextlib.suppress(StoreError):  # the refusal is what counts
                paths.make_private(_note(place).parent)
                records.write_json(_note(place), note)
            if not asking:
                raise
    if not asking:
        raise LoginNeededError(
            place.alias,
            f"waits for a login and is not tried again until then; run `ports login {place.alias}` in a terminal",
        )
    with paths.locked("login", timeout=LOGIN_TIMEOUT):
        _announce(place)
        _start(place, via, asking=True)


def _start(place: Master, via: Master | None, *, asking: bool) -> None:
    limit = 2 * float(config.get("ssh.connect_timeout")) + 10
    arguments = _master_arguments(place, via, asking=asking)
    with place.log.open("ab") as log:
        try:
            status = children.run_to_end(
                arguments,
                stderr=None if asking else log,
                limit=LOGIN_TIMEOUT if asking else limit,
                own_session=not asking,
            )
        except TimedOutError as error:
            raise SSHError(
                place.alias, f"the login did not end within {error.timeout:g} s; is the host overloaded?"
            ) from error
    if status == 0 and is_running(place.control):
        return
    said = place.said()
    if via is not None and ("tdio forwarding" in said or "Session open refused" in said):
        said = _reason_at(via, place.host) or said
    refusal = explain(place.alias, said, asked=asking)
    if isinstance(refusal, HostKeyError) and "SHA256:" not in refusal.reason:
        refusal = explain(place.alias, said + _verbose(arguments))
    raise refusal


def _master_arguments(place: Master, via: Master | None, *, asking: bool) -> list[str]:
    timeout = max(1, round(float(config.get("ssh.connect_timeout"))))
    options = {
        **_OPTIONS,
        "ConnectTimeout": str(timeout),
        "ServerAliveInterval": str(config.get("ssh.keepalive")),
        "ControlPersist": str(max(1, round(float(config.get("ssh.persist"))))),  # 0 would mean for ever
        "BatchMode": "no" if asking else "yes",
    }
    if place.host.host_key_checking != "accept-new":
        options["StrictHostKeyChecking"] = "yes"
    if via is not None:
        inner = [*client_arguments(via, []), "-E", str(place.log), "-W", "[%h]:%p", "--", via.alias]
        if asking:  # the master detaches, its proxy command does not: Ctrl-C and a closed terminal must not end it
            inner = [sys.executable, "-ISc", "import os,sys;os.setsid();os.execvp(sys.argv[1],sys.argv[1:])", *inner]
        options["ProxyCommand"] = " ".join(_quote_for_proxy(word) for word in inner)
        options["ProxyUseFdpass"] = "no"
    listed = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    detached = ["-f", "-N", "-M", "-T", "-S", str(place.control), "-E", str(place.log)]
    return [program(), *config_arguments(), *detached, *listed, *place.host.destination.arguments()]


def _quote_for_proxy(word: str) -> str:
    """Quote for the shell; ssh's own %h and %p stay, other % are doubled."""
    return word if word == "[%h]:%p" else shlex.quote(word.replace("%", "%%"))


def _reason_at(via: Master, host: Host) -> str:
    """Return why `via` cannot open a way to `host`: asked once more, alone: the log does not tell who."""
    with paths.locked(f"ssh-why-{via.control.name}", timeout=30):
        before = via.said_bytes()
        arguments = client_arguments(via, ["-W", f"[{host.hostname}]:{host.port}", "--", via.alias])
        with contextlib.suppress(TimedOutError):
            children.run_to_end(arguments, stderr=None, limit=10)
        return via.said(before)


def _verbose(arguments: list[str]) -> str:
    """Return what the same attempt says with -v, for the fingerprint of the key that is not known."""
    rest = [*arguments[1:]]
    del rest[rest.index("-E") : rest.index("-E") + 2]
    plain = [word for word in rest if word not in ("-f", "-M")]
    verbose = ["LogLevel=DEBUG1" if word.startswith("LogLevel=") else word for word in plain]
    verbose = ["BatchMode=yes" if word.startswith("BatchMode=") else word for word in verbose]
    try:
        done = subprocess.run(
            [arguments[0], *verbose],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=20,
            check=False,
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "\n" + "\n".join(
        line for line in done.stderr.decode(errors="replace").splitlines() if "Server host key" in line
    )


def _at_hop(error: SSHError, alias: str, hop: Host, *, last: bool) -> SSHError:
    reason = error.reason + (suggest(hop.alias) if isinstance(error, UnknownHostError) else "")
    return type(error)(alias, reason if last else f"the jump host {hop.alias}: {reason}")


def _place(hop: Host, via: Master | None) -> Master:
    """Return where the master of `hop` is, or would be: one for each way to it."""
    way = via.control.name if via else hop.proxy_command or ""
    name = "\0".join([*config_arguments(), hop.hostname, hop.user, str(hop.port), way])
    control = _directory() / sha256(name.encode())[:16]
    return Master(hop.alias, control, control.with_name(control.name + ".log"), hop)


def _directory() -> Path:
    return paths.make_private(paths.runtime_directory() / "ssh")


def _note(place: Master) -> Path:
    return paths.here().root / "logins" / f"{place.control.name}.json"


def end_master(master: Master) -> None:
    """End one master, and with it all that uses it."""
    with contextlib.suppress(TimedOutError, OSError):
        children.run_to_end(client_arguments(master, ["-O", "exit", "--", master.alias]), stderr=None, limit=5)
        wait_until(lambda: True if not is_running(master.control) else None, timeout=5, what="the end of ssh")


def _can_ask() -> bool:
    """Tell whether there is a terminal, and this process is the one that may use it."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _announce(place: Master) -> None:
    """Say on the terminal whose prompt comes: ssh names the address only, and several hosts may ask in turn."""
    with contextlib.suppress(OSError), Path("/dev/tty").open("w", encoding="utf-8") as terminal:
        terminal.write(f"login to {place.alias} ({place.host.user}@{place.host.hostname}):\n")
