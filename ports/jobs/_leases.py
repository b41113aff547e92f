"""The slots and scripts that may live: where each runs, and where it is seen whether it lives."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from ports.jobs._model import Lease
from ports.jobs._store import Store


@dataclasses.dataclass(frozen=True)
class Slot:
    """A slot or a script: where it runs, and where it is seen whether it lives."""

    worker: str
    lease: Lease


class Leases(dict[str, Slot]):
    """All slots and scripts that may live, by name, in memory and in the store."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    def load(self) -> dict[str, tuple[int, ...]]:
        """Read them from the store; return which GPUs each has."""
        gpus: dict[str, tuple[int, ...]] = {}
        for slot, worker, path, process, had in self._store.slots():
            self[slot] = Slot(worker, Lease(slot, path, json.loads(process) if process else None))
            gpus[slot] = tuple(json.loads(had)) if had else ()
        return gpus

    def know(self, lease: Lease, worker: str) -> None:
        """Keep where it is seen whether a slot lives."""
        if self.get(lease.slot) != (known := Slot(worker, lease)):
            self.keep(known)

    def keep(self, known: Slot, gpus: Sequence[int] = ()) -> None:
        """Keep a slot, with the GPUs that it has."""
        self[known.lease.slot] = known
        process = None if known.lease.process is None else json.dumps(known.lease.process)
        row = (known.lease.slot, known.worker, known.lease.path, process, json.dumps(gpus) if gpus else None)
        self._store.put("slots", row)

    def forget(self, slot: str) -> None:
        """Forget a slot or a script that has ended and holds nothing."""
        if self.pop(slot, None) is not None:
            self._store.put("free_slots", (slot,))
