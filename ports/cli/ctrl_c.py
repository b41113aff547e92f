"""Ctrl-C at a terminal: the line on which it shows ``^C`` is ended first, so that the next words begin their own."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any


def end_its_line() -> None:
    """Do so from now on, unless Ctrl-C is ignored, as in the background of a script. Call it from the main thread."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: Any) -> None:
    prompts = sys.modules.get("ports.hosts._prompts")
    ends_its_line = prompts is not None and prompts.ask_no_more()
    if os.isatty(2) and not ends_its_line:
        os.write(2, b"\n")
    signal.default_int_handler(number, frame)
