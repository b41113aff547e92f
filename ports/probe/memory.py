"""What a process may use of the machine: its cores, its memory, and the pressure on both; it only looks."""

import os
import re
import sys

if __name__ != "__main__":  # piped, these names are there already
    from .identity import load_psutil, read_bytes

MYPY = False
if MYPY:
    from typing import Any, Dict, Iterator, Optional, Tuple

    Json = Dict[str, Any]

UNLIMITED = 2**60  # version 1 writes a number above this one where there is no limit
# (limit, throttled above, used, cache of files that is given back, and half of which is) of a control group
MEMORY_FILES = {
    1: ("memory.limit_in_bytes", None, "memory.usage_in_bytes", b"total_inactive_file", b"total_active_file"),
    2: ("memory.max", "memory.high", "memory.current", b"inactive_file", b"active_file"),
}  # type: Dict[int, Tuple[str, Optional[str], str, bytes, bytes]]
# control groups that end, and all in them: a batch job, a service; how they are told
ENDING = (
    (re.compile(r"slurm.*/job_(\d+)(?=/|$)"), "Slurm job %s"),
    (re.compile(r"/pbs[^/]*/jobid/([^/]+)"), "PBS job %s"),
    (re.compile(r"/lsf/[^/]+/job\.([^./]+)"), "LSF job %s"),
    (re.compile(r".*/([^/]+\.service)(?=/|$)"), "%s"),
)
# services whose control group outlives what was started there: the user's own manager, logins without a scope, cron
STAYING = re.compile(r"(user@\d+|sshd?(@.*)?|crond?|docker|containerd)\.service$")


def limits(root: str = "", pid: str = "self") -> "Json":
    """Return cores, memory (bytes) and pressure (percent of the last ten seconds), as a process may have them.

    Parameters
    ----------
    root : str
        Where ``/proc`` and the control groups are looked for; for tests.
    pid : str
        The process; by default this one.
    """
    found = memory(root)
    usable, quota = usable_cores(pid), None
    for place, version in control_groups(root, pid):
        allowed = cpu_quota(place, version)
        if allowed is not None:
            quota = allowed if quota is None else min(quota, allowed)
        bound = memory_limit(place, version)
        if bound is not None and bound[0] < found["total_bytes"]:
            found["limit_bytes"] = min(bound[0], found["limit_bytes"])
            found["limit_available_bytes"] = min(bound[1], found["limit_available_bytes"])
    found.update(n_cores=os.cpu_count() or 1, usable_cores=usable if quota is None else min(float(usable), quota))
    found["pressure"] = pressure(root)
    return found


def memory(root: str = "") -> "Json":
    """Return the machine's memory and swap in bytes; the limit is the whole of it."""
    words = {}  # type: Dict[str, int]
    for line in read_bytes(root + "/proc/meminfo").decode().splitlines():
        name, _, value = line.partition(":")
        if value.split():
            words[name] = int(value.split()[0]) * 1024
    if "MemTotal" in words:
        total, available = words["MemTotal"], words.get("MemAvailable", words.get("MemFree", 0))
        swap = words.get("SwapTotal", 0), words.get("SwapFree", 0)
    else:
        psutil = load_psutil()
        seen, swapped = psutil.virtual_memory(), psutil.swap_memory()
        total, available, swap = seen.total, seen.available, (swapped.total, swapped.free)
    found = {"total_bytes": total, "available_bytes": available, "swap_bytes": swap[0], "swap_free_bytes": swap[1]}
    found.update(limit_bytes=total, limit_available_bytes=available)
    return found


def usable_cores(pid: str = "self") -> int:
    """Return how many cores the affinity of a process leaves it; all where that is not told."""
    try:
        return len(os.sched_getaffinity(0 if pid == "self" else int(pid)))
    except (AttributeError, OSError):
        return os.cpu_count() or 1


