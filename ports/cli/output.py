"""What all commands share: the options ``--json`` and ``--host``, and how rows are shown."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TextIO, TypeVar

import click

from ports.errors import collected_warnings, harmless
from ports.hosts import targets

F = TypeVar("F", bound=Callable[..., Any])

Row = Mapping[str, Any]

STYLES = {
    "running": "green",
    "open": "green",
    "finished": "green",
    "starting": "yellow",
    "pending": "yellow",
    "stopped": "red",
    "cancelled": "red",
    "lost": "red",
    "error": "red",
    "unknown": "yellow",
}
_FOREVER = 30 * 86400.0  # seconds that a command waits on another host, if it has no limit
IS_HERE = "ports.is_here"  # in what click keeps for all of a command line: it acts on this machine
SILENT_SECONDS = 3.0  # a command that takes longer says what it waits for
_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")
_STATE = re.compile(rf"\b({'|'.join(STYLES)})\b")


class Output:
    """Shows a command's results: as a table or lines for people, or as one JSON document for programs."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.host: str | None = None  # where the command acts, as it was typed
        self.several = False  # rows are of several hosts

    def there(self) -> str:
        """Return `` on HOST`` if the command runs on another host; it follows a path."""
        return f" on {self.host}" if self.host else ""

    def table(self, rows: Sequence[Row], kind: str, *, empty: str) -> None:
        """Show `rows` in the columns of `kind`, or print `empty` if there are none."""
        if self.as_json:
            write_json(list(rows))
        elif rows:
            write_table(rows, kind, with_host=self.several)
        elif empty:
            self.say(empty)

    def details(self, row: Row) -> None:
        """Show everything about one row."""
        if self.as_json:
            write_json(row)
        else:
            from ports.cli import tables

            columns = terminal_columns(sys.stdout) if sys.stdout.isatty() else None
            echo(tables.details(row, time.time(), columns))

    def result(self, row: Row, text: str) -> None:
        """Show the result of a command that changed something: `text`, or the row as JSON."""
        if self.as_json:
            write_json(row)
        else:
            echo(folded(targets.hints_at(self.host, text), sys.stdout))

    def lines(self, lines: Sequence[str]) -> None:
        """Show lines of a log."""
        if self.as_json:
            write_json({"lines": list(lines)})
        elif lines:
            echo("\n".join(lines), styled=True)

    def fail(self, target: str, reason: str) -> None:
        """Print on stderr that one of several failed, in the words of a single failure."""
        host, _, name = target.partition(":")
        named = reason.startswith(f"{host}: ") or target in reason or (name and repr(name) in reason)
        self.say(f"ports: {reason if named else f'{target}: {reason}'}")

    def warn_of(self, rows: Sequence[Row]) -> None:
        """Print on stderr which of my listeners other users can use, and how to close them."""
        for row in () if self.as_json else rows:
            for warning in row.get("warnings") or ():
                self.say(f"ports: warning: {row['kind']} {row['name']!r} on {row['host']}: {warning}")

    def say(self, text: str) -> None:
        """Print progress on stderr, because stdout is for results only."""
        tell(targets.hints_at(self.host, text))


class Look(Output):
    """Collects what it shows, as the lines of one look."""

    def __init__(self) -> None:
        super().__init__(False)
        self.told: list[str] = []

    def table(self, rows: Sequence[Row], kind: str, *, empty: str) -> None:
        """Add a table, or `empty` if there are no rows."""
        if rows:
            self.told += table_lines(rows, kind, with_host=self.several)
        elif empty:
            self.say(empty)

    def say(self, text: str) -> None:
        """Add a message."""
        self.told += folded(targets.hints_at(self.host, text), sys.stdout).splitlines()


def tell(text: str) -> None:
    """Print a message on stderr."""
    echo(folded(text, sys.stderr), err=True)


def echo(text: str, *, err: bool = False, styled: bool = False) -> None:
    """Print `text`, and nothing that a terminal obeys: every command prints here, except what a job printed.

    Parameters
    ----------
    styled : bool
        Colours stay.
    """
    if styled:
        parts = _COLOUR.split(text)  # every other one is a colour
        text = "".join(part if place % 2 else harmless(part) for place, part in enumerate(parts))
    else:
        text = harmless(text)
    click.echo(text, err=err)


def draw(frame: str) -> None:
    """Print what also moves the cursor; its lines are harmless already."""
    click.echo(frame)


