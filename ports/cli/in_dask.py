"""``dask ports …``: the commands of `ports` among those of Dask. Dask finds it by the entry point ``dask_cli``."""

from __future__ import annotations

import click


@click.command(
    "ports",
    add_help_option=False,  # `dask ports --help` is that of `ports`
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    short_help="Private clusters, notebooks and jobs on shared servers.",
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def ports(words: tuple[str, ...]) -> None:
    """Run ``ports WORDS``, with its messages and its exit codes."""
    from ports.cli import ctrl_c
    from ports.cli.main import main

    ctrl_c.end_its_line()
    main(words)
