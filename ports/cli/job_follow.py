"""What a job prints, as it comes, until it ends; and how jobs end that are waited for."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from typing import Any

import click

from ports.cli import job_rows
from ports.cli.output import Output, Row, echo

FAILED, IN_TIME = 8, 6  # exit codes: a job did not finish; the wait ended before it


def show_submitted(out: Output, row: Row) -> int:
    """Show the id of a job that was submitted, or how it ended if that was waited for."""
    if out.as_json or row.get("id") is None:
        out.details(row if out.as_json else job_rows.details(row))
    else:
        echo(str(row["id"]))
    return 0


def followed(out: Output, machine: Any, id: str, *, own_code: bool) -> int:
    """Show the output of a job until it ends, and return the exit code; Ctrl-C asks what is meant, at a terminal."""
    try:
        stream(out, machine, id, lines=0, only=None, stamps=False)
        rows = waited(out, machine, [id], None)
    except KeyboardInterrupt:
        if sys.stdin.isatty() and sys.stderr.isatty() and _wants_cancel(id):
            machine.cancel([id])
            raise KeyboardInterrupt(f"job {id} is being cancelled") from None
        said = f"job {id} goes on; `ports job logs -f {id}` follows it again, `ports job cancel {id}` ends it"
        raise KeyboardInterrupt(said) from None
    row = rows[0]
    if out.as_json:
        out.details(job_rows.document(row))
    elif row["state"] != "finished":
        out.say(f"ports: {job_rows.sentence(row)}")
    if own_code and (code := job_rows.exit_code(row)) is not None:
        return code
    return 0 if row["state"] == "finished" else FAILED


def _wants_cancel(id: str) -> bool:
    """Ask at the terminal whether the job is to be cancelled; a second Ctrl-C means that it goes on."""
    try:
        answer = click.prompt(
            f"Ctrl-C: [d]etach, and job {id} goes on, or [c]ancel it?", default="d", show_default=False, err=True
        )
    except (click.Abort, KeyboardInterrupt):
        return False
    return str(answer).strip().lower().startswith("c")


def stream(out: Output, machine: Any, id: str, *, lines: int, only: str | None, stamps: bool) -> None:
    """Show the last lines of a job's output, and then each that comes until it ends."""
    from ports import jobs

    found = machine.output(id)

    def files() -> dict[str, Any]:
        return {name: one for name, one in found.files().items() if only in (None, name)}

    pieces, positions = jobs.last_of(found, lines, only=only)
    write(out, pieces, stamps=stamps)
    asked = {"stamped": found.stamped, "is_over": found.is_over, "is_still": found.is_still}
    for some, _ in jobs.follow(files, positions, **asked):
        write(out, some, stamps=stamps)


def write(out: Output, pieces: Sequence[Any], *, stamps: bool) -> None:
    """Write what a job printed to the same stream here; with ``--json``, standard output is for the document."""
    for to_stderr, some in itertools.groupby(pieces, lambda one: one.stream == "stderr" or out.as_json):
        target = sys.stderr if to_stderr else sys.stdout
        data = b"".join((f"{one.stamp} ".encode() if stamps and one.stamp else b"") + one.text for one in some)
        target.flush()
        binary = getattr(target, "buffer", None)
        if binary is None:
            target.write(data.decode("utf-8", "replace"))
        else:
            binary.write(data)
        target.flush()


def waited(out: Output, machine: Any, ids: Sequence[str], within: float | None) -> list[Row]:
    """Wait until jobs have ended, and return their rows."""
    said: list[str] = []

    def idle() -> None:
        if not said:
            there = "here" if machine.host is None else f"on {machine.host}"
            said.append(f"no compute resource runs {there}, so nothing begins; `ports resource start` goes on")
            out.say(f"ports: {said[0]}")

    return list(machine.wait(list(dict.fromkeys(ids)), within=within, idle=idle))
