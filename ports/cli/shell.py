"""``ports shell``."""

from __future__ import annotations

import click


@click.command(context_settings={"allow_extra_args": True})
@click.argument("target", metavar="[HOST[:NAME]]", required=False)
@click.option("--name", help="Name of the shell on this machine; default: main.")
@click.option("--bash", is_flag=True, help="bash instead of ipython, for a shell that is started.")
@click.option("--env", help="Conda environment (name or path) or venv (path), for a shell that is started.")
@click.pass_context
def shell(ctx: click.Context, target: str | None, name: str | None, bash: bool, env: str | None) -> None:
    """ipython or bash in tmux on a host, to come back to.

    Without HOST, on this machine. Ctrl-b d leaves the shell; the same command comes back to it.
    """
    from ports import hosts, sessions
    from ports.hosts import targets

    if ctx.args:
        meant = f"{target}:{ctx.args[0]}" if len(ctx.args) == 1 and ":" not in str(target) else "HOST:NAME"
        raise click.UsageError(f"one target too many: {' '.join(ctx.args)!r}; write `ports shell {meant}`", ctx)
    if target is None:
        sessions.open_shell(name or "main", bash=bash, env=env)
    else:
        found = targets.parse(target)
        words = ["shell", "--name", found.name or name or "main"]
        words += (["--bash"] if bash else []) + (["--env", env] if env else [])
        hosts.interactive(found.host, words)
