"""Rows of jobs, as ``list``, ``show`` and ``watch`` answer them: from what the store has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ports.jobs._model import PENDING, STATES, JobId
from ports.jobs._store import JobRow, SubmissionRow


def submission_row(row: SubmissionRow) -> dict[str, Any]:
    """Return the row of a job, or of the whole map with the `counts` of its jobs."""
    spec = json.loads(row.spec)
    shown: dict[str, Any] = {
        "kind": "job",
        "id": str(row.number),
        "name": row.name,
        "state": row.state,
        "what": row.kind,
        "queue": row.queue,
        "priority": row.priority,
        "count": row.count,
        "counts": {state: n for state, n in zip(STATES, row.counts, strict=True) if n},
        "created_at": row.created,
        "began_at": row.began,
        "ended_at": row.ended,
        "tags": spec.get("tags", {}),
    }
    if row.reason:
        shown["reason"] = row.reason
    return shown


def job_row(submission: SubmissionRow, id: JobId, job: JobRow | None) -> dict[str, Any]:
    """Return the row of one job; `job` is None if nothing happened to it."""
    shown = submission_row(submission)
    shown.update(id=str(id), state=PENDING, attempt=0, began_at=None, ended_at=None)
    if id.item is not None:
        del shown["count"], shown["counts"]
    shown.pop("reason", None)
    if job is not None:
        shown.update(state=job.state, attempt=job.attempt, began_at=job.began, ended_at=job.ended)
        told: dict[str, Any] = {"reason": job.reason, "slot": job.slot, "ending": job.ending}
        told |= {"peak_memory": job.peak_memory, "cpu_time": job.cpu_time}
        shown.update({name: value for name, value in told.items() if value is not None})
        shown.update({name: json.loads(text) for name, text in (("note", job.note), ("retried", job.used)) if text})
    return shown


def transitions(found: Sequence[Sequence[Any]], created: float) -> list[dict[str, Any]]:
    """Return the transitions of one job, the first of which is its submission."""
    names = ("attempt", "state", "at", "host", "reason", "peak_memory", "cpu_time")
    first = {"attempt": 0, "state": PENDING, "at": created}
    rest = ({name: value for name, value in zip(names, row, strict=True) if value is not None} for row in found)
    return [first, *rest]


def asked(spec: dict[str, Any]) -> dict[str, Any]:
    """Return what was asked for, without what can be large or private: variables and their values are not shown."""
    return {name: value for name, value in spec.items() if name not in ("environ", "cache", "inputs", "tags", "name")}
