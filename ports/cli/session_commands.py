"""The commands that kinds of session share: ``list``, ``show``, ``logs``, ``attach`` and ``stop``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import click

from ports import sessions
from ports.cli.commands import Group
from ports.cli.options import Number
from ports.cli.output import Output, Row, echo, refuse_host_as_name, waiting, with_host, with_output

_DETACH = "Ctrl-b d detaches it."
NAME = click.argument("name", required=False)


def add_session_commands(
    group: Group,
    noun: ModuleType,
    *,
    what: str,
    list_help: str,
    show_help: str,
    stop_help: str,
    details: Callable[[Any], Row] = lambda session: session.row(),
    before_stop: Callable[[Any], Row] = lambda session: {},
) -> None:
    """Give the group of a kind of session those of the shared commands that the kind has.

    Parameters
    ----------
    group : Group
        Its name is that of the kind: ``cluster``.
    noun : module
        The face of the kind's package, with `list`, `get` and `logs`: `ports.clusters`.
    what : str
        One session of the kind, in the help of ``logs`` and ``attach``: ``a notebook server``.
    list_help, show_help, stop_help : str
        The help of these commands.
    details : callable, optional
        Returns what ``show`` shows of a session. Default: its row.
    before_stop : callable, optional
        Returns what the answer of ``stop`` has besides: called before the stop. Default: nothing.
    """
    kind = sessions.KINDS[str(group.name)]
    several = f"{what.partition(' ')[2]}s"
    add: dict[str, Callable[[], None]] = {
        "list": lambda: _add_list(group, noun, list_help, f"no {several}; `ports {kind.name} start` starts one"),
        "show": lambda: _add_show(group, noun, show_help, details),
        "logs": lambda: _add_logs(group, noun, f"Show what {what} printed."),
        "attach": lambda: _add_attach(group, noun, f"Attach this terminal to the tmux session of {what}. {_DETACH}"),
        "stop": lambda: _add_stop(group, noun, stop_help, before_stop),
    }
    for verb in kind.verbs:
        if verb in add:
            add[verb]()


def _add_list(group: Group, noun: ModuleType, text: str, empty: str) -> None:
    def show_list(out: Output, rows: Sequence[Row]) -> None:
        out.table(rows, str(group.name), empty=empty)
        out.warn_of(rows)

    @group.command("list", help=text)
    @with_output
    @with_host(show_list, several=True)
    def command(out: Output) -> None:
        show_list(out, [one.row() for one in noun.list()])


def _add_show(group: Group, noun: ModuleType, text: str, details: Callable[[Any], Row]) -> None:
    @group.command("show", help=text)
    @NAME
    @with_output
    @with_host(Output.details)
    def command(out: Output, name: str | None) -> None:
        out.details(details(noun.get(name)))


def _add_logs(group: Group, noun: ModuleType, text: str) -> None:
    def show_lines(out: Output, document: Any) -> None:
        out.lines(document["lines"])

    @group.command("logs", help=text)
    @NAME
    @click.option(
        "-n", "--lines", type=Number(0), default=50, show_default=True, help="Number of last lines; 0 for all."
    )
    @click.option(
        "--warnings",
        is_flag=True,
        help="Only warnings and errors since the last start, with the lines that continue them.",
    )
    @click.option("-f", "--follow", is_flag=True, help="Go on with each line that comes, until Ctrl-C.")
    @with_output
    @with_host(show_lines)
    def command(out: Output, name: str | None, lines: int, warnings: bool, follow: bool) -> None:
        if follow and out.as_json:
            raise click.UsageError("--follow has no end, but --json prints one document; leave one of them out")
        found = noun.logs(name, lines, warnings=warnings)
        if not follow:
            if warnings and not found and not out.as_json:
                out.say("ports: no warnings and no errors since the last start")
            out.lines(found)
            return
        log = sessions.files(str(group.name), name or sessions.default_name(str(group.name))).log
        for line in sessions.follow(log, lines, warnings=warnings):
            echo(line, styled=True)


def _add_attach(group: Group, noun: ModuleType, text: str) -> None:
    @group.command("attach", help=text)
    @NAME
    @click.option("-H", "--host", metavar="ALIAS", help="Attach on this host of ~/.ssh/config.")
    @click.pass_context
    def command(ctx: click.Context, /, name: str | None, host: str | None) -> None:
        from ports import hosts

        if host is None or hosts.is_here(host):
            refuse_host_as_name(ctx, {"name": name})
        else:
            with waiting(Output(as_json=False), f"waiting for {host}"):
                hosts.interactive(host, [str(group.name), "attach", *([name] if name else [])])
        noun.get(name).attach()


def ended_tasks(row: Row) -> str:
    """Return how many tasks ran when a cluster was stopped or restarted; empty if none did, or none can."""
    number = row.get("n_ended_tasks") or 0
    return f"; {number} running {'task' if number == 1 else 'tasks'} ended" if number else ""


def _add_stop(group: Group, noun: ModuleType, text: str, before_stop: Callable[[Any], Row]) -> None:
    def show_stopped(out: Output, row: Row) -> None:
        out.result(
            row, f"{row['kind']} {row['name']!r} is stopped{ended_tasks(row)}; its log stays{out.there()}: {row['log']}"
        )

    @group.command("stop", help=text)
    @NAME
    @click.option("--force", is_flag=True, help="Also forget one of which nothing can be known from here.")
    @with_output
    @with_host(show_stopped)
    def command(out: Output, name: str | None, force: bool) -> None:
        found = noun.get(name)
        more = before_stop(found)
        found.stop(force=force)
        show_stopped(out, {"kind": group.name, "name": found.name, "state": "stopped", "log": str(found.log), **more})
