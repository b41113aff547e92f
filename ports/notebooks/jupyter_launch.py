"""Run a Jupyter server with a token that no command line, environment or log shows.

The interpreter of the notebook server runs this file by path, and need not have `ports`: ``python jupyter_launch.py
lab TOKEN_FILE RUNTIME_DIRECTORY DEBUGGER --ServerApp.port=…``. Jupyter itself takes a token from an argument, which
every user sees, from a variable, which kernels and terminals inherit, or from configuration files, which would compete
with the user's own. Here the token is an argument that is added once the process runs.

The runtime directory is for this server alone. It contains the server's record and its kernels' sockets. It is set
here and not in the environment, so that kernels and terminals do not pass it on.

With DEBUGGER ``off``, the server itself refuses requests that would switch on a kernel's debugger. With it, a kernel
would listen until its end on a TCP port without a password (debugpy has none for clients), and anyone who connects
there could run code.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
import uuid
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

_V1 = "v1.kernel.websocket.jupyter.org"
# It starts nothing. JupyterLab sends it whenever a notebook is opened.
_HARMLESS = "debugInfo"
REFUSAL = (
    "`ports` keeps the debugger off because every user of this machine could run code as you through its port; if you "
    "trust them all, `{stop}` and `{start}` start a server with it"
)


def refusal(start: str) -> str:
    """Return why the debugger is off, with the command `start`, which starts this server with it."""
    start = start or "ports notebook start --debugger"
    stop = " ".join(start.replace(" start", " stop", 1).split()[:4])
    return REFUSAL.format(stop=stop.removesuffix(" --debugger"), start=start)


def read_token(path: str) -> str:
    """Return the token in the file `path`, which only its owner can read."""
    with open(path, encoding="utf-8") as file:
        return file.read().strip()


def secrets(token: str) -> tuple[list[str], bytes]:
    """Return the argument that sets `token`, and the key of cookies, which stays the same as long as the token does."""
    version = importlib.import_module("jupyter_server").__version__
    holder = "ServerApp" if version.startswith("1.") else "IdentityProvider"
    return [f"--{holder}.token={token}"], hashlib.sha256(b"ports cookies:" + token.encode()).digest()


def read_message(data: str | bytes, protocol: str | None) -> dict[str, Any]:
    """Return header, content and channel of a message from a kernel's websocket, as far as it has them."""
    if protocol != _V1 or isinstance(data, str):
        if isinstance(data, bytes):  # buffers follow the text
            start, *end = (int.from_bytes(data[at : at + 4], "big") for at in (4, 8)[: int.from_bytes(data[:4], "big")])
            data = data[start : end[0] if end else None].decode()
        return dict(json.loads(data))
    n_starts = int.from_bytes(data[:8], "little")
    starts = [int.from_bytes(data[at : at + 8], "little") for at in range(8, 8 + 8 * n_starts, 8)]
    channel, header, _, _, content = (data[starts[i] : starts[i + 1]] for i in range(5))  # buffers may follow
    return {"channel": channel.decode(), "header": json.loads(header), "content": json.loads(content)}


def write_message(message: dict[str, Any], protocol: str | None) -> str | bytes:
    """Return `message` with its parts and its channel, encoded for a kernel's websocket."""
    if protocol != _V1:
        return json.dumps({**message, "buffers": []})
    names = ("header", "parent_header", "metadata", "content")
    parts = [message["channel"].encode(), *(json.dumps(message[name]).encode() for name in names)]
    at = 8 * (len(parts) + 2)
    starts = [at, *(at := at + len(part) for part in parts)]
    return b"".join([*(number.to_bytes(8, "little") for number in (len(starts), *starts)), *parts])


