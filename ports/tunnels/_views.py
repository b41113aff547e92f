"""The view of a host: what is shown of it, made of what its watcher knows. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from ports.errors import FarSideError, HostKeyError, LoginNeededError, PortsError, SSHError, UnknownHostError
from ports.listeners import Listener

View = dict[str, Any]

#: What can be wanted beside the rows of a host's listeners.
WANTED = ("who", "jobs", "clusters")
N_JOBS = 50  # the newest
_MOST_POINTS = 5760  # of each series: a day with a point in 15 s
_SAME = ("condition", "since", "seen_at", "reason", "way_out")
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
    return view | {"history": no_history(), "warnings": []}


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


def rows(
    found: Iterable[Listener], tunnels: Iterable[Mapping[str, Any]], *, hidden: Container[int | None] = ()
) -> list[dict[str, Any]]:
    """Return the rows of a host's listeners, each with its tunnel; other users' are left out.

    Parameters
    ----------
    tunnels : iterable of dict
        Rows of the tunnels to that host.
    hidden : container of int
        Ports of ends of tunnels, which are left out.
    """
    links = {(row["kind"], row["name"]): row for row in tunnels if row["name"] is not None}
    return [
        {**one.row(), "tunnel": _tunnel(links.get((one.kind, one.name)))}
        for one in found
        if one.mine and not (one.kind == "tunnel" and one.port in hidden)
    ]


def request(wanted: Iterable[str], history: Mapping[str, Any]) -> dict[str, Any]:
    """Return what our program on the host is asked: what is wanted, and the points that are not known yet."""
    asked: dict[str, Any] = {key: N_JOBS if key == "jobs" else True for key in WANTED if key in wanted}
    clusters = {name: points[-1][0] for name, points in history["clusters"].items() if points}
    machine = history["machine"][-1][0] if history["machine"] else 0
    return {**asked, "since": {"machine": machine, "clusters": clusters}}


def looked(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a view that an answer has, and why a part is missing; what a host sends can be anything."""
    troubles = answer.get("troubles")
    troubles = troubles if isinstance(troubles, dict) else {}
    return {
        **{key: found if isinstance(found := answer.get(key), dict) else None for key in WANTED},
        "troubles": [f"no answer about {what}: {why}" for what, why in sorted(troubles.items())],
    }


def merged(view: View, parts: Mapping[str, Any], machine: Mapping[str, Any] | None) -> View:
    """Return `view` with what its watcher knows in place of what it had.

    Parameters
    ----------
    parts : dict
        ``condition``, ``since``, ``seen_at``, ``reason``, ``way_out``, ``rows``, ``warnings``; and what `looked`
        returns.
    machine : dict, optional
        ``who`` of the parts, as the row of ``ports who --json``.
    """
    made = {**view, **{key: parts[key] for key in _SAME if key in parts}}
    clusters, jobs = parts.get("clusters") or {}, parts.get("jobs")
    rows = jobs.get("rows") if jobs is not None else None
    made["rows"] = [_with_cluster(row, clusters) for row in parts.get("rows") or ()]
    made["warnings"] = [*(parts.get("warnings") or ()), *(parts.get("troubles") or ())]
    made["machine"] = None if machine is None else dict(machine)
    if jobs is not None:
        rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        jobs = {**jobs, "rows": [{**row, "host": view["host"]} for row in rows]}
    made["jobs"] = jobs
    return made


def no_history() -> dict[str, Any]:
    """Return a history without a point."""
    return {"machine": [], "clusters": {}}


def with_history(history: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """Return the points of `history` with later ones behind them; of each series the last of a day.

    A cluster that is in `told` continues, and one that is not has ended. What is no point is left out.
    """
    before, now = history["clusters"], told.get("clusters")
    return {
        "machine": _continued(history["machine"], told.get("machine")),
        "clusters": {
            str(name): _continued(before.get(name) or [], points)
            for name, points in (now.items() if isinstance(now, dict) else ())
        },
    }


def later(history: Mapping[str, Any], last: Mapping[str, float]) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the points of `history` after those of the times `last`, and the times of its own last points."""
    series = {"": history["machine"], **history["clusters"]}
    fresh = {name: _after(points, last.get(name, float("-inf"))) for name, points in series.items()}
    told = {"machine": fresh.pop(""), "clusters": fresh}
    return told, {name: points[-1][0] for name, points in series.items() if points}


def _after(points: Sequence[Any], moment: float) -> list[Any]:
    first = len(points)
    while first and points[first - 1][0] > moment:
        first -= 1
    return [*points[first:]]


def _continued(points: Sequence[Any], told: Any) -> list[Any]:
    later = [one for one in told if _is_point(one)] if isinstance(told, list) else []
    return [*points, *_after(later, points[-1][0] if points else float("-inf"))][-_MOST_POINTS:]


def _is_point(one: Any) -> bool:
    """Tell whether a host sent a point: numbers or None, and first a time."""
    if not isinstance(one, list) or not one or one[0] is None:
        return False
    return all(value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)) for value in one)


def _with_cluster(row: Mapping[str, Any], clusters: Mapping[str, Any]) -> dict[str, Any]:
    told = clusters.get(row["name"])
    return {**row, "cluster": told if isinstance(told, dict) else None} if row["kind"] == "cluster" else dict(row)


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
