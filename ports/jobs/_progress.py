"""A progress bar in terminals and notebooks: tqdm's."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ports.errors import PortsError

_LOOK_SECONDS = 1.0
_DELAY = 0.5  # seconds: what is done by then shows no bar, and imports no tqdm


class Bar:
    """A bar that appears after a moment, if it is wanted at all."""

    def __init__(self, total: float, what: str, wanted: bool) -> None:
        self._total, self._what, self._wanted = total, what, wanted
        self._began, self._unit = time.monotonic(), "job"
        self._done = 0.0  # jobs that have ended
        self._shown: Any = None
        self._lock = threading.Lock()

    def count(self, n: int) -> None:
        """Count jobs that have ended."""
        with self._lock:
            self._done += n
            if self._unit == "job":
                self._show(self._done, self._total)

    def say(self, parts: Sequence[Mapping[str, Any]]) -> None:
        """Show how far the jobs are that run: of a single job its own steps, of several the part that is done."""
        with self._lock:
            if not parts:
                return
            if self._total == 1:
                self._unit = "step"
                self._show(parts[0]["done"], parts[0].get("total"))
            else:
                shares = (min(1.0, one["done"] / one["total"]) for one in parts if one.get("total"))
                self._show(min(self._total, self._done + sum(shares)), self._total)

    def _show(self, done: float, total: float | None) -> None:
        if not self._wanted or time.monotonic() - self._began < _DELAY:
            return
        done = round(done, 2) if done % 1 else int(done)
        if self._shown is None:
            self._shown = _made(total, self._what, self._unit, done)
        bar = self._shown
        bar.unit = self._unit
        if bar.total != total:
            bar.reset(total)
            bar.total = total
        bar.n = done
        bar.update(0)  # shows it at most ten times a second

    def close(self, *, is_done: bool) -> None:
        """Leave the bar as it is; that of a single job that has finished is full."""
        with self._lock:
            if self._shown is not None:
                if is_done and self._unit == "step" and self._shown.total:
                    self._shown.n = self._shown.total
                self._shown.close()
                self._shown, self._wanted = None, False


@contextlib.contextmanager
def bar(
    total: int, what: str, wanted: bool | None, look: Callable[[], Sequence[Mapping[str, Any]]] | None = None
) -> Iterator[Callable[[int], None]]:
    """Yield what counts jobs that have ended.

    Parameters
    ----------
    wanted : bool or None
        Show it; None: in a terminal and in a notebook.
    look : callable, optional
        Returns how far the jobs are that run, and is called once a second, in a thread.
    """
    if wanted is None:
        wanted = _in_notebook() or (sys.stderr is not None and sys.stderr.isatty())
    made, over, is_done = Bar(total, what, wanted), threading.Event(), False

    def follow() -> None:
        assert look is not None
        while not over.wait(_LOOK_SECONDS):
            with contextlib.suppress(PortsError):  # who waits for the end says what is wrong
                made.say(look())

    thread = threading.Thread(target=follow, name="progress of jobs", daemon=True)
    if wanted and look is not None:
        thread.start()
    try:
        yield made.count
        is_done = True
    finally:
        over.set()
        made.close(is_done=is_done)


def _in_notebook() -> bool:
    """Say whether a kernel runs this process; a library that imports ipykernel makes no notebook of a cron job."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def _made(total: float | None, what: str, unit: str, done: float) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are no widgets: the bar is text then
        from tqdm.auto import tqdm

        return tqdm(total=total, desc=what, unit=unit, initial=done)
