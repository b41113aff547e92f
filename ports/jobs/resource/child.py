"""The process that runs the jobs of one slot, one after the other: warm, in a session of its own.

It runs by path, as ``python child.py IN OUT LEASE PARENT``, with descriptors of the slot. The first frame says how:
``sys_path``, ``streams`` (the files of stdout and stderr), ``work`` (the directory of all jobs' directories). Each
other frame is a batch of jobs. Each job gets one frame in return; the last one has ``last``, or else lists what was
``skipped``.

Before a job begins, its place in the batch is written to the lease, whose lock this process and all that it starts
hold. So what was begun is known when this process is gone. SIGTERM ends the job that the slot has noted there. Jobs
from the limit on that the slot can write there are skipped: others run them.

stdout and stderr are files. After a job that printed, they are moved to its directory. What a job changed is put
back: directory, environment, signal handlers, closed streams.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import importlib.util
import os
import resource
import shutil
import signal
import sys
import time
from typing import Any

if __name__ == "__main__":  # by path; this directory would hide modules of the user's
    del sys.path[0]

NOBODY, ALL = -1, 10**15  # in the lease: no job was begun, or none is to end; no job is skipped
WIDTH = 16  # of a place in the lease, followed by a newline
BEGUN, TO_END, LIMIT = 0, WIDTH + 1, 2 * (WIDTH + 1)  # where these places are
READABLE_SECONDS = 0.05  # a job that took longer gets its peak of memory
_PR_SET_PDEATHSIG = 1


def _protocol() -> Any:
    """Return the module of the frames, which lies above this file, whatever ``ports`` this interpreter has."""
    path = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "_protocol.py")
    spec = importlib.util.spec_from_file_location("_ports_protocol", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def place_text(place: int) -> bytes:
    """Return a place of a batch as the lease has it."""
    return b"%*d\n" % (WIDTH, place)


class Streams:
    """stdout and stderr as files, each of which is moved to the directory of the job that wrote to it."""

    def __init__(self, files: list[str], work: str) -> None:
        self.files, self.work = files, work
        self.libc = ctypes.CDLL(None)
        self.kept = [-1, -1]
        self.objects: list[Any] = []
        for number in (0, 1):
            self.open(number)
        self.objects = [sys.stdout, sys.stderr]

    def open(self, number: int) -> None:
        """Open a new file for stdout (0) or stderr (1)."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self.files[number], flags, 0o600)
        os.dup2(descriptor, number + 1)
        if self.kept[number] != -1:
            os.close(self.kept[number])
        self.kept[number] = descriptor

    def mend(self) -> None:
        """Put back what a job closed or replaced."""
        for number, name in enumerate(("stdout", "stderr")):
            try:
                is_same = os.path.samestat(os.fstat(number + 1), os.fstat(self.kept[number]))
            except OSError:
                is_same = False
            if not is_same:
                os.dup2(self.kept[number], number + 1)
            mine = self.objects[number]
            if mine.closed:
                mine = self.objects[number] = os.fdopen(number + 1, "w", 1, "utf-8", "backslashreplace", closefd=False)
            setattr(sys, name, mine)

    def collect(self, job: str) -> bool:
        """Move what `job` printed to its directory; say whether there is anything."""
        for name in ("stdout", "stderr"):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                getattr(sys, name).flush()
        self.libc.fflush(None)
        self.mend()
        found = False
        for number, name in enumerate(("stdout", "stderr")):
            if os.fstat(self.kept[number]).st_size:
                found = True
                directory = os.path.join(self.work, job)
                os.makedirs(directory, mode=0o700, exist_ok=True)
                move(self.files[number], os.path.join(directory, name))
                self.open(number)
        return found


def move(source: str, target: str) -> None:
    """Rename a file; append it where a former attempt left one."""
    if not os.path.exists(target):
        os.rename(source, target)
        return
    with open(source, "rb") as old, open(target, "ab") as new:
        shutil.copyfileobj(old, new)
    os.unlink(source)


