"""Send one notice through apprise, in a process of its own: a service that does not answer holds up nothing else.

The parent, `ports.jobs._notices`, writes JSON to its standard input, because addresses contain passwords, and ends it
when the time is up. Each service has a thread. A line of JSON on standard output says what one answered.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

_LEAST = 3  # characters of a part of an address that is hidden
_MOST = 300  # characters of an answer
_HIDDEN = "***"
_TYPES = {True: "success", False: "failure", None: "info"}


class Heard(logging.Handler):
    """Keeps what apprise says in each thread: the last line that is no debugging."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: dict[int, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        with contextlib.suppress(Exception):  # a wrong format of a plugin
            self.said[threading.get_ident()] = record.getMessage()


def host_of(url: str) -> str | None:
    """Return the host that an address names; None where that place can hold a token.

    >>> host_of("json://user:password@example.org:8080/path"), host_of("tgram://123456789:token/chat")
    ('example.org', None)
    """
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return None
    return host if host and ("." in host or host == "localhost") else None


def without_secrets(text: str, url: str) -> str:
    """Return `text` without any part of `url` except its scheme and its host.

    >>> without_secrets("no login as anna1 at example.org: geheim is wrong", "mailto://anna1:geheim@example.org")
    'no login as *** at example.org: *** is wrong'
    """
    scheme, _, rest = url.partition("://")
    parts = {one for whole in (rest, unquote(rest)) for one in re.split(r"[/:@?&=,#+\s]+", whole)}
    parts |= {unquote(one) for one in re.split(r"[/:@?&=,#]+", rest)}
    host = host_of(url)
    hidden = sorted((one for one in parts - {host, scheme} if len(one) >= _LEAST), key=len, reverse=True)
    if not hidden:
        return text
    pattern = re.compile("|".join(map(re.escape, hidden)), re.IGNORECASE)
    around = [text] if host is None else re.split(f"({re.escape(host)})", text, flags=re.IGNORECASE)
    return "".join(one if n % 2 else pattern.sub(_HIDDEN, one) for n, one in enumerate(around))


def answer(url: str, told: Mapping[str, Any], heard: Heard) -> dict[str, Any]:
    """Send to one service, and return its answer."""
    import apprise

    scheme = url.partition("://")[0].lower()
    row: dict[str, Any] = {"name": scheme, "at": host_of(url)}
    try:
        service = apprise.Apprise.instantiate(url, suppress_exceptions=True)
        if not isinstance(service, apprise.NotifyBase):
            return {**row, "state": "failed", "answer": f"apprise knows no such address for {scheme}://"}
        sent = service.notify(body=told["body"], title=told["title"], notify_type=_TYPES[told["is_good"]])
    except Exception as error:  # noqa: BLE001 - a plugin must not end the others
        return {**row, "state": "failed", "answer": cut(without_secrets(f"{type(error).__name__}: {error}", url))}
    if sent:
        return {**row, "state": "sent"}
    said = heard.said.get(threading.get_ident()) or "it was not sent, and apprise does not say why"
    return {**row, "state": "failed", "answer": cut(without_secrets(said, url))}


def cut(text: str) -> str:
    """Return one line of text that fits a terminal."""
    line = " ".join(text.split())
    return line if len(line) <= _MOST else line[:_MOST] + " …"


def main() -> None:
    """Send what standard input says to all its services."""
    told = json.loads(sys.stdin.buffer.read())
    out, sys.stdout = sys.stdout, sys.stderr  # a plugin that prints must not disturb the answers
    heard, lock = Heard(), threading.Lock()
    logger = logging.getLogger("apprise")
    logger.addHandler(heard)
    logger.propagate = False

    def send(number: int, url: str) -> None:
        row = {"service": number, **answer(url, told, heard)}
        with lock:
            out.write(json.dumps(row) + "\n")
            out.flush()

    threads = [threading.Thread(target=send, args=pair, daemon=True) for pair in enumerate(told["urls"], 1)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
