"""Jupyter, by its command line, its records and its answers over HTTP. None of its modules is imported here."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ports.errors import ToolError
from ports.listeners import socket_user

_LAUNCHER = Path(__file__).with_name("jupyter_launch.py")
_ASK = """
import importlib.util, json
def version(name):
    if importlib.util.find_spec(name) is None:
        return None
    try:
        from importlib.metadata import version
        return version(name)
    except Exception:
        return "unknown"
print("\\n" + json.dumps([version("jupyterlab"), version("jupyter_server")]))
"""


@dataclass(frozen=True)
class Installed:
    """Versions of the packages in an environment; None for a missing one."""

    lab: str | None
    server: str | None


@dataclass(frozen=True)
class Served:
    """What a server's own record says about it."""

    pid: int
    port: int
    base_url: str
    version: str


def installed(python: Path, environ: Mapping[str, str]) -> Installed:
    """Return which packages of Jupyter `python` can import.

    Raises
    ------
    ToolError
        `python` does not run.
    """
    try:
        asked = subprocess.run(
            [str(python), "-c", _ASK],
            env=dict(environ),
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=True,
        )
        lab, server = json.loads(asked.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or [f"exit status {error.returncode}"])[-1]
        raise ToolError(f"{python} does not run: {last}") from error
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        raise ToolError(f"{python} does not run: {error}") from error
    return Installed(lab, server)


def command(
    python: Path,
    kind: Literal["lab", "server"],
    *,
    token_file: Path,
    runtime: Path,
    root: Path,
    port: int,
    idle: float = 0,
    expire: float = 0,
    debugger: bool = False,
    again: str = "",
) -> list[str]:
    """Return the command that serves `root` on 127.0.0.1, at `port` or, if that is taken, at another port.

    The arguments that keep the server private are here. Arguments override the user's own configuration of Jupyter,
    which otherwise applies unchanged.

    Parameters
    ----------
    idle : float
        Hours without activity after which a kernel ends, even if a browser shows it. 0: as Jupyter is configured.
    expire : float
        Days without kernels, terminals and requests after which the server ends. 0: as Jupyter is configured.
    debugger : bool
        Allow the debugger of kernels, which listens on a port that any user of the machine can use.
    again : str
        The command that starts this server with the debugger, for the message that refuses it.
    """
    arguments = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 50,
        "ServerApp.sock": "",
        "ServerApp.certfile": "",  # it serves 127.0.0.1 only, and SSH encrypts the connection to there
        "ServerApp.keyfile": "",
        "ServerApp.root_dir": root,
        "ServerApp.open_browser": False,
        "ServerApp.allow_remote_access": False,
        "KernelManager.transport": "ipc",  # any user of the machine can read a kernel's TCP ports
    }
    arguments |= _limits(idle, expire)
    if os.getuid() == 0:
        arguments["ServerApp.allow_root"] = True
    if kind == "lab":
        arguments["LabApp.news_url"] = None
        arguments["LabApp.check_for_updates_class"] = "jupyterlab.handlers.announcements.NeverCheckForUpdate"
    options = [f"--{name}={value}" for name, value in arguments.items()]
    allows = "on" if debugger else f"off {again}".strip()
    return [str(python), str(_LAUNCHER), kind, str(token_file), str(runtime), allows, *options]


def _limits(idle: float, expire: float) -> dict[str, object]:
    """Return the arguments for the hours of a kernel without activity, and the days of a server without use."""
    arguments: dict[str, object] = {}
    if idle:
        seconds = max(1, round(idle * 3600))
        arguments["MappingKernelManager.cull_idle_timeout"] = seconds
        arguments["MappingKernelManager.cull_interval"] = max(1, min(300, seconds // 4))
        arguments["MappingKernelManager.cull_connected"] = True
    if expire:
        arguments["ServerApp.shutdown_no_activity_timeout"] = max(1, round(expire * 86400))
    return arguments


def read_record(runtime: Path) -> Served | None:
    """Return the record of the server whose runtime directory is `runtime`; None until it writes one."""
    for file in sorted(runtime.glob("jpserver-*.json")):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            return Served(int(record["pid"]), int(record["port"]), str(record["base_url"]), str(record["version"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # it is being written
    return None


def answer(port: int, path: str, *, token: str | None = None, timeout: float = 1.0) -> int | None:
    """Return the HTTP status that my server at `port` of 127.0.0.1 answers; None if no server of mine answers.

    Raises
    ------
    ForeignListenerError
        Another user listens there. Nothing was sent, and in particular not the token.
    """
    hint = "run `ports notebook stop` to remove what is left of the server, then start it again"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.sock = socket_user.connect(port, hint, timeout=timeout)
        connection.request("GET", path, headers={"Authorization": f"token {token}"} if token else {})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException, ValueError, OverflowError):  # the last two: no such port or path
        return None
    finally:
        connection.close()
