"""``ports page``."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import click

from ports.cli.commands import Command
from ports.cli.options import Host, Number
from ports.cli.output import Output, Row, at_home, echo, on_host, waiting, with_output, write_json

STOP = ("stop",)


@click.command(cls=Command)
@click.argument("hosts", metavar="[HOST]... | stop", nargs=-1, type=Host())
@click.option("--background", is_flag=True, help="Return once the page answers; a background process serves it.")
@click.option("--no-browser", is_flag=True, help="Print the link only.")
@click.option("--local-port", type=Number(0, 65535), help="Local port; 0 for any free one.")
@click.option("-H", "--host", metavar="ALIAS", type=Host(), help="Run the command on this host of ~/.ssh/config.")
@with_output
def page(
    out: Output, hosts: tuple[str, ...], background: bool, no_browser: bool, local_port: int | None, host: str | None
) -> None:
    """Show all my hosts, clusters, notebooks and jobs in the browser, until Ctrl-C.

    HOST is an alias of ~/.ssh/config. Without HOST: this machine and the hosts of the setting ports.hosts. The word
    stop in place of HOST ends all my pages on this machine. Over ssh, the page has no port: open it from home.
    """
    from ports import hosts as machines
    from ports.state import settings
    from ports.web import _record, _serve

    if host is not None and not machines.is_here(host):
        return there(out, host, hosts)
    if hosts == STOP:
        return show_stopped(out, _record.stop())
    shown = hosts or (*(settings.get("hosts") or ()), *_record.kept_hosts())
    # who came by ssh has the browser at home
    alone = local_port is None and bool(settings.variable("SSH_CONNECTION"))
    kept = _record.in_background(shown, alone=alone) if local_port is None else None
    if kept is None and not background:
        return _serve.serve(shown, port=local_port, alone=alone, on_start=lambda row: show(out, row, no_browser))
    if kept is None:
        row = _record.start(shown, port=local_port, alone=alone)
    else:
        row = {**kept.row(), "local_url": _record.link(kept)}
    if (opening := show(out, row, no_browser)) is not None:
        opening.join()
    return None


def there(out: Output, host: str, words: tuple[str, ...]) -> None:
    """Start a page on a host, in the background, or end those there."""
    from ports import hosts

    with waiting(out, f"waiting for {host}"):
        found = hosts.run_ports(host, ["page", *(words if words == STOP else ("--background", *words))], login=True)
    out.host = host
    if words == STOP:
        return show_stopped(out, on_host(host, found))
    row = {**on_host(host, found), "local_url": None}
    out.result(row, f"page  runs on {host}; `ports open {host}:page` opens it here")
    return None


def show(out: Output, row: Row, no_browser: bool) -> threading.Thread | None:
    """Show where a page is, and open it, in a thread: the page may be served in this one."""
    ends = "`ports page stop` ends the page" if row["background"] else "Ctrl-C ends the page"
    if out.as_json:
        write_json(row)
    elif row["local_url"] is None:
        from ports import listeners

        command = {"command": listeners.open_command("page"), "command_note": listeners.guess_note()}
        echo(f"page  {row['url']}\n{at_home(command)}")
        out.say(f"you came by ssh, so the page has no port here; {ends}")
    else:
        echo(f"page  {row['local_url']}")
        out.say(f"the link works once, `ports page` prints another one; {ends}")
    if no_browser or out.as_json or row["local_url"] is None:
        return None
    opening = threading.Thread(target=open_in_browser, args=(int(row["pid"]),), daemon=True)
    opening.start()
    return opening


def open_in_browser(pid: int) -> None:
    """Open the page of the process `pid`, by a link of its own: each works once."""
    from ports import tunnels
    from ports.web import _record

    for record in _record.running():
        if record.process.pid == pid and (link := _record.link(record)) is not None:
            tunnels.open_once(link)


def show_stopped(out: Output, rows: Sequence[Row]) -> None:
    """Show which pages were ended."""
    if out.as_json:
        write_json(list(rows))
    else:
        echo("\n".join(f"page is stopped (process {row['pid']})" for row in rows))