def refusals(message: dict[str, Any], why: str) -> list[dict[str, Any]]:
    """Return the answers to `message` that replace the kernel's; empty if the kernel should get the message."""
    header, content = message.get("header") or {}, message.get("content") or {}
    if header.get("msg_type") != "debug_request" or content.get("command") == _HARMLESS:
        return []
    reply = {"type": "response", "seq": 1, "request_seq": content.get("seq"), "command": content.get("command")}
    told = [
        ("iopub", "status", {"execution_state": "busy"}),
        (message.get("channel"), "debug_reply", {**reply, "success": False, "message": why}),
        ("iopub", "status", {"execution_state": "idle"}),  # a client waits for both
    ]
    now = datetime.now(timezone.utc).isoformat()
    same = {"session": header.get("session"), "username": "ports", "version": "5.3", "date": now}
    return [
        {
            "channel": channel,
            "header": {"msg_id": uuid.uuid4().hex, "msg_type": kind, **same},
            "parent_header": header,
            "metadata": {},
            "content": content,
        }
        for channel, kind, content in told
    ]


def keep_debugger_off(version: str, start: str = "") -> None:
    """Make the websockets of kernels refuse what switches the debugger on, and report kernels as having none."""
    services, why = "jupyter_server.services.kernels", refusal(start)
    if version.startswith("1."):
        handler = importlib.import_module(f"{services}.handlers").ZMQChannelsHandler
    else:
        handler = importlib.import_module(f"{services}.websocket").KernelWebsocketHandler
    pass_on = handler.on_message

    def on_message(self: Any, data: Any) -> Any:
        protocol = self.selected_subprotocol
        answers = refusals(read_message(data, protocol), why)
        if answers:
            self.log.warning("%s", why)
        for answer in answers:
            written = write_message(answer, protocol)
            self.write_message(written, binary=isinstance(written, bytes))
        return None if answers else pass_on(self, data)

    handler.on_message = on_message
    offered: Any = importlib.import_module("jupyter_server.services.kernelspecs.handlers")
    describe = offered.kernelspec_model

    def without_debugger(*arguments: Any) -> Any:
        found = describe(*arguments)
        metadata = found["spec"].get("metadata")
        if metadata and metadata.get("debugger"):  # JupyterLab shows no refusal, but then greys the button out
            found["spec"] = {**found["spec"], "metadata": {**metadata, "debugger": False}}
        return found

    offered.kernelspec_model = without_debugger


def is_outside(preferred: str, root: str) -> bool:
    """Tell whether Jupyter refuses to start with this `preferred_dir`: it must be in `root`, or relative to it."""
    if (Path(root) / preferred.strip("/")).is_dir():
        return False
    return not Path(preferred).resolve().is_relative_to(Path(root).resolve())


def fit_configuration() -> None:
    """Change what the user's configuration says for another root, and what Jupyter itself does not quote in its URL."""
    server = importlib.import_module("jupyter_server.serverapp").ServerApp
    begin = server.init_configurables

    def init_configurables(self: Any) -> Any:
        self.base_url = quote(self.base_url, safe="/%:@!$&'()*+,;=~")
        for section in [name for name in self.config if "preferred_dir" in self.config[name]]:
            preferred = str(self.config[section]["preferred_dir"])
            if is_outside(preferred, self.root_dir):
                self.log.warning("preferred_dir %s is left out: it is outside of %s", preferred, self.root_dir)
                del self.config[section]["preferred_dir"]
                if section == "ServerApp":
                    self.preferred_dir = self.root_dir
        return begin(self)

    server.init_configurables = init_configurables


def main(kind: str, token_file: str, runtime_directory: str, debugger: str, arguments: list[str]) -> None:
    """Start the server and serve until it is stopped.

    Parameters
    ----------
    kind : str
        ``lab`` or ``server``.
    debugger : str
        ``on``, or ``off`` and, behind a blank, the command that starts this server with it.
    """
    os.umask(0o077)
    if debugger != "on":
        keep_debugger_off(importlib.import_module("jupyter_server").__version__, debugger[4:])
    fit_configuration()
    hidden, key = secrets(read_token(token_file))
    own: dict[str, Any] = {"runtime_dir": runtime_directory, "cookie_secret": key}
    if kind == "lab":
        server = importlib.import_module("jupyterlab.labapp").LabApp.initialize_server(arguments + hidden, **own)
    else:
        server = importlib.import_module("jupyter_server.serverapp").ServerApp.instance(**own)
        server.initialize(arguments + hidden)
    server.start()


if __name__ == "__main__":
    del sys.path[0]  # the directory of this file, whose modules would hide others of the same name
    _, which, token, directory, debugger, *rest = sys.argv
    main(which, token, directory, debugger, rest)
