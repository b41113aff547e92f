"""``ports job submit --open``: open at home what a job listens on, as soon as it does."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ports.cli import job_rows
from ports.cli.output import Output, Row, waiting

FAILED, NOTHING = 8, 3
_EVERY, _SETTLED = 1.0, 5.0  # seconds between two looks; seconds after which a port that says nothing is opened, too
_ENDED = ("finished", "error", "cancelled", "lost")


def opened(out: Output, machine: Any, id: str) -> int:
    """Wait until a job listens, open that at home, and show the links; return 8 or 3 if it ends before.

    Parameters
    ----------
    machine : object
        The jobs of its machine: ``host`` and ``show``.
    """
    try:
        with waiting(out, f"waiting for a port of job {id}"):
            found = _awaited(machine, id, threading.Event())
    except KeyboardInterrupt:
        said = f"job {id} goes on; `ports job show {id}` shows what it listens on, and how to open it"
        raise KeyboardInterrupt(said) from None
    if isinstance(found, dict):
        return _show_ended(out, found)
    shown = _opened(machine, found)
    if out.as_json:
        out.details({**machine.show(id), "ports": shown})
    else:
        out.result({}, "\n".join(line(id, one) for one in shown))
    failed = [one for one in shown if one.get("error")]
    return int(failed[0].get("exit_code") or 5) if failed else 0


@contextlib.contextmanager
def opened_beside(out: Output, machine: Any, id: str) -> Iterator[None]:
    """Do as `opened` in a thread for as long as this context lasts, while something else is shown."""
    is_over = threading.Event()

    def run() -> None:
        from ports.errors import PortsError

        try:
            found = _awaited(machine, id, is_over)
            for one in () if isinstance(found, dict) else _opened(machine, found):
                out.say(line(id, one))
        except (PortsError, OSError) as error:
            out.say(f"ports: {error}")

    thread = threading.Thread(target=run, name="open-job", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(10)


def listened(machine: Any, row: Row) -> list[Row]:
    """Return what a job listens on, for `show`; nothing where that cannot be seen."""
    from ports import jobs
    from ports.errors import PortsError

    if row["state"] != "running" or row.get("count") is not None:
        return []
    with contextlib.suppress(PortsError):
        return list(jobs.listening(machine.host, str(row["id"]).rpartition(":")[2], row.get("pid")))
    return []


def line(id: str, one: Row) -> str:
    """Return in a line where a port of a job is open."""
    if one.get("error"):
        return f"job {id} listens on port {one['port']}, which was not opened: {one['error']}"
    return f"job {id} listens on port {one['port']}: {one.get('local_url') or 'it is open here'}"


def _show_ended(out: Output, row: Row) -> int:
    if out.as_json:
        out.details(row)
    else:
        begin = f"job {row['id']} ended before it listened on a port"
        out.say(f"ports: {begin}; {job_rows.sentence(row)}")
    return NOTHING if row["state"] == "finished" else FAILED


def _awaited(machine: Any, id: str, is_over: threading.Event) -> Sequence[Row] | dict[str, Any]:
    """Return what a job listens on, once it does; its row if it has ended before."""
    from ports import jobs

    number, since = id.rpartition(":")[2], 0.0
    while True:
        row = machine.show(id)
        found = jobs.listening(machine.host, number, row.get("pid")) if row["state"] == "running" else []
        pages = [one for one in found if one["is_page"]]
        since = since or (time.monotonic() if found else 0.0)
        if pages or (found and time.monotonic() - since > _SETTLED):
            return pages or found
        if row["state"] in _ENDED or is_over.wait(_EVERY):
            return dict(row)


def _opened(machine: Any, found: Sequence[Row]) -> list[dict[str, Any]]:
    """Open ports at home, in the background; on this machine they are open already."""
    if machine.host is None:
        return [dict(one) for one in found]
    from ports import tunnels

    told = tunnels.open_in_background([f"{machine.host}:{one['port']}" for one in found])
    by_name = {row.get("name"): row for row in told}
    shown = []
    for one in found:
        row = by_name.get(one["name"]) or by_name.get(str(one["port"])) or {}
        failed = {name: row[name] for name in ("error", "exit_code") if row.get(name)}
        shown.append({**one, "local_url": row.get("local_url"), **failed})
    return shown
