"""``ports doctor``: the connection to a host as a checklist."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from itertools import groupby

import click

from ports.cli.commands import Command
from ports.cli.options import with_hosts, with_transport
from ports.cli.output import Output, Row, echo, styled, terminal_columns, with_output, write_json
from ports.errors import harmless

SOMETHING_FAILED = 5
_STYLES = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "bright_black"}
_MOMENT = 1.0  # seconds after which a running check is shown
_NARROW, _INDENT = 24, 12  # columns that a text has at least behind the name of its check, and before it elsewhere


@click.command(cls=Command)
@with_hosts
@with_transport
@with_output
def doctor(out: Output, hosts: tuple[str, ...]) -> int:
    """Check the connection to HOST step by step, with causes and fixes.

    HOST is an alias of ~/.ssh/config. Without HOST, only this machine is checked. The check changes nothing and never
    asks for a password.
    """
    from ports.doctor import examine, is_well

    with Checklist(out, alone=len(set(hosts)) < 2) as checklist:
        rows = examine(hosts, on_row=checklist.take, on_step=checklist.step, on_host=checklist.end_host)
    if out.as_json:
        write_json(rows)
    else:
        checklist.sum_up(rows)
    return 0 if is_well(rows) else SOMETHING_FAILED


class Checklist:
    """Prints checks as they come.

    Those of a single host appear line by line. Of several hosts, each one's checks appear together once all are done.
    """

    def __init__(self, out: Output, *, alone: bool) -> None:
        self.out, self.alone = out, alone
        self._lock = threading.RLock()
        self._waiting: dict[str, list[Row]] = {}
        self._skipped: list[Row] = []
        self._heading: str | None = None
        self._timers: dict[str, threading.Timer] = {}

    def take(self, row: Row) -> None:
        """Print a check, or keep it until its host is done."""
        with self._lock:
            if self.out.as_json:
                return
            if self.alone:
                self._print([row])
            else:
                self._waiting.setdefault(str(row["host"]), []).append(row)

    def step(self, host: str, text: str) -> None:
        """Show what is being checked if it takes longer than a moment."""
        with self._lock:
            if host in self._timers:
                self._timers.pop(host).cancel()
            timer = threading.Timer(_MOMENT, self.out.say, (f"{host}: {text} …",))
            timer.daemon = True
            self._timers[host] = timer
            timer.start()

    def end_host(self, host: str) -> None:
        """Print what was kept of a host that is done."""
        with self._lock:
            if host in self._timers:
                self._timers.pop(host).cancel()
            self._print(self._waiting.pop(host, []))
            self._print_skipped()

    def sum_up(self, rows: Iterable[Row]) -> None:
        """Print on stderr how many checks failed, warned or were skipped."""
        states = [str(row["state"]) for row in rows]
        counted = [f"{states.count(state)} {state}" for state in ("failed", "warning", "skipped") if state in states]
        counted = [f"{one}s" if one.endswith("warning") and one != "1 warning" else one for one in counted]
        self.out.say("; ".join(counted) if counted else "all is well")

    def _print(self, rows: Iterable[Row]) -> None:
        for row in rows:
            if self._heading != row["host"]:
                self._print_skipped()
                echo(("" if self._heading is None else "\n") + styled(str(row["host"]), bold=True), styled=True)
                self._heading = str(row["host"])
            if row["state"] == "skipped":
                self._skipped.append(row)
                continue
            self._print_skipped()
            told = str(row["found"] or row["cause"])
            self._line(str(row["state"]), _name(row), told)
            if row["way_out"]:
                self._fold(f"{'':12}{'':22}  ", f"-> {row['way_out']}", "   ")

    def _print_skipped(self) -> None:
        """Print one line for all checks that were skipped for the same reason."""
        rows, self._skipped = self._skipped, []
        for cause, some in groupby(rows, key=lambda row: row["cause"]):
            first, *others = [_name(row) for row in some]
            self._line("skipped", first, f"{cause}" + (f" (and {len(others)} more checks)" if others else ""))

    def _line(self, state: str, name: str, told: str) -> None:
        self._fold(f"  {styled(f'{state:<8}', fg=_STYLES[state])}  {name:<22}  ", told)

    def _fold(self, before: str, text: str, indent: str = "") -> None:
        """Print a text behind what stands `before` it; in a terminal, it goes on below its own beginning."""
        from ports.cli import tables

        text = harmless(text, lines=False)
        begins = tables.width(click.unstyle(before))
        columns = terminal_columns(sys.stdout) if sys.stdout.isatty() else begins + tables.width(text)
        if columns - begins < max(min(_NARROW, tables.width(text)), len(indent) + tables.longest_word(text)):
            if before.strip():
                echo(before.rstrip(), styled=True)
            begins, before = _INDENT, " " * _INDENT
        lines = tables.wrap(text, columns - begins, indent)
        echo(("\n" + " " * begins).join([before + lines[0], *lines[1:]]), styled=True)

    def __enter__(self) -> Checklist:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._print_skipped()
            for timer in self._timers.values():
                timer.cancel()


def _name(row: Row) -> str:
    name = f"{row['hop']}: {row['name']}" if row["hop"] and row["hop"] != row["host"] else str(row["name"])
    return harmless(name, lines=False)
