"""What the commands of `ports job` share: ids, durations, variables, and the machine whose jobs are meant."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

import click

from ports.cli.options import Host
from ports.cli.output import IS_HERE, Output, waiting, waiting_here


class Id(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """The id of a job: ``12``, ``12.7`` for a job of a map, ``server1:12`` for a job of another machine."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the text; fails where it is none."""
        from ports.errors import UsageError
        from ports.jobs import parse_id

        ids = [one.strip() for one in str(value).split(",")] if "," in str(value) else [str(value)]
        for one in ids:
            host, _, number = one.rpartition(":")
            try:
                parse_id(number if host else one)
            except UsageError as error:
                self.fail(str(error), param, ctx)
        if len(ids) > 1 and (param is None or not (param.multiple or param.nargs == -1)):
            self.fail(f"{str(value)!r} is {len(ids)} ids, and one is meant here", param, ctx)
        return ",".join(ids)


def each(ctx: click.Context, param: click.Parameter, value: Any) -> tuple[str, ...]:
    """Return the ids of an option or argument that takes several, also those with commas between them."""
    return tuple(one for text in value for one in text.split(","))


class Duration(click.ParamType):  # type: ignore[type-arg]
    """Seconds, or a text like ``90m``, ``1h``, ``2d``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return seconds; fails with what is allowed."""
        from ports.errors import UsageError
        from ports.jobs import parse_duration

        try:
            return parse_duration(value, f"--{param.name}" if param is not None else "time")
        except UsageError as error:
            self.fail(str(error), param, ctx)


class Variable(click.ParamType):  # type: ignore[type-arg]
    """``NAME=VALUE``, or ``NAME`` with the value that it has here, also where the job runs on another host."""

    name = "variable"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return ``NAME=VALUE``; fails where that variable has no value here."""
        from ports.errors import UsageError
        from ports.jobs import variable

        try:
            return "=".join(variable(str(value)))
        except UsageError as error:
            self.fail(str(error), param, ctx)


ID = click.argument("id", type=Id())
F = TypeVar("F", bound=Callable[..., Any])
IDS = click.argument("ids", metavar="ID...", type=Id(), nargs=-1, required=True, callback=each)


class Hosts(Host):
    """Aliases of hosts, with commas between them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the text; fails where one of them is no name of a host."""
        for one in str(value).split(","):
            if not one:
                self.fail(f"{value!r} has an empty name; write gpu1,gpu2", param, ctx)
            super().convert(one, param, ctx)
        return str(value)


@overload
def on_machine(function: F, /) -> F: ...
@overload
def on_machine(*, of_several: bool = ..., several: bool = ...) -> Callable[[F], F]: ...
def on_machine(function: Any = None, /, *, of_several: bool = False, several: bool = False) -> Any:
    """Give a command the option ``--host``, and after its `Output` the jobs of the machine that it acts on.

    ``server1:12`` means ``-H server1``. With `of_several` the option takes several hosts, one of which is chosen; with
    `several` hosts can be arguments, too, and the command gets ``machines``, by their names.
    """
    if function is None:
        return functools.partial(on_machine, of_several=of_several, several=several)
    text = "The host of ~/.ssh/config whose jobs are meant."
    if of_several:
        text = "Submit to this host of ~/.ssh/config; of gpu1,gpu2 to the one that begins it first."

    @click.option("-H", "--host", metavar="ALIAS", type=Hosts(), help=text)
    @click.pass_context
    @functools.wraps(function)
    def command(ctx: click.Context, /, out: Output, host: str | None, **options: Any) -> Any:
        from ports import jobs

        if host is not None and "," in host and not of_several:
            raise click.UsageError(f"-H {host} names several hosts; `{ctx.command_path}` takes one")
        acted_on = [one for name in ("id", "ids") for one in _as_list(options.get(name))]
        host = _host_of(acted_on, host)
        _bare(ctx, host, options)
        if several:
            named = list(dict.fromkeys([*options.pop("hosts", ()), *([host] if host else [])]))
            out.several = len(named) > 1
            ctx.meta[IS_HERE] = not named
            out.host = named[0] if len(named) == 1 and jobs.at(named[0]).host else None
            return function(out, {name: jobs.at(name) for name in named} or {"": jobs.at(None)}, **options)
        machine = jobs.at(host)
        out.host = machine.host
        with _waiting(ctx, out, machine):
            return function(out, machine, **options)

    if several:
        return click.argument("hosts", metavar="[HOST]...", nargs=-1, type=Host())(command)
    return command


def _waiting(ctx: click.Context, out: Output, machine: Any) -> contextlib.AbstractContextManager[None]:
    """Say what is waited for; a command that follows something waits for the way to it only."""
    if machine.host is None:
        return waiting_here(ctx, out)
    if ctx.params.get("follow") or "within" in ctx.params:
        with waiting(out, f"waiting for {machine.host}"):
            machine.reach()
        return contextlib.nullcontext()
    return waiting(out, f"waiting for {machine.host}")


def _bare(ctx: click.Context, host: str | None, options: dict[str, Any]) -> None:
    """Replace the ids among `options` by those that the jobs have on their machine; raises UsageError."""
    for name in ("id", "ids", "after"):
        value = options.get(name)
        if not value:
            continue
        bare = [bare_id(ctx, host, one) for one in _as_list(value)]
        options[name] = bare[0] if isinstance(value, str) else tuple(bare)


def bare_id(ctx: click.Context, host: str | None, id: str) -> str:
    """Return the id that a job has on its machine, `host` or this one; raises UsageError if it is of another."""
    named, _, number = id.rpartition(":")
    if named and not is_same(named, host):
        raise click.UsageError(f"{id!r} is a job of {named}; `{ctx.command_path} -H {named}` runs there")
    return number


def is_same(one: str | None, other: str | None) -> bool:
    """Say whether two names mean one machine: None is this one, which has a name, too."""
    from ports import hosts

    return one == other or all(name is None or hosts.is_here(name) for name in (one, other))


def _as_list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _host_of(ids: Sequence[str], typed: str | None) -> str | None:
    """Return the host that the ids name, or that was typed; fails where these are two."""
    named = list(dict.fromkeys(one.rpartition(":")[0] or typed for one in ids))
    hosts = list(dict.fromkeys([*named, *([typed] if typed is not None else [])]))
    if not all(is_same(hosts[0], one) for one in hosts[1:]):
        shown = " and ".join("this machine" if one is None else one for one in hosts)
        raise click.UsageError(f"these are jobs of {shown}; name jobs of one machine at once")
    return hosts[0] if hosts else typed
