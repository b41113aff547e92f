"""The way to a compute resource through a session: the program that copies, and what home makes of its answer."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ports import errors, hosts, jobs, state
from ports.errors import FarSideError, NotFoundError, ResourceLostError
from ports.jobs import _afar, _api, _client, _places, _resource, _there
from ports.jobs._job import Job, JobMap
from ports.jobs._there import FarConnection
from ports.jobs._where import Where
from ports.probe.programs import jobs as program
from ports.state.waiting import wait_until
from tests.unit.test_job_connection import Server


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(hosts, "resolve", lambda _: hosts.here())
    yield tmp_path
    _client.disconnect()


@pytest.fixture
def server(home: Path) -> Iterator[Server]:
    """A resource of this user, as one on another machine."""
    one = Server(_places.here().socket)
    yield one
    _client.disconnect()
    one.close()


def test_frames_go_through_a_session_and_back(server: Server) -> None:
    server.answer = lambda frame: [program_answer(frame)]
    with _there.connect("far") as connection:
        assert connection.resource["protocol"] == 1
        large = os.urandom(5 << 20)
        assert connection.ask("echo", [large]).blobs == [large]


def program_answer(frame: object) -> bytes:
    from ports.jobs._protocol import encode

    return encode({"n": frame.header["n"]}, frame.blobs)  # type: ignore[attr-defined]


def test_neither_direction_waits_for_the_other(server: Server) -> None:
    """Home sends while nobody reads what the resource sends."""
    from ports.jobs._protocol import encode

    large = os.urandom(8 << 20)
    server.answer = lambda frame: (
        [encode({"n": frame.header["n"], "more": True}, [large])] * 3 + [encode({"n": frame.header["n"]})]
        if frame.header["op"] == "many"
        else [encode({"n": frame.header["n"]})]
    )
    with _there.connect("far") as connection:
        stream = connection.stream("many")
        assert next(stream).blobs == [large]
        sent = threading.Thread(target=connection.ask, args=("take", [large]), kwargs={"timeout": 20}, daemon=True)
        sent.start()
        assert [len(frame.blobs) for frame in stream] == [1, 1, 0]
        sent.join(20)
        assert not sent.is_alive() and server.seen[-1].blobs == [large]


def test_the_end_of_the_resource_ends_the_session(server: Server) -> None:
    server.answer = lambda _: None  # type: ignore[return-value]
    with _there.connect("far") as connection, pytest.raises(ResourceLostError):
        connection.ask("list")


def test_where_no_resource_runs_none_is_started_unasked(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(hosts, "run_ports", lambda _, argv, **__: started.append(argv))
    for start in (False, None):
        with pytest.raises(NotFoundError, match="`ports resource start -H far` starts one"):
            _there.connect("far", start=start)
    assert started == []
    with pytest.raises(FarSideError, match=r"the compute resource runs, but nothing answers at .*set PORTS_HOME"):
        _there.connect("far")
    assert started == [["resource", "start"]]


def test_a_resource_that_crashed_is_started_again_for_who_waits(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Path(program.host_directory(), *program.RECORD)
    assert record == state.paths.here().root / "resources" / _resource.NAME
    record.mkdir(parents=True, mode=0o700)
    made: list[Server] = []
    monkeypatch.setattr(hosts, "run_ports", lambda *_, **__: made.append(Server(_places.here().socket)))
    with _there.connect("far", start=None) as connection:
        assert connection.resource["python"] == "3.11"
    made[0].close()


def test_a_socket_below_a_directory_of_others_is_not_asked(server: Server) -> None:
    runtime, said = _places.here().runtime, ""
    try:
        while not said:
            runtime.chmod(0o777)
            try:
                _there.connect("far").close()
            except FarSideError as error:
                said = str(error)
            else:  # a thread that another test left used the directory meanwhile, which makes it private again
                assert not runtime.stat().st_mode & 0o077
    finally:
        runtime.chmod(0o700)
    assert "is not private; `ports prune` there chooses another directory" in said


def test_a_lost_answer_is_asked_for_again_with_the_same_key(server: Server) -> None:
    from ports.jobs._protocol import encode

    def answer(frame: object) -> list[bytes] | None:
        n = len([one for one in server.seen if one.header["op"] == "submit"])
        return None if n < 3 else [encode({"n": frame.header["n"], "id": "7"})]  # type: ignore[attr-defined]

    server.answer = answer  # type: ignore[assignment]
    assert _client.ask("submit", [b"f"], host="far", key="k").header["id"] == "7"
    assert [one.header["key"] for one in server.seen if one.header["op"] == "submit"] == ["k", "k", "k"]


def test_a_rerun_whose_answer_is_lost_is_asked_for_with_one_key(server: Server) -> None:
    from ports.jobs._protocol import encode

    def answer(frame: Any) -> list[bytes] | None:
        n = len([one for one in server.seen if one.header["op"] == "rerun"])
        row = {"id": "1", "state": "finished", "what": "function"}
        told = {"row": row} if frame.header["op"] == "show" else {"id": "2", "count": None}
        return None if n == 1 else [encode({"n": frame.header["n"], **told})]

    server.answer = answer
    assert jobs.at("far").rerun("far:1") == "far:2"
    first, second = [one.header for one in server.seen if one.header["op"] == "rerun"]
    assert first["key"] == second["key"] and len(first["key"]) == 32


def test_an_alias_that_leads_nowhere_is_told_at_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(alias: str) -> object:
        raise errors.UnknownHostError(alias, "no such name")

    monkeypatch.setattr(hosts, "resolve", unknown)
    with pytest.raises(errors.UnknownHostError) as caught:
        _client.ask("result", host="far", id="1", wait=None)
    assert caught.value.where == "far"


def test_a_fork_leaves_the_session_of_its_parent_alone(server: Server) -> None:
    first = _client.connection("far")
    assert isinstance(first, FarConnection)
    if (pid := os.fork()) == 0:
        try:
            second = _client.connection("far")
            os._exit(0 if second is not first and second.ask("list").header else 3)
        finally:
            os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert first.ask("list").header and _client.connection("far") is first


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the way to a machine that was reached be cut for good."""

    def gone(host: str | None = None, **_: object) -> FarConnection:
        raise errors.ConnectionLostError(str(host), "no route to host")

    monkeypatch.setattr(_client, "connection", gone)
    monkeypatch.setattr(_client, "_reached", {"far"})


