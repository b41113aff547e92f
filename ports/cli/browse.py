"""``ports browse``."""

from __future__ import annotations

import click

from ports.cli.commands import Command
from ports.cli.output import Output, with_output


@click.command(cls=Command)
@click.argument("what", metavar="URL|NAME")
@with_output
def browse(out: Output, what: str) -> None:
    """Show a page of this machine in the browser at home, where `ports open` is connected.

    URL is a link that works on this machine; NAME is a cluster, notebook server or other listener of mine here.
    """
    from ports import tunnels

    row = tunnels.browse(what)
    out.result(row, f"opened at home: {row['local_url']}")
