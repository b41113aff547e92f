"""The site as an ordinary user: one sshd per host on loopback, each with a home of its own.

What differs from machines: all hosts share processes, network, hostname and `/tmp`; there is one user, oneself; and
what is installed is installed everywhere, though only the laptop and server1 have it on their PATH. What runs on a
host is told by its environment (``LAB_SITE``, ``LAB_HOST``) or by a path of the host in its command line.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.lab import homes
from tests.lab.credentials import Address, client_config, known_hosts, new_key
from tests.lab.loopback_host import LoopbackHost
from tests.lab.site import Account, Host, LabError, NotPossibleError, Running, Site

#: Where root's sshd confines what talks to strangers; Debian makes it when the service starts.
SSHD_DIRECTORY = Path("/run/sshd")


class LocalRunning(Running):
    """A command of this machine's."""

    def send_signal(self, sig: int) -> None:
        """Send a signal: SIGINT to the command's whole process group, as Ctrl-C does, others to the command."""
        if sig == signal.SIGINT and self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, sig)
        else:
            super().send_signal(sig)


def free_address(number: int) -> Address:
    """Return an unused port on 127.0.0.`number`, or on 127.0.0.1 where there is no such address (macOS)."""
    for hostname in (f"127.0.0.{number}", "127.0.0.1"):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind((hostname, 0))
            return Address(hostname, sock.getsockname()[1])
    raise LabError("no free port on loopback")