def ends_with(root: str = "", pid: str = "self") -> "Optional[str]":
    """Return what a process ends with by its control groups, ``"Slurm job 7"``; None where none tells of such."""
    for line in read_bytes("%s/proc/%s/cgroup" % (root, pid)).decode("utf-8", "surrogateescape").splitlines():
        path = line.split(":", 2)[-1]
        for pattern, told in ENDING:
            match = pattern.search(path)
            if match and not STAYING.match(match.group(1)):
                return told % match.group(1)
    return None


def control_groups(root: str = "", pid: str = "self") -> "Iterator[Tuple[str, int]]":
    """Yield the directory and the version of every control group around a process, its own first."""
    groups = read_bytes("%s/proc/%s/cgroup" % (root, pid)).decode("utf-8", "surrogateescape").splitlines()
    for line in read_bytes(root + "/proc/self/mountinfo").decode("utf-8", "surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.partition(" ")
        if kind not in ("cgroup", "cgroup2"):
            continue
        inside, top = before.split(" ")[3:5]
        for group in groups:
            _, _, rest = group.partition(":")
            controllers, _, path = rest.partition(":")
            shown = set(options.split(" ")[-1].split(","))
            if (kind == "cgroup2") != (controllers == "") or not path:
                continue
            if controllers and not set(controllers.split(",")) & {"memory", "cpu"} & shown:
                continue
            for place in with_ancestors(root + top, below(path, inside)):
                yield place, 2 if kind == "cgroup2" else 1


def below(group: str, inside: str) -> str:
    """Return the path of a group below its mount, which may show one part of the tree only."""
    if inside != "/" and (group + "/").startswith(inside + "/"):
        return group[len(inside) :]
    return group


def with_ancestors(top: str, group: str) -> "Iterator[str]":
    """Yield the directories from a group up to the mount; what lies outside of it cannot be seen."""
    parts = [part for part in group.split("/") if part] if ".." not in group else []
    for length in range(len(parts), -1, -1):
        yield "/".join([top.rstrip("/"), *parts[:length]])


def cpu_quota(place: str, version: int) -> "Optional[float]":
    """Return how many cores a control group may keep busy; None where it has no limit."""
    if version == 2:
        words = read_bytes(place + "/cpu.max").split()
    else:
        words = read_bytes(place + "/cpu.cfs_quota_us").split() + read_bytes(place + "/cpu.cfs_period_us").split()
    try:
        quota, period = int(words[0]), int(words[1])
    except (ValueError, IndexError):  # "max", or no such controller
        return None
    return quota / period if quota > 0 and period > 0 else None


def memory_limit(place: str, version: int) -> "Optional[Tuple[int, int]]":
    """Return the bytes that a control group may have, and those that it can still take; None without a limit."""
    limit_name, high_name, used_name, inactive, active = MEMORY_FILES[version]
    bounds = [number_in(place, name) for name in (limit_name, high_name) if name]
    known = [bound for bound in bounds if bound is not None and bound < UNLIMITED]
    used = number_in(place, used_name)
    if not known or used is None:
        return None
    back = 0
    for line in read_bytes(place + "/memory.stat").splitlines():
        words = line.split()
        if len(words) == 2 and words[0] in (inactive, active) and words[1].isdigit():
            back += int(words[1]) // (1 if words[0] == inactive else 2)
    return min(known), max(0, min(known) - used + back)


def number_in(place: str, name: str) -> "Optional[int]":
    """Return the number that a file holds; None where there is none."""
    text = read_bytes(place + "/" + name).strip()
    return int(text) if text.isdigit() else None


def pressure(root: str = "") -> "Optional[Json]":
    """Return the percentage of the last ten seconds in which some, or all, waited; None without PSI."""
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
    """Tell whether this user sees own processes only (``hidepid``)."""
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
        mine = os.stat("/proc/1").st_uid == os.getuid()  # then it tells nothing of others'
    except OSError:
        return True
    return mine or not read_bytes("/proc/1/stat", once=True)
