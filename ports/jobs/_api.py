"""Functions as jobs: the decorator, `submit`, `map`, `gather`, and the host they go to."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import os
import secrets
import sys
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

from ports.errors import PortsError, ResourceLostError, SSHError, TimedOutError, UsageError
from ports.jobs import _blobs, _cache, _client, _function_key, _model, _progress, _several, _travel, _where
from ports.jobs._digest import NoDigestError
from ports.jobs._job import End, Job, JobMap, brief, of_one_machine
from ports.jobs._model import FINISHED, JobId, Needs, Retries, Submission
from ports.state import paths

P = ParamSpec("P")
R = TypeVar("R")

_FEW = 8  # results of a map that are asked for one by one


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What `job` was given; see there."""

    version: object = None
    cpus: float = 1
    memory: int | str | None = None
    gpus: int = 0
    timeout: float | str | None = None
    retries: int | Mapping[str, int] = 0
    memory_growth: float = 1
    lifetime: float | str | None = None
    cache: str = "off"
    environ: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    isolate: bool = False
    name: str | None = None
    queue: str = "default"
    priority: int = 0
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notify: bool = False

    def submission(self, name: str) -> Submission:
        """Return what is asked of the resource; raises UsageError for what is invalid."""
        memory = None if self.memory is None else _model.parse_size(self.memory)
        retries = {"failure": self.retries} if isinstance(self.retries, int) else dict(self.retries)
        asked = Submission.from_json(
            {
                "kind": "function",
                "name": self.name or name,
                "queue": self.queue,
                "priority": self.priority,
                "needs": {"cpus": self.cpus, "memory": memory, "gpus": self.gpus},
                "timeout": None if self.timeout is None else _model.parse_duration(self.timeout, "timeout"),
                "retries": Retries.from_json(retries).to_json(),
                "memory_growth": self.memory_growth,
                "lifetime": None if self.lifetime is None else _model.parse_duration(self.lifetime, "lifetime"),
                "environ": dict(self.environ),
                "isolate": self.isolate,
                "tags": dict(self.tags),
                "notify": self.notify,
                "minor": _blobs.MINOR,
                "created_by": {"user": paths.user_name(), "host": paths.host_name(), "pid": os.getpid()},
            }
        )
        return dataclasses.replace(asked, directory=_directory())


def _directory() -> str | None:
    with contextlib.suppress(OSError):  # it was removed
        return str(Path.cwd())
    return None


class JobFunction(Generic[P, R]):
    """A function that can run as a job. Called, it runs here and now, as it always did."""

    def __init__(self, function: Callable[P, R], options: Options) -> None:
        self.__ports_function__ = function
        self.options = options
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function in this process; with a `cache`, its result can come from there."""
        if self.options.cache == "off":
            return self.__ports_function__(*args, **kwargs)
        found = _cache.call(self.__ports_function__, self.options.version, self.options.cache, args, kwargs)
        return cast("R", found)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Return a method of `instance`, which can be called and submitted as well."""
        if instance is None:
            return self
        return JobFunction(types.MethodType(self.__ports_function__, instance), self.options)

    def __reduce__(self) -> Any:
        name = getattr(self, "__qualname__", "")
        module = getattr(self, "__module__", None)
        found: Any = None if module in (None, "__main__") else sys.modules.get(str(module))
        for part in name.split("."):
            found = getattr(found, part, None)
        return name if found is self else (JobFunction, (self.__ports_function__, self.options))

    def __repr__(self) -> str:
        return f"<job function {_travel.short_name(self)}>"

    @brief
    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Submit one call, and return its job at once. It is durable then: this process can end.

        Raises
        ------
        UnsendableError
            The function or an argument cannot be sent; says which.
        UsageError
            It needs more than the machine has.
        TypeError
            The function does not take these arguments.
        """
        check_call(self.__ports_function__, args, kwargs)
        with _several.chosen(self._needs(), [(args, kwargs)]) as where:
            id, _ = _submit(self, [(args, kwargs)], None, None)
        return Job(id, self._name(None), where)

    @brief
    def map(self, *iterables: Iterable[Any], name: str | None = None) -> JobMap:
        """Submit a call for each item, as one submission, and return its jobs; raises as `submit`."""
        if not iterables:
            raise TypeError("map() must have at least one iterable, with an item for each job")
        calls: list[_travel.Call] = [(args, {}) for args in zip(*iterables, strict=False)]
        if not calls:
            return JobMap(None, 0, self._name(name))
        if len(calls) > _model.MOST_JOBS:
            raise UsageError(f"{len(calls)} jobs are too many for one map; submit up to {_model.MOST_JOBS} at once")
        check_call(self.__ports_function__, *calls[0])
        with _several.chosen(self._needs(), calls) as where:
            id, count = _submit(self, calls, len(calls), name)
        return JobMap(id, count or len(calls), self._name(name), where)

    def _needs(self) -> Needs:
        return self.options.submission("job").needs

    def _name(self, name: str | None) -> str:
        return name or self.options.name or _travel.short_name(self)


def check_call(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise TypeError if a function does not take these arguments: here and now, not where it runs.

    Only the signature of its own code counts: one that a decorator shows can be another function's.
    """
    if not isinstance(function, types.FunctionType | types.MethodType) or hasattr(function, "__signature__"):
        return
    try:
        inspect.signature(function, follow_wrapped=False).bind(*args, **kwargs)
    except ValueError:  # it has none
        return
    except TypeError as error:
        names = [one.name for one in dataclasses.fields(Options)]
        option = next((one for one in kwargs if one in names and f"{one!r}" in str(error)), None)
        way = f"; {option} of the job is given to @ports.job({option}=...)" if option is not None else ""
        raise TypeError(f"{_travel.short_name(function)}(): {error}{way}") from None


