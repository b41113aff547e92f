"""What listens on a machine and is mine: clusters, notebook servers, other web servers, any other listener."""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, TypeVar

from ports import probe
from ports.errors import PortsError, warn
from ports.listeners import _exposures
from ports.listeners._exposures import Exposure
from ports.listeners._rows import ListenerRow
from ports.listeners.links import url as link
from ports.probe import words_of
from ports.sessions import FOLDERS, Exit, verdict

_Text = TypeVar("_Text", str, "str | None")
NAME_LENGTH = 31
_ORDER = tuple(FOLDERS)  # sessions come first in a listing, by kind and then by name


@dataclass(frozen=True, kw_only=True)
class Listener:
    """One cluster, notebook server or other listener on one host, as it was seen at one moment.

    `state` is ``running``, ``starting``, ``stopped`` or ``unknown``; `reason` tells more. `managed` ones were started
    by `ports`. `http` is True where it answers HTTP, False where it says something else, None where that is not known.
    Of another user's listener only `port`, `address` and `owner` are known.
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
    directory: str | None = None
    open_to_network: bool = False
    http: bool | None = None
    scheme: str = "http"
    url_path: str = ""
    reason: str | None = None
    exposed: tuple[Exposure, ...] = ()
    token: str | None = field(default=None, repr=False)

    @property
    def url(self) -> str | None:
        """The link on its own machine, without the token; None where it speaks no HTTP, or on a Unix socket."""
        if self.port is None or self.state != "running" or not self.http:
            return None
        return link(self.port, scheme=self.scheme, path=self.url_path)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What others can do with it, and how to close it, a sentence each."""
        return tuple(map(str, self.exposed))

    def row(self) -> ListenerRow:
        """Return it as ``--json`` shows it, to anyone's eyes: without the token, with no control character."""
        return {
            "host": self.host,
            "kind": _printable(self.kind),
            "name": _printable(self.name),
            "state": self.state,
            "url": self.url,
            "reason": _printable(self.reason),
            "owner": _printable(self.owner),
            "managed": self.managed,
            "address": self.address,
            "port": self.port,
            "path": _printable(self.path),
            "pid": self.pid,
            "started_at": self.started_at,
            "directory": _printable(self.directory),
            "open_to_network": self.open_to_network,
            "http": self.http,
            "exposed": [one.row() for one in self.exposed],
            "warnings": [*self.warnings],
        }


def list(host: str | None = None, *, all_users: bool = False, port: int | None = None) -> tuple[Listener, ...]:
    """Return my clusters, notebook servers and other listeners.

    What the host says of itself beside them, as of a record that cannot be read, is a `UserWarning`. Where its name
    leads to several nodes that share a home, what was started on another one is found there, as of ``alias/node``.

    Parameters
    ----------
    host : str, optional
        An alias of ``~/.ssh/config``; nothing needs to be installed there but python3. Default: this machine.
    all_users : bool
        Add other users' listeners, as port and owner only.
    port : int, optional
        Only what listens on this port, whoever owns it.

    Raises
    ------
    SSHError
        The host cannot be reached, or the probe failed there.
    """
    request = {"all": all_users, "port": port}
    if host is None:
        document = probe.probe(request)
    else:
        from ports.hosts import probe as probe_host  # 12 ms, needed for other hosts only

        document = probe_host(host, request)
    for warning in document["warnings"]:
        warn(f"{host or 'this machine'}: {warning}")
    found = builtins.list(from_probe(document, host))
    for node in document["elsewhere"]:
        try:
            found += list(f"{host}/{node['node']}", all_users=all_users, port=port)
        except PortsError as error:
            warn(str(error))
    return tuple(found)


