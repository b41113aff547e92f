"""Where the master connections of `ports` are: a control socket each, numbered for each way, and what holds one open.

Files in the runtime directory, `key` being made of the way to a host::

    <key>.<n>       control socket of the n-th master; the one with the highest n serves
    <key>.<n>.log   its stderr
    <key>.<n>.old   it fell silent: nothing new is asked of it, what goes through it may still recover
    <key>.mine      the user's own master there fell silent; says which

A path is never used twice while its first ssh may live: ssh removes its control socket's path when it ends.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path

from ports.hosts.openssh.ssh_config import Host, config_arguments
from ports.probe import sha256
from ports.state import make_private, runtime_directory

_LOG_SECONDS = 60.0  # a process that just lost its connection still reads there why


class Guard:
    """A connection to a control socket: as long as it is there, the master's time without use does not begin."""

    def __init__(self, control: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(2)
        try:
            self._socket.connect(str(control))
            if not self._socket.recv(4096):  # its greeting: the kernel connects also to one that is about to end
                raise ConnectionRefusedError(f"{control} was closed")
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise

    def is_held(self) -> bool:
        """Tell whether the master still runs."""
        try:
            while self._socket.recv(4096):
                pass
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):  # it did not come to be
            self._socket.close()


@dataclass(frozen=True)
class Master:
    """A connection to `alias`: its control socket, and the file that gets its stderr.

    While the object lives, the connection does not end for want of use.

    Attributes
    ----------
    fresh : bool
        It was made by this call.
    users : bool
        The user's own, which the configuration names: used, and never ended; it has no log.
    """

    alias: str
    control: Path
    log: Path
    host: Host
    fresh: bool = False
    users: bool = False
    guard: Guard | None = field(default=None, repr=False, compare=False)

    def is_there(self) -> bool:
        """Tell whether this connection exists; whether it carries anything is another question."""
        return self.guard.is_held() if self.guard is not None else is_running(self.control)

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


def is_running(control: Path) -> bool:
    """Tell whether an ssh listens on the control socket; a socket file that was left behind is not enough."""
    try:
        Guard(control)
    except TimeoutError:
        return True  # it listens, and is halted
    except OSError:
        return False
    return True


def keys(hops: tuple[Host, ...]) -> list[str]:
    """Return the key of each hop's way: hosts that are reached another way have other connections."""
    found: list[str] = []
    for hop in hops:
        way = found[-1] if found else hop.proxy_command or ""
        name = "\0".join([*config_arguments(), hop.hostname, hop.user, str(hop.port), way])
        found.append(sha256(name.encode())[:16])
    return found


def ours(key: str, hop: Host) -> Master:
    """Return the master of `ports` that serves, or served last; where none did, the one that would be next."""
    serving = [number for number in _numbers(key) if not _old(key, number).exists()]
    return _master(key, serving[-1], hop) if serving else following(key, hop)


def following(key: str, hop: Host) -> Master:
    """Return the place of one more master."""
    return _master(key, max(_numbers(key), default=0) + 1, hop)


def users(key: str, hop: Host) -> Master | None:
    """Return the user's own running master to `hop`, where the configuration names one that did not fall silent."""
    if hop.control_path is None:
        return None
    control = Path(hop.control_path)
    mark = _mark(control)
    if mark is None or not is_running(control):
        return None
    with contextlib.suppress(OSError):
        if _mine(key).read_text() == mark:
            return None
    return Master(hop.alias, control, Path(os.devnull), hop, users=True)


def mark_silent(key: str, master: Master) -> None:
    """Let nothing new be asked of a master; what goes through it is left alone."""
    mark, place = ("", Path(f"{master.control}.old")) if not master.users else (_mark(master.control) or "", _mine(key))
    with contextlib.suppress(OSError):  # a full disk: it is found silent again
        place.write_text(mark)


def guarded(master: Master) -> Guard | None:
    """Return what keeps `master`, None where it does not run."""
    try:
        return Guard(master.control)
    except OSError:
        return None


def kept() -> list[Path]:
    """Return the control sockets of all masters of `ports` that run, whatever they lead to."""
    found = {path.with_suffix("") for path in directory().glob("*.*.*")}
    return [control for control in sorted(found) if is_running(control)]


def siblings(control: Path) -> list[Path]:
    """Return the control sockets of all masters on the same way, those that fell silent too."""
    key = control.name.partition(".")[0]
    return [_path(key, number) for number in _numbers(key)]


def sweep(key: str) -> None:
    """Remove the files of masters on one way that ended a while ago; who just lost one reads in its log why."""
    for number in _numbers(key):
        control, log = _path(key, number), _log(key, number)
        with contextlib.suppress(OSError):
            if time.time() - log.stat().st_mtime > _LOG_SECONDS and not is_running(control):
                forget(control)
                log.unlink()


def sweep_all() -> list[Path]:
    """Remove what masters left that were killed, but for their logs, and return the paths."""
    # not what ssh is just making, which has a name of its own
    left = [path for path in directory().iterdir() if path.suffix in (".old", ".mine") or path.suffix[1:].isdigit()]
    dead = [path for path in left if path.suffix == ".mine" or not is_running(_control_of(path))]
    for path in dead:
        path.unlink(missing_ok=True)
    return dead


def forget(control: Path) -> None:
    """Remove the files of a master that has ended, but for its log."""
    control.unlink(missing_ok=True)
    # its mark, and a socket that it was making when it was killed
    for path in control.parent.glob(f"{control.name}.*"):
        if path.suffix != ".log":
            path.unlink(missing_ok=True)


def directory() -> Path:
    """Return the directory of control sockets."""
    return make_private(runtime_directory() / "ssh")


def _numbers(key: str) -> list[int]:
    found = {_number(path) for path in directory().glob(f"{key}.*")}
    return sorted(int(number) for number in found if number.isdigit())


def _number(path: Path) -> str:
    return path.name.split(".")[1] if "." in path.name else ""


def _control_of(path: Path) -> Path:
    return path.with_name(".".join(path.name.split(".")[:2]))


def _path(key: str, number: int) -> Path:
    return directory() / f"{key}.{number}"


def _log(key: str, number: int) -> Path:
    return directory() / f"{key}.{number}.log"


def _old(key: str, number: int) -> Path:
    return directory() / f"{key}.{number}.old"


def _mine(key: str) -> Path:
    return directory() / f"{key}.mine"


def _master(key: str, number: int, hop: Host) -> Master:
    return Master(hop.alias, _path(key, number), _log(key, number), hop)


def _mark(control: Path) -> str | None:
    """Return what tells one socket at that path from the next; None where there is none of this user's."""
    try:
        found = control.lstat()
    except OSError:
        return None
    return f"{found.st_ino} {found.st_ctime_ns}" if found.st_uid == os.getuid() else None
