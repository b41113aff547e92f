"""What the parts of the queue share: its state, what a turn answers, and what is done after its commit."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ports.errors import NotFoundError
from ports.jobs import _durable
from ports.jobs._ledger import Ledger
from ports.jobs._live import Run
from ports.jobs._model import JobId, Lease
from ports.jobs._store import SubmissionRow
from ports.jobs._waiting import Waiting

#: The connection of replies that ask the loop itself to end a script.
SCRIPTS = "scripts"
#: How the names of directories begin that are about to be removed.
PRUNED = ".pruned-"
_UNSUBMITTED = 86400.0  # seconds; after that, no submission comes for what was kept for it
BY_REQUEST = "cancelled"  # the reason, where none is given


class Request(NamedTuple):
    """What came from one connection: a frame's header and blobs."""

    connection: Hashable
    header: dict[str, Any]
    blobs: Sequence[bytes] = ()

    @property
    def n(self) -> object:
        """The number of the request, if it has one."""
        n = self.header.get("n")
        return n if isinstance(n, int | str) and not isinstance(n, bool) else None


class Reply(NamedTuple):
    """What goes to one connection."""

    connection: Hashable
    header: dict[str, Any]
    blobs: Sequence[bytes] = ()


class Exchange:
    """The queue's state, and what a turn is about to answer. Nothing of it is sent before the commit."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.store, self.capacity = ledger, ledger.store, ledger.room.capacity
        self.now, self.monotonic = ledger.clocks.now, ledger.clocks.monotonic
        self.waiting = Waiting()
        self.is_draining = False  # durable
        self.is_held = False  # while the resource is about to stop
        self.trouble: str | None = None  # with the slots
        self.dispose: Callable[[Sequence[Path]], object] = remove_trees
        self.connections: dict[str, Hashable] = {}  # of slots
        self.unfinished: set[int] = set()  # maps of whose results more is there than was sent
        self.replies: list[Reply] = []
        self.new_keys: dict[str, int] = {}  # of submissions of this turn
        self.unlinked: list[Path] = []  # files to remove after the commit
        self.removed: list[Path] = []  # directories
        self.over: list[int] = []  # submissions of whose end somebody hears, after the commit

    def load(self) -> None:
        """Read everything from the store, and forget what this turn was about to do."""
        self.replies, self.new_keys, self.unlinked, self.removed = [], {}, [], []
        self.ledger.load()
        self.is_draining = bool(self.store.fact("draining"))

    def commit(self) -> list[Reply]:
        """Make all durable, and return what is to be sent."""
        self.store.commit()
        self.over += [live.number for live in self.ledger.over]
        self.unlinked += [self.store.places.environ_of(live.key) for live in self.ledger.over if live.key is not None]
        self.ledger.over.clear()
        for path in self.unlinked:
            with contextlib.suppress(OSError):
                path.unlink()
        if trees := [aside for path in self.removed if (aside := put_aside(path)) is not None]:
            self.dispose(trees)
        replies = self.replies
        self.replies, self.new_keys, self.unlinked, self.removed = [], {}, [], []
        return replies

    def forget_environs(self) -> None:
        """Remove the environments of scripts that have ended: the last resource was killed before it did that."""
        running = {live.key for live in self.ledger.lives.values()}
        for key in _durable.names(self.store.places.environs):
            if key not in running and self.store.number_of_key(key) is not None:
                with contextlib.suppress(OSError):
                    self.store.places.environ_of(key).unlink()

    def forget_unsubmitted(self) -> None:
        """Remove what was kept for submissions that never came: their client was killed, or cut off."""
        places = self.store.places
        for directory in (places.environs, places.workspaces):
            for key in _durable.names(directory):
                with contextlib.suppress(OSError):
                    is_old = self.now() - (directory / key).stat().st_mtime > _UNSUBMITTED
                    known = (places.submissions / key).exists() or self.store.number_of_key(key) is not None
                    if is_old and not known:
                        (directory / key).unlink()

    def send(self, connection: Hashable, header: dict[str, Any], blobs: Sequence[bytes] = ()) -> None:
        """Send a reply with the commit; None is nobody."""
        if connection is not None:
            self.replies.append(Reply(connection, header, blobs))

    def reply(self, request: Request, header: dict[str, Any], blobs: Sequence[bytes] = ()) -> None:
        """Answer a request with the commit."""
        self.send(request.connection, {"n": request.n, **header}, blobs)

    @property
    def wanted_slots(self) -> int:
        """How many slots would have work now, those that work included."""
        return len(self._busy_slots()) if self.is_draining or self.is_held else self.ledger.wanted()

    def scripts(self) -> list[tuple[JobId, int, Lease]]:
        """Return id, attempt and lease of the scripts that run in sessions of their own."""
        ledger = self.ledger
        return [
            (run.id, run.attempt, ledger.slots[slot].lease)
            for slot, runs in ledger.runs_of.items()
            if slot.startswith("job-")
            for run in runs.values()
        ]

    def _busy_slots(self) -> list[str]:
        return [slot for slot in self.ledger.runs_of if not slot.startswith("job-")]

    def row(self, id: JobId) -> SubmissionRow:
        """Return the submission of an id; raises NotFoundError."""
        self.ledger.save()
        row = self.store.submission(id.number)
        if row is None or (id.item is not None and (row.count is None or id.item >= row.count)):
            raise NotFoundError("job", str(id), "`ports job list` shows what there is")
        return row

    def read_arguments(self, kept: bytes | str) -> bytes:
        """Return arguments of which the store gave the bytes or the digest; raises BrokenRecordError."""
        return kept if isinstance(kept, bytes) else self.store.object(kept)

    def read_result(self, number: int, item: int, n_bytes: int, blob: bytes | None, *, is_map: bool) -> bytes:
        """Return a result whose row the store gave; raises BrokenRecordError."""
        return self.store.result(JobId(number, item if is_map else None), n_bytes, blob)

    def ask_end(self, run: Run, how: str, reason: str) -> None:
        """Ask a slot, or the loop where it is a script, to end a job."""
        if run.ending != "cancel":
            self.ledger.ask_end(run, how, reason)
        self.push_end(run)

    def push_end(self, run: Run) -> None:
        """Tell who runs a job that it is to end."""
        connection = SCRIPTS if run.slot.startswith("job-") else self.connections.get(run.slot)
        how = "cancel" if run.ending == "cancel" else "timeout"
        self.send(connection, {"op": "end", "id": str(run.id), "attempt": run.attempt, "how": how})


def put_aside(path: Path) -> Path | None:
    """Rename a directory that is to be removed, which takes no time; None if there is none."""
    aside = path.with_name(f"{PRUNED}{secrets.token_hex(8)}")
    with contextlib.suppress(OSError):
        return path.rename(aside)
    return None


def remove_trees(paths: Sequence[Path]) -> None:
    """Remove directories with all that is in them."""
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)
