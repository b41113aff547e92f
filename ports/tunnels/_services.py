"""What a target means on a host: its listeners, as a tunnel needs them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ports import sessions
from ports.errors import ForeignListenerError, NotFoundError, PortsError, RecordError
from ports.hosts import Target, host_argument, host_option
from ports.listeners import Listener, is_asked, is_session, links
from ports.state import paths

#: bokeh allows websockets from ``localhost:<its port>`` only; panel is built on it.
_COMPARES_ORIGIN = ("bokeh", "panel")
#: Cookies know no ports: the page's stays away from all links at ``localhost``, which is another site.
_NAMES_AT_HOME = {"page": "127.0.0.1"}


@dataclass(frozen=True)
class Service:
    """One listener on a host, and the parts of its link at home."""

    host: str
    kind: str
    name: str
    #: Its local port is derived from this, `machine` and `user`.
    key: str
    machine: str
    user: str
    #: ``127.0.0.1:8888``, or the path of a Unix socket.
    remote: str
    #: Its port there, where it has one.
    port: int | None = None
    scheme: str = "http"
    path: str = ""
    token: str | None = field(default=None, repr=False)
    asked: bool = True
    known_web: bool = True
    note: str | None = None
    #: Id of the boot of its machine: nodes made from one image have one machine id.
    boot: str = ""
    #: The words of the command line that start it again as it was: its record goes when it is stopped.
    start_words: tuple[str, ...] = ()

    @property
    def is_unix(self) -> bool:
        """It listens on a Unix socket."""
        return self.remote.startswith("/")

    @property
    def account_of_boot(self) -> str:
        """The machine, as no other that runs now, and whose the service is there."""
        return f"{self.machine} {self.boot} {self.user}"

    @property
    def name_at_home(self) -> str | None:
        """The name of this machine in its link; None where any does."""
        return _NAMES_AT_HOME.get(self.kind)

    @property
    def compares_origin(self) -> bool:
        """Its page can compare the Origin of websockets with its own port."""
        return self.kind in _COMPARES_ORIGIN

    @property
    def own_port(self) -> int | None:
        """Its port there, where this user can have the same one here."""
        return self.port if (self.port or 0) >= 1024 else None

    def derived_port(self, first: int, last: int) -> int:
        """Return the local port that is derived for this service: always the same."""
        return links.local_port(self.machine, self.user, self.key, first, last)


def choose(
    document: dict[str, Any], found: Sequence[Listener], target: Target, *, owner: str | None = None
) -> list[Service]:
    """Return the services that `target` opens, among those that the probe found on its host.

    Parameters
    ----------
    document : dict
        The answer of the probe, with other users' listeners if `target` names a port.
    found : sequence of Listener
        The user's own, as `ports.listeners.from_probe` names them.
    owner : str, optional
        Another user whose listener may be opened.

    Raises
    ------
    NotFoundError
        There is no such cluster, notebook server or listener.
    ForeignListenerError
        The port belongs to another user than `owner`.
    RecordError
        The record of that name cannot be read.
    """
    if target.port is not None:
        return [_by_port(document, found, target, owner)]
    running = [one for one in found if one.mine and (one.path or one.port)]
    if target.name is None:
        opened = [_service(document, target.host, one) for one in running if _is_opened(one)]
        unread = [one for one in found if one.mine and _is_unread(one)]
        if unread and not opened:
            raise _not_there(target, unread, running, document)
        return opened
    named = [one for one in found if one.mine and one.name == target.name]
    wanted = [one for one in named if is_session(one.kind)] or named
    there = [one for one in wanted if one in running]
    if not there:
        raise _not_there(target, wanted, running, document)
    if there[0].hub:
        raise NotFoundError("page of its own", str(target), there[0].reason or "open it through its JupyterHub")
    return [_service(document, target.host, one) for one in there]


def ended(service: Service, failed: Mapping[Target, PortsError], found: Sequence[Listener]) -> PortsError:
    """Return why a service that was open is gone, from what the probe found on its host.

    Parameters
    ----------
    failed : mapping
        The errors that `choose` raised for targets; one for the service's port says more.
    """
    for target, error in failed.items():
        if service.port is not None and target.port == service.port:
            return error
    if not is_session(service.kind):
        return NotFoundError("listener", f"{service.host}:{service.port}", "the service there has ended")
    named = [one for one in found if one.mine and one.kind == service.kind and one.name == service.name]
    why = f"{named[0].reason}; " if named and named[0].state == "stopped" and named[0].reason else ""
    line = sessions.start_line(service.kind, service.name, named[0].asked if named else service.start_words)
    start = f"`{line}{host_option(service.host)}` starts it, under the same link"
    return NotFoundError(f"running {service.kind}", f"{service.host}:{service.name}", why + start)


def _by_port(document: dict[str, Any], found: Sequence[Listener], target: Target, owner: str | None) -> Service:
    rows = [row for row in document["listeners"] if row.get("port") == target.port]
    own = [row for row in rows if row["uid"] == document["uid"]]
    theirs = [row for row in rows if row["user"] == owner]
    if not rows:
        raise NotFoundError(
            "listener", str(target), f"`ports list{host_argument(target.host)} --all` shows what listens there"
        )
    if not own and not theirs:
        raise ForeignListenerError(str(target), rows[0]["user"])
    row = sorted(own or theirs, key=lambda one: str(one["family"]))[0]  # tcp before tcp6
    known = [one for one in found if one.port == target.port] if own else []
    note = known[0].reason if known and known[0].hub else None
    note = note if own else f"belongs to {row['user']}; open because of --owner {row['user']}"
    kind = known[0].kind if known else str(row["kind"])
    return Service(
        host=target.host,
        kind=kind,
        name=(known[0].name if known else None) or str(target.port),
        key=_key(known[0]) if known else f"port-{target.port}",
        machine=document["machine_id"],
        user=document["user"],
        remote=f"{_address(str(row['address']))}:{target.port}",
        port=target.port,
        scheme=str(row.get("scheme") or "http"),
        path=str((known[0].url_path if known else row.get("url_path")) or ""),
        token=known[0].token if known else None,
        asked=is_asked(kind, row.get("http")),
        known_web=row.get("http") is True,
        note=note,
        boot=str(document.get("boot_id") or ""),
        start_words=known[0].asked if known else (),
    )


def _service(document: dict[str, Any], host: str, one: Listener) -> Service:
    return Service(
        host=host,
        kind=one.kind,
        name=one.name or str(one.port),
        key=_key(one),
        machine=document["machine_id"],
        user=document["user"],
        remote=one.path or f"{_address(str(one.address))}:{one.port}",
        port=one.port,
        scheme=one.scheme or "http",
        path=one.url_path or "",
        token=one.token,
        asked=is_asked(one.kind, one.http),
        known_web=one.http is True,
        boot=str(document.get("boot_id") or ""),
        start_words=one.asked,
    )


def _is_opened(one: Listener) -> bool:
    """Tell whether a target that names only the host opens this.

    These are sessions, Dask clusters started by hand, and pages of jobs, such as a TensorBoard that a script started.
    """
    is_page = one.kind == "dask-scheduler" or one.job is not None
    return (is_session(one.kind) and not one.hub) or (is_page and one.http is True and not one.hub)


def _is_unread(one: Listener) -> bool:
    """Tell whether its record cannot be read: then it is not known whether it runs."""
    return one.state == "unknown" and (one.reason or "").startswith("record ")


def _key(one: Listener) -> str:
    return f"{one.kind}-{one.name}" if is_session(one.kind) or one.kind == "page" else f"port-{one.port}"


def _address(address: str) -> str:
    """Return the address to connect to for one that is listened on, as ssh writes it."""
    address = {"0.0.0.0": "127.0.0.1", "::": "::1", "::ffff:127.0.0.1": "127.0.0.1"}.get(address, address)
    return f"[{address}]" if ":" in address else address


def _not_there(
    target: Target, wanted: Sequence[Listener], running: Sequence[Listener], document: Mapping[str, Any]
) -> PortsError:
    if wanted and wanted[0].state == "running":
        return NotFoundError(
            "page", str(target), f"{wanted[0].reason or 'it does not answer yet'}; try again in a moment"
        )
    if wanted and _is_unread(wanted[0]):
        return RecordError(f"{target.host}: {wanted[0].reason}")
    if wanted:
        kind, state = wanted[0].kind, wanted[0].state
        why = f" ({wanted[0].reason})" if wanted[0].reason else ""
        line = sessions.start_line(kind, target.name, wanted[0].asked)
        start = f"`{line}{host_option(target.host)}` starts it"
        return NotFoundError(f"running {kind}", str(target), f"it is {state}{why}; {start}")
    names = sorted({str(one.name) for one in running if _is_opened(one)})
    are = "is" if len(names) == 1 else "are"
    there = (
        f"there {are} {', '.join(names)}" if names else f"no cluster or notebook server of yours runs on {target.host}"
    )
    if document.get("ports") and paths.NAME.fullmatch(target.name or ""):  # `ports` ran there before
        line = sessions.start_line("cluster", target.name)
        there += f"; `{line}{host_option(target.host)}` starts a cluster of that name"
    return NotFoundError("cluster or notebook", str(target), there)
