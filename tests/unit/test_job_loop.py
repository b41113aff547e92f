"""The loop of the resource with a real queue: what it answers to anybody, how it stops, and what it removes."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ports.jobs._connection import Connection
from ports.jobs._exchange import PRUNED
from ports.jobs._model import Available
from ports.jobs._protocol import PROTOCOL, Decoder, Frame, encode
from ports.jobs.resource import sweeper
from ports.jobs.resource.loop import Loop, listen, pause
from ports.state import wait_until
from tests.lab.job_queue import Desk
from tests.unit.test_job_storm import ANYTHING, FIELDS, GOOD, OPS, VALUES


@pytest.fixture
def loop(desk: Desk) -> Iterator[Loop]:
    """A loop that turns only when the test lets it."""
    desk.places.runtime.mkdir()
    one = Loop(desk.queue, listen(desk.places), grace=0.0)
    yield one
    one.is_over = True
    one.run()


def client(loop: Loop, desk: Desk) -> socket.socket:
    """Return a connection that the loop has taken."""
    one = socket.socket(socket.AF_UNIX)
    one.connect(str(desk.places.socket))
    one.sendall(encode({"op": "hello", "n": 0, "protocol": PROTOCOL}))
    assert answers(loop, one)[0].header["protocol"] == PROTOCOL
    return one


def answers(loop: Loop, one: socket.socket, n: int = 1) -> list[Frame]:
    """Let the loop turn until `n` frames have come."""
    one.setblocking(False)
    decoder, found = Decoder(), list[Frame]()
    for _ in range(200):
        loop.turn()
        with contextlib.suppress(BlockingIOError):
            found += decoder.feed(one.recv(1 << 20))
        if len(found) >= n:
            return found
    raise AssertionError(f"{len(found)} of {n} frames came")


def ask(loop: Loop, one: socket.socket, op: str, **fields: Any) -> dict[str, Any]:
    one.setblocking(True)
    one.sendall(encode({"op": op, "n": 1, **fields}))
    return answers(loop, one)[0].header


def test_a_stop_names_what_runs_and_lets_the_resource_go_on(desk: Desk, loop: Loop) -> None:
    first, second = desk.submit(), desk.submit()
    (job,) = desk.take("s1", most=1)
    with client(loop, desk) as one:
        told = ask(loop, one, "stop")
        assert (told["running"], told["n_running"], desk.queue.is_held) == ([first], 1, False)
    assert [id for id, _ in desk.take("s2")] == [second] and job == (first, 1)


def test_while_a_stop_waits_nothing_begins(desk: Desk, loop: Loop) -> None:
    first, second = desk.submit(), desk.submit()
    (job,) = desk.take("s1", most=1)
    with client(loop, desk) as one:
        one.sendall(encode({"op": "stop", "n": 1, "wait": True}))
        loop.turn()
        loop.turn()
        assert desk.take("s2") == [] and desk.queue.wanted_slots == 1
        desk.end("s1", job)
        assert answers(loop, one)[0].header["running"] == []
        assert desk.take("s2") == [] and not desk.answer("status")["draining"]
    desk.restart()  # the resource ended: the next one begins what waits
    assert [id for id, _ in desk.take("s3")] == [second] and desk.state(first) == "finished"


def test_a_stop_that_is_interrupted_lets_the_resource_go_on(desk: Desk, loop: Loop) -> None:
    first, second = desk.submit(), desk.submit()
    assert desk.take("s1", most=1) == [(first, 1)]
    with client(loop, desk) as one:
        one.sendall(encode({"op": "stop", "n": 1, "wait": True}))
        wait_until(lambda: (loop.turn(), desk.queue.is_held or None)[1], timeout=10, what="its request")
    wait_until(lambda: (loop.turn(), None if desk.queue.is_held else True)[1], timeout=10, what="its end")
    assert desk.take("s2") == [(second, 1)]


def test_a_stop_now_costs_no_retry(desk: Desk, loop: Loop) -> None:
    id = desk.submit(retries={"lost": 0})
    (job,) = desk.take("s1")
    desk.answer("begun", by="s1", slot="s1", id=id, attempt=1, at=desk.clock)
    loop.stopping.ask(99, {"n": 1, "now": True})
    (told,) = loop.stopping.look()
    assert (told.connection, told.header) == ("s1", {"op": "end", "id": id, "attempt": 1, "how": "stopped"})
    desk.end("s1", job, state="lost", reason="stopped", blob=b"")
    assert [one.header for one in loop.stopping.look()] == [{"n": 1, "running": [], "n_running": 0}]
    loop.stopping.gone(99)
    row = desk.row(id)
    assert (row["state"], row["attempt"], row["transitions"][-1]["reason"]) == (
        "pending",
        1,
        "the compute resource was stopped",
    )
    assert desk.take("s1") == [(id, 2)]


def test_a_cancelled_job_does_not_begin_again_after_a_stop(desk: Desk) -> None:
    id = desk.submit()
    (job,) = desk.take("s1")
    desk.answer("cancel", ids=[id])
    desk.end("s1", job, state="lost", reason="stopped", blob=b"")
    assert desk.state(id) == "cancelled"


@pytest.mark.parametrize("field", ["wait", "now"])
def test_a_stop_with_wrong_fields_is_refused(desk: Desk, loop: Loop, field: str) -> None:
    with client(loop, desk) as one:
        told = ask(loop, one, "stop", **{field: "yes"})
        assert told["error"]["text"] == f"{field}: 'yes' is neither true nor false" and not desk.queue.is_held


def test_a_loop_without_room_for_a_connection_rests(desk: Desk, loop: Loop, capsys: pytest.CaptureFixture[str]) -> None:
    """The connection that waits stays readable: without a rest the loop spins."""
    with client(loop, desk) as one, socket.socket(socket.AF_UNIX) as late:
        late.connect(str(desk.places.socket))
        late.sendall(encode({"op": "hello", "n": 0, "protocol": PROTOCOL}))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            loop.turn()
            assert loop.rests_until is not None
            began, n_turns = time.monotonic(), 0
            while time.monotonic() < began + 0.3:
                loop.turn()
                n_turns += 1
            assert n_turns < 50
            assert "counts" in ask(loop, one, "status")  # those who are there are answered
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert answers(loop, late)[0].header["protocol"] == PROTOCOL
    assert capsys.readouterr().err.count("no more connections: Too many open files") == 1


def test_pruned_directories_are_handed_over_and_not_walked(desk: Desk) -> None:
    id = desk.submit()
    desk.work()
    kept = desk.places.work / id / "deep" / "file"
    kept.parent.mkdir(parents=True)
    kept.touch()
    handed: list[Path] = []
    desk.queue.dispose_by(handed.extend)
    desk.clock += 1
    desk.answer("prune")
    (aside,) = handed
    assert aside.name.startswith(PRUNED) and (aside / "deep" / "file").exists()
    assert not (desk.places.work / id).exists()


def test_what_an_ended_resource_had_to_remove_is_removed(desk: Desk) -> None:
    aside = desk.places.work / f"{PRUNED}ab" / "deep"
    aside.mkdir(parents=True)
    sweeper.Sweeper(desk.places).start()
    wait_until(lambda: None if aside.parent.exists() else True, timeout=20, what="the end of the tree")


def test_half_files_of_killed_writers_go_and_nothing_else(desk: Desk) -> None:
    half = [desk.places.submissions / f".{'a' * 32}.{'0' * 16}", desk.places.objects / "ab" / f".{'c' * 62}.{'1' * 16}"]
    kept = [desk.places.submissions / f".{'a' * 32}.broken", desk.places.objects / ("d" * 64)]
    young = desk.places.results / f".7.{'2' * 16}"
    for path in (*half, *kept, young):
        path.parent.mkdir(exist_ok=True)
        path.touch()
        os.utime(path, (1000, 1000)) if path is not young else None
    sweeper.sweep(desk.places)
    assert [path.exists() for path in (*half, *kept, young)] == [False, False, True, True, True]


NUMBERS = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
REQUESTS = st.fixed_dictionaries(
    {"op": st.sampled_from([*OPS, "stop", "hello"]) | ANYTHING},
    optional={
        "n": NUMBERS,
        "wait": ANYTHING,
        "now": ANYTHING,
        "holds": ANYTHING,
        "task": ANYTHING,
        "protocol": ANYTHING,
        **{name: VALUES.get(name, ANYTHING) | st.just(GOOD.get(name)) for name in FIELDS},
    },
)


def test_no_request_of_any_kind_ends_the_loop(desk: Desk) -> None:
    """Each request over the socket is answered: done, refused in words, or held until there is something to say."""
    desk.places.runtime.mkdir()
    desk.submit(3)
    loop = Loop(desk.queue, listen(desk.places), grace=0.0)
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()

    @settings(max_examples=40, suppress_health_check=list(HealthCheck), database=None, derandomize=True, deadline=None)
    @given(st.lists(st.tuples(REQUESTS, st.lists(st.binary(max_size=4), max_size=3)), min_size=1, max_size=8))
    def run(inbox: list[tuple[dict[str, Any], list[bytes]]]) -> None:
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(20)
            one.connect(str(desk.places.socket))
            one.sendall(encode({"op": "hello", "n": "first", "protocol": PROTOCOL}))
            one.sendall(b"".join(encode(header, blobs) for header, blobs in inbox))
            one.sendall(encode({"op": "show", "id": "999", "n": "last"}))
            decoder, found = Decoder(), list[Frame]()
            while all(frame.header.get("n") != "last" for frame in found):
                data = one.recv(1 << 20)
                assert data, found
                found += decoder.feed(data)
        for frame in found:
            if (error := frame.header.get("error")) is not None and "state" not in frame.header:
                assert error["text"] and error["kind"] in ("UsageError", "NotFoundError"), error
        with Connection(desk.places.socket, timeout=20) as other:
            told = other.ask("status", timeout=20).header
            assert told["counts"] and "cluster" in told

    run()
    assert thread.is_alive()
    loop.stop()
    thread.join(20)


def test_a_status_shows_what_other_users_leave(desk: Desk) -> None:
    desk.submit(needs={"gpus": 1})
    desk.queue.available = Available(memory=2**30, taken_gpus={1: "bob"}, memory_why="")
    assert desk.answer("status")["free"] == {"cpus": 4, "memory": 2**30, "gpus": [0]}
    desk.take("s1")
    assert desk.answer("status")["free"] == {"cpus": 3, "memory": 2**30, "gpus": []}


@pytest.mark.parametrize(
    ("since", "took", "seconds"),
    [
        (0.0, 0.0, 0.01),
        (0.5, 0.0001, 0.05),
        (3600.0, 0.0001, 0.1),
        (0.0, 0.004, 0.08),  # many scripts: the looks take a twentieth of the time
        (float("inf"), 1.0, 0.5),
    ],
)
def test_a_young_script_is_looked_at_more_often(since: float, took: float, seconds: float) -> None:
    assert pause(since, took) == pytest.approx(seconds)


def test_a_loop_wakes_for_a_young_script_between_ticks(loop: Loop) -> None:
    loop.next_tick, loop.next_scripts = 100.1, 100.01
    assert loop.patience(100.0) == pytest.approx(0.1)
    loop.script_at = 99.9
    assert loop.patience(100.0) == pytest.approx(0.01)
