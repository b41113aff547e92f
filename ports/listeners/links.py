"""Links at home: which local port a name gets, and how the URL reads. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote, urlencode

from ports.probe import sha256


def local_port(machine: str, user: str, name: str, first: int, last: int) -> int:
    """Return the local port of `name` of `user` on the far `machine`, derived from these three.

    A port that the link had before goes first, see `tunnels/_records.py`.

    Parameters
    ----------
    machine : str
        Id of the far machine, so that the server itself can tell the link that works at home.
    user : str
        Name of the user there.
    name : str
        ``"cluster-main"``, ``"notebook-lab"``; ``"port-6006"`` for a listener without a name.
    first, last : int
        The settings ``open.first_port`` and ``open.last_port``.
    """
    digest = sha256("\0".join((machine, user, name)).encode())
    return first + int(digest[:16], 16) % (last - first + 1)


def next_ports(usual: int, first: int, last: int, *, most: int = 200) -> Iterator[int]:
    """Yield the ports to use while `usual` is taken: those after it, then those from `first` on."""
    span = last - first + 1
    for step in range(1, min(most, span)):
        yield first + (usual - first + step) % span


def url(port: int, *, scheme: str = "http", path: str = "", token: str | None = None, host: str = "localhost") -> str:
    """Return the link to the local `port`.

    Its host is ``localhost``: Jupyter refuses other names, and not every browser resolves ``name.localhost``.
    """
    query = f"?{urlencode({'token': token})}" if token else ""
    name = f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}:{port}/{quote(path.lstrip('/'), safe='/%', errors='surrogateescape')}{query}"
