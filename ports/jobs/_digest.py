"""The digest of a value: SHA-256 of what it is, the same in every process, on every machine and in every version.

Each value is written as a letter for its type, its length where that varies, and its content; sets and dicts in the
order of their items' digests. These bytes are fixed for ever, because entries of the cache are found by them:
`tests/unit/test_job_digest.py` holds a table.

>>> digest({"b": 1, "a": [2.0, None]}) == digest({"a": [2.0, None], "b": 1})
True
>>> digest(1) == digest(True)
False
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import hashlib
import math
import pathlib
import struct
import sys
import types
import uuid
from collections.abc import Callable, Iterable
from typing import Any

_LENGTH = struct.Struct(">Q")
_DOUBLE = struct.Struct(">d")
_NAN = _DOUBLE.pack(float("nan"))
_PIECE = 1 << 16

Add = Callable[[Any], Any]


class NoDigestError(Exception):
    """A value that has no digest. `what` says which: ``"a Client in argument 'client'"``."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


def digest(value: Any) -> str:
    """Return the SHA-256 of `value`, 64 hexadecimal digits.

    A class can say what counts of its instances: an attribute or method ``__ports_key__`` that has a digest itself.

    Raises
    ------
    NoDigestError
        It is, or contains, a value of a kind that has none.
    """
    return _hash(value).hex()


def _hash(value: Any) -> bytes:
    if type(value) in _ONE_PIECE:
        few: list[Any] = []
        _WRITERS[type(value)](value, few.append)
        return hashlib.sha256(b"".join(few)).digest()
    made = hashlib.sha256()
    pieces: list[Any] = []
    size = 0

    def add(piece: Any) -> None:
        nonlocal size
        pieces.append(piece)
        size += len(piece)
        if size > _PIECE:
            for one in pieces:  # one update is for one piece: large arrays are not copied
                made.update(one)
            pieces.clear()
            size = 0

    try:
        _write(value, add)
    except RecursionError:
        raise NoDigestError(f"a {type(value).__name__} that contains itself, or is nested too deeply") from None
    for one in pieces:
        made.update(one)
    return made.digest()


def _write(value: Any, add: Add) -> None:
    writer = _WRITERS.get(type(value))
    if writer is not None:
        writer(value, add)
        return
    for is_kind, write in _KINDS:
        if is_kind(value):
            write(value, add)
            return
    raise NoDigestError(f"a {_name(type(value))}")


def _sized(letter: bytes, content: Any, add: Add) -> None:
    if len(content) < _PIECE:
        add(b"%c%b%b" % (letter, _LENGTH.pack(len(content)), content))
    else:
        add(letter + _LENGTH.pack(len(content)))
        add(content)


def _name(kind: type) -> str:
    return (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


# --- Python's own ---


def _integer(value: int, add: Add) -> None:
    _sized(b"i", value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True), add)


def _float(value: float, add: Add) -> None:
    add(b"f" + (_NAN if math.isnan(value) else _DOUBLE.pack(value)))


def _complex(value: complex, add: Add) -> None:
    add(b"c")
    _float(value.real, add)
    _float(value.imag, add)


def _items(letter: bytes) -> Callable[[Any, Add], None]:
    def write(value: Any, add: Add) -> None:
        add(letter + _LENGTH.pack(len(value)))
        for one in value:
            _write(one, add)

    return write


def _any_order(letter: bytes) -> Callable[[Any, Add], None]:
    def write(value: Iterable[Any], add: Add) -> None:
        _sized(letter, b"".join(sorted(map(_hash, value))), add)

    return write


def _pairs(letter: bytes) -> Callable[[Any, Add], None]:
    def write(value: dict[Any, Any], add: Add) -> None:
        add(letter + _LENGTH.pack(len(value)))
        for key, item in sorted(((_hash(key), item) for key, item in value.items()), key=lambda pair: pair[0]):
            add(key)
            _write(item, add)

    return write


def _ordered_pairs(value: dict[Any, Any], add: Add) -> None:
    add(b"o")
    add(_LENGTH.pack(len(value)))
    for pair in value.items():
        _write(pair[0], add)
        _write(pair[1], add)


def _as(letter: bytes, part: Callable[[Any], Any]) -> Callable[[Any, Add], None]:
    def write(value: Any, add: Add) -> None:
        add(letter)
        _write(part(value), add)

    return write


