"""The slot's end of its warm child: it starts it, gives it batches, reads what it reports, and says how it ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ports import probe, sessions
from ports.jobs._model import THREADS
from ports.jobs._places import Places
from ports.jobs._protocol import Decoder, Frame, encode
from ports.jobs.resource import child, streams
from ports.jobs.resource.lease import HeldLease
from ports.state import settings

_LOOK_SECONDS = (
    0.5,
    0.05,
)  # between looks at the size of the output: of a little, of much


class Shape(NamedTuple):
    """What a child has from its start on: a job that needs something else gets another child."""

    cpus: int = 1
    gpus: tuple[int, ...] = ()

    @classmethod
    def of(cls, job: Mapping[str, Any]) -> Shape:
        """Return what `job` needs."""
        return cls(max(1, int(job.get("cpus") or 1)), tuple(job.get("gpus") or ()))


class WarmChild:
    """A child of this process that runs jobs; it ends with the thread that makes it."""

    def __init__(
        self, slot: str, places: Places, lease: HeldLease, shape: Shape, options: Mapping[str, Any] = {}
    ) -> None:
        self.shape, self.slot, self.places = shape, slot, places
        self.known: set[str] = set()  # the functions that it has
        self.decoder = Decoder()
        files = self._files
        source, self.sink = os.pipe()
        self.source, sink = os.pipe()
        try:
            with files[0].open("ab") as stdout, files[1].open("ab") as stderr:
                self.process = subprocess.Popen(
                    [
                        sys.executable,
                        options.get("child") or child.__file__,
                        *map(str, (source, sink, lease.descriptor, os.getpid())),
                    ],
                    env=_environ(shape, options.get("gpus") or {}),
                    cwd=Path.home(),
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    pass_fds=(source, sink, lease.descriptor),
                    start_new_session=True,
                )
        finally:
            os.close(source)
            os.close(sink)
        self.log_bytes = int(settings.get("jobs.log_bytes"))
        self.look_at = 0.0  # the next time at the size of its output
        self.dropped: dict[str, int] = {}  # bytes of the job that runs which were beyond that
        told = {"sys_path": sys.path, "streams": [str(one) for one in files], "work": str(places.work)}
        self._write({**told, "log_bytes": self.log_bytes}, ())

    @property
    def pid(self) -> int:
        """Its process, which leads the process group of all that it starts."""
        return self.process.pid

    def run(self, jobs: Sequence[Mapping[str, Any]], functions: Mapping[str, bytes], blobs: Sequence[bytes]) -> None:
        """Give it a batch. `jobs` name their blobs by number, and their functions by digest."""
        new = [digest for digest in dict.fromkeys(one["function"] for one in jobs) if digest not in self.known]
        self.known.update(new)
        numbers = {digest: len(blobs) + place for place, digest in enumerate(new)}
        header = {"jobs": list(jobs), "functions": numbers}
        if gone := [digest for digest in self.known if digest not in functions]:
            header["forget"] = gone
            self.known.difference_update(gone)
        self._write(header, [*blobs, *(functions[digest] for digest in new)])

    def _write(self, header: dict[str, Any], blobs: Sequence[bytes]) -> None:
        data = memoryview(encode(header, blobs))
        with contextlib.suppress(BrokenPipeError):  # it has ended, which its other pipe shows
            while data:
                data = data[os.write(self.sink, data) :]

    def read(self) -> list[Frame] | None:
        """Return what it reports; None when it has ended."""
        data = os.read(self.source, 1 << 20)
        frames = self.decoder.feed(data) if data else None
        for frame in frames or ():
            if "id" in frame.header:
                self._add_dropped(frame.header)
        return frames

    def _add_dropped(self, report: dict[str, Any]) -> None:
        """Add to what the child reports of a job how much of its output was cut off while it ran."""
        dropped, self.dropped = self.dropped, {}
        if dropped:
            note = dict(report.get("note") or {})
            for name, lost in dict(note.get("dropped") or {}).items():
                dropped[name] = dropped.get(name, 0) + lost
            report["note"] = {**note, "dropped": dropped}

    def bound_output(self, now: float) -> None:
        """Cut what the job that runs has printed, if it is too much; look more often where much comes."""
        if now < self.look_at:
            return
        most = max(streams.size_of(str(file)) for file in self._files)
        self.look_at = now + _LOOK_SECONDS[most > self.log_bytes / 4]
        for name, file in zip(("stdout", "stderr"), self._files, strict=True):
            with contextlib.suppress(OSError):
                if lost := streams.cut(str(file), self.log_bytes):
                    self.dropped[name] = self.dropped.get(name, 0) + lost

    @property
    def _files(self) -> tuple[Path, Path]:
        return self.places.stdout_of(self.slot), self.places.stderr_of(self.slot)

    def has_ended(self) -> bool:
        """Say whether it has ended and all was read: what a job has forked can hold the pipe open."""
        return self.process.poll() is not None and not select.select([self.source], [], [], 0)[0]

    def memory(self) -> int:
        """Return the bytes that it and all that it started have for themselves."""
        return sum(map(probe.processes.own_memory, (self.pid, *probe.processes.descendants(self.pid))))

    def end(self, number: int) -> None:
        """Send it a signal; SIGKILL reaches all that it started."""
        with contextlib.suppress(OSError):
            if number == signal.SIGKILL:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)

    def close(self) -> dict[str, Any]:
        """End it and all that it started; return what is told of a job that it had begun and not reported."""
        os.close(self.sink)  # without a job it ends by itself
        try:
            status = self.process.wait(2)
        except subprocess.TimeoutExpired:
            self.end(signal.SIGKILL)
            status = self.process.wait()
        with contextlib.suppress(OSError):  # what it left; its pid is its group's, which only they can have
            os.killpg(self.pid, signal.SIGKILL)
        os.close(self.source)
        return child.ended_badly(-status if status < 0 else status << 8)

    def keep_output(self, job: str | None) -> bool:
        """Move what it printed last to the directory of `job`, if there is one; say whether there was anything."""
        found = False
        targets = (self.places.work / str(job) / name for name in ("stdout", "stderr"))
        for file, target in zip(self._files, targets, strict=True):
            before = file.with_name(f"{file.name}.1")
            with contextlib.suppress(OSError):
                if job is not None and (file.stat().st_size or before.exists()):
                    target.parent.mkdir(mode=0o700, exist_ok=True)
                    lost = streams.move(str(file), str(target))
                    if lost := lost + streams.cut(str(target), self.log_bytes):
                        self.dropped[target.name] = self.dropped.get(target.name, 0) + lost
                    found = True
                else:
                    before.unlink(missing_ok=True)
                    file.unlink()
        return found

    def last_words(self) -> str:
        """Return the end of what it printed to stderr."""
        with contextlib.suppress(OSError):
            data: bytes = self.places.stderr_of(self.slot).read_bytes()[-4000:]
            return data.decode("utf-8", "replace").strip()
        return ""


def _environ(shape: Shape, uuids: Mapping[str, str]) -> dict[str, str]:
    environ = sessions.surroundings.of_this_process()
    environ.update(dict.fromkeys(THREADS, str(shape.cpus)))
    if shape.gpus:
        environ["CUDA_VISIBLE_DEVICES"] = ",".join(uuids.get(str(one), str(one)) for one in shape.gpus)
    return environ
