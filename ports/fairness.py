"""Options of a cluster that say how it shares the machine: their names, and which values can be. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ports.errors import UsageError

NAMES = ("nice", "guard", "guard_mark", "guard_pressure", "idle", "expire", "gpus")
GUARDS = ("off", "pause", "restart")
# (least, most, what the number is)
_NUMBERS = {
    "guard_mark": (0.001, 0.9, "the part of the memory that shall stay available"),
    "guard_pressure": (0.1, 100, "percent"),
    "idle": (0, 1e6, "hours, or 0 for never"),
    "expire": (0, 1e6, "days, or 0 for never"),
}


def check(options: Mapping[str, Any]) -> None:
    """Look whether the values of `NAMES` in `options` can be.

    Raises
    ------
    UsageError
        One cannot.
    """
    nice = options["nice"]
    if isinstance(nice, bool) or not isinstance(nice, int) or not 0 <= nice <= 19:
        raise UsageError(f"nice is {nice!r}; it must be a whole number from 0 (as all others) to 19 (the least)")
    gpus = options["gpus"]
    if isinstance(gpus, bool) or not isinstance(gpus, int) or gpus < 0:
        raise UsageError(f"gpus is {gpus!r}; it must be the number of GPUs of each worker")
    if options["guard"] not in GUARDS:
        raise UsageError(f"guard is {options['guard']!r}; it must be one of {', '.join(GUARDS)}")
    check_limits({name: options[name] for name in _NUMBERS})


def check_limits(options: Mapping[str, Any]) -> None:
    """Look whether the numbers among `NAMES` can be, those that are given; raises as `check`."""
    for name, value in options.items():
        least, most, what = _NUMBERS[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise UsageError(f"{name} is {value!r}; it must be from {least:g} to {most:g}: {what}")
