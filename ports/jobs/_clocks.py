"""Clocks: the one on the wall, which somebody can set, and those that only go on while this boot of the machine lasts.

A stamp says of a moment what the latter showed. A resource that restarts reads from it how long ago that was, whatever
happened to the clock on the wall.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from ports import probe
from ports.probe import left


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clocks:
    """The clocks of a queue, in seconds.

    `now` is the time on the wall, since 1970. `monotonic` stands still while the machine is suspended, as jobs do;
    `real` goes on. Both are set by nobody, and belong to the boot `boot`.
    """

    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    real: Callable[[], float] = left.since_boot
    boot: str = dataclasses.field(default_factory=probe.boot_id)

    def stamp(self) -> str:
        """Return a stamp of this moment."""
        return left.clock_stamp(self.monotonic(), self.real(), self.boot)

    def monotonic_at(self, stamp: object, wall: float) -> float:
        """Return when a moment was, by `monotonic`: by its stamp, or by its time on the wall if it has none of now."""
        return self._at(stamp, wall, 0, self.monotonic())

    def real_at(self, stamp: object, wall: float) -> float:
        """Return when a moment was, by `real`: by its stamp, or by its time on the wall if it has none of now."""
        return self._at(stamp, wall, 1, self.real())

    def _at(self, stamp: object, wall: float, place: int, today: float) -> float:
        parts = stamp.split(" ", 2) if isinstance(stamp, str) else []
        if len(parts) == 3 and self.boot and parts[2] == self.boot:
            try:
                return min(float(parts[place]), today)
            except ValueError:
                pass
        return today - max(0.0, self.now() - wall)
