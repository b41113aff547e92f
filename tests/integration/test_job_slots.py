"""A slot and its child against the loop: what runs, what is reported, what happens to a child that dies.

The queue is a list in memory: the real one has tests of its own.
"""

from __future__ import annotations

import collections
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ports.errors import StoreError
from ports.jobs import _travel
from ports.jobs._model import Lease
from ports.jobs._places import Places
from ports.jobs._protocol import encode
from ports.jobs._turn import Reply, Request
from ports.jobs.resource import lease, script
from ports.jobs.resource.loop import Loop, listen
from ports.jobs.resource.slot import Slot
from ports.state import wait_until

pytestmark = pytest.mark.ci


class ListQueue:
    """Gives out jobs in their order, and keeps what is reported."""

    def __init__(self) -> None:
        self.jobs: collections.deque[tuple[dict[str, Any], bytes, bytes]] = collections.deque()
        self.held: list[Request] = []
        self.ended: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
        self.blobs: dict[str, bytes] = {}
        self.seen: list[dict[str, Any]] = []
        self.given: dict[str, tuple[dict[str, Any], bytes, bytes]] = {}
        self.pushes: list[Reply] = []
        self.most = 64
        self.wanted_slots, self.is_waiting, self.trouble = 0, False, None
        self.n_given = 0

    def turn(self, inbox: Any) -> list[Reply]:
        replies: list[Reply] = []
        for one in inbox:
            self.seen.append(one.header)
            op = one.header["op"]
            if op == "claim":
                self.held.append(one)
                continue
            if op == "ended":
                for result, blob in zip(one.header["results"], one.blobs, strict=True):
                    self.ended[result["id"]].append(result)
                    self.blobs[result["id"]] = blob
            elif op == "returned":
                self.jobs.extendleft(self.given[name] for name in reversed(one.header["ids"]))
            replies.append(Reply(one.connection, {"n": one.header["n"]}))
        return [*replies, *self.serve()]

    def tick(self) -> list[Reply]:
        pushes, self.pushes = self.pushes, []
        return [*pushes, *self.serve()]

    def serve(self) -> list[Reply]:
        replies: list[Reply] = []
        while self.held and self.jobs:
            claim = self.held.pop(0)
            batch = [self.jobs.popleft() for _ in range(min(self.most, claim.header["most"], len(self.jobs)))]
            self.n_given += len(batch)
            self.given.update({job["id"]: (job, function, arguments) for job, function, arguments in batch})
            known = set(claim.header["known"])
            new = {job["function"]: function for job, function, _ in batch if job["function"] not in known}
            jobs = [{**job, "arguments": len(new) + number} for number, (job, _, _) in enumerate(batch)]
            numbers = {digest: number for number, digest in enumerate(new)}
            header = {"n": claim.header["n"], "jobs": jobs, "functions": numbers}
            replies.append(Reply(claim.connection, header, [*new.values(), *(one for _, _, one in batch)]))
        return replies

    def take_over(self) -> list[int]:
        return []

    def gone(self, connection: Any) -> None:
        self.held = [one for one in self.held if one.connection != connection]


class Place:
    """A loop and slots in threads of this process."""

    def __init__(self, places: Places) -> None:
        self.places, self.queue = places, ListQueue()
        self.numbers = 0
        self.slots: list[Slot] = []
        self.threads: list[threading.Thread] = []
        self.begin()

    def begin(self) -> None:
        """Start a loop, as a resource that was killed is started again."""
        self.loop = Loop(self.queue, listen(self.places))  # type: ignore[arg-type]
        self.thread = threading.Thread(target=self.loop.run, daemon=True)
        self.thread.start()

    def end(self) -> None:
        self.loop.stop()
        self.thread.join(10)

    def add(self, function: Callable[..., Any], *arguments: Any, **fields: Any) -> str:
        """Put a job into the queue."""
        parcel = _travel.pack(function, [(arguments, {})])
        digest = str(hash(parcel.function))
        self.numbers += 1
        job = {"id": str(self.numbers), "attempt": 1, "kind": "function", "function": digest, **fields}
        self.queue.jobs.append((job, parcel.function, parcel.arguments[0]))
        return job["id"]

    def slot(self, *, idle: float = 30.0, grace: float = 5.0, worker: Any = None) -> Slot:
        """Start a slot."""
        options = {"root": self.places.root, "runtime": self.places.runtime, "task": "t", "idle": idle, "grace": grace}
        made: list[Slot] = []

        def run() -> None:
            made.append(Slot(options, worker))
            made[0].run()

        self.threads.append(threading.Thread(target=run, daemon=True))
        self.threads[-1].start()
        self.slots.append(wait_until(lambda: made[0] if made else None, timeout=10, what="the slot"))
        return self.slots[-1]

    def result(self, job: str, *, timeout: float = 20.0) -> Any:
        """Return what became of a job."""
        told = wait_until(lambda: self.queue.ended.get(job), timeout=timeout, what=f"job {job}")[0]
        return _travel.unpack(self.queue.blobs[job], job) if told["state"] == "finished" else told

    def output(self, job: str, name: str = "stdout") -> str:
        return (self.places.work / job / name).read_text()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    places = Places(tmp_path / "jobs", tmp_path / "run")
    for directory in (places.root, places.runtime, places.streams, places.work, places.leases):
        directory.mkdir()
    one = Place(places)
    yield one
    for slot in one.slots:
        slot.is_closing = True
        slot.batch.clear()
    one.queue.jobs.clear()
    one.end()
    for thread in one.threads:
        thread.join(10)
        assert not thread.is_alive()


