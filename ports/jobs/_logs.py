"""What a job printed: its last lines, and all that comes; stdout and stderr apart or together.

The output of a script has a stamp before each line (`resource/script.py`), that of a function has none. A file that has
grown too large was moved to ``<file>.1``. A `Position` says how far somebody has read, also across that.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ports.jobs._durable import translated

STREAMS = ("stdout", "stderr")
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) ")
_WIDTH = 25  # of a stamp with its blank
_BLOCK = 1 << 16
_ROUND = 1 << 20  # bytes of a stream that one look returns


@dataclass(frozen=True)
class Piece:
    """A line, or a part of one where it has no end yet.

    Parameters
    ----------
    stamp : str
        When the line began, in UTC; empty in the middle of a line, and where output has no stamps.
    text : bytes
        As it was printed, with the end of the line if that is there.
    """

    stream: str
    stamp: str
    text: bytes


@dataclass(frozen=True)
class Position:
    """How far a stream was read: the stamp with which that file begins (empty: none), and the bytes of it.

    >>> Position.parse("2026-11-30T11:47:08.123Z+4711")
    Position(first='2026-11-30T11:47:08.123Z', offset=4711, at_begin=True)
    """

    first: str = ""
    offset: int = 0
    at_begin: bool = field(default=True, compare=False)

    def __str__(self) -> str:
        return f"{self.first}+{self.offset}{'' if self.at_begin else '-'}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Return the position that `str` has written; the beginning where `text` is none."""
        found = re.fullmatch(r"([\dT:.Z-]*)\+(\d+)(-?)", text)
        return cls(found[1], int(found[2]), not found[3]) if found else cls()


def last(files: Mapping[str, Path], lines: int, *, stamped: bool) -> tuple[list[Piece], dict[str, Position]]:
    """Return the last `lines` lines (0: all) of the streams together, and how far that is.

    Parameters
    ----------
    files : mapping
        The file of each stream.
    stamped : bool
        Lines begin with stamps; lines of several streams are in their order then, else one stream follows the other.

    Raises
    ------
    StoreError
        A file cannot be read.
    """
    found: list[Piece] = []
    positions: dict[str, Position] = {}
    for stream, path in files.items():
        with translated(path):
            pieces, positions[stream] = _last_of(stream, path, lines, stamped)
            found += pieces
    found = _in_order(found) if stamped else found
    return (found[-lines:] if lines else found), positions


def follow(
    find: Callable[[], Mapping[str, Path]],
    positions: Mapping[str, Position],
    *,
    stamped: bool,
    is_over: Callable[[], bool],
    every: float = 0.2,
) -> Iterator[tuple[list[Piece], dict[str, Position]]]:
    """Yield what comes after `positions`, and how far that is, until `is_over` says so and all was returned.

    Parameters
    ----------
    find : callable
        Returns the file of each stream at this moment.

    Raises
    ------
    StoreError
        A file cannot be read.
    """
    now = dict(positions)
    while True:
        over = is_over()
        found: list[Piece] = []
        for stream, path in find().items():
            with translated(path):
                pieces, now[stream] = read_on(stream, path, now.get(stream, Position()), stamped=stamped)
                found += pieces
        if found:
            yield (_in_order(found) if stamped else found), dict(now)
        elif over:
            return
        else:
            time.sleep(every)


def read_on(stream: str, path: Path, position: Position, *, stamped: bool) -> tuple[list[Piece], Position]:
    """Return what was written to a file after `position`, at most about 1 MiB, and how far that is.

    What was lost by rotation meanwhile is left out.
    """
    with contextlib.ExitStack() as stack:
        older, newer = _both(path, stack)
        if newer is None:
            return [], position
        first = _first(newer, stamped)
        if first == position.first or (not position.first and older is None):
            return _read(stream, newer, position, first, stamped)
        assert older is not None or stamped
        if older is not None:
            before = _first(older, stamped)
            start = position if position.first == before else Position(before)
            pieces, at = _read(stream, older, start, before, stamped)
            if pieces:
                return pieces, at
        return _read(stream, newer, Position(first), first, stamped)