def folded(text: str, stream: TextIO) -> str:
    """Return `text`, harmless, with lines that fit the terminal `stream`, so that it breaks no word; else as it is."""
    text = harmless(text)
    if not stream.isatty():
        return text
    from ports.cli import tables

    columns = terminal_columns(stream)
    return "\n".join(part for line in text.split("\n") for part in tables.wrap(line, columns, "  "))


def terminal_columns(stream: TextIO) -> int:
    """Return the width of the terminal that `stream` is; 80 where it does not say."""
    from ports.state import settings

    with contextlib.suppress(ValueError):
        if columns := int(settings.variable("COLUMNS") or 0):
            return columns
    with contextlib.suppress(OSError, ValueError):
        return os.get_terminal_size(stream.fileno()).columns or 80
    return 80


def at_home(row: Row) -> str:
    """Return the line that says what to type at home; where the alias in it is a guess, it says so."""
    note = row.get("command_note")
    return f"at home:  {row['command']}" + (f"  ({note})" if note else "")


def write_json(document: Any) -> None:
    """Print one JSON document, on a line of its own, with the warnings of the command."""
    if warnings := collected_warnings():
        from ports.hosts import with_warnings

        document = with_warnings(document, warnings)
    echo(json.dumps(document, default=str))


def write_table(rows: Sequence[Row], kind: str, *, with_host: bool = False) -> None:
    """Print a table; in a terminal with colours, and fitted to its width. No link and no word is broken."""
    echo("\n".join(table_lines(rows, kind, with_host=with_host)), styled=True)


def table_lines(rows: Sequence[Row], kind: str, *, with_host: bool = False) -> list[str]:
    """Return the lines of a table for stdout."""
    from ports.cli import tables
    from ports.state import settings

    lines = tables.table(rows, kind, time.time(), with_host=with_host)
    text = tables.plain(lines if not sys.stdout.isatty() else tables.fit(lines, terminal_columns(sys.stdout)))
    heading, *rest = text.splitlines()
    if not sys.stdout.isatty() or settings.variable("TERM") in ("dumb", "unknown"):
        return [heading, *rest]
    coloured = rest if settings.variable("NO_COLOR") else [_STATE.sub(_coloured, line) for line in rest]
    return [click.style(heading, bold=True), *coloured]


def _coloured(found: re.Match[str]) -> str:
    return click.style(found[0], fg=STYLES[found[0]])


def styled(text: str, *, fg: str | None = None, bold: bool = False) -> str:
    """Return `text` in a colour or bold where the terminal shows that and the user wants it (``NO_COLOR``)."""
    from ports.state import settings

    text = harmless(text, lines=False)
    if settings.variable("TERM") in ("dumb", "unknown"):
        return text
    return click.style(text, fg=None if settings.variable("NO_COLOR") else fg, bold=bold or None)


def is_asking() -> bool:
    """Tell whether a person is asked for a password at this moment, where nothing else may be printed."""
    from ports import hosts  # only who waits needs it

    return hosts.is_asking()


def waiting(out: Output, what: str) -> AbstractContextManager[None]:
    """Say `what` is awaited once it takes 3 s, and nobody is asked for a password at this moment."""
    from ports.state import said_when_slow

    return said_when_slow(out.say, f"{what} …", after=SILENT_SECONDS, unless=is_asking)


def waiting_here(ctx: click.Context, out: Output) -> AbstractContextManager[None]:
    """Say what a command on this machine waits for; one that follows a log, watches or waits is never late."""
    ctx.meta[IS_HERE] = True
    is_waiting = ctx.params.get("follow") or ctx.params.get("watch") or "within" in ctx.params
    return contextlib.nullcontext() if is_waiting else waiting(out, f"waiting for {awaited(ctx)}")


# What a command waits for that acts on one session here.
_AWAITED = {
    "start": "the start of",
    "stop": "the end of",
    "scale": "the scheduler of",
    "restart": "the workers of",
    "show": "an answer of",
}


def awaited(ctx: click.Context) -> str:
    """Return what a command on this machine waits for when it takes long."""
    from ports import sessions

    kind, _, verb = ctx.command_path.partition(" ")[2].partition(" ")
    if kind == "job":
        return "the compute resource"
    if kind not in sessions.FOLDERS or verb not in _AWAITED:
        return "an answer of what runs here"
    given = [ctx.params.get("name"), *(ctx.params.get("names") or ()), sessions.default_name(kind)]
    return f"{_AWAITED[verb]} {kind} {next(name for name in given if name)!r}"


