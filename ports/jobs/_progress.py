"""A progress bar in terminals and notebooks: tqdm's."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

_DELAY = 0.5  # seconds: what is done by then shows no bar


@contextlib.contextmanager
def bar(total: int, what: str, wanted: bool | None) -> Iterator[Callable[[int], object]]:
    """Yield what counts jobs that have ended.

    Parameters
    ----------
    wanted : bool or None
        Show it; None: in a terminal and in a notebook.
    """
    if wanted is None:
        wanted = "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())
    if not wanted:
        yield lambda n: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=what, unit="job", delay=_DELAY) as shown:
        yield shown.update
