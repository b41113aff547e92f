"""The rules of the queue, whatever happens in whatever order, and requests that can be anything."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ports.jobs import _submissions
from ports.jobs._live import GIVEN, OVER, READY, WAITS
from ports.jobs._model import ENDED, LeaseState, Submission
from ports.jobs._turn import Request
from tests.lab.job_queue import Desk

SLOTS = ["s1", "s2", "s3"]


@pytest.fixture(autouse=True)
def state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    yield


class Slot:
    """A slot as it is: what came, what it began, and what it has not told yet."""

    def __init__(self) -> None:
        self.waits = False
        self.batch: list[tuple[str, int]] = []
        self.place = -1  # of the job that it began last; its lease shows that
        self.is_alive = True
        self.is_connected = True


class Storm(RuleBasedStateMachine):
    """Clients, slots, crashes and restarts in any order. The effects of jobs are counted outside of the store."""

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="ports-storm-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.desk = Desk(self.root)
        self.slots = {name: Slot() for name in SLOTS}
        self.acknowledged: dict[str, int | None] = {}
        self.keys: dict[str, str] = {}
        self.effects: dict[str, int] = {}
        self.final: dict[str, str] = {}  # what a client was told of a job's end
        self.after: dict[str, list[str]] = {}

    def teardown(self) -> None:
        if hasattr(self, "desk"):
            self.desk.close()
            shutil.rmtree(self.root)

    # --- what is said ---

    def hear(self, replies: list[Any]) -> None:
        """Take what the queue sends to slots."""
        for reply in replies:
            slot = self.slots.get(reply.connection)
            if slot is None:
                continue
            if "jobs" in reply.header and slot.waits:
                assert not slot.batch, "work came to a slot that holds some"
                slot.waits = False
                slot.batch = [(job["id"], job["attempt"]) for job in reply.header["jobs"]]
                slot.place = -1

    def ask(self, op: str, by: str = "client", blobs: tuple[bytes, ...] = (), **fields: Any) -> dict[str, Any]:
        replies = self.desk.queue.turn([Request(by, {"op": op, "n": 1, **fields}, blobs)])
        self.hear(replies)
        mine = [one.header for one in replies if one.connection == by and one.header.get("n") == 1]
        assert not mine or "error" not in mine[0] or "state" in mine[0], mine
        return mine[0] if mine else {}

    # --- clients ---

    @rule(
        count=st.sampled_from([None, None, 1, 2, 5]),
        priority=st.integers(-1, 1),
        cpus=st.sampled_from([0.5, 1, 3]),
        retries=st.fixed_dictionaries({"failure": st.integers(0, 1), "lost": st.integers(0, 2)}),
        data=st.data(),
    )
    def submit(
        self, count: int | None, priority: int, cpus: float, retries: dict[str, int], data: st.DataObject
    ) -> None:
        after = []
        if self.acknowledged and data.draw(st.integers(0, 3)) == 0:
            after = [data.draw(st.sampled_from(sorted(self.acknowledged)))]
        asked = {"kind": "function", "priority": priority, "needs": {"cpus": cpus}, "retries": retries, "after": after}
        key = self.desk.key()
        told = self.ask("submit", blobs=(b"f", *[b"x"] * (count or 1)), key=key, submission=asked, count=count)
        assert not told["known"]
        assert told["id"] not in self.acknowledged
        self.acknowledged[told["id"]] = count
        self.keys[key] = told["id"]
        self.after[told["id"]] = after

    @precondition(lambda self: self.keys)
    @rule(data=st.data())
    def submit_again(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.keys)))
        told = self.ask("submit", blobs=(b"f", b"x"), key=key, submission={"kind": "function"}, count=None)
        assert (told["id"], told["known"]) == (self.keys[key], True)

    @rule()
    def leave(self) -> None:
        key = self.desk.key()
        id = str(_submissions.leave(self.desk.places, key, Submission(kind="function"), [b"f", b"x"]))
        assert id not in self.acknowledged
        self.acknowledged[id] = None
        self.keys[key] = id
        self.after[id] = []
        self.desk.queue._intake.left_at = None  # two within one tick of the clock of the disk
        self.hear(self.desk.queue.tick())

    @precondition(lambda self: self.acknowledged)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.acknowledged)))
        if (count := self.acknowledged[id]) is not None and data.draw(st.booleans()):
            id = f"{id}.{data.draw(st.integers(0, count - 1))}"
        self.ask("cancel", ids=[id])

    @rule()
    def drain_and_resume(self) -> None:
        self.ask("drain")
        self.ask("resume")

    # --- slots ---

    @rule(name=st.sampled_from(SLOTS), most=st.integers(1, 4))
    def claim(self, name: str, most: int) -> None:
        slot = self.slots[name]
        if slot.is_alive and slot.is_connected and not slot.batch and not slot.waits:
            slot.waits = True
            self.ask("claim", by=name, slot=name, worker="w", lease=f"/{name}", most=most, known=[], kinds=["function"])

    @rule(name=st.sampled_from(SLOTS))
    def do_next(self, name: str) -> None:
        slot = self.slots[name]
        if slot.is_alive and slot.place + 1 < len(slot.batch):
            slot.place += 1
            id, _ = slot.batch[slot.place]
            assert self.final.get(id) != "cancelled", f"{id} runs after it was cancelled"
            self.effects[id] = self.effects.get(id, 0) + 1

    @rule(name=st.sampled_from(SLOTS))
    def say_begun(self, name: str) -> None:
        slot = self.slots[name]
        if slot.is_alive and slot.is_connected and 0 <= slot.place < len(slot.batch):
            id, attempt = slot.batch[slot.place]
            self.ask("begun", by=name, slot=name, id=id, attempt=attempt, at=self.desk.clock)

    @rule(
        name=st.sampled_from(SLOTS),
        state=st.sampled_from(["finished", "finished", "error", "lost"]),
        twice=st.booleans(),
    )
    def tell(self, name: str, state: str, twice: bool) -> None:
        slot = self.slots[name]
        if slot.is_alive and slot.is_connected and slot.place >= 0:
            done, slot.batch = slot.batch[: slot.place + 1], slot.batch[slot.place + 1 :]
            slot.place = -1
            results = [
                {"id": id, "attempt": attempt, "state": state, "began": 1.0, "ended": 1.0} for id, attempt in done
            ]
            for _ in range(2 if twice else 1):
                self.ask("ended", by=name, blobs=(b"r",) * len(done), slot=name, results=results)

    @rule(name=st.sampled_from(SLOTS))
    def give_back(self, name: str) -> None:
        slot = self.slots[name]
        if slot.is_alive and slot.is_connected and slot.place < 0 and slot.batch:
            ids, slot.batch = [id for id, _ in slot.batch], []
            self.ask("returned", by=name, slot=name, ids=ids)

    # --- what breaks ---

    @rule(name=st.sampled_from(SLOTS), with_lease=st.booleans())
    def kill(self, name: str, with_lease: bool) -> None:
        slot = self.slots[name]
        begun = frozenset(slot.batch[: slot.place + 1])
        self.slots[name] = fresh = Slot()
        fresh.is_connected = False
        self.desk.queue.gone(name)
        self.desk.leases[name] = LeaseState(False, begun if with_lease else None)
        self.desk.clock += 2
        self.hear(self.desk.queue.tick())
        assert name not in self.desk.queue._exchange.ledger.runs_of, "what a dead slot had is still its"
        self.desk.leases[name] = LeaseState(None)
        fresh.is_connected = True

    @rule(name=st.sampled_from(SLOTS))
    def cut(self, name: str) -> None:
        """The connection of a slot ends; work that was on its way to it is lost. It comes back and says what it has."""
        slot = self.slots[name]
        self.desk.queue.gone(name)
        slot.waits = False
        if slot.is_alive:
            self.ask("holding", by=name, slot=name, worker="w", lease=f"/{name}", ids=[id for id, _ in slot.batch])

    @rule(name=st.sampled_from(SLOTS))
    def lose_the_answer(self, name: str) -> None:
        """A claim is answered, and the answer is lost with the connection."""
        slot = self.slots[name]
        if slot.is_alive and not slot.batch and not slot.waits:
            request = {"op": "claim", "n": 1, "slot": name, "worker": "w", "lease": f"/{name}", "most": 3, "known": []}
            replies = self.desk.queue.turn([Request(name, request)])
            self.hear([one for one in replies if one.connection != name])
            self.cut(name)

    @rule(has_moved=st.booleans())
    def restart(self, has_moved: bool) -> None:
        """The resource is killed and comes back; slots find it again and say what they have."""
        self.desk.restart()
        if has_moved:
            self.desk.step(3600.0)
        for name, slot in self.slots.items():
            slot.waits = False
            self.ask("holding", by=name, slot=name, worker="w", lease=f"/{name}", ids=[id for id, _ in slot.batch])

    @rule(seconds=st.sampled_from([0.1, 5.0]), steps=st.sampled_from([0.0, -3600.0, 3600.0]))
    def let_time_pass(self, seconds: float, steps: float) -> None:
        self.desk.clock += seconds
        self.desk.step(steps)
        self.hear(self.desk.queue.tick())

    # --- what is always true ---

    def jobs(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        for id, count in self.acknowledged.items():
            for one in [id] if count is None else [f"{id}.{item}" for item in range(count)]:
                yield id, one, self.desk.row(one)

    @invariant()
    def all_is_true(self) -> None:
        if not hasattr(self, "desk"):
            return
        counts = dict.fromkeys(self.desk.queue._exchange.ledger.totals, 0)
        for id, one, row in self.jobs():
            counts[row["state"]] += 1
            assert self.effects.get(one, 0) <= row["attempt"], f"{one} ran more often than is recorded"
            if one in self.final:
                assert row["state"] == self.final[one], f"{one} had ended"
            if row["state"] in ENDED:
                self.final[one] = row["state"]
            if row["state"] == "finished":
                assert self.effects[one] >= 1
            if row["attempt"] and row["state"] != "cancelled":
                for needed in self.after[id]:
                    assert self.desk.state(needed) == "finished", f"{one} ran before {needed}"
        assert counts == self.desk.answer("status")["counts"]
        held = [one for slot in self.slots.values() for one, _ in slot.batch]
        assert len(held) == len(set(held)), "two slots have one job"
        free = self.desk.answer("status")["free"]
        assert 0 <= free["cpus"] <= 4

    @invariant()
    def nothing_is_forgotten(self) -> None:
        """Every job ends if slots go on working."""
        if not hasattr(self, "desk"):
            return
        ledger = self.desk.queue._exchange.ledger
        for live in ledger.lives.values():
            places = [live.place(item) for item in range(live.count)]
            given = [run for run in ledger.runs.values() if run.live is live]
            assert sorted(run.item for run in given) == [item for item, one in enumerate(places) if one == GIVEN]
            assert live.counts[1] == sum(1 for run in given if run.began is not None)
            assert live.counts[0] + live.counts[1] == live.count - places.count(OVER)
            assert sorted(live.pending()) == [item for item, one in enumerate(places) if one not in (GIVEN, OVER)]
            lines = {} if live.grown is None else live.grown.lines
            assert live.n_ready_here + sum(one.n_ready for one in lines.values()) == places.count(READY)
            assert set(live.waits) == {item for item, one in enumerate(places) if one == WAITS}
            assert not live.shelves(), "it has ready jobs, and slots do not find them"
        queued = [run for runs in ledger.runs_of.values() for run in runs.values()]
        assert sorted(run.job for run in queued) == sorted(ledger.runs)
        assert set(ledger.room.booked) == set(ledger.runs_of)


def storm(rounds: int, steps: int) -> None:
    options = settings(
        max_examples=rounds,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        print_blob=True,
    )
    case = Storm.TestCase
    case.settings = options
    seed(11)(case)
    case("runTest").runTest()


def test_the_rules_hold_in_a_storm() -> None:
    storm(8, 40)


# --- requests that can be anything ---

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["1", "1.0", "2.1", "s1", "0" * 32, "finished", "lost", "function", "/leases/s1", 10**30, -1]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
OPS = ["submit", "list", "show", "result", "watch", "cancel", "status", "drain", "resume", "prune", "rerun"]
OPS += ["claim", "begun", "started", "returned", "holding", "ended"]
FIELDS = [
    "key",
    "submission",
    "count",
    "newest",
    "filters",
    "id",
    "ids",
    "wait",
    "from",
    "reason",
    "older",
    "states",
    "dry",
]
FIELDS += ["slot", "worker", "process", "lease", "most", "known", "kinds", "attempt", "at", "results", "n"]
GOOD: dict[str, Any] = {
    "key": "ab" * 16,
    "submission": {"kind": "function"},
    "id": "1.0",
    "ids": ["1"],
    "slot": "s1",
    "attempt": 1,
    "lease": "/leases/s1",
    "results": [{"id": "1.0", "attempt": 1, "state": "finished"}],
    "filters": {},
    "wait": 0,
}
RESULT = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["1.0", "1.1", "2"]),
        "attempt": st.just(1),
        "state": st.sampled_from(["finished", "error"]),
    },
    optional=dict.fromkeys(("error", "reason", "began", "ended", "note", "peak_memory", "cpu_time"), ANYTHING),
)
VALUES = {"results": ANYTHING | st.lists(RESULT, max_size=3), "filters": ANYTHING | st.dictionaries(
    st.sampled_from(["state", "name", "tag", "queue", "before"]), ANYTHING, max_size=2)}  # fmt: skip
HEADERS = st.fixed_dictionaries(
    {"op": st.sampled_from(OPS) | ANYTHING},
    optional={name: VALUES.get(name, ANYTHING) | st.just(GOOD.get(name)) for name in FIELDS},
)


def hostile(tmp_path: Path, rounds: int) -> None:
    desk = Desk(tmp_path)
    desk.submit(3)
    desk.submit()
    desk.take("s1")

    @settings(max_examples=rounds, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
    @given(st.lists(st.tuples(HEADERS, st.lists(st.binary(max_size=4), max_size=3)), min_size=1, max_size=4))
    def run(inbox: list[tuple[dict[str, Any], list[bytes]]]) -> None:
        for reply in desk.turn(*(Request("x", header, blobs) for header, blobs in inbox)):
            if (error := reply.header.get("error")) is not None and "state" not in reply.header:
                assert error["text"]
                assert error["kind"] in ("UsageError", "NotFoundError"), error
        desk.clock += 1
        desk.queue.tick()

    run()
    desk.restart()
    assert desk.answer("status")["counts"]
    desk.close()


def test_a_request_that_can_be_anything_is_answered_in_words(tmp_path: Path) -> None:
    hostile(tmp_path, 60)