def _submit(
    function: JobFunction[Any, Any], calls: Sequence[_travel.Call], count: int | None, name: str | None
) -> tuple[JobId, int | None]:
    host = _where.current.get().host
    there = _client.python(host) or _blobs.MINOR
    is_far = host is not None
    made = _travel.pack if there == _blobs.MINOR else _travel.write
    parcel = made(function, calls, is_far=is_far)
    size = len(parcel.function) + sum(len(one) for one in parcel.arguments)
    if size > _blobs.LARGEST:
        raise UsageError(
            f"the arguments of {len(calls)} jobs have {size / 1e9:.1f} GB together, and at most 1 GB is submitted at "
            "once; pass paths of files, or submit in parts"
        )
    options = function.options if name is None else dataclasses.replace(function.options, name=name)
    submission = {**options.submission(parcel.name).to_json(), "minor": there}
    if is_far:
        submission["directory"] = None  # that of here need not be there
    if parcel.inputs:
        submission["inputs"] = parcel.inputs
    if there == _blobs.MINOR and (cache := _cache_of(function, calls, parcel.inputs)) is not None:
        submission["cache"] = cache
    key = secrets.token_hex(16)
    blobs = [parcel.function, *parcel.arguments]
    with _kept(host, key, parcel.kept):
        said = _client.ask("submit", blobs, host=host, key=key, submission=submission, count=count).header
    return _model.parse_id(said["id"]), said.get("count")


@contextlib.contextmanager
def _kept(host: str | None, key: str, contents: Mapping[str, bytes]) -> Iterator[None]:
    """Let another machine have the contents of files before what needs them; those of a refusal are let go."""
    if not contents:
        yield
        return
    from ports.jobs import _sending  # few functions have large files

    ask = functools.partial(_client.ask, host=host)
    _sending.keep(ask, key, contents, host=str(host))
    try:
        yield
    except (SSHError, ResourceLostError, TimedOutError):
        raise  # it can have arrived
    except PortsError:
        with contextlib.suppress(PortsError):
            ask("disk.forget", key=key)
        raise


