"""The commands and groups of `ports`: click's, with the options that every one of them takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

# A command keeps these for itself. What it inherits depends on who calls it first: click remembers its help option.
_CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Command(click.Command):
    """A command that answers ``-h`` and ``--help``."""

    def __init__(
        self, name: str | None = None, *, context_settings: dict[str, Any] | None = None, **options: Any
    ) -> None:
        super().__init__(name, context_settings={**_CONTEXT, **(context_settings or {})}, **options)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does; an argument too many is refused with what the command takes."""
        may_have_more, ctx.allow_extra_args = ctx.allow_extra_args, True
        extra = super().parse_args(ctx, args)
        ctx.allow_extra_args = may_have_more
        if extra and not may_have_more and not ctx.resilient_parsing:
            from ports.cli import usage

            raise click.UsageError(usage.too_many(ctx, extra), ctx)
        return extra

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command; click would print an empty line after Ctrl-C, wherever stderr leads."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stopped:
            raise click.Abort(*stopped.args) from None


# What is typed instead, and the commands that are meant.
MEANT = {
    "status": ("ports list", "ports who"),
    "ps": ("ports list", "ports cluster list"),
    "help": ("ports --help", "ports COMMAND --help"),
    "config": ("ports settings",),
    "ssh": ("ports shell", "ports login"),
    "close": ("ports tunnel close",),
    "kill": ("ports cluster stop", "ports notebook stop"),
}


def no_command(word: str, known: Iterable[str], group: str) -> str:
    """Return that `group` has no command `word`, and which is meant."""
    import difflib

    from ports import sessions

    verbs = {verb for kind in sessions.KINDS.values() for verb in kind.verbs} if group == "ports" else set()
    others = MEANT if group == "ports" else dict.fromkeys(("status", "ps"), (f"{group} list", f"{group} show"))
    near = difflib.get_close_matches(word, [*known, *verbs, *others], n=1)
    meant: list[str] = []
    for one in [word] if word in {*verbs, *others} else near:
        meant = [f"ports {kind.name} {one}" for kind in sessions.KINDS.values() if one in verbs and one in kind.verbs]
        meant += ["ports tunnel close"] if (group, one) == ("ports", "stop") else []
        meant = [f"{group} {one}"] if one in known else meant or [*others[one]]
    return f"no command {word!r}" + (
        f"; did you mean {', '.join(f'`{one}`' for one in meant[:-1])}{' or ' if meant[1:] else ''}`{meant[-1]}`?"
        if meant
        else ""
    )


class Group(click.Group):
    """A group that answers ``-h`` and ``--help``, and so do its commands."""

    command_class = Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command as click does; an unknown one is refused with the commands that are meant."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            known = [name for name in self.list_commands(ctx) if name != "ls"]
            raise click.UsageError(no_command(args[0], known, ctx.command_path), ctx)
        return super().resolve_command(ctx, args)

    def __init__(
        self, name: str | None = None, *, context_settings: dict[str, Any] | None = None, **options: Any
    ) -> None:
        super().__init__(name, context_settings={**_CONTEXT, **(context_settings or {})}, **options)