def rows(
    hosts: Sequence[str] = (),
    *,
    all_users: bool = False,
    on_host: Callable[[str, Sequence[Mapping[str, Any]]], None] | None = None,
) -> Sequence[Mapping[str, Any]]:
    """Return the rows of `list` for all `hosts` at once; without any, of this machine.

    Of several hosts, one that fails has a row of its own with the key ``error``, and costs the others nothing; one on
    which nothing listens has a row with the state ``nothing``.

    Parameters
    ----------
    on_host : callable, optional
        Is called with each host and its rows as soon as they are there.

    Raises
    ------
    PortsError
        The only host failed.
    """
    if not hosts:
        return [one.row() for one in list(all_users=all_users)]
    from ports.hosts import failed_row, nothing_rows, on_each

    found: dict[str, Sequence[Mapping[str, Any]]] = {}

    def take(alias: str, result: tuple[Listener, ...] | PortsError) -> None:
        if not isinstance(result, PortsError):
            found[alias] = [one.row() for one in result] or nothing_rows(alias, hosts)
        elif len(hosts) == 1:
            raise result
        else:
            found[alias] = [failed_row(alias, result)]
        if on_host is not None:
            on_host(alias, found[alias])

    on_each(hosts, lambda alias: list(alias, all_users=all_users), on_result=take)
    return [row for alias in dict.fromkeys(hosts) for row in found[alias]]


def from_probe(document: Mapping[str, Any], host: str | None = None) -> tuple[Listener, ...]:
    """Return what a probe found: a cluster or notebook server with all its ports is one, and each has a name.

    Parameters
    ----------
    document : dict
        What `ports.probe.probe` returns.
    host : str, optional
        What the host is called. Default: its own name.
    """
    host = host or document["host"]
    rows, machine = document["listeners"], document["machine_id"]
    found = [
        _session(kind, session, rows, document, host)
        for kind in _ORDER
        for session in document.get(FOLDERS[kind]) or ()
    ]
    mine = [row for row in rows if row["uid"] == document["uid"]]
    loose = [row for row in mine if row["kind"] != "kernel" and not _is_of_session(row)]
    kernels = [row for row in mine if row["kind"] == "kernel"]
    found += _named([_of_group(group, host, machine, kernels) for group in _groups(loose)], found)
    others = [row for row in rows if row["uid"] != document["uid"]]
    found += [replace(_of_group(group, host, machine), mine=False) for group in _groups(others)]
    return tuple(sorted(found, key=_place))


