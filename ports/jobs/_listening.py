"""What jobs listen on: their ports on their machine, and the links at home where these are open."""

from __future__ import annotations

from typing import Any

from ports import hosts, listeners, tunnels
from ports.errors import collecting_warnings
from ports.listeners import Listener

_MOST = 20  # ports that are shown


def listening(host: str | None, id: str, pid: object = None) -> list[dict[str, Any]]:
    """Return what a job that runs listens on, pages first.

    A row has ``port``, ``name`` (what `ports open` calls it), ``kind``, ``is_page``, ``url`` (on its own machine) and
    ``local_url`` (at home, where it is open).

    Parameters
    ----------
    host : str, optional
        The machine of the job. Default: this one.
    id : str
        The id that the job has there.
    pid : int, optional
        Of a function: the process that runs it, ``pid`` of its row. It began before the job, whose name it lacks.

    Raises
    ------
    SSHError
        The host cannot be reached.
    """
    far = None if host is None or hosts.is_here(host) else host
    with collecting_warnings():  # they are of other listeners
        found = [one for one in listeners.list(far) if one.mine and _is_of(one, id, pid) and one.port is not None]
    rows = [_row(one, far) for one in found if one.kind != "kernel"]
    return sorted(rows, key=lambda row: (not row["is_page"], row["port"]))[:_MOST]


def _is_of(one: Listener, id: str, pid: object) -> bool:
    """Say whether a listener is a job's: what it has started has its id, and its own process is known by its number."""
    return one.job == id or (pid is not None and one.job is None and one.pid == pid)


def _row(one: Listener, host: str | None) -> dict[str, Any]:
    is_page = one.http is True
    return {
        "port": one.port,
        "name": one.name,
        "kind": one.kind,
        "is_page": is_page,
        "url": one.url,
        "local_url": _local_url(one, host) if host is not None else one.url,
    }


def _local_url(one: Listener, host: str) -> str | None:
    """Return the link at home, without a token; None where it is not open."""
    for _, record, is_alive in tunnels.read_all_records():
        for row in record.rows if is_alive else ():
            if row["host"] == host and row.get("port") == one.port and row.get("ports"):
                return listeners.links.url(row["ports"][0], scheme=one.scheme, path=one.url_path)
    return None