def add_one(x: int) -> int:
    return x + 1


def test_jobs_run_one_after_the_other_in_one_warm_child(place: Place) -> None:
    ids = [place.add(lambda x: (x + 1, os.getpid()), number) for number in range(200)]
    place.slot()
    found = [place.result(one) for one in ids]
    assert [value for value, _ in found] == list(range(1, 201))
    assert len({pid for _, pid in found}) == 1
    assert all(len(place.queue.ended[one]) == 1 for one in ids)


def test_an_error_is_reported_with_its_traceback(place: Place) -> None:
    def divide() -> float:
        return 1 / 0

    job = place.add(divide)
    place.slot()
    told = place.result(job)
    assert (told["state"], told["error"]["type"]) == ("error", "ZeroDivisionError")
    assert "divide" in told["error"]["traceback"]


def test_what_a_job_prints_lies_in_its_directory(place: Place) -> None:
    def talk() -> None:
        import sys

        print("hello")
        os.write(1, b"from below\n")
        print("oh", file=sys.stderr)

    quiet, loud = place.add(add_one, 1), place.add(talk)
    after = place.add(add_one, 2)
    place.slot()
    assert place.result(after) == 3 and place.result(quiet) == 2
    assert place.queue.ended[loud][0]["has_output"] and not place.queue.ended[quiet][0]["has_output"]
    assert place.output(loud) == "hello\nfrom below\n" and place.output(loud, "stderr") == "oh\n"
    assert not (place.places.work / quiet).exists()


def test_what_a_job_changes_is_put_back(place: Place) -> None:
    def spoil() -> None:
        import sys

        os.chdir("/")
        os.environ["SPOILT"] = "1"
        os.environ.pop("PATH")
        sys.stdout.close()
        os.close(1)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def look() -> Any:
        print("still here")
        return str(Path.cwd()), "SPOILT" in os.environ, "PATH" in os.environ

    place.add(spoil)
    job = place.add(look)
    place.slot()
    assert place.result(job) == (str(Path.home()), False, True)
    assert place.output(job) == "still here\n"


def test_a_job_gets_its_directory_and_its_variables(place: Place, tmp_path: Path) -> None:
    def look() -> Any:
        return str(Path.cwd()), os.environ.get("MINE"), os.environ.get("OMP_NUM_THREADS")

    job = place.add(look, directory=str(tmp_path), environ={"MINE": "yes"}, cpus=3)
    plain = place.add(look)
    place.slot()
    assert place.result(job) == (str(tmp_path), "yes", "3")
    assert place.result(plain) == (str(Path.home()), None, "1")


@pytest.mark.parametrize(
    ("end", "state", "words"),
    [
        (lambda: os._exit(3), "error", "exit status 3"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "error", "signal 11 (SIGSEGV)"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "lost", "signal 9 (SIGKILL)"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), "lost", "signal 15 (SIGTERM)"),
    ],
)
@pytest.mark.parametrize("isolate", [False, True])
def test_a_child_that_dies_is_told_in_words_and_replaced(
    place: Place, end: Callable[[], None], state: str, words: str, isolate: bool
) -> None:
    before, job, after = place.add(add_one, 1), place.add(end, isolate=isolate), place.add(add_one, 2)
    place.slot()
    told = place.result(job)
    assert (told["state"], words in told["error"]["text"]) == (state, True), told
    assert (place.result(before), place.result(after)) == (2, 3)
    assert [len(place.queue.ended[one]) for one in (before, job, after)] == [1, 1, 1]


