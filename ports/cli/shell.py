"""``ports shell``."""

from __future__ import annotations

from collections.abc import Sequence

import click

from ports.cli.commands import Command
from ports.cli.options import Host, refuse_second_host
from ports.cli.output import Output, Row, on_host, waiting, with_output
from ports.hosts import Target

_VERBS = {"list": "--list", "ls": "--list", "stop": "--stop"}  # of the other kinds of session; here they name a host


@click.command(cls=Command, context_settings={"allow_extra_args": True})
@click.argument("target", metavar="[HOST[:NAME]]", required=False)
@click.option("--name", help="Name of the shell, instead of HOST:NAME. Default: main.")
@click.option("--bash", is_flag=True, help="Start bash instead of ipython. Ignored if the shell runs already.")
@click.option("--env", help="Conda environment (name or path) or venv (path). Ignored if the shell runs already.")
@click.option("-H", "--host", metavar="ALIAS", type=Host(), help="Run it on this host; TARGET is its NAME then.")
@click.option("--list", "lists", is_flag=True, help="List the shells that run there.")
@click.option("--stop", "stops", is_flag=True, help="End the shell and what runs in it, as closing its terminal does.")
@with_output
@click.pass_context
def shell(
    ctx: click.Context,
    /,
    out: Output,
    *,
    target: str | None,
    host: str | None,
    name: str | None,
    bash: bool,
    env: str | None,
    lists: bool,
    stops: bool,
) -> None:
    """Open an ipython or bash shell in tmux, here or on a host.

    Without HOST, it runs on this machine. Ctrl-b d detaches the shell; the same command attaches to it again.
    """
    there = _meant(ctx, target, host, name)
    if lists and stops:
        raise click.UsageError("--list and --stop are two commands; leave one of them out", ctx)
    if lists:
        if there.name is not None:
            raise click.UsageError(f"--list shows all shells; leave {there.name!r} out", ctx)
        show_shells(out, _there(out, there.host, ["--list"]))
    elif stops:
        show_stopped(out, _there(out, there.host, ["--stop", "--name", there.name or "main"])[0])
    elif out.as_json:
        raise click.UsageError("a shell takes over the terminal; --json goes with --list and --stop", ctx)
    else:
        _open(there, bash=bash, env=env)


def show_shells(out: Output, rows: Sequence[Row]) -> None:
    """Show the shells that run."""
    starts = f"`ports shell {out.host}`" if out.host else "`ports shell`"
    out.table(rows, "shell", empty=f"no shells{out.there()}; {starts} starts one")


def show_stopped(out: Output, row: Row) -> None:
    """Show that a shell was ended."""
    out.result(row, f"shell {row['name']!r} is stopped{out.there()}")


def _meant(ctx: click.Context, target: str | None, host: str | None, name: str | None) -> Target:
    """Return the host and the shell that are meant; the host is empty for this machine."""
    from ports import hosts
    from ports.hosts import openssh, targets

    if ctx.args:
        meant = f"{target}:{ctx.args[0]}" if len(ctx.args) == 1 and ":" not in str(target) else "HOST:NAME"
        raise click.UsageError(f"too many targets: {' '.join(ctx.args)!r}; write `ports shell {meant}`", ctx)
    if host is None and target is None:
        return Target("", name)
    if host is None and target in _VERBS and target not in openssh.aliases():
        raise click.UsageError(f"no host {target!r}; did you mean `ports shell {_VERBS[target]}`?", ctx)
    if host is not None and target is not None:
        refuse_second_host(host, [target])
    found = targets.parse(str(host)) if target is None else targets.parse(target, on=host)
    return Target("" if hosts.is_here(found.host) else found.host, found.name or name)


def _there(out: Output, host: str, words: Sequence[str]) -> Sequence[Row]:
    """Return the rows of a command that lists or stops shells, of this machine or of a host."""
    from ports import hosts, sessions
    from ports.state import paths

    if host:
        out.host = host
        with waiting(out, f"waiting for {host}, where `ports shell` runs"):
            found = on_host(host, hosts.run_ports(host, ["shell", *words]))
        return found if isinstance(found, list) else [found]
    if words[0] == "--list":
        return sessions.list_shells()
    with waiting(out, f"waiting for the end of shell {words[-1]!r}"):
        sessions.stop_shell(words[-1])
    return [{"host": paths.host_name(), "kind": "shell", "name": words[-1], "state": "stopped"}]


def _open(there: Target, *, bash: bool, env: str | None) -> None:
    from ports import hosts, sessions
    from ports.state import settings

    if not there.host:
        sessions.open_shell(there.name or "main", bash=bash, env=env)
        return
    env = env or settings.host(there.host).get("env")  # activated as one that is typed
    words = ["shell", "--name", there.name or "main", *(["--bash"] if bash else []), *(["--env", env] if env else [])]
    with waiting(Output(as_json=False), f"waiting for {there.host}"):
        hosts.interactive(there.host, words)
