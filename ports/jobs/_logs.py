"""What a job printed: its last lines, and all that comes; stdout and stderr apart or together.

The output of a script has a stamp before each line (`resource/script.py`), that of a function has none. A file that has
grown too large was moved to ``<file>.1``. A `Position` says how far somebody has read, also across that: a file is
known by the stamp with which it begins, wherever it lies now. So each look reads one file, here or on another machine,
and no look depends on the one before.
"""

from __future__ import annotations

import collections
import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ports.jobs._model import RUNNING

STREAMS = ("stdout", "stderr")
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) ")
WIDTH = 25  # of a stamp with its blank
_BLOCK = 1 << 16
MOST = 1 << 20  # bytes of a stream that one look returns


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


class Part(NamedTuple):
    """What one look at a file found: its size, its first `WIDTH` bytes, and `data`, which begins at `offset`."""

    size: int
    head: bytes
    offset: int
    data: bytes

    def first(self, stamped: bool) -> str:
        """Return the stamp with which the file begins; empty where it has none."""
        found = _STAMP.match(self.head) if stamped else None
        return found[1].decode() if found else ""


class Source(Protocol):
    """A file of output, here or on another machine."""

    def read(self, offset: int, most: int) -> Part | None:
        """Return up to `most` bytes of the file from `offset`, which counts from its end if it is negative.

        None: there is no such file.
        """

    @property
    def older(self) -> Source:
        """What the file was before it was moved away."""


