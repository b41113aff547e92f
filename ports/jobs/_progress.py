"""A progress bar in terminals and notebooks: tqdm's."""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

_DELAY = 0.5  # seconds: what is done by then shows no bar, and imports no tqdm


@contextlib.contextmanager
def bar(total: int, what: str, wanted: bool | None) -> Iterator[Callable[[int], None]]:
    """Yield what counts jobs that have ended.

    Parameters
    ----------
    wanted : bool or None
        Show it; None: in a terminal and in a notebook.
    """
    if wanted is None:
        wanted = "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())
    began, n_done = time.monotonic(), 0
    shown: Any = None

    def count(n: int) -> None:
        nonlocal shown, n_done
        n_done += n
        if shown is not None:
            shown.update(n)
        elif wanted and time.monotonic() - began > _DELAY:
            shown = _made(total, what, n_done)

    try:
        yield count
    finally:
        if shown is not None:
            shown.close()


def _made(total: int, what: str, n_done: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are no widgets: the bar is text then
        from tqdm.auto import tqdm

        return tqdm(total=total, desc=what, unit="job", initial=n_done)
