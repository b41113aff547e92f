"""When own workers give way: pure decisions from what is left of the memory. Nothing here reads, waits or sends.

Levels: calm, spill (results go to the disk), pause (no further task starts), restart (if the user chose that, the
largest of my workers ends and starts again).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .ground import probe
from .memory import MACHINE, Domain

CALM, SPILL, PAUSE, RESTART = range(4)
LEVELS = ("calm", "spill", "pause", "restart")
MODES = {"off": CALM, "pause": PAUSE, "restart": RESTART}

MOST_MARK = 8 * 2**30  # bytes: with a tenth of 1 TiB left there is no shortage
LEAST_MARK = 512 * 2**20  # bytes: a tenth of a small control group is gone in a second
SMALL = 2.5  # LEAST_MARK raises the mark to this many times the part that was set, at most
FRACTIONS = (1.0, 0.7, 0.4)  # of the mark, for spill, pause and restart
LEAD_SECONDS = 1.0  # memory that falls is judged by what will be left then, or later if looks come late
RATE_SECONDS = 0.9  # over which the rate of the fall is measured
EASE = 1.3  # this many times the threshold must be left before a level goes back
CALM_SECONDS, CALM_SECONDS_AFTER_RESTART = 2.0, 15.0
BETWEEN_RESTARTS = 0.4  # seconds: the kernel needs a while to free what a killed process had
WORTH = 64 * 2**20  # bytes: ending a worker that has less gains nothing
ACTIVE_SHARE = 0.01  # of the memory: a user with less does not count
HIDDEN = -1  # in the place of a uid: all users whose processes are hidden here

NOWHERE = Domain(MACHINE, 0, 0)


@dataclass(frozen=True)
class Sample:
    """What was seen at one moment: `time` in seconds of a monotonic clock, `pressure` in percent."""

    time: float
    domains: tuple[Domain, ...]
    pressure: float = 0.0


@dataclass(frozen=True)
class State:
    """What the guard remembers."""

    level: int = CALM
    where: Domain = NOWHERE
    easing_since: float | None = None
    restarted_at: float | None = None
    samples: tuple[Sample, ...] = ()


def mark_of(total: int, share: float) -> float:
    """Return the bytes of `total` that should stay available: `share` of it, more of little, less of very much."""
    return min(max(total * share, min(LEAST_MARK, total * share * SMALL)), MOST_MARK)


def expected(domain: Domain, samples: tuple[Sample, ...], now: float) -> float:
    """Return the bytes that will be left of `domain` in `LEAD_SECONDS` if they go on falling at this rate.

    The time since the last look is added: on a busy machine the next look and what is done then come late, too.
    """
    lead = LEAD_SECONDS + (now - samples[-1].time if samples else 0.0)
    for sample in samples:
        before = {one.name: one for one in sample.domains}.get(domain.name)
        if before is not None and now - sample.time > 0.1:
            rate = (domain.available - before.available) / (now - sample.time)
            return domain.available + min(0.0, rate) * lead
    return float(domain.available)


def warranted(sample: Sample, samples: tuple[Sample, ...], share: float, pressure: float) -> tuple[float, Domain]:
    """Return the level that `sample` asks for, and the memory that is shortest.

    The level is a number between those of the names. Its whole part says what to do, the rest how near the next level
    is.
    """
    worst: tuple[float, Domain] = (CALM, NOWHERE)
    for domain in sample.domains:
        left = expected(domain, samples, sample.time) / max(1.0, mark_of(domain.total, share))
        level = float(sum(left < fraction for fraction in FRACTIONS))
        if domain.available < domain.total / 2 and sample.pressure >= pressure:
            level = max(level, PAUSE if sample.pressure >= 2 * pressure else SPILL)
        nearness = 1 / (2 + max(0.0, left))
        if level + nearness > worst[0]:
            worst = (level + nearness, domain)
    return worst


def step(state: State, sample: Sample, *, share: float, pressure: float, most: int = RESTART) -> State:
    """Return the next state: levels go up at once, and down after a while of calm.

    Parameters
    ----------
    share : float
        Part of the memory that should stay available, the mark.
    pressure : float
        Percent of PSI from which results are spilled; workers are paused from twice that.
    most : int
        The highest level that the user allows.
    """
    samples = tuple(one for one in state.samples if sample.time - one.time <= RATE_SECONDS)
    now, domain = warranted(sample, samples, share, pressure)
    state = replace(state, samples=(*samples, sample), where=domain)
    if min(int(now), most) >= state.level:
        return replace(state, level=min(int(now), most), easing_since=None)
    eased = tuple(one._replace(available=int(one.available / EASE)) for one in sample.domains)
    target = min(int(warranted(replace(sample, domains=eased), (), share, pressure)[0]), most)
    if target >= state.level:
        return replace(state, easing_since=None)
    since = sample.time if state.easing_since is None else state.easing_since
    recent = state.restarted_at is not None and sample.time - state.restarted_at < 600
    if sample.time - since < (CALM_SECONDS_AFTER_RESTART if recent else CALM_SECONDS):
        return replace(state, easing_since=since)
    return replace(state, level=target, easing_since=None)


def why_worse(state: State, share: float, pressure: float) -> str:
    """Return why there is a shortage although much is left: it falls fast, or everybody waits. Else empty."""
    where = state.where
    if not state.samples or where.available < mark_of(where.total, share) * FRACTIONS[max(0, state.level - 1)]:
        return ""
    now = state.samples[-1]
    soon = expected(where, state.samples[:-1], now.time)
    if soon < mark_of(where.total, share):
        return f", falling fast: {probe.size(max(0, int(soon)))} will be left in about a second"
    return f", and processes wait for memory {now.pressure:.0f} % of the time" if now.pressure >= pressure else ""


def may_restart(state: State, now: float, share: float) -> bool:
    """Say whether to end a worker at the moment `now`. The level alone does not tell: memory may be back already."""
    waited = state.restarted_at is None or now - state.restarted_at >= BETWEEN_RESTARTS
    return state.level == RESTART and waited and missing(state, share) > 0


def active(people: dict[int, int], me: int, total: int, n_promised: int = 0) -> int:
    """Return how many people share the memory: those with a noticeable part of it, and me.

    `HIDDEN` counts as one person, or as the `n_promised` others with a promise if each can have a noticeable part.
    """
    least = max(1.0, total * ACTIVE_SHARE)
    others = sum(uid not in (me, HIDDEN) and used >= least for uid, used in people.items())
    hidden = int(people.get(HIDDEN, 0) // least)
    return 1 + others + min(hidden, max(1, n_promised))


def fair_share(available: int, mine: int, n_users: int) -> float:
    """Return the bytes of my fair share: what the others leave, divided by the number of active users."""
    return (available + mine) / n_users


def grower(before: dict[int, int], now: dict[int, int]) -> tuple[int, int] | None:
    """Return the uid that grew most since `before`, and by how many bytes; None if nobody grew."""
    grown = {uid: used - before.get(uid, 0) for uid, used in now.items()}
    most = max(grown, key=lambda uid: grown[uid], default=None)
    return (most, grown[most]) if most is not None and grown[most] > 0 else None


def missing(state: State, share: float) -> float:
    """Return the bytes that must come back before no worker has to be restarted, by the present rate."""
    before, now = state.samples[:-1], state.samples[-1].time
    return mark_of(state.where.total, share) * FRACTIONS[-1] - expected(state.where, before, now)


def to_restart(workers: dict[str, int], *, need: float, mine: int, available: int, n_users: int) -> list[str]:
    """Return the workers to restart: the largest ones, until their sizes add up to `need` bytes.

    None is added once this user would have no more than a fair share, or where the end of a worker would gain nothing.
    """
    chosen: list[str] = []
    for name in sorted(workers, key=lambda one: -workers[one]):
        above = mine > fair_share(available, mine, n_users)
        if workers[name] < WORTH or not above or need <= 0:
            break
        chosen.append(name)
        mine, available, need = mine - workers[name], available + workers[name], need - workers[name]
    return chosen
