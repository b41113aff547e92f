"""``ports notebook``."""

from __future__ import annotations

from typing import Any

import click

from ports import notebooks
from ports.cli.commands import Group
from ports.cli.options import Number, from_settings
from ports.cli.output import Output, Row, at_home, undone_if_interrupted, with_host, with_output
from ports.cli.session_commands import NAME, add_session_commands


def show_one(out: Output, row: Row) -> None:
    """Show a notebook server that was started."""
    plain = ", without JupyterLab: it is not in that environment" if row["server"] == "server" else ""
    out.result(row, f"notebook {row['name']!r} serves {row['root']}{plain}\n{at_home(row)}")


@click.group(cls=Group)
def notebook() -> None:
    """Jupyter servers that outlive terminal and connection."""


@notebook.command()
@NAME
@from_settings("notebook")
@click.option("--timeout", type=Number(0, whole=False), help="Seconds to wait for the start.")
@with_output
@with_host(show_one, starts=True)
def start(out: Output, name: str | None, **options: Any) -> None:
    """Start JupyterLab, or the Jupyter server where there is no Lab."""
    started = notebooks.start(name, **options)
    with undone_if_interrupted(started):
        show_one(out, started.row())


add_session_commands(
    notebook,
    notebooks,
    what="a notebook server",
    list_help="List my notebook servers, also those that were started by hand.",
    show_help="Show everything about a notebook server except its token.",
    stop_help="Stop a notebook server, its kernels and what they started. Its log and its token stay.",
)
