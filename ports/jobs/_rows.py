"""Rows of jobs, as ``list``, ``show`` and ``watch`` answer them: from what the store has, see `ports.probe.words`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ports.probe import words

if TYPE_CHECKING:
    from ports.jobs._model import JobId
    from ports.jobs._store import JobRow, SubmissionRow


def submission_row(row: SubmissionRow) -> dict[str, Any]:
    """Return the row of a job, or of the whole map with the `counts` of its jobs."""
    return words.submission_row(row)


def job_row(submission: SubmissionRow, id: JobId, job: JobRow | None) -> dict[str, Any]:
    """Return the row of one job; `job` is None if nothing happened to it."""
    return words.job_row(submission, id.item, job)


def transitions(found: Sequence[Sequence[Any]], created: float) -> list[dict[str, Any]]:
    """Return the transitions of one job, the first of which is its submission."""
    return words.transition_rows(found, created)


def asked(spec: dict[str, Any]) -> dict[str, Any]:
    """Return what was asked for, without what can be large or private: variables and their values are not shown."""
    return words.asked_of(spec)


def paged(found: Mapping[str, Any], host: str) -> dict[str, Any]:
    """Return what a queue answers about a page of the list, with the host in each row."""
    rows = [{"host": host, **row} for row in found.get("rows") or ()]
    tally = found.get("tally")
    return {
        "rows": rows,
        "counts": dict(found.get("counts") or {}),
        "tally": dict(tally) if isinstance(tally, Mapping) else None,
        "at_rest": bool(found.get("at_rest")),
    }