class LoopbackSite(Site):
    """Hosts that are sshds on loopback, for the user who runs the tests."""

    kind = "loopback"
    #: Hosts that have the tests' environment on the PATH of a login shell.
    installed = ("laptop", "server1")

    def __init__(self, **layout: Any) -> None:
        super().__init__(**layout)
        if self.layout.shared_home:
            raise NotPossibleError("on loopback two hosts with one home would be one machine; run as root")
        me = pwd.getpwuid(os.getuid())
        self.users = (me.pw_name,)
        self._me = me
        self.hosts: dict[str, LoopbackHost] = {}
        #: Directory of all files of the site.
        self.top = Path()
        self._sshd_mark: Path | None = None

    def up(self) -> None:
        """Start all hosts; return when every sshd listens."""
        if self.hosts:
            raise LabError("the site is up")
        if shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin:" + os.environ["PATH"]) is None:
            raise LabError("the site needs sshd; apt install openssh-server")
        # Below /tmp whatever TMPDIR says: a Unix socket's path must stay under 108 bytes.
        self.top = Path(tempfile.mkdtemp(prefix="lab-", dir="/tmp")).resolve()
        try:
            if os.getuid() == 0:
                self._use_sshd_directory()
            self._key = new_key()
            addresses = {host: free_address(number) for number, host in enumerate(self.layout.hosts, start=1)}
            self.hosts = {host: LoopbackHost(self, host, addresses[host]) for host in self.layout.hosts}
            self.furnish(self.layout.hosts)
            for found in self.hosts.values():
                found.begin_power_on()
            for found in self.hosts.values():
                found.await_power()
        except BaseException:
            self.down()
            raise

    def _use_sshd_directory(self) -> None:
        """Make the directory that root's sshd asks for, unless the system has it; sites side by side share it."""
        mark = SSHD_DIRECTORY / self.top.name
        if SSHD_DIRECTORY.exists() and not any(SSHD_DIRECTORY.glob("lab-*")):
            return
        while self._sshd_mark is None:
            SSHD_DIRECTORY.mkdir(exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # another site has just removed it
                mark.touch()
                self._sshd_mark = mark

    def down(self) -> None:
        """Stop all hosts and remove every trace; nothing if the site is down."""
        if self.top == Path():
            return
        for found in self.hosts.values():
            found.power_off()
        self.hosts = {}
        if self._sshd_mark is not None:
            self._sshd_mark.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # another site uses it, too
                SSHD_DIRECTORY.rmdir()
            self._sshd_mark = None
        shutil.rmtree(self.top)
        self.top = Path()

    def furnish(self, names: Sequence[str]) -> None:
        """Make the homes on the hosts `names` as they are at first."""
        addresses = {name: found.address for name, found in self.hosts.items() if name != "laptop"}
        known = known_hosts(addresses, {name: found.key for name, found in self.hosts.items()})
        owner = self._me.pw_uid, self._me.pw_gid
        for name in names:
            found = self.hosts[name]
            files = homes.server_files(self._key) if name != "laptop" else {}
            if name in self.layout.clients():
                extra = f"IdentityFile {found.home}/.ssh/id_ed25519\nIdentitiesOnly yes\n"
                extra += f"UserKnownHostsFile {found.home}/.ssh/known_hosts\nGlobalKnownHostsFile /dev/null\n"
                dash_f = f"-F {self._config(name)} "
                config = client_config(addresses, dash_f=dash_f, extra=extra, jump=name == "laptop")
                files |= homes.client_files(self._key, config, known)
            if name in self.installed:
                files |= homes.path_files(str(Path(sys.prefix, "bin")))
            homes.furnish(found.home, files, owner=owner)
            self._give_runtime_directory(found)

    def _give_runtime_directory(self, host: LoopbackHost) -> None:
        """Keep `ports` on this host from /tmp/ports-<uid>, which all hosts would share: its own record can say so."""
        from ports.state import paths  # here, so that the lab needs little of what it is there to test

        host.runtime.mkdir(mode=0o700, exist_ok=True)
        homes.empty(host.runtime)
        path = host.home / ".local/state/ports/hosts" / paths.machine() / "runtime.json"
        owner = self._me.pw_uid, self._me.pw_gid
        text = json.dumps({"format": 1, "path": str(host.runtime)})
        homes.write_file(path, text, owner=owner, mode=0o600, top=host.home)
        for parent in list(path.parents)[:3]:
            parent.chmod(0o700)

    def _config(self, host: str) -> Path:
        return self.hosts[host].home / ".ssh/config"

    def account(self, user: str | None = None) -> Account:
        """Return the account `user`; its home is this user's own, not a host's."""
        if user not in (None, *self.users):
            raise NotPossibleError(f"on loopback the only user is {self.users[0]}, not {user}; run as root")
        return Account(self.users[0], self._me.pw_uid, self._me.pw_gid, self._me.pw_dir)

    def environment(self, host: str, user: str | None = None) -> dict[str, str]:
        """Return what a login of `user` on `host` finds in its environment."""
        account, found = self.account(user), self.hosts[host]
        own = str(Path(sys.prefix, "bin"))
        path = [part for part in os.environ.get("PATH", os.defpath).split(":") if part != own]
        if host in self.installed:
            path.insert(0, own)
        names = {"USER": account.name, "LOGNAME": account.name, "SHELL": "/bin/sh", "LANG": "C.UTF-8"}
        if host in self.layout.clients():
            names["DASK_PORTS__SSH__CONFIG"] = str(self._config(host))
        return {**found.marks, **names, "PATH": ":".join(path)}

    @property
    def ssh(self) -> list[str]:
        """The ssh program with the options that it needs: it takes ``~`` from the accounts, not from ``HOME``."""
        return ["ssh", "-F", str(self._config("laptop"))]

    @property
    def notebook_python(self) -> str:
        """Interpreter that has JupyterLab, Dask and IPython; here it has `ports`, too."""
        return sys.executable

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
        command = ["env", "--", *argv]  # which ends with 127 where there is no such program, as on other hosts
        home = self.hosts[host.name].home
        return LocalRunning(command, env=environ, cwd=cwd or home, text=True, start_new_session=True, **files)

    def shell_command(self, host: str, user: str | None = None) -> tuple[list[str], dict[str, str]]:
        """Return the command and the environment that give a terminal a login shell on `host`."""
        self.host(host).touched = True
        environment = self.environment(host, user) | {"TERM": os.environ.get("TERM", "xterm")}
        return ["env", "-C", str(self.hosts[host].home), "bash", "-l"], environment