class File:
    """A file of output on this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def older(self) -> File:
        """The file to which this one is moved when it has grown too large."""
        return File(self.path.with_name(self.path.name + ".1"))

    def read(self, offset: int, most: int) -> Part | None:
        """Return a part of it; raises StoreError."""
        from ports.jobs._durable import translated  # for files of this machine only

        with translated(self.path), contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            begin = max(0, size + offset) if offset < 0 else offset
            return Part(size, os.pread(file.fileno(), WIDTH, 0), begin, os.pread(file.fileno(), most, begin))
        return None


class Joined:
    """What attempts before printed, and behind it what a function prints now: the file that both are at its end."""

    def __init__(self, before: Source, now: Source) -> None:
        self.before, self.now = before, now

    @property
    def older(self) -> Source:
        """What the present file was before it was cut; then nothing stays of the attempts before."""
        return self.now.older

    def read(self, offset: int, most: int) -> Part | None:
        """Return a part of both; raises StoreError."""
        first = self.before.read(max(0, offset), most)
        if first is None:
            return self.now.read(offset, most)
        second = self.now.read(max(offset, 0) - first.size if offset > first.size else 0, most)
        size = first.size + (second.size if second is not None else 0)
        if offset < 0:
            return self.read(max(0, size + offset), most)
        data = first.data if offset < first.size else b""
        data += second.data[: most - len(data)] if second is not None and len(data) < most else b""
        return Part(size, first.head, offset, data)


def joined(row: Mapping[str, Any], now: Source, before: Source) -> Source:
    """Return what is followed of a function: with what attempts before this one printed, if there were some."""
    return Joined(before, now) if place_of(row) is not None and int(row.get("attempt") or 0) > 1 else now


Files = Mapping[str, Path] | Mapping[str, Source]


def _sources(files: Files) -> dict[str, Source]:
    return {stream: File(one) if isinstance(one, Path) else one for stream, one in files.items()}


def last(files: Files, lines: int, *, stamped: bool) -> tuple[list[Piece], dict[str, Position]]:
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
    for stream, source in _sources(files).items():
        pieces, positions[stream] = _last_of(stream, source, lines, stamped)
        found += pieces
    found = _in_order(found) if stamped else found
    return (found[-lines:] if lines else found), positions


def place_of(row: Mapping[str, Any]) -> tuple[str, Any] | None:
    """Return slot and attempt of a function that runs, which prints to a file of that slot; None of any other job."""
    if row.get("what") == "script" or row["state"] != RUNNING or not row.get("slot"):
        return None
    return str(row["slot"]), row.get("attempt")


class Output(Protocol):
    """The output of one job."""

    stamped: bool

    def files(self) -> Files:
        """Return the file of each stream at this moment."""

    def is_still(self) -> bool:
        """Say whether the job still has the files that `files` named last, and look again where it has not.

        What a slot prints to becomes the file of its next job at once.
        """


def last_of(output: Output, lines: int, *, only: str | None = None) -> tuple[list[Piece], dict[str, Position]]:
    """Return as `last` what a job printed, whether it goes on or ends meanwhile; `only` one stream, if it is named."""
    while True:
        files = {name: one for name, one in output.files().items() if only in (None, name)}
        found = last(files, lines, stamped=output.stamped)  # type: ignore[arg-type]
        if output.is_still():
            return found


def follow(
    find: Callable[[], Files],
    positions: Mapping[str, Position],
    *,
    stamped: bool,
    is_over: Callable[[], bool],
    is_still: Callable[[], bool] = lambda: True,
    every: float = 0.2,
) -> Iterator[tuple[list[Piece], dict[str, Position]]]:
    """Yield what comes after `positions`, and how far that is, until `is_over` says so and all was returned.

    Parameters
    ----------
    find : callable
        Returns the file of each stream at this moment.
    is_still : callable
        Asked after something was read: whether those files were the job's all the while; see `Output.is_still`.

    Raises
    ------
    StoreError
        A file cannot be read.
    """
    now = dict(positions)
    while True:
        over, before = is_over(), dict(now)
        found: list[Piece] = []
        for stream, source in _sources(find()).items():
            pieces, now[stream] = read_on(stream, source, now.get(stream, Position()), stamped=stamped)
            found += pieces
        if found and not is_still():
            now = before
        elif found:
            yield (_in_order(found) if stamped else found), dict(now)
        elif over:
            return
        else:
            time.sleep(every)


def whole(output: Output, stream: str) -> Iterator[bytes]:
    """Yield all of a stream that is there at this moment, with its stamps, also what a rotation moved away."""
    source = _sources(output.files()).get(stream)
    for file in () if source is None else (source.older, source):
        offset, end = 0, None
        while (part := file.read(offset, MOST)) is not None and part.data and (end is None or offset < end):
            end = part.size if end is None else end
            yield part.data
            offset += len(part.data)


class Line(NamedTuple):
    """A line as `Tail` has it: its stream, when it began (empty: not known), and its text, which can still grow."""

    stream: str
    stamp: str
    text: bytes


class Tail:
    """The last lines of a job, of both streams together; each `look` reads what came since the one before.

    Parameters
    ----------
    most : int
        How many lines are kept.
    longest : int
        Bytes of a line that are kept.
    """

    def __init__(self, output: Output, most: int = 200, longest: int = 2000) -> None:
        self._output, self._longest = output, longest
        self._lines: collections.deque[Line] = collections.deque(maxlen=most)
        self._positions: dict[str, Position] | None = None
        self._growing: dict[str, Line] = {}  # lines without an end yet, by their stream

    def look(self) -> list[Line]:
        """Return the last lines at this moment; raises StoreError, and what the machine raises."""
        output, now = self._output, self._positions
        if now is None:
            pieces, self._positions = last_of(output, self._lines.maxlen or 1)
            self._add(pieces)
            return list(self._lines)
        before, found = dict(now), list[Piece]()
        for stream, source in _sources(output.files()).items():
            pieces, now[stream] = read_on(stream, source, now.get(stream, Position()), stamped=output.stamped)
            found += pieces
        if found and not output.is_still():
            self._positions = before
        else:
            self._add(_in_order(found) if output.stamped else found)
        return list(self._lines)

    def sizes(self) -> dict[str, int]:
        """Return how many bytes each stream has, as far as they were read; those before a rotation are not counted."""
        return {stream: at.offset for stream, at in (self._positions or {}).items() if at.offset}

    def _add(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            before = self._growing.pop(piece.stream, None)
            if before is not None and not piece.stamp:
                line = before._replace(text=(before.text + piece.text)[: self._longest])
                with contextlib.suppress(ValueError):  # it was the first of those that are kept
                    self._lines[self._lines.index(before)] = line
            else:
                line = Line(piece.stream, piece.stamp, piece.text[: self._longest])
                self._lines.append(line)
            if not piece.text.endswith(b"\n"):
                self._growing[piece.stream] = line


def read_on(stream: str, source: Source | Path, position: Position, *, stamped: bool) -> tuple[list[Piece], Position]:
    """Return what was written to a file after `position`, at most about 1 MiB, and how far that is.

    What was lost by rotation meanwhile is left out.
    """
    file = File(source) if isinstance(source, Path) else source
    newer = file.read(position.offset, MOST)
    if newer is not None and newer.first(stamped) == position.first:
        return _read(stream, file, newer, position, stamped)
    older = file.older.read(position.offset, MOST) if stamped else None
    if older is not None:
        before = older.first(stamped)
        start = position if position.first == before else Position(before)
        pieces, at = _read(stream, file.older, older, start, stamped)
        if pieces or newer is None:
            return pieces, at
    if newer is None:
        return [], position
    return _read(stream, file, newer, Position(newer.first(stamped)), stamped)


def _read(stream: str, file: Source, part: Part, position: Position, stamped: bool) -> tuple[list[Piece], Position]:
    """Return the pieces of a file after `position`, of which `part` was read."""
    offset = position.offset if position.offset <= part.size else 0
    if part.offset != offset:
        again = file.read(offset, MOST)
        if again is None or again.first(stamped) != part.first(stamped):  # moved away meanwhile: the next look finds it
            return [], position
        part = again
    data = part.data
    if stamped and len(data) == MOST and b"\n" in data:  # no stamp is cut in two
        data = data[: data.rfind(b"\n") + 1]
    begins = position.at_begin or not offset
    at = Position(part.first(stamped), offset + len(data), data.endswith(b"\n") if data else begins)
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


def _last_of(stream: str, source: Source, lines: int, stamped: bool) -> tuple[list[Piece], Position]:
    newer, older = _ends(source, lines)
    if newer is not None and older is not None and older.head == newer.head:  # it was moved away meanwhile
        newer, older = _ends(source, lines)
    if newer is None:
        return [], Position()
    data = (older.data if older is not None else b"") + newer.data
    pieces = _pieces(stream, data, stamped)
    ends = data.endswith(b"\n") if data else True
    at = Position(newer.first(stamped), newer.offset + len(newer.data), ends)
    return (pieces[-lines:] if lines else pieces), at


def _ends(source: Source, lines: int) -> tuple[Part | None, Part | None]:
    """Return the end of a file, and of what it was before if the lines do not suffice."""
    newer = _end_of(source, lines)
    missing = lines - len(_lines(newer.data)) if newer is not None and lines else 0
    wants_more = newer is not None and (not lines or missing > 0)
    return newer, _end_of(source.older, missing) if wants_more else None


def _end_of(source: Source, lines: int) -> Part | None:
    """Return the end of a file, with at least so many whole lines if it has them (0: all of it)."""
    while True:
        part = end = source.read(-_BLOCK, _BLOCK)
        if part is None or end is None:
            return None
        blocks, n_lines = [part.data], part.data.count(b"\n")
        while part.offset and (not lines or n_lines <= lines):
            begin = max(0, part.offset - MOST)
            before = source.read(begin, part.offset - begin)
            if before is None or before.head != end.head or len(before.data) != part.offset - begin:
                break  # it was moved away meanwhile
            blocks.append(before.data)
            n_lines, part = n_lines + before.data.count(b"\n"), before
        else:
            data = b"".join(reversed(blocks))
            skipped = data.find(b"\n") + 1 if part.offset else 0  # the first line is not whole
            return Part(end.size, end.head, part.offset + skipped, data[skipped:])


def _in_order(pieces: Sequence[Piece]) -> list[Piece]:
    """Return pieces of several streams in the order of their stamps; what has none goes on from the piece before."""
    keyed, last_of = [], dict.fromkeys(STREAMS, "")
    for piece in pieces:
        last_of[piece.stream] = piece.stamp or last_of[piece.stream]
        keyed.append((last_of[piece.stream], piece))
    return [piece for _, piece in sorted(keyed, key=lambda one: one[0])]