@pytest.mark.parametrize(
    "wait",
    [
        lambda: Job("12", where=Where("far")).result(timeout=0.3),
        lambda: Job("12", where=Where("far")).exception(timeout=0),
        lambda: list(JobMap("12", 3, where=Where("far")).as_completed(timeout=0.3)),
        lambda: _api.gather(JobMap("12", 3, where=Where("far")), timeout=0.3),
        lambda: _api.gather([Job("12", where=Where("far"))], timeout=0.3),
        lambda: _afar.Afar("far").wait(["12", "13"], within=0.3),
    ],
    ids=["result", "exception", "as_completed", "gather of a map", "gather of a list", "ports job wait"],
)
@pytest.mark.usefixtures("offline")
@pytest.mark.timeout(60)
def test_a_wait_with_a_limit_ends_while_the_server_is_not_reached(wait: Callable[[], object]) -> None:
    with pytest.raises(errors.TimedOutError, match=r"waiting for far, which is not reached \(.*no route to host\)"):
        wait()


@pytest.mark.usefixtures("offline")
@pytest.mark.timeout(60)
def test_a_job_on_a_server_that_is_not_reached_is_not_done_in_time() -> None:
    assert Job("12", where=Where("far")).wait(timeout=0.3) is False


def test_a_wait_of_no_seconds_asks_again_once_after_a_cut(server: Server) -> None:
    """A session that was idle can have ended long ago."""
    from ports.jobs._protocol import encode

    def answer(frame: object) -> list[bytes] | None:
        n = len([one for one in server.seen if one.header["op"] == "result"])
        return None if n < 2 else [encode({"n": frame.header["n"], "state": "finished"}, [b""])]  # type: ignore[attr-defined]

    server.answer = answer  # type: ignore[assignment]
    _client.connection("far")
    assert Job("12", where=Where("far")).wait(timeout=0)


def test_any_number_of_awaited_jobs_needs_two_threads(server: Server) -> None:
    from ports.jobs._protocol import encode

    n, held = 2000, []

    def answer(frame: object) -> list[bytes]:
        header = frame.header  # type: ignore[attr-defined]
        held.append(encode({"n": header["n"], "state": "finished", "reason": header["id"]}, [b""]))
        return held if len(held) == n else []

    server.answer = answer
    _client.connection("far")
    before = threading.active_count()
    jobs = [Job(str(number), where=Where("far")) for number in range(1, n + 1)]
    called: list[str] = []
    for job in jobs:
        job.add_done_callback(lambda job: called.append(job.id))
        assert threading.active_count() <= before + 2
    ends = [job._coming().result(timeout=60) for job in jobs]
    assert [end.reason for end in ends] == [str(number) for number in range(1, n + 1)]
    wait_until(lambda: len(called) == n or None, timeout=20, what="calls")
    assert sorted(called) == sorted(job.id for job in jobs)


def test_awaited_jobs_are_asked_for_again_after_a_cut(server: Server) -> None:
    from ports.jobs._protocol import encode

    seen: list[str] = []

    def answer(frame: object) -> list[bytes] | None:
        header = frame.header  # type: ignore[attr-defined]
        seen.append(header["id"])
        if len(seen) < 3:
            return None if len(seen) == 2 else []
        if header["id"] == "3":
            told = {"kind": "NotFoundError", "text": "no job '3'; look", "args": ["job", "3", "look"], "exit_code": 3}
            return [encode({"n": header["n"], "error": told})]
        return [encode({"n": header["n"], "state": "finished"}, [b""])]

    server.answer = answer
    ends = [Job(id, where=Where("far"))._coming() for id in ("1", "2", "3")]
    assert [end.result(timeout=60).state for end in ends[:2]] == ["finished"] * 2
    assert isinstance(ends[2].exception(timeout=60), NotFoundError)
    late = Job("4", where=Where("far"))._coming()
    assert late.result(timeout=60).state == "finished"


def test_awaited_jobs_of_a_server_that_is_not_reached_fail_all(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(alias: str) -> object:
        raise errors.UnknownHostError(alias, "no such name")

    monkeypatch.setattr(hosts, "resolve", unknown)
    for _ in range(2):
        ends = [Job(id, where=Where("far"))._coming() for id in ("1", "2")]
        assert [type(end.exception(timeout=60)) for end in ends] == [errors.UnknownHostError] * 2
