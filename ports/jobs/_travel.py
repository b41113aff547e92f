"""How a function and its arguments leave this process: pickled, with the local modules that they need as source.

Within a minor version of Python they are pickled (`_blobs`). What cannot be pickled is refused here, before anything is
submitted.
"""

from __future__ import annotations

import functools
import inspect
import linecache
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ports.errors import RecordError, UnsendableError, UntrustedError
from ports.jobs import _blobs, _files, _modules, _source

_LARGEST_TEXT = 2**18

Call = tuple[Sequence[Any], Mapping[str, Any]]


@dataclass(frozen=True)
class Parcel:
    """What is submitted: one function, the arguments of each call, and the jobs whose results the calls need."""

    name: str
    function: bytes
    arguments: list[bytes]
    inputs: dict[str, list[str]]
    sources: dict[str, _modules.Source]
    kept: Mapping[str, bytes] = field(default_factory=dict)  # what goes by itself, by its SHA-256


def pack(function: Callable[..., Any], calls: Iterable[Call], *, is_far: bool = False) -> Parcel:
    """Return `function` and the arguments of its calls as blobs. Results from afar come as plain data if they can.

    Raises
    ------
    UnsendableError
        The function or an argument cannot be pickled, or is too large.
    """
    arguments: list[bytes] = []
    inputs: dict[str, list[str]] = {}
    modules: set[str] = set()
    carried = _files.Carried(is_far=is_far)
    for index, (args, kwargs) in enumerate(calls):
        try:
            made = _blobs.pickled((tuple(args), dict(kwargs)), replace_jobs=True, carried=carried)
        except UnsendableError:  # a job of another machine, or a file that is not there
            raise
        except Exception as error:
            raise _bad_arguments(function, args, kwargs, error) from error
        blob = _blobs.joined(made)
        if len(blob) > _blobs.LARGEST:
            raise _too_large(f"the arguments of {short_name(function)}() have", len(blob))
        arguments.append(blob)
        modules |= made.modules
        if made.jobs:
            inputs[str(index)] = list(made.jobs)
    try:
        made = _blobs.pickled(function)
    except Exception as error:
        raise _bad_function(function, error) from error
    sources = _modules.collect(modules | made.modules)
    name = short_name(function)
    buffers = [*made.buffers, *carried.contents.values(), *(one.text for one in sources.values())]
    said: dict[str, Any] = {"carried": list(carried.contents)} if carried.contents else {}
    said |= {"name": name, "modules": _modules.as_header(sources.values()), "texts": _texts_of(made.files)}
    said |= {"results": "plain"} if is_far else {}
    blob = b"".join(_blobs.pieces(made.head, buffers, **said))
    if len(blob) > _blobs.LARGEST:
        raise _too_large(f"{name}() and what it uses have", len(blob))
    return Parcel(name, blob, arguments, inputs, sources, carried.kept)


def write(function: Callable[..., Any], calls: Iterable[Call], *, is_far: bool = False) -> Parcel:
    """Do as `pack`, for another minor version of Python: the source of `function`, and arguments as plain values.

    Raises
    ------
    UnsendableError
        The function has no source, or an argument is of a kind that does not travel so.
    """
    name = short_name(function)
    arguments: list[bytes] = []
    inputs: dict[str, list[str]] = {}
    carried = _files.Carried(is_far=is_far)
    try:
        for index, (args, kwargs) in enumerate(calls):
            jobs: dict[str, None] = {}
            note = functools.partial(jobs.setdefault)
            arguments.append(_blobs.plain((tuple(args), dict(kwargs)), note, carried))
            if jobs:
                inputs[str(index)] = list(jobs)
        written = _source.Written(function)
    except UnsendableError as error:
        raise UnsendableError(f"{name}() cannot be sent to another version of Python: {error}") from None
    sources = _modules.collect(written.modules)
    buffers = [*written.buffers, *carried.contents.values(), *(one.text for one in sources.values())]
    said = {
        "carried": list(carried.contents),
        "how": "source",
        "name": name,
        "modules": _modules.as_header(sources.values()),
    }
    blob = b"".join(_blobs.pieces(written.head, buffers, **said))
    return Parcel(name, blob, arguments, inputs, sources, carried.kept)