def _aware(value: Any) -> Any:
    zone = value.tzinfo
    key = getattr(zone, "key", None)  # of zoneinfo: days of summer time belong to it
    return value.isoformat(), value.fold, key if isinstance(key, str) else None


def _range(value: range) -> tuple[int, ...]:
    return () if not value else (value[0],) if len(value) == 1 else (value[0], value[-1], len(value))


_WRITERS: dict[type, Callable[[Any, Add], None]] = {
    type(None): lambda value, add: add(b"N"),
    bool: lambda value, add: add(b"T" if value else b"F"),
    int: _integer,
    float: _float,
    complex: _complex,
    str: lambda value, add: _sized(b"s", _text(value), add),
    bytes: lambda value, add: _sized(b"b", value, add),
    bytearray: lambda value, add: _sized(b"B", value, add),
    list: _items(b"l"),
    tuple: _items(b"t"),
    collections.deque: _items(b"q"),
    set: _any_order(b"e"),
    frozenset: _any_order(b"E"),
    dict: _pairs(b"d"),
    collections.Counter: _pairs(b"k"),
    collections.OrderedDict: _ordered_pairs,
    types.MappingProxyType: _pairs(b"v"),
    type(...): lambda value, add: add(b"."),
    range: _as(b"r", _range),
    slice: _as(b":", lambda value: (value.start, value.stop, value.step)),
    datetime.date: _as(b"y", lambda value: value.isoformat()),
    datetime.datetime: _as(b"Y", _aware),
    datetime.time: _as(b"h", _aware),
    datetime.timedelta: _as(b"m", lambda value: (value.days, value.seconds, value.microseconds)),
    datetime.timezone: _as(b"z", lambda value: (value.utcoffset(None), value.tzname(None))),
    decimal.Decimal: _as(b"C", str),
    fractions.Fraction: _as(b"R", lambda value: (value.numerator, value.denominator)),
    uuid.UUID: _as(b"u", lambda value: value.bytes),
}


_ONE_PIECE = frozenset({type(None), bool, int, float, str, bytes})


# --- kinds that subclasses belong to ---


def _has_key(value: Any) -> bool:
    return not isinstance(value, type) and getattr(type(value), "__ports_key__", None) is not None


def _own_key(value: Any, add: Add) -> None:
    key = value.__ports_key__
    add(b"K")
    _write(_name(type(value)), add)
    _write(key() if callable(key) else key, add)


def _enum(value: enum.Enum, add: Add) -> None:
    add(b"U")
    _write(_name(type(value)), add)
    _write(None if isinstance(value, enum.Flag) else value.name, add)  # of several flags, names differ by version
    _write(value.value, add)


def _fields(value: Any, add: Add) -> None:
    add(b"D")
    _write(_name(type(value)), add)
    _write({one.name: getattr(value, one.name, None) for one in dataclasses.fields(value)}, add)


def _attributes(value: Any, add: Add) -> None:
    add(b"D")
    _write(_name(type(value)), add)
    _write({one.name: getattr(value, one.name, None) for one in type(value).__attrs_attrs__}, add)


def _is_named_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and isinstance(getattr(type(value), "_fields", None), tuple)


def _named_tuple(value: Any, add: Add) -> None:
    add(b"n")
    _write(_name(type(value)), add)
    _write(value._fields, add)
    _write(tuple(value), add)


def _path(value: pathlib.PurePath, add: Add) -> None:
    add(b"P" if isinstance(value, pathlib.Path) else b"p")
    _write(isinstance(value, pathlib.PureWindowsPath), add)
    _write(value.as_posix(), add)


def _is_job(value: Any) -> bool:
    return hasattr(type(value), "__ports_job__") or hasattr(type(value), "__ports_jobs__")


def _no_job(value: Any, add: Add) -> None:
    raise NoDigestError("a job, whose result is not known yet")


# --- numpy and pandas, where they are imported already ---


def _is_of(module: str, *names: str) -> Callable[[Any], bool]:
    def is_kind(value: Any) -> bool:
        found = sys.modules.get(module)
        return found is not None and type(value) in {getattr(found, name, None) for name in names}

    return is_kind


