"""``ports job``: submit scripts, see what becomes of jobs, read what they print, end them."""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ports.cli import job_open, job_rows, job_shell, job_submit
from ports.cli import watch as watching
from ports.cli.after_boot import tell_after_boot
from ports.cli.commands import Group
from ports.cli.job_follow import FAILED, IN_TIME, show_submitted, stream, waited, write
from ports.cli.job_options import ID, IDS, Duration, on_machine
from ports.cli.options import Number, OneOf
from ports.cli.output import Look, Output, Row, echo, waiting, with_output
from ports.errors import PortsError

FAR = 5  # exit code: a host failed
_STATES = ("pending", "running", "finished", "error", "cancelled", "lost")


@click.group(cls=Group)
@click.pass_context
def job(context: click.Context) -> None:
    """Scripts and functions that run when there is room, and outlive your login."""
    tell_after_boot(context)


job.add_command(job_shell.shell)
job.add_command(job_submit.submit)


# --- list and show ---


def show_list(out: Output, rows: Sequence[Row], *, is_all: bool = True) -> None:
    """Show the newest jobs; `is_all` says that no filter left any out."""
    if out.as_json:
        shown = [job_rows.document(one) if one.get("kind") == "job" else one for one in rows]
    else:
        shown = [{**job_rows.row(one, time.time()), "host": one.get("host")} for one in rows]
    none = "no jobs; `ports job submit` submits one" if is_all else "no job matches; `ports job list` shows all"
    out.table(shown, "job", empty=none)


@job.command("list")
@click.option("-n", "--newest", type=Number(1, 1000), default=50, show_default=True, help="Number of jobs, 1 to 1000.")
@click.option("--state", type=OneOf(_STATES), help="Only jobs in this state.")
@click.option("--name", help="Only jobs of this name.")
@click.option("--tag", metavar="NAME[=VALUE]", help="Only jobs with this tag.")
@click.option("--search", metavar="WORDS", help="Only jobs that have these words in their name or command.")
@click.option("--queue", help="Only jobs of this queue.")
@click.option("--csv", "as_csv", is_flag=True, help="Print lines of comma-separated values.")
@watching.with_watch
@with_output
@on_machine(several=True)
def list_(out: Output, machines: Mapping[str, Any], newest: int, as_csv: bool, watch: bool, **filters: Any) -> int:
    """List my jobs, the newest first. It shows how long they run or ran, and why they wait or failed."""
    watching.refuse_document(watch, out.as_json)
    if watch and as_csv:
        raise click.UsageError("--watch has no end, but --csv prints one table; leave one of them out")
    asked = functools.partial(newest_of, machines, newest, filters)
    if watch:
        watching.show(looks(out, asked))
        return 0
    with waiting(out, f"waiting for {out.host}") if out.host else contextlib.nullcontext():
        found = asked()
    if as_csv:
        _write_csv([row for one in found.values() if not isinstance(one, Exception) for row in one[0]])
    is_all = all(value is None for value in filters.values())
    return show_newest(out, found, newest, is_shown=not as_csv, is_all=is_all)


Newest = Mapping[str, tuple[list[dict[str, Any]], dict[str, int]] | Exception]


def newest_of(machines: Mapping[str, Any], newest: int, filters: Mapping[str, Any]) -> Newest:
    """Return the newest jobs of each machine, and its counts; of several, a machine that fails has its error."""
    from ports import hosts

    if len(machines) == 1:
        return {name: one.list_jobs(newest=newest, **filters) for name, one in machines.items()}
    return hosts.on_each(machines, lambda name: machines[name].list_jobs(newest=newest, **filters))


