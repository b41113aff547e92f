"""A shell where a job runs or ran: in its directory, with the variables of its process.

The shell is one of `ports shell`, in tmux and beside the job: nothing of the job ends with it, and it outlives the job.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ports import probe, sessions
from ports.errors import NotFoundError, UsageError
from ports.jobs import _asking, _places
from ports.jobs._model import RUNNING, JobId, parse_id
from ports.jobs._places import Places

_PROMPT = r"(job {id}) \w$ "


class Place(NamedTuple):
    """Where a shell for a job opens. `environ` is that of the job's process; None: the job has none now."""

    directory: str
    environ: dict[str, str] | None


def open_job_shell(id: object) -> None:
    """Replace this process by a shell where a job of this machine runs or ran.

    Raises
    ------
    NotFoundError
        There is no such job, or its directory is gone.
    UsageError
        It is a map, or this is Windows.
    ToolMissingError, TmuxError
        As `ports.sessions.open_shell`.
    """
    row, places = _asking.show(id), _places.here()
    if row.get("count") is not None:
        raise UsageError(f"{row['id']} is a map of {row['count']} jobs; name one of them: {row['id']}.0")
    job = parse_id(row["id"])
    place = find(row, places)
    environ = dict(place.environ or sessions.surroundings.of_a_session(person=True))
    environ |= {"PORTS_JOB": str(job), "PORTS_JOB_DIRECTORY": str(places.work_of(job) / "kept")}
    if place.environ is not None:
        environ |= {"PS1": _PROMPT.format(id=job)}
    name = f"job-{str(job).replace('.', '-')}"
    sessions.open_shell_in(place.directory, environ, name=name, is_login=place.environ is None)


def find(row: Mapping[str, Any], places: Places) -> Place:
    """Return where the job that `show` shows runs or ran.

    Raises
    ------
    NotFoundError
        Its directory is gone.
    """
    job = parse_id(row["id"])
    pid = process_of(row, places) if row["state"] == RUNNING else None
    environ = sessions.processes.environment(pid) if pid is not None else None
    known = [sessions.processes.directory(pid)] if pid is not None else []
    known += [str(places.copy_of(job)), (row.get("asked") or {}).get("directory"), str(places.work_of(job))]
    asked = [one for one in known if one]
    found = next((one for one in asked if Path(one).is_dir()), None)
    if found is None:
        hint = "`ports job list` shows what there is"
        raise NotFoundError("directory of job", str(job), f"{asked[-1]} is not there; {hint}")
    return Place(found, environ)


def process_of(row: Mapping[str, Any], places: Places) -> int | None:
    """Return the process that runs a job: the main process of a script, or the child of its slot; None if gone."""
    if row.get("what") == "script":
        return _of_script(parse_id(row["id"]), int(row.get("attempt") or 0), places)
    worker, slot = row.get("process"), row.get("slot")
    if not isinstance(worker, dict) or not slot or not probe.is_same_process_alive(worker):
        return None
    out = str(places.stdout_of(str(slot)))
    below = probe.processes.descendants(int(worker["pid"]))
    return next((pid for pid in reversed(below) if _prints_to(pid, out)), None)


def _of_script(job: JobId, attempt: int, places: Places) -> int | None:
    from ports.jobs.resource import script  # not on Windows

    running = script.read(places.work_of(job) / "running.json")
    watcher, pid = running.get("watcher"), running.get("pid")
    if running.get("attempt") != attempt or not isinstance(watcher, dict) or not probe.is_same_process_alive(watcher):
        return None
    return pid if isinstance(pid, int) and pid in probe.processes.children(int(watcher["pid"])) else None


def _prints_to(pid: int, file: str) -> bool:
    try:
        return str(Path(f"/proc/{pid}/fd/1").readlink()) == file
    except OSError:
        return False