def _is_scalar(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.generic)


def _scalar(value: Any, add: Add) -> None:
    numpy = sys.modules["numpy"]
    add(b"g")
    _array(numpy.asarray(value), add)


def _array(value: Any, add: Add) -> None:
    kind = value.dtype
    add(b"a")
    _write(tuple(map(int, value.shape)), add)
    if kind.names is not None:  # field by field: what lies between them is not of the value
        _write({name: value[name] for name in kind.names}, add)
    elif kind.kind in "OT":
        _write(kind.kind, add)
        for one in value.ravel():
            _write(one, add)
    elif kind.kind not in "biufcmMSUV" or kind.char in "gG":  # a long double has bytes that mean nothing
        raise NoDigestError(f"an array of {kind}")
    else:
        _write(kind.str, add)
        flat = sys.modules["numpy"].ascontiguousarray(value).reshape(-1)
        add(memoryview(flat.view("u1")) if flat.size and kind.itemsize else b"")


def _dtype(value: Any, add: Add) -> None:
    add(b"A")
    _write(value.str if value.names is None else [(name, value.fields[name][0]) for name in value.names], add)


def _is_dtype(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.dtype)


def _masked(value: Any, add: Add) -> None:
    numpy = sys.modules["numpy"]
    add(b"M")
    mask = numpy.ma.getmaskarray(value)
    _array(mask, add)
    data = numpy.array(value.data)
    data[mask] = numpy.zeros((), data.dtype)
    _array(data, add)


def _frame(value: Any, add: Add) -> None:
    add(b"W")
    _index(value.columns, add)
    _index(value.index, add)
    for place in range(value.shape[1]):
        _column(value.iloc[:, place], add)


def _series(value: Any, add: Add) -> None:
    add(b"w")
    _write(value.name, add)
    _index(value.index, add)
    _column(value, add)


def _index(value: Any, add: Add) -> None:
    add(b"x")
    _write(list(value.names), add)
    if value.nlevels > 1:
        for level in range(value.nlevels):
            _column(value.get_level_values(level), add)
    else:
        _column(value, add)


def _column(value: Any, add: Add) -> None:
    """Write the values of a column; texts are one kind, whichever of its kinds of text pandas chose."""
    numpy = sys.modules["numpy"]
    kind = value.dtype
    if isinstance(kind, numpy.dtype) and kind.kind != "O":
        _array(value.to_numpy(), add)
        return
    name = str(kind)
    is_text = name in ("object", "str", "string") or name.startswith("string[")
    _write("" if is_text else name, add)
    if name == "category":
        _index(kind.categories, add)
        _write(bool(kind.ordered), add)
        codes = value.cat.codes if hasattr(value, "cat") else value.codes
        _array(numpy.asarray(codes).astype("<i8"), add)
        return
    add(_LENGTH.pack(len(value)))
    missing = numpy.asarray(value.isna())
    for one, is_missing in zip(value, missing, strict=True):
        if is_missing:
            add(b"-")
        else:
            _write(one, add)


def _timestamp(value: Any, add: Add) -> None:
    add(b"S")
    _write(_aware(value) if hasattr(value, "fold") else value.isoformat(), add)


_KINDS: tuple[tuple[Callable[[Any], bool], Callable[[Any, Add], None]], ...] = (
    (_is_job, _no_job),
    (_has_key, _own_key),
    (lambda value: isinstance(value, enum.Enum), _enum),
    (_is_of("numpy", "ndarray", "memmap"), _array),
    (_is_scalar, _scalar),
    (_is_dtype, _dtype),
    (_is_of("numpy.ma", "MaskedArray"), _masked),
    (_is_of("pandas", "DataFrame"), _frame),
    (_is_of("pandas", "Series"), _series),
    (_is_of("pandas", "Index", "RangeIndex", "MultiIndex", "DatetimeIndex", "CategoricalIndex"), _index),
    (_is_of("pandas", "Timestamp", "Timedelta"), _timestamp),
    (lambda value: dataclasses.is_dataclass(value) and not isinstance(value, type), _fields),
    (lambda value: hasattr(type(value), "__attrs_attrs__"), _attributes),
    (_is_named_tuple, _named_tuple),
    (lambda value: isinstance(value, pathlib.PurePath), _path),
)
