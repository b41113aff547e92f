"""Sizes and lengths of time in words."""

MYPY = False
if MYPY:
    from typing import Optional


def duration(seconds: float) -> str:
    """Return a length of time as people say it: ``42 s``, ``7 min``, ``3 h 20 min``, ``5 d``."""
    whole = max(0, int(seconds))
    if whole < 60:
        return "%d s" % whole
    if whole < 3600:
        return "%d min" % (whole // 60)
    if whole < 86400:
        hours, minutes = whole // 3600, whole % 3600 // 60
        return "%d h %d min" % (hours, minutes) if minutes else "%d h" % hours
    return "%d d" % (whole // 86400)


def size(n_bytes: "Optional[float]") -> str:
    """Return bytes in binary units: ``1.5 GiB``; empty for None."""
    if n_bytes is None:
        return ""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(n_bytes) < 1024:
            return "%.*f %s" % (0 if unit in ("B", "KiB") else 1, n_bytes, unit)
        n_bytes /= 1024
    return "%.1f TiB" % n_bytes


def memory_used(n_bytes: "Optional[float]", limit: "Optional[float]") -> str:
    """Return ``1.5 GiB of 4.0 GiB``, or without a limit ``1.5 GiB``."""
    return "%s of %s" % (size(n_bytes), size(limit)) if limit else size(n_bytes)
