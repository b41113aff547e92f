"""``ports cluster``."""

from __future__ import annotations

import json
from typing import Any

import click

from ports import clusters
from ports.cli.commands import Group
from ports.cli.options import Number
from ports.cli.output import Output, Row, with_host, with_output
from ports.cli.session_commands import NAME, add_session_commands


def show_one(out: Output, row: Row) -> None:
    """Show a cluster that was started or changed."""
    from ports import clusters

    text = f"cluster {row['name']!r} {clusters.cluster_state(row)}"
    if row["state"] == "running":
        text += f"\nat home:  {row['command']}\nthen:     {row['link']}"
    out.result(row, text)


def show_started(out: Output, row: Row) -> None:
    """Show a cluster that was started, and how its size came about."""
    if row.get("explained") and not out.as_json:
        out.say(row["explained"])
    show_one(out, row)


def with_values(ctx: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Give variables that are only named the values that they have here."""
    from ports.state import settings

    values = {text: settings.variable(text) for text in given if "=" not in text}
    for name in [name for name, value in values.items() if value is None]:
        raise click.UsageError(f"{name!r} is not NAME=VALUE, and no variable of that name is set here", ctx)
    return tuple(f"{text}={values[text]}" if text in values else text for text in given)


@click.group(cls=Group)
def cluster() -> None:
    """Dask clusters that outlive notebook, terminal and connection."""


@cluster.command()
@NAME
@click.option("--n-workers", type=Number(0, word="all"), help="Number of workers; all: what the machine has.")
@click.option("--threads-per-worker", type=Number(1), help="Threads of each worker.")
@click.option("--memory-limit", help="Memory of one worker: 4GB, 2GiB, or bytes.")
@click.option("--force", is_flag=True, default=None, help="Also more memory than the machine has.")
@click.option("--processes/--no-processes", default=None, help="Workers as processes, or as threads of one process.")
@click.option("--daemon/--no-daemon", default=None, help="Daemon workers: their tasks may not start processes.")
@click.option("--worker-start", type=click.Choice(["auto", "spawn", "forkserver"]), help="How worker processes start.")
@click.option("--security", type=click.Choice(["auto", "sockets", "tls"]), help="How others are kept out.")
@click.option("--dashboard", type=click.Choice(["socket", "tcp"]), help="On a Unix socket, or on a port by token too.")
@click.option("--interface", metavar="NAME", help="Listen on this network interface, for other machines, with TLS.")
@click.option("--local-directory", type=click.Path(), help="Parent directory of the workers' scratch, on a disk.")
@click.option("--env", help="Conda environment (name or path) or venv (path) to run in.")
@click.option(
    "--environ",
    multiple=True,
    metavar="NAME[=VALUE]",
    callback=with_values,
    help="Variable for the cluster; NAME alone: with the value it has here, which no command line shows. Repeatable.",
)
@click.option("--nice", type=Number(0), help="Niceness of workers, 0 to 19.")
@click.option("--guard", type=click.Choice(clusters.GUARDS), help="What workers do when memory runs short.")
@click.option("--guard-mark", type=Number(0, whole=False), help="Part of the memory that shall stay available: 0.1.")
@click.option("--guard-pressure", type=Number(0, whole=False), help="Percent of PSI from which workers give way.")
@click.option("--idle", type=Number(0, whole=False), help="Hours without tasks until workers end; 0: never.")
@click.option("--expire", type=Number(0, whole=False), help="Days without tasks until the cluster ends; 0: never.")
@click.option("--gpus", type=Number(0), help="GPUs of each worker.")
@click.option("--option", multiple=True, metavar="KEYWORD=VALUE", help="Keyword of LocalCluster, as JSON; repeatable.")
@click.option("--timeout", type=Number(0, whole=False), help="Seconds until the start is given up.")
@with_output
@with_host(show_started)
def start(out: Output, name: str | None, environ: tuple[str, ...], option: tuple[str, ...], **options: Any) -> None:
    """Start a Dask cluster that outlives this shell."""
    from ports import clusters

    if environ:
        options["environ"] = dict(_pair(text) for text in environ)
    options |= {key: _value(value) for key, value in map(_pair, option)}
    show_started(out, clusters.start(name, **options).row())


@cluster.command()
@click.argument("names", metavar="[NAME]", nargs=-1)
@click.argument("n_workers", type=Number(0))
@click.option("--force", is_flag=True, default=None, help="Also more memory than the machine has.")
@with_output
@with_host(show_one)
def scale(out: Output, names: tuple[str, ...], n_workers: int, force: bool | None) -> None:
    """Set the number of workers."""
    if len(names) > 1:
        raise click.UsageError(f"{' '.join(names)} are {len(names)} names; scale one cluster at a time")
    from ports import clusters

    found = clusters.get(*names)
    found.scale(n_workers, force=force)
    show_one(out, found.row())


@cluster.command()
@NAME
@with_output
@with_host(show_one)
def restart(out: Output, name: str | None) -> None:
    """Start all workers anew, so that they import changed modules; links stay."""
    from ports import clusters

    found = clusters.get(name)
    found.restart()
    show_one(out, found.row())


add_session_commands(
    cluster,
    clusters,
    what="a cluster",
    list_help="List my clusters: running, stopped (with the reason) or unknown.",
    show_help="Show everything about a cluster, including the tmux command that attaches to it.",
    stop_help="Stop a cluster, its workers and what their tasks started. Its log stays.",
    details=lambda found: found.row(with_token=True),
)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.UsageError(f"{text!r} is not NAME=VALUE")
    return key, value


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