def _both(path: Path, stack: contextlib.ExitStack) -> tuple[BinaryIO | None, BinaryIO | None]:
    """Return the file that was rotated away, if there is one, and the present one; both at one moment."""
    while True:
        newer, older = _open(path), _open(path.with_name(path.name + ".1"))
        for one in (newer, older):
            if one is not None:
                stack.enter_context(one)
        if newer is None and older is not None:
            newer = _open(path)  # it is being rotated
            if newer is None:
                return None, older
            stack.enter_context(newer)
        if newer is None or older is None or not os.path.samestat(os.fstat(newer.fileno()), os.fstat(older.fileno())):
            return older, newer


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _first(file: BinaryIO, stamped: bool) -> str:
    """Return the stamp with which a file begins."""
    file.seek(0)
    found = _STAMP.match(file.read(_WIDTH)) if stamped else None
    return found[1].decode() if found else ""


def _read(stream: str, file: BinaryIO, position: Position, first: str, stamped: bool) -> tuple[list[Piece], Position]:
    offset = position.offset if position.offset <= os.fstat(file.fileno()).st_size else 0
    file.seek(offset)
    data = file.read(_ROUND)
    if stamped and len(data) == _ROUND and b"\n" in data:  # no stamp is cut in two
        data = data[: data.rfind(b"\n") + 1]
    begins = position.at_begin or not offset
    at = Position(first, offset + len(data), data.endswith(b"\n") if data else begins)
    return _pieces(stream, data, stamped, begins), at


def _pieces(stream: str, data: bytes, stamped: bool, begins: bool = True) -> list[Piece]:
    """Return the lines of `data`, the first of which begins there unless it goes on."""
    found = []
    for n, line in enumerate(data.splitlines(keepends=True) if not stamped else _lines(data)):
        stamp = _STAMP.match(line) if stamped and (n or begins) else None
        found.append(Piece(stream, stamp[1].decode() if stamp else "", line[stamp.end() :] if stamp else line))
    return found


def _lines(data: bytes) -> list[bytes]:
    """Return the lines of `data`; only LF ends one, as progress bars print CR."""
    lines = [line + b"\n" for line in data.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


def _last_of(stream: str, path: Path, lines: int, stamped: bool) -> tuple[list[Piece], Position]:
    with contextlib.ExitStack() as stack:
        older, newer = _both(path, stack)
        if newer is None:
            return [], Position()
        first = _first(newer, stamped)
        size = os.fstat(newer.fileno()).st_size
        data, found = _end_of(newer, size, lines)
        if older is not None and (not lines or found < lines):
            before, _ = _end_of(older, os.fstat(older.fileno()).st_size, lines - found if lines else 0)
            data = before + data
        ends = data.endswith(b"\n") if data else True
        pieces = _pieces(stream, data, stamped)
        return (pieces[-lines:] if lines else pieces), Position(first, size, ends)


def _end_of(file: BinaryIO, size: int, lines: int) -> tuple[bytes, int]:
    """Return the end of a file, with at least so many whole lines if it has them (0: all of it), and how many."""
    data, at = b"", size
    while at and (not lines or data.count(b"\n") <= lines):
        step = min(at, _BLOCK if lines else at)
        at -= step
        file.seek(at)
        data = file.read(step) + data
    if at:  # the first line is not whole
        data = data[data.find(b"\n") + 1 :]
    return data, len(_lines(data))


def _in_order(pieces: Sequence[Piece]) -> list[Piece]:
    """Return pieces of several streams in the order of their stamps; what has none goes on from the piece before."""
    keyed, last_of = [], dict.fromkeys(STREAMS, "")
    for piece in pieces:
        last_of[piece.stream] = piece.stamp or last_of[piece.stream]
        keyed.append((last_of[piece.stream], piece))
    return [piece for _, piece in sorted(keyed, key=lambda one: one[0])]
