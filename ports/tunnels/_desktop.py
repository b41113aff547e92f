"""Notices on the desktop of this machine, where there is one: notify-send, osascript, or PowerShell.

What is shown comes from another machine. It reaches these programs as an argument or a variable, never as code.
"""

from __future__ import annotations

import contextlib
import html
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ports.errors import PortsError
from ports.state import locked, make_private, paths, records, settings

_SECONDS = 10.0
_KEPT, _OLD_SECONDS = 200, 3600.0
_OSASCRIPT = "on run argv\ndisplay notification (item 2 of argv) with title (item 1 of argv)\nend run"
_TOAST = """
$ErrorActionPreference = 'Stop'
[void][Windows.UI.Notifications.ToastNotificationManager, Windows.UI.Notifications, ContentType = WindowsRuntime]
$kind = [Windows.UI.Notifications.ToastTemplateType]::ToastText02
$toast = [Windows.UI.Notifications.ToastNotificationManager]::GetTemplateContent($kind)
$texts = $toast.GetElementsByTagName('text')
[void]$texts.Item(0).AppendChild($toast.CreateTextNode($env:PORTS_TITLE))
[void]$texts.Item(1).AppendChild($toast.CreateTextNode($env:PORTS_BODY))
$shown = [Windows.UI.Notifications.ToastNotification]::new($toast)
$app = '{1AC14E77-02E7-4E5D-B744-2EB1AE5198B7}\\WindowsPowerShell\\v1.0\\powershell.exe'
[Windows.UI.Notifications.ToastNotificationManager]::CreateToastNotifier($app).Show($shown)
"""


def command(
    platform: str, find: Callable[[str], str | None], environ: Mapping[str, str], has_bus: bool
) -> list[str] | None:
    """Return the program that shows a notice, and its first words; None where there is no desktop.

    Parameters
    ----------
    platform : str
        As `sys.platform` has it.
    find : callable
        Returns the path of a program, or None.
    has_bus : bool
        The user has a session bus, which a login at a desktop starts.

    Examples
    --------
    >>> command("linux", {"notify-send": "/usr/bin/notify-send"}.get, {"DISPLAY": ":0"}, True)
    ['/usr/bin/notify-send', '--app-name=ports', '--']
    """
    if platform == "darwin":
        found = find("osascript")
        return [found, "-e", _OSASCRIPT] if found else None
    if platform == "win32":
        found = find("powershell")
        return [found, "-NoProfile", "-NonInteractive", "-Command", _TOAST] if found else None
    found = find("notify-send") if has_bus and (environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY")) else None
    return [found, "--app-name=ports", "--"] if found else None


def words(platform: str, title: str, body: str) -> tuple[list[str], dict[str, str]]:
    """Return the arguments and the variables that carry a notice; notify-send reads its body as markup."""
    if platform == "win32":
        return [], {"PORTS_TITLE": title, "PORTS_BODY": body}
    return [title, body if platform == "darwin" else html.escape(body, quote=False)], {}


def show_once(told: Sequence[Mapping[str, Any]]) -> None:
    """Show notices, each in one of the processes of this user that hear of it; a desktop that fails is no error."""
    with contextlib.suppress(PortsError, OSError, subprocess.SubprocessError):
        found = command(sys.platform, shutil.which, os.environ, _has_bus())
        for one in told if found is not None else ():
            if found is None or not _is_first(" ".join(one["ids"])):
                continue
            arguments, environ = words(sys.platform, str(one["title"]), str(one["body"]))
            subprocess.run(
                [*found, *arguments],
                env={**os.environ, **environ},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_SECONDS,
                check=False,
            )


def _has_bus() -> bool:
    if settings.variable("DBUS_SESSION_BUS_ADDRESS"):
        return True
    return hasattr(os, "getuid") and Path(f"/run/user/{os.getuid()}/bus").exists()


def _is_first(what: str) -> bool:
    """Note that a notice is shown; return whether no other process showed it within the last hour."""
    path, now = make_private(paths.make_state().tunnels) / "shown.json", time.time()
    with locked("shown"):
        shown: dict[str, float] = {}
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            shown = {str(key): float(at) for key, at in json.loads(path.read_text(encoding="utf-8")).items()}
        if now - shown.get(what, 0.0) < _OLD_SECONDS:
            return False
        kept = sorted({**shown, what: now}.items(), key=lambda pair: pair[1])[-_KEPT:]
        records.write_json(path, dict(kept))
        return True
