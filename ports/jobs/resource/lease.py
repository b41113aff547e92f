"""The lease of a slot or a script: a file that stays locked while anything runs its jobs, and says which were begun."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ports import probe
from ports.jobs._model import Lease, LeaseState
from ports.jobs.resource.child import ALL, BEGUN, LIMIT, NOBODY, TO_END, WIDTH, place_text
from ports.state import make_private

_HEAD = LIMIT + WIDTH + 1
_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


class HeldLease:
    """The lease that this process and its children hold.

    The file has three places of the batch, and the batch as JSON, a list of [id, attempt]. The places are the job that
    was begun last, the job that is to end, and the first one that is skipped. Before the jobs that the child has are
    those whose results the resource has not acknowledged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        make_private(make_private(path.parent.parent) / path.parent.name)  # somebody may have cleaned up /tmp
        self.descriptor = os.open(path, _FLAGS | os.O_CREAT, 0o600)
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)
        self.write([])

    def write(self, jobs: Sequence[tuple[str, int]], n_begun: int = 0) -> None:
        """Write the batch that is about to be given to the child, behind `n_begun` jobs that were begun before."""
        places = place_text(n_begun - 1) + place_text(NOBODY) + place_text(ALL)
        data = places + json.dumps([list(one) for one in jobs]).encode()
        # In one write: a reader must never see the new batch with the old place, nor the other way round.
        os.pwrite(self.descriptor, data, 0)
        os.ftruncate(self.descriptor, len(data))

    def begun(self) -> int:
        """Return the place of the job that was begun last."""
        try:
            return int(os.pread(self.descriptor, WIDTH, BEGUN))
        except ValueError:
            return NOBODY

    def note_begun(self, place: int) -> None:
        """Note that a job is about to begin which no child begins: a script."""
        os.pwrite(self.descriptor, place_text(place), BEGUN)

    def note_end(self, place: int) -> None:
        """Note which job is to end; NOBODY for none."""
        os.pwrite(self.descriptor, place_text(place), TO_END)

    def limit(self, place: int) -> int:
        """Let the child skip the jobs from `place` on; return the place that was begun last. Later ones are skipped."""
        os.pwrite(self.descriptor, place_text(place), LIMIT)
        return self.begun()

    def close(self) -> None:
        """Let go of it. The file stays, for the resource to look at."""
        os.close(self.descriptor)


def look(lease: Lease) -> LeaseState:
    """Return what the lock says of a slot or a script; where its file is gone, what the process table says."""
    try:
        descriptor = os.open(lease.path, _FLAGS)
    except FileNotFoundError:
        return _by_process(lease.process)
    except OSError as error:
        return LeaseState(None, None, f"its lock cannot be read: {error.strerror or error}")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return LeaseState(True, None, "")
    except OSError as error:
        return LeaseState(None, None, f"its lock cannot be asked: {error.strerror or error}")
    else:
        return LeaseState(False, _begun(os.pread(descriptor, 1 << 20, 0)), "its worker ended")
    finally:
        os.close(descriptor)


def _by_process(process: Mapping[str, Any] | None) -> LeaseState:
    alive = None
    with contextlib.suppress(KeyError, TypeError):
        alive = probe.is_same_process_alive(dict(process or {}))
    return LeaseState(alive, None, "its worker ended, and its lock is gone")


def _begun(text: bytes) -> frozenset[tuple[str, int]] | None:
    """Return the jobs of the batch that were begun; None where the file says nothing."""
    try:
        place, jobs = int(text[:WIDTH]), json.loads(text[_HEAD:])
        return frozenset((str(one), int(attempt)) for one, attempt in jobs[: place + 1])
    except (ValueError, TypeError):
        return None
