"""What a plain ``Client("tls://…")`` needs to connect to a cluster of mine: Dask asks `load`.

The file ``etc/dask/ports-client.yaml`` of an installation names it as Dask's ``distributed.client.security-loader``.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from ports import sessions
from ports.clusters import _dask
from ports.clusters._options import KIND, ClusterRecord, ClusterRunning
from ports.errors import RecordError
from ports.state import paths, records

if TYPE_CHECKING:
    from distributed.security import Security


def load(info: dict[str, Any]) -> Security | None:
    """Return the credentials of my running cluster at the address in `info`; None where none of mine has it.

    At an address of the network the cluster can run on another machine that shares this home. Its certificate proves
    that: no other listener is accepted with it.
    """
    address = str(info.get("address"))
    if not address.startswith("tls://"):
        return None
    for name in sessions.names(KIND):
        found = sessions.find(KIND, name, ClusterRecord)
        running = found.running if found is not None and found.state == "running" else None
        if found is not None and isinstance(running, ClusterRunning) and running.address == address:
            return _dask.security(address, found.files.credentials)
    return None if address.startswith("tls://127.0.0.1:") else _of_another_machine(address)


def _of_another_machine(address: str) -> Security | None:
    for machine in paths.other_machines():
        for name in sorted(
            path.name for path in sessions.folder(KIND, machine).glob("*") if paths.NAME.fullmatch(path.name)
        ):
            files = sessions.files(KIND, name, machine)
            with contextlib.suppress(RecordError):  # a newer version's, or half of one
                running = records.read(files.running, ClusterRunning)
                if running is not None and running.address == address:
                    return _dask.security(address, files.credentials)
    return None