def _texts_of(files: Iterable[str]) -> dict[str, str]:
    """Return the text of notebook cells and scripts, for tracebacks where there is no such file."""
    texts = {file: "".join(linecache.getlines(file)) for file in files}
    return {file: text for file, text in texts.items() if 0 < len(text) <= _LARGEST_TEXT}


def unpack(blob: bytes, what: str) -> Any:
    """Return a result that came back. Modules that this process lacks come from the blob.

    Raises
    ------
    RecordError
        It is damaged, of another minor version of Python, or needs a module that is missing here.
    """
    return load_result(_blobs.take_apart(blob, what), what)


def read(blob: bytes, what: str, host: str) -> Any:
    """Return a result that `host` sent, if it is plain data: nothing is unpickled or imported.

    Raises
    ------
    UntrustedError
        It was pickled: unpickling lets that host run any code here.
    RecordError
        It is damaged.
    """
    parts = _blobs.take_apart(blob, what)
    if parts.header.get("how") not in _blobs.SAFE:
        raise UntrustedError(host, what)
    return _blobs.load_parts(parts, what)


def load_result(parts: _blobs.Blob, what: str) -> Any:
    """Do as `unpack`, from what `take_apart` returned."""
    if parts.header.get("modules"):
        carried = _modules.from_header(parts.header, parts.buffers)
        _carried.add([one for one in carried if _modules.is_missing(one.name)])
    try:
        return _blobs.load_parts(parts, what)
    except ImportError as error:
        raise RecordError(f"{what} needs a module that is missing here: {error}; install it, and ask again") from error


_carried = _modules.Tree({}, is_last=True)  # what results brought along and this process has not


# --- names ---


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function below ``@ports.job`` and ``functools.partial``."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif (inner := getattr(function, "__ports_function__", None)) is not None:
            function = inner
        else:
            return function


def short_name(function: Callable[..., Any]) -> str:
    """Return what a user calls it: ``fit``."""
    found = plain(function)
    return str(getattr(found, "__name__", type(found).__name__))


def qualified_name(function: Callable[..., Any]) -> str:
    """Return ``module.fit``, by which the cache knows it."""
    found = plain(function)
    kind = found if hasattr(found, "__qualname__") else type(found)
    return f"{kind.__module__}.{kind.__qualname__}"


# --- what cannot be sent ---


def _too_large(what: str, size: int) -> UnsendableError:
    return UnsendableError(f"{what} {size / 1e9:.1f} GB, and at most 1 GB can be sent; pass the path of a file instead")


def _bad_arguments(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], error: Exception
) -> UnsendableError:
    name = short_name(function)
    named = [(_name_of_argument(function, place), value) for place, value in enumerate(args)]
    for argument, value in [*named, *((f"argument {key!r}", value) for key, value in kwargs.items())]:
        if (reason := _why_not(value)) is not None:
            return UnsendableError(
                f"{argument} of {name}(), a {type(value).__name__}, cannot be sent: {reason}; "
                f"make it inside of {name}(), or pass plain data or a path"
            )
    return UnsendableError(f"the arguments of {name}() cannot be sent: {error}; pass plain data or a path")


def _name_of_argument(function: Callable[..., Any], place: int) -> str:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return f"argument {place + 1}"
    positional = [one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    return f"argument {positional[place]!r}" if place < len(positional) else f"argument {place + 1}"


def _bad_function(function: Callable[..., Any], error: Exception) -> UnsendableError:
    name = short_name(function)
    for used, value in _used_by(plain(function)):
        if (reason := _why_not(value)) is not None:
            return UnsendableError(
                f"{name}() cannot be sent, because it uses {used!r}, a {type(value).__name__}: {reason}; "
                f"make {used} inside of {name}(), or put both into a module beside this file and import it"
            )
    return UnsendableError(
        f"{name}() cannot be sent: {error}; define it in a module beside this file, and import it from there"
    )


def _used_by(function: Any) -> list[tuple[str, Any]]:
    if isinstance(function, types.MethodType):
        return [(type(function.__self__).__name__, function.__self__), *_used_by(function.__func__)]
    if not isinstance(function, types.FunctionType):
        return []
    found = inspect.getclosurevars(function)
    return [*found.nonlocals.items(), *found.globals.items()]


def _why_not(value: Any) -> str | None:
    try:
        _blobs.pickled(value, replace_jobs=True)
    except Exception as error:  # noqa: BLE001  whatever an object raises when it is pickled
        return str(error) or type(error).__name__
    return None
