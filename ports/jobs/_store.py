"""The queue on the disk: SQLite, one transaction a turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ports.jobs._places import Places


class Store:
    """The store of one resource, opened by one process at a time.

    `notices` has in words what was found at the start that the user must know: a store that could not be read.
    """

    def __init__(self, places: Places) -> None:
        self.places = places
        self.notices: list[str] = []

    @classmethod
    def open(cls, places: Places, *, timeout: float = 5.0) -> Store:
        """Take the lock of the resource, and open the store or make it.

        Raises
        ------
        ConflictError
            The queue belongs to another machine, or another process has it open for `timeout` seconds.
        NewerRecordError
            A newer `ports` wrote the store.
        StoreError
            The disk is full, or not writable.
        """
        return cls(places)

    def close(self) -> None:
        """Write what is left and let go of the store and of its lock."""

    def salvaged(self) -> list[dict[str, Any]]:
        """Return the rows that could be read of the last store that was put aside as corrupt."""
        return []

    @property
    def path(self) -> Path:
        """The SQLite file."""
        return self.places.store
