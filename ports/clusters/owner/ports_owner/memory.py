"""The memory that is left: of the machine and of every cgroup around this process, and who uses it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from .ground import probe

PAGE = os.sysconf("SC_PAGE_SIZE")
MACHINE = "the machine"
read = probe.read_bytes


class Domain(NamedTuple):
    """Memory that is limited as a whole: the machine's, or a cgroup's; in bytes."""

    name: str
    total: int
    available: int


class Meter:
    """Reads what is left; about 0.1 ms with one cgroup that has a limit."""

    def __init__(self, root: str = "") -> None:
        self.root, self.proc = root, f"{root}/proc"
        self.cgroups = [one for one in probe.memory.control_groups(root) if one.limits_memory]
        self.limits: list[tuple[probe.memory.Group, int]] = []
        self.refresh()

    def refresh(self) -> None:
        """Look for the limits of cgroups again: they can be set while a cluster runs."""
        limits = ((one, probe.memory.bound_of(one.directory, one.version)) for one in self.cgroups)
        self.limits = [(one, limit) for one, limit in limits if limit is not None]

    def domains(self) -> tuple[Domain, ...]:
        """Return what is left of the machine and of each limited cgroup around this process."""
        # Up to "Buffers": 50 lines fewer to parse.
        machine = probe.memory.figures(read(f"{self.proc}/meminfo").partition(b"Buffers")[0])
        total = machine.get("MemTotal", 0)
        found = [Domain(MACHINE, total, machine.get("MemAvailable", total))] if total else []
        for one, limit in self.limits:
            if not total or limit < total:
                found.append(Domain(one.directory, limit, probe.memory.left_of(one.directory, one.version, limit)))
        return tuple(found)

    def pressure(self) -> float:
        """Return the percentage of the last ten seconds in which all processes waited for memory (PSI).

        All of the own cgroup, or all of the machine, whichever is more.
        """
        own = [f"{one.directory}/memory.pressure" for one in self.cgroups if one.version == 2]
        lines = [line for path in (*own[:1], f"{self.proc}/pressure/memory") for line in read(path).splitlines()]
        full = (line.split()[1] for line in lines if line.startswith(b"full avg10="))
        return max((float(one[len(b"avg10=") :]) for one in full), default=0.0)

    def by_user(self, domain: str = MACHINE) -> dict[int, int]:
        """Return the bytes of each uid's processes in `domain`, without what they share with files."""
        found: dict[int, int] = {}
        inside = next((one.named for one in self.cgroups if one.directory == domain), None)
        if not Path(self.proc).is_dir():
            return found  # not Linux: nothing is watched there
        with os.scandir(self.proc) as entries:
            for entry in entries:
                if not entry.name.isdigit():
                    continue
                try:
                    uid = entry.stat(follow_symlinks=False).st_uid
                except OSError:
                    continue
                if inside is None or is_inside(os.fsdecode(read(f"{entry.path}/cgroup")), inside):
                    found[uid] = found.get(uid, 0) + anonymous(entry.name, self.proc)
        return found

    def used(self, domain: str = MACHINE) -> int:
        """Return the bytes that all processes in `domain` have for themselves, including hidden processes."""
        named = {one.directory: "total_rss" if one.version == 1 else "anon" for one in self.cgroups}
        path = f"{self.proc}/meminfo" if domain == MACHINE else f"{domain}/memory.stat"
        figure = probe.memory.figures(read(path)).get(named.get(domain, "AnonPages"))
        if figure is not None:
            return int(figure)
        return next((one.total - one.available for one in self.domains() if one.name == domain), 0)

    def sees_everybody(self) -> bool:
        """Say whether other users' processes can be seen: not with ``hidepid``."""
        return bool(read(f"{self.proc}/1/stat"))


def is_inside(cgroup: str, named: str) -> bool:
    """Say whether a process with this ``/proc/<pid>/cgroup`` is in the cgroup that is so `named`, or below it. Pure."""
    lines = (line.partition(":")[2] for line in cgroup.splitlines())
    below = named.rstrip("/") + "/"
    return any(f":{line}" == named or f":{line}".startswith(below) for line in lines)


def anonymous(pid: int | str, proc: str = "/proc") -> int:
    """Return the bytes that only the end of this process gives back; 0 where it has ended."""
    fields = read(f"{proc}/{pid}/statm").split()
    return max(0, int(fields[1]) - int(fields[2])) * PAGE if len(fields) > 2 else 0
