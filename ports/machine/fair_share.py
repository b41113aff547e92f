"""How large a cluster is by default: a fair share of the machine, decided from numbers alone. Pure.

A share of cores is max-min fair: a user who wants less than an equal part gets what they want, and the others divide
the rest equally. Whatever others claim, an equal part is left. A share of memory is half of the free memory while
others are active, because memory that was given cannot be taken back. Promises of others make a share smaller, never
impossible.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ports.errors import OverpromisedError
from ports.probe import as_typed, promises, size

ALL = "all"
LEAST_WORKER = promises.LEAST_WORKER
GOOD_WORKER = 1 << 30  # bytes: below it, fewer workers are better than smaller ones
_ALONE = 0.9  # of the free memory, if nobody else is active
_LEAST = promises.LEAST_PART
_MINIMAL = 0.02  # of the machine's memory: a user who uses less and computes nothing is not active
_WORDS = ("nobody else", "one other", "two others", "three others", "four others", "five others", "six others")


@dataclass(frozen=True, kw_only=True)
class Other:
    """Another user's part of the machine. `held_bytes` is used by their promised clusters; None: hidden."""

    user: str
    memory_bytes: int = 0
    cores: float = 0.0
    promised_bytes: int = 0
    promised_threads: int = 0
    held_bytes: int | None = 0


@dataclass(frozen=True, kw_only=True)
class Room:
    """A machine as one user sees it: its size, and how much is taken. Sizes are bytes.

    `usable_cores`, `limit_bytes` and `limit_left_bytes` are left by affinity and the control groups around the user;
    None: all. `promised_bytes` and `promised_threads` are promised to the user's own clusters. They do not use
    `unfilled_bytes` of these yet. `inside_bytes` of these count for the limit (None: all), because a cluster can run
    outside of a job's control group. `hidden`: the user cannot see others' processes. `unseen_bytes` and `unseen_cores`
    are in use by no visible process. `within` names the owner of the limits if it is not the user's process. `notes`
    are further warnings. `own_clusters` are the names of the user's clusters with these promises, where they are known.
    `promises` are the files of all promises that count here.
    """

    cores: float
    memory_bytes: int
    available_bytes: int
    usable_cores: float | None = None
    limit_bytes: int | None = None
    limit_left_bytes: int | None = None
    promised_bytes: int = 0
    promised_threads: int = 0
    unfilled_bytes: int = 0
    inside_bytes: int | None = None
    others: tuple[Other, ...] = ()
    hidden: bool = False
    unseen_bytes: int = 0
    unseen_cores: float = 0.0
    within: str | None = None
    notes: tuple[str, ...] = ()
    own_clusters: tuple[str, ...] = ()
    promises: frozenset[str] = frozenset()

    @property
    def may_have(self) -> int:
        """The bytes that this user may have of the machine at all."""
        return self.memory_bytes if self.limit_bytes is None else min(self.memory_bytes, self.limit_bytes)

    @property
    def can_have(self) -> int:
        """The bytes that this user can have now."""
        left = self.may_have if self.limit_left_bytes is None else self.limit_left_bytes
        return min(self.available_bytes, left)

    @property
    def my_cores(self) -> float:
        """The cores that this user may use at all."""
        return self.cores if self.usable_cores is None else min(self.cores, self.usable_cores)

    @property
    def filled_bytes(self) -> int:
        """The bytes of their promises that others' clusters use; never more than the kernel says is in use."""
        in_use = max(0, self.memory_bytes - self.available_bytes)
        return min(in_use, sum(min(one.promised_bytes, one.held_bytes or 0) for one in self.others))

    @property
    def bound(self) -> tuple[int, int, int]:
        """The bound of this user's promises (machine or limit), the part that others' clusters use, the promises."""
        inside = self.promised_bytes if self.inside_bytes is None else self.inside_bytes
        of_machine, of_limit = (self.memory_bytes, self.filled_bytes, self.promised_bytes), (self.may_have, 0, inside)
        return of_limit if self.may_have - inside < self.memory_bytes - sum(of_machine[1:]) else of_machine

    @property
    def left_bytes(self) -> int:
        """The bytes that can still be promised to this user's clusters."""
        total, filled, promised = self.bound
        return max(0, total - filled - promised)

    @property
    def active(self) -> tuple[Other, ...]:
        """The other active users: those with a promise, with some memory, or computing. Hidden users count as one.

        Memory in use beyond the promises of hidden users' clusters belongs to somebody, too.
        """
        least = _MINIMAL * self.memory_bytes
        seen = tuple(
            one
            for one in self.others
            if one.promised_bytes or one.promised_threads or one.memory_bytes >= least or one.cores >= 0.5
        )
        told = [one for one in seen if one.held_bytes is None]
        n_bytes = self.unseen_bytes - sum(one.promised_bytes for one in told)
        cores = max(0.0, self.unseen_cores - sum(one.promised_threads for one in told))
        if not self.hidden or (n_bytes < least and cores < max(0.5, _MINIMAL * self.cores)):
            return seen
        return (*seen, Other(user="others", memory_bytes=max(0, n_bytes), cores=cores))


