"""What a test leaves behind on the hosts of a site."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from ports.errors import TimedOutError
from ports.state.waiting import wait_until
from tests.lab.site import Host, LabError, Site

#: What may stay: the record of the machine, logs, locks, what ssh said of its configuration, and what
#: makes links the same tomorrow.
MAY_STAY = (
    "file */hosts/*/host.json",
    "file */hosts/*/clients.json",
    "file */hosts/*/runtime.json",
    "file */hosts/*/logs/*",
    "file */links/*",
    "file */links.json",
    "file *.lock",
    "file */resolved/*.json",
)


class LeakCheck:
    """Compares what runs, listens and lies in ports' directories now with what did at first."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._allowed = list(MAY_STAY)
        self._before = self._snapshot()

    def allow(self, pattern: str) -> None:
        """Let stay what matches `pattern`, as in ``"process *ssh*ControlMaster*"`` or ``"file */tokens/*"``."""
        self._allowed.append(pattern)

    def verify(self, *, timeout: float = 5.0) -> None:
        """Wait until nothing is left, and raise AssertionError with what is after `timeout` seconds."""
        try:
            wait_until(lambda: not self.left() or None, timeout=timeout, what="end of what the test started", every=0.1)
        except TimedOutError:
            left = self.left()
            if left:
                raise AssertionError("left behind:\n" + "\n".join(left)) from None

    def left(self) -> list[str]:
        """Return what is there now and was not at first, a line each."""
        return [
            f"{host}: {text}"
            for (host, key), text in sorted(self._snapshot().items())
            if (host, key) not in self._before and not any(fnmatch(text, pattern) for pattern in self._allowed)
        ]

    def _snapshot(self) -> dict[tuple[str, str], str]:
        found = {}
        for name, host in self._site.hosts.items():
            for process in host.processes():
                if process.state != "Z":
                    found[name, f"{process.pid} {process.started}"] = str(process)
            for listener in host.listeners():
                found[name, f"listener {listener.where}"] = str(listener)
            for user in self._site.users:
                for path in files_of_ports(self._site, host, user):
                    # A host that was without power has another first process, by which its files are seen.
                    found[name, re.sub(r"^/proc/\d+/root", "", str(path))] = f"file {path}"
        return found


def files_of_ports(site: Site, host: Host, user: str) -> Iterator[Path]:
    """Yield the files, sockets and links, not the directories, that ports keeps for `user` on `host`."""
    uid = site.account(user).uid
    try:
        tops = [host.find("~/.local/state/ports", user=user), host.find("~/.ssh", user=user)]
        temporary = host.temporary_directory
        tops += [path for path in temporary.iterdir() if path.lstat().st_uid == uid]
    except (LabError, OSError):
        return  # the host is off
    for top in tops:
        if top.is_file() or top.is_socket():
            yield top
        for directory, _, names in os.walk(top):
            yield from (Path(directory, name) for name in names)
