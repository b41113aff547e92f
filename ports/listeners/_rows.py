"""What `--json` shows of a listener, field by field."""

from __future__ import annotations

from typing import TypedDict


class ExposureRow(TypedDict):
    """One way in which others can use a listener."""

    reason: str
    what: str
    way_out: str


class ListenerRow(TypedDict):
    """A cluster, notebook server or other listener; its token is in no row."""

    host: str
    kind: str
    name: str | None
    state: str
    url: str | None
    reason: str | None
    owner: str
    managed: bool
    address: str | None
    port: int | None
    path: str | None
    pid: int | None
    started_at: float | None
    stopped_at: float | None
    directory: str | None
    job: str | None
    open_to_network: bool
    http: bool | None
    exposed: list[ExposureRow]
    warnings: list[str]
