"""``ports open``, ``ports tunnel`` and ``ports login``."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import click

from ports.cli.output import Output, Row, with_output, write_json

NOTHING, SOME_FAILED = 3, 5


@click.command("open")
@click.argument("targets", metavar="[TARGET]...", nargs=-1)
@click.option("--background", is_flag=True, help="Return, and leave the tunnels to a process of their own.")
@click.option("--browse/--no-browser", default=None, help="Open the browser when a link is up.")
@click.option("--local-port", type=click.IntRange(0, 65535), help="Port here, for one target; 0: any free one.")
@click.option("--owner", metavar="USER", help="Open what USER listens on, where TARGET names a port.")
@with_output
def open_(out: Output, targets: tuple[str, ...], background: bool, browse: bool | None, **options: Any) -> int:
    """Open what runs on other hosts here: tunnels, and links that work.

    TARGET is HOST (all my clusters and notebooks there), HOST:NAME or HOST:PORT; HOST is an alias of ~/.ssh/config.
    Without TARGET: the hosts of the setting ports.hosts. Links stay up until Ctrl-C.
    """
    from ports import tunnels
    from ports.tunnels import keeper

    show = Links(out, browse)
    if background:
        rows = tunnels.open_in_background(targets, on_event=show.event, **options)
        show.settled(rows, "`ports tunnel list` shows them, `ports tunnel close --all` closes them")
        show.wait_for_browser()
        return exit_code(rows)
    keeper.heed_signals()
    with tunnels.open_many(targets, on_event=show.event, **options) as opening:
        rows = opening.rows()
        show.settled(rows, "Ctrl-C closes them")
        if any(row["local_url"] for row in rows):
            keeper.keep(opening)
    return exit_code(rows)


class Links:
    """Shows links as they come up, a line each, and opens the browser."""

    def __init__(self, out: Output, browse: bool | None) -> None:
        from ports import config

        self.out, self.browse = out, config.get("open.browse") if browse is None else browse
        self.shown: dict[tuple[Any, ...], str] = {}
        self.browsers: list[threading.Thread] = []

    def event(self, row: Row) -> None:
        """Take the row of a tunnel that changed."""
        key, state = (row["host"], row["kind"], row["name"]), str(row["state"])
        if state == "connecting" or self.shown.get(key) == f"{state} {row.get('local_url')}":
            return
        if not self.shown:
            self._line("HOST", "WHAT", "LINK")
        self.shown[key] = f"{state} {row.get('local_url')}"
        what = " ".join(str(row[part]) for part in ("kind", "name") if row[part] and row[part] != "host")
        said = [str(row[part]).removeprefix(f"{row['host']}: ") for part in ("error", "note") if row.get(part)]
        notes = "; ".join(said)
        self._line(str(row["host"]), what, str(row.get("local_url") or state) + (f"  ({notes})" if notes else ""))
        if self.browse and state == "open":
            from ports.tunnels import browser

            # beside: a browser that takes its time must not keep the other links from coming up
            link = str(row["local_url"])
            self.browsers.append(threading.Thread(target=browser.open_once, args=(link,), daemon=True))
            self.browsers[-1].start()

    def settled(self, rows: Sequence[Row], way_out: str) -> None:
        """Tell that all are up or have failed."""
        if self.out.as_json:
            write_json(list(rows))
        elif any(row["state"] == "open" for row in rows):
            self.out.say(f"open; {way_out}")

    def wait_for_browser(self) -> None:
        """Wait until the browser has fetched its links, or did not come: the process may end then."""
        for thread in self.browsers:
            thread.join()

    def _line(self, host: str, what: str, link: str) -> None:
        if not self.out.as_json:
            click.echo(f"{host:<12}  {what:<24}  {link}")


def exit_code(rows: Sequence[Row]) -> int:
    """Return 0 when nothing failed, 3 when nothing is there; the code of a sole target's failure; 5 for one of many."""
    codes = [int(row.get("exit_code") or SOME_FAILED) for row in rows if row.get("error")]
    if not codes:
        return NOTHING if all(row["state"] == "nothing" for row in rows) else 0
    return codes[0] if len(rows) == 1 else SOME_FAILED


@click.group()
def tunnel() -> None:
    """Tunnels that are open in the background."""


@tunnel.command("list")
@with_output
def list_(out: Output) -> None:
    """List the tunnels that are open, here and in other terminals."""
    from ports import tunnels

    out.table(tunnels.list(), "tunnel", empty="no tunnels; `ports open HOST` opens some")


@tunnel.command()
@click.argument("targets", metavar="[TARGET]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Close all.")
@with_output
def close(out: Output, targets: tuple[str, ...], everything: bool) -> None:
    """Close tunnels; connections to hosts stay for later commands."""
    from ports import tunnels

    if bool(targets) == everything:
        raise click.UsageError("name TARGETs as in `ports open`, or --all")
    rows = tunnels.close_all() if everything else tunnels.close(*targets)
    out.table(rows, "tunnel", empty="no tunnels were open")


@click.command()
@click.argument("host")
@with_output
def login(out: Output, host: str) -> None:
    """Connect to HOST once, answering what it asks; later commands use the connection."""
    from ports import remote

    row = remote.login(host)
    out.result(row, f"connected to {host} as {row['user']}; later commands use this connection")
