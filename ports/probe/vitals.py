"""The two numbers of a machine that cost next to nothing: what of its memory is in use, and how long it computed."""

import os
import sys

if __name__ != "__main__":  # piped, these names are there already
    from .identity import load_psutil, read_bytes

MYPY = False
if MYPY:
    from typing import Dict, Optional, Tuple


def figures(data: bytes) -> "Dict[str, int]":
    """Return lines of the kernel, ``name value`` or ``name: 12 kB``, as a mapping; kB become bytes."""
    found = {}
    for line in data.decode("ascii", "replace").splitlines():
        words = line.split()
        if len(words) > 1 and words[1].isdigit():
            found[words[0].rstrip(":")] = int(words[1]) * (1024 if words[-1] == "kB" else 1)
    return found


def busy_ticks() -> "Optional[int]":
    """Return for how many ticks the cores have been busy; None if the system does not tell."""
    words = read_bytes("/proc/stat", once=True).split(b"\n", 1)[0].split()
    numbers = [int(word) for word in words[1:9]]
    return sum(numbers) - sum(numbers[3:5]) if len(numbers) > 4 else None  # without idle and waiting for disks


def used_and_busy() -> "Tuple[Optional[int], Optional[float]]":
    """Return the bytes of memory in use, and for how many seconds cores were busy; None if unknown."""
    told = figures(read_bytes("/proc/meminfo", once=True).partition(b"\nBuffers")[0])
    if "MemTotal" in told:
        used = told["MemTotal"] - told.get("MemAvailable", told.get("MemFree", 0))  # type: Optional[int]
    else:
        used = used_by_psutil()
    ticks = busy_ticks() if sys.platform == "linux" else None
    return used, None if ticks is None else ticks / float(os.sysconf("SC_CLK_TCK"))


def used_by_psutil() -> "Optional[int]":
    """Return the bytes in use where there is no /proc; None without psutil."""
    try:
        seen = load_psutil().virtual_memory()
    except ImportError:
        return None
    return int(seen.total - seen.available)
