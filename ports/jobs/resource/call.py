"""One call in a child process: load the function and its arguments, run it, and pickle the result or the error."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import platform
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ports.errors import UnsendableError
from ports.jobs import _blobs, _modules

_MOST_FUNCTIONS, _MOST_BYTES = 128, 2**28  # that are kept loaded
_LONGEST_TRACEBACK = 2**15
_LARGEST_EXCEPTION = 2**15  # a larger one is told by its text
_WAYS = {
    "generator": "return list(...) of it",
    "coroutine": "await it inside of the function",
    "lock": "return plain data",
}


class Outcome(NamedTuple):
    """How a call ended.

    `state` is ``"finished"`` or ``"error"``. `blob` is the result, or the exception where it can be pickled, else
    empty. `error` has ``type``, ``text`` and ``traceback``. `note` goes into the job's row.
    """

    state: str
    blob: bytes
    error: dict[str, str] | None = None
    note: Mapping[str, str] = {}


class _Loaded(NamedTuple):
    call: Callable[..., Any]
    name: str
    tree: _modules.Tree
    is_plain: bool = False  # it came from another version of Python, and its result goes there
    carried: Mapping[str, Any] = {}  # the contents of files among the arguments, by their SHA-256
    is_far: bool = False  # it came from another machine, which reads plain data, and pickles where it trusts this one


# The functions of this process by their blobs, the modules by their content, and whose modules are imported now.
_functions: dict[bytes, _Loaded] = {}
_trees: dict[bytes, _modules.Tree] = {}
_active: _modules.Tree | None = None


def run(
    function: bytes,
    arguments: bytes,
    results: Mapping[str, bytes] = {},
    cache: Mapping[str, Any] | None = None,
) -> Outcome:
    """Call what `function` holds with what `arguments` holds. It raises nothing.

    Parameters
    ----------
    function, arguments : bytes
        As `ports.jobs._travel` packed them.
    results : mapping of str to bytes
        Results of the jobs among the arguments, by their ids.
    cache : mapping, optional
        ``policy``, ``function`` (`FunctionKey.to_json`) and ``key`` (None: it follows from the arguments). Default:
        nothing is looked up or kept.
    """
    loaded: _Loaded | None = None
    try:
        loaded = _function(function)
        if loaded.carried:
            from ports.jobs import _files  # few functions have any

            _files.here = loaded.carried
        args, kwargs = _blobs.load(
            arguments, f"the arguments of {loaded.name}()", results=lambda job: _result(results[job], job)
        )
        kept = _Kept(cache, loaded, args, kwargs) if cache and cache.get("policy") != "off" else None
        if kept is not None and (found := kept.find()) is not None:
            if loaded.is_far:
                found = _plain_if_possible(_blobs.load(found)) or found
            return Outcome("finished", found, None, {"cache": "hit", **kept.origin, **kept.name()})
        value = loaded.call(*args, **kwargs)
        if inspect.iscoroutine(value):
            import asyncio  # it takes 30 ms, and few functions need it

            value = asyncio.run(value)
    except BaseException as error:  # noqa: BLE001  whatever a job raises is its result, SystemExit too
        return _failed(error, loaded)
    return _finished(loaded, value, kept)


def warm(function: bytes) -> None:
    """Load what `function` holds and import what it needs, for forks of this process; `run` raises what is wrong."""
    with contextlib.suppress(Exception):
        _function(function)


class _Kept:
    """The entry of one call in the cache."""

    def __init__(
        self, cache: Mapping[str, Any], loaded: _Loaded, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        from ports.jobs import _cache, _function_key  # few functions are cached
        from ports.jobs._digest import NoDigestError

        self._cache, self._cached, self._policy = _cache, _cache.here(), cache["policy"]
        self._function = _function_key.FunctionKey.from_json(cache["function"])
        self._key, self._arguments = cache.get("key"), {}
        self.origin: dict[str, str] = {}  # the cache of others that had it
        try:  # before the call, which can change its arguments
            self._arguments = _function_key.arguments(loaded.call, args, kwargs)
            self._key = self._key or _function_key.of_call(self._function, self._arguments)
        except NoDigestError:  # who submitted it was told
            pass

    def find(self) -> bytes | None:
        """Return the blob of the result; None if the function must run."""
        if self._key is None or self._policy == "refresh":
            return None
        if (hit := self._cached.find(self._function, self._key)) is not None:
            self.origin = {"from": hit.directory} if hit.directory else {}
            return bytes(hit.data)
        if self._policy == "only":
            raise self._cache.not_cached(self._function, self._key, self._arguments)
        return None

    def name(self) -> dict[str, str]:
        """Return how the entry is found again."""
        return {"key": str(self._key), "function": self._function.name}

    def keep(self, made: _blobs.Dumped, needs: list[_modules.Source]) -> dict[str, str]:
        """Keep the result, and return what the job's row says of it."""
        if self._key is None:
            return {}
        try:
            self._cached.keep(self._function, self._key, self._arguments, self._cache.Result(made, needs))
        except Exception as error:  # noqa: BLE001  the disk is full: the result is there all the same
            return {"cache": f"not kept: {error}"}
        return {"cache": "kept", **self.name()}


