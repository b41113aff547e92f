"""What notebooks read about the output of tasks: who is told, and what it costs a worker."""

from __future__ import annotations

import inspect
import io
import os
import sys
import uuid
from types import SimpleNamespace
from typing import Any

import distributed
import pytest
from distributed.worker import set_thread_state

from ports.clusters.owner.ports_owner import notes


class Worker:
    """Takes messages for the scheduler."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.loop = SimpleNamespace(add_callback=lambda function, *args: function(*args))

    def batched_send(self, message: Any) -> None:
        self.sent.append(message)


def fresh_streams(patch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """Exchange stdout and stderr; pytest sets its own at the start of each test."""
    made = [io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2)]
    patch.setattr(sys, "stdout", made[0])
    patch.setattr(sys, "stderr", made[1])
    return made[0], made[1]


@pytest.mark.parametrize("number", [0, 1])
def test_the_first_line_of_a_task_is_noticed_once(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    streams = fresh_streams(monkeypatch)
    worker, listener = Worker(), notes.Listener()
    listener.start()
    print("of no task", file=streams[number])
    with set_thread_state(key="task-1", execution_state={"worker": worker}):
        print("of a task", file=streams[number])
        print("and more", file=streams[number])
    assert worker.sent == [{"op": "ports-printed", "key": "task-1"}]
    assert streams[number].buffer.getvalue() == b"of no task\nof a task\nand more\n"
    assert [*streams[0].__dict__, *streams[1].__dict__] == []  # nothing is between a task and its output from now on


def test_what_distributed_prints_in_the_notebook_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_streams(monkeypatch)
    worker, listener = Worker(), notes.Listener()
    listener.start()
    with set_thread_state(key="task-1", execution_state={"worker": worker}):
        distributed.print("seen in the notebook")
    assert worker.sent == []


def test_clients_of_one_process_count_as_one() -> None:
    ids = [f"Client-{name}{uuid.uuid1(clock_seq=os.getpid())}" for name in ("", "mine-", "")]
    other = f"Client-{uuid.uuid1(clock_seq=os.getpid() + 1)}"
    assert len({notes.process_of(one) for one in ids}) == 1
    assert notes.process_of(other) != notes.process_of(ids[0])
    assert notes.process_of("made-by-hand") == "made-by-hand"


def test_the_client_is_found_that_waits_for_a_later_task() -> None:
    class Hashed(SimpleNamespace):
        __hash__ = object.__hash__

    last = Hashed(dependents=set(), who_wants={Hashed(client_key="mine")})
    middle = Hashed(dependents={last}, who_wants=None)
    scheduler: Any = SimpleNamespace(tasks={"first": Hashed(dependents={middle}, who_wants=None)})
    assert notes.clients_of(scheduler, "first") == {"mine"}
    assert notes.clients_of(scheduler, "forgotten") == set()


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ({"packages": {"distributed": "2024.4.0"}}, False),
        ({"packages": {"distributed": "2025.2.0"}}, False),
        ({"packages": {"distributed": "2025.3.0"}}, True),
        ({"packages": {"distributed": "2026.8.0+12.gabc"}}, True),
        ({"packages": {"distributed": "unknown"}}, False),
        ({"packages": {"distributed": None}}, False),
        ({"packages": {}}, False),
        ({}, False),
    ],
)
def test_a_client_gets_only_what_its_version_takes(versions: dict[str, Any], expected: bool) -> None:
    sent: list[Any] = []
    client = SimpleNamespace(versions=versions, wants_what=[SimpleNamespace(key="held")])
    scheduler: Any = SimpleNamespace(
        clients={"Client-1": client},
        client_comms={"Client-1": None},
        stream_handlers={},
        send_all=lambda messages, _: sent.extend(messages["Client-1"]),
    )
    one = notes.Notes.__new__(notes.Notes)
    one.scheduler, one.cluster, one.told = scheduler, "main", set()
    one.tell_of_end("it was stopped")
    line, cancelled = sent
    assert (line["op"], cancelled["op"], cancelled["keys"]) == ("event", "cancelled-keys", ["held"])
    assert ("reason" in cancelled, "msg" in cancelled) == (expected, expected)


def test_a_client_of_this_version_gets_the_reason_if_it_takes_one() -> None:
    wanted = "reason" in inspect.signature(distributed.Client._handle_cancelled_keys).parameters
    assert notes.takes_reasons(distributed.versions.get_versions()) == wanted
