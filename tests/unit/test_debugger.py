"""What a notebook server says in place of its kernels, so that nothing listens for debuggers."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from jupyter_server.services.kernels.connection.base import (
    deserialize_msg_from_ws_v1,
    serialize_binary_message,
    serialize_msg_to_ws_v1,
)

from ports.notebooks import _jupyter, jupyter_launch
from ports.notebooks.jupyter_launch import read_message, refusal, refusals, write_message

V1 = "v1.kernel.websocket.jupyter.org"


def asked(command: str = "initialize", kind: str = "debug_request", **more: Any) -> dict[str, Any]:
    header = {"msg_id": "7", "session": "s", "msg_type": kind}
    content = {"type": "request", "seq": 3, "command": command, "arguments": {}}
    return {"channel": "control", "header": header, "parent_header": {}, "metadata": {}, "content": content, **more}


def packed(message: dict[str, Any]) -> bytes:
    """Return a message as JupyterLab sends it, with buffers behind."""
    parts = [json.dumps(message[part]).encode() for part in ("header", "parent_header", "metadata", "content")]
    return bytes(serialize_msg_to_ws_v1([*parts, b"a buffer", b""], message["channel"]))


def test_a_message_is_read_in_each_form_in_which_one_comes() -> None:
    message = asked()
    forms = [
        (packed(message), V1),
        (json.dumps(message), None),
        (serialize_binary_message({**message, "buffers": [b"a buffer"]}), None),
        (serialize_binary_message({**message, "buffers": []}), ""),
    ]
    for data, protocol in forms:
        found = read_message(data, protocol)
        assert {name: found[name] for name in ("channel", "header", "content")} == {
            name: message[name] for name in ("channel", "header", "content")
        }


@pytest.mark.parametrize("protocol", [V1, None, ""])
def test_who_switches_the_debugger_on_is_told_why_it_is_off(protocol: str | None) -> None:
    written = [write_message(one, protocol) for one in refusals(asked(), refusal(""))]
    if protocol == V1:
        pairs = [deserialize_msg_from_ws_v1(one) for one in written]
        parts = [(channel, *map(json.loads, (parts[0], parts[1], parts[3]))) for channel, parts in pairs]
    else:
        found = [json.loads(one) for one in written]
        parts = [(one["channel"], one["header"], one["parent_header"], one["content"]) for one in found]
    assert [(channel, header["msg_type"]) for channel, header, *_ in parts] == [
        ("iopub", "status"),
        ("control", "debug_reply"),
        ("iopub", "status"),
    ]
    assert all(parent == asked()["header"] and header["session"] == "s" for _, header, parent, _ in parts)
    reply = parts[1][3]
    assert (reply["success"], reply["request_seq"], reply["command"], reply["message"]) == (
        False,
        3,
        "initialize",
        refusal(""),
    )
    assert [one[3].get("execution_state") for one in parts] == ["busy", None, "idle"]


@pytest.mark.parametrize("message", [asked("debugInfo"), asked(kind="execute_request"), {}, {"header": None}])
def test_all_else_is_the_kernel_s(message: dict[str, Any]) -> None:
    assert refusals(message, "") == []


@pytest.mark.parametrize("version", ["1.24.0", "2.14.0"])
def test_a_refused_message_does_not_reach_the_kernel(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[Any] = []
    said: list[tuple[Any, bool]] = []

    class Handler:
        selected_subprotocol = V1
        log = logging.getLogger("jupyter")

        def on_message(self, data: Any) -> None:
            passed.append(data)

        def write_message(self, message: Any, binary: bool = False) -> None:
            said.append((message, binary))

    class Module:
        ZMQChannelsHandler = KernelWebsocketHandler = Handler

        @staticmethod
        def kernelspec_model(handler: Any, name: str, spec: Any, resources: Any) -> Any:
            return {"name": name, "spec": spec}

    monkeypatch.setattr(jupyter_launch.importlib, "import_module", lambda name: Module)
    jupyter_launch.keep_debugger_off(version)
    Handler().on_message(packed(asked()))
    assert passed == [] and [binary for _, binary in said] == [True] * 3
    Handler().on_message(packed(asked(kind="execute_request")))
    assert passed == [packed(asked(kind="execute_request"))] and len(said) == 3
    plain, spec = {"language": "R"}, {"language": "python", "metadata": {"debugger": True, "more": 1}}
    assert Module.kernelspec_model(None, "ir", plain, {})["spec"] == plain
    given = Module.kernelspec_model(None, "python3", spec, {})["spec"]["metadata"]
    assert given == {"debugger": False, "more": 1} and spec["metadata"]["debugger"] is True


def test_the_debugger_is_off_unless_it_is_asked_for(tmp_path: Any) -> None:
    where = {"token_file": tmp_path / "token", "runtime": tmp_path, "root": tmp_path, "port": 1}
    assert _jupyter.command(tmp_path, "lab", **where)[4:6] == [str(tmp_path), "off"]
    assert _jupyter.command(tmp_path, "lab", **where, debugger=True)[4:6] == [str(tmp_path), "on"]