def test_a_job_that_forks_and_returns_is_reported_once(place: Place) -> None:
    def fork() -> str:
        return "child" if not os.fork() else "parent"

    job, after = place.add(fork), place.add(add_one, 1)
    place.slot()
    assert (place.result(job), place.result(after)) == ("parent", 2)
    assert len(place.queue.ended[job]) == 1


def test_a_cancelled_job_ends_and_the_next_one_runs(place: Place) -> None:
    job, after = place.add(time.sleep, 60), place.add(add_one, 1)
    place.slot()
    begun = wait_until(
        lambda: next((one for one in place.queue.seen if one["op"] == "begun"), None), timeout=10, what=""
    )
    assert (begun["id"], begun["attempt"]) == (job, 1)
    (number,) = [one.number for one in place.loop.peers.values()]
    place.queue.pushes.append(Reply(number, {"op": "end", "id": job, "attempt": 1, "how": "cancel"}))
    assert place.result(job)["state"] == "cancelled"
    assert place.result(after) == 2


def test_a_job_that_ignores_sigterm_is_killed_after_the_grace(place: Place) -> None:
    def stay() -> None:
        while True:
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                pass

    job = place.add(stay, timeout=0.2)
    place.slot(grace=0.5)
    told = place.result(job)
    assert (told["state"], told["reason"], "timeout of 0.2 s" in told["error"]["text"]) == ("error", "time", True)


def test_an_isolated_job_changes_nothing_for_the_next(place: Place) -> None:
    def leave() -> list[str]:
        os.chdir("/")
        os.environ["LEFT"] = "1"
        os.umask(0)
        return [os.environ["PORTS_JOB"], os.environ["PORTS_ATTEMPT"]]

    def look() -> list[object]:
        return [os.getcwd(), os.environ.get("LEFT"), os.environ["PORTS_JOB"], os.umask(0o77)]

    before, job, after, last = place.add(look), *(place.add(leave, isolate=True) for _ in range(2)), place.add(look)
    place.slot()
    first, then = place.result(before), place.result(last)
    assert (place.result(job), place.result(after)) == ([job, "1"], [after, "1"])
    assert (first[0], first[2], then[2], then[3]) == (then[0], before, last, first[3])
    assert first[1] is then[1] is None


def test_an_isolated_job_that_takes_too_long_is_ended(place: Place) -> None:
    job, after = place.add(time.sleep, 60, timeout=0.2, isolate=True), place.add(os.getppid, isolate=True)
    place.slot()
    told = place.result(job)
    assert (told["state"], told.get("reason")) == ("error", "time")
    assert place.result(after) > 1


def test_jobs_behind_a_long_one_go_back_for_others(place: Place, tmp_path: Path) -> None:
    def stay(end: str) -> None:
        while not os.path.exists(end):
            time.sleep(0.01)

    long = place.add(stay, str(tmp_path / "end"))
    others = [place.add(add_one, number) for number in range(20)]
    place.slot()
    wait_until(lambda: place.queue.n_given or None, timeout=10, what="the batch")
    place.slot()
    assert [place.result(one) for one in others] == list(range(1, 21))
    assert long not in place.queue.ended
    (tmp_path / "end").touch()
    place.result(long)
    assert all(len(place.queue.ended[one]) == 1 for one in [long, *others])


def test_a_slot_goes_on_while_the_resource_is_gone(place: Place, tmp_path: Path) -> None:
    def work(go: str, done: str) -> int:
        while not os.path.exists(go):
            time.sleep(0.01)
        os.mknod(done)
        return 7

    go, done = tmp_path / "go", tmp_path / "done"
    job, after = place.add(work, str(go), str(done)), place.add(add_one, 1)
    slot = place.slot()
    wait_until(lambda: place.queue.n_given or None, timeout=10, what="the batch")
    place.end()
    go.touch()
    wait_until(lambda: done.exists() or None, timeout=20, what="the work without a resource")
    place.begin()
    assert (place.result(job), place.result(after)) == (7, 2)
    assert len(place.queue.ended[job]) == 1
    holding = next(one for one in place.queue.seen if one["op"] == "holding")
    assert holding["slot"] == slot.name and job in holding["ids"]


def test_a_job_above_its_memory_is_ended_with_what_it_started(place: Place) -> None:
    def fill() -> None:
        import subprocess
        import sys

        subprocess.run([sys.executable, "-c", "import time; kept = bytearray(b'x' * 300_000_000); time.sleep(60)"])

    job, after = place.add(fill, memory=200_000_000), place.add(add_one, 1)
    small = place.add(add_one, 2, memory=200_000_000)
    place.slot()
    told = place.result(job)
    assert (told["state"], told["reason"]) == ("error", "memory")
    assert told["error"]["text"] == "it used more than its 200MB of memory"
    assert (place.result(after), place.result(small)) == (2, 3)


