"""How others can use my listeners, in words, and how to prevent it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ports.listeners._kinds import LOOPBACK_OPTIONS
from ports.listeners._rows import ExposureRow

_PRIVATE_CLUSTER = "`ports.client()` starts a cluster that is private"


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """One way in which others can use a listener.

    `reason` is ``dask``, ``dashboard``, ``token``, ``kernel``, ``debugger`` or ``network``.
    """

    reason: str
    what: str
    hint: str

    def __str__(self) -> str:
        return f"{self.what}; {self.hint}"

    def row(self) -> ExposureRow:
        """Return it as ``--json`` prints it."""
        return {"reason": self.reason, "what": self.what, "way_out": self.hint}


def find(kind: str, rows: Sequence[Mapping[str, Any]], kernels: Iterable[Mapping[str, Any]] = ()) -> list[Exposure]:
    """Return how others can use one of my listeners.

    Parameters
    ----------
    rows : sequence of dict
        Its rows in the answer of the probe, one for each port.
    kernels : iterable of dict
        The rows of its kernels, if it is a notebook server.
    """
    reasons = {reason for row in [*rows, *kernels] for reason in row.get("exposed") or ()}
    ending = _ending(rows)
    found = []
    if "dask" in reasons:
        found.append(_exposure("dask", "anyone on this machine can run code as you", f"{ending}, {_PRIVATE_CLUSTER}"))
    elif "dashboard" in reasons:
        found.append(_exposure("dashboard", "anyone on this machine can read its dashboard", _PRIVATE_CLUSTER))
    if "token" in reasons:
        what = "it asks for no token or password, so anyone on this machine can run code as you"
        found.append(_exposure("token", what, f"{ending}, `ports notebook start` starts one that asks"))
    if "kernel" in reasons:
        what = "anyone on this machine can read what its kernels run and print"
        hint = "start it with --KernelManager.transport=ipc, or by `ports notebook start`"
        found.append(_exposure("kernel", what, hint))
    if "debugger" in reasons:
        what = "while this debug port is open and no debugger is attached, anyone on this machine can run code as you"
        found.append(_exposure("debugger", what, f"restart the kernel or program that it debugs, or {ending}"))
    if "network" in reasons:
        open_ports = sorted({row["port"] for row in rows if row.get("open_to_network") and row["port"]})
        what = f"open to the network (port {', '.join(map(str, open_ports))})"
        found.append(_exposure("network", what, _on_loopback(kind, ending)))
    return found


def _exposure(reason: str, what: str, hint: str) -> Exposure:
    return Exposure(reason=reason, what=what, hint=hint)


def _on_loopback(kind: str, ending: str) -> str:
    if kind.startswith("dask-"):
        return _PRIVATE_CLUSTER
    option = LOOPBACK_OPTIONS.get(kind)
    return f"start it with {option}" if option else f"{ending}, and make it listen on 127.0.0.1 only"


def _ending(rows: Sequence[Mapping[str, Any]]) -> str:
    if name := next((row["task_of"] for row in rows if row.get("task_of")), None):
        return f"end the task of cluster '{name}' that opened it"  # its worker, if killed, would run it again
    if name := next((of[8:] for row in rows if (of := str(row.get("of"))).startswith("cluster:")), None):
        return f"`ports cluster stop {name}` ends it"
    pids = [row["pid"] for row in rows if row.get("pid")]
    main = next((int(of[5:]) for row in rows if (of := str(row.get("of"))).startswith("dask:")), None)
    pid = main or (pids[0] if pids else None)
    if any(row["kind"].startswith("dask-") for row in rows):
        inside = _jupyter(rows, pid)
        where = f", which is {inside}" if inside else ""
        return f"close it where it was started (`cluster.close()`, SHUTDOWN in its pane; process {pid}{where})"
    return f"stop it where it was started (process {pid})" if pid else "end it"


def _jupyter(rows: Sequence[Mapping[str, Any]], pid: int | None) -> str | None:
    """Return which part of Jupyter the process `pid` is, None if it is none: something else listens in it."""
    line = " ".join(next((row.get("argv") or () for row in rows if row.get("pid") == pid), ()))
    return "the kernel" if "ipykernel" in line else "the notebook server" if "jupyter" in line else None
