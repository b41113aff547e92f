"""Open a link in the browser at home from here, the server, through the session of a `ports open` at home."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ports import listeners, probe
from ports.errors import NotFoundError, PortsError, UsageError
from ports.state import is_private, paths, runtime_directory

_ANSWER_SECONDS = 30.0  # a link may have to be opened first, and the browser to start


def browse(what: str, *, timeout: float = _ANSWER_SECONDS) -> dict[str, Any]:
    """Let the browser at home show a page of this machine; return the row of the opened page.

    Parameters
    ----------
    what : str
        A link (http or https) that works on this machine; or the name of a cluster, notebook server or other listener
        of mine.
    timeout : float
        Seconds that home can take.

    Raises
    ------
    UsageError
        The link is not one to a web page.
    NotFoundError
        Nothing here has that name, or no `ports open` at home is connected to this machine.
    PortsError
        Home could not open it; the message says why.
    """
    request = _request(what)
    refusal: str | None = None
    for path in _sockets():
        answer = _ask(path, request, timeout)
        if answer is not None and answer.get("ok"):
            row = {"kind": request.get("kind", "link"), "name": request.get("name", what), "state": "open"}
            return {**row, "host": listeners.alias(), "local_url": answer.get("opened")}
        if answer is not None:
            refusal = refusal or str(answer.get("error") or "it was not opened")
    if refusal is not None:
        raise PortsError(f"at home: {refusal}")
    command = f"`ports open {listeners.alias()}`{listeners.guess_in_brackets()}"
    hint = f"no `ports open` at home is connected to this machine; there, run {command}"
    raise NotFoundError("connection from home for", what, hint)


def _request(what: str) -> dict[str, str]:
    """Return the request to home. It has the name of a listener rather than its link, which may hold a token."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:(//|[^0-9])", what):
        parts = urlsplit(what)
        if parts.scheme.lower() not in ("http", "https") or not parts.hostname or re.search(r"[\s\x00-\x1f\x7f]", what):
            raise UsageError(f"{what!r} is not a link to a web page; it must begin with http:// or https://")
        return {"url": what}
    found = [one for one in listeners.from_probe(probe.probe({"ask_http": False})) if one.mine and one.name == what]
    running = [one for one in found if one.state == "running"]
    if running:
        return {"kind": running[0].kind, "name": what}
    if found:
        reason = f" ({found[0].reason})" if found[0].reason else ""
        raise NotFoundError(f"running {found[0].kind}", what, f"it is {found[0].state}{reason}")
    raise NotFoundError("cluster or notebook", what, "`ports list` shows what is here; a link begins with http://")


def _sockets() -> Iterator[Path]:
    """Yield the sockets of sessions from home, the newest first."""
    if not paths.can_serve():
        return
    own = runtime_directory()
    # a session has the variables of a login, and PORTS_HOME may be set in this shell only
    directories = [own, own.parent] if is_private(own.parent) else [own]
    found = []
    for path in (path for directory in directories for path in directory.glob("browse-*.sock")):
        with contextlib.suppress(OSError):
            found.append((path.stat().st_mtime, path))
    for _, path in sorted(found, reverse=True):
        yield path


def _ask(path: Path, request: dict[str, str], timeout: float) -> dict[str, Any] | None:
    """Return the answer of home, None if there is none; remove the socket of a session that was killed."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(str(path))
        except ConnectionRefusedError:
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        except OSError:
            return None
        try:
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as stream:
                answer = json.loads(stream.readline())
        except (OSError, ValueError):  # the session ended meanwhile, or home is cut off
            return None
    return answer if isinstance(answer, dict) else None
