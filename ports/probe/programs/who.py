"""How much of this machine each user has: one look at the process table, which needs nobody's agreement."""

import os
import re
import sys
import time

if __name__ != "__main__":  # piped, these names are there already
    from ..gpus import GpuReader
    from ..identity import FORMAT, load_psutil, node, own_uid, read_bytes, stat_fields, user_name
    from ..memory import is_proc_hidden, limits
    from ..processes import descendants
    from ..promises import promises
    from ..queue.kept import kept_by_jobs
    from ..vitals import busy_ticks

MYPY = False
if MYPY:
    from typing import Any, Callable, Dict, List, Optional, Set

    Json = Dict[str, Any]

INTERVAL = 0.1  # least number of seconds between the two looks that tell which processes compute: a tick is 0.01 s
SMALL = 1 << 22  # bytes: for less, what is shared and which program it is does not matter
PROGRAMS = (b"python", b"pypy", b"dask", b"ports")  # the names of processes that can be Dask's begin like this
DASK = re.compile(
    rb"ports_owner|\bdask[- ](cuda[- ])?(scheduler|worker|spec)\b|distributed[./]cli[./]dask_(scheduler|worker|spec)"
)
CHILD = re.compile(rb"multiprocessing[./ ](spawn|forkserver)")
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
BEGUN = []  # type: List[Any]


class Process:
    """One process at one moment: its user, its memory, and how long it has computed."""

    __slots__ = ("at", "cores", "dask", "memory", "name", "parent", "started", "ticks", "uid")

    def __init__(self, uid: int, parent: int, name: bytes, ticks: int, started: int) -> None:
        self.uid, self.parent, self.name, self.ticks, self.started = uid, parent, name, ticks, started
        self.memory, self.dask, self.cores, self.at = 0, False, 0.0, 0.0


def begin() -> None:
    """Look for the first time; `who` looks again: other work can be done in between."""
    BEGUN[:] = [(time.monotonic(), busy_ticks(), processes())]


def who(request: "Optional[Json]" = None) -> "Json":
    """Return what this machine has, how much of it each user has, and what clusters of `ports` are promised.

    Memory is what processes have for themselves (anonymous pages). Mapped files are left out, because the kernel takes
    those back when memory is short.

    Parameters
    ----------
    request : dict
        ``interval``: the least number of seconds between the two looks that tell which processes compute (0.1).
        ``gpus``: also look at the GPUs, see `GpuReader`. ``jobs``: also how much of the disk jobs have.
    """
    if not BEGUN:
        begin()
    began, busy, found = BEGUN.pop()
    rest = began + float((request or {}).get("interval") or INTERVAL) - time.monotonic()
    if rest > 0:
        time.sleep(rest)
    passed = measure(found, began)
    later = busy_ticks()
    busy_cores = None
    if busy is not None and later is not None:
        busy_cores = (later - busy) / os.sysconf("SC_CLK_TCK") / passed
    recognise(found)
    document = described(found, passed, busy_cores, promises())
    if (request or {}).get("gpus"):
        document["gpus"] = GpuReader().read()
    if (request or {}).get("jobs"):
        document["jobs"] = kept_by_jobs()
    return document


def described(
    found: "Dict[int, Process]",
    passed: float,
    busy_cores: "Optional[float]",
    live: "List[Json]",
    name_of: "Callable[[int], str]" = user_name,
) -> "Json":
    """Return the document about processes that are recognised and whose cores are known.

    Parameters
    ----------
    live : list of dict
        The promises.
    name_of : callable, optional
        Returns the name of a uid.
    """
    document = {"format": FORMAT, "host": node(), "uid": own_uid(), "time": time.time()}  # type: Json
    document.update(limits(), hidden=is_proc_hidden(), seconds=passed, busy_cores=busy_cores)
    document["load"] = os.getloadavg()
    for one in live:
        one["held_bytes"] = memory_below(found, one["pid"])
        if one["pid"] in found and found[one["pid"]].uid != one["uid"]:
            one["held_bytes"] = 0
    document["promises"] = live
    document["users"] = by_user(found, {one["uid"] for one in live} | {own_uid()}, name_of)
    return document


def processes() -> "Dict[int, Process]":
    """Return all processes that can be seen, without the kernel's own threads."""
    if sys.platform != "linux":
        return processes_by_psutil()
    found = {}
    for pid in pids():
        one = process(pid)
        if one is not None:
            found[pid] = one
    return found


