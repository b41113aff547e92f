"""The process that runs the jobs of one slot, one after the other: warm, in a session of its own.

It runs by path, as ``python child.py IN OUT LEASE PARENT``, with descriptors of the slot. The first frame says how:
``sys_path``, ``streams`` (the files of stdout and stderr), ``work`` (the directory of all jobs' directories). Each
other frame is a batch of jobs. Each job gets one frame in return; the last one has ``last``, or else lists what was
``skipped``.

Before a job begins, its place in the batch is written to the lease, whose lock this process and all that it starts
hold. So what was begun is known when this process is gone. SIGTERM ends the job that the slot has noted there. Jobs
from the limit on that the slot can write there are skipped: others run them.

stdout and stderr are files. After a job that printed, they are moved to its directory. What a job changed is put
back: directory, environment, signal handlers and timers, umask, ``sys.path``, closed streams. A job that leaves
threads or processes behind, or other limits, takes this process with it: the next job gets another one.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # without the enums of `signal`, which take longer than all else after a job
import contextlib
import ctypes
import faulthandler
import importlib
import importlib.util
import os
import resource
import select
import signal
import sys
import threading
import time
from typing import Any

if __name__ == "__main__":  # by path; this directory would hide modules of the user's
    del sys.path[0]

NOBODY, ALL = -1, 10**15  # in the lease: no job was begun, or none is to end; no job is skipped
WIDTH = 16  # of a place in the lease, followed by a newline
BEGUN, TO_END, LIMIT = 0, WIDTH + 1, 2 * (WIDTH + 1)  # where these places are
READABLE_SECONDS = 0.05  # a job that took longer gets its peak of memory
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_KILL = int(signal.SIGKILL)
_OWN = ("PORTS_JOB", "PORTS_ATTEMPT", "PORTS_JOB_DIRECTORY")
_LOOK_SECONDS = 0.1  # between two looks whether a fork has ended whose pipe something else holds open
_LEAVE_SECONDS = 0.1  # in which threads and processes of a job can end after it
_SIGNALS: tuple[signal.Signals, ...] = (
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGALRM,
    signal.SIGCHLD,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_SIGNALS += (signal.SIGTERM, signal.SIGQUIT, signal.SIGPIPE, signal.SIGVTALRM, signal.SIGPROF)
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_LIMITS: tuple[int, ...] = (resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_STACK, resource.RLIMIT_FSIZE)
_LIMITS += (resource.RLIMIT_NOFILE, resource.RLIMIT_CPU)


def _protocol() -> Any:
    """Return the module of the frames that lies beside this file's package, or beside a copy of both."""
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = os.path.join(here, "probe", "queue", "frames.py")
    spec = importlib.util.spec_from_file_location("_ports_protocol", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def place_text(place: int) -> bytes:
    """Return a place of a batch as the lease has it."""
    return b"%*d\n" % (WIDTH, place)


class Surroundings:
    """What a job finds, and what is put back after it: directory, variables, signals, umask, the path of imports."""

    def __init__(self, work: str) -> None:
        self.work = work
        self.directory = os.open(".", os.O_RDONLY | os.O_CLOEXEC)
        self.variables, self.environ = os.environ, dict(os.environ)
        self.encoded = dict(getattr(os.environ, "_data", {}))
        found = [(number, _signal.getsignal(number)) for number in _SIGNALS]
        self.handlers = [pair for pair in found if pair[1] is not None]  # which Python has not set
        self.path, self.depth = list(sys.path), sys.getrecursionlimit()
        self.umask = os.umask(0o077)
        os.umask(self.umask)
        self.limits = limits()

    def change(self, job: dict[str, Any]) -> None:
        """Enter the directory and set the variables that `job` asks for."""
        if job.get("directory"):
            with contextlib.suppress(OSError):  # a function can come from another machine
                os.chdir(job["directory"])
        own = (job["id"], str(job["attempt"]), f"{self.work}/{job['id']}/kept")
        for name, value in zip(_OWN, own, strict=True):  # they stay until the next job, which has others
            if self.environ.get(name) != value:
                self.set_variable(name, value)
        for name, value in (job.get("environ") or {}).items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    def set_variable(self, name: str, value: str) -> None:
        """Set a variable of this process; `os.environ` takes twice as long, for each job."""
        self.environ[name] = value
        key, data = os.fsencode(name), os.fsencode(value)
        os.putenv(key, data)
        self.encoded[key] = self.variables._data[key] = data  # type: ignore[attr-defined]

    def restore(self) -> None:
        """Put everything back."""
        os.fchdir(self.directory)
        os.umask(self.umask)
        os.environ = self.variables  # noqa: B003  a job can put something else there
        if getattr(os.environ, "_data", None) != self.encoded:
            for name in set(os.environ) - set(self.environ):
                del os.environ[name]
            os.environ.update(self.environ)
        for timer in _TIMERS:
            signal.setitimer(timer, 0)
        _signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for number, handler in self.handlers:
            if _signal.getsignal(number) != handler:
                signal.signal(number, handler)
        if sys.path != self.path:
            sys.path[:] = self.path
        sys.setrecursionlimit(self.depth)
        sys.settrace(None)
        sys.setprofile(None)


def limits() -> list[tuple[int, int]]:
    """Return the limits of this process, which nobody can raise again."""
    return [resource.getrlimit(one) for one in _LIMITS]


def leaves_something() -> bool:
    """Say whether a job has left threads or processes, which end with this process. They have a moment to end."""
    until = 0.0
    while threading.active_count() > 1 or has_children():
        until = until or time.monotonic() + _LEAVE_SECONDS
        if time.monotonic() > until:
            return True
        time.sleep(0.002)
    return False


def has_children() -> bool:
    """Say whether a process below this one lives; those that have ended are reaped."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def end_children() -> None:
    """Kill what a job has left running. This process is the parent of all that has lost its own."""
    until = time.monotonic() + 5
    while has_children() and time.monotonic() < until:
        with contextlib.suppress(OSError, ValueError):
            with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
                pids = list(map(int, file.read().split()))
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)


class Child:
    """Runs batches of jobs until the slot closes its end."""

    def __init__(self, source: int, sink: int, lease: int) -> None:
        self.source, self.sink, self.lease = source, sink, lease
        for descriptor in (source, sink):
            os.set_inheritable(descriptor, False)
        self.pid = os.getpid()
        self.place, self.fork = NOBODY, 0
        self.in_job = self.is_interrupted = False
        self.protocol = _protocol()
        self.decoder = self.protocol.Decoder()
        self.functions: dict[str, bytes] = {}
        self.frames: list[Any] = []
        self.options = self.receive().header
        sys.path[:] = self.options["sys_path"]
        self.call = importlib.import_module("ports.jobs.resource.call")
        self.inside = importlib.import_module("ports.jobs._inside")
        streams = importlib.import_module("ports.jobs.resource.streams")
        self.streams = streams.Streams(self.options["streams"], self.options["work"], self.options["log_bytes"])
        faulthandler.enable(self.streams.kept[1])
        self.on_signal = self.on_term  # one object: each look at the attribute makes another one
        signal.signal(signal.SIGTERM, self.on_signal)
        self.surroundings = Surroundings(self.options["work"])

    def receive(self) -> Any:
        """Return the next frame; ends this process when there are none."""
        while not self.frames:
            data = os.read(self.source, 1 << 20)
            if not data:
                os._exit(0)
            self.frames += self.decoder.feed(data)
        return self.frames.pop(0)

    def send(self, header: dict[str, Any], blob: bytes) -> None:
        """Report the end of a job."""
        try:
            data = memoryview(self.protocol.encode(header, [blob]))
        except ValueError as error:  # beyond the limits of a frame
            wrong = {"type": "ports.UsageError", "text": f"the result cannot be sent: {error}", "traceback": ""}
            data = memoryview(self.protocol.encode({**header, "state": "error", "error": wrong}, [b""]))
        while data:
            data = data[os.write(self.sink, data) :]

    def serve(self) -> None:
        """Run what comes."""
        while True:
            header, blobs = self.receive()
            self.run_batch(header, blobs)

    def run_batch(self, header: dict[str, Any], blobs: list[bytes]) -> None:
        """Run a batch of jobs, one after the other."""
        for digest in header.get("forget", ()):
            self.functions.pop(digest, None)
        for digest, number in header["functions"].items():
            self.functions[digest] = blobs[number]
        skipped: list[int] = []
        self.place = header["jobs"][0]["place"] - 1  # those before it in the lease were begun in former batches
        for job in header["jobs"]:
            os.pwrite(self.lease, place_text(job["place"]), BEGUN)
            # After that: if the slot saw a lower place, it has written the limit before, and this job is skipped.
            if job["place"] >= self.noted(LIMIT, ALL):
                os.pwrite(self.lease, place_text(self.place), BEGUN)
                skipped.append(job["place"])
                continue
            self.place = job["place"]
            self.run_one(job, blobs, is_last=job is header["jobs"][-1])
        self.place = NOBODY
        if skipped:
            self.send({"skipped": skipped}, b"")

    def run_one(self, job: dict[str, Any], blobs: list[bytes], *, is_last: bool) -> None:
        """Run a job, report it, and put back what it changed."""
        began, used, is_isolated = time.time(), cpu_seconds(), bool(job.get("isolate"))
        try:
            told, blob = self.isolated(job, blobs) if is_isolated else self.changed(job, blobs)
        finally:
            if os.getpid() != self.pid:  # the job has forked, and this is the other one
                os._exit(0)
        ended = time.time()
        report = {"id": job["id"], "attempt": job["attempt"], "began": began, "ended": ended, **told}
        if is_last:
            report["last"] = True
        report.setdefault("cpu_time", round(cpu_seconds() - used, 6))
        if ended - began > READABLE_SECONDS:
            report.setdefault("peak_memory", peak_memory())
        is_over = not is_isolated and self.cannot_go_on(report)
        try:
            report["has_output"] = self.streams.collect(job["id"], was_long=ended - began > READABLE_SECONDS)
            if self.streams.dropped:
                report["note"] = {**(report.get("note") or {}), "dropped": self.streams.dropped}
        except OSError as error:
            report["note"] = {**(report.get("note") or {}), "output": f"not kept: {error}"}
        self.send(report, blob)
        if is_over:
            os._exit(0)

    def cannot_go_on(self, report: dict[str, Any]) -> bool:
        """Put back what a job changed here; say whether it left something that only ends with this process."""
        self.surroundings.restore()
        # One that was interrupted can have been at any place: what it left behind is not for the next job.
        is_over = report.pop("is_over", False) or leaves_something() or limits() != self.surroundings.limits
        if is_over:
            end_children()
        return bool(is_over)

    def changed(self, job: dict[str, Any], blobs: list[bytes]) -> tuple[dict[str, Any], bytes]:
        """Run a job with the surroundings that it asks for."""
        self.surroundings.change(job)
        return self.called(job, blobs)

    def called(self, job: dict[str, Any], blobs: list[bytes]) -> tuple[dict[str, Any], bytes]:
        """Run a job in this process; return what is told of it, and its result."""
        try:
            self.inside.begin()
            self.in_job = True
            if self.noted(TO_END, NOBODY) == self.place:  # the signal came before
                self.on_term()
            results = {name: blobs[number] for name, number in (job.get("results") or {}).items()}
            done = self.call.run(
                self.functions[job["function"]], blobs[job["arguments"]], results=results, cache=job.get("cache")
            )
            self.in_job = False
            told, blob = {"state": done.state, "error": done.error, "note": dict(done.note)}, done.blob
        except BaseException as error:  # noqa: BLE001 - the job's, whatever it is
            self.in_job = False
            told, blob = failed(error), b""
        if (said := self.inside.end(job["id"])) is not None and told["state"] != "finished":
            told["note"] = {**(told.get("note") or {}), "progress": said}
        if self.is_interrupted:
            told["is_over"] = True
            told["interrupted"] = told["state"] != "finished"
        return told, blob

    def isolated(self, job: dict[str, Any], blobs: list[bytes]) -> tuple[dict[str, Any], bytes]:
        """Run a job in a fork of this process."""
        self.call.warm(self.functions[job["function"]])
        source, sink = os.pipe()
        pid = os.fork()
        if not pid:
            end_with(self.pid, self.streams.libc)
            self.run_in_fork(sink, job, blobs)
        self.fork = pid
        if self.noted(TO_END, NOBODY) == self.place:
            os.kill(pid, signal.SIGTERM)
        os.close(sink)
        frames = self.frames_of(pid, source)
        os.close(source)
        _, status, usage = os.wait4(pid, 0)
        self.fork = 0
        end_children()
        used = {"peak_memory": usage.ru_maxrss * 1024, "cpu_time": usage.ru_utime + usage.ru_stime}
        if frames:
            header, (blob,) = frames[0]
            return {**header, **used}, blob
        return {**ended_badly(status), **used}, b""

    def frames_of(self, pid: int, source: int) -> list[Any]:
        """Return what a fork reports. Something that it has left running can hold its pipe open."""
        decoder, frames = self.protocol.Decoder(), list[Any]()
        has_ended = False
        while not frames:
            if not select.select([source], [], [], 0 if has_ended else _LOOK_SECONDS)[0]:
                if has_ended:
                    break
                has_ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
            elif data := os.read(source, 1 << 20):
                frames += decoder.feed(data)
            else:
                break
        return frames

    def run_in_fork(self, sink: int, job: dict[str, Any], blobs: list[bytes]) -> None:
        """Run a job in the fork that this process is, and end it."""
        try:
            self.pid, self.sink = os.getpid(), sink
            if (random := sys.modules.get("numpy.random")) is not None:
                random.seed()  # else each fork would draw the same numbers
            told, blob = self.changed(job, blobs)
            told.pop("is_over", None)
            for name in ("stdout", "stderr"):
                with contextlib.suppress(OSError, ValueError, AttributeError):
                    getattr(sys, name).flush()
            self.streams.libc.fflush(None)
            if os.getpid() == self.pid:
                self.send(told, blob)
        finally:
            os._exit(0)

    def noted(self, where: int, default: int) -> int:
        """Return a place that the slot has noted in the lease."""
        try:
            return int(os.pread(self.lease, WIDTH, where))
        except (OSError, ValueError):
            return default

    def on_term(self, *_: object) -> None:
        """End the job that the slot has noted. Without a note the signal is somebody else's, and ends this process."""
        noted = self.noted(TO_END, NOBODY)
        if noted == NOBODY or os.getpid() != self.pid:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        elif noted == self.place and self.fork:
            os.kill(self.fork, signal.SIGTERM)
        elif noted == self.place and self.in_job:
            self.is_interrupted = True
            if self.inside.stop():
                return  # the job looks at that itself
            self.in_job = False
            with contextlib.suppress(OSError):
                if os.getpgid(0) == self.pid:
                    os.killpg(self.pid, signal.SIGTERM)  # what the job has started; this process ignores it
            raise KeyboardInterrupt


def failed(error: BaseException) -> dict[str, Any]:
    """Return what is told of a job that ended by `error`."""
    import traceback

    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    told = {"type": type(error).__name__, "text": str(error), "traceback": text}
    return {"state": "error", "error": told}


def ended_badly(status: int) -> dict[str, Any]:
    """Return what is told of a job whose process ended with this wait status, without a result."""
    if os.WIFEXITED(status):
        words = f"its process ended with exit status {os.WEXITSTATUS(status)}, without a result"
        return {"state": "error", "error": {"type": "ProcessEnded", "text": words, "traceback": ""}}
    number = os.WTERMSIG(status)
    with contextlib.suppress(ValueError):
        words = f"its process was ended by signal {number} ({signal.Signals(number).name})"
        if number == signal.SIGKILL:
            words += "; the system does that when the memory runs out"
        state = "lost" if number in (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP) else "error"
        return {"state": state, "error": {"type": "ProcessEnded", "text": words, "traceback": ""}}
    return {"state": "error", "error": {"type": "ProcessEnded", "text": f"signal {number}", "traceback": ""}}


def cpu_seconds() -> float:
    """Return the processor time of this process and of its children that have ended."""
    return sum(os.times()[:4])


def peak_memory() -> int | None:
    """Return the most bytes that this process had since the last call; None where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open("/proc/self/status", "rb") as file:
            peak = int(file.read().split(b"VmHWM:")[1].split()[0]) * 1024
        with open("/proc/self/clear_refs", "wb") as file:
            file.write(b"5")
        return peak
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def live_with(parent: int) -> None:
    """End when the worker does; be what the system ends first when the memory runs out."""
    if sys.platform.startswith("linux"):
        end_with(parent, ctypes.CDLL(None))
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")


def end_with(parent: int, libc: Any) -> None:
    """End when `parent` does, and be the parent of what loses its own."""
    if sys.platform.startswith("linux"):
        libc.prctl(_PR_SET_PDEATHSIG, _KILL, 0, 0, 0)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def main(words: list[str]) -> None:
    """Run the jobs that come from the slot."""
    source, sink, lease, parent = map(int, words)
    live_with(parent)
    Child(source, sink, lease).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