def slug(text: str, otherwise: str) -> str:
    """Return `text` as a name: ``[a-z][a-z0-9-]{0,30}``; `otherwise` where nothing of it can be used."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if plain and not plain[0].isalpha():
        plain = f"{otherwise}-{plain}"
    return plain[:NAME_LENGTH].rstrip("-") or otherwise


def _session(
    kind: str, session: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], document: Mapping[str, Any], host: str
) -> Listener:
    """Return a cluster or notebook server that `ports` started, with what of it listens."""
    name = session["name"]
    state, reason = _judge(session, document["boot_id"])
    known = Listener(
        host=host,
        machine=document["machine_id"],
        kind=kind,
        name=name,
        state=state,
        reason=reason,
        owner=document["user"],
        managed=True,
    )
    if "error" in session:
        return known
    record, running = session["record"] or {}, session["running"] or {}
    known = replace(
        known,
        directory=record.get("root") or record.get("directory"),
        started_at=running.get("started_at") or record.get("created_at"),
    )
    if state != "running":
        return known
    known = replace(known, pid=running["process"]["pid"], http=True, token=session.get("token"))
    own = [row for row in rows if row.get("of") == f"{kind}:{name}"]
    row = next((row for row in own if row["path"] or kind != "cluster"), None)
    if row is None:
        return replace(known, reason="its process runs, but its page does not answer yet")
    return replace(
        known,
        address=row["address"] if row["port"] else None,
        port=row["port"],
        path=row["path"],
        scheme=row["scheme"],
        url_path=row["url_path"],
        open_to_network=any(one["open_to_network"] for one in own),
        exposed=tuple(_exposures.find(kind, own)),
    )


def _judge(session: Mapping[str, Any], boot_id: str) -> tuple[str, str | None]:
    if "error" in session:
        return "unknown", session["error"]
    try:
        ended = Exit.from_json(session["exit"]) if session["exit"] else None
    except (TypeError, ValueError) as error:
        return "unknown", f"the record of its end cannot be read: {error}"
    record, running = session["record"] or {}, session["running"]
    launcher = record.get("launcher")
    who = (running and running["process"]) or launcher or record.get("started_by") or {}
    return verdict(
        ended,
        session["alive"],
        running=bool(running),
        launched=bool(launcher),
        same_boot=who.get("boot_id", boot_id) == boot_id,
    )


def _is_of_session(row: Mapping[str, Any]) -> bool:
    return str(row.get("of", "")).startswith(tuple(f"{kind}:" for kind in FOLDERS))


def _groups(rows: Iterable[Mapping[str, Any]]) -> Iterable[tuple[Mapping[str, Any], ...]]:
    """Return the rows of each server together: IPv4 and IPv6, and all ports of one Dask cluster."""
    found: dict[Any, tuple[Mapping[str, Any], ...]] = {}
    for row in rows:
        key = row.get("of") or (row["uid"], row.get("pid"), row["port"] or row["path"])
        found[key] = (*found.get(key, ()), row)
    return found.values()


def _of_group(
    group: tuple[Mapping[str, Any], ...], host: str, machine: str, kernels: Iterable[Mapping[str, Any]] = ()
) -> Listener:
    """Return what was not started by `ports`; of several ports the one with the page stands for all."""
    pages = [row for row in group if row.get("http")]
    schedulers = [row for row in pages if row["kind"] == "dask-scheduler"]
    row = (schedulers or pages or [one for one in group if one["open_to_network"]] or group)[0]
    kinds = [one["kind"] for one in group]
    kind = "dask-scheduler" if "dask-scheduler" in kinds else row["kind"]
    same = [one for one in group if one["port"] == row["port"]]
    open_ones = [one for one in same if one["open_to_network"]]
    its_own = [one for one in kernels if one.get("of") == f"server:{row.get('pid')}"]
    return Listener(
        host=host,
        machine=machine,
        kind=kind,
        name=_wish(row, kind),
        state="running",
        owner=row["user"],
        address=(open_ones or same)[0]["address"] if row["port"] else None,
        port=row["port"],
        path=row["path"],
        pid=row.get("pid"),
        started_at=row.get("started_at"),
        directory=row.get("root") or row.get("cwd"),
        open_to_network=bool(open_ones),
        http=row.get("http"),
        scheme=row.get("scheme", "http"),
        url_path=row.get("url_path", ""),
        reason=f"a task of cluster '{row['task_of']}' opened it" if row.get("task_of") else None,
        token=row.get("token") or None,
        exposed=tuple(_exposures.find(kind, group, its_own)) if "argv" in row else (),  # of another user's: nothing
    )


def _wish(row: Mapping[str, Any], kind: str) -> str | None:
    """Return the name that a listener would get if it were alone; None for another user's."""
    if "argv" not in row:
        return None
    if kind == "notebook":
        return slug(PurePosixPath(row.get("root") or "").name, "notebook")
    if kind != "listener":
        return slug(kind, "listener")
    program = words_of(row["argv"]).partition(" ")[0]
    return slug("python" if program == "-c" else re.sub(r"\.(py|js|jar|sh|R|jl)$", "", program), "listener")


def _named(found: Iterable[Listener], taken_by: Iterable[Listener]) -> Iterable[Listener]:
    """Give each a name of its own: the one that runs longest keeps the plain one, so that links stay."""
    taken = {one.name for one in taken_by}
    for one in sorted(found, key=lambda one: (one.started_at or float("inf"), one.port or 0, one.path or "")):
        name = wish = one.name or "listener"
        for tail in (_digest(one.directory), str(one.port or _digest(one.path)), _digest(f"{one.path}{one.port}")):
            if name in taken and (tail.isdigit() or one.kind == "notebook"):
                name = f"{wish[: NAME_LENGTH - 1 - len(tail)].rstrip('-')}-{tail}"
        taken.add(name)
        yield replace(one, name=name)


def _digest(text: str | None) -> str:
    return "x" + probe.sha256(str(text).encode("utf-8", "surrogateescape"))[:4]


def _place(one: Listener) -> tuple[Any, ...]:
    order = _ORDER.index(one.kind) if one.kind in _ORDER else len(_ORDER)
    return not one.mine, order, one.kind == "listener", one.name or "", one.port or 0


def _printable(text: _Text) -> _Text:
    """Return a text without what is not UTF-8, and without control characters, which a terminal would obey."""
    if text is None:
        return text
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "?", text.encode("utf-8", "replace").decode())
