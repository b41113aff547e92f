"""``ports list`` and ``ports prune``: what is there, and what the dead left behind."""

from __future__ import annotations

import click

from ports.cli.output import Output, with_output

SOME_FAILED = 5


@click.command("list")
@click.argument("hosts", metavar="[HOST]...", nargs=-1)
@click.option("--all", "all_users", is_flag=True, help="Add other users' listeners, as port and user name only.")
@with_output
def list_(out: Output, hosts: tuple[str, ...], all_users: bool) -> int:
    """List clusters, notebooks and other listeners that are mine.

    HOST is an alias of ~/.ssh/config, where nothing but python3 needs to be installed. Without one: this machine.
    """
    from ports import listeners

    rows = listeners.rows(hosts, all_users=all_users)
    out.table(rows, "listener", empty="nothing of yours listens")
    return SOME_FAILED if any(row.get("error") for row in rows) else 0


@click.command()
@with_output
def prune(out: Output) -> None:
    """Remove what stopped clusters and notebook servers left behind; logs stay."""
    from ports import pruning

    rows = pruning.prune()
    out.table(rows, "pruned", empty="nothing to remove")