def _function(blob: bytes) -> _Loaded:
    global _active
    loaded = _functions.get(blob)
    if loaded is not None:
        loaded.tree.activate(_active)
        _active = loaded.tree
        return loaded
    what = "the function"
    parts = _blobs.take_apart(blob, what)
    _blobs.check_minor(parts.header, what)
    sources = _modules.from_header(parts.header, parts.buffers)
    key = hashlib.sha256(b"\0".join(part for one in sources for part in (one.name.encode(), one.text))).digest()
    tree = _trees.setdefault(key, _modules.Tree({one.name: one for one in sources}))
    tree.activate(_active)
    _active = tree
    for file, text in parts.header.get("texts", {}).items():
        _modules.show_lines(file, text)
    name, is_plain = parts.header.get("name", "the function"), parts.header.get("how") == "source"
    if is_plain:
        from ports.jobs import _source  # few functions come from another version of Python

        found = _source.made(parts.head, parts.buffers, f"<{name}>")
    else:
        found = _blobs.load_parts(parts, what)
    call = getattr(found, "__ports_function__", found)  # of `@ports.job`: what it decorates
    names, last = parts.header.get("carried") or [], len(parts.buffers) - len(sources)
    carried = dict(zip(names, parts.buffers[last - len(names) : last], strict=True))
    loaded = _Loaded(call, name, tree, is_plain, carried, parts.header.get("results") == "plain")
    while _functions and (len(_functions) >= _MOST_FUNCTIONS or sum(map(len, _functions)) > _MOST_BYTES):
        del _functions[next(iter(_functions))]
    _functions[blob] = loaded
    return loaded


def _result(blob: bytes, job: str) -> Any:
    """Return the result of another job, with the modules that it needs."""
    what = f"the result of job {job}"
    parts = _blobs.take_apart(blob, what)
    if _active is not None:
        _active.add(_modules.from_header(parts.header, parts.buffers))
    return _blobs.load_parts(parts, what)


def _finished(loaded: _Loaded, value: Any, kept: _Kept | None) -> Outcome:
    try:
        if loaded.is_plain:
            return Outcome("finished", _blobs.plain(value))
        plain = _plain_if_possible(value) if loaded.is_far else None
        if plain is not None and kept is None:
            return Outcome("finished", plain)
        made = _blobs.pickled(value)
    except Exception as error:  # noqa: BLE001  whatever an object raises when it is pickled
        return _unsendable(loaded.name, value, error)
    needs = _modules.with_needs(made.modules, loaded.tree.sources)
    buffers = [*made.buffers, *(one.text for one in needs)]
    said = {"modules": _modules.as_header(needs)} if needs else {}
    blob = b"".join(_blobs.pieces(made.head, buffers, **said))
    if len(blob) > _blobs.LARGEST:
        text = (
            f"the result of {loaded.name}() has {len(blob) / 1e9:.1f} GB, and a result has at most 1 GB; "
            "write it to a file, and return the path"
        )
        return Outcome("error", b"", {"type": "UnsendableError", "text": text, "traceback": ""})
    return Outcome("finished", plain or blob, None, kept.keep(made, needs) if kept is not None else {})


