"""``ports list``: what is there, here and on other hosts."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence

import click

from ports.cli import watch as watching
from ports.cli.commands import Command
from ports.cli.options import with_hosts, with_transport
from ports.cli.output import SILENT_SECONDS, Output, Row, is_asking, on_host, terminal_columns, with_output, write_json

SOME_FAILED = 5
_MOMENT = 2.0  # seconds; most hosts answer within one
_LEAST = 0.5  # seconds between two looks


@click.command("list", cls=Command)
@with_hosts
@click.option("--all", "all_users", is_flag=True, help="Add other users' listeners, as port and user name only.")
@watching.with_watch
@with_transport
@with_output
def list_(out: Output, hosts: tuple[str, ...], all_users: bool, watch: bool) -> int:
    """List my clusters, notebooks and other listeners.

    HOST is an alias of ~/.ssh/config; the host needs only python3. Without HOST: this machine, then the hosts of the
    setting ports.hosts. With --json: this machine only.
    """
    watching.refuse_document(watch, out.as_json)
    if watch and all_users:
        raise click.UsageError("--watch shows your own; leave out --all, or --watch")
    if watch:
        watching.show(looks(hosts or known_hosts(), with_here=not hosts))
    if hosts:
        return show_hosts(out, hosts, all_users)
    show_this_machine(out, all_users)
    known = () if out.as_json else known_hosts()
    return show_hosts(out, known, all_users, alone=False) if known else 0


def known_hosts() -> tuple[str, ...]:
    """Return the hosts of the settings."""
    from ports.state import settings

    return tuple(settings.get("hosts") or ())


def looks(hosts: Sequence[str], *, with_here: bool) -> Iterator[list[str]]:
    """Yield what to show of hosts that are watched, and of this machine (`with_here`), without an end."""
    from ports import tunnels

    changed = threading.Event()
    named = [*([""] if with_here else []), *hosts]
    with tunnels.watch(named, on_change=lambda view: changed.set(), batch=not sys.stdin.isatty()) as watched:
        changed.wait(_MOMENT)
        while True:
            if not is_asking():
                yield shown(watched.views())
            time.sleep(_LEAST)
            changed.wait(watching.EVERY - _LEAST)
            changed.clear()


def shown(views: Sequence[Row]) -> list[str]:
    """Return the lines of views, for stdout: of its width, in its encoding and in colours where it has them."""
    from ports.cli import views as drawing
    from ports.state import settings

    is_drawn = sys.stdout.isatty()
    told = drawing.lines(views, time.time(), terminal_columns(sys.stdout) if is_drawn else None)
    try:
        "".join(text for line in told for text, _ in line).encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        told = [drawing.in_ascii(line) for line in told]
    if not is_drawn or settings.variable("TERM") in ("dumb", "unknown") or settings.variable("NO_COLOR"):
        return ["".join(text for text, _ in line) for line in told]
    return ["".join(click.style(text, **drawing.STYLES[style]) for text, style in line) for line in told]


def show_this_machine(out: Output, all_users: bool) -> None:
    """Show what is here. It never waits for a host."""
    from ports import listeners

    rows = listeners.rows(all_users=all_users)
    if any(row["kind"] == "tunnel" for row in rows):
        from ports import tunnels

        rows = tunnels.with_targets(rows) if all_users else tunnels.without_ends(rows)
    show_rows(out, rows, rows, ())


def show_hosts(out: Output, hosts: Sequence[str], all_users: bool, *, alone: bool = True) -> int:
    """Show what is on hosts; where this machine was shown before (not `alone`), a single host that fails has a row."""
    from ports import listeners

    with Arriving(out, hosts, always=not alone) as arriving:
        rows = listeners.rows(hosts, all_users=all_users, on_host=arriving.take, raising=alone)
    rows = [on_host(row["host"], row) for row in rows]
    show_rows(out, rows, arriving.left([row for row in rows if is_there(row)]), hosts)
    return SOME_FAILED if any(row.get("error") for row in rows) else 0


def show_rows(out: Output, rows: Sequence[Row], left: Sequence[Row], hosts: Sequence[str]) -> None:
    """Show all rows as JSON, or those that are `left` to be shown as a table, and what failed."""
    if out.as_json:
        write_json(rows)
        return
    out.table([row for row in left if is_there(row)], "listener", empty="")
    out.warn_of([row for row in rows if is_there(row)])
    show_missing(out, rows, hosts)


def is_there(row: Row) -> bool:
    """Tell whether a row is a listener: not a host that failed, or on which nothing listens."""
    return not row.get("error") and row["state"] != "nothing"


def show_missing(out: Output, rows: Sequence[Row], hosts: Sequence[str]) -> None:
    """Show which hosts failed, and on which nothing of mine listens."""
    for row in rows:
        if row.get("error"):
            out.fail(row["host"], row["error"])
        elif row["state"] == "nothing":
            out.say(f"nothing of yours listens on {row['host']}")
    if not rows:
        out.say(f"nothing of yours listens{''.join(f' on {host}' for host in hosts)}")


class Arriving:
    """Shows what arrived after a moment, and which hosts are awaited: one that is down must not hide the others."""

    def __init__(self, out: Output, hosts: Sequence[str], *, always: bool = False) -> None:
        self.out, self.missing = out, dict.fromkeys(hosts)
        self.arrived: list[Row] = []
        self.shown: list[Row] = []
        self._lock = threading.Lock()
        self._timer = threading.Timer(_MOMENT if hosts[1:] or always else SILENT_SECONDS, self._show)
        self._timer.daemon = True

    def take(self, host: str, rows: Sequence[Row]) -> None:
        """Take the rows of a host that answered."""
        with self._lock:
            self.missing.pop(host, None)
            self.arrived += [on_host(host, row) for row in rows if is_there(row)]

    def left(self, rows: Sequence[Row]) -> list[Row]:
        """Return those of `rows` that have not been shown."""
        return [row for row in rows if row not in self.shown]

    def _show(self) -> None:
        with self._lock:
            if self.missing and self.arrived:
                self.shown = list(self.arrived)
                self.out.table(self.shown, "listener", empty="")
            if self.missing and not is_asking():
                self.out.say(f"waiting for {', '.join(self.missing)}")

    def __enter__(self) -> Arriving:
        if not self.out.as_json:
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