def with_output(function: F) -> F:
    """Give a command the option ``--json`` and, first, an `Output`."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
    @functools.wraps(function)
    def command(as_json: bool, **options: Any) -> Any:
        return function(Output(as_json), **options)

    return command  # type: ignore[return-value]


def with_host(
    show: Callable[..., Any],
    *,
    several: bool = False,
    starts: bool = False,
    renamed: bool | Callable[[str, Any], Any] = True,
    patience: str = "timeout",
) -> Callable[[F], F]:
    """Give a command the option ``--host``, and where it lists something (`several`) hosts as arguments, too.

    With it, the command runs on that host, and `show` gets an `Output` and the JSON document that it printed. Where it
    `starts` a session, Ctrl-C ends that there. In rows that are `renamed`, the host is that one; or it is a function
    that does more, of the host and the document. The option `patience`
    says for how many seconds the command there is waited for: without ``timeout`` a minute, without another for ever.
    """
    from ports.cli.options import Host

    def decorate(function: F) -> F:
        @click.option(
            "-H", "--host", metavar="ALIAS", type=Host(), help="Run the command on this host of ~/.ssh/config."
        )
        @click.pass_context
        @functools.wraps(function)
        def command(ctx: click.Context, /, out: Output, host: str | None, **options: Any) -> Any:
            typed = options.pop("hosts", ())
            refuse_name_as_host(ctx, typed)
            named = list(dict.fromkeys([*typed, *([host] if host else [])]))
            if not named or (len(named) == 1 and _is_here(named[0])):
                refuse_host_as_name(ctx, options)
                with waiting_here(ctx, out):
                    if starts and not options.get("env"):
                        _activate()
                    return function(out, **options)
            if len(named) > 1:
                return _on_several(ctx, out, named, functools.partial(_there, renamed), show)
            _follow_there(ctx, out, named[0], options)
            with _interruptible(ctx, out, named[0], starts) as started:
                document = _run_there(ctx, out, named[0], _seconds(options, patience), starts)
                started.update(document if starts else {})
                out.host = named[0]
                return show(out, _there(renamed, named[0], document))

        if several:
            return click.argument("hosts", metavar="[HOST]...", nargs=-1, type=Host())(command)  # type: ignore[return-value]
        return command  # type: ignore[return-value]

    return decorate


def _there(renamed: bool | Callable[[str, Any], Any], host: str, document: Any) -> Any:
    told = on_host(host, document) if renamed is True else document
    return renamed(host, told) if callable(renamed) else told


def _follow_there(ctx: click.Context, out: Output, host: str, options: Mapping[str, Any]) -> None:
    """Become the command on `host`, if it is one that follows something at this terminal."""
    from ports import hosts

    if not options.get("follow") or out.as_json:
        return
    if options.get("environ"):  # other users there see the command line of what is followed
        raise click.UsageError("--environ and --follow do not go together with -H; leave out --follow")
    with waiting(out, f"waiting for {host}"):
        hosts.interactive(host, far_arguments(ctx))


def _is_here(host: str) -> bool:
    from ports.hosts import is_here  # 12 ms, which a command without a host does not pay

    return is_here(host)


def _activate() -> None:
    from ports.sessions import environments

    environments.activate_own()


@contextlib.contextmanager
def _interruptible(ctx: click.Context, out: Output, host: str, starts: bool) -> Iterator[dict[str, Any]]:
    """After Ctrl-C, say what becomes of a start on another host; what it started is put into the dictionary."""
    started: dict[str, Any] = {}
    try:
        yield started
    except KeyboardInterrupt:
        kind, out.host = ctx.command_path.split()[1], host
        if not starts:
            pass
        elif started:
            out.say(f"{kind} {started['name']!r} runs{out.there()}; `ports {kind} stop {started['name']}` stops it")
        else:
            out.say(f"the start{out.there()} is being undone; `ports {kind} list` shows whether it was")
        raise


@contextlib.contextmanager
def undone_if_interrupted(session: Any) -> Iterator[None]:
    """Stop a session that was just started, unless its row is shown: nobody would know that it runs."""
    try:
        yield
    except BaseException:
        session.stop()
        raise


def _seconds(options: Mapping[str, Any], patience: str) -> float | None:
    """Return the value of the option that says how long a command on another host is waited for."""
    seconds: float | None = options.get(patience)
    return _FOREVER if seconds is None and patience != "timeout" else seconds


def _run_there(ctx: click.Context, out: Output, host: str, timeout: float | None, starts: bool = False) -> Any:
    from ports import hosts

    seconds = (60.0 if timeout is None else timeout) + 60.0  # the command there gives up first, and says why
    with waiting(out, f"waiting for {host}, where `{ctx.command_path}` runs"):
        return hosts.run_ports(host, far_arguments(ctx), login=True, timeout=seconds, starts=starts)


def _on_several(
    ctx: click.Context,
    out: Output,
    names: Sequence[str],
    called: Callable[[str, Any], Any],
    show: Callable[..., Any],
) -> int:
    """Run a command that lists something on several hosts at once; return 5 if one failed, else what `show` returns."""
    from ports.errors import PortsError
    from ports.hosts import failed_row, on_each

    found = on_each(names, lambda name: called(name, _run_there(ctx, out, name, None)))
    failed = [failed_row(name, one) for name, one in found.items() if isinstance(one, PortsError)]
    rows = [row for one in found.values() if not isinstance(one, PortsError) for row in one]
    out.several = True
    shown = [*rows, *failed] if out.as_json else rows
    code = show(out, shown) if shown or not failed else 0
    for row in () if out.as_json else failed:
        out.fail(str(row["host"]), row["error"])
    return 5 if failed else int(code or 0)


def refuse_host_as_name(ctx: click.Context, options: Mapping[str, Any]) -> None:
    """Refuse a NAME that is a host of the ssh configuration, unless something here has it or it is the default.

    Raises
    ------
    UsageError
        With the command that is meant.
    """
    kind = ctx.command_path.split()[1]
    for name in [options.get("name"), *(options.get("names") or ())]:
        if name is None or kind not in ("cluster", "notebook"):
            continue
        from ports import sessions
        from ports.hosts import openssh
        from ports.state import settings

        if name != settings.get(f"{kind}.name") and name in openssh.aliases() and name not in sessions.names(kind):
            raise click.UsageError(f"{name!r} is a host of ~/.ssh/config; did you mean `{ctx.command_path} -H {name}`?")


def refuse_name_as_host(ctx: click.Context, typed: Sequence[str]) -> None:
    """Refuse a HOST of `list` that is no host of the ssh configuration, but what a cluster or a notebook is called.

    Raises
    ------
    UsageError
        With the command that is meant.
    """
    kind = ctx.command_path.split()[1]
    if not typed or kind not in ("cluster", "notebook"):
        return
    from ports import sessions
    from ports.hosts import openssh
    from ports.state import settings

    known = {settings.get(f"{kind}.name"), *sessions.names(kind)} - set(openssh.aliases())
    for name in typed:
        if name in known:
            told = f"{name!r} is no host of ~/.ssh/config; did you mean `ports {kind} show {name}`?"
            raise click.UsageError(targets.hints_at(ctx.params.get("host"), told))


def session_called(name: str) -> str:
    """Return `` (cluster 'main' is here: …)`` if a session here is called `name`; else nothing."""
    from ports import sessions
    from ports.errors import PortsError

    found = ""
    with contextlib.suppress(PortsError):
        for kind in ("cluster", "notebook"):
            if name in sessions.names(kind):
                found += f" ({kind} {name!r} is here: `ports {kind} show {name}`)"
    return found


def far_arguments(ctx: click.Context) -> list[str]:
    """Return the words that run the command of `ctx` on another host: all that were typed, except ``--host``."""
    path = ctx.command_path.split()[1:]
    words: list[str] = []
    for parameter in ctx.command.params:
        value = ctx.params.get(parameter.name or "")
        typed = ctx.get_parameter_source(parameter.name or "") == click.core.ParameterSource.COMMANDLINE
        if not typed or parameter.name in ("host", "hosts", "as_json") or value is None:
            continue
        many = value if isinstance(value, tuple) else (value,)
        if isinstance(parameter, click.Argument):
            rest = [] if ctx.allow_interspersed_args else ["--"]  # what follows can begin like options
            words = [*words, *rest, *map(str, many)]
        elif isinstance(parameter, click.Option) and parameter.is_flag:
            words = [_flag(parameter, bool(value)), *words]
        else:
            words = [*(f"{parameter.opts[-1]}={one}" for one in many), *words]
    return [*path, *words]


def _flag(option: click.Option, value: bool) -> str:
    return option.opts[-1] if value or not option.secondary_opts else option.secondary_opts[-1]


def on_host(host: str, document: Any) -> Any:
    """Name the host of rows as it was typed, also in their hints."""
    if isinstance(document, list):
        return [on_host(host, row) for row in document]
    if not isinstance(document, dict):
        return document
    command = (
        f"ports open {host}:{document['name']}" if document.get("command") else None
    )  # the host itself can only guess its alias
    hints = {key: document[key] for key in ("reason", "note", "error") if isinstance(document.get(key), str)}
    told = {key: targets.hints_at(host, text) for key, text in hints.items()}
    return {**document, **told, "host": host} | ({"command": command, "command_note": None} if command else {})
