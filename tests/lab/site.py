"""What every site can do, and the choice of the site that this machine allows."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any


class LabError(Exception):
    """The site cannot be built, or a step of it failed."""


class NotPossibleError(LabError):
    """This kind of site cannot do that: the test needs hosts in namespaces, so root."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which hosts a site has, and how they reach each other.

    Parameters
    ----------
    n_servers : int
        How many servers there are behind the login node: ``server1``, ``server2`` and so on.
    shared_home : bool
        One home for all servers, as with NFS; else each has its own.
    between_servers : bool
        On each server, too, users have a key and a configuration with which they reach the others by ssh.
    """

    n_servers: int = 2
    shared_home: bool = False
    between_servers: bool = False

    @property
    def servers(self) -> tuple[str, ...]:
        """Names of the servers."""
        return tuple(f"server{number}" for number in range(1, self.n_servers + 1))

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names of all hosts."""
        return ("laptop", "login", *self.servers)

    def clients(self) -> tuple[str, ...]:
        """Return the hosts from which users reach others by ssh."""
        return ("laptop", *(self.servers if self.between_servers else ()))


@dataclass(frozen=True)
class Account:
    """A user of the site; `uid` and `gid` are the same on all hosts."""

    name: str
    uid: int
    gid: int
    home: str


@dataclass(frozen=True)
class HostProcess:
    """A process of a host, by its pid as this process sees it."""

    pid: int
    started: float
    uid: int
    command: tuple[str, ...]
    state: str

    def __str__(self) -> str:
        return f"process {self.pid} of uid {self.uid}: {' '.join(self.command)[:200]}"


@dataclass(frozen=True)
class HostListener:
    """A socket of a host that listens: `where` is ``127.0.0.1:8786`` or a path."""

    where: str
    uid: int | None

    def __str__(self) -> str:
        return f"listener {self.where} of uid {self.uid}"


class Running(subprocess.Popen[str]):
    """A command on a host. SIGINT reaches its whole process group, as Ctrl-C does; other signals the command alone.

    When its time is over, or the block that it was started for fails, all that it started ends with it.
    """

    #: Where it runs, and what all that it starts has in its environment; set by `Site.popen`.
    on: Host
    mark = b""

    def communicate(self, input: str | None = None, timeout: float | None = None) -> tuple[str, str]:
        """Do what `subprocess.Popen.communicate` does; who waited too long gets no second try."""
        try:
            return super().communicate(input, timeout)
        except subprocess.TimeoutExpired:
            self.end()
            raise

    def __exit__(self, kind: type[BaseException] | None, *details: Any) -> None:
        if kind is not None:
            self.end()
        super().__exit__(kind, *details)

    def end(self) -> None:
        """Kill the command and what it started, also what left its process group."""
        self.kill()
        for process in self.on.processes():
            with contextlib.suppress(OSError):
                if self.mark in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                    os.kill(process.pid, signal.SIGKILL)


class Host(ABC):
    """One machine of the site. Paths are paths on that machine; `user` is by default the first of the site."""

    name: str
    #: Whether something here was run, changed or looked up since the last reset.
    touched = True
    #: Length of sshd's log at the last reset: each login makes it longer.
    logged = 0

    def was_used(self) -> bool:
        """Tell whether the host may differ from what it was after the last reset."""
        return self.touched or len(self.log()) != self.logged

    def settle(self) -> None:
        """Take note that the host is as it was at first."""
        self.touched, self.logged = False, len(self.log())

    @abstractmethod
    def power_on(self) -> None:
        """Start the host and wait until its sshd listens; nothing if it runs."""

    @abstractmethod
    def power_off(self) -> None:
        """Stop the host as a power failure does: nothing is closed, nobody is told, the disk stays."""

    @abstractmethod
    def cut(self) -> None:
        """Drop every packet from and to the network; loopback goes on."""

    @abstractmethod
    def mend(self) -> None:
        """Undo `cut`."""

    def path(self, path: str, *, user: str | None = None) -> Path:
        """Return where this process finds the host's file `path`; ``~/`` is the home of `user`."""
        self.touched = True
        return self.find(path, user=user)

    @abstractmethod
    def find(self, path: str, *, user: str | None = None) -> Path:
        """Return what `path` does, for who only looks."""

    @property
    @abstractmethod
    def temporary_directory(self) -> Path:
        """Where this process finds the directory in which `ports` makes its runtime directory on the host."""

    @abstractmethod
    def write(self, path: str, text: str, *, user: str | None = None, mode: int = 0o644) -> None:
        """Write a file that belongs to `user`, with the directories it needs; ``~/`` is the user's home."""

    @abstractmethod
    def add_sshd_config(self, text: str) -> None:
        """Add `text` to sshd's configuration, before all else (a Match block: after), and have it read."""

    @abstractmethod
    def set_login_shell(self, user: str, shell: str) -> None:
        """Give `user` the login shell `shell`, an absolute path."""

    @abstractmethod
    def change_host_key(self) -> str:
        """Give the host a new key, which nobody knows yet; return its public half."""

    @abstractmethod
    def processes(self) -> list[HostProcess]:
        """Return the processes of the host but for its sshd; zombies included, state Z."""

    @abstractmethod
    def listeners(self) -> list[HostListener]:
        """Return what listens on the host: TCP, and Unix sockets with a path; sshd's own left out."""

    @abstractmethod
    def reset(self) -> None:
        """End what runs here and make the system as it was at first; homes are `Site.furnish`'s."""

    @abstractmethod
    def log(self) -> str:
        """Return what sshd logged."""


