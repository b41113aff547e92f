"""Python as on Windows, as far as that can be played on Linux: ``python as_windows.py CODE [ARGUMENT …]``.

The standard library and the tools of `ports` are imported first, and keep the real system. What is imported later,
`ports` that is, finds neither the modules nor the functions that Windows lacks, and sockets, processes and event loops
that can do what those there can. Python that it starts is on Windows, too.

Not played: Windows' paths, permissions, consoles and shells, files that cannot be replaced while they are open, text
mode of descriptors, the Proactor's own sockets, an SSH agent.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import socket
import stat
import subprocess
import sys
import types
from typing import Any, NoReturn

#: What is used by `ports`, or by what it uses, with what it imports at its first use.
FIRST = (
    "click", "concurrent.futures.thread", "ctypes", "getpass", "http.server", "importlib.metadata", "logging.handlers",
    "multiprocessing.pool", "paramiko", "platform", "psutil", "pydoc", "queue", "selectors", "shutil",
    "socketserver", "ssl", "tempfile", "threading", "urllib.request", "uuid", "webbrowser", "yaml", "zlib",
)  # fmt: skip
MISSING_MODULES = ("pwd", "grp", "fcntl", "resource", "termios", "pty", "tty", "syslog", "crypt")
MISSING = {
    "os": (
        "getuid", "geteuid", "getgid", "getegid", "getgroups", "fork", "forkpty", "uname", "setsid", "killpg",
        "getpgrp", "getpgid", "tcgetpgrp", "statvfs", "readv", "writev", "preadv", "mkfifo", "getloadavg",
        "sched_getaffinity", "chown", "lchown", "fchown", "fchmod", "openpty", "posix_spawn", "sysconf", "wait",
        "ttyname", "nice", "environb", "set_blocking", "get_blocking", "O_CLOEXEC", "O_NOFOLLOW", "O_DIRECTORY",
        "O_NOCTTY", "O_NONBLOCK", "WNOHANG",
    ),
    "signal": (
        "SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGPIPE", "SIGWINCH", "SIGALRM", "SIGSTOP", "SIGQUIT",
        "pthread_sigmask", "setitimer", "alarm", "pause",
    ),
    "socket": (
        "AF_UNIX", "AF_NETLINK", "SO_PEERCRED", "SO_REUSEPORT", "SCM_RIGHTS", "SCM_CREDENTIALS", "send_fds",
        "MSG_DONTWAIT", "MSG_NOSIGNAL",
    ),
    "time": ("clock_gettime", "CLOCK_BOOTTIME"),
    "select": ("poll", "epoll"),
    "asyncio": ("start_unix_server", "open_unix_connection"),
}  # fmt: skip
EXCLUSIVE = 0x7FFFFFFB  # SO_EXCLUSIVEADDRUSE
DETACHED, NEW_GROUP = 8, 0x200
BREAK = signal.SIGUSR2


def become() -> None:
    """Let this process be on Windows from now on."""
    for name in FIRST:
        importlib.import_module(name)
    modules = {name: importlib.import_module(name) for name in MISSING}
    real: dict[str, Any] = {name: types.ModuleType(name) for name in MISSING}
    for name, module in modules.items():
        real[name].__dict__.update(vars(module))
    for loaded in list(sys.modules.values()):
        for own, value in list(getattr(loaded, "__dict__", {}).items()):
            if loaded.__name__ != "__main__" and any(value is module for module in modules.values()):
                setattr(loaded, own, real[value.__name__])
    for name, names in MISSING.items():
        for one in names:
            if hasattr(modules[name], one):
                delattr(modules[name], one)
    os.supports_fd.discard(os.scandir)
    _be_without_unix_files(real)
    _change_sockets(real["socket"])
    _change_processes()
    asyncio.new_event_loop, asyncio.SelectorEventLoop = ProactorLoop, SelectorLoop
    os.name, sys.platform = "nt", "win32"


class SelectorLoop(asyncio.SelectorEventLoop):
    """As Windows has it."""

    def create_unix_server(self, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError

    create_unix_connection = add_signal_handler = subprocess_exec = create_unix_server  # type: ignore[assignment]


class ProactorLoop(SelectorLoop):
    """What a new loop is there: it watches nothing for others."""

    def add_reader(self, *_: Any) -> NoReturn:  # type: ignore[override]
        raise NotImplementedError

    remove_reader = add_writer = remove_writer = add_reader  # type: ignore[assignment]


def _be_without_unix_files(real: dict[str, Any]) -> None:
    import fcntl
    import shutil

    def locking(fd: int, mode: int, size: int) -> None:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, size)
        except OSError:
            raise PermissionError(13, "Permission denied") from None

    def of_files(call: Any) -> Any:
        def checked(fd: int, *rest: Any) -> Any:
            if stat.S_ISSOCK(real["os"].fstat(fd).st_mode):
                raise OSError(9, "Bad file descriptor")
            return call(fd, *rest)

        return checked

    def kill(pid: int, number: int) -> None:
        assert number, "on Windows this would end the process"
        real["os"].kill(pid, number)

    msvcrt: Any = types.ModuleType("msvcrt")
    msvcrt.locking, msvcrt.LK_NBLCK = locking, 2
    sys.modules["msvcrt"] = msvcrt
    for name in ("win_pageant", "win_openssh"):  # which paramiko asks for agents there
        agent: Any = types.ModuleType(f"paramiko.{name}")
        agent.can_talk_to_agent = lambda: False
        sys.modules[agent.__name__] = agent
        setattr(sys.modules["paramiko"], name, agent)
    vars(shutil)["sys"] = types.SimpleNamespace(**vars(sys))  # `which` goes by the platform
    os.read, os.write, os.kill = of_files(os.read), of_files(os.write), kill
    os.environ.setdefault("USERNAME", os.environ.get("USER", "alice"))
    os.environ.setdefault("COMPUTERNAME", real["os"].uname().nodename)
    for name in MISSING_MODULES:
        sys.modules[name] = None  # type: ignore[assignment]


def _change_sockets(real: Any) -> None:
    class Socket(socket.socket):
        """A handle that sends one piece at a time, on an address that it has for itself if it says so."""

        sendmsg = recvmsg = property()

        def setsockopt(self, level: int, name: int, *value: Any) -> None:
            taking = level == socket.SOL_SOCKET and name == socket.SO_REUSEADDR
            assert not taking, "on Windows SO_REUSEADDR takes a port from who has it"
            super().setsockopt(level, socket.SO_REUSEADDR if name == EXCLUSIVE else name, *value)

    def socketpair(*_: Any) -> tuple[socket.socket, socket.socket]:
        with Socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen(1)
            one = Socket()
            one.connect(server.getsockname())
            other, _ = server.accept()
            return one, Socket(fileno=other.detach())

    socket.SO_EXCLUSIVEADDRUSE = EXCLUSIVE  # type: ignore[attr-defined]
    socket.socket, socket.socketpair = Socket, socketpair  # type: ignore[misc,assignment]
    real.socketpair = socketpair  # of TCP for event loops, too


def _change_processes() -> None:
    class Process(subprocess.Popen):  # type: ignore[type-arg]
        """Started with flags that only Windows knows, and without those of others."""

        def __init__(self, args: Any, *rest: Any, creationflags: int = 0, **options: Any) -> None:
            if options.get("pass_fds") or options.get("preexec_fn"):
                raise ValueError("not supported on Windows platforms")
            options["start_new_session"] = bool(creationflags & DETACHED)  # as good as: no Ctrl-C comes there
            if not isinstance(args, str) and args[:2] == [sys.executable, "-c"]:
                args = [sys.executable, __file__, *args[2:]]
            super().__init__(args, *rest, **options)

    subprocess.Popen = Process  # type: ignore[misc]
    subprocess.DETACHED_PROCESS, subprocess.CREATE_NEW_PROCESS_GROUP = DETACHED, NEW_GROUP  # type: ignore[attr-defined]
    signal.SIGBREAK = BREAK  # type: ignore[attr-defined]


if __name__ == "__main__":
    del sys.path[0]  # of this file: its neighbours have names of the standard library's
    become()
    code, sys.argv = sys.argv[1], ["ports", *sys.argv[2:]]
    exec(compile(code, "as-windows", "exec"), {"__name__": "__main__"})
