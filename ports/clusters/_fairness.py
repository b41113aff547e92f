"""Options of a cluster that say how it shares the machine: their names, and which values can be. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ports.errors import UsageError
from ports.state import settings

NAMES = ("nice", "guard", "guard_mark", "guard_pressure", "idle", "expire", "gpus")
GUARDS = ("off", "pause", "restart")


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
    settings.check_limits({name: options[name] for name in ("guard_mark", "guard_pressure", "idle", "expire")})
