"""The words of jobs: ids, states, needs, retries, submissions; what a resource has. Pure: no clock, no disk.

`from_json` of each class takes what came through the socket, which can be anything, and raises UsageError in words.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from ports import probe
from ports.errors import UsageError
from ports.jobs._fields import (
    flag_of,
    json_object,
    many,
    number_of,
    object_of,
    path_of,
    text_of,
    whole_of,
    words_of,
)
from ports.jobs._fields import is_text as is_text
from ports.jobs._fields import short as short

PENDING, RUNNING, FINISHED, ERROR, CANCELLED, LOST = "pending", "running", "finished", "error", "cancelled", "lost"
STATES = (PENDING, RUNNING, FINISHED, ERROR, CANCELLED, LOST)
ENDED = (FINISHED, ERROR, CANCELLED, LOST)
#: Which state can follow one. A job that its slot never began is pending again; one that did not start has an error.
NEXT = {
    PENDING: frozenset({PENDING, RUNNING, ERROR, CANCELLED, LOST}),
    RUNNING: frozenset({PENDING, FINISHED, ERROR, CANCELLED, LOST}),
}
# Of a map whose jobs have ended: its state is the first of these that one of its jobs has.
WORST_FIRST = (RUNNING, PENDING, LOST, ERROR, CANCELLED, FINISHED)
#: What libraries read to decide how many threads they start.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "PYTHON_CPU_COUNT")

#: Results and arguments above this many bytes lie in files, not in the store.
LARGE = 64 * 1024
MOST_JOBS = 99_999  # of one submission: a frame holds 100,000 blobs
_ID = re.compile(r"([1-9][0-9]{0,11})(?:\.(0|[1-9][0-9]{0,5}))?", re.ASCII)
_TAG = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,62}", re.ASCII)
_KEY = re.compile(r"[0-9a-f]{32}", re.ASCII)
_HEX = re.compile(r"[0-9a-f]{8,128}", re.ASCII)
_MOST_TAGS, _MOST_AFTER = 100, 10_000
_LEAST_MEMORY = 1_000_000  # bytes
_FAR = 1e12  # seconds; larger times fit no calendar


class JobId(NamedTuple):
    """The id of a submission, ``12``, or of one job of a map, ``12.7``."""

    number: int
    item: int | None = None

    def __str__(self) -> str:
        return str(self.number) if self.item is None else f"{self.number}.{self.item}"


def parse_id(text: object) -> JobId:
    """Return the id that `text` names: ``"12"``, ``"12.7"``, or the number 12.

    Raises
    ------
    UsageError
        It is no id.
    """
    found = _ID.fullmatch(str(text)) if isinstance(text, str | int) and not isinstance(text, bool) else None
    if found is None:
        raise UsageError(f"{short(text)} is not the id of a job; an id is 12, or 12.7 for a job of a map")
    return JobId(int(found[1]), None if found[2] is None else int(found[2]))


def state_of(counts: Mapping[str, int]) -> str:
    """Return the state of a submission whose jobs are in these states."""
    return next((state for state in WORST_FIRST if counts.get(state)), PENDING)


def _memory(value: object) -> int:
    """Return bytes; so few that another unit was meant are refused."""
    found = whole_of(value, "memory", least=1, most=2**60)
    if found < _LEAST_MEMORY:
        raise UsageError(f"memory: {found} bytes are too few for any job; write {found}GB or {found}MB")
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Needs:
    """What one job needs. `memory` is in bytes; None sets no limit.

    With `is_whole` it gets all cores of the resource: the number is known where the job is taken in.
    """

    cpus: float = 1
    memory: int | None = None
    gpus: int = 0
    tags: tuple[str, ...] = ()
    is_whole: bool = False

    @classmethod
    def from_json(cls, data: object) -> Needs:
        """Return the needs in `data`, where ``"cpus": null`` is all cores; raises UsageError."""
        given = object_of(data, "needs", ("cpus", "memory", "gpus", "tags", "whole"))
        cpus = given.get("cpus", 1)
        return cls(
            is_whole=flag_of(given.get("whole", cpus is None), "needs.whole"),
            cpus=1 if cpus is None else number_of(cpus, "cpus", least=0.0, most=1e6),
            memory=None if given.get("memory") is None else _memory(given["memory"]),
            gpus=whole_of(given.get("gpus", 0), "gpus", least=0, most=4096),
            tags=words_of(given.get("tags", ()), "needs.tags", most=_MOST_TAGS),
        )

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        rest = {"memory": self.memory, "gpus": self.gpus, "tags": list(self.tags)}
        return {"cpus": self.cpus, **rest, **({"whole": True} if self.is_whole else {})}

    def on(self, capacity: Capacity) -> Needs:
        """Return them with all cores of a resource, if that was asked for."""
        return dataclasses.replace(self, cpus=capacity.cpus) if self.is_whole else self

    def text(self) -> str:
        """Return the needs in words: ``2 cpus, 3.0 GiB, 1 gpu``."""
        parts = [many(self.cpus, "cpu")]
        parts += [as_asked(self.memory)] if self.memory is not None else []
        parts += [many(self.gpus, "gpu")] if self.gpus else []
        return ", ".join([*parts, *self.tags])


#: Why an attempt failed. A script's exit status can have retries of its own: ``exit 75``.
REASONS = ("failure", "time", "lost", "memory")
#: Why an attempt ended that counts but costs no retry: the resource was stopped.
STOPPED = "stopped"
_EXIT = re.compile("exit ([1-9][0-9]?|1[0-9][0-9]|2[0-4][0-9]|25[0-5])", re.ASCII)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retries:
    """How often a job is tried again after its own failure, its timeout, a lost worker, or its memory.

    `exits` has the retries of single exit statuses of a script: these do not count as `failure`.
    """

    failure: int = 0
    time: int = 0
    lost: int = 1
    memory: int = 0
    exits: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_json(cls, data: object) -> Retries:
        """Return the retries in `data`, such as ``{"failure": 2, "exit 75": 5}``; raises UsageError."""
        if not isinstance(data, Mapping):
            raise UsageError(f"retries: {short(data)} is no object")
        given: dict[str, int] = {}
        exits: dict[str, int] = {}
        for name, value in data.items():
            kept = exits if isinstance(name, str) and _EXIT.fullmatch(name) else given if name in REASONS else None
            if kept is None:
                known = f"{', '.join(REASONS)} and 'exit N', N from 1 to 255"
                raise UsageError(f"retries: {short(name)} is unknown; known are {known}")
            kept[name] = whole_of(value, f"retries.{name}", least=0, most=1000)
        return cls(**given, exits=exits)

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {**{name: getattr(self, name) for name in REASONS}, **self.exits}

    def cause(self, cause: str, status: object) -> str:
        """Return which retries count for an attempt that failed: those of its exit status, if it has some."""
        own = f"exit {status}"
        return own if cause == "failure" and own in self.exits else cause

    def most(self, cause: str) -> int:
        """Return how often a job is tried again after this."""
        return self.exits[cause] if cause in self.exits else int(getattr(self, cause))


def parse_retries(value: object) -> dict[str, int]:
    """Return retries as a submission has them: of a number, or of a text like ``2, exit 75: 5, memory: 1``.

    A number alone is for failures and for timeouts.

    Raises
    ------
    UsageError
        It is neither, or names a reason that does not exist.
    """
    if isinstance(value, Mapping):
        found = dict(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        found = {"failure": value, "time": value}
    else:
        found = {}
        for part in str(value).split(","):
            name, colon, number = (one.strip() for one in part.rpartition(":"))
            if not re.fullmatch("[0-9]{1,4}", number, re.ASCII) or (colon and not name):
                raise UsageError(f"retries: {short(part.strip())} is no number; write 2, or exit 75: 5, memory: 1")
            found.update({" ".join(name.split()): int(number)} if colon else dict.fromkeys(REASONS[:2], int(number)))
    return {name: n for name, n in Retries.from_json(found).to_json().items() if name in found}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Capacity:
    """What the resource has: cores, bytes of memory, the indices of its GPUs, and its tags."""

    cpus: float = 1
    memory: int = 2**60
    gpus: tuple[int, ...] = ()
    tags: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as ``status`` shows it."""
        return {"cpus": self.cpus, "memory": self.memory, "gpus": list(self.gpus), "tags": list(self.tags)}

    @classmethod
    def of_status(cls, status: Mapping[str, Any]) -> Capacity | None:
        """Return the capacity that a resource shows in its ``status``; None where none runs."""
        if not (told := status.get("capacity")):
            return None
        gpus, tags = tuple(told.get("gpus") or ()), tuple(told.get("tags") or ())
        return cls(cpus=told["cpus"], memory=told["memory"], gpus=gpus, tags=tags)

    def refuse(self, needs: Needs) -> str | None:
        """Return in words why a job with these needs can never run here; None if it can."""
        if needs.cpus > self.cpus:
            return f"it needs {many(needs.cpus, 'cpu')}, and this resource has {self.cpus:g}"
        if needs.memory is not None and needs.memory > self.memory:
            asked = as_asked(needs.memory)
            has = probe.size(self.memory) if " " in asked else probe.as_typed(asked, self.memory)
            return f"it needs {asked} of memory, and this resource has {has}"
        if needs.gpus > len(self.gpus):
            return f"it needs {many(needs.gpus, 'gpu')}, and this resource has {len(self.gpus) or 'none'}"
        if missing := [tag for tag in needs.tags if tag not in self.tags]:
            has = f"has {', '.join(self.tags)}" if self.tags else "has no tags"
            return f"it needs {', '.join(missing)}, and this resource {has}"
        return None


