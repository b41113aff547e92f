"""What functions, arguments and results travel and are kept in: a header, a pickle, and its large buffers beside it.

::

    b"PT01" · length of the header (uint32) · header (JSON) · pickle · zeros to a multiple of 64 · buffer · zeros · …

The header is read, and the sizes are checked, before anything is unpickled: between minor versions of Python some
pickles work and others crash the process. Buffers are aligned, so a mapped file serves as an array without a copy.

>>> load(dump({"a": 1}))
{'a': 1}
"""

from __future__ import annotations

import builtins
import functools
import io
import json
import pickle
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import cloudpickle

from ports.errors import RecordError, UnsendableError
from ports.jobs import _modules, _plain

MAGIC = b"PT01"
FORMAT = 1
MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
SAFE = ("plain", "exception")  # how a blob is written of which nothing is unpickled
LARGEST = 2**30 - 2**20  # the protocol carries 1 GiB at once

_FIXED = struct.Struct("<4sI")
_ALIGNED = 64
_LARGEST_HEADER = 2**24
_SHORT_HEADER = 256  # bytes; those of most values, which are remembered
_BESIDE = 4096  # a smaller buffer is cheaper inside of the pickle
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
_PADDING = bytes(_ALIGNED)
_encode = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make one each time


class Blob(NamedTuple):
    """One blob, taken apart: nothing is unpickled yet."""

    header: dict[str, Any]
    head: memoryview
    buffers: list[memoryview]


class Dumped(NamedTuple):
    """What a value was pickled to, and which modules and jobs it refers to; `files` hold functions that went along."""

    head: bytes
    buffers: list[memoryview]
    modules: frozenset[str]
    jobs: tuple[str, ...]
    files: frozenset[str] = frozenset()


class Placeholder:
    """Stands in a pickle for the result of a job; `load` puts the result there."""


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle's, which notes the modules that it meets, and puts placeholders where jobs stand."""

    def __init__(
        self, file: io.BytesIO, keep: Callable[[pickle.PickleBuffer], bool], *, replace_jobs: bool, carried: Any
    ) -> None:
        super().__init__(file, protocol=5, buffer_callback=keep)
        self.modules: set[str] = set()
        self.files: set[str] = set()
        self.jobs: dict[str, None] = {}
        self._replaces, self._carried = replace_jobs, carried

    def reducer_override(self, obj: Any) -> Any:
        """Note which module `obj` is of; cloudpickle decides how it is pickled."""
        kind = type(obj)
        if self._replaces and (name := getattr(kind, "__ports_job__", None)) is not None:
            self.jobs[id_ := name(obj)] = None
            return Placeholder, (id_,)
        if self._replaces and (parts := getattr(kind, "__ports_jobs__", None)) is not None:
            return list, (parts(obj),)
        if (reduce := getattr(kind, "__ports_file__", None)) is not None:
            return reduce(obj, self._carried)
        module = getattr(obj, "__name__" if kind is _MODULE else "__module__", None)
        if isinstance(module, str):
            self.modules.add(module)
        if kind is _FUNCTION:
            self.modules.update(_modules.imported_by(obj.__code__, obj.__globals__))
        elif kind is _CODE:
            self.files.add(obj.co_filename)
            function, arguments, *rest = self.dispatch_table[kind](obj)
            named = (obj.co_filename if one == _NO_FILE else one for one in arguments)  # for tracebacks
            return function, tuple(named), *rest
        return super().reducer_override(obj)


_CODE = type((lambda: None).__code__)
_NO_FILE = "<dynamic-code>"
_MODULE, _FUNCTION = type(sys), type(lambda: None)


class _Unpickler(pickle.Unpickler):
    """Puts the results of jobs where their placeholders are."""

    def __init__(self, head: memoryview, buffers: Sequence[Any], result_of: Callable[[str], Any]) -> None:
        super().__init__(io.BytesIO(head), buffers=buffers)
        self._result_of = result_of

    def find_class(self, module: str, name: str) -> Any:
        if name == "Placeholder" and module == __name__:
            return self._result_of
        return super().find_class(module, name)


