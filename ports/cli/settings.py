"""``ports settings``: each setting, its value, and where it is from."""

from __future__ import annotations

import click

from ports.cli.commands import Command
from ports.cli.output import Output, Row, with_host, with_output

MISTAKES = 2


def show_settings(out: Output, rows: list[Row]) -> int:
    """Show settings, and each mistake on stderr."""
    wrong = [row for row in rows if row["state"] == "error"]
    out.table(rows if out.as_json else [row for row in rows if row not in wrong], "setting", empty="")
    for row in () if out.as_json else wrong:
        if out.several:
            out.fail(str(row["host"]), str(row["error"]))
        else:
            out.say(f"ports: {row['error']}")
    return MISTAKES if wrong else 0


@click.command(cls=Command)
@with_output
@with_host(show_settings, several=True)
def settings(out: Output) -> int:
    """Show each setting, its value and the file that it is from, and all mistakes in these files."""
    from ports.state import paths
    from ports.state import settings as core

    found, mistakes = core.explain()
    here = {"host": paths.host_name(), "kind": "setting"}
    rows: list[Row] = [{**here, **row, "state": "set" if row["source"] else "default"} for row in found]
    for error in mistakes:
        said = {"error": str(error), "exit_code": error.exit_code}
        rows.append({**here, "name": error.key, "value": None, "source": error.source, "state": "error", **said})
    return show_settings(out, rows)
