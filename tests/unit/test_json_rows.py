"""Rows of ``--json``: each has the fields that its `TypedDict` writes down, and all have some in common."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from ports import listeners, tunnels
from ports.errors import SSHError
from ports.listeners import ListenerRow
from ports.listeners._rows import ExposureRow
from ports.tunnels import _records, _rows
from ports.tunnels._tunnel import Tunnel


def check(row: Mapping[str, Any], wanted: Any) -> None:
    assert set(wanted.__required_keys__) <= set(row) <= set(get_type_hints(wanted)), wanted.__name__


@pytest.mark.parametrize(
    ("wanted", "link"),
    [(ListenerRow, "url"), (_rows.TunnelRow, "local_url"), (_rows.ListedTunnelRow, "local_url")],
)
def test_what_all_rows_have_in_common(wanted: Any, link: str) -> None:
    assert wanted.__required_keys__ >= {"host", "kind", "name", "state", link}


def test_the_row_of_a_listener() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        found = listeners.list(port=port)  # another process can have this port of ::1
        (row,) = [one.row() for one in found if (one.address, one.port) == ("0.0.0.0", port)]
    check(row, ListenerRow)
    assert row["exposed"]
    check(row["exposed"][0], ExposureRow)


def test_the_row_of_a_tunnel() -> None:
    tunnel = Tunnel("server1", "cluster", "main")
    check(tunnel.row(), _rows.TunnelRow)
    check(tunnel.record_row(), _rows.HeldTunnelRow)
    tunnel.error = SSHError("server1", "is down")
    assert set(tunnel.row()) == set(get_type_hints(_rows.TunnelRow))


def test_the_row_of_a_listed_tunnel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTS_HOME", str(tmp_path))
    with tunnels.TunnelGroup() as group:
        group.serve()
        (path, record, _) = _records.read_all_records()[0]
        held = Tunnel("server1", "cluster", "main", state="open").record_row()
        _records.write(path, **{**vars(record), "rows": (dict(held),), "background": True})
        closed = Tunnel("server2", "cluster", "main").record_row()
        monkeypatch.setattr(_records, "ask", lambda *_, **__: {"rows": [held, closed]})
        for row in tunnels.list():
            check(row, _rows.ListedTunnelRow)
            assert (row["kind"], row["service"]) == ("tunnel", "cluster")
