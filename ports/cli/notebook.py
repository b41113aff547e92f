"""``ports notebook``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from ports.cli.options import Number
from ports.cli.output import Output, Row, with_host, with_output

NAME = click.argument("name", required=False)


def show_one(out: Output, row: Row) -> None:
    """Show a notebook server that was started."""
    plain = ", without JupyterLab: it is not in that environment" if row["server"] == "server" else ""
    out.result(row, f"notebook {row['name']!r} serves {row['root']}{plain}\nat home:  {row['command']}")


def show_list(out: Output, rows: Sequence[Row]) -> None:
    """Show notebook servers."""
    out.table(rows, "notebook", empty="no notebook servers; `ports notebook start` starts one")
    out.warn_of(rows)


def show_stopped(out: Output, row: Row) -> None:
    """Show that a notebook server is gone."""
    out.result(row, f"notebook {row['name']!r} is stopped; its log stays{out.there()}: {row['log']}")


def show_lines(out: Output, document: Any) -> None:
    """Show lines of a log."""
    out.lines(document["lines"])


@click.group()
def notebook() -> None:
    """Jupyter servers that outlive terminal and connection."""


@notebook.command()
@NAME
@click.option("--root", type=click.Path(), help="Directory to serve; default: the current one.")
@click.option("--env", help="Conda environment (name or path) or venv (path) to run in.")
@click.option("--idle", type=Number(0, whole=False), help="Hours of doing nothing until a kernel ends; 0: never.")
@click.option("--expire", type=Number(0, whole=False), help="Days without kernels until the server ends; 0: never.")
@click.option("--debugger/--no-debugger", default=None, help="Let Jupyter's debugger open ports that all may use.")
@click.option("--timeout", type=Number(0, whole=False), help="Seconds until the start is given up.")
@with_output
@with_host(show_one)
def start(out: Output, name: str | None, **options: Any) -> None:
    """Start JupyterLab, or the plain Jupyter server where Lab is not installed."""
    from ports import notebooks

    show_one(out, notebooks.start(name, **options).row())


@notebook.command("list")
@with_output
@with_host(show_list)
def list_(out: Output) -> None:
    """List my notebook servers, those that were started by hand included."""
    from ports import notebooks

    show_list(out, [one.row() for one in notebooks.list()])


@notebook.command()
@NAME
@with_output
@with_host(Output.details)
def show(out: Output, name: str | None) -> None:
    """Show all about a notebook server but its token."""
    from ports import notebooks

    out.details(notebooks.get(name).row())


@notebook.command()
@NAME
@click.option("-n", "--lines", type=Number(0), default=50, show_default=True, help="Last lines; 0: all.")
@with_output
@with_host(show_lines)
def logs(out: Output, name: str | None, lines: int) -> None:
    """Show what a notebook server printed."""
    from ports import notebooks

    out.lines(notebooks.logs(name, lines))


@notebook.command()
@NAME
@click.option("-H", "--host", metavar="ALIAS", help="Attach on that host of ~/.ssh/config.")
def attach(name: str | None, host: str | None) -> None:
    """Attach this terminal to a notebook server's tmux session; Ctrl-b d leaves it."""
    from ports import hosts, notebooks

    if host is not None:
        hosts.interactive(host, ["notebook", "attach", *([name] if name else [])])
    notebooks.get(name).attach()


@notebook.command()
@NAME
@with_output
@with_host(show_stopped)
def stop(out: Output, name: str | None) -> None:
    """End a notebook server, its kernels and what they started; log and token stay."""
    from ports import notebooks

    found = notebooks.get(name)
    found.stop()
    show_stopped(out, {"kind": "notebook", "name": found.name, "state": "stopped", "log": str(found.log)})
