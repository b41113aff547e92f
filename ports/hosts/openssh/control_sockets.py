"""The control sockets of master connections: their paths, which of them serves, and what keeps a master open.

Files in the runtime directory, where `key` stands for the route to a host (`Hop.key`)::

    <key>.<n>       control socket of the n-th master; the one with the highest n serves
    <key>.<n>.log   its stderr
    <key>.<n>.old   it fell silent: no new requests use it, existing connections may still recover
    <key>.mine      the user's own master there fell silent; says which

A path is never used again while its first ssh may be alive: ssh removes its control socket's path when it ends.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ports.errors import PortsError
from ports.hosts._route import Hop
from ports.hosts.openssh.ssh_config import program
from ports.state import locked, make_private, runtime_directory

#: Of a connect to a control socket that fails: an ssh listens, with as many waiting as may (the first), or this process
#: cannot know, as it has too many files open. What may listen is neither removed nor ended.
_MAY_LISTEN = (errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
_LOG_SECONDS = 60.0  # a process that just lost its connection still reads there why


class MasterHold:
    """A connection to a control socket. While it exists, the master does not count as unused."""

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
        with contextlib.suppress(AttributeError, OSError):  # the connect failed
            self._socket.close()


@dataclass(frozen=True)
class Master:
    """A connection to `alias`: its control socket, and the file that gets its stderr.

    While the object lives, the connection does not end because it is unused.

    Attributes
    ----------
    fresh : bool
        This call made it.
    users : bool
        It is the user's own, which the configuration names. It is used and never ended; it has no log.
    """

    alias: str
    control: Path
    log: Path
    hop: Hop
    fresh: bool = False
    users: bool = False
    hold: MasterHold | None = field(default=None, repr=False, compare=False)

    def is_there(self) -> bool:
        """Tell whether this connection exists; it may be dead all the same."""
        return self.hold.is_held() if self.hold is not None else is_running(self.control)

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


def client_arguments(master: Master, rest: list[str]) -> list[str]:
    """Return the command line of an ssh that sends a request to `master`, and never logs in by itself.

    It reads no configuration: with ``-O forward``, the forwards there would be requested again.
    """
    return control_arguments(master.control, rest)


def control_arguments(control: Path, rest: list[str]) -> list[str]:
    """Return the same for the master that listens on `control`."""
    # a full or dying master makes ssh open a connection of its own, silently; the proxy command ends that attempt
    alone = ["-o", "ControlMaster=no", "-o", "BatchMode=yes", "-o", "ProxyCommand=false"]
    return [program(), "-F", "none", "-S", str(control), *alone, *rest]


def is_running(control: Path) -> bool:
    """Tell whether an ssh listens on the control socket; a socket file that was left behind is not enough."""
    try:
        MasterHold(control)
    except OSError as error:
        return isinstance(error, TimeoutError) or error.errno in _MAY_LISTEN
    return True


def candidates(key: str, control_path: str | None) -> list[tuple[Path, Path, bool]]:
    """Return what may lead to a host: control socket, log, and whether it is the user's own. Ours comes first."""
    own = users_own(key, control_path)
    return [(*serving(key), False), *([] if own is None else [(own, Path(os.devnull), True)])]


def serving(key: str) -> tuple[Path, Path]:
    """Return control socket and log of the master that serves, or served last; where none did, of the next one."""
    numbers = [number for number in _numbers(key) if not _old(key, number).exists()]
    return (_path(key, numbers[-1]), _log(key, numbers[-1])) if numbers else following(key)


def following(key: str) -> tuple[Path, Path]:
    """Return control socket and log of the master that is started next."""
    number = max(
        [*_numbers(key), *(int(_number(one)) for one in started() if one.name.startswith(f"{key}."))], default=0
    )
    number += 1
    return _path(key, number), _log(key, number)


def users_own(key: str, control_path: str | None) -> Path | None:
    """Return the control socket of the user's own master, where one runs there that did not fall silent."""
    if control_path is None:
        return None
    control = Path(control_path)
    mark = _mark(control)
    if mark is None or not is_running(control):
        return None
    with contextlib.suppress(OSError):
        if _mine(key).read_text() == mark:
            return None
    return control


def mark_silent(master: Master) -> None:
    """Mark a master as unresponsive: no new requests use it, existing connections are left alone."""
    mark, file = "", Path(f"{master.control}.old")
    if master.users:
        mark, file = _mark(master.control) or "", _mine(master.hop.key)
    with contextlib.suppress(OSError):  # a full disk: it is found silent again
        file.write_text(mark)


