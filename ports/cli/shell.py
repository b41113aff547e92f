"""``ports shell``."""

from __future__ import annotations

import click

from ports.cli.commands import Command
from ports.cli.options import Host, targets_on


@click.command(cls=Command, context_settings={"allow_extra_args": True})
@click.argument("target", metavar="[HOST[:NAME]]", required=False)
@click.option("--name", help="Name of the shell on this machine. Default: main.")
@click.option("--bash", is_flag=True, help="Start bash instead of ipython. Ignored if the shell runs already.")
@click.option("--env", help="Conda environment (name or path) or venv (path). Ignored if the shell runs already.")
@click.option("-H", "--host", metavar="ALIAS", type=Host(), help="Run it on this host; TARGET is its NAME then.")
@click.pass_context
def shell(
    ctx: click.Context, /, target: str | None, *, name: str | None, bash: bool, env: str | None, host: str | None
) -> None:
    """Open an ipython or bash shell in tmux, here or on a host.

    Without HOST, it runs on this machine. Ctrl-b d detaches the shell; the same command attaches to it again.
    """
    from ports import hosts, sessions
    from ports.hosts import targets

    if ctx.args:
        meant = f"{target}:{ctx.args[0]}" if len(ctx.args) == 1 and ":" not in str(target) else "HOST:NAME"
        raise click.UsageError(f"too many targets: {' '.join(ctx.args)!r}; write `ports shell {meant}`", ctx)
    if host is not None:
        target = targets_on(host, () if target is None else (target,))[0]
    found = None if target is None else targets.parse(target)
    if found is None or hosts.is_here(found.host):
        sessions.open_shell((found and found.name) or name or "main", bash=bash, env=env)
    else:
        words = ["shell", "--name", found.name or name or "main"]
        words += (["--bash"] if bash else []) + (["--env", env] if env else [])
        hosts.interactive(found.host, words)
