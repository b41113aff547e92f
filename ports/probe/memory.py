"""What a process may use of the machine: its cores, its memory, and the pressure on both. It only looks."""

import os
import re
import sys

if __name__ != "__main__":  # piped, these names are there already
    from .identity import load_psutil, read_bytes
    from .vitals import figures as figures

MYPY = False
if MYPY:
    from typing import Any, Dict, Iterator, Optional, Tuple

    Json = Dict[str, Any]

UNLIMITED = 2**60  # version 1 writes a number above this one where there is no limit
# Of a control group: limit (in version 2 also the one above which it is slowed down), what is used, cache of files
# (inactive and active), and the part of that cache that is not on the disk yet.
MEMORY_FILES = {
    1: (
        ("memory.limit_in_bytes",),
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
        ("total_dirty", "total_writeback"),
    ),
    2: (
        ("memory.max", "memory.high"),
        "memory.current",
        ("inactive_file", "active_file"),
        ("file_dirty", "file_writeback"),
    ),
}  # type: Dict[int, Tuple[Tuple[str, ...], str, Tuple[str, str], Tuple[str, str]]]
# Control groups that end together with all that is in them, a batch job or a service, and how they are shown.
ENDING = (
    (re.compile(r"slurm.*/job_(\d+)(?=/|$)"), "Slurm job %s"),
    (re.compile(r"/pbs[^/]*/jobid/([^/]+)"), "PBS job %s"),
    (re.compile(r"/lsf/[^/]+/job\.([^./]+)"), "LSF job %s"),
    (re.compile(r".*/([^/]+\.service)(?=/|$)"), "%s"),
)
# Services whose control group outlives what was started in it: the user's manager, logins without a scope, cron.
STAYING = re.compile(r"(user@\d+|sshd?(@.*)?|crond?|docker|containerd)\.service$")


def limits(root: str = "", pid: str = "self") -> "Json":
    """Return the cores, memory (bytes) and pressure (percent of the last ten seconds) that apply to a process.

    Parameters
    ----------
    root : str
        The directory that holds ``/proc`` and the control groups; for tests.
    pid : str
        The process; by default this one.
    """
    found = memory(root)
    usable, quota = usable_cores(pid), None
    for group in control_groups(root, pid):
        allowed = cpu_quota(group.directory, group.version)
        if allowed is not None:
            quota = allowed if quota is None else min(quota, allowed)
        bound = bound_of(group.directory, group.version)
        if bound is not None and bound < found["total_bytes"]:
            left = left_of(group.directory, group.version, bound)
            found["limit_bytes"] = min(bound, found["limit_bytes"])
            found["limit_available_bytes"] = min(left, found["limit_available_bytes"])
    found.update(n_cores=os.cpu_count() or 1, usable_cores=usable if quota is None else min(float(usable), quota))
    found["pressure"] = pressure(root)
    return found


def memory(root: str = "") -> "Json":
    """Return the machine's memory and swap in bytes; as the limit, the whole of it."""
    told = figures(read_bytes(root + "/proc/meminfo"))
    if "MemTotal" in told:
        total, available = told["MemTotal"], told.get("MemAvailable", told.get("MemFree", 0))
        swap = told.get("SwapTotal", 0), told.get("SwapFree", 0)
    else:
        psutil = load_psutil()
        seen, swapped = psutil.virtual_memory(), psutil.swap_memory()
        total, available, swap = seen.total, seen.available, (swapped.total, swapped.free)
    found = {"total_bytes": total, "available_bytes": available, "swap_bytes": swap[0], "swap_free_bytes": swap[1]}
    found.update(limit_bytes=total, limit_available_bytes=available)
    return found


def usable_cores(pid: str = "self") -> int:
    """Return how many cores the affinity of a process allows; all where the system does not tell."""
    try:
        return len(os.sched_getaffinity(0 if pid == "self" else int(pid)))
    except (AttributeError, OSError):
        return os.cpu_count() or 1


def ends_with(root: str = "", pid: str = "self") -> "Optional[str]":
    """Return the job or service whose end will end a process, ``"Slurm job 7"``; None where there is none.

    Its control groups tell.
    """
    for line in read_bytes("%s/proc/%s/cgroup" % (root, pid)).decode("utf-8", "surrogateescape").splitlines():
        path = line.split(":", 2)[-1]
        for pattern, told in ENDING:
            match = pattern.search(path)
            if match and not STAYING.match(match.group(1)):
                return told % match.group(1)
    return None


class Group:
    """One control group: its directory, `version` 1 or 2, and how ``/proc/PID/cgroup`` names it: ``:memory:/job``."""

    __slots__ = ("directory", "named", "version")

    def __init__(self, directory: str, version: int, named: str) -> None:
        self.directory, self.version, self.named = directory, version, named

    @property
    def limits_memory(self) -> bool:
        """Whether the memory controller belongs to it, as far as its name tells."""
        return self.version == 2 or "memory" in self.named.split(":")[1].split(",")


