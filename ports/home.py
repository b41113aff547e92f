"""What to type at home, and the link that works there: computed on the server, where the notebook runs."""

from __future__ import annotations

import shlex
import socket
import sys
from typing import Any

from ports import config, links, paths, render


def alias() -> str:
    """Return what this machine is called in ``~/.ssh/config`` at home: the setting ``alias``, else its short name."""
    return str(config.get("alias") or socket.gethostname().partition(".")[0])


def open_command(name: str, local_port: int | None = None) -> str:
    """Return the command that opens the cluster or notebook server `name` at home."""
    command = ["ports", "open", f"{alias()}:{name}"]
    return shlex.join(command if local_port is None else [*command, "--local-port", str(local_port)])


def cluster_link(name: str, local_port: int | None = None) -> str:
    """Return the link of cluster `name`'s dashboard at home: its port follows from machine, user and name."""
    limits = config.get("open")
    first, last = limits["first_port"], limits["last_port"]
    port = local_port or links.local_port(paths.machine(), paths.user_name(), f"cluster-{name}", first, last)
    return f"http://localhost:{port}/status"


def show(cluster_or_client: object, local_port: int | None = None) -> None:
    """Print, and in a notebook display, what to type at home and the link that will work there.

    Parameters
    ----------
    cluster_or_client
        A cluster of `ports`, a client of one, or any Dask cluster or client, which has a dashboard on a TCP port.
    local_port : int, optional
        The port at home. Default: the one that ``ports open`` gives to this name, always the same.
    """
    shown = describe(cluster_or_client, local_port)
    if "IPython" in sys.modules:
        from IPython import get_ipython
        from IPython.display import display

        if get_ipython() is not None:
            display(render.Shown(shown))
            return
    sys.stdout.write(render.shown_text(shown) + "\n")


def describe(cluster_or_client: object, local_port: int | None = None) -> dict[str, Any]:
    """Return what `show` shows: ``command``, ``link``, and ``by_hand``, the plain ssh line."""
    cluster: Any = getattr(cluster_or_client, "cluster", None) or cluster_or_client
    row = getattr(cluster, "row", None)
    if callable(row) and hasattr(cluster, "record"):
        name, socket_path = cluster.name, cluster.record.dashboard
        link = cluster_link(name, local_port)
        by_hand = ["ssh", "-N", "-L", f"{_port(link)}:{socket_path}", alias()]
        shown = {"command": open_command(name, local_port), "link": link, "by_hand": shlex.join(by_hand)}
        if port := _port(row().get("tcp_link") or ""):  # without its token: notebooks keep what they display
            shown["forward"] = f"port {port}; `ports cluster show {name}` tells its link and token"
        return shown
    far_port = _port(str(getattr(cluster, "dashboard_link", "") or ""))
    if far_port is None:
        from ports.errors import UsageError

        raise UsageError(f"{cluster_or_client!r} has no dashboard; pass a Dask cluster or client")
    near = local_port or far_port
    command = ["ports", "open", f"{alias()}:{far_port}", "--local-port", str(near)]
    by_hand = ["ssh", "-N", "-L", f"{near}:127.0.0.1:{far_port}", alias()]
    link = f"http://localhost:{near}/status"
    return {"command": shlex.join(command), "link": link, "by_hand": shlex.join(by_hand)}


def _port(link: str) -> int | None:
    from urllib.parse import urlsplit

    return urlsplit(link).port
