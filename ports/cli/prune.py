"""``ports prune``: remove the leftovers of what has ended."""

from __future__ import annotations

from collections.abc import Sequence

import click

from ports.cli.commands import Command
from ports.cli.output import Output, Row, with_host, with_output


def show_pruned(out: Output, rows: Sequence[Row]) -> None:
    """Show what was removed."""
    out.table(rows, "pruned", empty="nothing to remove")


@click.command(cls=Command)
@with_output
@click.option("--held", is_flag=True, help="Also remove the results that clusters held when they expired.")
@click.option("--adopt", metavar="MACHINE", help="First take over the records of a machine that is gone or renamed.")
@with_host(show_pruned, several=True)
def prune(out: Output, held: bool, adopt: str | None) -> None:
    """Remove the leftovers of stopped clusters and notebook servers; logs and results that clusters held stay."""
    from ports import doctor

    show_pruned(out, doctor.prune(results=held, adopt=adopt))
