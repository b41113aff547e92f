"""Values between two minor versions of Python: JSON, and bytes and arrays beside it. Nothing is pickled or run.

>>> text, buffers = encode({"a": (1, b"x")})
>>> decode(text, buffers)
{'a': (1, b'x')}
"""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ports.errors import RecordError, UnsendableError

KINDS = "numbers, texts, bytes, lists, tuples, sets, dicts, numpy arrays, Arrow tables and ports.File"
_LISTS: dict[str, type] = {"l": list, "t": tuple, "s": set, "z": frozenset}
_LETTERS = {kind: letter for letter, kind in _LISTS.items()}
_SAFE_ARROW = 15  # before, a stream could name extension types that are unpickled
_SAFE = 2**53  # larger integers are not the same in every JSON


def encode(value: Any, on_job: Callable[[str], None] | None = None, carried: Any = None) -> tuple[bytes, list[Any]]:
    """Return `value` as JSON and buffers.

    Parameters
    ----------
    on_job : callable, optional
        Called with the id of each job, whose result takes its place. Default: a job is refused.
    carried : `_files.Carried`, optional
        Takes the contents of files. Default: they are among the buffers.

    Raises
    ------
    UnsendableError
        It is of another kind.
    """
    buffers: list[Any] = []

    def write(one: Any) -> Any:
        kind = type(one)
        if one is None or kind in (bool, str):
            return one
        if kind is int:
            return one if -_SAFE < one < _SAFE else {"i": hex(one)}
        if kind is float:
            return one if math.isfinite(one) else {"f": repr(one)}
        if kind is complex:
            return {"c": [write(one.real), write(one.imag)]}
        if kind in (bytes, bytearray):
            buffers.append(one)
            return {"b": len(buffers) - 1, "m": kind is bytearray}
        if kind in _LETTERS:
            return {_LETTERS[kind]: [write(inner) for inner in one]}
        if kind is dict:
            return {"d": [[write(key), write(inner)] for key, inner in one.items()]}
        if on_job is not None and (name := getattr(kind, "__ports_job__", None)) is not None:
            on_job(name(one))
            return {"j": name(one)}
        if on_job is not None and (parts := getattr(kind, "__ports_jobs__", None)) is not None:
            return write(list(parts(one)))
        if hasattr(kind, "__ports_file__"):
            return _file(one, buffers, carried)
        return _table(one, buffers) or _array(one, buffers)

    try:
        text = json.dumps(write(value), separators=(",", ":"), allow_nan=False)
    except RecursionError:
        raise UnsendableError(f"a {type(value).__name__} contains itself, or is nested too deeply") from None
    return text.encode("utf-8", "surrogatepass"), buffers


def _file(value: Any, buffers: list[Any], carried: Any) -> dict[str, Any]:
    if carried is not None:
        return {"F": [value.name, carried.add(value)]}
    buffers.append(value.read())
    return {"F": [value.name, len(buffers) - 1]}


def _table(value: Any, buffers: list[Any]) -> dict[str, Any] | None:
    """Write an Arrow table, or a table of pandas as one; None where it is something else."""
    arrow: Any = sys.modules.get("pyarrow")
    pandas = sys.modules.get("pandas")
    is_frame = pandas is not None and type(value) is pandas.DataFrame
    if is_frame:
        try:
            import pyarrow as arrow  # type: ignore[import-not-found,no-redef]
        except ImportError:
            raise UnsendableError(
                "a DataFrame travels between versions of Python as an Arrow table; install pyarrow here and there"
            ) from None
        table = arrow.Table.from_pandas(value)
    elif arrow is not None and isinstance(value, arrow.Table):
        table = value
    else:
        return None
    sink = arrow.BufferOutputStream()
    with arrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    buffers.append(memoryview(sink.getvalue()))
    return {"w": len(buffers) - 1, "p": is_frame}


def _read_table(data: Any, is_frame: bool) -> Any:
    kind = "DataFrame" if is_frame else "Arrow table"
    try:
        import pyarrow
        import pyarrow.ipc  # type: ignore[import-not-found]
    except ImportError:
        raise RecordError(
            f"a value is a {kind}, and pyarrow is missing here; install it with `pip install pyarrow`"
        ) from None
    if int(pyarrow.__version__.partition(".")[0]) < _SAFE_ARROW:
        raise RecordError(
            f"a value is a {kind}, and pyarrow {pyarrow.__version__} can run code that is in one; "
            f"install pyarrow {_SAFE_ARROW} or newer"
        )
    with pyarrow.ipc.open_stream(bytes(data)) as reader:
        table = reader.read_all()
    return table.to_pandas() if is_frame else table


def _is_plain_array(value: Any, numpy: Any) -> bool:
    """Say whether the content of an array or scalar is all of it: a mask, a class or a dtype of others is more."""
    kind = type(value)
    is_scalar = isinstance(value, numpy.generic) and kind is value.dtype.type
    if not (is_scalar or kind in (numpy.ndarray, numpy.memmap)) or value.dtype.hasobject:
        return False
    descr = numpy.lib.format.dtype_to_descr(value.dtype)
    return bool(numpy.lib.format.descr_to_dtype(descr) == value.dtype and value.dtype.type is not numpy.record)


def _array(value: Any, buffers: list[Any]) -> dict[str, Any]:
    numpy = sys.modules.get("numpy")
    if numpy is None or not _is_plain_array(value, numpy):
        raise UnsendableError(f"a {type(value).__name__} does not travel between versions of Python; {KINDS} do")
    file = io.BytesIO()
    numpy.lib.format.write_array(file, numpy.asarray(value), allow_pickle=False)
    buffers.append(file.getvalue())
    return {"g" if isinstance(value, numpy.generic) else "a": len(buffers) - 1}


def decode(text: Any, buffers: Sequence[Any], result_of: Callable[[str], Any] | None = None) -> Any:
    """Return the value; raises RecordError if it is damaged."""
    try:
        return _read(json.loads(bytes(text).decode("utf-8", "surrogatepass")), buffers, result_of)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise RecordError(f"a value is damaged: {error}") from error


def _read(one: Any, buffers: Sequence[Any], result_of: Callable[[str], Any] | None) -> Any:
    if not isinstance(one, dict):
        if isinstance(one, list):
            raise ValueError("a list without a kind")
        return one
    if not one:
        raise ValueError("an object without a kind")
    letter, content = next(iter(one.items()))
    if letter in _LISTS:
        return _LISTS[letter](_read(inner, buffers, result_of) for inner in content)
    if letter == "d":
        pairs = [(_read(key, buffers, result_of), _read(inner, buffers, result_of)) for key, inner in content]
        return dict(pairs)
    if letter in "if":
        return int(content, 16) if letter == "i" else float(content)
    if letter == "c":
        return complex(*(_read(part, buffers, result_of) for part in content))
    if letter == "b":
        return bytearray(buffers[content]) if one["m"] else bytes(buffers[content])
    if letter in "ag":
        import numpy

        found = numpy.lib.format.read_array(io.BytesIO(bytes(buffers[content])), allow_pickle=False)
        return found if letter == "a" else found[()]
    if letter == "w":
        return _read_table(buffers[content], bool(one["p"]))
    if letter == "F":
        from ports.jobs import _files  # few values are files

        name, place = str(content[0]), content[1]
        return _files.brought(name, place) if isinstance(place, str) else _files.received(name, buffers[place])
    if letter == "j" and result_of is not None:
        return result_of(str(content))
    raise ValueError(f"an unknown kind {letter!r}")