class Site(ABC):
    """A laptop, a login node and servers; use as a context manager, or `up` and `down`."""

    def __init__(self, **layout: Any) -> None:
        #: Which hosts there are; the arguments are those of `Layout`.
        self.layout = Layout(**layout)

    #: ``"namespaces"`` or ``"loopback"``.
    kind: str
    #: Users that exist on every host; the first one is the default.
    users: tuple[str, ...]
    #: Interpreter that has `ports`: on the laptop and on server1.
    python = sys.executable
    hosts: Mapping[str, Host]

    @abstractmethod
    def up(self) -> None:
        """Start all hosts; return when every sshd listens."""

    @abstractmethod
    def down(self) -> None:
        """Stop all hosts and remove every trace; nothing if the site is down."""

    def reset(self) -> None:
        """End what runs on the hosts and make homes, keys, shells and sshds as they were at first.

        A host that nobody used since the last reset is left alone.
        """
        used = [name for name, host in self.hosts.items() if host.was_used()]
        for name in used:
            self.hosts[name].reset()
        self.furnish(used)
        for name in used:
            self.hosts[name].settle()

    @abstractmethod
    def furnish(self, names: Sequence[str]) -> None:
        """Make the homes on the hosts `names` as they are at first."""

    @abstractmethod
    def account(self, user: str | None = None) -> Account:
        """Return the account `user`."""

    @abstractmethod
    def environment(self, host: str, user: str | None = None) -> dict[str, str]:
        """Return what a login of `user` on `host` finds in its environment."""

    @property
    @abstractmethod
    def ssh(self) -> list[str]:
        """The ssh program with the options that it needs on the laptop: ``["ssh"]``, or with ``-F``."""

    @property
    @abstractmethod
    def notebook_python(self) -> str:
        """Interpreter of an environment on the servers that has JupyterLab, Dask and IPython, but not `ports`."""

    def popen(
        self,
        host: str,
        argv: Sequence[str],
        *,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = subprocess.PIPE,
        stderr: int | IO[Any] | None = subprocess.PIPE,
    ) -> Running:
        """Start `argv` on `host` as `user`, in the user's home, with `env` added to a login's environment."""
        found = self.host(host)
        found.touched = True
        mark = f"LAB_COMMAND={uuid.uuid4()}"
        environ = {**self.environment(host, user), **(env or {}), **dict([mark.split("=")])}
        running = self.start(found, argv, user, environ, cwd=cwd, stdin=stdin, stdout=stdout, stderr=stderr)
        running.on, running.mark = found, mark.encode()
        return running

    @abstractmethod
    def start(
        self,
        host: Host,
        argv: Sequence[str],
        user: str | None,
        environ: dict[str, str],
        *,
        cwd: str | None,
        **files: Any,
    ) -> Running:
        """Start `argv` with that environment, for `popen`; `files` are its standard files."""

    @abstractmethod
    def shell_command(self, host: str, user: str | None = None) -> tuple[list[str], dict[str, str]]:
        """Return the command and the environment that give a terminal a login shell on `host`."""

    def host(self, name: str) -> Host:
        """Return the host `name`."""
        if name not in self.hosts:
            raise LabError(f"no host {name!r}; there are {', '.join(self.hosts)}")
        return self.hosts[name]

    def run(
        self,
        host: str,
        argv: Sequence[str],
        *,
        user: str | None = None,
        input: str | None = None,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` on `host` to its end and return what came of it, as `subprocess.run` does.

        A descendant that keeps standard output open counts as not ended: then `subprocess.TimeoutExpired` is raised,
        as for any command that takes longer than `timeout` seconds, and all that the command started is killed.
        """
        stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
        with self.popen(host, argv, user=user, env=env, cwd=cwd, stdin=stdin) as running:
            stdout, stderr = running.communicate(input, timeout=timeout)
        result = subprocess.CompletedProcess(list(argv), running.returncode, stdout, stderr)
        if check and result.returncode:
            raise LabError(f"{' '.join(argv)} on {host} ended with {result.returncode}:\n{stdout}{stderr}")
        return result

    def __enter__(self) -> Site:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()


def open_site(**layout: Any) -> tuple[Site, str | None]:
    """Bring up the best site that this machine allows; return it, and why it is not hosts in namespaces if it is not.

    The arguments are those of `Layout`.
    """
    from tests.lab.loopback import LoopbackSite
    from tests.lab.namespaces import NamespaceSite, why_not

    reason = why_not()
    if reason is None:
        hosts = NamespaceSite(**layout)
        try:
            hosts.up()
        except LabError as error:
            reason = str(error)
        else:
            return hosts, None
    site = LoopbackSite(**layout)
    site.up()
    return site, reason
