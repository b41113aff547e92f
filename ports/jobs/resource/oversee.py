"""The resource's eye on scripts, which run in sessions of their own: how they ended, and the end of unwanted ones.

A script notes its end in a file, which counts. Where there is none, its lease shows whether anything of it lives.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from ports.jobs._model import ERROR, FINISHED, LOST, JobId, Lease, LeaseState, parse_id
from ports.jobs._places import Places
from ports.jobs._scripts import verdict
from ports.jobs._turn import Queue, Request
from ports.jobs.resource import lease, script

_FORGET_SECONDS = 3600.0  # a client that lives has submitted by then
_CAUSES = {"timeout": "time", "memory": "memory"}


def ended(queue: Queue, places: Places, look: Callable[[Lease], LeaseState]) -> list[Request]:
    """Return the requests that tell the queue which of its scripts have ended; they wait for no answer."""
    found = []
    for id, attempt, held in queue.scripts():
        noted = _noted(places, id, attempt)
        if noted is None and (state := look(held)).alive is False:
            # the file is written before the lease ends: it can have come between the two looks
            noted = _noted(places, id, attempt) or {"ended": "lost", "reason": state.reason}
        if noted is not None:
            header = {"op": "ended", "slot": held.slot, "results": [result(id, attempt, noted)]}
            found.append(Request(None, header, [b""]))
    return found


def left(places: Places, id: JobId, attempt: int) -> Lease | None:
    """Return the lease of a script whose slot died before it said that it runs; None if it never began.

    The slot takes the lease before it starts the script, which inherits it: where it is free, and nothing was noted,
    nothing of the script ever ran.
    """
    slot = f"job-{id}-{attempt}"
    running = script.read(places.work_of(id) / "running.json")
    process = running.get("process") if running.get("attempt") == attempt else None
    found = Lease(slot, str(places.lease_of(slot)), process)
    is_there = process is not None or _noted(places, id, attempt) is not None or lease.look(found).alive
    return found if is_there else None


def _noted(places: Places, id: JobId, attempt: int) -> dict[str, Any] | None:
    """Return what the script noted of the end of this attempt; None if it has not ended."""
    found = script.read(places.work_of(id) / "exit.json")
    return found if found.get("attempt") == attempt else None


def result(id: JobId, attempt: int, noted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of an attempt, as a slot tells that of a function."""
    state, reason = verdict(noted)
    told = {"id": str(id), "attempt": attempt, "state": state, "has_output": True}
    times = {"began": noted.get("began_at"), "ended": noted.get("ended_at")}
    usage = {name: noted.get(name) for name in ("peak_memory", "cpu_time")}
    told |= {name: value for name, value in {**times, **usage}.items() if isinstance(value, int | float)}
    if state != FINISHED:
        told["error"] = {"text": reason}
    if state in (ERROR, LOST):
        told["reason"] = "lost" if state == LOST else _CAUSES.get(str(noted.get("ended")), "failure")
    note = {name: noted[name] for name in ("status", "signal", "size") if noted.get(name) is not None}
    dropped = {name: n for name, n in (noted.get("dropped") or {}).items() if n}
    return {**told, "note": {**note, **({"dropped": dropped} if dropped else {})}}


def end(header: Mapping[str, Any], places: Places) -> None:
    """Ask a script to end, as the queue wants it; of one that has ended meanwhile nothing is left to do."""
    script.end(places.work_of(parse_id(header["id"])), int(header["attempt"]), str(header["how"]))


def forget_environs(queue: Queue, places: Places, now: float) -> None:
    """Remove environments that belong to no job which waits or runs: their client was killed before it submitted."""
    wanted = {row.key for row in queue.store.unended()} | {path.name for path in places.submissions.iterdir()}
    for path in places.environs.iterdir():
        with contextlib.suppress(OSError):
            if path.name not in wanted and now - path.stat().st_mtime > _FORGET_SECONDS:
                path.unlink()
