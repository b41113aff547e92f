"""``ports resource notify``: which services hear of the end of jobs, and whether they can be reached."""

from __future__ import annotations

from typing import Any

import click

from ports.cli.commands import Command
from ports.cli.output import Output, Row, waiting, with_host, with_output

SOME_FAILED = 5


def show_notify(out: Output, row: Row) -> int:
    """Show the services, and what each answered to a test; return 5 if one failed."""
    from ports.jobs import notice_line

    lines = [notice_line(one) for one in row["services"]]
    if row.get("missing"):
        lines.append(str(row["missing"]))
    out.result(row, "\n".join(lines))
    return SOME_FAILED if any(one["state"] == "failed" for one in row["services"]) else 0


@click.command(cls=Command)
@click.option("--test", is_flag=True, help="Send a notice to each service, and show what it answers.")
@with_output
@with_host(show_notify)
def notify(out: Output, test: bool) -> int:
    """Show which services hear of the end of jobs, and test them.

    They are those of the setting jobs.notify, and hear of jobs that were submitted with --notify.
    """
    from ports import jobs
    from ports.state import paths

    found: dict[str, Any] = {"host": paths.host_name(), "kind": "resource", "name": "jobs"}
    if test:
        with waiting(out, "waiting for the services of the setting jobs.notify"):
            found["services"] = jobs.test_notices()
    else:
        found |= jobs.notice_services()
    found["state"] = "error" if any(one["state"] == "failed" for one in found["services"]) else "set"
    return show_notify(out, found)
