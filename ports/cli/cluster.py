"""``ports cluster``."""

from __future__ import annotations

import json
from typing import Any

import click

from ports import clusters
from ports.cli.commands import Group
from ports.cli.options import Number, from_settings
from ports.cli.output import Output, Row, at_home, undone_if_interrupted, with_host, with_output
from ports.cli.session_commands import NAME, add_session_commands, ended_tasks
from ports.hosts import targets

_ENVIRON_HELP = (
    "Variable for the cluster, in addition to yours. NAME alone: with the value that it has here, which no command "
    "line shows. Repeatable."
)


def show_one(out: Output, row: Row) -> None:
    """Show a cluster that was started or changed."""
    text = f"cluster {row['name']!r} {clusters.cluster_state(row)}{ended_tasks(row)}"
    if row["state"] == "running":
        text += f"\n{at_home(row)}\nthen:     {row['link']}"
    out.result(row, text)


def show_started(out: Output, row: Row) -> None:
    """Show a cluster that was started, and how its size was decided."""
    if row.get("explained") and not out.as_json:
        out.say(row["explained"])
    show_one(out, row)


def with_values(ctx: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Add the value that a variable has here to each that is given by name alone."""
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
@from_settings(
    "cluster",
    force={"is_flag": True},
    interface={"metavar": "NAME"},
    environ={"multiple": True, "metavar": "NAME[=VALUE]", "callback": with_values, "help": _ENVIRON_HELP},
)
@click.option(
    "--option", multiple=True, metavar="KEYWORD=VALUE", help="Keyword of LocalCluster, its value as JSON. Repeatable."
)
@click.option("--timeout", type=Number(0, whole=False), help="Seconds to wait for the start.")
@with_output
@with_host(show_started, starts=True)
def start(out: Output, name: str | None, environ: tuple[str, ...], option: tuple[str, ...], **options: Any) -> None:
    """Start a Dask cluster that outlives this shell."""
    if environ:
        options["environ"] = dict(_pair("--environ", text) for text in environ)
    options |= {key: _value(value) for key, value in (_pair("--option", text) for text in option)}
    started = clusters.start(name, **options)
    with undone_if_interrupted(started):
        show_started(out, started.row())


class NWorkers(Number):
    """The last word of ``scale``: a number, where a name alone is the most frequent mistake."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number; fails with what to write."""
        if value == "all":
            told = "scale takes a number of workers; `ports cluster start --n-workers all` takes the whole machine"
            raise click.UsageError(told, ctx)
        if str(value)[:1].isalpha():
            given = ctx.params if ctx is not None else {}
            name = next((one for one in given.get("names") or () if one[:1].isalpha()), value)
            told = f"the last word is a number of workers, not {value}; write `ports cluster scale {name} 4`"
            raise click.UsageError(targets.hints_at(given.get("host"), told), ctx)
        return super().convert(value, param, ctx)


@cluster.command()
@click.argument("names", metavar="[NAME]", nargs=-1)
@click.argument("n_workers", type=NWorkers(0))
@from_settings("cluster", only=["force"], force={"is_flag": True})
@with_output
@with_host(show_one)
def scale(out: Output, names: tuple[str, ...], n_workers: int, force: bool | None) -> None:
    """Set the number of workers."""
    if len(names) > 1:
        raise click.UsageError(f"{' '.join(names)} are {len(names)} names; scale one cluster at a time")
    found = clusters.get(*names)
    found.scale(n_workers, force=force)
    show_one(out, found.row())


@cluster.command()
@NAME
@with_output
@with_host(show_one)
def restart(out: Output, name: str | None) -> None:
    """Restart all workers, so that they import changed modules. Links stay."""
    found = clusters.get(name)
    running = _running_tasks(found)
    found.restart()
    show_one(out, {**found.row(), **running})


def _running_tasks(found: clusters.Cluster) -> Row:
    """Return how many tasks an end of `found` or of its workers ends; None where its scheduler does not tell."""
    if found.summary is None and found.state == "stopped":
        return {"n_ended_tasks": 0}
    return {"n_ended_tasks": (found.summary or {}).get("n_running")}


add_session_commands(
    cluster,
    clusters,
    what="a cluster",
    list_help="List my clusters: running, stopped (with the reason) or unknown.",
    show_help="Show everything about a cluster. That includes the tmux command that attaches to it.",
    stop_help="Stop a cluster, its workers and what their tasks started. Its log stays.",
    details=lambda found: found.row(with_token=True),
    before_stop=_running_tasks,
)


def _pair(option: str, text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.UsageError(f"{option} {text!r} is not NAME=VALUE")
    return key, value


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
