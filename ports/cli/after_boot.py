"""What commands about jobs say after a boot: nothing runs them until the compute resource is started."""

from __future__ import annotations

import click

from ports import jobs
from ports.cli.output import tell


def tell_after_boot(context: click.Context) -> None:
    """Say at the end of a command how many jobs wait for the compute resource since the machine was booted."""
    words = context.args[: context.args.index("--")] if "--" in context.args else context.args
    if not any(word.startswith(("-H", "--host", "-h", "--help")) for word in words):
        context.call_on_close(_tell)


def _tell() -> None:
    if n := jobs.waiting_since_boot():
        what = "1 job waits" if n == 1 else f"{n} jobs wait"
        way = "`ports resource start` goes on with them; add --at-boot, and the next boot starts it"
        tell(f"ports: this machine was booted, and {what}; {way}")
