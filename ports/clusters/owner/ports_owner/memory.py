"""The memory that is left: of the machine and of every cgroup above this process (v1 and v2), and who uses it.

Standard library only: it runs in the interpreter of a cluster's owner, which need not have `ports`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

PAGE = os.sysconf("SC_PAGE_SIZE")
UNLIMITED = 2**60  # cgroups v1 write a number near 2**63 where there is no limit
MACHINE = "the machine"
# Names of the same figures in both versions: (limits, usage, page cache that can be given back, what cannot yet)
_V1 = (
    ("memory.limit_in_bytes",),
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
    ("total_dirty", "total_writeback"),
)
_V2 = (
    ("memory.max", "memory.high"),
    "memory.current",
    ("inactive_file", "active_file"),
    ("file_dirty", "file_writeback"),
)


class Domain(NamedTuple):
    """Memory that is limited as a whole: the machine's, or a cgroup's; in bytes."""

    name: str
    total: int
    available: int


class Cgroup(NamedTuple):
    """One memory cgroup: `version` 1 or 2, its directory, and how ``/proc/<pid>/cgroup`` names it."""

    version: int
    directory: str
    named: str


def read(path: str) -> str:
    """Return the text of a file of the kernel, which gives about a page at a time; empty where it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return b"".join(iter(lambda: os.read(descriptor, 65536), b"")).decode("ascii", "replace")
    except OSError:
        return ""
    finally:
        os.close(descriptor)


def numbers(text: str) -> dict[str, int]:
    """Return ``name value`` lines as a mapping; ``name: 12 kB`` counts in bytes."""
    found = {}
    for line in text.splitlines():
        parts = line.split()
        if len(parts) > 1 and parts[1].isdigit():
            found[parts[0].rstrip(":")] = int(parts[1]) * (1024 if parts[-1] == "kB" else 1)
    return found


def memory_cgroups(cgroup: str, mountinfo: str) -> list[Cgroup]:
    """Return the memory cgroup that a process is in, and every ancestor, the nearest first. Pure.

    Parameters
    ----------
    cgroup, mountinfo : str
        Texts of ``/proc/self/cgroup`` and ``/proc/self/mountinfo``.
    """
    mounts = []
    for line in mountinfo.splitlines():
        own, _, rest = line.partition(" - ")
        fields, kind = own.split(), rest.split()
        if len(kind) < 3 or len(fields) < 5:
            continue
        if kind[0] == "cgroup2" or (kind[0] == "cgroup" and "memory" in kind[2].split(",")):
            mounts.append((2 if kind[0] == "cgroup2" else 1, fields[3], fields[4]))
    found = []
    for line in cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        version = 1 if "memory" in controllers.split(",") else 2 if controllers == "" else 0
        parts = [part for part in path.split("/") if part]
        for mounted, root, point in mounts:
            above = [part for part in root.split("/") if part]  # what a container does not see
            if mounted == version and parts[: len(above)] == above:
                for n in range(len(parts), len(above) - 1, -1):
                    below = parts[len(above) : n]
                    found.append(Cgroup(version, "/".join([point, *below]), f":{controllers}:/" + "/".join(parts[:n])))
    return found


def limit_of(version: int, directory: str) -> int | None:
    """Return the limit of a cgroup in bytes; None where it has none."""
    texts = [read(f"{directory}/{name}").strip() for name in (_V1 if version == 1 else _V2)[0]]
    limits = [int(text) for text in texts if text.isdigit() and int(text) < UNLIMITED]
    return min(limits, default=None)


def left_of(version: int, directory: str, limit: int) -> int:
    """Return the bytes that a cgroup may still take: page cache that is on the disk already counts as free."""
    _, usage, cache, bound = _V1 if version == 1 else _V2
    used = read(f"{directory}/{usage}").strip()
    if not used.isdigit():
        return limit
    figures = numbers(read(f"{directory}/memory.stat"))
    inactive, active = (figures.get(name, 0) for name in cache)
    given_back = max(0, inactive + active // 2 - sum(figures.get(name, 0) for name in bound))
    return max(0, limit - int(used) + given_back)


class Meter:
    """Reads what is left; about 0.1 ms with one cgroup that has a limit."""

    def __init__(self, proc: str = "/proc") -> None:
        self.proc = proc
        self.cgroups = memory_cgroups(read(f"{proc}/self/cgroup"), read(f"{proc}/self/mountinfo"))
        self.limits: list[tuple[Cgroup, int]] = []
        self.refresh()

    def refresh(self) -> None:
        """Look for the limits of cgroups anew: they may be set while a cluster runs."""
        limits = ((one, limit_of(one.version, one.directory)) for one in self.cgroups)
        self.limits = [(one, limit) for one, limit in limits if limit is not None]

    def domains(self) -> tuple[Domain, ...]:
        """Return what is left of the machine and of each limited cgroup above this process."""
        machine = numbers(read(f"{self.proc}/meminfo").partition("Buffers")[0])  # 50 lines less to take apart
        total = machine.get("MemTotal", 0)
        found = [Domain(MACHINE, total, machine.get("MemAvailable", total))] if total else []
        for one, limit in self.limits:
            if not total or limit < total:
                found.append(Domain(one.directory, limit, left_of(one.version, one.directory, limit)))
        return tuple(found)

    def pressure(self) -> float:
        """Return the part of the last ten seconds, in percent, in which all waited for memory (PSI).

        All of the own cgroup, or all of the machine, whichever is more.
        """
        own = [f"{one.directory}/memory.pressure" for one in self.cgroups if one.version == 2]
        lines = [line for path in (*own[:1], f"{self.proc}/pressure/memory") for line in read(path).splitlines()]
        full = (line.split()[1] for line in lines if line.startswith("full avg10="))
        return max((float(one[len("avg10=") :]) for one in full), default=0.0)

    def by_user(self, domain: str = MACHINE) -> dict[int, int]:
        """Return the bytes of each uid's processes in `domain`, what they share with files left out."""
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
                if inside is None or is_inside(read(f"{entry.path}/cgroup"), inside):
                    found[uid] = found.get(uid, 0) + anonymous(entry.name, self.proc)
        return found

    def held(self, domain: str = MACHINE) -> int:
        """Return the bytes that all processes in `domain` hold for themselves, those that are hidden here too."""
        named = {one.directory: "total_rss" if one.version == 1 else "anon" for one in self.cgroups}
        path = f"{self.proc}/meminfo" if domain == MACHINE else f"{domain}/memory.stat"
        figure = numbers(read(path)).get(named.get(domain, "AnonPages"))
        if figure is not None:
            return figure
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
    """Return the bytes that only this process's end gives back; 0 where it has ended."""
    fields = read(f"{proc}/{pid}/statm").split()
    return max(0, int(fields[1]) - int(fields[2])) * PAGE if len(fields) > 2 else 0
