"""The view of a host: what is shown of it, made of what its watcher knows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ports.errors import FarSideError, HostKeyError, LoginNeededError, PortsError, SSHError, UnknownHostError
from ports.listeners import Listener

View = dict[str, Any]

#: What the watcher of a host tells of it; a line of its stream has those that have changed.
PARTS = ("condition", "since", "seen_at", "reason", "way_out", "rows", "who", "jobs", "clusters", "warnings")
_CONDITIONS = {"up": "connected"}
#: The command that helps after an error; what is not here has none.
_WAYS_OUT: tuple[tuple[type[PortsError], str], ...] = (
    (LoginNeededError, "ports login {host}"),
    (HostKeyError, "ssh {host}"),
    (UnknownHostError, "ports doctor {host}"),
    (FarSideError, "ports doctor {host}"),
    (SSHError, "ports doctor {host}"),
)


def empty(host: str, *, here: bool, since: float) -> View:
    """Return the view of a host of which nothing is known yet."""
    view: View = {"host": host, "here": here, "condition": "connecting", "since": since, "seen_at": None}
    view |= {"reason": None, "way_out": None, "rows": [], "machine": None, "jobs": None}
    return view | {"history": {"machine": [], "clusters": {}}, "warnings": []}


def condition(host: str, state: str, since: float, error: PortsError | None, *, by_ssh: bool = True) -> dict[str, Any]:
    """Return the parts that say how the connection to `host` is.

    Parameters
    ----------
    state : str
        That of `_watch.Condition`.
    by_ssh : bool
        The ssh program connects; without it, nobody can log in for another process.
    """
    told: dict[str, Any] = {"condition": _CONDITIONS.get(state, state), "since": since}
    if error is None:
        return told | {"reason": None, "way_out": None}
    reason = error.reason if isinstance(error, SSHError) and error.host == host else str(error)
    return told | {"reason": reason, "way_out": way_out(host, error, by_ssh=by_ssh)}


def way_out(host: str, error: PortsError, *, by_ssh: bool = True) -> str | None:
    """Return the command that helps after `error`, to be copied; None where no command does."""
    if isinstance(error, LoginNeededError) and not by_ssh:
        return "ssh-add"
    return next((line.format(host=host) for kind, line in _WAYS_OUT if isinstance(error, kind)), None)


def rows(found: Iterable[Listener], tunnels: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of a host's listeners, each with its tunnel; other users' and the ends of tunnels are left out.

    Parameters
    ----------
    tunnels : iterable of dict
        Rows of the tunnels to that host.
    """
    links = {(row["kind"], row["name"]): row for row in tunnels if row["name"] is not None}
    return [
        {**one.row(), "tunnel": _tunnel(links.get((one.kind, one.name)))}
        for one in found
        if one.mine and one.kind != "tunnel"
    ]


def merged(view: View, parts: Mapping[str, Any]) -> View:
    """Return `view` with what a line of its watcher has in place of what it had; `parts` is of those in `PARTS`."""
    same = ("condition", "since", "seen_at", "reason", "way_out", "jobs", "warnings")
    made = {**view, **{key: parts[key] for key in same if key in parts}}
    clusters = parts.get("clusters") or {}
    if "rows" in parts:
        made["rows"] = [_with_cluster(row, clusters) for row in parts["rows"]]
    return made


def with_history(history: Mapping[str, Any], told: Mapping[str, Any], most: int) -> dict[str, Any]:
    """Return the points of `history` with later ones behind them; of each series the last `most`.

    A series that is in `told` under ``clusters`` continues, and one that is not has ended.
    """
    before, now = history.get("clusters") or {}, told.get("clusters") or {}
    machine = _continued(history.get("machine") or [], told.get("machine") or [], most)
    return {
        "machine": machine,
        "clusters": {name: _continued(before.get(name) or [], points or [], most) for name, points in now.items()},
    }


def _continued(points: Sequence[Any], later: Sequence[Any], most: int) -> list[Any]:
    last = points[-1][0] if points else float("-inf")
    return [*points, *(one for one in later if one[0] > last)][-most:]


def _with_cluster(row: Mapping[str, Any], clusters: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "cluster": clusters.get(row["name"])} if row["kind"] == "cluster" else dict(row)


def _tunnel(row: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return what a view shows of a tunnel: its link has no token."""
    if row is None:
        return None
    url = row["local_url"]
    return {
        "state": row["state"],
        "local_url": None if url is None else str(url).partition("?")[0],
        "reason": row["error"] or row["note"],
    }
