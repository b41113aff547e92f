"""After a boot: a line ``@reboot`` of this user's crontab starts the resource. No other file runs crontab."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys

from ports import probe, sessions, state
from ports.errors import PortsError, ToolError, ToolMissingError
from ports.jobs import _places
from ports.state import settings

_MARK = "# `ports resource start --no-at-boot` removes this line;"
_SECONDS = 20.0
_NO_TABLE = "no crontab for"


def line(interpreter: str, home: str, path: str) -> str:
    """Return the line. Cron gives a command hardly any variables, and ``%`` has a meaning of its own there."""
    words = ["env", f"PATH={path}", f"PORTS_HOME={home}", interpreter, "-m", "ports", "resource", "start"]
    return f"@reboot {shlex.join(words)} >/dev/null 2>&1 {_mark(home)}".replace("%", "\\%")


def _mark(home: str) -> str:
    return f"{_MARK} {home}"


def without(table: str, home: str) -> str:
    """Return a crontab without the lines for the queue in `home`; all others stay as they are."""
    mark = _mark(home).replace("%", "\\%")
    return "".join(one for one in table.splitlines(keepends=True) if not one.rstrip("\n").endswith(mark))


def start_at_boot(wanted: bool = True) -> bool:
    """Let the resource start after each boot of this machine, or not; say whether that is a change.

    Raises
    ------
    ToolMissingError
        There is no crontab here.
    ToolError
        Cron refuses this user.
    """
    home = str(state.paths.state_directory())
    table = _crontab("-l")
    kept = without(table, home)
    if kept and not kept.endswith("\n"):
        kept += "\n"
    new = kept + (f"{line(sys.executable, home, settings.variable('PATH') or os.defpath)}\n" if wanted else "")
    if new == table:
        return False
    _crontab("-", new)
    return True


def _crontab(word: str, text: str | None = None) -> str:
    environ = {**sessions.surroundings.of_this_process(), "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["crontab", word],
            input=text if text is not None else "",
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=_SECONDS,
            check=False,
            env=environ,
        )
    except FileNotFoundError:
        hint = "without it nothing starts by itself: run `ports resource start` after each boot"
        raise ToolMissingError("crontab", hint) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolError(f"crontab {word} failed: {error}") from error
    if done.returncode and not (word == "-l" and _NO_TABLE in done.stderr):
        said = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise ToolError(f"crontab refuses: {said}; run `ports resource start` after each boot")
    return "" if done.returncode else done.stdout


def waiting_since_boot() -> int:
    """Return how many jobs wait since before this machine was booted; 0 once a resource has started again."""
    with contextlib.suppress(PortsError):
        owner = state.records.read_json(_places.here().owner)
        if owner is not None and owner.get("boot_id") != probe.boot_id():
            from ports.jobs import _asking  # 20 ms, after a boot only

            counts = _asking.ask("status")["counts"]
            return int(counts.get("pending", 0)) + int(counts.get("running", 0))
    return 0
