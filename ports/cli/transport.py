"""``--transport``: what carries the way to hosts, for the commands that go there."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
_HELP = "What carries the way to hosts, here and in what is left running. Default: the setting ports.ssh.transport."


def with_transport(function: F) -> F:
    """Give a command the option ``--transport``, which comes before the setting."""

    @click.option("--transport", type=click.Choice(["auto", "ssh", "paramiko"]), help=_HELP)
    @functools.wraps(function)
    def command(*arguments: Any, transport: str | None, **options: Any) -> Any:
        if transport is not None:
            from ports import config

            config.override("ssh.transport", transport)
        return function(*arguments, **options)

    return command  # type: ignore[return-value]
