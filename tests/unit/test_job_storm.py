"""The rules of the queue, whatever happens in whatever order, and requests that can be anything."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ports.errors import StoreError
from ports.jobs._live import GIVEN, OVER, READY, WAITS
from ports.jobs._model import ENDED, Lease, LeaseState, Submission
from ports.jobs._turn import Request
from tests.lab import job_queue
from tests.lab.job_queue import Desk

SLOTS = ["s1", "s2", "s3"]
GIB = 2**30


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
        self.results: list[dict[str, Any]] = []  # that are not acknowledged
        self.started: list[tuple[str, int]] = []  # scripts, whose starts are not acknowledged

    def holds(self) -> list[list[Any]]:
        """Return for which jobs it still answers, besides its batch."""
        return [[one["id"], one["attempt"]] for one in self.results] + [list(one) for one in self.started]


class Storm(RuleBasedStateMachine):
    """Clients, slots, crashes, full disks and restarts in any order. Effects of jobs are counted outside the store."""

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="ports-storm-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.desk = Desk(self.root, limits={"night": 1})
        self.slots = {name: Slot() for name in SLOTS}
        self.numbers = itertools.count(1)
        self.acknowledged: dict[str, int | None] = {}
        self.keys: dict[str, str] = {}
        self.effects: dict[str, int] = {}
        self.final: dict[str, str] = {}  # what a client was told of a job's end
        self.after: dict[str, list[str]] = {}
        self.scripts: set[str] = set()
        self.unwanted: set[str] = set()  # jobs that clients have cancelled
        self.running: dict[tuple[str, int], bool] = {}  # scripts that were started: whether they run still

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
            if "error" in reply.header:
                slot.waits = False  # it asks again
            elif "jobs" in reply.header and slot.waits:
                assert not slot.batch, "work came to a slot that holds some"
                assert not slot.holds(), "work came to a slot that answers for some"
                slot.waits = False
                slot.batch = [(job["id"], job["attempt"]) for job in reply.header["jobs"]]
                assert not self.unwanted & {id for id, _ in slot.batch}, "a job is given out whose end was asked for"
                slot.place = -1

    def ask(self, op: str, by: str = "client", blobs: tuple[bytes, ...] = (), **fields: Any) -> dict[str, Any]:
        n = next(self.numbers)
        replies = self.desk.queue.turn([Request(by, {"op": op, "n": n, **fields}, blobs)])
        self.hear([one for one in replies if one.header.get("n") != n or "jobs" in one.header])
        mine = [one.header for one in replies if one.connection == by and one.header.get("n") == n]
        if mine and "error" in mine[0] and "state" not in mine[0]:
            assert mine[0]["error"]["kind"] == "StoreError", mine
            return {"refused": True}
        return mine[0] if mine else {}

    # --- clients ---

    @rule(
        count=st.sampled_from([None, None, 1, 2, 5]),
        options=st.fixed_dictionaries(
            {
                "priority": st.integers(-1, 1),
                "queue": st.sampled_from(["default", "default", "night"]),
                "retries": st.fixed_dictionaries(
                    {"failure": st.integers(0, 1), "lost": st.integers(0, 2), "memory": st.integers(0, 3)}
                ),
            },
            optional={
                "lifetime": st.sampled_from([1.0, 100.0]),
                "timeout": st.sampled_from([1.0, 100.0]),
                "memory_growth": st.sampled_from([1.5, 3]),
            },
        ),
        cpus=st.sampled_from([0.5, 1, 3, None]),
        memory=st.sampled_from([None, None, GIB, 5 * GIB]),
        is_script=st.booleans(),
        data=st.data(),
    )
    def submit(
        self,
        count: int | None,
        options: dict[str, Any],
        cpus: float | None,
        memory: int | None,
        is_script: bool,
        data: st.DataObject,
    ) -> None:
        after, inputs = [], {}
        singles = sorted(id for id, n in self.acknowledged.items() if n is None and id not in self.scripts)
        if self.acknowledged and data.draw(st.integers(0, 3)) == 0:
            after = [data.draw(st.sampled_from(sorted(self.acknowledged)))]
        count, is_script = (None, True) if is_script and count is None else (count, False)
        if singles and count is not None and data.draw(st.booleans()):
            inputs = {str(data.draw(st.integers(0, count - 1))): [data.draw(st.sampled_from(singles))]}
        asked = {**options, "needs": {"cpus": cpus, "memory": memory}, "after": after, "inputs": inputs}
        if not is_script and data.draw(st.integers(0, 3)) == 0:
            asked["cache"] = {
                "policy": "use",
                "keys": [data.draw(st.sampled_from(["aa" * 4, "bb" * 4]))] * (count or 1),
            }
        if data.draw(st.integers(0, 5)) == 0:
            asked["at"] = self.desk.clock + 3
        key, blobs = self.desk.key(), (b"f",) if is_script else (b"f", *[b"x"] * (count or 1))
        kind = "script" if is_script else "function"
        if is_script:
            self.desk.places.environ_of(key).write_text("secret")
        told = self.ask("submit", blobs=blobs, key=key, submission={"kind": kind, **asked}, count=count)
        assert not told["known"]
        assert told["id"] not in self.acknowledged
        self.note(told["id"], key, count, after)
        if is_script:
            self.scripts.add(told["id"])
        for item, ids in inputs.items():
            self.after[f"{told['id']}.{item}"] = ids

    def note(self, id: str, key: str, count: int | None, after: list[str]) -> None:
        self.acknowledged[id], self.keys[key], self.after[id] = count, id, after

    @precondition(lambda self: self.keys)
    @rule(data=st.data())
    def submit_again(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.keys)))
        told = self.ask("submit", blobs=(b"f", b"x"), key=key, submission={"kind": "function"}, count=None)
        assert (told["id"], told["known"]) == (self.keys[key], True)

    @rule()
    def leave(self) -> None:
        key = self.desk.key()
        id = str(job_queue.leave(self.desk.places, key, Submission(kind="function"), [b"f", b"x"]))
        assert id not in self.acknowledged
        self.note(id, key, None, [])
        self.desk.queue._intake.left_at = None  # two within one tick of the clock of the disk
        self.hear(self.desk.queue.tick())

    @precondition(lambda self: self.acknowledged)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.acknowledged)))
        if (count := self.acknowledged[id]) is not None and data.draw(st.booleans()):
            id = f"{id}.{data.draw(st.integers(0, count - 1))}"
        self.ask("cancel", ids=[id])
        self.unwanted |= {id} if count is None or "." in id else {f"{id}.{item}" for item in range(count)}

    @rule()
    def drain_and_resume(self) -> None:
        self.ask("drain")
        self.ask("resume")

    @rule()
    def prune(self) -> None:
        self.desk.clock += 1
        for id in self.ask("prune", older=0)["ids"]:
            for one in [id, *(f"{id}.{item}" for item in range(self.acknowledged.pop(id) or 0))]:
                for kept in (self.effects, self.final, self.after):
                    kept.pop(one, None)
            self.keys = {key: one for key, one in self.keys.items() if one != id}

    # --- slots ---

    @rule(name=st.sampled_from(SLOTS), most=st.integers(1, 4))
    def claim(self, name: str, most: int) -> None:
        slot = self.slots[name]
        if not slot.batch and not slot.waits:
            slot.waits = True
            who = {"slot": name, "worker": "w", "lease": f"/{name}", "most": most, "known": [], "holds": slot.holds()}
            if self.ask("claim", by=name, **who).get("refused"):
                slot.waits = False

    @rule(name=st.sampled_from(SLOTS), is_told=st.booleans())
    def do_next(self, name: str, is_told: bool) -> None:
        slot = self.slots[name]
        if slot.place + 1 >= len(slot.batch):
            return
        slot.place += 1
        id, attempt = slot.batch[slot.place]
        assert self.final.get(id) != "cancelled", f"{id} runs after it was cancelled"
        self.effects[id] = self.effects.get(id, 0) + 1
        if id in self.scripts:
            assert not any(runs for (one, _), runs in self.running.items() if one == id), f"{id} runs twice"
            self.running[id, attempt] = True
            self.desk.scripts[id, attempt] = Lease(f"job-{id}-{attempt}", f"/job-{id}-{attempt}", {"pid": 1})
            slot.batch, slot.place, slot.started = [], -1, [(id, attempt)]
            if is_told:
                self.tell_started(name)

    def tell_started(self, name: str) -> None:
        slot = self.slots[name]
        started, slot.started = slot.started, []
        for id, attempt in started:
            lease = f"job-{id}-{attempt}"
            told = self.ask("started", by=name, slot=name, id=id, attempt=attempt, process={"pid": 1}, lease=lease)
            slot.started += [(id, attempt)] if told.get("refused") else []

    @rule(status=st.sampled_from([0, 1, "lost"]))
    def end_a_script(self, status: Any) -> None:
        """A script ends, and the loop sees how, as far as the queue knows that it runs."""
        for (id, attempt), runs in list(self.running.items()):
            if runs:
                self.running[id, attempt] = False
                break
        self.look_at_scripts(status)

    def look_at_scripts(self, status: Any = 0) -> None:
        for id, attempt, lease in self.desk.queue.scripts():
            if not self.running[str(id), attempt]:
                how = {0: "finished", 1: "error"}.get(status, "lost")
                result = {"id": str(id), "attempt": attempt, "state": how, "note": {"status": status}}
                told = Request(None, {"op": "ended", "slot": lease.slot, "results": [result]}, [b""])
                self.hear(self.desk.queue.turn([told]))

    @rule(name=st.sampled_from(SLOTS))
    def say_begun(self, name: str) -> None:
        slot = self.slots[name]
        if 0 <= slot.place < len(slot.batch):
            id, attempt = slot.batch[slot.place]
            self.ask("begun", by=name, slot=name, id=id, attempt=attempt, at=self.desk.clock)

    @rule(
        name=st.sampled_from(SLOTS),
        state=st.sampled_from(["finished", "finished", "error", "lost", "memory"]),
        twice=st.booleans(),
    )
    def tell(self, name: str, state: str, twice: bool) -> None:
        slot = self.slots[name]
        done, slot.batch = slot.batch[: slot.place + 1], slot.batch[slot.place + 1 :]
        slot.place = -1
        how = {"state": "error", "reason": "memory"} if state == "memory" else {"state": state}
        slot.results += [{"id": id, "attempt": attempt, **how, "began": 1.0, "ended": 1.0} for id, attempt in done]
        for _ in range(2 if twice else 1):
            self.report(name)

    def report(self, name: str) -> None:
        slot = self.slots[name]
        results, slot.results = slot.results, []  # the answer to it comes before the next work
        if results:
            told = self.ask("ended", by=name, blobs=(b"r",) * len(results), slot=name, results=results)
            slot.results = results if told.get("refused") else []

    @rule(name=st.sampled_from(SLOTS))
    def give_back(self, name: str) -> None:
        slot = self.slots[name]
        if slot.place < 0 and slot.batch:
            ids, slot.batch = [id for id, _ in slot.batch], []
            self.ask("returned", by=name, slot=name, ids=ids)

    # --- what breaks ---

    @rule(name=st.sampled_from(SLOTS), what=st.sampled_from(["tell", "claim", "started"]))
    def fill_the_disk(self, name: str, what: str) -> None:
        """The disk refuses what a slot tells or asks for."""

        def refuse() -> None:
            self.desk.store.roll_back()
            raise StoreError(self.desk.store.path, "No space left on device")

        self.desk.store.commit = refuse  # type: ignore[method-assign]
        if what == "tell":
            self.tell(name, "finished", twice=False)
        elif what == "claim":
            self.claim(name, 2)
        else:
            self.tell_started(name)
        del self.desk.store.commit

    @rule(name=st.sampled_from(SLOTS), with_lease=st.booleans())
    def kill(self, name: str, with_lease: bool) -> None:
        slot = self.slots[name]
        # The lease has the whole batch: those whose results were not acknowledged, and those that it began.
        begun = [(one["id"], one["attempt"]) for one in slot.results] + slot.batch[: slot.place + 1] + slot.started
        self.slots[name] = Slot()
        self.desk.queue.gone(name)
        self.desk.leases[name] = LeaseState(False, frozenset(begun) if with_lease else None)
        self.desk.clock += 2
        self.hear(self.desk.queue.tick())
        assert name not in self.desk.queue._exchange.ledger.runs_of, "what a dead slot had is still its"
        self.desk.leases[name] = LeaseState(None)

    @rule(name=st.sampled_from(SLOTS), how=st.sampled_from(["kill", "cut", "restart"]))
    def break_while_a_script_starts(self, name: str, how: str) -> None:
        """A script is started, and what started it ends, is cut off, or tells a resource that was killed meanwhile."""
        key = self.desk.key()
        asked = {"kind": "script", "priority": 9, "retries": {"lost": 2}, "needs": {"cpus": 0.1}}
        told = self.ask("submit", blobs=(b"f",), key=key, submission=asked, count=None)
        self.note(told["id"], key, None, [])
        self.scripts.add(told["id"])
        self.claim(name, 1)
        if [id for id, _ in self.slots[name].batch] == [told["id"]]:
            self.do_next(name, is_told=False)
        if how == "kill":
            self.kill(name, with_lease=True)
        elif how == "cut":
            self.cut(name)
        else:
            self.restart(has_moved=False)

    @rule(name=st.sampled_from(SLOTS))
    def cut(self, name: str) -> None:
        """The connection of a slot ends; work that was on its way to it is lost. It comes back and says what it has."""
        slot = self.slots[name]
        self.desk.queue.gone(name)
        slot.waits = False
        self.hold(name)

    def hold(self, name: str) -> None:
        slot = self.slots[name]
        holds = [*slot.holds(), *(list(one) for one in slot.batch)]
        self.ask("holding", by=name, slot=name, worker="w", lease=f"/{name}", holds=holds)
        self.tell_started(name)

    @rule(name=st.sampled_from(SLOTS))
    def lose_the_answer(self, name: str) -> None:
        """A claim is answered, and the answer is lost with the connection."""
        slot = self.slots[name]
        if not slot.batch and not slot.waits:
            request = {"op": "claim", "n": 0, "slot": name, "worker": "w", "lease": f"/{name}", "most": 3, "known": []}
            replies = self.desk.queue.turn([Request(name, {**request, "holds": slot.holds()})])
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
            self.hold(name)

    @rule(seconds=st.sampled_from([0.1, 5.0]), steps=st.sampled_from([0.0, -3600.0, 3600.0]))
    def let_time_pass(self, seconds: float, steps: float) -> None:
        self.desk.clock += seconds
        self.desk.step(steps)
        self.hear(self.desk.queue.tick())

    @precondition(lambda self: len(self.acknowledged) > 4)
    @rule()
    def work_everything_off(self) -> None:
        """Whatever has happened: where slots go on, every job ends."""
        self.desk.step(1_000_000.0)  # beyond any time at which a job begins, with clocks set back
        for _ in range(200):
            self.hear(self.desk.queue.tick())
            for name, slot in self.slots.items():
                self.tell_started(name)
                while slot.place + 1 < len(slot.batch):
                    self.do_next(name, is_told=True)
                self.tell(name, "finished", twice=False)
                self.claim(name, 4)
            self.running = dict.fromkeys(self.running, False)
            self.look_at_scripts()
            if not (self.desk.queue._exchange.ledger.lives):
                break
        counts = self.desk.answer("status")["counts"]
        assert counts["pending"] == counts["running"] == 0, self.desk.answer("list", newest=1000)["rows"]
        assert not list(self.desk.places.environs.iterdir())
        room = self.desk.queue._exchange.ledger.room
        assert (room.cpus, room.memory) == (4, 8 * GIB)

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
        of_maps: dict[str, dict[str, int]] = {}
        for id, one, row in self.jobs():
            counts[row["state"]] += 1
            of_map = of_maps.setdefault(id, {})
            of_map[row["state"]] = of_map.get(row["state"], 0) + 1
            assert self.effects.get(one, 0) <= row["attempt"], f"{one} ran more often than is recorded"
            if one in self.final:
                assert row["state"] == self.final[one], f"{one} had ended"
            if row["state"] in ENDED:
                self.final[one] = row["state"]
            if row["state"] == "finished":
                assert self.effects[one] >= 1
            if row["attempt"] and row["state"] != "cancelled":
                for needed in [*self.after.get(id, []), *self.after.get(one, [])]:
                    if needed in self.acknowledged:  # not pruned
                        assert self.desk.state(needed) == "finished", f"{one} ran before {needed}"
        assert counts == self.desk.answer("status")["counts"]
        for id, count in self.acknowledged.items():
            if count is not None:
                assert self.desk.row(id)["counts"] == of_maps[id]
        held = [one for slot in self.slots.values() for one, _ in slot.batch]
        assert len(held) == len(set(held)), "two slots have one job"
        free = self.desk.answer("status")["free"]
        assert 0 <= free["cpus"] <= 4
        assert 0 <= free["memory"] <= 8 * GIB

    @invariant()
    def nothing_is_forgotten(self) -> None:
        """Each job is in one place, and where it is ready slots find it."""
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
        assert ledger.room.n_of_queue.get("night", 0) <= 1


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
    seed(11)(Storm)  # not of its TestCase, which hypothesis does not ask for it
    case("runTest").runTest()


def test_the_rules_hold_in_a_storm() -> None:
    storm(10, 50)


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
