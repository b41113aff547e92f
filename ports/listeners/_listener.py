"""One listener: a cluster, notebook server, other web server, or anything else that listens."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TypeVar

from ports.listeners._exposures import Exposure
from ports.listeners._rows import ListenerRow
from ports.listeners.links import url as link

_Text = TypeVar("_Text", str, "str | None")


@dataclass(frozen=True, kw_only=True)
class Listener:
    """One cluster, notebook server or other listener on one host, as it was seen at one moment.

    `state` is ``running``, ``starting``, ``stopped`` or ``unknown``; `reason` says more. `ports` started those that are
    `managed`. `http` is True if it answers HTTP, False if it says something else, None if that is not known.
    What a JupyterHub started is a `hub`'s; `job` is the id of the job that started it. Of another user's listener only
    `port`, `address` and `owner` are known.
    """

    host: str
    machine: str
    kind: str
    name: str | None
    state: str
    owner: str
    mine: bool = True
    managed: bool = False
    address: str | None = None
    port: int | None = None
    path: str | None = None
    pid: int | None = None
    started_at: float | None = None
    stopped_at: float | None = None
    directory: str | None = None
    open_to_network: bool = False
    http: bool | None = None
    scheme: str = "http"
    url_path: str = ""
    reason: str | None = None
    hub: bool = False
    job: str | None = None
    exposed: tuple[Exposure, ...] = ()
    asked: tuple[str, ...] = ()  # the words of the command line that start it again as it was
    token: str | None = field(default=None, repr=False)

    @property
    def url(self) -> str | None:
        """The link on its own machine, without the token; None if it speaks no HTTP, or on a Unix socket."""
        if self.hub or self.port is None or self.state != "running" or not self.http:
            return None
        return link(self.port, scheme=self.scheme, path=self.url_path)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What others can do with it and how to close it, one sentence for each way."""
        return tuple(map(str, self.exposed))

    def row(self) -> ListenerRow:
        """Return it as ``--json`` shows it, to anyone's eyes: without the token, with no control character."""
        return {
            "host": _printable(self.host),
            "kind": _printable(self.kind),
            "name": _printable(self.name),
            "state": self.state,
            "url": f"unix:{_printable(self.path)}" if self.kind == "cluster" and self.path else self.url,
            "reason": _printable(self.reason),
            "owner": _printable(self.owner),
            "managed": self.managed,
            "address": _printable(self.address),
            "port": self.port,
            "path": _printable(self.path),
            "pid": self.pid,
            "started_at": self.started_at,
            "stopped_at": self.stopped_at,
            "directory": _printable(self.directory),
            "job": self.job,
            "open_to_network": self.open_to_network,
            "http": self.http,
            "exposed": [one.row() for one in self.exposed],
            "warnings": [*self.warnings],
        }


def _printable(text: _Text) -> _Text:
    """Return a text without what is not UTF-8, and without control characters, which a terminal would obey."""
    if text is None:
        return text
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "?", text.encode("utf-8", "replace").decode())
