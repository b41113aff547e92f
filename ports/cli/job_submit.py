"""``ports job submit``: a command, or a file that says what is to run; here or on another machine."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ports.cli import job_open, job_rows
from ports.cli.commands import Command
from ports.cli.job_follow import followed, show_submitted
from ports.cli.job_options import Duration, Id, Variable, bare_id, each, on_machine
from ports.cli.options import Number
from ports.cli.output import Output, Row, with_output

_OF_COPY = ("in_place", "copy", "out", "reuse", "send_all")


@click.command(cls=Command, context_settings={"allow_interspersed_args": False})
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
@click.option(
    "--after", metavar="ID[,ID]", type=Id(), multiple=True, callback=each,
    help="Begin once this job, or these jobs, have finished; repeatable.",
)  # fmt: skip
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
@click.option(
    "--notify", is_flag=True, help="Send a notice at its end, through the services of the setting jobs.notify."
)
@click.option("--keep-children", is_flag=True, help="What the script leaves running goes on; else it ends after 30 s.")
@click.option(
    "--in-place", is_flag=True, help="Run it in this directory, as on this machine; with -H, nothing is sent there."
)
@click.option("--copy", is_flag=True, help="Run it in a copy of this directory as it is now, as with -H.")
@click.option(
    "--out", "outputs", metavar="PATH", multiple=True, help="Output of the copy, which can be fetched. Repeatable."
)
@click.option("--reuse", metavar="JOB/PATH", multiple=True, help="Put output of another job into the copy. Repeatable.")
@click.option("--send-all", is_flag=True, help="Copy more than 1 GB or 50,000 files, or your home.")
@click.option("--setup", metavar="COMMAND", help="Command that makes its environment, once: 'pip install -r FILE'.")
@click.option(
    "--python", metavar="PYTHON", help="With --setup: interpreter of the environment. Default: the resource's."
)
@click.option("--dry-run", is_flag=True, help="Show what would be submitted, and submit nothing.")
@click.option("--no-start", is_flag=True, help="Start no compute resource; the job waits until one is started.")
@click.option("--follow", is_flag=True, help="Show its output until it ends; exit code 8 if it fails.")
@click.option("--open", "opens", is_flag=True, help="Open at home what the job listens on, as soon as it does.")
@click.option("--exit-code", is_flag=True, help="With --follow: exit with the job's own code.")
@with_output
@on_machine(of_several=True)
def submit(out: Output, machine: Any, words: tuple[str, ...], **options: Any) -> int:
    """Submit a command. It runs as it was typed, in this directory and environment, and goes on when you log out."""
    from ports import jobs

    flags = {name: options.pop(name) for name in ("dry_run", "no_start", "follow", "opens", "exit_code")}
    if flags["exit_code"] and not flags["follow"]:
        raise click.UsageError("--exit-code is for --follow; add it, or `ports job wait` waits for the job")
    options["out"] = options.pop("outputs")
    given = {name: value for name, value in options.items() if value not in (None, (), False)}
    of_copy: dict[str, Any] = {name: given.pop(name) for name in _OF_COPY if name in given}
    _check_way(of_copy)
    script, note = _described(machine, words, given, of_copy)
    if note:
        _say(out, note)
    if flags["dry_run"]:
        return show_submitted(out, script.row())
    id = machine.submit_script(
        script,
        start=not flags["no_start"],
        copied=lambda row: _say_copied(out, row, is_sent=machine.host is not None),
        said=functools.partial(_say, out),
    )
    if machine.host is not None:
        machine = jobs.at(id.partition(":")[0])  # the one of several that has it
    if not out.as_json and str(id).rpartition(":")[2] == "1":  # its first job
        out.say(machine.where())
    return _shown(out, machine, str(id), flags)


def _shown(out: Output, machine: Any, id: str, flags: dict[str, bool]) -> int:
    """Show the id of a job that was submitted, its output, or what it listens on."""
    if not flags["follow"] and not flags["opens"]:
        return show_submitted(out, machine.show(id) if out.as_json else {"id": id})
    out.say(f"job {id}")
    if not flags["follow"]:
        return job_open.opened(out, machine, id)
    with job_open.opened_beside(out, machine, id) if flags["opens"] else contextlib.nullcontext():
        return followed(out, machine, id, own_code=flags["exit_code"])


def _say(out: Output, text: str) -> None:
    if not out.as_json:
        out.say(text)


def _say_copied(out: Output, row: Row, *, is_sent: bool) -> None:
    if not out.as_json:
        out.say(f"{'sent' if is_sent else 'copied'} {job_rows.copied(row)}")
        for line in job_rows.left_behind(row):
            out.say(line)


def _way(of_copy: Mapping[str, Any]) -> dict[str, Any]:
    """Return whether a script runs in place, or in a copy, which looks for its files."""
    return {"in_place": of_copy.get("in_place", False), "copy": any(name != "in_place" for name in of_copy)}


def _check_way(of_copy: Mapping[str, Any]) -> None:
    if "copy" in of_copy and "in_place" in of_copy:
        raise click.UsageError("--copy and --in-place do not go together; leave one of them out")


def _described(
    machine: Any, words: Sequence[str], options: dict[str, Any], of_copy: dict[str, Any]
) -> tuple[Any, str | None]:
    """Return the script that the words of the command line mean, and how it is copied; and what is to be said."""
    from ports import jobs

    is_far = machine.host is not None
    script, has_directory = _script(words, {**options, "is_far": is_far}, of_copy, machine.host)
    in_place, wants_copy = of_copy.pop("in_place", False), of_copy.pop("copy", False)
    if of_copy and not wants_copy and (in_place or not is_far):
        name = next(iter(of_copy)).replace("_", "-")
        way = "leave --in-place out" if is_far else "add --copy, or leave it out: the script runs in this directory"
        raise click.UsageError(f"--{name} is for a copy; {way}")
    if wants_copy or of_copy:
        return jobs.plan_copy(script, root=str(Path.cwd()) if is_far else None, **of_copy), None
    if not is_far or in_place or has_directory:
        return script, None
    if (note := jobs.nothing_sent(script, str(Path.cwd()), machine.host)) is not None:
        return script, note
    return jobs.plan_copy(script, root=str(Path.cwd())), None


def _script(
    words: Sequence[str], options: dict[str, Any], of_copy: dict[str, Any], host: str | None
) -> tuple[Any, bool]:
    """Return a script and whether it names its directory: a command, or a file, which can have options of a copy."""
    from ports import jobs

    if Path(words[0]).suffix not in (".yaml", ".yml") or not Path(words[0]).is_file():
        return jobs.describe(words, **options, **_way(of_copy)), False
    if len(words) > 1:
        raise click.UsageError(f"{words[1]!r} is behind {words[0]}; options are written before the file")
    argv, given = jobs.read_file(Path(words[0]), is_far=options["is_far"])
    if (after := given.get("after")) is not None:
        ids = after.split(",") if isinstance(after, str) else after if isinstance(after, list) else [after]
        given["after"] = [bare_id(click.get_current_context(), host, str(one).strip()) for one in ids]
    own = {name: value for name in _OF_COPY if (value := given.pop(name, None)) not in (None, (), False)}
    _check_way(own)
    if "in_place" in of_copy:
        own = {}  # the command line wants no copy
    elif "copy" in of_copy:
        own.pop("in_place", None)
    for name, value in own.items():
        of_copy.setdefault(name, (value,) if isinstance(value, str) else value)
    script = jobs.describe(argv, **{**given, **options, **_way(of_copy)})
    return script, given.get("directory") is not None
