"""Kernels and notebook servers that nobody uses end, where that is asked for; with a real Jupyter."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_server.services.kernels.connection.base import deserialize_msg_from_ws_v1, serialize_msg_to_ws_v1
from tornado.websocket import websocket_connect

from ports import errors, notebooks
from ports.notebooks._notebook import Notebook
from ports.state.waiting import wait_until
from tests.integration.conftest import Home, new_home

pytestmark = pytest.mark.ci

HOUR, DAY = 3600, 86400


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A home with Jupyter's own files below it."""
    own = {f"JUPYTER_{name}": str(tmp_path / name) for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")}
    with new_home(tmp_path / "home", {**own, "IPYTHONDIR": str(tmp_path / "ipython")}) as made:
        yield made


def ask(notebook: Notebook, method: str, path: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", notebook.port or 0, timeout=30)
    try:
        connection.request(method, path, headers={"Authorization": f"token {notebook.token}"})
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def test_a_kernel_that_does_nothing_ends_and_its_server_goes_on(home: Home) -> None:
    found = notebooks.start("lab", idle=2 / HOUR)
    kernel = ask(found, "POST", "/api/kernels")["id"]
    assert [one["id"] for one in ask(found, "GET", "/api/kernels")] == [kernel]
    wait_until(lambda: not ask(found, "GET", "/api/kernels") or None, timeout=60, what="end of the kernel", every=0.5)
    assert notebooks.get("lab").state == "running"
    assert (found.row()["idle"], found.row()["expire"]) == (2 / HOUR, 14)
    found.stop()


def test_without_a_limit_kernels_stay_and_a_wrong_limit_is_refused(home: Home) -> None:
    with pytest.raises(errors.UsageError, match="idle is -1; it must be a number of hours from 0"):
        notebooks.start("lab", idle=-1)
    found = notebooks.start("lab")
    log = "\n".join(found.logs())
    assert "Culling" not in log
    assert f"Will shut down after {14 * DAY} seconds with no kernels" in log
    found.stop()


@pytest.mark.parametrize("debugger", [None, True])
def test_the_debugger_is_switched_on_only_where_that_is_allowed(home: Home, debugger: bool | None) -> None:
    found = notebooks.start("lab", debugger=debugger)
    assert found.row()["debugger"] is bool(debugger)
    spec = ask(found, "GET", "/api/kernelspecs")["kernelspecs"]["python3"]["spec"]
    assert spec["metadata"]["debugger"] is bool(debugger)  # whether JupyterLab offers it
    kernel = ask(found, "POST", "/api/kernels")["id"]
    client = {"clientID": "test", "adapterID": "python", "pathFormat": "path"}
    request = {"type": "request", "seq": 1, "command": "initialize", "arguments": client}
    header = {"msg_id": "1", "username": "", "session": "s", "msg_type": "debug_request", "version": "5.3"}
    parts = [json.dumps(part).encode() for part in (header, {}, {}, request)]

    async def asked() -> dict[str, Any]:
        url = f"ws://127.0.0.1:{found.port}/api/kernels/{kernel}/channels?token={found.token}"
        connection = await websocket_connect(url, subprotocols=["v1.kernel.websocket.jupyter.org"])
        await connection.write_message(serialize_msg_to_ws_v1(parts, "control"), binary=True)
        while True:
            channel, answer = deserialize_msg_from_ws_v1(await asyncio.wait_for(connection.read_message(), 30))
            if channel == "control":
                connection.close()
                return dict(json.loads(answer[3]))

    answer = asyncio.run(asked())
    assert answer["success"] is bool(debugger)
    if not debugger:
        assert "--debugger` start a server with it" in answer["message"]
        assert any(answer["message"] in line for line in found.logs())
    found.stop()


@pytest.mark.long
def test_a_server_without_kernels_ends_by_itself(home: Home) -> None:
    found = notebooks.start("lab", expire=5 / DAY)
    ended = wait_until(
        lambda: now if (now := notebooks.get("lab")).state == "stopped" else None,
        timeout=150,  # Jupyter looks once a minute
        what="end of the server",
        every=1,
    )
    assert any("shutting down" in line for line in found.logs())
    assert ended.reason == f"it expired: no kernel ran for {5 / DAY:g} days"
    ended.stop()
