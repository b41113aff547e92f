"""What a job says and asks while it runs: how far it is, whether it is to stop, and the directory that it keeps.

A function and a script find their job in the environment. How far it is lies in a file, ``progress.json`` of the job's
directory, which is written at most a few times a second and read by whoever shows the job.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ports.errors import UsageError

FILE = "progress.json"
_EVERY_SECONDS = 0.25  # between two writes
_LARGEST = 4096  # bytes of the file


class Inside:
    """What this process has said and asked in the job that it runs now."""

    def __init__(self) -> None:
        self.said: dict[str, Any] | None = None  # the last progress
        self.next_write = 0.0
        self.asks = self.stops = False  # whether the job looks if it is to stop, and whether it is


now = Inside()


def begin() -> None:
    """Forget the last job of this process."""
    global now
    now = Inside()


def progress(done: float, total: float | None = None) -> None:
    """Say how far this job is; `ports job list`, `ports job show` and `gather` show it.

    Outside of a job, nothing happens. It is cheap: what comes too fast is not written.

    Parameters
    ----------
    done : float
        What is done: steps, bytes, seconds.
    total : float, optional
        What there is to do, in the same unit. Default: it is not known.

    Raises
    ------
    UsageError
        A number is negative, or is none.

    Examples
    --------
    >>> for epoch in range(3):
    ...     ports.progress(epoch, 3)
    """
    for name, value in (("done", done), ("total", 0 if total is None else total)):
        if not _is_amount(value):
            raise UsageError(f"{name}={value!r} is no number of at least 0; say ports.progress(done, total)")
    place = os.environ.get("PORTS_JOB_DIRECTORY")
    if place is None:
        return
    now.said = {"done": float(done), "total": None if total is None else float(total)}
    at = time.monotonic()
    if at < now.next_write and done != total:
        return
    now.next_write = at + _EVERY_SECONDS
    with contextlib.suppress(OSError):  # a full disk must not end the job
        _write(Path(place).parent, {**now.said, "attempt": int(os.environ.get("PORTS_ATTEMPT") or 1)})


def _is_amount(value: object) -> bool:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return math.isfinite(number) and number >= 0


def _write(work: Path, said: Mapping[str, Any]) -> None:
    work.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = work / f".{FILE}.{os.getpid()}.{threading.get_ident()}"
    part.write_text(json.dumps(said), encoding="ascii")
    part.replace(work / FILE)


def read(work: Path, attempt: object) -> dict[str, float | None] | None:
    """Return how far an attempt is whose job has the directory `work`; None where it says nothing."""
    try:
        with (work / FILE).open("rb") as file:
            said = json.loads(file.read(_LARGEST))
        done, total = said["done"], said["total"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if said.get("attempt") != attempt or not _is_amount(done) or not (total is None or _is_amount(total)):
        return None
    return {"done": done, "total": total}


def should_stop() -> bool:
    """Say whether this job is to stop: it was cancelled, or its time is over. It has 30 s then to keep what it has.

    A function that asks is not interrupted: what it returns is its result. The first call must be before that, in the
    main thread. Outside of a job it is False.

    Raises
    ------
    UsageError
        The first call of a script is not in its main thread.

    Examples
    --------
    >>> for step in range(1000):
    ...     if ports.should_stop():
    ...         break
    """
    if not now.asks and "PORTS_JOB" in os.environ:
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # of a script: a function's process has its own
            try:
                signal.signal(signal.SIGTERM, lambda *_: stop())
            except ValueError:
                raise UsageError("should_stop() is new in a thread; call it once in the main thread before") from None
        now.asks = True
    return now.stops


def stop() -> bool:
    """Note that the job is to stop; say whether it looks at that."""
    now.stops = True
    return now.asks


def directory() -> Path:
    """Return the directory of this job that all its attempts share, for what lets it go on where it was.

    Raises
    ------
    UsageError
        This process runs no job.
    """
    place = os.environ.get("PORTS_JOB_DIRECTORY")
    if place is None:
        raise UsageError("no job runs in this process; jobs.directory() is for functions and scripts that do")
    found = Path(place)
    found.mkdir(mode=0o700, parents=True, exist_ok=True)
    return found


def end(job: str) -> dict[str, Any] | None:
    """Remove what the function that has ended has said of itself, and return it; None if it has said nothing."""
    if now.said is None or os.environ.get("PORTS_JOB") != job:
        return None
    work = Path(os.environ["PORTS_JOB_DIRECTORY"]).parent
    with contextlib.suppress(OSError):  # there can be more in the directory
        (work / FILE).unlink()
        work.rmdir()
    return now.said
