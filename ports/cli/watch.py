"""``--watch``: look again every two seconds, and let each look take the place of the one before, until Ctrl-C."""

from __future__ import annotations

import contextlib
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import click

from ports.cli.output import draw
from ports.errors import collecting_warnings, harmless

F = TypeVar("F", bound=Callable[..., Any])

EVERY = 2.0  # seconds
_HOME_AND_CLEAR = "\033[H\033[J"


def with_watch(function: F) -> F:
    """Give a command the option ``--watch``; the command itself calls `refuse_document`."""
    return click.option("--watch", is_flag=True, help="Look again every two seconds, until Ctrl-C.")(function)


def refuse_document(watch: bool, as_json: bool) -> None:
    """Refuse ``--watch`` together with ``--json``; raises UsageError."""
    if watch and as_json:
        raise click.UsageError("--watch has no end, but --json prints one document; leave one of them out")


class Ended(click.Abort):
    """Ctrl-C ended a command that has no other end: nothing was interrupted."""


@contextlib.contextmanager
def until_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C be the end of a command that shows things for ever: exit code 130, and no word about it."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        if sys.stderr.isatty():
            sys.stderr.write("\n")  # behind the ^C of the terminal
        raise Ended from stopped


@until_ctrl_c()
def show(looks: Iterable[Sequence[str]]) -> None:
    """Show the lines of each look: in a terminal in place of those before, else below them.

    A frame would hide a warning at once: each stays below the lines.
    """
    is_drawn, noted = sys.stdout.isatty(), dict[str, None]()
    if not is_drawn:
        _show(looks, False, noted)
        return
    warnings.showwarning = lambda message, *_, **__: noted.setdefault(harmless(f"ports: {message}"))
    with collecting_warnings(lambda text: noted.setdefault(f"ports: {text}")):
        _show(looks, True, noted)


def _show(looks: Iterable[Sequence[str]], is_drawn: bool, noted: Mapping[str, None]) -> None:
    for number, lines in enumerate(looks):
        lines = [*lines, *noted]
        if is_drawn and number:
            draw(frame(lines, shutil.get_terminal_size().lines))
        else:
            before = _HOME_AND_CLEAR if is_drawn else "\n" if number else ""
            draw(before + "\n".join(lines))


def frame(told: Sequence[str], rows: int) -> str:
    """Return lines that replace what a terminal of `rows` shows.

    Each line clears its own rest. A terminal that is cleared as a whole keeps what it showed in its history: tmux would
    have a copy for each look, and of each line that scrolls. Of too many lines, the last ones are shown.
    """
    return "\033[H" + "".join(f"{line}\033[K\n" for line in told[-max(1, rows - 2) :]) + "\033[J"