def show_newest(out: Output, found: Newest, newest: int, *, is_shown: bool = True, is_all: bool = True) -> int:
    """Show the newest jobs, and how many there are where these are not all; return 5 if a machine failed."""
    from ports.hosts import failed_row

    failed = {name: one for name, one in found.items() if isinstance(one, PortsError)}
    there = {name: one for name, one in found.items() if not isinstance(one, Exception)}
    rows: list[Row] = [row for one in there.values() for row in one[0]]
    if out.as_json:
        rows += [failed_row(name, error) for name, error in failed.items()]
    if is_shown and (rows or not failed):
        show_list(out, rows, is_all=is_all)
    for name, error in () if out.as_json else failed.items():
        out.fail(name, str(error))
    for name, (some, counts) in () if out.as_json or not is_shown else there.items():
        if len(some) == newest:
            of = f" of {name}" if out.several else ""
            out.say(f"these are the newest {newest}{of}; in all: {job_rows.counts(counts)}")
    return FAR if failed else 0


def looks(out: Output, asked: Callable[[], Newest], newest: int = 1000) -> Iterator[list[str]]:
    """Yield what to show of each look at the newest jobs, without an end."""
    while True:
        look = Look()
        look.host, look.several = out.host, out.several
        show_newest(look, asked(), newest)
        yield look.told
        time.sleep(watching.EVERY)


def _write_csv(rows: Sequence[Row]) -> None:
    import csv  # 4 ms that other commands do not need

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(job_rows.CSV)
    told = map(job_rows.document, rows)
    writer.writerows([job_rows.cell(row.get(name)) for name in job_rows.CSV] for row in told)


def show_job(out: Output, row: Row) -> None:
    """Show everything about a job."""
    out.details(job_rows.document(row) if out.as_json else job_rows.details(row))
    for line in () if out.as_json else job_rows.history(row):
        echo(line)


@job.command()
@ID
@with_output
@on_machine
def show(out: Output, machine: Any, id: str) -> None:
    """Show everything about a job. That is each attempt and its end, what it used, and where its files are."""
    row = machine.show(id)
    told = {"files": machine.files(row), "ports": job_open.listened(machine, row)}
    show_job(out, {**row, **{name: found for name, found in told.items() if found}})


@job.command()
@ID
@with_output
@on_machine
def why(out: Output, machine: Any, id: str) -> None:
    """Show why a job waits, failed, or is lost, and what you can do."""
    row = machine.why(id)
    out.result(row, job_rows.sentence(row))


# --- output ---


@job.command()
@ID
@click.option("-n", "--lines", type=Number(0), default=50, show_default=True, help="Number of last lines; 0 for all.")
@click.option("-f", "--follow", is_flag=True, help="Go on with each line that comes, until the job ends or Ctrl-C.")
@click.option("--stdout", is_flag=True, help="Only what it printed on its standard output.")
@click.option("--stderr", is_flag=True, help="Only what it printed on its standard error.")
@click.option("--stamps", is_flag=True, help="Show before each line when it was printed, in UTC.")
@with_output
@on_machine
def logs(
    out: Output, machine: Any, id: str, *, lines: int, follow: bool, stdout: bool, stderr: bool, stamps: bool
) -> None:
    """Show what a job printed. Its standard error goes to standard error."""
    if follow and out.as_json:
        raise click.UsageError("--follow has no end, but --json prints one document; leave one of them out")
    only = None if stdout == stderr else ("stdout" if stdout else "stderr")
    if follow:
        with watching.until_ctrl_c():
            stream(out, machine, id, lines=lines, only=only, stamps=stamps)
        return
    from ports import jobs

    found = machine.output(id)
    if stamps and not found.stamped and not out.as_json:
        out.say("ports: the output of a function has no stamps")
    pieces, _ = jobs.last_of(found, lines, only=only)
    if not out.as_json:
        write(out, pieces, stamps=stamps)
        return
    told = [
        {"stream": one.stream, "time": one.stamp or None, "text": one.text.decode("utf-8", "replace")} for one in pieces
    ]
    out.details({"id": str(found.called), "lines": told, "stamps": stamps})


@job.command()
@ID
@click.option(
    "--to", metavar="DIR", type=click.Path(path_type=Path), help="Where to. Default: job-ID in this directory."
)
@click.option("--force", is_flag=True, help="Overwrite files of yours that differ.")
@with_output
@on_machine
def fetch(out: Output, machine: Any, id: str, to: Path | None, force: bool) -> None:
    """Copy the output of a job with a copy to your directory. What is there already is not copied again."""
    row = machine.fetch(id, to, force=force, say=out.say)
    out.result(row, job_rows.fetched(row))