def _plain_if_possible(value: Any) -> bytes | None:
    """Return `value` as plain data; None if it is something else, or too large for that."""
    try:
        made = _blobs.plain(value)
    except Exception:  # noqa: BLE001  whatever it is then
        return None
    return made if len(made) <= _blobs.LARGEST else None


def _unsendable(name: str, value: Any, error: Exception) -> Outcome:
    kind = type(value).__name__
    way = _WAYS.get(kind, "return plain data, or write it to a file and return ports.File(path)")
    text = f"the result of {name}(), a {kind}, cannot be sent: {error}"
    text += "" if isinstance(error, UnsendableError) and kind == "File" else f"; {way}"
    return Outcome("error", b"", {"type": "UnsendableError", "text": text, "traceback": ""})


def _failed(error: BaseException, loaded: _Loaded | None) -> Outcome:
    _say_what_is_missing(error)
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in (__file__, _blobs.__file__):
        trace = trace.tb_next
    try:
        lines = traceback.TracebackException(type(error), error, trace, compact=True).format()
        text = _shortened("".join(lines))
    except Exception:  # noqa: BLE001  an exception whose own methods raise
        text = f"{type(error).__name__}: its traceback cannot be shown"
    said = {"type": type(error).__name__, "text": _text_of(error), "traceback": text}
    try:
        blob = _exception(error, loaded)
        _blobs.load(blob)  # some exceptions are pickled well and cannot be read again
    except Exception:  # noqa: BLE001
        blob = b""
    return Outcome("error", blob if len(blob) <= _LARGEST_EXCEPTION else b"", said)


def _say_what_is_missing(error: BaseException) -> None:
    """Let the error of an import say on which machine and in which environment the module is missing."""
    name = str(getattr(error, "name", None) or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or not name or " on " in str(error):
        return
    with contextlib.suppress(ImportError, ValueError):
        if name in sys.modules or importlib.util.find_spec(name) is not None:
            return  # a part of it is missing
    error.msg = (
        f"{error.msg or error} on {platform.node()}, in Python {_blobs.MINOR} of {sys.prefix}; install the package "
        f"that has it there, as `{sys.executable} -m pip install {name}`, or put {name}.py beside what you submit"
    )
    error.args = (error.msg,)


def _exception(error: BaseException, loaded: _Loaded | None) -> bytes:
    if loaded is not None and loaded.is_plain:
        return _blobs.plain_exception(error)
    if loaded is not None and loaded.is_far:
        with contextlib.suppress(UnsendableError):
            return _blobs.plain_exception(error)
    return _pickled_exception(error)


def _pickled_exception(error: BaseException) -> bytes:
    made = _blobs.pickled(error)
    needs = _modules.with_needs(made.modules, _active.sources) if _active else []
    buffers = [*made.buffers, *(one.text for one in needs)]
    return b"".join(_blobs.pieces(made.head, buffers, modules=_modules.as_header(needs)))


def _text_of(error: BaseException) -> str:
    try:
        return _shortened(str(error))
    except Exception:  # noqa: BLE001
        return "its text cannot be shown"


def _shortened(text: str) -> str:
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(text) <= _LONGEST_TRACEBACK:
        return text
    half = _LONGEST_TRACEBACK // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters …\n{text[-half:]}"


def forget() -> None:
    """Forget all functions and modules; for tests."""
    global _active
    if _active is not None:
        _modules.Tree({}).activate(_active)
    _active = None
    _functions.clear()
    _trees.clear()


def flush() -> None:
    """Write out what the job printed."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # noqa: BLE001  a job may have closed it, or put its own there
            pass
