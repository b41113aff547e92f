"""Notices of the end of jobs, through the services of the setting ``jobs.notify``.

`ports.probe.ends` has the words. The resource leaves the sending to a thread (`Notifier`), which starts a process for
each notice. What the services answered is kept in a file for `ports job show`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ports.errors import StoreError, UsageError
from ports.jobs import _durable
from ports.jobs._model import JobId
from ports.jobs._places import Places
from ports.probe import SAFE_PATH, ends
from ports.state import paths, settings

SECONDS = 30.0  # after which a service has not answered
EXTRA = "pip install 'ports[notify]'"

#: Nothing in the directory of whoever types the test may stand in for a module.
_PROGRAM = f"{SAFE_PATH}; from ports.jobs.resource.notice import main; main()"
_WAY = "list addresses of apprise in ~/.config/dask/ports.yaml: ports: jobs: notify: […]"

Row = Mapping[str, Any]
Answer = dict[str, Any]


def services() -> list[str]:
    """Return the addresses of the setting ``jobs.notify``; they contain passwords and tokens."""
    return [str(one) for one in settings.get("jobs.notify")]


def check() -> str | None:
    """Return in a sentence that no service is set; None where notices can be sent.

    Raises
    ------
    UsageError
        Services are set, and apprise is not installed.
    """
    if not services():
        return (
            f"the setting jobs.notify on {paths.host_name()} names no service; "
            "the end is shown only where `ports open` holds a connection to this machine"
        )
    if importlib.util.find_spec("apprise") is None:
        raise UsageError(
            f"a notice needs apprise, which is not installed on {paths.host_name()}; "
            f"run `{EXTRA}` in the environment {sys.prefix} there, or leave the notice out"
        )
    return None


# --- how it is sent ---


def send(told: Mapping[str, Any], urls: Sequence[str], *, timeout: float = SECONDS) -> list[Answer]:
    """Send a notice to all services at once, and return what each answered within `timeout` seconds.

    An answer has ``service`` (its place in the setting), ``name``, ``at`` (its host, where that is no token), ``state``
    (``sent`` or ``failed``), and ``answer`` if it failed.
    """
    request = json.dumps({"urls": list(urls), **{key: told[key] for key in ("title", "body", "is_good")}}).encode()
    command = [sys.executable, "-c", _PROGRAM]
    why = "it ended without an answer"
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            out, _ = process.communicate(request, timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
            why = f"no answer within {timeout:g} s"
    found: dict[int, Answer] = {}
    for line in out.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):  # half a line
            row = json.loads(line)
            found[int(row["service"])] = row
    names = enumerate((url.partition("://")[0].lower() for url in urls), 1)
    return [
        found.get(n) or {"service": n, "name": name, "at": None, "state": "failed", "answer": why} for n, name in names
    ]


def notice_services() -> dict[str, Any]:
    """Return the ``services`` of the setting without their secrets, and what is ``missing`` to reach them, or None."""
    from ports.jobs.resource.notice import host_of

    urls = services()
    rows = [
        {"service": n, "name": url.partition("://")[0].lower(), "at": host_of(url), "state": "set"}
        for n, url in enumerate(urls, 1)
    ]
    try:
        missing = f"{none}; {_WAY}" if (none := check()) is not None else None
    except UsageError as error:
        missing = str(error)
    return {"services": rows, "missing": missing}


def test_notices() -> list[Answer]:
    """Send a notice that says that notices arrive, and return what each service answered.

    Raises
    ------
    UsageError
        No service is set, or apprise is not installed.
    """
    if (none := check()) is not None:
        raise UsageError(f"{none}; {_WAY}")
    host = paths.host_name()
    said = f"ports on {host}: notices of jobs arrive here"
    return send({"title": f"ports on {host}", "body": said, "is_good": None}, services())


def notice_line(answer: Answer) -> str:
    """Return an answer in a line: ``1 json at 127.0.0.1: sent``."""
    named = f"{answer['service']} {answer['name']}" + (f" at {answer['at']}" if answer.get("at") else "")
    return f"{named}: {answer['state']}" + (f": {answer['answer']}" if answer.get("answer") else "")


class Notifier:
    """Sends notices in a thread of its own, one after the other; what waits meanwhile is sent together.

    Attributes
    ----------
    failed : str or None
        What a service last answered, if the last notice did not reach all.
    """

    def __init__(
        self,
        places: Places,
        *,
        urls: Callable[[], list[str]] = services,
        timeout: float = SECONDS,
    ) -> None:
        self.places, self.urls, self.timeout = places, urls, timeout
        self.failed: str | None = None
        self._rows: queue.SimpleQueue[Row] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, rows: Sequence[Row]) -> None:
        """Let the end of these jobs be sent, soon; it never waits."""
        for row in rows:
            self._rows.put(row)
        if rows and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="notices", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            rows = [self._rows.get()]
            time.sleep(0.2)  # a few ends of one moment are one notice
            with contextlib.suppress(queue.Empty):
                while True:
                    rows.append(self._rows.get_nowait())
            with contextlib.suppress(Exception):  # the thread must go on; what failed is kept by `_send`
                self._send(rows)

    def _send(self, rows: Sequence[Row]) -> None:
        try:
            urls = self.urls()
            none = check() if urls else "the setting jobs.notify names no service"
        except Exception as error:  # noqa: BLE001 - a mistake in the settings, say; it is kept
            urls, none = [], str(error)
        for told in ends.notices(rows, paths.host_name()):
            try:
                answers = [] if none is not None else send(told, urls, timeout=self.timeout)
            except OSError as error:  # no process can be started
                answers, none = [], f"nothing was sent: {error.strerror or error}"
            failed = none if none is not None else _failures(answers)
            self.failed = failed if urls else None
            for id in told["ids"]:
                keep(self.places, id, {"at": time.time(), "answers": answers, "failed": failed})


def _failures(answers: Sequence[Answer]) -> str | None:
    return "; ".join(notice_line(one) for one in answers if one["state"] != "sent") or None


# --- what is kept ---


def keep(places: Places, id: str, found: Mapping[str, Any]) -> None:
    """Keep what the services answered to the end of a job."""
    with contextlib.suppress(OSError, StoreError):  # a full disk: the notice was sent nevertheless
        places.notices.mkdir(mode=0o700, exist_ok=True)
        _durable.write(places.notices / id, json.dumps(found).encode(), is_synced=False)


def kept(places: Places, id: JobId) -> dict[str, Any] | None:
    """Return what the services answered; None if nothing was sent yet."""
    try:
        found = json.loads((places.notices / str(id.number)).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