# --- wait, cancel, rerun, prune ---


def show_waited(out: Output, rows: Sequence[Row]) -> int:
    """Show how jobs ended; return 0 if all finished, 8 if one did not, 6 if the wait ended before."""
    if out.as_json:
        out.table([job_rows.document(row) for row in rows], "job", empty="")
    for row in () if out.as_json else rows:
        if row["state"] != "finished":
            out.say(f"ports: {job_rows.sentence(row)}")
    if any(row["state"] in ("error", "cancelled", "lost") for row in rows):
        return FAILED
    return 0 if all(row["state"] == "finished" for row in rows) else IN_TIME


@job.command()
@IDS
@click.option("--within", type=Duration(), help="Longest time to wait: 90m, 1h, or seconds. Default: until they end.")
@with_output
@on_machine
def wait(out: Output, machine: Any, ids: tuple[str, ...], within: float | None) -> int:
    """Wait until jobs have ended. The exit code is 0 if all finished, 8 if one did not, 6 if time was up before."""
    try:
        rows = waited(out, machine, ids, within)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"job {ids[0]} goes on" if len(ids) == 1 else "the jobs go on") from None
    return show_waited(out, rows)


def show_cancelled(out: Output, found: Mapping[str, Any]) -> None:
    """Show which jobs were cancelled, which are being ended, and which had ended before."""
    words = {
        "cancelled": "cancelled",
        "ending": "ending: SIGTERM was sent, SIGKILL follows after 30 s",
        "ended_already": "ended before",
    }
    out.result(found, "\n".join(f"{', '.join(found[one])}: {text}" for one, text in words.items() if found.get(one)))


@job.command()
@IDS
@with_output
@on_machine
def cancel(out: Output, machine: Any, ids: tuple[str, ...]) -> None:
    """Cancel jobs. One that waits never begins; one that runs gets SIGTERM, and SIGKILL 30 s later."""
    show_cancelled(out, machine.cancel(list(dict.fromkeys(ids))))


@job.command()
@ID
@click.option("--here", is_flag=True, help="Copy its directory as it is now; else it gets the files that it had.")
@click.option("--no-start", is_flag=True, help="Start no compute resource; the job waits until one is started.")
@with_output
@on_machine
def rerun(out: Output, machine: Any, id: str, here: bool, no_start: bool) -> int:
    """Submit a job again. A script runs in its directory, or in the copy that it had, with this shell's environment.

    On another machine it has that of the login shell there. What `--environ` set is not set again.
    """
    new = machine.rerun(id, start=not no_start, here=here)
    return show_submitted(out, machine.show(new) if out.as_json else {"id": str(new)})


def show_removed(out: Output, found: Mapping[str, Any]) -> None:
    """Show which jobs were removed."""
    ids, verb = found["removed"], "would be removed" if found["dry_run"] else "removed"
    text = f"{len(ids)} {'job' if len(ids) == 1 else 'jobs'} {verb}" if ids else "nothing to remove"
    if kept := found.get("unfetched"):
        named = ", ".join(kept[:5]) + (" …" if kept[5:] else "")
        text += f"; {len(kept)} kept, because nobody fetched their output ({named}): --unfetched removes them, too"
    out.result(found, text)


@job.command()
@click.option("--older", metavar="DURATION", default="30d", show_default=True, help="Only jobs that ended so long ago.")
@click.option("--keep-failed", is_flag=True, help="Keep jobs that failed or are lost.")
@click.option("--unfetched", is_flag=True, help="Remove output of jobs with --copy, too, that was never fetched.")
@click.option("--dry-run", is_flag=True, help="Show how many would be removed, and remove nothing.")
@with_output
@on_machine
def prune(out: Output, machine: Any, older: str, keep_failed: bool, unfetched: bool, dry_run: bool) -> None:
    """Remove jobs that ended long ago, with their output and results."""
    found = machine.prune(older=older, keep_failed=keep_failed, unfetched=unfetched, dry_run=dry_run)
    show_removed(out, {**found, "dry_run": dry_run})
