"""``ports open`` and ``ports tunnel``."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import click

from ports.cli.commands import Command, Group
from ports.cli.options import Host, Number, refuse_second_host, with_transport
from ports.cli.output import (
    SILENT_SECONDS,
    Output,
    Row,
    echo,
    is_asking,
    on_host,
    terminal_columns,
    with_host,
    with_output,
    write_json,
)
from ports.hosts import Target, targets
from ports.state import said_when_slow

NOTHING, SOME_FAILED = 3, 5
_MOMENT = 1.0  # seconds for which links wait for each other, to be shown in order
_WIDTHS = (12, 24)  # of host and what, unless a host is longer


@click.command("open", cls=Command)
@click.argument("wanted", metavar="[TARGET]...", nargs=-1)
@click.option("--background", is_flag=True, help="Return once they are open; a background process keeps the tunnels.")
@click.option("--browse/--no-browser", default=None, help="Open the browser when a link is up.")
@click.option("--local-port", type=Number(0, 65535), help="Local port, for one target; 0 for any free one.")
@click.option("--local-socket", metavar="PATH", help="Serve one target at a Unix socket that only I can use.")
@click.option("--share", is_flag=True, help="Let other users of this machine use the links.")
@click.option("--bind", metavar="ADDRESS", help="Listen on this address instead of the loopback; needs --public.")
@click.option("--public", is_flag=True, help="Let others on the network use the links.")
@click.option("--owner", metavar="USER", help="Open a port that belongs to USER; TARGET is HOST:PORT.")
@click.option("-H", "--host", metavar="ALIAS", type=Host(), help="HOST of all TARGETs, which are NAME or PORT then.")
@with_transport
@with_output
def open_(
    out: Output, wanted: tuple[str, ...], host: str | None, background: bool, browse: bool | None, **options: Any
) -> int:
    """Open services of other hosts here: tunnels, and links that work.

    TARGET is HOST (all my clusters and notebooks there), HOST:NAME or HOST:PORT; HOST is an alias of ~/.ssh/config.
    Without TARGET: the hosts of the setting ports.hosts. Links stay up until Ctrl-C.
    """
    from ports import tunnels
    from ports.tunnels import LocalAddress, keeper

    if host is not None:
        refuse_second_host(host, wanted)
    named = [targets.parse(one, on=host) for one in wanted]
    if host is not None and not wanted:
        named = [targets.parse(host)]
    show, owner = Links(out, browse, named=named), options["owner"]
    local = LocalAddress(
        port=options["local_port"],
        socket=options["local_socket"],
        address=options["bind"],
        public=options["public"],
        share=options["share"],
    )
    if background:
        with show.waiting():
            rows: Sequence[Row] = tunnels.open_in_background(named, on_event=show.event, local=local, owner=owner)
        show.settled(rows, "`ports tunnel list` shows them, `ports tunnel close --all` closes them")
        show.wait_for_browser()
        return exit_code(rows)
    keeper.heed_signals()
    keeper.share_turns()
    keeper.allow_many_files()
    with tunnels.TunnelGroup(on_event=show.event) as group:
        with show.waiting():
            group.open(named, local=local, owner=owner, reuse=True)
        rows, is_held = group.rows(), any(tunnel.ports for tunnel in group.tunnels)
        show.settled(
            rows,
            "Ctrl-C closes them" if is_held else "`ports tunnel list` shows them, `ports tunnel close` closes them",
        )
        if is_held:
            keeper.keep(group)
        show.wait_for_browser()
    return exit_code(rows)


class Links:
    """Shows links as they come up, a line each, the first in the order of `named`, and opens the browser."""

    def __init__(self, out: Output, browse: bool | None, *, named: Sequence[Target] | None = None) -> None:
        from ports.state import settings

        self._order = {target.host: place for place, target in reversed([*enumerate(named or ())])}
        # links that are up, until all are or a second has passed
        self._early: list[Row] | None = None if named is None else []
        self._lock = threading.RLock()

        self.out, self.browse = out, settings.get("open.browse") if browse is None else browse
        self.never_browse = browse is False
        self._shown: dict[tuple[Any, ...], str] = {}
        self.lost: dict[str, str] = {}  # hosts whose connection is down, or needs a login
        self.browsed: set[tuple[Any, ...]] = set()
        self.heading = True
        self.browsers: list[threading.Thread] = []

    def waiting(self) -> AbstractContextManager[None]:
        """Say which hosts have not answered once it takes 3 s."""
        return said_when_slow(self._say_awaited, "", after=SILENT_SECONDS, unless=is_asking)

    def _say_awaited(self, _: str) -> None:
        answered = {key[0] for key in list(self._shown)}
        left = [host for host in self._order if host not in answered]
        if left or not answered:
            self.out.say(f"waiting for {', '.join(left) or 'the hosts of the setting ports.hosts'} …")

    def event(self, row: Row) -> None:
        """Show the row of a tunnel that changed: a link on stdout, everything else on stderr."""
        from ports.hosts import is_here

        if row["kind"] == "job":
            if not self.out.as_json:
                self.out.say(str(row["note"]))
            return
        key, state, link = (row["host"], row["kind"], row["name"]), str(row["state"]), _link(row)
        before, now = self._shown.get(key), f"{state} {link}"
        if state == "connecting" or before == now:
            return
        self._shown[key] = now
        if state == "error":
            far = None if is_here(row["host"]) else row["host"]
            self.out.fail(_target(row), targets.hints_at(far, str(row["error"])))
        elif before is None and link is not None and row.get("notice") != "silent":
            self._link(row, str(link))
            if row.get("error"):  # it was open before, and is not now
                self.out.fail(_target(row), str(row["error"]))
        elif link is None or row.get("notice") != "silent":
            self._show_change(row, before or "")
        browses = self.browse if row.get("notice") in (None, "notify") else row["notice"] == "open"
        browses = browses and not self.never_browse  # the option goes before the setting for new services
        if browses and state == "open" and key not in self.browsed:  # it may have been silent at first
            self.browsed.add(key)
            self._show(str(link))

    def _show(self, link: str) -> None:
        from ports import tunnels

        # in a thread: a slow browser must not delay the other links
        self.browsers.append(threading.Thread(target=tunnels.open_once, args=(link,), daemon=True))
        self.browsers[-1].start()

    def _show_change(self, row: Row, before: str) -> None:
        """Show on stderr how a link changed; what happens to a connection is shown once for all its links."""
        host, state = str(row["host"]), str(row["state"])
        if state in ("down", "needs login"):
            if self.lost.get(host) != state:
                self.lost[host] = state
                self.out.say(f"{host}: {state}; {_reason(row)}; its links answer again once the connection is back")
        elif state == "open" and before.startswith(("down", "needs login")):
            if self.lost.pop(host, None):
                self.out.say(f"{host}: open again, under the same links")
        elif state == "open" and before.startswith("ended"):
            self.out.say(f"{_target(row)}: it is back, under the same link")
        elif state == "ended":
            self.out.say(f"{_target(row)}: it has ended; {_reason(row)}")
        else:
            self._progress(row)

    def settled(self, rows: Sequence[Row], hint: str) -> None:
        """Show that all are open or have failed."""
        self._show_early()
        if self.out.as_json:
            write_json([on_host(row["host"], row) for row in rows])
        elif any(row["state"] == "open" for row in rows):
            self.out.say(f"open; {hint}")

    def wait_for_browser(self) -> None:
        """Wait until the browser has fetched its links, or has failed to: then the process can end."""
        for thread in self.browsers:
            thread.join()

    def _link(self, row: Row, link: str) -> None:
        if self.out.as_json:
            return
        with self._lock:
            if self._early is None:
                self._print(row, link)
                return
            if not self._early:
                timer = threading.Timer(_MOMENT, self._show_early)
                timer.daemon = True
                timer.start()
            self._early.append(row)

    def _show_early(self) -> None:
        """Show the first links in the order of the targets, not in that of the answers."""
        with self._lock:
            early, self._early = self._early or [], None
            for row in sorted(early, key=self._place):
                self._print(row, str(_link(row)))

    def _place(self, row: Row) -> tuple[int, str, str, str]:
        host = str(row["host"])
        return self._order.get(host, len(self._order)), host, str(row["kind"]), str(row["name"])

    def _print(self, row: Row, link: str) -> None:
        from ports.cli import tables

        columns = terminal_columns(sys.stdout) if sys.stdout.isatty() else None
        widths = (max(_WIDTHS[0], *map(tables.width, self._order)) if self._order else _WIDTHS[0], _WIDTHS[1])
        what = " ".join(str(row[part]) for part in ("kind", "name") if row[part])
        said = "; ".join(filter(None, ("new" if row.get("notice") else "", row.get("note"))))
        lines = tables.link_lines((str(row["host"]), what, link), said, widths=widths, columns=columns)
        if self.heading:
            lines = [*tables.link_lines(("HOST", "WHAT", "LINK"), "", widths=widths, columns=None), *lines]
            self.heading = False
        echo("\n".join(lines))

    def _progress(self, row: Row) -> None:
        if not self.out.as_json:
            # a note of the link does not say why it was closed
            said = "closed" if row["state"] == "closed" else row.get("note") or row["state"]
            self.out.say(f"{_target(row)}: {said}")


def _link(row: Row) -> str | None:
    from ports.cli import tables

    return tables.link_here(row)


def _target(row: Row) -> str:
    return ":".join(filter(None, (row["host"], row["name"])))


def _reason(row: Row) -> str:
    return str(row.get("error") or row.get("note") or "").removeprefix(f"{row['host']}: ")


def exit_code(rows: Sequence[Row]) -> int:
    """Return 0 if nothing failed, 3 if there is nothing; the code of a single failed target; 5 for one of several."""
    codes = [int(row.get("exit_code") or SOME_FAILED) for row in rows if row.get("error")]
    if not codes:
        return NOTHING if all(row["state"] == "nothing" for row in rows) else 0
    return codes[0] if len(rows) == 1 else SOME_FAILED


@click.group(cls=Group)
def tunnel() -> None:
    """Tunnels that are open, here and in other terminals."""


def show_tunnels(out: Output, rows: Sequence[Row]) -> None:
    """Show tunnels that are open."""
    out.table(rows, "tunnel", empty="no tunnels; `ports open HOST` opens some")


def show_closed(out: Output, rows: Sequence[Row]) -> None:
    """Show tunnels that were closed."""
    out.table(rows, "tunnel", empty="no tunnels were open")


@tunnel.command("list")
@with_output
@with_host(show_tunnels, renamed=False)
def list_(out: Output) -> None:
    """List the tunnels that are open, here and in other terminals."""
    from ports import tunnels

    show_tunnels(out, tunnels.list())


@tunnel.command()
@click.argument("wanted", metavar="[TARGET]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Close all.")
@with_output
@with_host(show_closed, renamed=False)
def close(out: Output, wanted: tuple[str, ...], everything: bool) -> None:
    """Close tunnels; connections to hosts stay for later commands."""
    from ports import tunnels

    if bool(wanted) == everything:
        raise click.UsageError("name each TARGET as in `ports open`, or pass --all")
    show_closed(out, tunnels.close_all() if everything else tunnels.close(*wanted))
