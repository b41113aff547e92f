"""``ports browse``."""

from __future__ import annotations

import click

from ports.cli.commands import Command
from ports.cli.output import Output, Row, with_host, with_output


def show_browsed(out: Output, row: Row) -> None:
    """Show which page was opened at home."""
    out.result(row, f"opened at home: {row['local_url']}")


@click.command(cls=Command)
@click.argument("what", metavar="URL|NAME")
@with_output
@with_host(show_browsed)
def browse(out: Output, what: str) -> None:
    """Show a page of this machine in the browser at home, where `ports open` is connected.

    URL is a link that works on this machine; NAME is a cluster, notebook server or other listener of mine here.
    """
    from ports import tunnels

    show_browsed(out, tunnels.browse(what))
