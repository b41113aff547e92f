"""What a plain ``Client("tls://…")`` needs to connect to a cluster of mine: Dask asks `load`.

The file ``etc/dask/ports-client.yaml`` of an installation names it as Dask's ``distributed.client.security-loader``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ports import sessions
from ports.adapters import dask
from ports.options import ClusterRecord, ClusterRunning

if TYPE_CHECKING:
    from distributed.security import Security


def load(info: dict[str, Any]) -> Security | None:
    """Return the credentials of my running cluster at the address in `info`; None where it is none of mine."""
    address = str(info.get("address"))
    if not address.startswith("tls://127.0.0.1:"):
        return None
    for name in sessions.names("cluster"):
        found = sessions.look("cluster", name, ClusterRecord)
        running = found.running if found is not None and found.state == "running" else None
        if found is not None and isinstance(running, ClusterRunning) and running.address == address:
            return dask.security(address, found.files.credentials)
    return None