class Surroundings:
    """What a job finds, and what is put back after it: directory, variables, signal handlers."""

    def __init__(self, handler: Any) -> None:
        self.directory = os.open(".", os.O_RDONLY | os.O_CLOEXEC)
        self.environ = dict(os.environ)
        self.encoded = dict(getattr(os.environ, "_data", {}))
        self.handler = handler

    def change(self, job: dict[str, Any]) -> None:
        """Enter the directory and set the variables that `job` asks for."""
        if job.get("directory"):
            with contextlib.suppress(OSError):  # a function can come from another machine
                os.chdir(job["directory"])
        for name, value in (job.get("environ") or {}).items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    def restore(self) -> None:
        """Put everything back."""
        os.fchdir(self.directory)
        if getattr(os.environ, "_data", None) != self.encoded:
            for name in set(os.environ) - set(self.environ):
                del os.environ[name]
            os.environ.update(self.environ)
        if signal.getsignal(signal.SIGTERM) is not self.handler:
            signal.signal(signal.SIGTERM, self.handler)


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
        self.streams = Streams(self.options["streams"], self.options["work"])
        faulthandler.enable(self.streams.kept[1])
        signal.signal(signal.SIGTERM, self.on_term)
        self.surroundings = Surroundings(self.on_term)

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
        began, used = time.time(), cpu_seconds()
        try:
            self.surroundings.change(job)
            told, blob = self.isolated(job, blobs) if job.get("isolate") else self.called(job, blobs)
        finally:
            if os.getpid() != self.pid:  # the job has forked, and this is the other one
                os._exit(0)
        is_over = told.pop("is_over", False)
        ended = time.time()
        report = {"id": job["id"], "attempt": job["attempt"], "began": began, "ended": ended, **told}
        if is_last:
            report["last"] = True
        report.setdefault("cpu_time", round(cpu_seconds() - used, 6))
        if ended - began > READABLE_SECONDS:
            report.setdefault("peak_memory", peak_memory())
        self.surroundings.restore()
        try:
            report["has_output"] = self.streams.collect(job["id"])
        except OSError as error:
            report["note"] = {**(report.get("note") or {}), "output": f"not kept: {error}"}
        self.send(report, blob)
        if is_over:
            os._exit(0)  # it was interrupted at any place: what it left behind is not for the next job

    def called(self, job: dict[str, Any], blobs: list[bytes]) -> tuple[dict[str, Any], bytes]:
        """Run a job in this process; return what is told of it, and its result."""
        try:
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
            live_with(self.pid)
            self.run_in_fork(sink, job, blobs)
        self.fork = pid
        if self.noted(TO_END, NOBODY) == self.place:
            os.kill(pid, signal.SIGTERM)
        os.close(sink)
        decoder, frames = self.protocol.Decoder(), []
        while data := os.read(source, 1 << 20):
            frames += decoder.feed(data)
            if frames:
                break  # what the fork left running can keep the pipe open
        os.close(source)
        _, status, usage = os.wait4(pid, 0)
        self.fork = 0
        used = {"peak_memory": usage.ru_maxrss * 1024, "cpu_time": usage.ru_utime + usage.ru_stime}
        if frames:
            header, (blob,) = frames[0]
            return {**header, **used}, blob
        return {**ended_badly(status), **used}, b""

    def run_in_fork(self, sink: int, job: dict[str, Any], blobs: list[bytes]) -> None:
        """Run a job in the fork that this process is, and end it."""
        try:
            self.pid, self.sink = os.getpid(), sink
            told, blob = self.called(job, blobs)
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
            self.in_job, self.is_interrupted = False, True
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
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")


def main(words: list[str]) -> None:
    """Run the jobs that come from the slot."""
    source, sink, lease, parent = map(int, words)
    live_with(parent)
    Child(source, sink, lease).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
