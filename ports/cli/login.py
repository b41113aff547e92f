"""``ports login`` and ``ports logout``: connections that later commands use."""

from __future__ import annotations

import click

from ports.cli.commands import Command
from ports.cli.options import Host, with_hosts, with_transport
from ports.cli.output import Output, echo, with_output

NOTHING, IN_USE = 3, 4


@click.command(cls=Command)
@click.argument("named", metavar="HOST", required=False, type=Host())
@click.option("-H", "--host", metavar="ALIAS", type=Host(), help="The same as HOST.")
@with_transport
@with_output
def login(out: Output, named: str | None, host: str | None) -> None:
    """Connect to HOST and answer its prompts once; later commands use the connection."""
    from ports.hosts import login

    if named is None and host is None:
        raise click.UsageError("HOST is missing; write `ports login HOST`")
    if named is not None and host is not None:
        raise click.UsageError(f"{named} and {host} are two hosts; name one")
    host = str(named or host)
    row = login(host)
    out.result(row, f"connected to {host} as {row['user']}; {row.get('note') or 'later commands use this connection'}")


@click.command(cls=Command)
@with_hosts
@click.option("--all", "everything", is_flag=True, help="End all.")
@with_output
def logout(out: Output, hosts: tuple[str, ...], everything: bool) -> int:
    """End connections that are kept for later commands; your own ssh goes on, and tunnels connect again.

    Ending the connection to a jump host also ends those that go through it.
    """
    from ports import tunnels
    from ports.hosts import logout, reached_through

    if bool(hosts) == everything:
        raise click.UsageError("name each HOST as in `ports login`, or pass --all")
    rows = logout(*hosts)
    if out.as_json:
        out.table(rows, "host", empty="")
    for row in rows if not out.as_json else ():
        show_ended(out, str(row["host"] or "a host that is in no ssh configuration"), str(row["state"]))
    if everything and not rows:
        out.say("no connections were kept")
    ended = {row["host"] for row in rows if row["state"] == "disconnected"}
    held = {str(row["host"]) for row in tunnels.list() if row["host"] and row["state"] != "stopped"} if ended else ()
    if still := sorted(reached_through(held, ended)):
        what = ", ".join(still)
        out.say(
            f"tunnels to {what} are still open and will reconnect; `ports tunnel close {' '.join(still)}` closes them"
        )
    if any(row["state"] == "connected" for row in rows):
        return IN_USE
    return NOTHING if rows and all(row["state"] == "nothing" for row in rows) else 0


def show_ended(out: Output, host: str, state: str) -> None:
    """Show that a connection was ended, or that there was none, or why it stays."""
    if state == "nothing":
        out.say(f"ports: no connection to {host} was kept")
    elif state == "connected":
        out.say(
            f"ports: {host} stays connected, because somebody is logging in through it; log out again after that login"
        )
    else:
        echo(f"disconnected from {host}")