def pids() -> "List[int]":
    """Return the pids of all processes that can be seen, on Linux."""
    return [int(name) for name in os.listdir("/proc") if "0" <= name[0] <= "9"]


def process(pid: int) -> "Optional[Process]":
    """Return one process on Linux; None if it is gone, or one of the kernel's own threads."""
    program, fields = stat_fields(pid)
    if len(fields) < 22 or fields[20] == b"0":  # gone, or without an address space
        return None
    path = "/proc/%d" % pid
    try:
        uid = os.stat(path).st_uid
    except OSError:
        return None
    ticks = int(fields[11]) + int(fields[12])
    one = Process(uid, int(fields[1]), program, ticks, int(fields[19]))
    one.memory = int(fields[21]) * PAGE
    if one.memory > SMALL:
        pages = read_bytes(path + "/statm", once=True).split(None, 3)
        if len(pages) > 2:
            one.memory = (int(pages[1]) - int(pages[2])) * PAGE
    return one


def processes_by_psutil() -> "Dict[int, Process]":
    """Return all processes where there is no /proc; it may know only the user of those of others."""
    found = {}
    wanted = ["ppid", "name", "uids", "memory_info", "cpu_times", "create_time", "cmdline"]
    for process in load_psutil().process_iter(wanted):
        info = process.info
        times, started = info["cpu_times"], int((info["create_time"] or 0) * 100)
        ticks = int((times.user + times.system) * 100) if times else 0
        one = Process(
            info["uids"].effective if info["uids"] else -1,
            info["ppid"] or 0,
            (info["name"] or "").encode("utf-8", "replace"),
            ticks,
            started,
        )
        one.memory = info["memory_info"].rss if info["memory_info"] else 0
        one.dask = bool(DASK.search(" ".join(info["cmdline"] or ()).encode("utf-8", "replace")))
        found[process.pid] = one
    return found


def measure(found: "Dict[int, Process]", began: float) -> float:
    """Look again, and note how many cores each process has kept busy since `began`; return the seconds since then."""
    passed = max(0.001, time.monotonic() - began)
    second = float(os.sysconf("SC_CLK_TCK")) if sys.platform == "linux" else 100.0
    later = processes_by_psutil() if sys.platform != "linux" else {}
    for pid, one in found.items():
        if later:
            ticks = later[pid].ticks if pid in later else one.ticks
        elif one.ticks:  # a process that never computed for a hundredth of a second is not looked at again
            _, fields = stat_fields(pid)
            same = len(fields) > 20 and int(fields[19]) == one.started
            ticks = int(fields[11]) + int(fields[12]) if same else one.ticks
        else:
            continue
        one.cores = (ticks - one.ticks) / second / passed
    return passed


def recognise(found: "Dict[int, Process]") -> None:
    """Mark Dask's processes: those that say so, and those of Python's multiprocessing, which starts its workers."""
    if sys.platform != "linux":
        return
    for pid, one in found.items():
        one.dask = is_dask(pid, one)


def is_dask(pid: int, one: Process) -> bool:
    """Tell whether a process is Dask's, on Linux."""
    if one.memory <= SMALL or not one.name.startswith(PROGRAMS):
        return False
    line = read_bytes("/proc/%d/cmdline" % pid, once=True).replace(b"\0", b" ")
    return bool(DASK.search(line) or CHILD.search(line))


def memory_below(found: "Dict[int, Process]", pid: int) -> "Optional[int]":
    """Return the bytes of a process and of all below it; None where it is not seen."""
    if pid not in found:
        return None
    below = {}  # type: Dict[int, List[int]]
    for child, one in found.items():
        below.setdefault(one.parent, []).append(child)
    return sum(found[one].memory for one in [pid, *descendants(pid, below)])


def by_user(
    found: "Dict[int, Process]", named: "Set[int]", name_of: "Callable[[int], str]" = user_name
) -> "List[Json]":
    """Return what each user has and computes, and Dask's part of it; users that are `named` in any case."""
    sums = {}  # type: Dict[int, List[Any]]
    for uid in named:
        sums[uid] = [0, 0.0, 0, 0.0, 0]
    for one in found.values():
        values = sums.setdefault(one.uid, [0, 0.0, 0, 0.0, 0])
        values[0] += one.memory
        values[1] += one.cores
        values[4] += 1
        if one.dask:
            values[2] += one.memory
            values[3] += one.cores
    keys = ("memory_bytes", "cores", "dask_bytes", "dask_cores", "n_processes")
    return [dict(zip(keys, values), uid=uid, user=name_of(uid)) for uid, values in sorted(sums.items())]
