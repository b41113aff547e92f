"""One link: what it leads to, and how that goes."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field

from ports.errors import PortsError
from ports.listeners import links
from ports.tunnels._down_page import Page
from ports.tunnels._local_address import LocalAddress
from ports.tunnels._local_forward import LocalForward
from ports.tunnels._rows import HeldTunnelRow, TunnelRow
from ports.tunnels._services import Service

#: States in which the link is there; in all but the first two a page says why nothing else comes.
LINKED = ("open", "silent", "down", "needs login", "ended")
_LONGEST_PAUSE = 60.0  # seconds; a server that computes for an hour must not find a thousand requests then


@dataclass(eq=False)
class Tunnel:
    """One link, at one local port, or at several if its usual port was taken at first.

    States: ``connecting``; ``open`` (a byte came back from the service); ``silent`` (connected, but the service said
    nothing); ``down`` (the connection to the host is down, and is being mended); ``needs login`` (as down, but a person
    must answer a prompt); ``ended`` (the service is gone; the link works again when it comes back); ``error``;
    ``closed``; and ``nothing`` for a host on which there is nothing to open.
    """

    host: str
    kind: str | None = None
    name: str | None = None
    state: str = "connecting"
    service: Service | None = field(default=None, repr=False)
    local_port: int | None = None
    usual_port: int | None = None
    local: LocalAddress = field(default_factory=LocalAddress, repr=False)
    #: Where this machine connects to it: address and port, or the path of a Unix socket.
    where: tuple[str, int] | str | None = None
    #: User whose listener it may be, beside one's own.
    owner: str | None = None
    #: Where another group has it open, no second port is opened.
    reuse: bool = False
    #: Another group keeps the link, here or in another process.
    is_elsewhere: bool = False
    #: The service is not there any more; else an ``ended`` tunnel did not answer, and is asked again.
    gone: bool = False
    since: float = field(default_factory=time.time)
    error: PortsError | None = None
    note: str | None = None
    #: What is to be known of its local ports, for as long as it has them.
    port_note: str | None = None
    #: What to do where its page stays empty, because websockets are refused at its local port.
    origin_note: str | None = None
    #: What to do when it appears while others are open: ``notify``, ``open`` (the browser), ``silent``; None at first.
    notice: str | None = None
    last_error: str | None = None
    reconnects: int = 0
    forward: LocalForward | None = field(default=None, repr=False)
    ports: set[int] = field(default_factory=set, repr=False)
    tried_at: float = 0.0
    #: Tells it from the others of this process.
    number: int = field(default_factory=itertools.count().__next__, repr=False)

    @property
    def key(self) -> tuple[str, str]:
        """What makes it the same tunnel when its service is started again, on another port."""
        return (self.host, self.service.key if self.service is not None else f"{self.kind}-{self.name}")

    @property
    def remote(self) -> str:
        """Where its service is on the host; empty where it has none."""
        return self.service.remote if self.service is not None else ""

    @property
    def what(self) -> str:
        """The service as a person names it: ``cluster 'main'``, ``port 6006``."""
        port = self.service.port if self.service is not None else None
        return (
            f"port {port}"
            if port and self.kind not in ("cluster", "notebook", "page")
            else f"{self.kind} '{self.name}'"
        )

    @property
    def url(self) -> str | None:
        """The link that works on this machine, with the token."""
        if self.service is None or not self.local_port or self.state not in LINKED:
            return None
        service = self.service
        host = (service.name_at_home if self.local.address is None else None) or self.local.host
        return links.url(self.local_port, scheme=service.scheme, path=service.path, token=service.token, host=host)

    @property
    def leads(self) -> bool:
        """It is open, and nothing has shut its port since."""
        return self.state == "open" and self.forward is not None and self.forward.dial is not None

    def row(self) -> TunnelRow:
        """Return the tunnel as ``--json`` shows it; `local_url` holds the token."""
        row: TunnelRow = {
            "host": self.host,
            "kind": self.kind,
            "name": self.name,
            "state": self.state,
            "local_url": self.url,
            "local_port": self.local_port,
            "local_socket": self.where if isinstance(self.where, str) else None,
            "since": self.since,
            "note": "; ".join(
                filter(None, (self.note, *((self.port_note, self.origin_note) if self.state in LINKED else ())))
            )
            or None,
            "error": None if self.error is None else str(self.error),
            "last_error": self.last_error,
            "reconnects": self.reconnects,
            "notice": self.notice,
            "sent_bytes": self.forward.sent if self.forward else 0,
            "received_bytes": self.forward.received if self.forward else 0,
        }
        if self.error is not None:
            row["exit_code"] = self.error.exit_code
        return row

    def record_row(self) -> HeldTunnelRow:
        """Return the row with what other processes of the user need to find and close the tunnel."""
        port = self.service.port if self.service else None
        machine = self.service.account_of_boot if self.service else None
        return {**self.row(), "number": self.number, "machine": machine, "ports": sorted(self.ports), "port": port}

    def add_note(self, note: str) -> None:
        """Tell one thing more, once."""
        if note not in (self.note or ""):
            self.note = f"{self.note}; {note}" if self.note else note

    def drop_note(self, note: str) -> None:
        """Tell this one thing no more."""
        self.note = "; ".join(one for one in (self.note or "").split("; ") if one != note) or None

    def is_due(self, now: float) -> bool:
        """Tell whether what did not answer is to be asked again: the more rarely, the longer it did not."""
        if self.state != "silent" and (self.state != "ended" or self.gone):
            return False
        return now - self.tried_at > min(_LONGEST_PAUSE, (now - self.since) / 4)

    def page(self, doing: str) -> Page:
        """Return the page that stands in for the service now."""
        reason = str(self.error or "").removeprefix(f"{self.host}: ")  # the title names it
        if self.state == "ended":
            return Page(f"{self.what} on {self.host} is not there", reason, doing, self.since)
        title = f"The connection to {self.host} {'needs a login' if self.state == 'needs login' else 'is down'}"
        return Page(title, reason, doing, self.since)