class Worker:
    """What a slot looks at of its Dask worker."""

    address = "unix://worker"

    def __init__(self) -> None:
        self.status = "running"


def test_a_slot_whose_worker_is_paused_asks_for_nothing(place: Place) -> None:
    worker = Worker()
    slot = place.slot(worker=worker)
    wait_until(lambda: place.queue.held or None, timeout=10, what="its claim")
    worker.status = "paused"
    wait_until(lambda: None if place.queue.held else True, timeout=10, what="the end of its claim")
    job = place.add(add_one, 1)
    time.sleep(1.2)
    assert place.queue.n_given == 0 and slot.claim == 0
    worker.status = "running"
    assert place.result(job) == 2


def test_a_slot_without_work_ends_and_its_lease_is_free(place: Place) -> None:
    slot = place.slot(idle=0.2)
    place.threads[0].join(20)
    assert not place.threads[0].is_alive()
    state = lease.look(Lease(slot.name, str(slot.lease.path)))
    assert (state.alive, state.begun) == (False, frozenset())


def test_the_lease_says_which_jobs_were_begun(place: Place) -> None:
    held = lease.HeldLease(place.places.lease_of("slot-x"))
    one = Lease("slot-x", str(held.path))
    held.write([("1", 1), ("2", 1), ("3", 2)])
    assert lease.look(one).alive is True
    os.pwrite(held.descriptor, lease.place_text(1), 0)
    held.close()
    assert lease.look(one)[:2] == (False, frozenset({("1", 1), ("2", 1)}))
    held.path.unlink()
    assert lease.look(one).alive is None
    dead = {"machine": "x", "boot_id": "y", "pid_namespace": "z", "pid": 1, "start_ticks": 1}
    assert lease.look(one._replace(process=dead)).alive is None


def refuse_once(place: Place, op: str) -> list[int]:
    """Let the disk refuse the first turn with a request of this kind; the list gets an item then."""
    kept, refused = place.queue.turn, list[int]()

    def turn(inbox: Any) -> list[Reply]:
        if not refused and any(one.header["op"] == op for one in inbox):
            refused.append(1)
            raise StoreError("/queue", "No space left on device")
        return kept(inbox)

    place.queue.turn = turn  # type: ignore[method-assign]
    return refused


def test_results_that_could_not_be_kept_are_reported_again(place: Place) -> None:
    job, refused = place.add(add_one, 1), refuse_once(place, "ended")
    place.slot()
    assert place.result(job) == 2 and refused
    assert len(place.queue.ended[job]) == 1


def refuse_results(place: Place, is_wrong: Callable[[dict[str, Any]], bool], exit_code: int, times: int = 1) -> None:
    """Answer reports that have a wrong result by an error, and do all else that came with them."""
    kept, refused = place.queue.turn, list[int]()

    def turn(inbox: Any) -> list[Reply]:
        wrong = [one for one in inbox if one.header["op"] == "ended" and any(map(is_wrong, one.header["results"]))]
        wrong = wrong[: times - len(refused)]
        refused.extend(1 for _ in wrong)
        told = {"kind": "StoreError", "text": "no", "exit_code": exit_code}
        replies = [Reply(one.connection, {"n": one.header["n"], "error": told}) for one in wrong]
        return [*replies, *kept([one for one in inbox if one not in wrong])]

    place.queue.turn = turn  # type: ignore[method-assign]


def test_a_slot_whose_result_was_refused_takes_no_other_job(place: Place) -> None:
    """The lease has one batch: with the next one in it, nothing shows that the first one was begun."""
    first, second = place.add(add_one, 1), place.add(add_one, 2)
    place.queue.most = 1
    refuse_results(place, lambda result: result["id"] == first, 5)
    slot = place.slot()
    assert (place.result(first), place.result(second)) == (2, 3)
    told = [one for one in place.queue.seen if one["op"] in ("claim", "returned")]
    assert [(one["op"], one.get("holds"), one.get("ids")) for one in told][:3] == [
        ("claim", [], None),
        ("claim", [first], None),
        ("returned", None, [second]),
    ]
    assert [len(place.queue.ended[one]) for one in (first, second)] == [1, 1]
    wait_until(lambda: True if not slot.unacknowledged() else None, timeout=30, what="the second acknowledgement")


