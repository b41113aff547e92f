"""What the command line says of a wrong word: one sentence in the words of `ports`. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

import click

# What is meant by a command that takes no argument, where one is given.
_INSTEAD = {
    "ports tunnel list": "it lists all; `ports open {0}` opens a tunnel, `ports tunnel close {0}` closes it",
}


def message(error: click.ClickException) -> str:
    """Return the sentence for an error that click raised, or one of our parameter types."""
    ctx = getattr(error, "ctx", None)
    if isinstance(error, click.NoSuchOption):
        return _no_option(error, ctx)
    if isinstance(error, click.MissingParameter) and error.param is not None:
        return f"{_name(error.param)} is missing" + (f"; write `{usage(ctx)}`" if ctx is not None else "")
    if isinstance(error, click.BadOptionUsage):
        takes_none = "does not take a value" in error.message
        return f"option {error.option_name} {'takes no' if takes_none else 'needs a'} value"
    if isinstance(error, click.BadParameter) and error.param is not None:
        # our types say `it is …`, and the name of the option is in nobody's way there
        return re.sub(r"^it ", f"{_name(error.param)} ", error.message)
    return re.sub(r"(?<!\.)\.$", "", error.format_message())


def too_many(ctx: click.Context, extra: Sequence[str]) -> str:
    """Return that a command does not take the arguments `extra`."""
    words = " ".join(extra)
    if _takes(ctx):
        return f"{words!r} is more than `{usage(ctx)}` takes"
    instead = _INSTEAD.get(ctx.command_path, f"not {words!r}").format(extra[0])
    return f"`{ctx.command_path}` takes no argument{';' if instead.startswith('it ') else ','} {instead}"


def usage(ctx: click.Context) -> str:
    """Return how a command is written, without its options."""
    return " ".join([ctx.command_path, *_takes(ctx)])


def _takes(ctx: click.Context) -> list[str]:
    return [piece for piece in ctx.command.collect_usage_pieces(ctx) if piece != "[OPTIONS]"]


def _name(parameter: click.Parameter) -> str:
    """Return an option as it is typed, or what an argument is called in the usage."""
    if isinstance(parameter, click.Option):
        return max(parameter.opts, key=len)
    return parameter.human_readable_name.strip("[].")


def _no_option(error: click.NoSuchOption, ctx: click.Context | None) -> str:
    name = error.option_name
    if re.fullmatch(r"-[0-9.]+", name):
        return f"{name} begins like an option; a number here is never negative"
    if ctx is not None and isinstance(ctx.command, click.Group):
        return f"no option {name!r} before a command; options of a command are written behind it"
    known = {one.lstrip("-"): one for one in error.possibilities or ()}  # of two options the dashes are always alike
    near = [f"`{known[one]}`" for one in difflib.get_close_matches(name.lstrip("-"), known, n=2, cutoff=0.6)]
    return f"no option {name!r}" + (f"; did you mean {' or '.join(near)}?" if near else "")
