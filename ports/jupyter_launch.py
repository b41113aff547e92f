"""Run a Jupyter server with a token that no command line, environment or log shows.

Run by path, by the interpreter of the notebook server, which need not have `ports`: ``python jupyter_launch.py lab
TOKEN_FILE RUNTIME_DIRECTORY --ServerApp.port=…``. Jupyter itself takes a token from an argument (every user sees it),
from a variable (kernels and terminals inherit it) or from configuration files (the user's own then win or are lost):
here it is an argument that is added once the process runs.

The runtime directory holds the server's record and its kernels' sockets and is for this server alone; set here and not
in the environment, it does not reach what kernels and terminals start.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from typing import Any


def read_token(path: str) -> str:
    """Return the token of the file `path`, which only its owner may read."""
    with open(path, encoding="utf-8") as file:
        return file.read().strip()


def secrets(token: str) -> tuple[list[str], bytes]:
    """Return the argument that sets `token`, and the key of cookies: with the token it stays the same over restarts."""
    version = importlib.import_module("jupyter_server").__version__
    holder = "ServerApp" if version.startswith("1.") else "IdentityProvider"
    return [f"--{holder}.token={token}"], hashlib.sha256(b"ports cookies:" + token.encode()).digest()


def main(kind: str, token_file: str, runtime_directory: str, arguments: list[str]) -> None:
    """Start the server and serve until it is ended; `kind` is ``lab`` or ``server``."""
    os.umask(0o077)
    hidden, key = secrets(read_token(token_file))
    own: dict[str, Any] = {"runtime_dir": runtime_directory, "cookie_secret": key}
    if kind == "lab":
        server = importlib.import_module("jupyterlab.labapp").LabApp.initialize_server(arguments + hidden, **own)
    else:
        server = importlib.import_module("jupyter_server.serverapp").ServerApp.instance(**own)
        server.initialize(arguments + hidden)
    server.start()


if __name__ == "__main__":
    del sys.path[0]  # the directory of this file: modules of `ports` would hide others' of the same names
    _, which, token, directory, *rest = sys.argv
    main(which, token, directory, rest)