#: What is told while a script is submitted: what was copied, and sentences that are to be known.
Copied = Callable[[dict[str, Any]], None]
Said = Callable[[str], None]


def untold(_: object) -> None:
    """Take what nobody wants to hear."""


class Submits(Protocol):
    """The jobs of a machine, or of several: each submits a script in the same way."""

    def submit_script(
        self, script: Any, *, start: bool = True, copied: Copied = untold, said: Said = untold
    ) -> JobId | str:
        """Submit a `Script` or a `Plan`, and return its id once it is durable.

        Without `start` no resource is started. `copied` gets what was copied and what stays behind; `said` gets
        sentences: which packages are missing, and which machine it is.
        """


#: How a machine refuses what it can never run, before and after the reason.
NEVER, ASK_LESS = "this job can never run here: ", "ask for less, or submit it to another machine"


def never(why: str) -> UsageError:
    """Return the refusal of a job that this machine can never run."""
    return UsageError(f"{NEVER}{why}; {ASK_LESS}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Available:
    """What other users leave of the capacity at this moment.

    `memory` is in bytes; None is all. `taken_gpus` has the GPUs on which another user computes, and who it is.
    `memory_why` says who uses the memory: ``bob active``.
    """

    memory: int | None = None
    taken_gpus: Mapping[int, str] = dataclasses.field(default_factory=dict)
    memory_why: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Submission:
    """What a client asks for: one job, or the jobs of a map, which differ in their arguments only.

    `timeout`, `lifetime` are seconds; `at` is seconds since 1970. `memory_growth` is by how much more memory the next
    attempt gets after one that ended by its memory. `inputs` has for the index of a job (0 if it is not a
    map) the ids of the jobs whose results are among its arguments. `script` and `cache` are stored and given out as
    they are.
    """

    kind: str
    name: str = ""
    queue: str = "default"
    priority: int = 0
    needs: Needs = Needs()
    timeout: float | None = None
    retries: Retries = Retries()
    memory_growth: float = 1
    lifetime: float | None = None
    at: float | None = None
    after: tuple[JobId, ...] = ()
    inputs: Mapping[int, tuple[JobId, ...]] = dataclasses.field(default_factory=dict)
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cache: Mapping[str, Any] | None = None
    directory: str | None = None
    environ: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    minor: str = ""
    isolate: bool = False
    created_by: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    script: Mapping[str, Any] | None = None
    notify: bool = False

    @classmethod
    def from_json(cls, data: object) -> Submission:
        """Return the submission in `data`.

        Raises
        ------
        UsageError
            A field is unknown, or its value is invalid.
        """
        if isinstance(data, Mapping) and (later := [name for name in RESERVED if name in data]):
            raise UsageError(f"{later[0]}: this version of ports has no such jobs; upgrade ports where they run")
        given = object_of(data, "submission", _FIELDS)
        read = _READERS
        values = {name: read[name](value, name) for name, value in given.items() if value is not None}
        if values.get("kind") not in ("function", "script"):
            raise UsageError(f"kind: {short(given.get('kind'))} is neither 'function' nor 'script'")
        if values["kind"] == "function" and "script" in values:
            raise UsageError("script: a function has none")
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads; fields that have their default are left out."""
        data: dict[str, Any] = {}
        for name, default in _DEFAULTS.items():
            if (value := getattr(self, name)) != default:
                data[name] = _WRITERS[name](value) if name in _WRITERS else value
        return data

    def needs_after(self, needs: Needs, n_memory: int, capacity: Capacity) -> Needs:
        """Return what the next attempt needs after `n_memory` that ended by their memory: at most all that there is."""
        if needs.memory is None or self.memory_growth == 1 or not n_memory:
            return needs
        grown = min(needs.memory * self.memory_growth ** min(n_memory, 60), 2.0**60)
        return dataclasses.replace(needs, memory=max(needs.memory, min(int(grown), capacity.memory)))

    def cache_key(self, index: int) -> str | None:
        """Return the cache key of job `index`; None if it has none."""
        keys = (self.cache or {}).get("keys")
        key = keys[index] if isinstance(keys, list) and index < len(keys) else None
        return key if isinstance(key, str) else None


class Lease(NamedTuple):
    """Where it is seen whether a slot or a script lives: the name of its lock, and the process that held it."""

    slot: str
    path: str
    process: Mapping[str, Any] | None = None


class LeaseState(NamedTuple):
    """What is known of a slot or a script.

    `alive` is None where this cannot be known. `begun` has (id, attempt) of the jobs that it began; None if that is
    unknown, because the lock's file is gone.
    """

    alive: bool | None
    begun: frozenset[tuple[str, int]] | None = None
    reason: str = ""


def parse_duration(value: object, what: str = "time") -> float:
    """Return seconds: of a number, or of a text like ``90m``, ``1h``, ``2d``, ``1h30m``; raises UsageError."""
    if isinstance(value, str):
        text = value.strip().lower()
        parts = re.findall(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d|w)(?![a-z])", text, re.ASCII)
        if parts and not re.sub(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d|w)(?![a-z])|\s", "", text, flags=re.ASCII):
            return sum(float(number) * _SECONDS[unit] for number, unit in parts)
        try:
            value = float(text)
        except ValueError:
            raise UsageError(f"{what}: {short(value)} is no duration; write seconds, or 90m, 1h, 2d") from None
    return number_of(value, what, least=0.0, most=_FAR)


def parse_size(value: object, what: str = "memory") -> int:
    """Return bytes: of a number, or of a text like ``3GB`` or ``512MiB``; raises UsageError."""
    if isinstance(value, str):
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?)b?", value.strip().lower(), re.ASCII)
        if found is None or (found[3] and not found[2]):
            raise UsageError(f"{what}: {short(value)} is no size; write bytes, or 3GB, 512MiB")
        base = 1024 if found[3] else 1000
        value = round(float(found[1]) * base ** " kmgtp".index(found[2] or " "))
    return whole_of(value, what, least=1, most=2**60)


def as_asked(n_bytes: int) -> str:
    """Return a size in the units in which somebody has written it: ``3GB``, or ``1.5 GiB`` in binary ones.

    >>> as_asked(3 * 10**9), as_asked(3 * 2**30), as_asked(1536 * 2**20)
    ('3GB', '3.0 GiB', '1.5 GiB')
    """
    for power in range(5, 0, -1):
        number = n_bytes / 1000**power
        if number >= 1:
            is_decimal = round(number, 3) * 1000**power == n_bytes != parse_size(probe.size(n_bytes))
            return f"{number:g}{' KMGTP'[power]}B" if is_decimal else probe.size(n_bytes)
    return probe.size(n_bytes)


_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}


# --- what came through the socket ---


def _ids(value: object, what: str) -> tuple[JobId, ...]:
    if not isinstance(value, list | tuple) or len(value) > _MOST_AFTER:
        raise UsageError(f"{what}: {short(value)} is no list of up to {_MOST_AFTER} ids")
    return tuple(dict.fromkeys(parse_id(one) for one in value))


def _inputs(value: object, what: str) -> dict[int, tuple[JobId, ...]]:
    if not isinstance(value, Mapping) or len(value) > MOST_JOBS:
        raise UsageError(f"{what}: {short(value)} is no object of lists of ids")
    found: dict[int, tuple[JobId, ...]] = {}
    for index, ids in value.items():
        if not isinstance(index, str) or not re.fullmatch("0|[1-9][0-9]{0,5}", index, re.ASCII):
            raise UsageError(f"{what}: {short(index)} is not the index of a job")
        found[int(index)] = _ids(ids, what)
    return found


def _tags(value: object, what: str) -> dict[str, str]:
    if not isinstance(value, Mapping) or len(value) > _MOST_TAGS:
        raise UsageError(f"{what}: {short(value)} is no object of up to {_MOST_TAGS} texts")
    for name in value:
        if not isinstance(name, str) or not _TAG.fullmatch(name):
            raise UsageError(f"{what}: {short(name)} is no name; use letters, digits, '_', '.' and '-'")
    return {name: text_of(text, f"{what}.{name}", most=1024) for name, text in value.items()}


def _environ(value: object, what: str) -> dict[str, str | None]:
    if not isinstance(value, Mapping) or len(value) > _MOST_AFTER:
        raise UsageError(f"{what}: {short(value)} is no object of texts")
    for name in value:
        if not isinstance(name, str) or not name or "=" in name:
            raise UsageError(f"{what}: {short(name)} is not the name of a variable")
        path_of(name, what)
    return {name: None if text is None else path_of(text, what, most=131_072) for name, text in value.items()}


def _cache(value: object, what: str) -> dict[str, Any]:
    found = json_object(value, what)
    if found.get("policy") not in ("use", "refresh", "off", "only"):
        raise UsageError(f"cache.policy: {short(found.get('policy'))} is none of use, refresh, off, only")
    keys = found.get("keys", [])
    if not isinstance(keys, list) or not all(
        key is None or (isinstance(key, str) and _HEX.fullmatch(key)) for key in keys
    ):
        raise UsageError("cache.keys: it is no list of hexadecimal keys")
    return found


def _name_of_queue(value: object, what: str) -> str:
    if not isinstance(value, str) or not re.fullmatch("[a-z][a-z0-9-]{0,30}", value, re.ASCII):
        raise UsageError(f"{what}: {short(value)} is no name; use a letter a-z, then up to 30 of a-z, 0-9 and '-'")
    return value


def check_key(value: object) -> str:
    """Return the key that a client chose for its submission, 32 hexadecimal digits; raises UsageError."""
    if not isinstance(value, str) or not _KEY.fullmatch(value):
        raise UsageError(f"key: {short(value)} is not 32 hexadecimal digits")
    return value


_seconds = functools.partial(number_of, least=0.0, most=_FAR)
_READERS: dict[str, Any] = {
    "kind": text_of,
    "name": functools.partial(text_of, most=255),
    "queue": _name_of_queue,
    "priority": functools.partial(whole_of, least=-1_000_000, most=1_000_000),
    "needs": lambda value, _: Needs.from_json(value),
    "timeout": functools.partial(number_of, least=0.001, most=_FAR),
    "retries": lambda value, _: Retries.from_json(value),
    "memory_growth": functools.partial(number_of, least=1.0, most=100.0),
    "lifetime": _seconds,
    "at": _seconds,
    "after": _ids,
    "inputs": _inputs,
    "tags": _tags,
    "cache": _cache,
    "directory": path_of,
    "environ": _environ,
    "minor": functools.partial(text_of, most=16),
    "isolate": flag_of,
    "created_by": json_object,
    "script": json_object,
    "notify": flag_of,
}
_FIELDS = tuple(_READERS)
#: What a later version of the protocol gives a meaning.
RESERVED = ("sweep", "metrics", "image", "grant")
_WRITERS: dict[str, Any] = {
    "needs": Needs.to_json,
    "retries": Retries.to_json,
    "after": lambda ids: [str(one) for one in ids],
    "inputs": lambda found: {str(index): [str(one) for one in ids] for index, ids in found.items()},
    "tags": dict,
    "environ": dict,
}
_DEFAULTS: dict[str, Any] = {
    one.name: None
    if one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
    else (one.default if one.default is not dataclasses.MISSING else {})
    for one in dataclasses.fields(Submission)
}
