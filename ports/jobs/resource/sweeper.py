"""Removes beside the loop what nobody needs any more: a tree of many files takes seconds, and the loop must answer."""

from __future__ import annotations

import contextlib
import re
import shutil
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from ports.jobs._exchange import PRUNED
from ports.jobs._model import Lease
from ports.jobs._places import Places
from ports.jobs.resource import lease

_OLD_SECONDS = 3600.0  # what a slot or a writer left is looked at no more
_EVERY_SECONDS = 600.0
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}")  # the name of a file that `_durable` and others write


class Sweeper(threading.Thread):
    """The thread that removes trees, and every ten minutes what dead processes left."""

    def __init__(self, places: Places) -> None:
        super().__init__(name="ports-sweeper", daemon=True)
        self.places = places
        self.changed = threading.Event()
        self.trees: list[Path] = []

    def add(self, trees: Iterable[Path]) -> None:
        """Let directories be removed; from any thread."""
        self.trees += trees
        self.changed.set()

    def run(self) -> None:
        """Remove what an ended resource left to remove, and then what comes."""
        with contextlib.suppress(OSError):
            self.add(self.places.work.glob(f"{PRUNED}*"))
        next_sweep = time.monotonic() + 60.0
        while True:
            self.changed.wait(max(0.0, next_sweep - time.monotonic()))
            self.changed.clear()
            while self.trees:
                shutil.rmtree(self.trees.pop(), ignore_errors=True)
            if time.monotonic() >= next_sweep:
                next_sweep = time.monotonic() + _EVERY_SECONDS
                with contextlib.suppress(OSError):
                    sweep(self.places)


def sweep(places: Places, older: float = _OLD_SECONDS) -> None:
    """Remove the leases and streams of slots that ended long ago, and half files of writers that were killed."""
    before = time.time() - older
    for path in [*places.leases.glob("slot-*"), *places.streams.glob("slot-*")]:
        held = Lease(path.stem, str(places.lease_of(path.stem)))
        if _is_old(path, before) and lease.look(held).alive is not True:
            path.unlink(missing_ok=True)
    kept = (places.root, places.submissions, places.objects, places.workspaces, places.environs, places.results)
    for directory in (*kept, *places.objects.glob("??")):
        for path in directory.glob(".*"):
            if _TEMPORARY.fullmatch(path.name) and path.is_file() and _is_old(path, before):
                path.unlink(missing_ok=True)


def _is_old(path: Path, before: float) -> bool:
    with contextlib.suppress(OSError):
        return path.lstat().st_mtime < before
    return False