def _cache_of(
    function: JobFunction[Any, Any], calls: Sequence[_travel.Call], inputs: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return what the queue and the child need to find results that are kept; None if nothing is cached."""
    options = function.options
    if options.cache == "off":
        return None
    try:
        known = _function_key.of_function(function, options.version)
    except NoDigestError as error:
        _cache.say_uncached(_travel.short_name(function), error)
        return None
    keys: list[str | None] = []
    for index, (args, kwargs) in enumerate(calls):
        keys.append(None)
        if str(index) not in inputs:  # else the key is known when the results are there
            try:
                found = _function_key.arguments(function.__ports_function__, tuple(args), kwargs)
                keys[-1] = _function_key.of_call(known, found)
            except NoDigestError as error:
                _cache.say_uncached(_travel.short_name(function), error)
    return {"policy": options.cache, "function": known.to_json(), "keys": keys}


# --- what users call ---


@overload
def job(function: Callable[P, R], /) -> JobFunction[P, R]: ...
@overload
def job(
    *,
    version: object = None,
    cpus: float = 1,
    memory: int | str | None = None,
    gpus: int = 0,
    timeout: float | str | None = None,
    retries: int | Mapping[str, int] = 0,
    memory_growth: float = 1,
    lifetime: float | str | None = None,
    cache: str = "off",
    environ: Mapping[str, str | None] = ...,
    isolate: bool = False,
    name: str | None = None,
    queue: str = "default",
    priority: int = 0,
    tags: Mapping[str, str] = ...,
    notify: bool = False,
) -> Callable[[Callable[P, R]], JobFunction[P, R]]: ...
def job(function: Any = None, /, **options: Any) -> Any:
    """Let a function be submitted as a job. Called, it is the plain function that it was.

    Parameters
    ----------
    version : object, optional
        What the cache knows the function by, instead of its source: ``"0.1.0"``.
    cpus : float
        Cores that it needs. Default: 1. Its numeric libraries use as many threads.
    memory : int or str, optional
        Bytes, or a text like ``"3GB"``, that it can use. It ends where it uses more. Default: no limit.
    gpus : int
        GPUs that it needs. Default: 0.
    timeout : float or str, optional
        Seconds, or a text like ``"1h"``, after which it is ended. Default: no limit.
    retries : int or mapping
        How often it runs again after an error, or for each of ``failure``, ``time``, ``lost`` and ``memory``. A job
        whose process or machine was lost runs again once unless ``lost`` is given.
    memory_growth : float
        By how much more memory the next attempt gets after one that used too much, at most all that there is: 1.5.
        Default: 1. It runs again as often as ``memory`` of `retries` says.
    lifetime : float or str, optional
        Seconds, or a text like ``"1h"``, after which it is cancelled if it has not begun. Default: it waits.
    cache : {"off", "use", "refresh", "only"}
        Take results from the cache and keep them there, in jobs and in plain calls: use them; run and keep them anew;
        never run.
    environ : mapping, optional
        Environment variables for it; None removes one.
    isolate : bool
        Run it in a process of its own.
    notify : bool
        Send a notice at its end, of a map one at the end of all, through the services of the setting ``jobs.notify``
        of the machine on which it runs.
    name, queue, priority, tags : optional
        How lists show it, and in which order it runs.

    Raises
    ------
    UsageError
        An option is unknown or invalid.

    Examples
    --------
    >>> import ports
    >>> @ports.job(version="0.1.0", cpus=2)
    ... def add_one(x):
    ...     return x + 1
    >>> add_one(41)
    42
    """
    known = [one.name for one in dataclasses.fields(Options)]
    if unknown := [name for name in options if name not in known]:
        raise UsageError(f"{unknown[0]} is no option of a job; there are {', '.join(known)}")
    chosen = Options(**options)
    _cache.check_policy(chosen.cache)
    chosen.submission("job")  # says what is wrong where it is written

    def decorate(one: Any) -> Any:
        if not callable(one):
            raise UsageError(f"{_model.short(one)} is no function; write @ports.job above one")
        return JobFunction(getattr(one, "__ports_function__", one), chosen)

    return decorate if function is None else decorate(function)


def _as_job_function(function: Any) -> JobFunction[Any, Any]:
    return function if isinstance(function, JobFunction) else cast("JobFunction[Any, Any]", job(function))


@brief
def submit(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Job:
    """Submit one call of `function`, decorated or not, and return its job at once; raises as `JobFunction.submit`.

    Jobs among the arguments, also inside of lists, dicts and dataclasses, are replaced by their results where it runs.
    """
    return _as_job_function(function).submit(*args, **kwargs)


@brief
def map(function: Callable[..., Any], /, *iterables: Iterable[Any], name: str | None = None) -> JobMap:
    """Submit a call of `function` for each item of `iterables`, as one submission; raises as `JobFunction.submit`."""
    return _as_job_function(function).map(*iterables, name=name)


@brief
def gather(
    jobs: Iterable[Job | JobMap] | Job | JobMap,
    *,
    timeout: float | str | None = None,
    errors: str = "raise",
    progress: bool | None = None,
) -> Any:
    """Wait for jobs, and return their results in the order of `jobs`.

    Parameters
    ----------
    jobs : JobMap, or iterable of jobs
        What `map` and `submit` returned. A map inside of a list gives a list. One job gives its result.
    timeout : float or str, optional
        Seconds, or a text like ``"5m"``, for all of them. Default: until all have ended.
    errors : {"raise", "return"}
        Raise the exception of the first job that fails; or return exceptions in the places of their results.
    progress : bool, optional
        Show a progress bar. Default: in a terminal and in a notebook.

    Raises
    ------
    TimedOutError
        Some had not ended after `timeout`. They go on, as they do after Ctrl-C.
    """
    if errors not in ("raise", "return"):
        raise UsageError(f"errors={errors!r} is neither 'raise' nor 'return'")
    if isinstance(jobs, Job):
        return gather([jobs], timeout=timeout, errors=errors, progress=progress)[0]
    ones = [of_one_machine(one) for one in ([jobs] if isinstance(jobs, JobMap) else jobs)]
    wanted = dict.fromkeys(inner for one in ones for inner in (one if isinstance(one, JobMap) else [one]))
    until = None if timeout is None else time.monotonic() + _model.parse_duration(timeout, "timeout")
    found: dict[Job, Any] = {}
    label = ones[0].name if len({one.name for one in ones}) == 1 else "jobs"
    look = functools.partial(_how_far, wanted, found) if len(wanted) <= _FEW else None
    try:
        with _progress.bar(len(wanted), label, progress, look) as count:
            for job, end in _each_end(ones, wanted, until):
                if end.state != FINISHED and errors == "raise":
                    raise end.exception(job)
                found[job] = end.value(job) if end.state == FINISHED else end.exception(job)
                count(1)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the jobs go on; cancel() of each ends it") from None
    lists = [[found[inner] for inner in one] if isinstance(one, JobMap) else found[one] for one in ones]
    return lists[0] if isinstance(jobs, JobMap) else lists


def _how_far(wanted: Iterable[Job], found: Mapping[Job, Any]) -> list[dict[str, Any]]:
    """Return how far the jobs are that run and say so."""
    rows = [job.status for job in wanted if job not in found]
    return [row["progress"] for row in rows if row.get("progress")]


def _each_end(
    ones: Sequence[Job | JobMap], wanted: Mapping[Job, None], until: float | None
) -> Iterable[tuple[Job, End]]:
    """Yield the end of each job once; of a map, in the order of the ends, from one stream."""
    groups: dict[tuple[str | None, int], list[Job]] = {}
    for job in wanted:
        groups.setdefault((job.host, job._id.number), []).append(job)
    whole = {(one.host, one._id.number): one for one in ones if isinstance(one, JobMap) and one._id is not None}
    for key, jobs in groups.items():
        left = None if until is None else max(0.0, until - time.monotonic())
        if key not in whole and (len(jobs) <= _FEW or jobs[0]._id.item is None):
            for job in jobs:
                left = None if until is None else max(0.0, until - time.monotonic())
                yield job, job._end(left)
            continue
        open_ = dict(zip(jobs, jobs, strict=True))
        some = JobMap(JobId(key[1]), _model.MOST_JOBS, "", jobs[0]._where)
        for one, end in whole.get(key, some).ends(left):
            if (job_ := open_.pop(one, None)) is not None:
                yield job_, end
            if not open_:
                break
        if open_:
            raise TimedOutError(f"job {next(iter(open_)).id}", left or 0)


class host:
    """Let the jobs that are submitted in a ``with`` run on a machine, and ids without a host be of that machine.

    Parameters
    ----------
    name : str or list of str, optional
        An alias of ``~/.ssh/config``. Default: this machine. Of several, ``"gpu1,gpu2"`` or a list, each job goes to
        the first that can begin it at once, else to the one with the shortest wait; `Job.host` says which.
    trust : bool
        Unpickle what that machine sends: it can run any code here then. Default: the setting
        ``ports.hosts.<alias>.trust``; without it numbers, texts, bytes, lists, tuples, sets, dicts and numpy arrays
        are read, and anything else is refused.

    Examples
    --------
    >>> with ports.host("server1"):      # doctest: +SKIP
    ...     job = fit.submit(data)
    >>> job.id, job.result()             # doctest: +SKIP
    ('server1:12', 42)
    """

    def __init__(self, name: str | Sequence[str] | None = None, *, trust: bool = False) -> None:
        if not isinstance(trust, bool):
            raise UsageError(f"trust={trust!r} is neither True nor False")
        self.name = name
        among = _where.aliases(name)
        one = among[0] if len(among) == 1 else None if among else _where.alias(name)
        self._where = _where.Where(one, trust, among if len(among) > 1 else ())
        self._before: list[Any] = []

    def __enter__(self) -> host:
        self._before.append(_where.current.set(self._where))
        return self

    def __exit__(self, *_: object) -> None:
        _where.current.reset(self._before.pop())


__all__ = ["JobFunction", "Needs", "Options", "gather", "host", "job", "map", "submit"]
