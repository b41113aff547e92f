"""``ports job``: submit scripts, see what becomes of jobs, read what they print, end them."""

from __future__ import annotations

import csv
import functools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from ports.cli import job_rows, job_shell
from ports.cli import watch as watching
from ports.cli.commands import Group
from ports.cli.options import Number, OneOf
from ports.cli.output import Look, Output, Row, with_host, with_output

FAILED, IN_TIME = 8, 6  # exit codes: a job did not finish; the wait ended before it
_STATES = ("pending", "running", "finished", "error", "cancelled", "lost")


class Id(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """The id of a job: ``12``, ``12.7`` for a job of a map, ``server1:12`` for a job of another machine."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the text; fails where it is none."""
        from ports.errors import UsageError
        from ports.jobs import parse_id

        host, _, number = str(value).rpartition(":")
        try:
            parse_id(number if host else value)
        except UsageError as error:
            self.fail(str(error), param, ctx)
        return str(value)


class Duration(click.ParamType):  # type: ignore[type-arg]
    """Seconds, or a text like ``90m``, ``1h``, ``2d``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return seconds; fails with what is allowed."""
        from ports.errors import UsageError
        from ports.jobs import parse_duration

        try:
            return parse_duration(value, f"--{param.name}" if param is not None else "time")
        except UsageError as error:
            self.fail(str(error), param, ctx)


class Variable(click.ParamType):  # type: ignore[type-arg]
    """``NAME=VALUE``, or ``NAME`` with the value that it has here, also where the job runs on another host."""

    name = "variable"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return ``NAME=VALUE``; fails where that variable has no value here."""
        from ports.errors import UsageError
        from ports.jobs import variable

        try:
            return "=".join(variable(str(value)))
        except UsageError as error:
            self.fail(str(error), param, ctx)


ID = click.argument("id", type=Id())
F = TypeVar("F", bound=Callable[..., Any])
IDS = click.argument("ids", metavar="ID...", type=Id(), nargs=-1, required=True)


def at_its_host(function: F) -> F:
    """Let a command run on the host of the jobs that it names: ``server1:12`` means ``-H server1 12``."""

    @functools.wraps(function)
    def command(out: Output, **options: Any) -> Any:
        ctx = click.get_current_context()
        given = {name: options[name] for name in ("id", "ids", "after") if options.get(name)}
        acted_on = [one for name in ("id", "ids") if name in given for one in _as_list(given[name])]
        options["host"] = host = _host_of(acted_on, options.get("host"))
        for name, value in given.items():
            bare = [job_rows.without_host(host, one) for one in _as_list(value)]
            if (other := next((one for one in bare if ":" in one), None)) is not None:
                there = other.rpartition(":")[0]
                raise click.UsageError(f"{other!r} is a job of {there}; `{ctx.command_path} -H {there}` runs there")
            options[name] = ctx.params[name] = bare[0] if isinstance(value, str) else tuple(bare)
        return function(out, **options)

    return command  # type: ignore[return-value]


def _as_list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _host_of(ids: Sequence[str], typed: str | None) -> str | None:
    """Return the host that the ids name, or that was typed; fails where these are two."""
    named = list(dict.fromkeys(one.rpartition(":")[0] or typed for one in ids))
    hosts = list(dict.fromkeys([*named, *([typed] if typed is not None else [])]))
    if len(hosts) > 1:
        shown = " and ".join("this machine" if one is None else one for one in hosts)
        raise click.UsageError(f"these are jobs of {shown}; name jobs of one machine at once")
    return hosts[0] if hosts else typed


@click.group(cls=Group)
def job() -> None:
    """Scripts and functions that run when there is room, and outlive your login."""


job.add_command(job_shell.shell)

# --- submit ---


def show_submitted(out: Output, row: Row) -> int:
    """Show the id of a job that was submitted, or how it ended if that was waited for."""
    if out.as_json or row.get("id") is None:
        out.details(row if out.as_json else job_rows.details(row))
    else:
        click.echo(row["id"])
    return 0


@job.command(context_settings={"allow_interspersed_args": False})
@click.argument("words", metavar="COMMAND...|FILE.yaml", nargs=-1, required=True)
@click.option("--cpus", type=Number(0, whole=False), help="Cores. Default: all of the resource's.")
@click.option("--memory", metavar="SIZE", help="Memory of all its processes, 3GB or 512MiB; above it, the job ends.")
@click.option("--gpus", type=Number(0), help="Number of GPUs. Default: 0.")
@click.option("--timeout", type=Duration(), help="Longest time it may run: 90m, 1h, 2d, or seconds. Default: no limit.")
@click.option(
    "--retries", metavar="N[,REASON: N]",
    help="How often it runs again when it failed or took too long: 2, or '2, exit 75: 5, memory: 1'. Default: 0.",
)  # fmt: skip
@click.option(
    "--memory-growth", metavar="FACTOR", type=Number(1, whole=False),
    help="Give the next attempt so many times the memory after one that used too much: 1.5. Default: 1.",
)  # fmt: skip
@click.option("--lifetime", type=Duration(), help="Cancel it if it has not begun after that time: 90m, 1h, 2d.")
@click.option("--name", help="Name in lists. Default: that of the script.")
@click.option("--after", metavar="ID", type=Id(), multiple=True, help="Begin once this job has finished; repeatable.")
@click.option(
    "--tag", metavar="NAME=VALUE", multiple=True, help="Tag by which `ports job list` can filter; repeatable."
)
@click.option(
    "--environ", metavar="NAME[=VALUE]", type=Variable(), multiple=True,
    help="Variable for the job, in addition to yours; without a value, the one it has here. Repeatable.",
)  # fmt: skip
@click.option("--queue", help="Name of the queue. Default: default.")
@click.option("--priority", type=Number(), help="Jobs with a higher number begin first. Default: 0.")
@click.option("--at", metavar="TIME", help="Begin at that time or later: 18:00, 2026-12-24T08:00, or in 2h.")
@click.option("--keep-children", is_flag=True, help="What the script leaves running goes on; else it ends after 30 s.")
@click.option("--copy", is_flag=True, help="Run it in a copy of this directory, as it is now.")
@click.option(
    "--out", "outputs", metavar="PATH", multiple=True, help="With --copy: what `ports job fetch` gets. Repeatable."
)
@click.option(
    "--reuse", metavar="JOB/PATH", multiple=True, help="With --copy: put output of another job there. Repeatable."
)
@click.option("--send-all", is_flag=True, help="With --copy: copy more than 1 GB or 50,000 files, or your home.")
@click.option("--dry-run", is_flag=True, help="Show what would be submitted, and submit nothing.")
@click.option("--no-start", is_flag=True, help="Start no compute resource; the job waits until one is started.")
@click.option("--follow", is_flag=True, help="Show its output until it ends; exit code 8 if it fails.")
@click.option("--exit-code", is_flag=True, help="With --follow: exit with the job's own code.")
@with_output
@at_its_host
@with_host(show_submitted, patience="within", renamed=job_rows.at_home)
def submit(out: Output, words: tuple[str, ...], **options: Any) -> int:
    """Submit a command. It runs as it was typed, in this directory and environment, and goes on when you log out."""
    from ports import jobs

    flags = {name: options.pop(name) for name in ("dry_run", "no_start", "follow", "exit_code")}
    if flags["exit_code"] and not flags["follow"]:
        raise click.UsageError("--exit-code is for --follow; add it, or `ports job wait` waits for the job")
    options["out"] = options.pop("outputs")
    given = {name: value for name, value in options.items() if value not in (None, (), False)}
    of_copy: dict[str, Any] = {name: given.pop(name) for name in ("copy", "out", "reuse", "send_all") if name in given}
    script = _described(words, given, of_copy)
    if flags["dry_run"]:
        return show_submitted(out, script.row())
    first = jobs.is_new()
    id = jobs.submit_script(script, start=not flags["no_start"], copied=lambda row: _say_copied(out, row))
    if first and not out.as_json:
        out.say(jobs.where())
    if not flags["follow"]:
        return show_submitted(out, jobs.show(id) if out.as_json else {"id": str(id)})
    out.say(f"job {id}")
    return _followed(out, str(id), own_code=flags["exit_code"])


def _say_copied(out: Output, row: Row) -> None:
    if not out.as_json:
        out.say(f"copied {job_rows.copied(row)}")
        for line in job_rows.left_behind(row):
            out.say(line)


def _described(words: Sequence[str], options: dict[str, Any], of_copy: dict[str, Any]) -> Any:
    """Return the script that the words of the command line mean, and how it is copied."""
    from ports import jobs

    script = _script(words, options, of_copy)
    if of_copy.pop("copy", False):
        return jobs.plan_copy(script, **of_copy)
    if of_copy:
        name = next(iter(of_copy)).replace("_", "-")
        raise click.UsageError(
            f"--{name} is for a copy; add --copy, or leave it out: the script runs in this directory"
        )
    return script


def _script(words: Sequence[str], options: dict[str, Any], of_copy: dict[str, Any]) -> Any:
    """Return a script: a command, or a file of YAML, which can also have the options of a copy."""
    from ports import jobs

    if Path(words[0]).suffix in (".yaml", ".yml") and Path(words[0]).is_file():
        if len(words) > 1:
            raise click.UsageError(f"{words[1]!r} is behind {words[0]}; options are written before the file")
        argv, given = jobs.read_file(Path(words[0]))
        for name in ("copy", "out", "reuse", "send_all"):
            if (value := given.pop(name, None)) not in (None, (), False):
                of_copy.setdefault(name, (value,) if isinstance(value, str) else value)
        return jobs.describe(argv, **{**given, **options})
    return jobs.describe(words, **options)


def _followed(out: Output, id: str, *, own_code: bool) -> int:
    """Show the output of a job until it ends, and return the exit code; Ctrl-C asks what is meant, at a terminal."""
    from ports import jobs

    try:
        _stream(out, id, lines=0, only=None, stamps=False)
        rows = _waited(out, [id], None)
    except KeyboardInterrupt:
        if sys.stdin.isatty() and sys.stderr.isatty() and _wants_cancel(id):
            jobs.cancel([id])
            out.say(f"job {id} is being cancelled")
        else:
            out.say(f"job {id} goes on; `ports job logs -f {id}` follows it again, `ports job cancel {id}` ends it")
        raise
    row = rows[0]
    if out.as_json:
        out.details(row)
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


# --- list and show ---


def show_list(out: Output, rows: Sequence[Row]) -> None:
    """Show the newest jobs."""
    shown = rows if out.as_json else [{**job_rows.row(one, time.time()), "host": one.get("host")} for one in rows]
    out.table(shown, "job", empty="no jobs; `ports job submit` submits one")


@job.command("list")
@click.option("-n", "--newest", type=Number(1, 1000), default=50, show_default=True, help="Number of jobs, 1 to 1000.")
@click.option("--state", type=OneOf(_STATES), help="Only jobs in this state.")
@click.option("--name", help="Only jobs of this name.")
@click.option("--tag", metavar="NAME[=VALUE]", help="Only jobs with this tag.")
@click.option("--queue", help="Only jobs of this queue.")
@click.option("--csv", "as_csv", is_flag=True, help="Print lines of comma-separated values.")
@watching.with_watch
@with_output
@with_host(show_list, several=True, renamed=job_rows.at_home)
def list_(out: Output, newest: int, as_csv: bool, watch: bool, **filters: Any) -> None:
    """List my jobs, the newest first. It shows how long they run or ran, and why they wait or failed."""
    from ports import jobs

    watching.refuse_document(watch, out.as_json)
    if watch and as_csv:
        raise click.UsageError("--watch has no end, but --csv prints one table; leave one of them out")
    if as_csv:
        _write_csv(jobs.list_jobs(newest=newest, **filters)[0])
    elif watch:
        watching.show(looks(newest, filters))
    else:
        show_newest(out, newest, filters)


def show_newest(out: Output, newest: int, filters: Mapping[str, Any]) -> None:
    """Show the newest jobs, and how many there are where these are not all."""
    from ports import jobs

    rows, counts = jobs.list_jobs(newest=newest, **filters)
    show_list(out, rows)
    if len(rows) == newest and not out.as_json:
        out.say(f"these are the newest {newest}; in all: {job_rows.counts(counts)}")


def looks(newest: int, filters: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield what to show of each look at the newest jobs, without an end."""
    while True:
        look = Look()
        show_newest(look, newest, filters)
        yield look.told
        time.sleep(watching.EVERY)


def _write_csv(rows: Sequence[Row]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(job_rows.CSV)
    writer.writerows([job_rows.cell(row.get(name)) for name in job_rows.CSV] for row in rows)


def show_job(out: Output, row: Row) -> None:
    """Show everything about a job."""
    out.details(row if out.as_json else job_rows.details(row))
    for line in () if out.as_json else job_rows.history(row):
        click.echo(line)


@job.command()
@ID
@with_output
@at_its_host
@with_host(show_job, renamed=job_rows.at_home)
def show(out: Output, id: str) -> None:
    """Show everything about a job. That is each attempt and its end, what it used, and where its files are."""
    from ports import jobs

    row = jobs.show(id)
    if row.get("count") is None:
        row["files"] = {name: str(path) for name, path in jobs.output(id).files().items() if path.exists()}
        row["files"] |= {name: str(path) for name, path in jobs.copy_files(row).items()}
    show_job(out, row)


def show_why(out: Output, row: Row) -> None:
    """Show why a job is in its state."""
    out.result(row, job_rows.sentence(row))


@job.command()
@ID
@with_output
@at_its_host
@with_host(show_why, renamed=job_rows.at_home)
def why(out: Output, id: str) -> None:
    """Show why a job waits, failed, or is lost, and what you can do."""
    from ports import jobs

    row = jobs.show(id)
    if row["state"] == "pending" and not jobs.is_running():
        row["why"] = "no compute resource runs here; `ports resource start` goes on"
    if (row.get("note") or {}).get("cache") and not row.get("reason"):
        row["why"] = jobs.why_cached(id)
    show_why(out, row)


# --- output ---


def show_pieces(out: Output, document: Mapping[str, Any]) -> None:
    """Show lines of both streams, each where it belongs."""
    if out.as_json:
        out.details(document)
        return
    for line in document["lines"]:
        stamp = f"{line['time']} " if document["stamps"] and line["time"] else ""
        _write(out, line["stream"], (stamp + line["text"]).encode("utf-8", "surrogateescape"))


@job.command()
@ID
@click.option("-n", "--lines", type=Number(0), default=50, show_default=True, help="Number of last lines; 0 for all.")
@click.option("-f", "--follow", is_flag=True, help="Go on with each line that comes, until the job ends or Ctrl-C.")
@click.option("--stdout", is_flag=True, help="Only what it printed on its standard output.")
@click.option("--stderr", is_flag=True, help="Only what it printed on its standard error.")
@click.option("--stamps", is_flag=True, help="Show before each line when it was printed, in UTC.")
@with_output
@at_its_host
@with_host(show_pieces, renamed=job_rows.at_home)
def logs(out: Output, id: str, lines: int, follow: bool, stdout: bool, stderr: bool, stamps: bool) -> None:
    """Show what a job printed. Its standard error goes to standard error."""
    if follow and out.as_json:
        raise click.UsageError("--follow has no end, but --json prints one document; leave one of them out")
    only = None if stdout == stderr else ("stdout" if stdout else "stderr")
    if follow:
        _stream(out, id, lines=lines, only=only, stamps=stamps)
        return
    from ports import jobs

    found = jobs.output(id)
    if stamps and not found.stamped and not out.as_json:
        out.say("ports: the output of a function has no stamps")
    files = {name: path for name, path in found.files().items() if only in (None, name)}
    pieces, _ = jobs.last(files, lines, stamped=found.stamped)
    told = [
        {"stream": one.stream, "time": one.stamp or None, "text": one.text.decode("utf-8", "surrogateescape")}
        for one in pieces
    ]
    if out.as_json:
        told = [{**one, "text": str(one["text"]).encode("utf-8", "replace").decode()} for one in told]
    show_pieces(out, {"id": id, "lines": told, "stamps": stamps})


def _stream(out: Output, id: str, *, lines: int, only: str | None, stamps: bool) -> None:
    """Show the last lines of a job's output, and then each that comes until it ends."""
    from ports import jobs

    found = jobs.output(id)

    def files() -> dict[str, Path]:
        return {name: path for name, path in found.files().items() if only in (None, name)}

    pieces, positions = jobs.last(files(), lines, stamped=found.stamped)
    for some in _and_then(pieces, jobs.follow(files, positions, stamped=found.stamped, is_over=found.is_over)):
        for one in some:
            _write(out, one.stream, (f"{one.stamp} ".encode() if stamps and one.stamp else b"") + one.text)


def _and_then(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    for pieces, _ in rest:
        yield pieces


def _write(out: Output, stream: str, data: bytes) -> None:
    """Write what a job printed to the same stream here; with ``--json``, standard output is for the document."""
    target = sys.stderr if stream == "stderr" or out.as_json else sys.stdout
    target.flush()
    binary = getattr(target, "buffer", None)
    if binary is None:
        target.write(data.decode("utf-8", "replace"))
    else:
        binary.write(data)
    target.flush()


def show_fetched(out: Output, row: Row) -> None:
    """Show where the output of a job is now."""
    out.result(row, job_rows.fetched(row, out.there()))


@job.command()
@ID
@click.option(
    "--to", metavar="DIR", type=click.Path(path_type=Path), help="Where to. Default: job-ID in this directory."
)
@click.option("--force", is_flag=True, help="Overwrite files of yours that differ.")
@with_output
@at_its_host
@with_host(show_fetched, renamed=job_rows.at_home)
def fetch(out: Output, id: str, to: Path | None, force: bool) -> None:
    """Copy the output of a job with a copy to your directory. What is there already is not copied again."""
    from ports import jobs

    show_fetched(out, jobs.fetch(id, to, force=force))


# --- wait, cancel, rerun, prune ---


def show_waited(out: Output, rows: Sequence[Row]) -> int:
    """Show how jobs ended; return 0 if all finished, 8 if one did not, 6 if the wait ended before."""
    if out.as_json:
        out.table(rows, "job", empty="")
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
@at_its_host
@with_host(show_waited, patience="within", renamed=job_rows.at_home)
def wait(out: Output, ids: tuple[str, ...], within: float | None) -> int:
    """Wait until jobs have ended. The exit code is 0 if all finished, 8 if one did not, 6 if time was up before."""
    return show_waited(out, _waited(out, ids, within))


def _waited(out: Output, ids: Sequence[str], within: float | None) -> list[Row]:
    from ports import jobs

    said: list[str] = []

    def idle() -> None:
        if not said:
            said.append("no compute resource runs here, so nothing begins; `ports resource start` goes on")
            out.say(f"ports: {said[0]}")

    return list(jobs.wait(list(dict.fromkeys(ids)), within=within, idle=idle))


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
@at_its_host
@with_host(show_cancelled, renamed=job_rows.at_home)
def cancel(out: Output, ids: tuple[str, ...]) -> None:
    """Cancel jobs. One that waits never begins; one that runs gets SIGTERM, and SIGKILL 30 s later."""
    from ports import jobs

    show_cancelled(out, jobs.cancel(list(dict.fromkeys(ids))))


@job.command()
@ID
@click.option("--no-start", is_flag=True, help="Start no compute resource; the job waits until one is started.")
@with_output
@at_its_host
@with_host(show_submitted, renamed=job_rows.at_home)
def rerun(out: Output, id: str, no_start: bool) -> int:
    """Submit a job again. A script runs in its directory, or in the copy that it had, with this shell's environment."""
    from ports import jobs

    new = jobs.rerun(id, start=not no_start)
    return show_submitted(out, jobs.show(new) if out.as_json else {"id": str(new)})


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
@with_host(show_removed, renamed=job_rows.at_home)
def prune(out: Output, older: str, keep_failed: bool, unfetched: bool, dry_run: bool) -> None:
    """Remove jobs that ended long ago, with their output and results."""
    from ports import jobs

    found = jobs.prune(older=older, keep_failed=keep_failed, unfetched=unfetched, dry_run=dry_run)
    show_removed(out, {**found, "dry_run": dry_run})
