"""What `--json` shows of a tunnel, and what the processes of one user tell each other of it, field by field."""

from __future__ import annotations

from typing import TypedDict


class _Failed(TypedDict, total=False):
    exit_code: int  # that of `error`


class TunnelRow(_Failed):
    """A link of `ports open`. It has `local_url`, with the token, in place of the `url` of other rows."""

    host: str
    kind: str | None
    name: str | None
    state: str
    local_url: str | None
    local_port: int | None
    local_socket: str | None
    since: float
    note: str | None
    error: str | None
    last_error: str | None
    reconnects: int
    notice: str | None
    sent_bytes: int
    received_bytes: int


class HeldTunnelRow(TunnelRow):
    """A tunnel as the process that keeps it tells others: what they need to find and close it comes with it."""

    number: int
    machine: str | None
    ports: list[int]
    port: int | None


class ListedTunnelRow(TunnelRow):
    """A tunnel in `ports tunnel list`: its `kind` is ``tunnel``, that of its service is `service`."""

    service: str | None
    pid: int
    background: bool
    log: str | None
