"""Prompts: asking the person at the terminal, where there is one."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from ports.errors import harmless
from ports.hosts._route import Hop

LOGIN_TIMEOUT = 300.0  # seconds: a person looks for the phone with the second factor
_terminal = threading.Lock()  # held while a person is asked: what else is written would stand in the prompt
_program = False  # the ssh program asks, which ends its line itself
_is_over = False  # Ctrl-C was pressed, and this process ends
_IN, _OUT = ("CONIN$", "CONOUT$") if os.name == "nt" else ("/dev/tty", "/dev/tty")


def can_ask() -> bool:
    """Tell whether there is a terminal, and this process is the one that may use it."""
    flags = os.O_RDWR | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        terminal = os.open(_IN, flags)
    except OSError:
        return False
    try:
        return os.name == "nt" or os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def ask(prompt: str, *, shown: bool = False) -> str | None:
    """Return what the person types; None where nothing can be read any more.

    Parameters
    ----------
    shown : bool
        Show on the terminal what is typed.
    """
    try:
        if not shown:
            import getpass

            return getpass.getpass(harmless(prompt))
        say(prompt)
        with Path(_IN).open(encoding="utf-8", errors="replace") as terminal:
            return terminal.readline().rstrip("\r\n")
    except (EOFError, OSError):
        return None


def say(text: str) -> None:
    """Write `text` to the terminal."""
    with contextlib.suppress(OSError), Path(_OUT).open("w", encoding="utf-8") as terminal:
        terminal.write(harmless(text))


@contextlib.contextmanager
def asking_at_terminal(hop: Hop, *, program: bool = False) -> Iterator[None]:
    """Keep the terminal for the prompts of one login, and say first whose they are.

    Parameters
    ----------
    program : bool
        The ssh program asks.

    Raises
    ------
    KeyboardInterrupt
        Ctrl-C has ended the prompts of another login: this process ends.
    """
    global _program
    with _terminal:
        if _is_over:
            raise KeyboardInterrupt
        announce(hop)
        _program = program
        try:
            yield
        finally:
            _program = False


def ask_no_more() -> bool:
    """Begin no prompt from now on; return whether the ssh program is at one, which ends its own line at Ctrl-C."""
    global _is_over
    _is_over = True
    return _program


@contextlib.contextmanager
def taking_terminal() -> Iterator[None]:
    """Keep the terminal for a program of another host: no line of this process may land in its screen."""
    with _terminal:
        yield


def is_asking() -> bool:
    """Tell whether a person is asked for something at the terminal: another line would land in the prompt."""
    return _terminal.locked()


def say_waiting(hop: Hop) -> None:
    """Write why a login may be silent: a person may have to do something that nobody asks for."""
    if is_asking():  # for another host
        return
    say(f"waiting for the login to {hop.alias}: does your key or its agent want to be touched or confirmed?\n")


def announce(hop: Hop) -> None:
    """Write which host the next prompt belongs to: several may ask in turn, and ssh names the address only."""
    say(f"login to {hop.alias} ({hop.user}@{hop.hostname}):\n")
