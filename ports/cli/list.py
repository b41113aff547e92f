"""``ports list``: what is there, here and on other hosts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence

import click

from ports.cli import watch as watching
from ports.cli.commands import Command
from ports.cli.options import with_hosts, with_transport
from ports.cli.output import SILENT_SECONDS, Look, Output, Row, is_asking, on_host, with_output, write_json

SOME_FAILED = 5
_MOMENT = 2.0  # seconds; most hosts answer within one
_AGAIN = 10.0  # seconds, after a failure of the network


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
    if watch:
        watching.show(looks(hosts or known_hosts(), all_users, with_here=not hosts))
    if hosts:
        return show_hosts(out, hosts, all_users)
    show_this_machine(out, all_users)
    known = () if out.as_json else known_hosts()
    return show_hosts(out, known, all_users, alone=False) if known else 0


def known_hosts() -> tuple[str, ...]:
    """Return the hosts of the settings."""
    from ports.state import settings

    return tuple(settings.get("hosts") or ())


def looks(hosts: Sequence[str], all_users: bool, *, with_here: bool) -> Iterator[list[str]]:
    """Yield what to show of each look at hosts, and at this machine (`with_here`), without an end."""
    with Followed(hosts, all_users) as followed:
        if not with_here:
            followed.answered.wait(_MOMENT)
        while True:
            look = Look()
            if with_here:
                show_this_machine(look, all_users)
            if hosts:
                show_followed(look, hosts, dict(followed.rows))
            if not is_asking():
                yield look.told
            time.sleep(watching.EVERY)


def show_followed(out: Output, hosts: Sequence[str], found: Mapping[str, Sequence[Row]]) -> None:
    """Show what is on hosts that are followed, and which of them did not answer yet."""
    rows = [on_host(row["host"], row) for host in hosts for row in found.get(host, ())]
    if rows:
        show_rows(out, rows, rows, hosts)
    if missing := [host for host in hosts if host not in found]:
        out.say(f"waiting for {', '.join(missing)}")


def show_this_machine(out: Output, all_users: bool) -> None:
    """Show what is here. It never waits for a host."""
    from ports import listeners

    rows = listeners.rows(all_users=all_users)
    if any(row["kind"] == "tunnel" for row in rows):
        from ports import tunnels

        rows = tunnels.with_targets(rows)
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


class Followed:
    """Looks at hosts again and again, each in a thread of its own: one that is slow or down delays no other."""

    def __init__(self, hosts: Sequence[str], all_users: bool) -> None:
        self.hosts, self.all_users = hosts, all_users
        self.rows: dict[str, Sequence[Row]] = {}  # what each said last
        self.answered = threading.Event()  # all hosts have
        self.is_over = threading.Event()

    def _follow(self, host: str) -> None:
        while not self.is_over.is_set() and (pause := self._look(host)) is not None:
            self.is_over.wait(pause)

    def _look(self, host: str) -> float | None:
        """Look at a host; return after how many seconds to look again, None for never."""
        from ports import listeners
        from ports.errors import PortsError, SSHError
        from ports.hosts import failed_row, nothing_rows

        pause: float | None = watching.EVERY
        try:
            found: Sequence[Row] = [one.row() for one in listeners.list(host, all_users=self.all_users)]
            found = found or nothing_rows(host, (host, "another"))
        except PortsError as error:
            found = [failed_row(host, error)]
            # a refused login counts at the server: after some it bans this machine
            pause = _AGAIN if isinstance(error, SSHError) and error.is_network else None
        self.rows[host] = found
        if len(self.rows) == len(self.hosts):
            self.answered.set()
        return pause

    def __enter__(self) -> Followed:
        for host in self.hosts:
            threading.Thread(target=self._follow, args=(host,), name=f"host-{host}", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over.set()
        if self.hosts:
            from ports.hosts import openssh

            openssh.end_all()