@dataclass(frozen=True, kw_only=True)
class Size:
    """The size of a cluster, and its explanation. `memory_limit` is for one worker, in bytes; 0: no limit.

    `divided_bytes` are what workers divide if their number changes; 0 where their memory was asked for.
    """

    n_workers: int
    threads_per_worker: int
    memory_limit: int
    explained: str
    divided_bytes: int = 0
    warnings: tuple[str, ...] = field(default=())

    @property
    def promised_bytes(self) -> int:
        """The memory that all its workers are promised."""
        return self.n_workers * self.memory_limit


def level(whole: float, demands: Sequence[float]) -> float:
    """Return the part of `whole` for a user who wants all of it, in a max-min fair division with the `demands`."""
    left = whole
    for number, demand in enumerate(sorted(demands)):
        equal = left / (len(demands) + 1 - number)
        if demand >= equal:
            return equal
        left -= demand
    return left


def free(room: Room) -> int:
    """Return the bytes that are available and not promised. The part of a promise that is already used does not count.

    Of others' promises, it is `unfilled` that counts.
    """
    return max(0, int(min(room.available_bytes - sum(unfilled(room)), room.can_have) - room.unfilled_bytes))


def unfilled(room: Room) -> list[float]:
    """Return, for each of `room.others`, the bytes of their promise that count and that their clusters do not use yet.

    A promise counts up to the user's part in a fair division of the machine among all promises. So a false promise
    takes no more than that, and frees nothing. Hidden clusters use an unknown part of their promises: together it is
    the memory in use that belongs to no visible user. They divide it here in equal proportion.
    """
    equal = level(room.memory_bytes, [one.promised_bytes for one in room.others])
    wholes = [(min(one.promised_bytes, equal), one.held_bytes) for one in room.others]
    hidden = sum(whole for whole, held in wholes if held is None)
    return [
        max(0.0, whole - (room.unseen_bytes * (whole / hidden if hidden else 0.0) if held is None else held))
        for whole, held in wholes
    ]


def split(n_threads: int) -> tuple[int, int]:
    """Return workers and threads of each, as Dask does: only workers up to four, then about as many of both."""
    if n_threads <= 4:
        return max(1, n_threads), 1
    n_workers = next(n for n in range(math.isqrt(n_threads - 1) + 1, n_threads + 1) if n_threads % n == 0)
    return n_workers, n_threads // n_workers


