"""A history of bounded length: one point every 15 s for a day, in 8 bytes for each number."""

import array
import time

if __name__ != "__main__":  # piped, these names are there already
    from .vitals import used_and_busy

MYPY = False
if MYPY:
    from typing import Any, List, Optional

POINT_SECONDS = 15.0
MOST_POINTS = 5760  # a day
UNKNOWN = float("nan")


class Ring:
    """Points in the order of their times, each a time and `width` numbers; the oldest go when there are `most`.

    A clock that is set back removes the points that are later than the new one.
    """

    def __init__(self, width: int, most: int = MOST_POINTS) -> None:
        self.step, self.most = width + 1, most
        self.numbers = array.array("d")

    def __len__(self) -> int:
        return len(self.numbers) // self.step

    def add(self, at: float, *values: "Optional[float]") -> None:
        """Add a point; None stands for a number that is not known."""
        at = round(at, 1)
        while len(self.numbers) and self.numbers[-self.step] >= at:
            del self.numbers[-self.step :]
        self.numbers.extend([at] + [UNKNOWN if value is None else float(value) for value in values])
        if len(self) > self.most:
            del self.numbers[: self.step]

    def after(self, since: "Any" = 0) -> "List[List[Any]]":
        """Return the points that are later than `since`, the oldest first."""
        since = float(since) if isinstance(since, (int, float)) else 0.0
        first = len(self.numbers)
        while first and self.numbers[first - self.step] > since:
            first -= self.step
        plain = [plain_number(value) for value in self.numbers[first:]]
        return [plain[at : at + self.step] for at in range(0, len(plain), self.step)]


def plain_number(value: float) -> "Any":
    """Return a number as short as JSON can have it; None for one that is not known."""
    if value != value:
        return None
    return int(value) if value == int(value) else round(value, 3)


class MachineRing:
    """The history of this machine: memory in use (bytes) and cores that were busy, since it was made."""

    def __init__(self) -> None:
        self.ring = Ring(2)
        self.seen_at, (_, self.busy) = time.monotonic(), used_and_busy()

    def sample(self) -> None:
        """Add a point; the cores are the mean since the last one."""
        now, (used, busy) = time.monotonic(), used_and_busy()
        cores = None
        if busy is not None and self.busy is not None and now > self.seen_at:
            cores = round(max(0.0, busy - self.busy) / (now - self.seen_at), 3)
        self.seen_at, self.busy = now, busy
        self.ring.add(time.time(), used, cores)

    def sample_if_due(self) -> None:
        """Add a point unless the last one is young."""
        if not len(self.ring) or time.monotonic() - self.seen_at >= POINT_SECONDS:
            self.sample()
