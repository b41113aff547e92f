"""Functions as jobs, on a real resource: results, errors, pipelines, maps, the cache, waits, ends."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

import ports
from ports.errors import JobCancelledError, JobError, NotFoundError, TimedOutError
from ports.jobs import Job, JobMap, _client
from ports.state import wait_until
from tests.integration.conftest import Home, stop_resource

pytestmark = [pytest.mark.ci, pytest.mark.xdist_group("machine")]


@pytest.fixture(scope="module")
def site(shared_home: Home) -> Iterator[Home]:
    """A home with a resource, which is started by the first job."""
    yield shared_home
    _client.disconnect()
    stop_resource()


def add(x: Any, y: Any = 1) -> Any:
    return x + y


def fail(x: int) -> float:
    return 1 / x


def wait_for(file: str) -> str:
    import pathlib
    import time

    while not pathlib.Path(file).exists():
        time.sleep(0.01)
    return "done"


def test_a_job_returns_its_result_its_error_and_its_output(site: Home) -> None:
    job = ports.submit(add, 41)
    assert job.result(60) == 42 and job.state == "finished" and job.done() and job.exception() is None
    assert job.status["state"] == "finished" and "finished" in job._repr_html_()
    failed = ports.submit(fail, 0)
    with pytest.raises(ZeroDivisionError) as caught:
        failed.result(60)
    assert "return 1 / x" in str(caught.value.__cause__)
    assert isinstance(failed.exception(), ZeroDivisionError) and failed.state == "error"
    talk = ports.submit(print, "hello")
    assert talk.result(60) is None and talk.logs() == "hello\n"
    again = ports.jobs.get(job.id)
    assert again == job and again.result() == 42 and job in ports.jobs.list()
    with pytest.raises(NotFoundError, match="no job '9999'"):
        ports.jobs.get(9999)


def test_a_map_is_gathered_in_its_order(site: Home) -> None:
    many = ports.map(add, range(300), name="night-1")
    assert ports.gather(many, timeout=60) == list(range(1, 301))
    assert many.state == "finished" and many.status["counts"] == {"finished": 300}
    assert ports.gather([many[7], many[3]], timeout=60) == [8, 4]
    assert ports.gather(many[10:40], timeout=60) == list(range(11, 41))
    assert sorted(one.result() for one in many.as_completed(60)) == list(range(1, 301))
    assert '<progress value="300" max="300">' in many._repr_html_()
    found = ports.jobs.get(many.id)
    assert isinstance(found, JobMap) and len(found) == 300 and found.name == "night-1"
    mixed = ports.map(fail, [1, 0, 2])
    with pytest.raises(ZeroDivisionError):
        ports.gather(mixed, timeout=60)
    values = ports.gather([mixed, many[0]], timeout=60, errors="return")
    assert (values[0][0], type(values[0][1]), values[0][2], values[1]) == (1, ZeroDivisionError, 0.5, 1)


def test_jobs_as_arguments_are_their_results(site: Home) -> None:
    first = ports.submit(add, 40)
    array = ports.submit(numpy.arange, 50_000)
    many = ports.map(add, [1, 2])
    total = ports.submit(sum_of, {"a": (first,), "b": array, "m": list(many)})
    assert total.result(60) == 41 + sum(range(50_000)) + 5
    broken = ports.submit(fail, 0)
    after = ports.submit(add, ports.submit(add, broken))
    with pytest.raises(JobCancelledError, match="dependency"):
        after.result(60)
    assert [type(one) for one in ports.gather([after], errors="return", timeout=60)] == [JobCancelledError]


def sum_of(held: dict[str, Any]) -> int:
    return int(held["a"][0] + held["b"].sum() + sum(held["m"]))


def test_waits_end_in_time_and_at_cancel(site: Home, tmp_path: Path) -> None:
    job = ports.submit(wait_for, str(tmp_path / "go"))
    with pytest.raises(TimedOutError, match=f"job {job.id}"):
        job.result(timeout=0.2)
    assert not job.wait(0.1) and not job.done()
    called: list[Job] = []
    job.add_done_callback(called.append)

    async def both() -> Any:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0.01)

        beating = asyncio.ensure_future(beat())
        await asyncio.sleep(0.1)
        (tmp_path / "go").touch()
        found = await asyncio.gather(job, ports.submit(add, 1))
        beating.cancel()
        assert await ports.map(add, [1, 2]) == [2, 3]
        return found, beats

    found, beats = asyncio.run(both())
    assert found == ["done", 2] and beats > 5
    wait_until(lambda: called == [job] or None, timeout=10, what="the callback")
    endless = ports.submit(wait_for, str(tmp_path / "never"))
    wait_until(lambda: endless.state == "running" or None, timeout=20, what="a running job")
    assert endless.cancel() and isinstance(endless.exception(60), JobCancelledError) and not endless.cancel()


def test_many_threads_wait_on_one_connection(site: Home) -> None:
    found: dict[int, Any] = {}

    def one(number: int) -> None:
        found[number] = ports.submit(add, number).result(60)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {number: number + 1 for number in range(12)}


def test_two_equal_cached_jobs_run_once(site: Home, tmp_path: Path) -> None:
    notes = str(tmp_path / "notes")

    @ports.job(cache="use")
    def slow(x: int) -> int:
        import time

        with open(notes, "a") as file:
            file.write(".")
        time.sleep(0.3)
        return x + 1

    jobs = [slow.submit(1), slow.submit(1), *slow.map([1, 1])]
    assert ports.gather(jobs, timeout=60) == [2, 2, 2, 2]
    assert Path(notes).read_text() == "."
    assert slow(1) == 2 and Path(notes).read_text() == "."  # a plain call hits what the jobs kept
    assert jobs[1].why() == "its result came from the cache"
    assert jobs[0].why() == "it ran, because nothing of slow() was in the cache"
    assert slow.submit(ports.submit(add, 0)).result(60) == 2  # the key follows from the result of another job
    assert Path(notes).read_text() == "."


def test_a_result_that_cannot_be_sent_and_a_crash_are_errors(site: Home) -> None:
    def locked() -> Any:
        import threading

        return threading.Lock()

    def crash() -> None:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGSEGV)

    with pytest.raises(ports.PortsError, match=r"the result of locked\(\), a lock, cannot be sent"):
        ports.submit(locked).result(60)
    with pytest.raises(JobError, match=r"signal 11|SIGSEGV|lost"):
        ports.submit(crash).result(90)
    assert ports.submit(add, 1).result(60) == 2


def test_the_progress_of_a_function_and_of_a_script_is_in_its_row(site: Home, tmp_path: Path) -> None:
    go = str(tmp_path / "go")

    def work(file: str) -> str:
        ports.progress(3, 10)
        return wait_for(file)

    job = ports.submit(work, go)
    wait_until(lambda: job.status.get("progress"), timeout=20, what="its progress")
    assert job.status["progress"] == {"done": 3.0, "total": 10.0}
    assert '<progress value="3" max="10">' in job._repr_html_()
    assert "3 of 10" in site.ports("job", "show", job.id).stdout
    Path(go).touch()
    assert job.result(60) == "done" and "progress" not in job.status
    code = f"import ports, os, time; ports.progress(1, 4)\nwhile os.path.exists({go!r}): time.sleep(0.05)"
    script = ports.jobs.get(site.ports("job", "submit", "--", sys.executable, "-c", code).stdout.strip())
    wait_until(lambda: script.status.get("progress"), timeout=60, what="that of the script")
    assert script.status["progress"] == {"done": 1.0, "total": 4.0}
    assert "1 of 4" in site.ports("job", "list").stdout
    Path(go).unlink()
    assert script.result(60) is None


def test_another_process_finds_the_job_and_its_result(site: Home) -> None:
    job = ports.submit(numpy.arange, 30_000)
    code = f"import ports; print(ports.jobs.get('{job.id}').result(60).sum())"
    done = site.python(code)
    assert done.stdout.strip() == str(sum(range(30_000))), done.stderr


def test_a_resource_that_was_killed_comes_back_while_a_client_waits(site: Home, tmp_path: Path) -> None:
    job = ports.submit(wait_for, str(tmp_path / "go"))
    wait_until(lambda: job.state == "running" or None, timeout=20, what="a running job")
    import psutil

    pid = _client.connection().resource["pid"]
    waiter: list[Any] = []
    thread = threading.Thread(target=lambda: waiter.append(job.result(100)))
    thread.start()
    resource = psutil.Process(pid)
    resource.kill()
    wait_until(lambda: None if resource.is_running() else True, timeout=20, what="the end of the resource")
    (tmp_path / "go").touch()
    thread.join(110)
    assert waiter == ["done"]


def serve_until(file: str) -> int:
    import http.server
    import pathlib

    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    server.timeout = 0.05
    while not pathlib.Path(file).exists():
        server.handle_request()
    server.server_close()
    return int(server.server_address[1])


def test_a_port_of_a_function_is_named_while_it_runs(site: Home, tmp_path: Path) -> None:
    job = ports.submit(serve_until, str(tmp_path / "end"))
    found = wait_until(lambda: site.json("job", "show", job.id).get("ports"), timeout=60, what="its port")
    (tmp_path / "end").touch()
    assert [one["port"] for one in found] == [job.result(60)]
    assert "ports" not in site.json("job", "show", job.id)
