"""When own workers give way: pure decisions from what is left of the memory. Nothing here reads, waits or tells.

Levels: calm, spill (results go to the disk), pause (no further task starts), restart (the largest of my workers is
ended and starts anew, where the user chose that).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .memory import MACHINE, Domain

CALM, SPILL, PAUSE, RESTART = range(4)
LEVELS = ("calm", "spill", "pause", "restart")
MODES = {"off": CALM, "pause": PAUSE, "restart": RESTART}

MOST_MARK = 8 * 2**30  # bytes: a tenth of a machine of 1 TiB would be no shortage
LEAST_MARK = 512 * 2**20  # bytes: a tenth of a small control group is gone in a second
SMALL = 2.5  # times the part that was set: the most that the least mark makes of it
FRACTIONS = (1.0, 0.7, 0.4)  # of the mark, for spill, pause and restart
LEAD_SECONDS = 1.0  # memory that falls is judged by what will be left then, or later where looks come late
RATE_SECONDS = 0.9  # over which the fall is measured
EASE = 1.3  # times the threshold must be left before a level is taken back
CALM_SECONDS, CALM_SECONDS_AFTER_RESTART = 2.0, 15.0
BETWEEN_RESTARTS = 0.4  # seconds: the kernel takes a while to free what a killed process had
WORTH = 64 * 2**20  # bytes: ending a worker that has less gains nothing
ACTIVE_SHARE = 0.01  # of the memory: who has less is not counted as a user of it
HIDDEN = -1  # in the place of a uid: all whose processes are not shown here

NOWHERE = Domain(MACHINE, 0, 0)


@dataclass(frozen=True)
class Sample:
    """What was seen at one moment; `time` in seconds of any clock that only goes forward, `pressure` in percent."""

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
    """Return the bytes that shall stay available of `total`: `share` of it, more of little, less of very much."""
    return min(max(total * share, min(LEAST_MARK, total * share * SMALL)), MOST_MARK)


def expected(domain: Domain, samples: tuple[Sample, ...], now: float) -> float:
    """Return the bytes that will be left of `domain` in `LEAD_SECONDS` if it goes on falling as it does.

    As much later as the last look is ago: on a busy machine the next one, and what is done then, come late too.
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

    The level is a number between those of the names: its whole part is what is to be done, and what is left over says
    how far the next one is.
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
    """Return the next state: up at once, down after a while of calm.

    Parameters
    ----------
    share : float
        Part of the memory that shall stay available, the mark.
    pressure : float
        Percent of PSI from which results are spilled; from twice that on, workers are paused.
    most : int
        The highest level that the user lets it come to.
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


def may_restart(state: State, now: float, share: float) -> bool:
    """Say whether a worker is to be ended at the moment `now`; the level alone stays when memory is back already."""
    waited = state.restarted_at is None or now - state.restarted_at >= BETWEEN_RESTARTS
    return state.level == RESTART and waited and missing(state, share) > 0


def active(people: dict[int, int], me: int, total: int, n_promised: int = 0) -> int:
    """Return how many people share the memory: those with a noticeable part of it, and me.

    `HIDDEN` counts as one, or as `n_promised` others with a promise, as far as each could have a noticeable part.
    """
    least = max(1.0, total * ACTIVE_SHARE)
    others = sum(uid not in (me, HIDDEN) and used >= least for uid, used in people.items())
    hidden = int(people.get(HIDDEN, 0) // least)
    return 1 + others + min(hidden, max(1, n_promised))


def fair_share(available: int, mine: int, n_users: int) -> float:
    """Return the bytes that are mine by right: of what the others leave, as much for each active user."""
    return (available + mine) / n_users


def grower(before: dict[int, int], now: dict[int, int]) -> tuple[int, int] | None:
    """Return the uid that grew most since `before` and by how many bytes; None where nobody did."""
    grown = {uid: used - before.get(uid, 0) for uid, used in now.items()}
    most = max(grown, key=lambda uid: grown[uid], default=None)
    return (most, grown[most]) if most is not None and grown[most] > 0 else None


def missing(state: State, share: float) -> float:
    """Return the bytes that have to come back so that no worker need be restarted, as far as can be foreseen."""
    before, now = state.samples[:-1], state.samples[-1].time
    return mark_of(state.where.total, share) * FRACTIONS[-1] - expected(state.where, before, now)


def to_restart(workers: dict[str, int], *, need: float, mine: int, available: int, n_users: int) -> list[str]:
    """Return the workers to restart: the largest ones, while `need` bytes are not come by.

    It ends where this user would have no more than a fair share, or where ending a worker would gain nothing.
    """
    chosen: list[str] = []
    for name in sorted(workers, key=lambda one: -workers[one]):
        above = mine > fair_share(available, mine, n_users)
        if workers[name] < WORTH or not above or need <= 0:
            break
        chosen.append(name)
        mine, available, need = mine - workers[name], available + workers[name], need - workers[name]
    return chosen
