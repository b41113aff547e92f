"""The site as root: every host has its own network, mounts, processes, hostname and disk.

One process, the keeper (keeper.sh), holds everything: its pid namespace contains all hosts, its mount namespace all
their disks, on a tmpfs. When it ends, the kernel ends the rest; so nothing can be left, however the tests ended.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from ports.state.waiting import wait_until
from tests.lab import homes
from tests.lab.credentials import Address, client_config, known_hosts, new_key
from tests.lab.disk import NOTEBOOKS
from tests.lab.namespace_host import HERE, SYSTEM_PATH, NamespaceHost, first_process
from tests.lab.site import Account, Host, LabError, Running, Site

PROGRAMS = ("unshare", "nsenter", "ip", "mount", "pivot_root", "sshd")
FIRST_UID = 4201
ROOT = Account("root", 0, 0, "/root")


def why_not() -> str | None:
    """Return why hosts in namespaces cannot be had here, or None."""
    if sys.platform != "linux":
        return f"hosts in namespaces are Linux's, and this is {sys.platform}"
    if os.geteuid() != 0:
        return "hosts in namespaces need root"
    if missing := [name for name in PROGRAMS if shutil.which(name, path=SYSTEM_PATH) is None]:
        return f"hosts in namespaces need {', '.join(missing)}; install openssh-server and iproute2"
    try:
        trial = ["unshare", "-m", "-u", "-i", "-n", "-p", "-f", "--propagation", "private", "true"]
        trial_result = subprocess.run(trial, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"namespaces cannot be had: {error}"
    return f"namespaces cannot be had: {trial_result.stderr.strip()}" if trial_result.returncode else None


class EnteredRunning(Running):
    """A command inside a host, which enter.py started and waits for."""

    def kill(self) -> None:
        """Kill the command itself, so that enter.py takes note of its end.

        Without enter.py nobody might: its parent would be the first process of this machine, which in a container
        often waits for nobody, and a zombie of bob's makes him somebody who uses the host.
        """
        commands = []
        with contextlib.suppress(psutil.NoSuchProcess):
            commands = psutil.Process(self.pid).children() if self.poll() is None else []
        for command in commands:
            with contextlib.suppress(ProcessLookupError):
                os.kill(command.pid, signal.SIGKILL)
        if not commands:
            super().kill()


class NamespaceSite(Site):
    """Hosts in namespaces, for users alice and bob."""

    kind = "namespaces"
    users = ("alice", "bob")
    #: Hosts that have this machine's checkout and environment; the others have the system's Python only.
    installed: tuple[str, ...] = ("laptop", "server1")

    def __init__(self, **layout: Any) -> None:
        super().__init__(**layout)
        self.accounts = [
            Account(name, FIRST_UID + n, FIRST_UID + n, f"/home/{name}") for n, name in enumerate(self.users)
        ]
        shared = self.layout.servers if self.layout.shared_home else ()
        self.home_of = {host: "servers" if host in shared else host for host in self.layout.hosts}
        self._keys = {name: new_key() for name in self.users}
        self._keeper: subprocess.Popen[bytes] | None = None
        #: The keeper, as this process sees it.
        self.keeper_pid = 0
        self.hosts: dict[str, NamespaceHost] = {}

    @property
    def top(self) -> Path:
        """The site's tmpfs, which only the keeper's mount namespace holds, as this process reaches it."""
        return Path(f"/proc/{self.keeper_pid}/root/run/lab")

    def up(self) -> None:
        """Start all hosts; return when every sshd listens."""
        try:
            self._start_keeper()
            self.hosts = {name: NamespaceHost(self, name) for name in self.layout.hosts}
            for host in self.hosts.values():
                host.install()
            self.furnish(self.layout.hosts)
            for host in self.hosts.values():
                host.begin_power_on()
            for host in self.hosts.values():
                host.await_power()
        except BaseException:
            self.down()
            raise

    def _start_keeper(self) -> None:
        if self._keeper is not None:
            raise LabError("the site is up")
        namespaces = ["-m", "-n", "-p", "-u", "-i", "-f", "--kill-child", "--propagation", "private"]
        keeper = self._keeper = subprocess.Popen(
            ["unshare", *namespaces, "sh", str(HERE / "keeper.sh"), *self.layout.servers],
            env={"PATH": SYSTEM_PATH},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert keeper.stdout is not None
        said: list[str] = []
        while (line := keeper.stdout.readline().decode(errors="replace")) != "ready\n":
            if not line:
                raise LabError(f"the site cannot be built: {''.join(said).strip()}")
            said.append(line)
        self.keeper_pid = wait_until(lambda: first_process(keeper.pid), timeout=5, what="keeper of the site")

    def down(self) -> None:
        """Stop all hosts and remove every trace; nothing if the site is down."""
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        keeper.kill()  # unshare --kill-child takes the first process along, and that all others
        for stream in (keeper.stdin, keeper.stdout):
            if stream is not None:
                stream.close()
        keeper.wait(timeout=20)
        for host in self.hosts.values():
            host.forget()
        self.hosts = {}
        self.keeper_pid = 0

    def furnish(self, names: Sequence[str]) -> None:
        """Make the homes on the hosts `names` as they are at first."""
        addresses = {host: Address(host) for host in self.layout.hosts if host != "laptop"}
        known = known_hosts(addresses, {name: host.key for name, host in self.hosts.items()})
        for account in self.accounts:
            key = self._keys[account.name]
            for host in names:
                files = homes.server_files(key) if host != "laptop" else {}
                if host in self.layout.clients():
                    files |= homes.client_files(key, client_config(addresses, jump=host == "laptop"), known)
                if set(self.installed) & set(self._hosts_with_home_of(host)):
                    files |= homes.path_files(str(Path(sys.prefix, "bin")))
                home = self.top / "homes" / self.home_of[host] / account.name
                homes.furnish(home, files, owner=(account.uid, account.gid))

    def _hosts_with_home_of(self, host: str) -> list[str]:
        return [other for other in self.layout.hosts if self.home_of[other] == self.home_of[host]]

    def account(self, user: str | None = None) -> Account:
        """Return the account `user`."""
        for account in (*self.accounts, ROOT):
            if account.name == (user or self.users[0]):
                return account
        raise LabError(f"no user {user!r}; there are {', '.join(self.users)}")

    def environment(self, host: str, user: str | None = None) -> dict[str, str]:
        """Return what a login of `user` on `host` finds in its environment."""
        account = self.account(user)
        path = SYSTEM_PATH
        if host in self.installed:
            path = f"{Path(sys.prefix, 'bin')}:{path}"
        names = {"HOME": account.home, "USER": account.name, "LOGNAME": account.name}
        return {**names, "SHELL": "/bin/bash", "PATH": path, "LANG": "C.UTF-8"}

    @property
    def ssh(self) -> list[str]:
        """The ssh program with the options that it needs on the laptop."""
        return ["ssh"]

    @property
    def notebook_python(self) -> str:
        """Interpreter of an environment on the servers that has JupyterLab, Dask and IPython, but not `ports`."""
        if sys.prefix == sys.base_prefix:
            raise LabError("the lab makes it out of a virtual environment, and the tests do not run in one")
        return str(NOTEBOOKS / "bin/python")

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
        account = self.account(user)
        where = [str(self._pid_of(host.name)), str(account.uid), str(account.gid), cwd or account.home]
        command = [sys.executable, "-I", "-S", str(HERE / "enter.py"), *where, *argv]
        return EnteredRunning(command, env=environ, text=True, start_new_session=True, **files)

    def _pid_of(self, host: str) -> int:
        found = self.host(host)
        assert isinstance(found, NamespaceHost)
        if not found.pid:
            raise LabError(f"{host} is off")
        return found.pid

    def shell_command(self, host: str, user: str | None = None) -> tuple[list[str], dict[str, str]]:
        """Return the command and the environment that give a terminal a login shell on `host`.

        script(1) makes a terminal of the host's own: tmux, for one, wants to find its terminal below /dev.
        """
        account = self.account(user)
        self.host(host).touched = True
        enter = ["nsenter", f"--target={self._pid_of(host)}", "-m", "-u", "-i", "-n", "-p"]
        become = [
            "setpriv",
            f"--reuid={account.uid}",
            f"--regid={account.gid}",
            "--clear-groups",
            "env",
            "-C",
            account.home,
        ]
        shell = ["script", "--quiet", "--command", "exec bash -l", "/dev/null"]
        return [*enter, *become, *shell], self.environment(host, user) | {"TERM": os.environ.get("TERM", "xterm")}

    def in_keeper(self, argv: Sequence[str], *, net: Path | None = None) -> None:
        """Run `argv` among the site's mounts, and in the network namespace `net`, by default the switch's."""
        where = [f"--target={self.keeper_pid}", "--mount", f"--net={net}" if net else "--net"]
        done = subprocess.run(
            ["nsenter", *where, *argv], env={"PATH": SYSTEM_PATH}, capture_output=True, text=True, timeout=20
        )
        if done.returncode:
            raise LabError(f"{' '.join(argv)}: {done.stderr.strip()}")
