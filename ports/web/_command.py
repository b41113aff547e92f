"""One command of the command line, here or on another host, for a front end that is none: in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ports.errors import FarSideError, PortsError, TimedOutError
from ports.hosts import HERE
from ports.probe import SAFE_PATH
from ports.sessions import surroundings

_COMMAND = f"{SAFE_PATH}; from ports.__main__ import main; main()"


def run(words: Sequence[str], *, timeout: float = 180.0) -> Any:
    """Run ``ports WORDS --json`` in a child process, and return the document that it prints.

    A server of pages does not import what the command needs, and an act that hangs holds no thread of it for ever. With
    ``-H HOST`` among the words, the command acts there. Nobody is asked for a password: the child has no terminal.

    Parameters
    ----------
    timeout : float
        Seconds until the child is ended.

    Raises
    ------
    TimedOutError
        It ran longer.
    FarSideError
        It printed no JSON.
    PortsError
        What the command raised, with the same exit code.
    """
    argv = [*words, "--json"]
    try:
        # the words come by standard input: other users see the arguments of a process
        done = subprocess.run(
            [sys.executable, "-c", _COMMAND, "--arguments-from-stdin"],
            input=json.dumps(argv) + "\n",
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            cwd=Path.home(),
            env=surroundings.of_a_session(),
            start_new_session=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TimedOutError(f"end of `ports {' '.join(argv[:2])}`", timeout) from None
    try:
        document = json.loads(done.stdout)
    except ValueError:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"status {done.returncode}"]
        raise FarSideError(HERE, f"`ports {' '.join(argv[:2])}` printed no JSON: {lines[-1]}") from None
    if (why := failure(document)) is not None and done.returncode:
        failed = PortsError(why)
        failed.exit_code = done.returncode
        raise failed
    return document


def failure(document: Any) -> str | None:
    """Return what a command that failed says of it in its document: an error, or rows that have one; None if nothing.

    >>> failure([{"host": "server1", "error": "no route"}, {"host": "server2", "error": None}])
    'no route'
    """
    if isinstance(document, list):
        told = dict.fromkeys(str(row["error"]) for row in document if isinstance(row, dict) and row.get("error"))
        return "; ".join(told) or None
    error = document.get("error") if isinstance(document, dict) else None
    return str(error.get("message")) if isinstance(error, dict) and "type" in error else None