def pickled(value: Any, *, replace_jobs: bool = False, carried: Any = None) -> Dumped:
    """Pickle `value`; raises whatever pickling raises.

    Parameters
    ----------
    value : object
        Functions and classes of ``__main__`` travel by value, others by the names of their modules.
    replace_jobs : bool
        Put a placeholder where a job stands. Default: a job is pickled as its id.
    carried : `_files.Carried`, optional
        Takes the contents of files. Default: they are pickled with `value`.
    """
    if type(value) in _PLAIN:
        return Dumped(pickle.dumps(value, 5), [], frozenset(), ())
    buffers: list[memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < _BESIDE:
            return True
        buffers.append(raw)
        return False

    file = io.BytesIO()
    pickler = Pickler(file, keep, replace_jobs=replace_jobs, carried=carried)
    pickler.dump(value)
    return Dumped(file.getvalue(), buffers, frozenset(pickler.modules), tuple(pickler.jobs), frozenset(pickler.files))


def pieces(head: bytes, buffers: Sequence[Any], **header: Any) -> list[Any]:
    """Return the parts of a blob, which a file takes one after the other without a copy of the buffers."""
    if not buffers and not header:
        return [_beginning(len(head)), head]
    text = _header_text(len(head), [memoryview(one).nbytes for one in buffers], header)
    found: list[Any] = [_FIXED.pack(MAGIC, len(text)), text, head]
    if buffers:
        found.append(_padding(_FIXED.size + len(text) + len(head)))
        for one in buffers:
            found += [one, _padding(memoryview(one).nbytes)]
    return found


def _header_text(size: int, sizes: Sequence[int], header: Mapping[str, Any]) -> bytes:
    fixed = {"format": FORMAT, "how": "pickle", "minor": MINOR}
    return _encode({**fixed, **header, "head": size, "buffers": sizes}).encode()


@functools.lru_cache(maxsize=1024)
def _beginning(size: int) -> bytes:
    """Return what stands before a pickle of so many bytes without buffers: most arguments and results are so."""
    text = _header_text(size, (), {})
    return _FIXED.pack(MAGIC, len(text)) + text


def _padding(size: int) -> bytes:
    return _PADDING[: -size % _ALIGNED]


def joined(made: Dumped, **header: Any) -> bytes:
    """Return what was pickled as one blob."""
    if made.jobs:
        header["jobs"] = True
    return b"".join(pieces(made.head, made.buffers, **header))


def dump(value: Any) -> bytes:
    """Return `value` as a blob; raises whatever pickling raises."""
    made = pickled(value)
    return joined(made)


def take_apart(blob: Any, what: str = "this blob") -> Blob:
    """Check `blob` (bytes or a mapped file), and return its parts without copying them.

    Raises
    ------
    RecordError
        It is not whole, or of a newer format. `what` begins the sentence: ``"the result of job 12"``.
    """
    view = memoryview(blob)
    if view.nbytes < _FIXED.size or bytes(view[:4]) != MAGIC:
        raise RecordError(f"{what} is damaged: it does not begin as a value of ports does")
    _, length = _FIXED.unpack(view[: _FIXED.size])
    try:
        if length > _LARGEST_HEADER:
            raise ValueError
        text = bytes(view[_FIXED.size : _FIXED.size + length])
        header, sizes = _read_header(text) if length > _SHORT_HEADER else _read_short_header(text)
        newer = header["format"] > FORMAT
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RecordError(f"{what} is damaged: its header cannot be read") from error
    if newer:
        raise RecordError(f"{what} has format {header['format']}; upgrade ports with `pip install --upgrade ports`")
    place = _FIXED.size + length
    parts = [view[place : place + sizes[0]]]
    place += sizes[0]
    for size in sizes[1:]:
        place += -place % _ALIGNED
        parts.append(view[place : place + size])
        place += size
    if view.nbytes != place + (-place % _ALIGNED if len(sizes) > 1 else 0):
        raise RecordError(f"{what} is damaged: it has {view.nbytes} bytes, and its header says {place}")
    return Blob(header, parts[0], parts[1:])


def _read_header(text: bytes) -> tuple[dict[str, Any], list[int]]:
    """Return a header, and how many bytes its pickle and its buffers have; raises what a damaged one raises."""
    header = json.loads(str(text, "utf-8"))
    sizes = [header["head"], *header["buffers"]]
    if not all(type(one) is int and one >= 0 for one in sizes):
        raise ValueError
    return header, sizes


@functools.lru_cache(maxsize=1024)
def _read_short_header(text: bytes) -> tuple[dict[str, Any], list[int]]:
    """Do as `_read_header`: the values of many jobs have the same one, which nobody changes."""
    return _read_header(text)


def load(blob: Any, what: str = "this blob", *, results: Callable[[str], Any] | None = None) -> Any:
    """Return the value in `blob`; raises RecordError before anything of another minor version is unpickled.

    What unpickling raises comes through. Arrays can be written to. They share the memory of `blob` if that can be
    written to (a mapped file).

    Parameters
    ----------
    results : callable
        Job's id -> its result, for the placeholders of jobs.
    """
    return load_parts(take_apart(blob, what), what, results=results)


def load_parts(parts: Blob, what: str, *, results: Callable[[str], Any] | None = None) -> Any:
    """Do as `load`, from what `take_apart` returned."""
    check_minor(parts.header, what)
    if parts.header.get("how") == "plain":
        return _plain.decode(parts.head, parts.buffers, results)
    if parts.header.get("how") == "exception":
        return _exception(*_plain.decode(parts.head, parts.buffers))
    buffers = [bytearray(one) if one.readonly else one for one in parts.buffers]
    if not parts.header.get("jobs"):
        return pickle.loads(parts.head, buffers=buffers)
    return _Unpickler(parts.head, buffers, results or _no_result).load()


def plain(value: Any, on_job: Callable[[str], None] | None = None, carried: Any = None) -> bytes:
    """Return `value` as a blob that every version of Python reads; raises UnsendableError."""
    text, buffers = _plain.encode(value, on_job, carried)
    return b"".join(pieces(text, buffers, how="plain"))


def plain_exception(error: BaseException) -> bytes:
    """Return one of Python's own exceptions as a blob that every version reads; raises UnsendableError."""
    kind = type(error)
    if kind.__module__ != "builtins":
        raise UnsendableError(f"{kind.__name__} is not of Python itself")
    text, buffers = _plain.encode((kind.__name__, error.args))
    return b"".join(pieces(text, buffers, how="exception"))


def _exception(name: str, args: tuple[Any, ...]) -> BaseException:
    kind = getattr(builtins, name, None)
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        raise RecordError(f"{name!r} is no exception of this version of Python")
    return kind(*args)


def check_minor(header: Mapping[str, Any], what: str) -> None:
    """Raise RecordError if another minor version of Python pickled it."""
    if header.get("how") == "pickle" and header.get("minor") != MINOR:
        raise RecordError(
            f"{what} was pickled by Python {header.get('minor')}, and this is Python {MINOR}; "
            f"read it with Python {header.get('minor')}"
        )


def _no_result(job: str) -> Any:
    raise RecordError(f"the result of job {job} is missing here")