def decide(room: Room, asked: Mapping[str, Any], *, processes: bool = True, takes_all: bool = False) -> Size:
    """Return the size of a cluster: the requested numbers, and a fair share for the others.

    Parameters
    ----------
    asked : mapping
        ``n_workers`` (a number, ``"all"`` or None), ``threads_per_worker`` and ``memory_limit`` (bytes, 0 for none, or
        None); ``memory_typed`` is the limit as it was typed, if it was.
    processes : bool
        False: threads of one worker.
    takes_all : bool
        The request was ``"all"``, and ``n_workers`` is its meaning: as many workers as the GPUs suffice for.
    """
    takes_all = takes_all or asked["n_workers"] == ALL
    n_cores = max(1, int(room.my_cores if takes_all else _cores(room)))
    memory, reason = _all(room) if takes_all else _share(room)
    n_asked, limit = None if asked["n_workers"] == ALL else asked["n_workers"], asked["memory_limit"]
    n_workers, threads = _shape(n_cores, n_asked, asked["threads_per_worker"], processes=processes)
    if n_asked is None:  # fewer workers rather than small ones, or more than the share
        fitting = max(1, memory // (limit or GOOD_WORKER)) if limit != 0 else n_workers
        if fitting < n_workers and asked["threads_per_worker"] is None:
            threads = max(threads, n_cores // fitting)
        n_workers = min(n_workers, fitting)
    is_share = limit is None or n_asked is None
    divided = 0
    if limit is None:
        divided = memory
        # a few requested workers do not get all the memory
        parts = n_workers if n_asked is None else max(n_asked, n_cores // threads, 1)
        limit = max(LEAST_WORKER, int(memory / parts) >> 20 << 20)
    reason += f", within {room.within}" if room.within else ""
    said = describe(n_workers, threads, limit, asked.get("memory_typed", "")) + (
        f": {reason}" if is_share else ", as requested"
    )
    chosen = Size(
        n_workers=n_workers, threads_per_worker=threads, memory_limit=limit, explained=said, divided_bytes=divided
    )
    return replace(chosen, warnings=_warnings(room, chosen, takes_all=takes_all, typed=asked.get("memory_typed", "")))


def _shape(n_cores: int, n_workers: int | None, threads: int | None, *, processes: bool) -> tuple[int, int]:
    """Return workers and threads of each; a missing number follows from the cores."""
    default_workers, default_threads = split(n_cores) if processes else (1, n_cores)
    if n_workers is not None:
        return n_workers, threads or (-(-n_cores // n_workers) if n_workers else default_threads)
    if threads is not None:
        return (max(1, n_cores // threads) if processes else 1), threads
    return default_workers, default_threads


def describe(n_workers: int, threads: int, limit: int, typed: str = "") -> str:
    """Return a size in words: ``8 workers × 1 thread, 4.0 GiB each``; the limit as it was `typed`."""
    workers = f"{n_workers} worker{'' if n_workers == 1 else 's'} × {threads} thread{'' if threads == 1 else 's'}"
    each = " each" if n_workers != 1 else ""
    return f"{workers}, {as_typed(typed, limit)}{each}" if limit else f"{workers}, no memory limit"


def divide(n_workers: int, whole: int, most: int) -> int:
    """Return the memory limit of each of `n_workers` that divide `whole` bytes: `most` bytes at most."""
    return min(most, max(LEAST_WORKER, whole // max(1, n_workers) >> 20 << 20))


def describe_division(n_workers: int, limit: int, whole: int) -> str:
    """Return a divided size in words: ``10 workers × 2.0 GiB, of the 20.4 GiB of this cluster``."""
    workers = f"{n_workers} worker{'' if n_workers == 1 else 's'}"
    return f"{workers} × {size(limit)}, of the {size(whole)} of this cluster"


def came_second(own: str, published: Mapping[str, int], known: Collection[str]) -> bool:
    """Say whether another promise was published before a cluster's `own`, and its size did not know of it.

    `published` says when each promise was published, by its path; `known` are those that the size reckoned with. Of
    two clusters that start at the same moment, this holds for one.
    """
    if own not in published:
        return False
    mine = (published[own], own)
    return any((at, path) < mine for path, at in published.items() if path not in known)


def check(room: Room, n_workers: int, memory_limit: int, typed: str = "") -> None:
    """Check that `n_workers` of `memory_limit` bytes are not more than the machine has.

    Promises to this user's other clusters count as taken. Of others' promises, only the part that their clusters
    already use counts, and never more than the kernel says is in use. So a false promise refuses nothing. `typed` is
    the limit as the user typed it, ``1GB``.

    Raises
    ------
    OverpromisedError
        They are more.
    """
    (total, filled, promised), left = room.bound, room.left_bytes
    if n_workers * memory_limit > left:
        shown = functools.partial(as_typed, typed)  # all in one unit
        each = shown(memory_limit)
        wanted = f"1 worker of {each}"
        if n_workers > 1:
            wanted = f"{n_workers} workers of {each} are {shown(n_workers * memory_limit)}"
        taken = [f"{shown(promised)} are promised to {_yours(room)}"] if promised else []
        taken += [f"{shown(filled)} are used by clusters of others"] if filled else []
        within = f" ({room.within})" if room.within else ""
        raise OverpromisedError(wanted, shown(total) + within, tuple(taken), shown(left) if left else "", _frees(room))


def can_grow_to(room: Room, held: int) -> int:
    """Return the bytes that a cluster can have without the memory of others; its workers hold `held` of them already.

    `room` is without this cluster. As at a start, promises of others leave an eighth of what is available.
    """
    return held + max(free(room), int(room.can_have * _LEAST))


def warnings_of_growth(room: Room, held: int, wants: int, typed: str) -> tuple[str, ...]:
    """Warn, as at a start, how a cluster that wants so many bytes, and has `held` of them, affects others."""
    left = None if room.limit_left_bytes is None else room.limit_left_bytes + held
    whole = replace(room, available_bytes=room.available_bytes + held, limit_left_bytes=left)
    chosen = Size(n_workers=1, threads_per_worker=1, memory_limit=wants, explained="")
    return _warnings(whole, chosen, takes_all=False, typed=typed)


def _yours(room: Room) -> str:
    """Return this user's other clusters in words, by name where the names are known."""
    names = room.own_clusters
    if len(names) < 2:
        return f"your cluster {names[0]}" if names else "your other clusters"
    return f"your clusters {', '.join(names[:-1])} and {names[-1]}"


def _frees(room: Room) -> str:
    """Return the command that frees what this user's other clusters are promised; empty where none is known."""
    if not room.own_clusters:
        return ""
    name = room.own_clusters[0]
    return f"`ports cluster scale {name} 0` frees what {'it' if len(room.own_clusters) == 1 else name} is promised"


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""


def _promises_in_the_way(room: Room) -> str:
    """Return that promises leave little of the memory: how much to this user's clusters, and to which other users.

    What hidden clusters use is unknown, so their users are named without a number. Nobody else is named where a limit
    around this user leaves less than others do.
    """
    of_others = unfilled(room)
    is_limited = room.available_bytes - sum(of_others) >= room.can_have
    left = [] if is_limited else [(one, int(n)) for one, n in zip(room.others, of_others, strict=True) if int(n)]
    seen, hidden = ([(one.user, n) for one, n in left if (one.held_bytes is None) is how] for how in (False, True))
    theirs = sum(n_bytes for _, n_bytes in seen)
    parts = (
        [f"{size(room.unfilled_bytes)} to {_yours(room)}{_in_brackets(_frees(room))}"] if room.unfilled_bytes else []
    )
    parts += [f"{size(theirs)} to {_listed([user for user, _ in seen])}"] if seen else []
    parts += [f"an unknown part to {_listed([user for user, _ in hidden])}"] if hidden else []
    much = "more than that" if room.unfilled_bytes + theirs > room.can_have else "most of it"
    told = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)
    return f"{much} is promised" + (f": {told}" if told else "")


def _listed(users: Sequence[str]) -> str:
    return ", ".join(users[:3]) + (f" and {len(users) - 3} more" if len(users) > 3 else "")


def who_is_active(room: Room) -> str:
    """Return the number of other active users in words: ``two others active``."""
    n = len(room.active)
    told = f"{_WORDS[n] if n < len(_WORDS) else f'{n} others'} active"
    return f"{told} as far as can be seen (processes of others are hidden here)" if room.hidden else told


def _cores(room: Room) -> float:
    """Return the cores of a fair share, without those that this user's other clusters are promised."""
    fair = min(room.my_cores, level(room.cores, [max(one.cores, one.promised_threads) for one in room.active]))
    return max(fair - room.promised_threads, fair * _LEAST)


def _share(room: Room) -> tuple[int, str]:
    """Return the bytes of a fair share and its explanation; no more than can still be promised."""
    part, reason = _part(room)
    (total, _, promised), left = room.bound, room.left_bytes
    if part <= left or not promised:
        return part, reason
    mine = f"{size(promised)} are promised to {_yours(room)}{_in_brackets(_frees(room))}, {who_is_active(room)}"
    if left < LEAST_WORKER:
        return LEAST_WORKER, f"the minimum, because {mine}"
    return left, f"the rest of {size(total)}, because {mine}"


def _part(room: Room) -> tuple[int, str]:
    """Return the bytes of free memory that are a fair share, and the explanation."""
    left, who = free(room), who_is_active(room)
    what = f"{size(left)} available" + (" and not promised" if room.can_have > left else "")
    least = int(room.can_have * _LEAST)
    part, told = (left // 2, "half") if room.active else (int(left * _ALONE), "nine tenths")
    if part < least:
        return (
            least,
            f"an eighth of {size(room.can_have)} available, because {_promises_in_the_way(room)}, {who}",
        )
    return part, f"{told} of {what}, {who}"


def _all(room: Room) -> tuple[int, str]:
    """Return all memory that is neither promised to this user's clusters nor used by clusters of others."""
    left = max(LEAST_WORKER, room.left_bytes)
    _, filled, promised = room.bound
    less = ", except what your other clusters are promised" if promised else ""
    less += ", except what clusters of others use" if filled else ""
    return left, f"all of this machine{less}, {who_is_active(room)}"


def _warnings(room: Room, chosen: Size, *, takes_all: bool, typed: str) -> tuple[str, ...]:
    """Warn how a cluster that takes more than is left affects others; `typed` is a worker's memory as it was typed."""
    wants, left, shown = chosen.promised_bytes, free(room), functools.partial(as_typed, typed)
    mine = (*_own_warnings(room, wants, typed), *room.notes)
    names = [one.user for one in room.active]
    if not names or (wants <= left and not takes_all):
        return mine
    listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    theirs = sum(max(one.memory_bytes, one.promised_bytes) for one in room.active)
    said = f"this cluster may use {shown(wants)}; {shown(left)} are available and not promised (active: {listed})"
    if (taken := min(wants - left, theirs)) > 0:
        said += f": once full, it takes {shown(taken)} that others use or were promised"
    if takes_all:
        said += "; it competes with them for every core"
    return (f"{said}; `ports who` shows who uses how much", *mine)


def _own_warnings(room: Room, wants: int, typed: str) -> tuple[str, ...]:
    """Warn if this user's clusters are then promised more than there is."""
    (total, _, promised), shown = room.bound, functools.partial(as_typed, typed)
    if wants <= room.left_bytes or not promised:
        return ()
    way_out = _frees(room) or "stop or scale one (`ports cluster list`)"
    return (
        f"of the {shown(total)} that you can use, {_yours(room)} {'is' if len(room.own_clusters) == 1 else 'are'} "
        f"promised {shown(promised)}, and with this one {shown(promised + wants)}; {way_out}",
    )
