"""Sizes and lengths of time in words."""

import re

MYPY = False
if MYPY:
    from typing import Optional


LETTERS = ("", "k", "M", "G", "T", "P")
TYPED = re.compile(r"\s*((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)(\s*)([kmgtp]?)(i?)(b?)\s*$", re.IGNORECASE)


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


def as_typed(typed: str, n_bytes: "Optional[float]") -> str:
    """Return bytes as a user writes sizes: 2e9 bytes are ``2GB`` beside ``1GB``. Without a typed size, as `size`."""
    found = TYPED.match(typed)
    if found is None or n_bytes is None:
        return size(n_bytes)
    number, blank, letter, binary, byte = found.groups()
    step = 1024 if binary else 1000
    if round(float(number) * step ** " kmgtp".index(letter.lower() or " ")) == n_bytes:
        return typed.strip()
    power = 0
    while abs(n_bytes) >= step - 0.05 and power < len(LETTERS) - 1:
        n_bytes /= step
        power += 1
    letters = ("K" if binary and power == 1 else LETTERS[power]) + (binary if power else "")
    return re.sub(r"\.0$", "", "%.1f" % n_bytes) + blank + letters + ("B" if byte or not power else "")


def memory_used(n_bytes: "Optional[float]", limit: "Optional[float]", typed: str = "") -> str:
    """Return ``1.5 GiB of 4.0 GiB``, or without a limit ``1.5 GiB``; in the unit of a `typed` size if there is one."""
    used = as_typed(typed, n_bytes)
    return "%s of %s" % (used, as_typed(typed, limit)) if limit else used
