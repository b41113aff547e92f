"""Options that several commands take: those of the settings' schema, numbers with limits, and ``--transport``."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
_TRANSPORT_HELP = (
    "What connects to hosts, here and in processes left in the background. Default: the setting ports.ssh.transport."
)


class Number(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """A number of at least `least` and at most `most`: ``it is -1; it must be a whole number of 0 or more``."""

    name = "number"

    def __init__(self, least: float | None = None, most: float | None = None, *, whole: bool = True) -> None:
        self.least, self.most, self.kind = least, most, int if whole else float

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number; fails with what is allowed."""
        try:
            number = self.kind(value)
        except ValueError:
            number = None
        too_small = number is not None and self.least is not None and not number >= self.least  # nan is neither
        too_large = number is not None and self.most is not None and not number <= self.most
        if number is None or too_small or too_large:
            self.fail(f"it is {value}; it must be {self.allowed()}", param, ctx)
        return number

    def allowed(self) -> str:
        """Return what may be given, in words."""
        what = "a whole number" if self.kind is int else "a number"
        if self.most is not None:
            return f"{what} from {self.least:g} to {self.most:g}"
        return what if self.least is None else f"{what} of {self.least:g} or more"


class OneOf(click.Choice):  # type: ignore[type-arg]  # generic in newer versions of click only
    """One of several words, refused as the settings refuse another: ``it is 'fork'; it must be one of …``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the word; fails with those that are allowed."""
        from ports.state import settings

        if (wrong := settings.mismatch(value, {"enum": list(self.choices)})) is not None:
            self.fail(f"it {wrong}", param, ctx)
        return value


class Host(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """The name of a host, without what a target may have behind a colon."""

    name = "host"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the name; fails where a target was given."""
        from ports.errors import PortsError
        from ports.hosts import targets

        with contextlib.suppress(PortsError):  # what is no name at all, the connection refuses in its own words
            found = targets.parse(str(value))
            if not str(value).startswith("ssh://") and (found.name is not None or found.port is not None):
                command = ctx.command_path.split()[-1] if ctx is not None else "this command"
                self.fail(
                    f"{value!r} is more than a host; `ports open {value}` opens it, `{command}` takes {found.host}"
                )
        return value


def refuse_second_host(host: str, words: Iterable[str]) -> None:
    """Fail where one of the `words` that go with ``-H host`` names a host too; each is the NAME or PORT of a thing."""
    for one in words:
        if ":" in one or one == host:
            raise click.UsageError(f"{one!r} names a host, and so does -H {host}; leave out one of them")


def with_hosts(function: F) -> F:
    """Give a command hosts as arguments, and by the option ``--host`` that all other commands have."""

    @click.argument("hosts", metavar="[HOST]...", nargs=-1, type=Host())
    @click.option("-H", "--host", "more", metavar="ALIAS", multiple=True, type=Host(), help="The same as HOST.")
    @functools.wraps(function)
    def command(*arguments: Any, hosts: tuple[str, ...], more: tuple[str, ...], **options: Any) -> Any:
        return function(*arguments, hosts=tuple(dict.fromkeys([*hosts, *more])), **options)

    return command  # type: ignore[return-value]


def from_settings(section: str, *, only: Iterable[str] | None = None, **special: dict[str, Any]) -> Callable[[F], F]:
    """Give a command the options of a section of the settings, or `only` some, as the schema describes them.

    `special` holds arguments of `click.option` for single options, by name.
    """
    from ports.state import settings

    nodes = settings.section(section)

    def decorate(function: F) -> F:
        for name in reversed([*(settings.options(section) if only is None else only)]):
            function = _option(name, nodes[name], special.get(name, {}))(function)
        return function

    return decorate


def _option(name: str, node: dict[str, Any], special: dict[str, Any]) -> Callable[[F], F]:
    from ports.state import settings

    flag = f"--{name.replace('_', '-')}"
    attributes = {"help": node["description"], **special}
    if node.get("type") == "boolean":
        declared = flag if attributes.get("is_flag") else f"{flag}/--no-{flag[2:]}"
        return click.option(declared, default=None, **attributes)
    if "help" not in special:
        attributes["help"] += f" Default: {settings.default_in_words(node)}."
    return click.option(flag, **{"type": _type(node), **attributes})


def _type(node: dict[str, Any]) -> click.ParamType | None:  # type: ignore[type-arg]
    """Return the type that click converts the text of an option to."""
    if "enum" in node:
        return OneOf(node["enum"])
    kinds = {node["type"]} if isinstance(node["type"], str) else {*node["type"]}
    is_size = "string" in kinds and ("pattern" not in node or "expects" in node)
    if kinds & {"integer", "number"} and not is_size:
        return _Value(node)
    return click.Path() if node.get("format") == "path" else None


class _Value(click.ParamType):  # type: ignore[type-arg]
    """The number or word that a setting may be."""

    name = "number"

    def __init__(self, node: dict[str, Any]) -> None:
        self.node = node

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number or word; fails with what is allowed."""
        from ports.state import settings

        if value == "false" and "boolean" in self.node["type"]:
            value = False
        for kind in (int, float) if value is not False else ():
            with contextlib.suppress(ValueError):
                value = kind(value)
                break
        if (wrong := settings.mismatch(value, self.node)) is not None:
            self.fail(f"it {wrong}", param, ctx)
        return value


def with_transport(function: F) -> F:
    """Give a command the option ``--transport``, which overrides the setting."""

    @click.option("--transport", type=OneOf(["auto", "ssh", "paramiko"]), help=_TRANSPORT_HELP)
    @functools.wraps(function)
    def command(*arguments: Any, transport: str | None, **options: Any) -> Any:
        if transport is not None:
            from ports.state import settings

            settings.override("ssh.transport", transport)
        return function(*arguments, **options)

    return command  # type: ignore[return-value]