def kept() -> list[Path]:
    """Return the control sockets of all running masters of `ports`, to any host."""
    found = {path.with_suffix("") for path in directory().glob("*.*.*")}
    return [control for control in sorted(found) if is_running(control)]


def started() -> dict[Path, int]:
    """Return the control socket and the pid of each master of `ports` that lives, also where its socket was removed."""
    return {control: pid for control, (pid, _) in _started().items()}


def _started() -> dict[Path, tuple[int, str]]:
    """Return the same with the command of each."""
    ours = re.escape(str(directory()))
    pattern = re.compile(
        rf"(?:^|/)ssh\0(?:.*\0)?-M\0(?:.*\0)?-S\0({ours}/[0-9a-f]+\.[0-9]+)\0|^ssh: ({ours}/[0-9a-f]+\.[0-9]+) \[mux\]"
    )
    found = {}
    for pid, command in _own_commands():
        if told := pattern.search(command):
            found[Path(told[1] or told[2])] = pid, command
    return found


def needed_by_logins() -> set[Path]:
    """Return the control sockets of masters that logins go through at which a person is asked at this moment."""
    commands = _started()
    asking = [
        control
        for control, (_, command) in commands.items()
        if "\0BatchMode=no\0" in command and not is_running(control) and _logs_in(control.name.partition(".")[0])
    ]
    needed: set[Path] = set()
    while asking:
        _, command = commands.get(asking.pop(), (0, ""))
        # of its ProxyCommand; its own control socket stands behind a NUL
        through = {Path(one) for one in re.findall(r" -S (\S+/[0-9a-f]+\.[0-9]+) ", command)}
        asking += through - needed
        needed |= through
    return needed


def orphans(keys: Iterable[str] | None = None) -> dict[Path, int]:
    """Return the masters, of some routes or of all, that nothing can reach: their control sockets were removed."""
    wanted = None if keys is None else set(keys)
    found: dict[Path, int] = {}
    for control, pid in started().items():
        key = control.name.partition(".")[0]
        if (wanted is None or key in wanted) and not is_running(control) and not _logs_in(key):
            found[control] = pid
    return found


def _logs_in(key: str) -> bool:
    """Tell whether a process of `ports` logs in on a route: a person may be typing a password, and takes their time.

    Until the login has ended, its ssh has no control socket, and looks like one that nothing can reach.
    """
    try:
        with locked(login_lock(key), timeout=0):
            return False
    except PortsError:
        return True


def login_lock(key: str) -> str:
    """Return the name of the lock that a login on a route holds until its control socket is there."""
    return f"ssh-{key}"


def _own_commands() -> Iterator[tuple[int, str]]:
    """Yield pid and command of this user's processes, with a NUL after each word."""
    if not Path("/proc/self").is_dir():
        with contextlib.suppress(OSError):
            asked = ["ps", "-xww", "-o", "pid=,args="]
            shown = subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, check=False).stdout
            for line in shown.decode(errors="replace").splitlines():
                pid, _, command = line.strip().partition(" ")
                yield int(pid), "\0".join(command.split()) + "\0"
        return
    for process in Path("/proc").glob("[1-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if process.stat().st_uid == os.getuid():
                yield int(process.name), (process / "cmdline").read_bytes().decode(errors="replace")


def siblings(control: Path) -> list[Path]:
    """Return the control sockets of all masters on the same route, including those that fell silent."""
    key = control.name.partition(".")[0]
    return [_path(key, number) for number in _numbers(key)]


def sweep(key: str) -> None:
    """Remove the files of masters on one route that ended a while ago; a process that just lost one reads its log."""
    for number in _numbers(key):
        control, log = _path(key, number), _log(key, number)
        with contextlib.suppress(OSError):
            if time.time() - log.stat().st_mtime > _LOG_SECONDS and not is_running(control):
                forget(control)
                log.unlink()


def sweep_all() -> list[Path]:
    """Remove the files that killed masters left, except their logs, and return the paths."""
    # a socket that ssh is making at this moment has another name
    left = [path for path in directory().iterdir() if path.suffix in (".old", ".mine") or path.suffix[1:].isdigit()]
    dead = [path for path in left if path.suffix == ".mine" or not is_running(_control_of(path))]
    for path in dead:
        path.unlink(missing_ok=True)
    return dead


def forget(control: Path) -> None:
    """Remove the files of a master that has ended, except its log."""
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


def _mark(control: Path) -> str | None:
    """Return what differs between one socket at that path and the next; None where there is none of this user's."""
    try:
        found = control.lstat()
    except OSError:
        return None
    return f"{found.st_ino} {found.st_ctime_ns}" if found.st_uid == os.getuid() else None
