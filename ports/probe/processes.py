"""Which processes run below another one."""

import os
import sys

if __name__ != "__main__":  # piped, these names are there already
    from .identity import read_bytes, stat_fields

MYPY = False
if MYPY:
    from typing import Dict, List, Optional

TELLS_CHILDREN = os.path.exists("/proc/thread-self/children")  # some kernels lack CONFIG_PROC_CHILDREN


def by_parent() -> "Optional[Dict[int, List[int]]]":
    """Return the children of all processes; None where each process tells its own, which is quicker."""
    if TELLS_CHILDREN or sys.platform != "linux":
        return None
    found = {}  # type: Dict[int, List[int]]
    for name in os.listdir("/proc"):
        fields = stat_fields(name)[1] if name.isdigit() else []
        if len(fields) > 1:
            found.setdefault(int(fields[1]), []).append(int(name))
    return found


def children(pid: int, seen: "Optional[Dict[int, List[int]]]" = None) -> "List[int]":
    """Return the pids of a process's children, also of those that it adopted.

    Parameters
    ----------
    seen : dict, optional
        The children of all processes at one moment, as `by_parent` returns them: one look serves a walk.
    """
    seen = by_parent() if seen is None else seen
    if seen is not None:
        return seen.get(pid, [])
    found = []  # type: List[int]
    try:
        tasks = os.listdir("/proc/%d/task" % pid)
    except OSError:  # gone
        return found
    for task in tasks:
        found += [int(word) for word in read_bytes("/proc/%d/task/%s/children" % (pid, task)).split()]
    return found


def own_memory(pid: int) -> int:
    """Return the bytes that a process has for itself; 0 if it is gone."""
    fields = read_bytes("/proc/%d/statm" % pid).split()
    return max(0, int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 2 else 0


def descendants(pid: int, seen: "Optional[Dict[int, List[int]]]" = None) -> "List[int]":
    """Return the pids of all processes below one; `seen` as in `children`."""
    seen = by_parent() if seen is None else seen
    found, waiting = [], [pid]
    known = {pid}  # a pid that was reused meanwhile can close a circle
    while waiting:
        for child in children(waiting.pop(), seen):
            if child not in known:
                known.add(child)
                found.append(child)
                waiting.append(child)
    return found
