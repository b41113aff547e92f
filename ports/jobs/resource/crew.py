"""Keeps the slots: starts the cluster `jobs` when there is work, and as many slots as have work."""

from __future__ import annotations

import contextlib
import importlib
import math
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ports import clusters, machine, sessions, state
from ports.errors import PortsError, StartError
from ports.jobs._model import Available
from ports.jobs.resource import environment, room, slot

CLUSTER = "jobs"
_LOOK_SECONDS = 1.0  # between two looks at the slots, where nothing wakes it
_AROUND_SECONDS = 5.0  # between two looks at what other users leave
_PER_CPU = 10  # slots: a job that takes less than a tenth of a core shares its slot with others
_FAILED_SECONDS = 5.0  # after a slot that failed
_RENEWS = "`ports cluster stop jobs`, and jobs start a new one"
_WAITS = (1.0, 60.0)  # seconds after a cluster that did not start: at first, and at most


def missing(wanted: int, cpus: float, live: int) -> int:
    """Return how many slots to start: as many as have work, at most `_PER_CPU` for each cpu that jobs can have.

    A slot only waits for its child, and leaves its thread to others: small jobs must not wait for a long one, whatever
    number of threads the worker has.
    """
    return max(0, min(wanted, max(_PER_CPU, math.ceil(_PER_CPU * cpus))) - live)


def check_environment() -> None:
    """Raise StartError if the environment of this process was deleted: nothing starts from it any more."""
    if (gone := environment.missing()) is not None:
        raise StartError(
            "what runs jobs",
            f"{gone} is gone, and the compute resource was started from its environment; jobs begin when it is there "
            "again, or after `ports resource stop`, then `ports resource start` in another environment",
        )


def preload() -> None:
    """Import what this process can need later: an upgrade of `ports` must not mix two versions in it."""
    for package in (clusters, machine, sessions, state):
        for file in sorted(Path(package.__path__[0]).glob("*.py")):
            importlib.import_module(f"{package.__name__}.{file.stem}")


