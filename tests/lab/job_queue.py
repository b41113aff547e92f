"""A queue of jobs with a real store and clocks of its own, and what clients and slots ask of it."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ports.jobs._clocks import Clocks
from ports.jobs._model import STATES, Capacity, JobId, Lease, LeaseState, Submission
from ports.jobs._places import Places
from ports.jobs._store import Store, pack
from ports.jobs._turn import Queue, Reply, Request
from ports.probe import left, words
from ports.state import runtime_directory

CAPACITY = Capacity(cpus=4, memory=8 * 2**30, gpus=(0, 1), tags=("big",))


def leave(
    places: Places, key: str, submission: Submission, blobs: Sequence[bytes], *, count: int | None = None
) -> JobId:
    """Leave a submission, as clients do where no resource runs, and return its id."""
    return JobId(left.leave_submission(str(places.root), key, submission.to_json(), blobs, count))


class Desk:
    """A queue, and the way to ask it. `restart` goes on with a new queue on the same store."""

    def __init__(self, root: Path, capacity: Capacity = CAPACITY, **options: Any) -> None:
        self.places = Places(root / "jobs", root / "runtime")
        for name in ("ids", "submissions", "objects", "results", "streams", "work", "environs"):
            (self.places.root / name).mkdir(parents=True, exist_ok=True)
        self.capacity, self.options = capacity, options
        self.clock = 1_700_000_000.0
        self.stepped = 1_600_000_000.0  # by how much the clock on the wall is ahead of the monotonic one
        self.slept = 0.0  # for how long the machine was suspended
        self.boot = "boot-1"
        self.leases: dict[str, LeaseState] = {}
        self.scripts: dict[tuple[str, int], Lease] = {}  # that were started, whoever knows of it
        self.pushed: list[Reply] = []
        self._numbers = itertools.count(1)
        self._keys = itertools.count(1)
        self.start()

    def start(self) -> None:
        self.store = Store.open(self.places, timeout=5)
        self.queue = Queue(
            self.store,
            capacity=self.capacity,
            is_alive=lambda lease: self.leases.get(lease.slot, LeaseState(None)),
            script_of=lambda id, attempt: self.scripts.get((str(id), attempt)),
            clocks=Clocks(
                now=lambda: self.clock,
                monotonic=lambda: self.clock - self.stepped - self.slept,
                real=lambda: self.clock - self.stepped,
                boot=self.boot,
            ),
            **self.options,
        )

    def step(self, seconds: float) -> None:
        """Step the clock on the wall, as its owner or NTP does."""
        self.clock += seconds
        self.stepped += seconds

    def suspend(self, seconds: float) -> None:
        """Suspend the machine for a while."""
        self.clock += seconds
        self.slept += seconds

    def restart(self) -> None:
        self.store.close()
        self.start()

    def close(self) -> None:
        """Close the store, and leave nothing in /tmp."""
        self.store.close()
        own = runtime_directory()
        (own / "resource.lock").unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something else is in it
            own.rmdir()

    def key(self) -> str:
        return f"{next(self._keys):032x}"

    def turn(self, *requests: Request) -> list[Reply]:
        return self.queue.turn(requests)

    def ask(self, op: str, blobs: Sequence[bytes] = (), *, by: str = "client", **fields: Any) -> list[Reply]:
        """Ask in a turn of its own; return the replies to it, and keep those to others in `pushed`."""
        n = next(self._numbers)
        replies = self.turn(Request(by, {"op": op, "n": n, **fields}, blobs))
        self.pushed += [one for one in replies if one.header.get("n") != n]
        return [one for one in replies if one.header.get("n") == n]

    def answer(self, op: str, blobs: Sequence[bytes] = (), *, by: str = "client", **fields: Any) -> dict[str, Any]:
        """Ask and return the one answer."""
        (reply,) = self.ask(op, blobs, by=by, **fields)
        return reply.header

    def submit(
        self, count: int | None = None, *, arguments: Sequence[bytes] = (), function: bytes = b"f", **submission: Any
    ) -> str:
        """Submit, and return the id."""
        blobs = [function, *(arguments or [b"%d" % index for index in range(1 if count is None else count)])]
        asked = {"kind": "function", **submission}
        told = self.answer("submit", blobs, key=self.key(), submission=asked, count=count)
        assert "error" not in told, told
        return str(told["id"])

    def claim(self, slot: str = "s1", *, most: int = 64, known: Sequence[str] = ()) -> list[Reply]:
        return self.ask("claim", by=slot, slot=slot, worker="w", lease=f"/leases/{slot}", most=most, known=list(known))

    def take(self, slot: str = "s1", **fields: Any) -> list[tuple[str, int]]:
        """Claim, and return (id, attempt) of the jobs that came at once."""
        replies = self.claim(slot, **fields)
        return [(job["id"], job["attempt"]) for job in replies[0].header["jobs"]] if replies else []

    def end(self, slot: str, *jobs: tuple[str, int], state: str = "finished", blob: bytes = b"r", **more: Any) -> None:
        results = [
            {"id": id, "attempt": attempt, "state": state, "began": self.clock, "ended": self.clock, **more}
            for id, attempt in jobs
        ]
        told = self.answer("ended", [blob] * len(results), by=slot, slot=slot, results=results)
        assert "error" not in told, told

    def work(self, slot: str = "s1") -> list[str]:
        """Let a slot finish all that it gets; return the ids in that order."""
        done = []
        while jobs := self.take(slot):
            self.end(slot, *jobs)
            done += [id for id, _ in jobs]
        self.queue.gone(slot)
        return done

    def row(self, id: str) -> dict[str, Any]:
        told = self.answer("show", id=id)
        assert "error" not in told, told
        return dict(told["row"])

    def state(self, id: str) -> str:
        return str(self.row(id)["state"])


def lease_state(alive: bool | None, *begun: tuple[str, int], is_known: bool = True) -> LeaseState:
    """Return what a lease shows."""
    return LeaseState(alive, frozenset(begun) if is_known else None)


__all__ = ["CAPACITY", "Desk", "Lease", "lease_state"]


ENDED = (*["finished"] * 8, "error", "cancelled")


def fill(
    store: Store,
    n: int,
    *,
    now: float,
    host: str = "server1",
    states: Sequence[str] = (*ENDED, "finished", "running", "pending", "lost"),
) -> None:
    """Fill an empty store with scripts in some states, the last of them submitted at `now`."""
    counts = dict.fromkeys(STATES, 0)
    function = store.put_object(b"{}")
    for number in range(1, n + 1):
        state = states[(number * 5 + number // 3) % len(states)]
        counts[state] += 1
        argv = ["python", "train.py", "--lr", f"{0.1 / (number % 7 + 1):.3g}", "--seed", str(number), "--fold", "3"]
        spec = Submission.from_json(
            {
                "kind": "script",
                "name": "train.py",
                "directory": "/home/alice/project",
                "script": {"argv": argv, "umask": 18, "log_bytes": 10_000_000, "grace": 30, "whole": True},
            }
        )
        text, at = json.dumps(spec.to_json(), sort_keys=True), now - 7.0 * (n - number)
        began = None if state in ("pending", "cancelled") else at
        ended = min(now, at + 1 + number % 40 * 97) if state not in ("pending", "running") else None
        reason = {"error": "exit code 1", "cancelled": "you cancelled it", "lost": "its machine was rebooted"}.get(
            state
        )
        n_each = [int(one == state) for one in STATES]
        head = (number, f"{number:032x}", "script", spec.name, "default", 0, None, function, text, at, began, ended)
        store.put("submissions", (*head, state, reason, *n_each, None, words.command_of({"script": spec.script})))
        usage = (reason, None, None, 3_000_000_000, 59.5, json.dumps({"status": int(state == "error")}), None)
        store.put("jobs", (pack(number, 0), state, int(began is not None), None, began, ended, None, *usage))
        steps = [("running", began)] if began else []
        for serial, (what, when) in enumerate([*steps, *([(state, ended)] if ended else [])]):
            store.put("transitions", (pack(number, 0), serial, 1, what, when, host, None, None, None))
    store.put_all("counts", counts.items())
    store.commit()
