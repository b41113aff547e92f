"""Measure two things in turn, and compare their medians with an aim."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

RUNS = 7

#: Factor and format of each unit: measurements are kept in seconds and bytes.
UNITS = {
    "s": (1.0, "{:.2f} s"),
    "ms": (1e3, "{:.3g} ms"),
    "MB": (1e-6, "{:.0f} MB"),
    "kB": (1e-3, "{:.0f} kB"),
    "n": (1.0, "{:.0f}"),
}


@dataclass(frozen=True)
class Samples:
    """The samples of an interleaved run: `ports` and its peer, in seconds or bytes."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...]


@dataclass(frozen=True)
class Aim:
    """How `ports` is compared with its peer: the ratio, its inverse (`speed`), the difference, or alone."""

    kind: str
    limit: float

    def value(self, ours: float, theirs: float) -> float:
        """Return the value that is compared with the limit."""
        if self.kind == "speed":
            return theirs / ours
        values = {"ratio": ours / theirs, "difference": ours - theirs, "alone": ours}  # ours can be 0
        return values[self.kind]

    def is_met(self, value: float) -> bool:
        """Return whether `value` is good enough."""
        return value >= self.limit if self.kind == "speed" else value <= self.limit

    def show(self, value: float, unit: str) -> str:
        """Return `value` for people."""
        if self.kind in ("ratio", "speed"):
            return f"{value:.2f}x"
        factor, text = UNITS[unit]
        return ("+" if self.kind == "difference" and value >= 0 else "") + text.format(value * factor)


@dataclass(frozen=True)
class Result:
    """One row of the table."""

    name: str
    what: str
    peer: str
    unit: str
    aim: Aim
    samples: Samples
    load: float | None = None  # of the machine at the end
    cpu: float | None = None  # seconds of all processors, for all rows of its benchmark together

    @property
    def medians(self) -> tuple[float, float]:
        """Medians of `ports` and of the peer; 0 if there is none."""
        return statistics.median(self.samples.ours), statistics.median(self.samples.theirs or (0.0,))

    @property
    def value(self) -> float:
        """Ratio, speed, difference or duration, whichever the aim compares."""
        return self.aim.value(self.medians[0], self.medians[1] or 1.0)

    def line(self) -> str:
        """Return the row for people."""
        factor, text = UNITS[self.unit]
        ours, theirs = (text.format(median * factor) for median in self.medians)
        sign = "≥" if self.aim.kind == "speed" else "≤"
        verdict = "met" if self.aim.is_met(self.value) else "MISSED"
        aim = f"aim {sign} {self.aim.show(self.aim.limit, self.unit)}: {verdict}"
        peer = f"; {self.peer} {theirs}" if self.samples.theirs else ""
        return f"{self.name:<14} {self.aim.show(self.value, self.unit):>9}  {aim:<26} {self.what} {ours}{peer}"

    def markdown(self) -> str:
        """Return the row for docs/benchmarks.md."""
        factor, text = UNITS[self.unit]
        medians = [text.format(median * factor) for median in self.medians[: 2 if self.samples.theirs else 1]]
        aim = f"{'≥' if self.aim.kind == 'speed' else '≤'} {self.aim.show(self.aim.limit, self.unit)}".replace("x", "×")
        measured = self.aim.show(self.value, self.unit).replace("x", "×")
        verdict = "met" if self.aim.is_met(self.value) else "**missed**"
        busy = "" if self.load is None or self.cpu is None else f" {self.load:.1f}, {self.cpu:.0f} s |"
        cells = (self.name, self.what, self.peer or "—", ", ".join(medians), aim, measured, verdict)
        return f"| {' | '.join(cells)} |{busy}"

    def row(self) -> dict[str, Any]:
        """Return the row for programs."""
        ours, theirs = self.medians
        compared = {"value": self.value, "met": self.aim.is_met(self.value), "ours": ours, "theirs": theirs}
        return {**asdict(self), **compared, "runs": len(self.samples.ours)}


def interleave(ours: Callable[[], float], theirs: Callable[[], float], runs: int = RUNS) -> Samples:
    """Measure `ours` and `theirs` in turn, `runs` times each, after one round that does not count."""
    ours(), theirs()
    pairs = [(ours(), theirs()) for _ in range(runs)]
    return Samples(tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs))
