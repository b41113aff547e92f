"""The lines of a log: the last ones, those that are warnings or worse, and those that come."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from ports.errors import StoreError

_TIME = r"\[?\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d"
_LEVEL = r"(?:WARNING|ERROR|CRITICAL|FATAL)"
#: How a line of warning level or worse begins: of Dask, of `ports`, of Jupyter, of Python's logging and warnings.
_WARNS = re.compile(
    rf"{_TIME}\S* (?:- [\w.]+ - {_LEVEL}\b|\[?{_LEVEL}\b|warning:|guard:)"
    rf"|[\w.]+ - {_LEVEL} - "
    rf"|\[?{_LEVEL}\]?[: ]"
    r"|\[[WEC] \S+ [^\]]*\]"
    r"|(?:warning|error|cause): "
    r"|\S.*:\d+: \w*Warning: "
)
#: What the launcher writes at a start.
_BEGINS = re.compile(rf"--- {_TIME} [+-]\d{{4}} \w+ [a-z][a-z0-9-]*, by ports ")
_TRACEBACK = "Traceback (most recent call last):"
#: What Dask writes below "Compute Failed", and what Python writes between two tracebacks.
_CONTINUES = re.compile(
    r"\s|$|(?:Key|State|Task|Function|args|kwargs|Exception|Traceback):\s"
    r"|During handling of the above exception|The above exception was the direct cause"
)
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(?::\s|:?$)")


class Warnings:
    """Chooses the lines of warning level or worse, with the lines that continue them, one after the other."""

    def __init__(self) -> None:
        self._goes_on = self._in_traceback = False

    def wants(self, line: str) -> bool:
        """Say whether `line`, which follows those of the earlier calls, belongs to a warning."""
        if line.startswith(_TRACEBACK):
            self._goes_on = self._in_traceback = True
        elif _WARNS.match(line):
            self._goes_on, self._in_traceback = True, False
        elif self._in_traceback and line[:1].strip() and _EXCEPTION.match(line):
            self._in_traceback = False  # the last line of a traceback: the exception
        elif self._goes_on:
            self._goes_on = _CONTINUES.match(line) is not None
            self._in_traceback = self._in_traceback and self._goes_on
        return self._goes_on


def tail(log: Path, lines: int, *, since: int = 0, warnings: bool = False) -> tuple[str, ...]:
    """Return the last `lines` lines of a log; 0 for all. Empty if there is no log.

    Parameters
    ----------
    since : int
        The size that the log had: only what was written after that counts. A log that is shorter now was rotated.
    warnings : bool
        Only lines of warning level or worse since the last start, with the lines that continue them.

    Raises
    ------
    StoreError
        There is a log, but it cannot be read.
    """
    try:
        data = log.read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise StoreError(log, error.strerror or str(error)) from error
    found = data[since if since <= len(data) else 0 :].decode("utf-8", "replace").splitlines()
    if warnings:
        found = list(filter(Warnings().wants, _since_start(found)))
    return tuple(found[-lines:] if lines else found)


def tail_of_start(log: Path, lines: int, *, began: float) -> tuple[str, ...]:
    """Return the last `lines` lines of the start that began then, in seconds since 1970; a log goes on over several.

    Raises as `tail`.
    """
    with contextlib.suppress(OSError):
        if log.stat().st_mtime < began:
            return ()
    return tuple(_since_start(tail(log, 0))[-lines:])


def _since_start(lines: Sequence[str]) -> Sequence[str]:
    """Return the lines of the last start in a log; all, if none begins in it."""
    return lines[max((n for n, line in enumerate(lines) if _BEGINS.match(line)), default=0) :]


def follow(log: Path, lines: int, *, warnings: bool = False, every: float = 0.2) -> Iterator[str]:
    """Return the last `lines` lines of a log and then each that comes, without an end; also after a rotation.

    Parameters
    ----------
    warnings : bool
        As for `tail`.
    every : float
        Seconds between two looks.

    Raises
    ------
    StoreError
        There is no log, or it cannot be read.
    """
    wants: Callable[[str], bool] = Warnings().wants if warnings else lambda line: True
    file = _open(log)
    try:
        first = _whole_lines(file)
        found = list(filter(wants, _since_start(first) if warnings else first))
        yield from found[-lines:] if lines else found
        while True:
            if found := _whole_lines(file):
                yield from filter(wants, found)
            elif _is_replaced(file, log):
                file.close()
                file = _open(log)
            else:
                time.sleep(every)
    finally:
        file.close()


def size(log: Path) -> int:
    """Return the size of a log; 0 if there is none."""
    try:
        return log.stat().st_size
    except OSError:
        return 0


def _open(log: Path) -> BinaryIO:
    try:
        return log.open("rb")
    except OSError as error:
        raise StoreError(log, error.strerror or str(error)) from error


def _whole_lines(file: BinaryIO) -> list[str]:
    """Return what was written since the last call, without a line that has no end yet."""
    data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    file.seek(len(whole) - len(data), os.SEEK_CUR)
    return whole.decode("utf-8", "replace").splitlines()


def _is_replaced(file: BinaryIO, log: Path) -> bool:
    try:
        return not os.path.samestat(os.fstat(file.fileno()), log.stat())
    except OSError:
        return False  # it is being rotated