def test_the_lease_keeps_what_is_not_acknowledged(place: Place, tmp_path: Path) -> None:
    """A child dies, its slot goes on with another one, and is killed before the resource has heard of the first job."""

    def stay(end: str) -> None:
        while not os.path.exists(end):
            time.sleep(0.01)

    first = place.add(lambda: os._exit(3))
    second = place.add(stay, str(tmp_path / "end"))
    kept = place.queue.turn
    refuse_results(place, lambda result: result["id"] == first, 5, times=10**6)
    slot = place.slot()
    begun = lambda: lease._begun(slot.lease.path.read_bytes())  # noqa: E731
    wait_until(lambda: True if begun() == {(first, 1), (second, 1)} else None, timeout=20, what="the second job")
    assert slot.unacknowledged() == [first]
    place.queue.turn = kept  # type: ignore[method-assign]
    (tmp_path / "end").touch()
    assert (place.result(first)["state"], place.result(second)) == ("error", None)


def test_one_result_that_is_refused_costs_no_other_result(place: Place) -> None:
    ids = [place.add(add_one, number) for number in range(5)]
    refuse_results(place, lambda result: result["id"] == ids[2] and result["state"] == "finished", 2, times=99)
    place.slot()
    found = [place.result(one) for one in ids]
    assert [*found[:2], *found[3:]] == [1, 2, 4, 5]
    assert (found[2]["state"], found[2]["error"]["text"]) == ("error", "its result was refused: no")


def test_a_script_of_which_the_resource_does_not_know_is_told_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "start", lambda *_: {"process": {}, "lease": "/run/job-1-1"})
    refused = refuse_once(place, "started")
    job = place.add(add_one, 1, kind="script")
    slot = place.slot()
    wait_until(lambda: True if refused and slot.claim and not slot.started else None, timeout=20, what="its word")
    told = [(one["op"], one.get("ids"), one.get("id")) for one in place.queue.seen if one["op"] != "claim"]
    assert told == [("holding", [job], None), ("started", None, job)]
    state = lease.look(Lease(slot.name, str(slot.lease.path)))
    assert state.alive is True and lease._begun(slot.lease.path.read_bytes()) == {(job, 1)}


def test_a_script_that_runs_already_is_told_and_not_started(place: Place) -> None:
    job = place.add(add_one, 1, kind="script")
    held = lease.HeldLease(place.places.lease_of(f"job-{job}-1"))
    place.queue.jobs[0] = (
        place.queue.jobs[0][0],
        b"",
        b'{"argv": ["true"], "directory": "/", "umask": 18, "log_bytes": 9}',
    )
    place.slot()
    told = wait_until(
        lambda: next((one for one in place.queue.seen if one["op"] == "started"), None), timeout=20, what="its word"
    )
    assert (told["id"], told["lease"], place.queue.ended) == (job, held.path.name, {})
    held.close()


def test_strangers_are_turned_away(place: Place) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(str(place.places.socket))
        one.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"no frame begins" in one.recv(4096)
        assert one.recv(10) == b""
    assert os.stat(place.places.socket).st_mode & 0o777 == 0o600


AS_BOB = """
import os, socket, sys
os.chdir(sys.argv[1])
os.setgroups([]); os.setgid(65534); os.setuid(65534)
with socket.socket(socket.AF_UNIX) as one:
    one.settimeout(10)
    one.connect("resource.sock")
    try:
        one.sendall(bytes.fromhex(sys.argv[2]))
        print(one.recv(100))
    except OSError:
        print(b"")
"""


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
def test_another_user_gets_no_answer_even_where_the_socket_is_open(place: Place) -> None:
    """Without the directory and the mode that keep bob out, the kernel still says that it is he."""
    greeting = encode({"op": "hello", "n": 1, "protocol": 1})
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(str(place.places.socket))
        one.sendall(greeting)
        assert one.recv(4096).startswith(b"PJ01")
    place.places.runtime.chmod(0o755)
    place.places.socket.chmod(0o666)
    words = [sys.executable, "-c", AS_BOB, str(place.places.runtime), greeting.hex()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("b''\n", "")


def test_a_request_that_makes_the_queue_fail_is_answered(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    from ports.errors import PortsError
    from ports.jobs._connection import Connection

    def fail(inbox: Any) -> list[Reply]:
        raise KeyError("x")

    place.queue.turn, kept = fail, place.queue.turn  # type: ignore[method-assign]
    with Connection(place.places.socket) as connection:
        with pytest.raises(PortsError, match="the resource failed"):
            connection.ask("list", timeout=5)
        place.queue.turn = kept  # type: ignore[method-assign]
        connection.ask("list", timeout=5)
    assert "KeyError" in capsys.readouterr().err