def control_groups(root: str = "", pid: str = "self") -> "Iterator[Group]":
    """Yield every control group around a process that limits memory or cores, its own first."""
    groups = read_bytes("%s/proc/%s/cgroup" % (root, pid)).decode("utf-8", "surrogateescape").splitlines()
    for line in read_bytes(root + "/proc/self/mountinfo").decode("utf-8", "surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.partition(" ")
        if kind not in ("cgroup", "cgroup2"):
            continue
        inside, top = before.split(" ")[3:5]
        shown = set(options.split(" ")[-1].split(","))
        for group in groups:
            _, _, rest = group.partition(":")
            controllers, _, path = rest.partition(":")
            if (kind == "cgroup2") != (controllers == "") or not path:
                continue
            if controllers and not set(controllers.split(",")) & {"memory", "cpu"} & shown:
                continue
            version = 2 if kind == "cgroup2" else 1
            for directory, name in with_ancestors(root + top, path, inside):
                yield Group(directory, version, ":%s:%s" % (controllers, name))


def with_ancestors(top: str, path: str, inside: str) -> "Iterator[Tuple[str, str]]":
    """Yield directory and path of a group and of those around it, up to the mount at `top`.

    A mount can show one part of the tree only: what is `inside` of a group. A path outside of that part yields nothing.
    """
    above = [part for part in inside.split("/") if part] if ".." not in inside else []
    parts = [part for part in path.split("/") if part] if ".." not in path else []
    if not parts:  # relative to the namespace of a container, whose top is the mount's
        above = []
    elif parts[: len(above)] != above:
        return
    for length in range(len(parts), len(above) - 1, -1):
        yield "/".join([top.rstrip("/"), *parts[len(above) : length]]), "/" + "/".join(parts[:length])


def cpu_quota(directory: str, version: int) -> "Optional[float]":
    """Return how many cores a control group may keep busy; None where it has no limit."""
    if version == 2:
        words = read_bytes(directory + "/cpu.max").split()
    else:
        words = (
            read_bytes(directory + "/cpu.cfs_quota_us").split() + read_bytes(directory + "/cpu.cfs_period_us").split()
        )
    try:
        quota, period = int(words[0]), int(words[1])
    except (ValueError, IndexError):  # "max", or no such controller
        return None
    return quota / period if quota > 0 and period > 0 else None


def bound_of(directory: str, version: int) -> "Optional[int]":
    """Return the bytes that a control group may use; None where it has no limit."""
    texts = [read_bytes(directory + "/" + name).strip() for name in MEMORY_FILES[version][0]]
    known = [int(text) for text in texts if text.isdigit() and int(text) < UNLIMITED]
    return min(known) if known else None


def left_of(directory: str, version: int, bound: int) -> int:
    """Return the bytes that a control group with the limit `bound` can still use.

    The kernel gives cache of files back: the inactive part of it, and half of the active part is counted. What is dirty
    or being written is not counted: it has to reach the disk first, and a process that needs memory waits for that, or
    is killed.
    """
    _, used, cache, unwritten = MEMORY_FILES[version]
    text = read_bytes(directory + "/" + used).strip()
    if not text.isdigit():
        return bound
    told = figures(read_bytes(directory + "/memory.stat"))
    inactive, active = (told.get(name, 0) for name in cache)
    back = inactive + active // 2 - sum(told.get(name, 0) for name in unwritten)
    return max(0, bound - int(text) + max(0, back))


def pressure(root: str = "") -> "Optional[Json]":
    """Return the percentage of the last ten seconds in which some, or all, processes waited; None without PSI."""
    found = {}  # type: Json
    for what in ("cpu", "memory", "io"):
        for line in read_bytes("%s/proc/pressure/%s" % (root, what)).decode().splitlines():
            kind, _, rest = line.partition(" ")
            fields = dict(word.split("=", 1) for word in rest.split() if "=" in word)
            try:
                found["%s_%s" % (what, kind)] = float(fields["avg10"])
            except (KeyError, ValueError):
                pass
    return found or None


def is_proc_hidden() -> bool:
    """Tell whether this user sees only own processes (``hidepid``)."""
    if sys.platform != "linux" or os.getuid() == 0:
        return False
    options = ""
    for line in read_bytes("/proc/self/mountinfo").decode("utf-8", "surrogateescape").splitlines():
        words = line.split(" ")
        if len(words) > 5 and words[4] == "/proc":
            options = words[5] + "," + words[-1]
    hidden = {"hidepid=1", "hidepid=2", "hidepid=4", "hidepid=noaccess", "hidepid=invisible", "hidepid=ptraceable"}
    if not hidden & set(options.split(",")):
        return False
    try:
        mine = os.stat("/proc/1").st_uid == os.getuid()  # then it shows nothing about others
    except OSError:
        return True
    return mine or not read_bytes("/proc/1/stat", once=True)
