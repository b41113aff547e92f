"""A host of the site in namespaces."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from ports.state.waiting import wait_until
from tests.lab import disk, homes, processes
from tests.lab.credentials import new_key, server_config
from tests.lab.site import Host, HostListener, HostProcess, LabError

if TYPE_CHECKING:
    from tests.lab.namespaces import NamespaceSite

HERE = Path(__file__).resolve().parent
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"


def first_process(starter: int) -> int | None:
    """Return the descendant of process `starter` that is the first of its pid namespace, or None."""
    try:
        for child in psutil.Process(starter).children(recursive=True):
            lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
            inner = next(line for line in lines if line.startswith("NSpid:")).split()[-1]
            if inner == "1":
                return int(child.pid)
    except (psutil.Error, OSError):
        pass
    return None


class NamespaceHost(Host):
    """A host of the site; its first process is sshd."""

    def __init__(self, site: NamespaceSite, name: str) -> None:
        self.name = name
        self._site = site
        #: The key by which the laptop knows it.
        self.key = new_key()
        self._key_changed = False
        self._added: list[str] = []
        self._shells: dict[str, str] = {}
        self._packages: Path | None = None
        self._starter: subprocess.Popen[bytes] | None = None
        #: The first process, as this process sees it; 0 while the host is off.
        self.pid = 0

    @property
    def disk(self) -> Path:
        """The host's directory on the site's tmpfs, as this process reaches it."""
        return self._site.top / "hosts" / self.name

    @property
    def net_namespace(self) -> Path:
        """The host's network namespace, for ``nsenter --net=``."""
        return Path(f"/proc/{self._site.keeper_pid}/root/run/netns/{self.name}")

    def install(self) -> None:
        """Make the disk."""
        self._packages = disk.new_disk(self.disk, self.name, self._site.accounts, self._site.layout.hosts)
        disk.write_host_key(self.disk / "upper", self.key)
        self._write_sshd_config()

    def power_on(self) -> None:
        """Start the host and wait until its sshd listens; nothing if it runs."""
        self.begin_power_on()
        self.await_power()

    def begin_power_on(self) -> None:
        """Start the host; `await_power` waits until it is there."""
        if self.pid:
            return
        seen = disk.visible(installed=self.name in self._site.installed)
        here = Path("/run/lab/hosts", self.name)
        variables = {
            "PATH": SYSTEM_PATH,
            "HOST": self.name,
            "DISK": str(here),
            "HOMES": str(Path("/run/lab/homes", self._site.home_of[self.name])),
            "SHOW": "\n".join(map(str, seen.show)),
            "HIDE": "\n".join(map(str, seen.hide)),
            "PACKAGES": str(self._packages or ""),
            "PREFIX": sys.prefix,
            "SSHD": str(shutil.which("sshd", path=SYSTEM_PATH)),
        }
        self._link("up")
        keeper = ["nsenter", f"--target={self._site.keeper_pid}", "--mount", "--pid", f"--net={self.net_namespace}"]
        boot = ["unshare", "-m", "-u", "-i", "-p", "-f", "--kill-child", "--propagation", "private", "sh"]
        self._boot_log = (self.disk / "boot.log").open("wb")
        self._starter = subprocess.Popen(
            [*keeper, *boot, str(HERE / "boot.sh")],
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=self._boot_log,
            stderr=self._boot_log,
            start_new_session=True,
        )
        self._boot_log.close()

    def await_power(self) -> None:
        """Wait until the sshd of a host that was started listens."""
        starter = self._starter
        if starter is None:
            raise LabError(f"{self.name} was not started")

        def poll() -> int | None:
            if starter.poll() is not None:
                raise LabError(f"{self.name} did not boot:\n{(self.disk / 'boot.log').read_text()}{self.log()}")
            first = first_process(starter.pid)
            return first if first and self._answers(first) else None

        self.pid = wait_until(poll, timeout=20, what=f"sshd of {self.name}", every=0.005)

    def _answers(self, first: int) -> bool:
        try:
            return any(found.where.endswith(":22") for found in processes.listeners(Path(f"/proc/{first}")))
        except OSError:
            return False

    def power_off(self) -> None:
        """Stop the host as a power failure does: nothing is closed, nobody is told, the disk stays."""
        if self._starter is None:
            return
        self.touched = True
        self._link("down")  # first, lest the dying sockets take leave of their peers
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
        else:
            self._starter.kill()
        self._starter.wait(timeout=10)
        self._starter, self.pid = None, 0

    def forget(self) -> None:
        """Take note that the site went down."""
        if self._starter is not None:
            self._starter.wait(timeout=10)
        self._starter, self.pid = None, 0

    def _link(self, state: str) -> None:
        interfaces = ("eth0", "eth1") if self.name == "login" else ("eth0",)
        for interface in interfaces:
            self._site.in_keeper(["ip", "-n", self.name, "link", "set", interface, state])

    def cut(self) -> None:
        """Drop every packet from and to the network; loopback goes on."""
        self.touched = True
        self.mend()
        self._iptables("-I", "INPUT", "!", "-i", "lo", "-j", "DROP")
        self._iptables("-I", "OUTPUT", "!", "-o", "lo", "-j", "DROP")

    def mend(self) -> None:
        """Undo `cut`, and any other rule."""
        self._iptables("-F")

    def _iptables(self, *arguments: str) -> None:
        if shutil.which("iptables", path=SYSTEM_PATH) is None:
            raise LabError("a host is cut off by iptables, which is missing; apt install iptables")
        self._site.in_keeper(["iptables", "-w", *arguments], net=self.net_namespace)

    def find(self, path: str, *, user: str | None = None) -> Path:
        """Return what `path` does, for who only looks."""
        if path == "~" or path.startswith("~/"):
            path = self._site.account(user).home + path[1:]
        if not self.pid:
            raise LabError(f"{self.name} is off")
        return Path(f"/proc/{self.pid}/root{path}")

    @property
    def temporary_directory(self) -> Path:
        """Where this process finds the host's /tmp."""
        return self.find("/tmp")

    def write(self, path: str, text: str, *, user: str | None = None, mode: int = 0o644) -> None:
        """Write a file that belongs to `user`, with the directories it needs; ``~/`` is the user's home."""
        account = self._site.account(user)
        top = self.path(account.home)
        homes.write_file(self.path(path, user=user), text, owner=(account.uid, account.gid), mode=mode, top=top)

    def add_sshd_config(self, text: str) -> None:
        """Add `text` to sshd's configuration, before all else (a Match block: after), and have it read."""
        self.touched = True
        self._added.append(text)
        self._write_sshd_config()
        self._reload()

    def _write_sshd_config(self) -> None:
        lines = list(disk.SSHD_CONFIG)
        if self.name == "login":
            lines.append("PermitOpen " + " ".join(f"{server}:22" for server in self._site.layout.servers))
        (self._etc / "ssh/sshd_config").write_text(server_config(lines, self._added))

    @property
    def _etc(self) -> Path:
        return self.find("/etc") if self.pid else self.disk / "upper/etc"

    def _reload(self) -> None:
        if not self.pid:
            return
        tested = self._site.run(self.name, ["/usr/sbin/sshd", "-t"], user="root")
        if tested.returncode:
            raise LabError(f"sshd of {self.name} refuses its configuration: {tested.stderr}")
        listening = "Server listening on"
        before = self.log().count(listening)
        os.kill(self.pid, signal.SIGHUP)
        wait_until(
            lambda: self.log().count(listening) > before or None, timeout=10, what=f"sshd of {self.name}", every=0.005
        )

    def set_login_shell(self, user: str, shell: str) -> None:
        """Give `user` the login shell `shell`, an absolute path."""
        if not Path(shell).exists():
            raise LabError(f"no shell {shell}")
        self.touched = True
        self._shells[user] = shell
        disk.write_accounts(self._etc, self._site.accounts, self._shells)

    def change_host_key(self) -> str:
        """Give the host a new key, which nobody knows yet; return its public half."""
        key = new_key()
        self.touched = True
        self._key_changed = True
        disk.write_host_key(self._etc.parent, key)
        self._reload()
        return key.public

    def reset(self) -> None:
        """End what runs here and make the system as it was at first; homes are `NamespaceSite.furnish`'s."""
        self.power_on()
        self.mend()
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: not self.live_processes() or None, timeout=10, what=f"end of processes on {self.name}")
        # Of another mount namespace, even the place of a mount can be removed, and the mount goes with it.
        seen = disk.visible(installed=self.name in self._site.installed).show
        for name in ("/tmp", "/var/tmp", "/dev/shm"):
            keep = tuple(path.relative_to(name).parts[0] for path in seen if path.is_relative_to(name))
            homes.empty(self.find(name), keep=keep)
        if self._shells:
            self._shells = {}
            disk.write_accounts(self._etc, self._site.accounts)
        if self._added or self._key_changed:
            self._added, self._key_changed = [], False
            disk.write_host_key(self._etc.parent, self.key)
            self._write_sshd_config()
            self._reload()

    def live_processes(self) -> list[HostProcess]:
        """Return `processes` without zombies."""
        return [process for process in self.processes() if process.state != "Z"]

    def processes(self) -> list[HostProcess]:
        """Return the processes of the host but for its sshd; zombies included, state Z."""
        if not self.pid:
            return []
        return [found for found in processes.find(processes.of_namespace(self.pid)) if found.pid != self.pid]

    def listeners(self) -> list[HostListener]:
        """Return what listens on the host: TCP, and Unix sockets with a path; sshd's own left out."""
        if not self.pid:
            return []
        found = processes.listeners(Path(f"/proc/{self.pid}"))
        return [listener for listener in found if not listener.where.endswith(":22")]

    def log(self) -> str:
        """Return what sshd logged."""
        path = self.disk / "upper/var/log/sshd.log"
        return path.read_text(errors="replace") if path.exists() else ""
