"""A host of the loopback site: an sshd, and the processes that bear the host's marks."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from ports.state.waiting import wait_until
from tests.lab import homes, processes
from tests.lab.credentials import Address, new_key, server_config
from tests.lab.site import Host, HostListener, HostProcess, LabError, NotPossibleError

if TYPE_CHECKING:
    from tests.lab.loopback import LoopbackSite


class LoopbackHost(Host):
    """A host of the site; the laptop has an sshd too, that nobody asks."""

    def __init__(self, site: LoopbackSite, name: str, address: Address) -> None:
        self.name = name
        #: Where its sshd listens.
        self.address = address
        #: The key by which the laptop knows it.
        self.key = new_key()
        self._key_changed = False
        self._site = site
        self._added: list[str] = []
        self._sshd: subprocess.Popen[bytes] | None = None
        self.directory = site.top / name
        #: What is the home here.
        self.home = self.directory / "home"
        #: What `ports` takes for /tmp/ports-<uid> here.
        self.runtime = self.directory / "run"
        self.home.mkdir(parents=True)
        self._write_key(self.key.private)

    @property
    def marks(self) -> dict[str, str]:
        """Variables that every process of the host has."""
        return {"HOME": str(self.home), "LAB_SITE": str(self._site.top), "LAB_HOST": self.name}

    def _write_key(self, private: str) -> None:
        homes.write_file(self.directory / "host_key", private, owner=(os.getuid(), os.getgid()), mode=0o600)

    def _write_config(self) -> None:
        lines = [
            f"ListenAddress {self.address.hostname}",
            f"Port {self.address.port}",
            f"HostKey {self.directory}/host_key",
            f"AuthorizedKeysFile {self.home}/.ssh/authorized_keys",
            "SetEnv " + " ".join(f"{name}={value}" for name, value in self.marks.items()),
            "PidFile none",
            "UsePAM no",
            "StrictModes no",  # a home below /tmp is never strict enough
            "UseDNS no",
            "PermitRootLogin yes",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PrintMotd no",
            "Subsystem sftp internal-sftp",
        ]
        if self.name == "login":
            servers = [self._site.hosts[name].address for name in self._site.layout.servers]
            lines.append("PermitOpen " + " ".join(f"{server.hostname}:{server.port}" for server in servers))
        (self.directory / "sshd_config").write_text(server_config(lines, self._added))

    def power_on(self) -> None:
        """Start the sshd and wait until it listens; nothing if it runs."""
        self.begin_power_on()
        self.await_power()

    def begin_power_on(self) -> None:
        """Start the sshd; `await_power` waits until it listens."""
        if self._sshd is not None:
            return
        self._write_config()
        program = str(shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin:" + os.environ["PATH"]))
        self._sshd = subprocess.Popen(
            [program, "-D", "-f", str(self.directory / "sshd_config"), "-E", str(self.directory / "sshd.log")],
            env={"PATH": os.defpath, **self.marks},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def await_power(self) -> None:
        """Wait until the sshd listens."""
        sshd = self._sshd
        if sshd is None:
            raise LabError(f"{self.name} was not started")

        def poll() -> bool | None:
            if sshd.poll() is not None:
                raise LabError(f"sshd of {self.name} ended:\n{self.log()}")
            with socket.socket() as sock:
                return sock.connect_ex((self.address.hostname, self.address.port)) == 0 or None

        wait_until(poll, timeout=20, what=f"sshd of {self.name}", every=0.01)

    def power_off(self) -> None:
        """Kill all that runs on the host, as a power failure does; but peers are told that it is gone."""
        self.touched = True
        if self._sshd is not None:
            self._kill_all()
            self._sshd.kill()
            self._sshd.wait(timeout=10)
            self._sshd = None
        self._kill_all()

    def _kill_all(self) -> None:
        def poll() -> bool | None:
            left = [process.pid for process in self.processes() if process.state != "Z"]
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            return not left or None

        wait_until(poll, timeout=10, what=f"end of processes on {self.name}", every=0.005)

    def cut(self) -> None:
        """Not possible on loopback."""
        raise NotPossibleError("a host on loopback cannot be cut off: that needs a network of its own, so root")

    def mend(self) -> None:
        """Nothing: see `cut`."""

    def find(self, path: str, *, user: str | None = None) -> Path:
        """Return where this process finds the host's file `path`; ``~/`` is the host's home."""
        self._site.account(user)
        return self.home / path[2:] if path.startswith("~") else Path(path)

    @property
    def temporary_directory(self) -> Path:
        """Where what `ports` keeps in /tmp on a machine of its own lies on this host."""
        return self.runtime

    def write(self, path: str, text: str, *, user: str | None = None, mode: int = 0o644) -> None:
        """Write a file, with the directories it needs; ``~/`` is the host's home."""
        owner = os.getuid(), os.getgid()
        homes.write_file(self.path(path, user=user), text, owner=owner, mode=mode, top=self.home)

    def add_sshd_config(self, text: str) -> None:
        """Add `text` to sshd's configuration, before all else (a Match block: after), and have it read."""
        self.touched = True
        self._added.append(text)
        self._reload()

    def _reload(self) -> None:
        if self._sshd is None:
            return
        self._write_config()
        listening = "Server listening on"
        before = self.log().count(listening)
        self._sshd.send_signal(signal.SIGHUP)

        def poll() -> bool | None:
            if self._sshd is None or self._sshd.poll() is not None:
                raise LabError(f"sshd of {self.name} refuses its configuration:\n{self.log()}")
            return self.log().count(listening) > before or None

        wait_until(poll, timeout=10, what=f"sshd of {self.name}", every=0.005)

    def set_login_shell(self, user: str, shell: str) -> None:
        """Not possible on loopback."""
        raise NotPossibleError(f"{user}'s login shell is this machine's; to give it {shell} needs root")

    def change_host_key(self) -> str:
        """Give the host a new key, which nobody knows yet; return its public half."""
        key = new_key()
        self.touched = True
        self._key_changed = True
        self._write_key(key.private)
        self._reload()
        return key.public

    def reset(self) -> None:
        """End what runs here, and make the sshd as it was at first."""
        self.power_on()
        self._kill_all()
        if self._added or self._key_changed:
            self._added, self._key_changed = [], False
            self._write_key(self.key.private)
            self._reload()

    def processes(self) -> list[HostProcess]:
        """Return the processes of the host but for its sshd; zombies included, state Z."""
        sshd = self._sshd.pid if self._sshd is not None else 0
        marks = {f"LAB_SITE={self._site.top}".encode(), f"LAB_HOST={self.name}".encode()}
        found = {one.pid: one for one in processes.find(processes.marked(marks, f"{self.directory}/".encode()))}
        if sshd and psutil.pid_exists(sshd):
            for child in psutil.Process(sshd).children(recursive=True):
                found |= {one.pid: one for one in processes.find_one(child.pid)}
        return [one for one in found.values() if one.pid not in (sshd, os.getpid())]

    def listeners(self) -> list[HostListener]:
        """Return what processes of the host listen on: TCP, and Unix sockets below the host's directory."""
        own = f"{self.directory}/"
        found = [one for one in processes.listeners(Path("/proc/self")) if one.where.startswith(own)]
        for process in self.processes():
            try:
                connections = psutil.Process(process.pid).net_connections("tcp")
            except psutil.Error:
                continue
            for one in connections:
                if one.status == psutil.CONN_LISTEN:
                    found.append(HostListener(f"{one.laddr.ip}:{one.laddr.port}", process.uid))
        return found

    def log(self) -> str:
        """Return what sshd logged."""
        path = self.directory / "sshd.log"
        return path.read_text(errors="replace") if path.exists() else ""
