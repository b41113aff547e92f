"""``ports``: the table of commands, and the one place where errors become exit codes."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from ports._version import VERSION
from ports.cli.commands import Group

# Name → (module, attribute, help). The help is here so that `ports --help` imports no command; a test compares.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "cluster": ("ports.cli.cluster", "cluster", "Dask clusters that outlive notebook, terminal and connection."),
    "notebook": ("ports.cli.notebook", "notebook", "Jupyter servers that outlive terminal and connection."),
    "job": ("ports.cli.job", "job", "Scripts and functions that run when there is room, and outlive your login."),
    "resource": ("ports.cli.resource", "resource", "The compute resource of a machine, which runs jobs."),
    "list": ("ports.cli.list", "list_", "List my clusters, notebooks and other listeners."),
    "ls": ("ports.cli.list", "list_", "List my clusters, notebooks and other listeners."),
    "open": (
        "ports.cli.tunnel",
        "open_",
        "Open services of other hosts here: tunnels, and links that work.",
    ),
    "tunnel": ("ports.cli.tunnel", "tunnel", "Tunnels that are open, here and in other terminals."),
    "login": ("ports.cli.login", "login", "Connect to HOST and answer its prompts once."),
    "logout": ("ports.cli.login", "logout", "End connections that are kept for later commands."),
    "shell": ("ports.cli.shell", "shell", "Open an ipython or bash shell in tmux, here or on a host."),
    "browse": ("ports.cli.browse", "browse", "Show a page of this machine in the browser at home."),
    "who": ("ports.cli.who", "who", "Show who uses how much of this machine, and what is left."),
    "page": ("ports.cli.page", "page", "Show all my hosts, clusters, notebooks and jobs in the browser, until Ctrl-C."),
    "doctor": ("ports.cli.doctor", "doctor", "Check the connection to HOST step by step, with causes and fixes."),
    "settings": ("ports.cli.settings", "settings", "Show each setting, its value and the file that it is from."),
    "prune": ("ports.cli.prune", "prune", "Remove the leftovers of stopped clusters and notebook servers."),
}
_HIDDEN = ("ls",)
_NO_ARGUMENTS: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())  # click 8.1 prints the help itself


class Lazy(Group):
    """A group that imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table above."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items() if name not in _HIDDEN])


@click.group(cls=Lazy)
@click.version_option(VERSION, prog_name="ports")
def ports() -> None:
    """Your Dask clusters and notebooks on shared servers: private, found again, and open at home."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its documented code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["--arguments-from-stdin"]:  # `ports -H` passes them so, because other users see command lines
        arguments = _read_arguments()
    from ports.errors import collecting_warnings

    warnings.showwarning = _show_warning  # what libraries say, and threads of theirs
    with collecting_warnings(_tell_warning):
        code = run(ports, arguments)
    with contextlib.suppress(OSError, ValueError):  # the reader has gone
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)  # everything is done, and finalizing the interpreter would take another 10 ms


def _read_arguments() -> list[str]:
    import json

    return [str(word) for word in json.loads(sys.stdin.readline())]


def run(command: click.Command, arguments: list[str], name: str = "ports") -> int:
    """Run `command`, print its error if there is one, and return its exit code."""
    from ports.errors import escape

    as_json = "--json" in arguments[: arguments.index("--") if "--" in arguments else None]
    escape(sys.stdout)
    escape(sys.stderr)
    try:
        code: Any = command.main(args=arguments, prog_name=name, standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (click.exceptions.Abort, KeyboardInterrupt) as stopped:
        return _interrupted(stopped)
    except click.exceptions.Exit as end:
        return end.exit_code
    except _NO_ARGUMENTS as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        from ports.cli import usage

        return _tell("UsageError", usage.message(error), 2, as_json, getattr(error, "ctx", None))
    except BrokenPipeError:  # `ports list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:
        from ports.errors import PortsError, StoreError

        if isinstance(error, PortsError):
            return _fail(error, as_json)
        if isinstance(error, OSError) and error.filename is not None:
            return _fail(StoreError(str(error.filename), error.strerror or str(error), ""), as_json)
        raise


def _fail(error: Any, as_json: bool) -> int:
    from ports import hosts
    from ports.cli.output import session_called, tell, write_json
    from ports.errors import UnknownHostError
    from ports.hosts import targets
    from ports.state import settings

    host = error.where or settings.variable(hosts.CALLED)
    text = targets.hints_at(host, str(error))
    if isinstance(error, UnknownHostError):
        text += session_called(error.host)
    if as_json:
        write_json({"error": {**hosts.describe_error(error), "message": text}})
    tell(f"ports: {targets.said_by(host, text)}")
    return int(error.exit_code)


def _tell(kind: str, message: str, code: int, as_json: bool, ctx: click.Context | None) -> int:
    from ports.cli.output import tell, write_json

    if as_json:
        write_json({"error": {"type": kind, "message": message, "exit_code": code, "args": [message]}})
    hint = f" (see `{ctx.command_path} --help`)" if ctx is not None else ""
    tell(f"ports: {message}{hint}")
    return code


def _interrupted(stopped: BaseException) -> int:
    """End what asks hosts, and say what becomes of the thing that was waited for, if anybody knows."""
    if "ports.hosts.openssh.processes" in sys.modules:  # `ports.__main__` may have asked a host already
        sys.modules["ports.hosts.openssh.processes"].end_all()
    from ports.cli import watch
    from ports.cli.output import tell

    if not isinstance(stopped, watch.Ended):
        tell(f"ports: {str(stopped) or 'interrupted'}")
    return 130


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """Print a warning as one line, without the line of source, which is of no use on the command line."""
    if issubclass(category, UserWarning):
        _tell_warning(str(message))


def _tell_warning(text: str) -> None:
    from ports.cli.output import tell

    tell(f"ports: {text}")
