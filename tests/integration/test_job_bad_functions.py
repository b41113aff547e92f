"""Functions that behave badly: each ends in a true state, and the next job in the same child finds a clean place."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import dask.config
import pytest

import ports
from ports.jobs._turn import Reply
from ports.state import wait_until
from tests.integration.test_job_slots import Place, place

__all__ = ["place"]

pytestmark = pytest.mark.ci


def surroundings() -> dict[str, Any]:
    """Return what a job finds; all but `pid` and `number` must be the same for each."""
    import resource

    handlers = [str(signal.getsignal(one)) for one in (signal.SIGINT, signal.SIGALRM, signal.SIGUSR1, signal.SIGCHLD)]
    mask = os.umask(0o022)
    os.umask(mask)
    print("here")
    return {
        "directory": os.getcwd(),
        "variables": sorted(os.environ),
        "handlers": handlers,
        "timers": [signal.getitimer(one)[0] for one in (signal.ITIMER_REAL, signal.ITIMER_PROF)],
        "blocked": [int(one) for one in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
        "umask": mask,
        "path": [one for one in sys.path if "spoilt" in one],
        "threads": [one.name for one in threading.enumerate()],
        "limits": resource.getrlimit(resource.RLIMIT_CPU),
        "depth": sys.getrecursionlimit(),
        "traced": sys.gettrace() is not None,
        "children": Path(f"/proc/self/task/{os.getpid()}/children").read_text(),
    }


def exits() -> None:
    sys.exit(3)


def ends_at_once() -> None:
    os._exit(4)


def interrupts() -> None:
    raise KeyboardInterrupt("by hand")


def leaves_the_generator() -> None:
    raise GeneratorExit("odd")


def crashes() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def needs_arguments() -> None:
    class PairError(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} and {two}")

    raise PairError(1, 2)


def holds_a_lock() -> None:
    error = ValueError("with a lock")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    raise error


def cannot_be_shown() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    raise MuteError


def imports_what_is_missing() -> None:
    import surely_missing_here  # type: ignore[import-not-found]  # noqa: F401


def returns_a_generator() -> Any:
    return (one for one in ())


def takes_all_memory() -> None:
    bytearray(1 << 62)


def goes_away() -> None:
    os.chdir("/")
    os.environ.clear()
    os.environ["SPOILT"] = "1"
    os.environ = {"SPOILT": "2"}  # type: ignore[assignment]  # noqa: B003


def closes_its_streams() -> None:
    sys.stdout.close()
    sys.stderr = None  # type: ignore[assignment]
    os.close(0)
    os.close(1)
    os.close(2)


def sets_clocks_and_masks() -> None:
    for one in (signal.SIGUSR1, signal.SIGCHLD, signal.SIGINT):
        signal.signal(one, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda *_: os._exit(9))
    signal.setitimer(signal.ITIMER_REAL, 60)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR2])
    os.umask(0)
    sys.path.insert(0, "/spoilt")
    sys.setrecursionlimit(5000)
    sys.settrace(lambda *_: None)


def lowers_its_limits() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (600, 600))


def starts_a_thread() -> None:
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()


def leaves_a_process() -> int:
    import subprocess

    return subprocess.Popen(["sleep", "600"]).pid


def leaves_a_daemon() -> int:
    """Fork twice, as daemons do; what is left has a session of its own."""
    source, sink = os.pipe()
    if not os.fork():
        os.setsid()
        if not os.fork():
            os.write(sink, b"%d" % os.getpid())
            time.sleep(600)
        os._exit(0)
    return int(os.read(source, 20))


def forks_and_crashes() -> None:
    if not os.fork():
        time.sleep(600)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGSEGV)


BAD: list[tuple[Any, str]] = [
    (exits, "SystemExit: 3"),
    (ends_at_once, "exit status 4, without a result"),
    (interrupts, "KeyboardInterrupt: by hand"),
    (leaves_the_generator, "GeneratorExit: odd"),
    (crashes, "signal 11 (SIGSEGV)"),
    (needs_arguments, "PairError: 1 and 2"),
    (holds_a_lock, "ValueError: with a lock"),
    (cannot_be_shown, "MuteError: its text cannot be shown"),
    (imports_what_is_missing, "surely_missing_here"),
    (returns_a_generator, "UnsendableError"),
    (takes_all_memory, "MemoryError"),
    (goes_away, ""),
    (closes_its_streams, ""),
    (sets_clocks_and_masks, ""),
    (lowers_its_limits, ""),
    (starts_a_thread, ""),
    (leaves_a_process, ""),
    (leaves_a_daemon, ""),
    (forks_and_crashes, "signal 11 (SIGSEGV)"),
]


@pytest.mark.parametrize("isolate", [False, True], ids=["warm", "isolated"])
def test_after_a_bad_function_the_next_job_finds_a_clean_place(place: Place, isolate: bool) -> None:
    first = place.add(surroundings)
    pairs = [(place.add(one, isolate=isolate), words, place.add(surroundings)) for one, words in BAD]
    place.slot()
    expected = place.result(first)
    assert expected["threads"] == ["MainThread"] and not expected["children"]
    for (job, words, after), (bad, _) in zip(pairs, BAD, strict=True):
        told = place.result(job, timeout=60)
        if words:
            said = f"{told['error']['type']}: {told['error']['text']}"
            assert words in said and told["state"] == "error", (bad.__name__, told)
        elif told is not None:
            assert is_gone(told), bad.__name__
        assert place.result(after, timeout=60) == expected, bad.__name__
        assert place.output(after) == "here\n", bad.__name__
        assert len(place.queue.ended[job]) == len(place.queue.ended[after]) == 1, bad.__name__


def is_gone(pid: int) -> bool:
    def state() -> bool | None:
        try:
            return b") Z " in Path(f"/proc/{pid}/stat").read_bytes() or None
        except OSError:
            return True

    return wait_until(state, timeout=20, what=f"end of process {pid}")


def test_a_missing_module_is_named_with_the_machine_and_a_way_out(place: Place) -> None:
    job = place.add(imports_what_is_missing)
    place.slot()
    text = place.result(job)["error"]["text"]
    assert re.search(
        r"No module named 'surely_missing_here' on \S+, in Python \d+\.\d+ of \S+; install the package", text
    ), text
    assert f"`{sys.executable} -m pip install surely_missing_here`" in text


@pytest.mark.parametrize("isolate", [False, True], ids=["warm", "isolated"])
def test_what_a_function_prints_is_bounded(place: Place, monkeypatch: pytest.MonkeyPatch, isolate: bool) -> None:
    monkeypatch.setitem(dask.config.config, "ports", {"jobs": {"log_bytes": 100_000}})

    def talk(n: int) -> None:
        for number in range(n):
            print(number, "x" * 1000)

    job, brief = place.add(talk, 20_000, isolate=isolate), place.add(talk, 3, isolate=isolate)
    slow = place.add(lambda: [(print("y" * 70_000, flush=True), time.sleep(0.1)) for _ in range(20)], isolate=isolate)
    place.slot()
    place.result(job)
    lost = place.queue.ended[job][0]["note"]["dropped"]["stdout"]
    kept = sum(file.stat().st_size for file in (place.places.work / job).iterdir())
    assert kept <= 200_000 and lost > 10_000_000  # what is printed in the moment of a cut is not counted
    both = (place.places.work / job / "stdout.1").read_text() + place.output(job)
    assert both.endswith(f"19999 {'x' * 1000}\n")
    place.result(brief)
    assert place.output(brief).count("\n") == 3
    place.result(slow)
    kept = sum(file.stat().st_size for file in (place.places.work / slow).iterdir())
    assert kept <= 200_000 and place.queue.ended[slow][0]["note"]["dropped"]["stdout"] > 600_000
    assert not list(place.places.streams.glob("*.1"))


def test_forks_draw_other_random_numbers_each(place: Place) -> None:
    import numpy

    place.add(lambda: float(numpy.random.rand()))
    jobs = [place.add(lambda: float(numpy.random.rand()), isolate=True) for _ in range(4)]
    place.slot()
    assert len({place.result(one) for one in jobs}) == 4


def test_a_large_result_and_one_beyond_the_limit(place: Place) -> None:
    """A result of 200 MB arrives; the words for one of more than 1 GB are tested without it."""
    job = place.add(lambda: b"x" * 200_000_000)
    place.slot()
    assert len(place.result(job, timeout=60)) == 200_000_000


def test_a_function_that_asks_whether_to_stop_returns_what_it_has(place: Place) -> None:
    def work() -> list[int]:
        done = []
        while not ports.should_stop():
            done.append(len(done))
            ports.progress(len(done))
            time.sleep(0.01)
        return done

    job, after = place.add(work), place.add(surroundings)
    file = place.places.work / job / "progress.json"
    place.slot()
    wait_until(lambda: file.exists() or None, timeout=20, what="its progress")
    (number,) = [one.number for one in place.loop.peers.values()]
    place.queue.pushes.append(Reply(number, {"op": "end", "id": job, "attempt": 1, "how": "cancel"}))
    assert place.result(job)[:3] == [0, 1, 2]
    assert not file.exists() and not ports.should_stop()
    assert place.result(after)["directory"] == str(Path.home())


@pytest.mark.parametrize("isolate", [False, True], ids=["warm", "isolated"])
def test_a_function_knows_its_attempt_and_its_directory(place: Place, isolate: bool) -> None:
    def fail() -> None:
        ports.progress(3, 10)
        (ports.jobs.directory() / "kept").write_text(os.environ["PORTS_JOB"] + " " + os.environ["PORTS_ATTEMPT"])
        raise ValueError("in the middle")

    job, after = place.add(fail, isolate=isolate), place.add(lambda: os.environ.get("PORTS_JOB_DIRECTORY"))
    place.slot()
    place.result(job)
    assert place.queue.ended[job][0]["note"]["progress"] == {"done": 3.0, "total": 10.0}
    assert (place.places.work / job / "kept" / "kept").read_text() == f"{job} 1"
    assert place.result(after) == str(place.places.work / after / "kept")
    assert not (place.places.work / after).exists()
