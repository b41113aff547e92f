"""``ports job shell``: a shell where a job runs or ran."""

from __future__ import annotations

import sys

import click

from ports.cli.commands import Command
from ports.cli.job_options import is_same
from ports.cli.options import Host
from ports.cli.output import Output, waiting, with_output


@click.command(cls=Command)
@click.argument("id")
@click.option("-H", "--host", metavar="ALIAS", type=Host(), help="The host of ~/.ssh/config whose job is meant.")
@with_output
def shell(out: Output, id: str, host: str | None) -> None:
    """Open a shell where a job runs or ran, in its directory.

    While it runs, the shell has the variables of its process. Ctrl-b d detaches; nothing of the job ends with the
    shell.
    """
    from ports import hosts, jobs

    if out.as_json:
        raise click.UsageError("a shell takes over the terminal; leave --json out")
    named, _, number = id.rpartition(":")
    if named and host is not None and not is_same(named, host):
        raise click.UsageError(f"{id!r} is a job of {named}, not of {host}; leave -H out")
    there = named or host or ""
    bare = str(jobs.parse_id(number))
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError(f"a shell needs a terminal; `ports job logs {id}` shows what the job printed")
    if there and not hosts.is_here(there):
        with waiting(out, f"waiting for {there}"):
            hosts.interactive(there, ["job", "shell", bare])
    else:
        jobs.open_job_shell(bare)