class Crew(threading.Thread):
    """The thread that starts the cluster and its slots; the loop says what is wanted, and which slots it hears.

    Parameters
    ----------
    options : mapping
        What each slot gets; see `ports.jobs.resource.slot.Slot`.
    wake : callable
        Called when what `shown` returns has changed.
    cpus : float
        Cores that jobs can have at all.
    memory : int
        Bytes that they can have at all.
    """

    def __init__(
        self, options: Mapping[str, Any], wake: Callable[[], None], *, cpus: float = 1, memory: int = 2**60
    ) -> None:
        super().__init__(name="ports-crew", daemon=True)
        self.cpus = cpus
        self.memory, self.looked_around = memory, float("-inf")
        self.available: Available | None = None  # news for the queue
        self.options, self.wake = dict(options), wake
        self.wanted, self.is_waiting, self.is_asked = 0, False, False
        self.is_expected = False  # a job is on its way: the cluster is started before it is here
        self.connected: frozenset[str] = frozenset()  # the tasks of the slots that the loop hears
        self.changed = threading.Event()
        self.cluster: Any = None
        self.client: Any = None
        self.futures: dict[str, Any] = {}
        self.state: dict[str, Any] = {"name": CLUSTER, "state": "not started", "reason": None}
        self.next_try, self.wait_seconds = 0.0, _WAITS[0]

    def want(self, wanted: int, connected: frozenset[str], is_waiting: bool = False) -> None:
        """Note how many slots have work, which are connected, and whether jobs wait; in the loop's thread."""
        if (wanted, connected, is_waiting) != (self.wanted, self.connected, self.is_waiting):
            self.wanted, self.connected, self.is_waiting = wanted, connected, is_waiting
            self.changed.set()

    def shown(self) -> dict[str, Any]:
        """Return what ``status`` shows of the cluster."""
        return {**self.state, "slots_starting": len(self.futures.keys() - self.connected)}

    def run(self) -> None:
        """Look again whenever something changes, and once a second while there is work."""
        if self.is_expected:
            loading = threading.Thread(target=preload, name="ports-preload", daemon=True)
            loading.start()
            self.try_to(self.connect)
            loading.join()
        else:
            preload()
        while True:
            self.changed.wait(_LOOK_SECONDS if self.wanted or self.futures or self.is_waiting else None)
            self.changed.clear()
            self.try_to(self.look_around, self.look)

    def try_to(self, *steps: Callable[[], None]) -> None:
        """Do these steps; note the error of one that fails."""
        try:
            for step in steps:
                step()
        except Exception as error:  # noqa: BLE001 - without this thread nothing runs any more
            self.fail(error)

    def look_around(self) -> None:
        """See what other users leave of the machine, while jobs run or wait, and when somebody asks."""
        if (self.wanted > 0 or self.is_waiting or self.is_asked) and self.is_stale:
            try:
                self.available = room.available(self.memory)
            finally:
                self.looked_around, self.is_asked = time.monotonic(), False
                self.wake()

    @property
    def is_stale(self) -> bool:
        """Whether what is known of other users is older than a few seconds."""
        return time.monotonic() - self.looked_around > _AROUND_SECONDS

    def look_now(self) -> None:
        """Look what other users leave, though no job needs it; from any thread."""
        self.is_asked = True
        self.changed.set()

    def look(self) -> None:
        """Start what is missing."""
        self.futures = {key: one for key, one in self.futures.items() if not self.is_over(key, one)}
        live = len(self.connected | self.futures.keys())
        if self.wanted <= 0 or time.monotonic() < self.next_try or not missing(self.wanted, self.cpus, live):
            return
        self.connect()
        for _ in range(missing(self.wanted, self.cpus, live)):
            key = f"ports-slot-{secrets.token_hex(4)}"
            options = {**self.options, "task": key}
            self.futures[key] = self.client.submit(slot.run, options, pure=False, key=key)
            self.keep(self.futures[key])

    def keep(self, future: Any) -> None:
        """Let a slot run on in the eyes of the scheduler when this process ends."""
        from distributed import fire_and_forget

        fire_and_forget(future)

    def is_over(self, key: str, future: Any) -> bool:
        """Say whether a slot has ended, or was lost with its cluster."""
        if not future.done():
            return False
        if future.status == "error":
            self.next_try = time.monotonic() + _FAILED_SECONDS
            self.tell("error", f"what runs jobs failed: {future.exception()}")
        elif future.status == "finished" and future.result() == slot.UPROOTED and environment.missing() is None:
            self.next_try = time.monotonic() + _FAILED_SECONDS
            self.tell("error", f"cluster {CLUSTER} was started from an environment that is gone; {_RENEWS}")
        return True

    def connect(self) -> None:
        """Find or start the cluster."""
        check_environment()
        if self.client is not None and (self.client.status != "running" or self.cluster.state != "running"):
            self.drop_client()
        if self.client is None:
            self.tell("starting", None)
            self.cluster = clusters.cluster(CLUSTER, n_workers=1, reuse="any")
            self.client = self.cluster.get_client(set_as_default=False)
            self.wait_seconds = _WAITS[0]
            self.tell("running", None)
        elif self.state["reason"] is not None:
            self.tell("running", None)

    def drop_client(self) -> None:
        """Forget a cluster that does not run, and its slots."""
        client, self.client, self.cluster = self.client, None, None
        self.futures.clear()
        with contextlib.suppress(Exception):
            client.close(timeout=2)

    def fail(self, error: Exception) -> None:
        """Note that the cluster could not be used; try again later."""
        self.next_try = time.monotonic() + self.wait_seconds
        self.wait_seconds = min(_WAITS[1], 2 * self.wait_seconds)
        text = str(error) if isinstance(error, PortsError) else f"{type(error).__name__}: {error}"
        if self.client is not None:
            self.drop_client()
        self.tell("error", text)

    def tell(self, state: str, reason: str | None) -> None:
        """Note the state of the cluster."""
        if reason is not None and reason != self.state["reason"]:
            print(f"cluster {CLUSTER}: {reason}", file=sys.stderr)
        self.state = {"name": CLUSTER, "state": state, "reason": reason}
        self.wake()
