"""What commands about jobs say after a boot: nothing runs them until the compute resource is started."""

from __future__ import annotations

import click

from ports import jobs
from ports.cli.output import IS_HERE, tell


def tell_after_boot(context: click.Context) -> None:
    """Say at the end of a command on this machine how many jobs wait for the compute resource since it was booted."""
    context.call_on_close(lambda: _tell(context))


def _tell(context: click.Context) -> None:
    if context.meta.get(IS_HERE) and (n := jobs.waiting_since_boot()):
        what = "1 job waits" if n == 1 else f"{n} jobs wait"
        way = "`ports resource start` goes on with them; add --at-boot, and the next boot starts it"
        tell(f"ports: this machine was booted, and {what}; {way}")
