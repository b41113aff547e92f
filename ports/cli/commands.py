"""The commands and groups of `ports`: click's, with the options that every one of them takes."""

from __future__ import annotations

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


class Group(click.Group):
    """A group that answers ``-h`` and ``--help``, and so do its commands."""

    command_class = Command

    def __init__(
        self, name: str | None = None, *, context_settings: dict[str, Any] | None = None, **options: Any
    ) -> None:
        super().__init__(name, context_settings={**_CONTEXT, **(context_settings or {})}, **options)
