"""A slot: a task of the cluster `jobs` that asks the resource for jobs and lets a warm child run them.

Dask places it and does nothing else: a Dask task is never an attempt of a job. The slot asks for work only while it
holds none. What it was given and did not begin goes back when it ends; its lease shows what that is.

The resource can end and come back: the child works on, and the slot reports what it had not acknowledged.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import secrets
import selectors
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ports import probe
from ports._version import VERSION
from ports.errors import ConflictError, UsageError
from ports.jobs._model import as_asked
from ports.jobs._places import Places
from ports.jobs._protocol import PROTOCOL, Decoder, Frame, encode
from ports.jobs.resource import environment, script
from ports.jobs.resource.child import NOBODY
from ports.jobs.resource.lease import HeldLease
from ports.jobs.resource.warm import Shape, WarmChild

_LOG = logging.getLogger("distributed.worker.ports")
_MOST = 64  # jobs of a batch, where the resource does not say how many
_FLUSH_SECONDS = 0.05  # a result waits for others so long
_FLUSH_BYTES = 8 * 2**20
_BEGUN_SECONDS = 0.05  # a job that runs longer is shown as running
_LOOK_SECONDS = 0.5  # between two looks at whether the worker is paused
_RETRY_SECONDS = (0.05, 2.0)  # between two attempts to reach the resource: at first, and at most
_WEIGH_SECONDS = 0.5  # between two looks at the memory of a job that has a limit
_KEPT_BYTES = 64 * 2**20  # of functions
_KEPT = 16
_OWN = ("at", "refused")  # names in a result that are not sent
_MOST_KILLS = 20  # of a child that was killed from outside before that
_MOST_STARTS = 2  # of a child that ends before it begins a job


class Functions:
    """The functions that this slot has, by digest: those that were used last."""

    def __init__(self) -> None:
        self.by_digest: collections.OrderedDict[str, bytes] = collections.OrderedDict()

    def add(self, digest: str, blob: bytes) -> None:
        """Keep a function."""
        self.by_digest[digest] = blob
        self.by_digest.move_to_end(digest)

    def forget(self) -> None:
        """Forget those that were not used for longest, beyond the limits."""
        size = sum(map(len, self.by_digest.values()))
        while len(self.by_digest) > _KEPT or (size > _KEPT_BYTES and len(self.by_digest) > 1):
            size -= len(self.by_digest.popitem(last=False)[1])


#: Why a slot ends whose environment was deleted.
UPROOTED = "uprooted"


class Link:
    """The connection to the resource, as far as there is one."""

    def __init__(self, path: Path) -> None:
        self.path, self.decoder = path, Decoder()
        self.socket: socket.socket | None = None
        self.next_try, self.wait = 0.0, _RETRY_SECONDS[0]
        self.numbers = 0
        self.unsent: list[bytes] = []

    def connect(self, now: float) -> bool:
        """Try to reach the resource, if it is time to; say whether it answers now."""
        if now < self.next_try:
            return False
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            one.settimeout(10)
            one.connect(os.fspath(self.path))
            if probe.peer_uid(one) not in (None, probe.own_uid()):
                raise OSError("another user answers there")
        except OSError:
            one.close()
            self.next_try, self.wait = now + self.wait, min(_RETRY_SECONDS[1], self.wait * 2)
            return False
        self.socket, self.decoder, self.unsent, self.wait = one, Decoder(), [], _RETRY_SECONDS[0]
        return True

    def send(self, header: Mapping[str, Any], blobs: list[bytes] | tuple[()] = ()) -> int:
        """Note a request for the next `push`; return its number."""
        self.numbers += 1
        self.unsent.append(encode({"n": self.numbers, **header}, blobs))
        return self.numbers

    def push(self) -> None:
        """Send all requests at once: the resource takes what comes together in one turn.

        A connection that has ended is noticed by the next `read`.
        """
        data, self.unsent = b"".join(self.unsent), []
        if self.socket is not None and data:
            with contextlib.suppress(OSError):
                self.socket.settimeout(None)
                self.socket.sendall(data)

    def read(self) -> list[Frame] | None:
        """Return what has come; None when the connection has ended."""
        assert self.socket is not None
        try:
            data = self.socket.recv(1 << 20)
            return self.decoder.feed(data) if data else None
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        """End the connection."""
        if self.socket is not None:
            self.socket.close()
        self.socket = None


class Slot:
    """One slot at work.

    Parameters
    ----------
    options : mapping
        ``root``, ``runtime`` (the directories of `Places`), ``task`` (its key in Dask), ``idle`` (seconds without work
        after which it ends), ``grace`` (seconds between SIGTERM and SIGKILL), ``most`` (jobs of a batch).
    worker : object
        The Dask worker, or None: its ``status`` and ``address`` are looked at.
    """

    def __init__(self, options: Mapping[str, Any], worker: Any = None) -> None:
        self.options, self.worker = options, worker
        self.places = Places(Path(options["root"]), Path(options["runtime"]))
        self.name = f"slot-{secrets.token_hex(6)}"
        self.lease = HeldLease(self.places.lease_of(self.name))
        self.link = Link(self.places.socket)
        self.child: WarmChild | None = None
        self.functions = Functions()
        self.batch: list[dict[str, Any]] = []  # what it was given, without what has ended
        self.blobs: list[bytes] = []
        self.given: list[dict[str, Any]] = []  # what the child has: the places in the lease count in this
        self.results: list[tuple[dict[str, Any], bytes]] = []  # that are not sent
        self.sent: dict[int, list[tuple[dict[str, Any], bytes]]] = {}  # that are not acknowledged
        self.started: dict[int, dict[str, Any]] = {}  # scripts of which the resource may not know that they run
        self.report_at = 0.0  # not before: the resource could not keep them
        self.claim = 0  # the number of the claim that waits for work
        self.asked_before = False
        self.since = self.worked_at = time.monotonic()
        self.is_busy = False  # the child has not come to the end of what it was given
        self.is_long = self.told_begun = False  # the job that runs: takes longer than an instant; the resource knows it
        self.ends: dict[tuple[str, int], str] = {}
        self.kill_at, self.weighed_at = float("inf"), 0.0
        self.n_starts = 0
        self.looked_at, self.is_paused, self.is_closing = 0.0, False, False
        self.is_uprooted = False  # its environment is gone: it starts nothing any more
        self.selector = selectors.DefaultSelector()
        self.process = probe.process_identity(os.getpid())

    # --- the loop ---

    def run(self) -> str:
        """Work until there was none for `idle` seconds, or until the worker closes; return why it ended."""
        try:
            while True:
                now = time.monotonic()
                self.look(now)
                if self.is_free and not self.results and (why := self.reason_to_end(now)) is not None:
                    return why
                self.keep_connected(now)
                self.flush(now)
                self.ask()
                self.mind_the_child(now)
                self.link.push()
                for key, _ in self.selector.select(self.patience(time.monotonic())):
                    key.data()
        finally:
            self.close()

    @property
    def is_free(self) -> bool:
        """Whether it holds no job, and its child neither."""
        return not self.batch and not self.is_busy

    def look(self, now: float) -> None:
        """Look whether the worker is paused, or closes."""
        if self.worker is None or now - self.looked_at < _LOOK_SECONDS:
            return
        self.looked_at = now
        status = str(getattr(self.worker.status, "name", self.worker.status))
        self.is_paused = status == "paused"
        self.is_closing = status in ("closing", "closing_gracefully", "closed", "failed")
        if (self.is_paused or self.is_closing) and self.claim and not self.batch:
            self.disconnect()  # so that it is given nothing

    def reason_to_end(self, now: float) -> str | None:
        """Return why a slot that holds nothing ends now, in a word; None if it goes on."""
        if self.is_closing:
            return "closing"
        if self.sent or self.started:
            return None
        if self.is_uprooted:
            return UPROOTED
        return "idle" if now - self.worked_at >= float(self.options["idle"]) else None

    def patience(self, now: float) -> float:
        """Return how long to wait for something to happen."""
        waits = [_LOOK_SECONDS, self.kill_at - now if now < self.kill_at else _BEGUN_SECONDS]  # killed: it ends soon
        if self.may_connect:
            waits.append(self.link.next_try - now)
        if self.batch:
            running = self.batch[0]
            waits.append(_BEGUN_SECONDS - (now - self.since) if not self.is_long else _LOOK_SECONDS)
            if (running["id"], running["attempt"]) not in self.ends:
                waits.append(float(running.get("timeout") or 1e9) - (now - self.since))
            if self.is_long and self.child is not None:
                waits.append(self.child.look_at - now)
        if self.results:
            waits.append(_FLUSH_SECONDS)
        return max(0.0, min(waits))

    def close(self) -> None:
        """Let go of everything."""
        self.link.push()
        self.link.close()
        if self.child is not None:
            self.child.end(signal.SIGKILL) if self.batch else None
            self.child.close()
            self.child.keep_output(None)
        self.lease.close()
        self.selector.close()

    # --- the resource ---

    @property
    def may_connect(self) -> bool:
        """Whether it has no connection and is to have one: where its worker is paused, only to tell what it holds."""
        holds = bool(self.batch or self.results or self.sent or self.started)
        return self.link.socket is None and (holds or not self.is_paused)

    def keep_connected(self, now: float) -> None:
        """Reach the resource; after a loss say what is held, and report again what was not acknowledged."""
        if not self.may_connect or not self.link.connect(now):
            return
        assert self.link.socket is not None
        self.selector.register(self.link.socket, selectors.EVENT_READ, self.hear)
        self.link.send({"op": "hello", "protocol": PROTOCOL, "version": VERSION, "slot": self.name, **self.task()})
        unsaid = [pair for pairs in self.sent.values() for pair in pairs]
        self.sent.clear()
        self.results = [*unsaid, *self.results]
        if self.asked_before:
            held = [*(one["id"] for one in self.batch), *self.unacknowledged()]
            self.link.send({"op": "holding", "ids": held, **self.who()})
            scripts = [*self.started.values()]
            self.started.clear()
            for told in scripts:
                self.tell_started(told)
            self.told_begun = False

    def task(self) -> dict[str, Any]:
        """Return which Dask task this is."""
        return {"task": self.options["task"]}

    def who(self) -> dict[str, Any]:
        """Return what the resource records of this slot."""
        return {
            "slot": self.name,
            "worker": str(getattr(self.worker, "address", "")),
            "pid": os.getpid(),
            "process": self.process,
            "lease": str(self.lease.path),
        }

    def disconnect(self) -> None:
        """End the connection; what was not acknowledged is reported on the next one."""
        if self.link.socket is not None:
            self.selector.unregister(self.link.socket)
            self.link.close()
        self.claim = 0

    def ask(self) -> None:
        """Ask for work, if it holds none."""
        if not self.is_free or self.claim or self.results or self.link.socket is None:
            return
        if self.is_paused or self.is_closing or self.is_uprooted:
            return
        known, most = list(self.functions.by_digest), self.options.get("most", _MOST)
        asked = {"op": "claim", "most": most, "known": known, "holds": self.unacknowledged(), **self.who()}
        self.claim = self.link.send(asked)
        self.asked_before = True

    def unacknowledged(self) -> list[str]:
        """Return the jobs whose results or starts the resource has not noted yet, as far as is known here."""
        return [one["id"] for one in self.unsettled()]

    def unsettled(self) -> list[dict[str, Any]]:
        """Return what is told of these jobs."""
        pairs = [*self.results, *(pair for pairs in self.sent.values() for pair in pairs)]
        return [*(result for result, _ in pairs), *self.started.values()]

    def write_lease(self, jobs: list[dict[str, Any]]) -> int:
        """Write what this slot is about to begin, behind what is not acknowledged; return how many these are."""
        before = self.unsettled()
        self.lease.write([(one["id"], one["attempt"]) for one in (*before, *jobs)], len(before))
        return len(before)

    def flush(self, now: float) -> None:
        """Report results: at the end of a batch at once, else a few together."""
        if not self.results or self.link.socket is None or now < self.report_at:
            return
        size = sum(len(blob) for _, blob in self.results)
        if self.batch and now - self.results[0][0].get("at", 0.0) < _FLUSH_SECONDS and size < _FLUSH_BYTES:
            return
        pairs, self.results = self.results, []
        for group in [pairs] if size < 2 * _FLUSH_BYTES else [[one] for one in pairs]:  # a frame has a limit
            self.report(group)

    def report(self, pairs: list[tuple[dict[str, Any], bytes]]) -> None:
        """Send results, to be acknowledged together."""
        told = [{name: value for name, value in result.items() if name not in _OWN} for result, _ in pairs]
        number = self.link.send({"op": "ended", "slot": self.name, "results": told}, [blob for _, blob in pairs])
        self.sent[number] = pairs

    def hear(self) -> None:
        """Take what the resource says."""
        frames = self.link.read()
        if frames is None:
            self.disconnect()
            return
        for frame in frames:
            number, header = frame.header.get("n"), frame.header
            if header.get("op") == "end":
                self.end(str(header.get("id")), int(header.get("attempt") or 0), str(header.get("how")))
            elif "error" in header:
                _LOG.warning("the resource refused: %s", header["error"])
                self.keep_refused(int(number or 0), header["error"])
                if number == self.claim:
                    self.disconnect()
                    self.link.next_try = time.monotonic() + _RETRY_SECONDS[1]
                    return
            elif header.get("unknown"):
                for one in self.batch:  # they were taken for lost, and others run them
                    if one["id"] in header["unknown"]:
                        self.end(one["id"], one["attempt"], "lost")
            elif number == self.claim and number:
                self.claim = 0
                if self.unacknowledged():  # the answers before this one refused them: they stay in the lease
                    self.return_jobs(frame.header.get("jobs") or [])
                else:
                    self.take(frame)
            else:
                self.sent.pop(int(number or 0), None)
                self.started.pop(int(number or 0), None)

    def keep_refused(self, number: int, error: Mapping[str, Any]) -> None:
        """Report results again: each by itself where one of them is wrong, all later where the disk may be full."""
        pairs = self.sent.pop(number, [])
        script = self.started.pop(number, None)
        if error.get("exit_code") == UsageError.exit_code:
            for result, blob in pairs:
                if len(pairs) > 1:
                    self.report([(result, blob)])
                elif not result.get("refused"):
                    self.report([(_refused(result, error), b"")])
        else:
            self.results = [*pairs, *self.results]
            self.report_at = time.monotonic() + _RETRY_SECONDS[1]
            if script is not None:
                self.disconnect()  # it is told again on the next connection
                self.started[-number] = script

    def end(self, job: str, attempt: int, how: str) -> None:
        """End a job at the resource's word. One that was not begun goes back, with those behind it."""
        for place, one in enumerate(self.batch):
            if (one["id"], one["attempt"]) == (job, attempt):
                self.ends.setdefault((job, attempt), how)
                if place:
                    self.give_back(place)
                return

    def give_back(self, first: int) -> None:
        """Give back the jobs of the batch from number `first` on, as far as the child has not begun them."""
        if first < len(self.given):
            begun = self.lease.limit(self.given[first]["place"])
            # Whether the child runs or skips the one at the limit itself, only the child can say.
            first = sum(one["place"] <= max(begun, self.given[first - 1]["place"]) for one in self.given)
            del self.given[first:]
        back = self.batch[first:]
        del self.batch[first:]
        self.return_jobs(back)

    def return_jobs(self, jobs: list[dict[str, Any]]) -> None:
        """Tell the resource that these jobs were not begun and will not be."""
        for one in jobs:
            self.ends.pop((one["id"], one["attempt"]), None)
        if jobs and self.link.socket is not None:  # else `holding` shows it later
            self.link.send({"op": "returned", "slot": self.name, "ids": [one["id"] for one in jobs]})

    # --- the child ---

    def take(self, frame: Frame) -> None:
        """Begin the batch that the resource has given."""
        for digest, number in (frame.header.get("functions") or {}).items():
            self.functions.add(digest, frame.blobs[number])
        jobs, self.blobs = frame.header.get("jobs") or [], frame.blobs
        if environment.missing(of_script=any(one.get("kind") == "script" for one in jobs)) is not None:
            self.leave(jobs)
            return
        scripts = [one for one in jobs if one.get("kind") == "script"]
        first = self.write_lease(scripts) if scripts else 0
        for place, job in enumerate(scripts, first):
            self.lease.note_begun(place)  # if this process is killed now, the attempt counts
            self.start_script(job)
        self.batch = [one for one in jobs if one.get("kind") != "script"]
        self.worked_at = time.monotonic()
        for job in self.batch:
            self.functions.by_digest.move_to_end(job["function"])
        self.give()

    def leave(self, jobs: list[dict[str, Any]]) -> None:
        """Give back jobs that cannot start because the environment is gone, and end: the resource says what is gone."""
        self.is_uprooted = True
        self.return_jobs(jobs)

    def start_script(self, job: dict[str, Any]) -> None:
        """Start a script in a session of its own, and let the resource watch it from then on."""
        told, uuids = {"id": job["id"], "attempt": job["attempt"]}, self.options.get("gpus") or {}
        job = {**job, "gpus": [uuids.get(str(one), str(one)) for one in job.get("gpus") or ()]}
        try:
            started = script.start(job, self.blobs[job["arguments"]], self.places)
        except ConflictError:  # a worker started it, and died before it could say so
            name = f"job-{job['id']}-{job['attempt']}"
            started = {"process": None, "lease": str(self.places.lease_of(name))}
        except Exception as error:  # noqa: BLE001 - whatever it is, the job has not begun
            if environment.missing() is not None:  # it went between the look at it and the start
                self.leave([job])
                return
            wrong = {"type": type(error).__name__, "text": str(error), "traceback": ""}
            self.results.append(({**told, "state": "error", "error": wrong, "at": 0.0}, b""))
            return
        lease = Path(started["lease"]).name
        self.tell_started({**told, "process": started["process"], "lease": lease})
        self.link.push()

    def tell_started(self, told: dict[str, Any]) -> None:
        """Say that a script runs; once the resource has heard it, it is no longer this slot's."""
        self.started[self.link.send({"op": "started", "slot": self.name, **told})] = told

    def give(self) -> None:
        """Give the child what is left of the batch, as far as one child can run it."""
        if not self.batch:
            return
        shape = Shape.of(self.batch[0])
        jobs: list[dict[str, Any]] = []
        for job in self.batch:
            if Shape.of(job) != shape:
                break
            jobs.append(job)
        if self.child is not None and self.child.shape != shape:
            self.drop_child()
        if self.child is None and environment.missing() is not None:
            back, self.batch, self.given = self.batch, [], []
            self.leave(back)
            return
        first = self.write_lease(jobs)
        self.given = jobs = [{**job, "place": place} for place, job in enumerate(jobs, first)]
        if self.child is None:
            self.child = WarmChild(self.name, self.places, self.lease, shape, self.options)
            self.selector.register(self.child.source, selectors.EVENT_READ, self.listen)
        self.child.run(jobs, self.functions.by_digest, self.blobs)
        self.since, self.is_busy = time.monotonic(), True
        self.is_long = self.told_begun = False

    def drop_child(self) -> dict[str, Any]:
        """End the child; return what is told of a job that it had begun."""
        assert self.child is not None
        self.selector.unregister(self.child.source)
        told = self.child.close()
        self.child, self.is_busy, self.kill_at = None, False, float("inf")
        return told

    def listen(self) -> None:
        """Take what the child reports."""
        assert self.child is not None
        try:
            frames = self.child.read()
        except (OSError, ValueError):
            frames = None  # a job wrote into the pipe
        if frames is None:
            self.bury()
            return
        for frame in frames:
            if (places := frame.header.get("skipped")) is not None:
                self.is_busy = False
                back = [one for one in self.given if one["place"] in places]
                self.given = [one for one in self.given if one["place"] not in places]
                del self.batch[: len(back)]
                self.return_jobs(back)
            else:
                self.is_busy = not frame.header.pop("last", False)
                self.add_result(frame.header, frame.blobs[0])
        if self.is_free:
            self.functions.forget()
        elif not self.is_busy:
            self.give()

    def add_result(self, result: dict[str, Any], blob: bytes) -> None:
        """Keep what the child reports of the job that ran."""
        if not self.given or (result.get("id"), result.get("attempt")) != (
            self.given[0]["id"],
            self.given[0]["attempt"],
        ):
            return  # a job wrote to the pipe
        job = self.batch.pop(0)
        self.given.pop(0)
        how = self.ends.pop((job["id"], job["attempt"]), None)
        is_interrupted = result.pop("interrupted", False)
        if how is not None and (is_interrupted or result["state"] == "lost"):
            result, blob = {**result, **_ended(how, job)}, b""
        self.kill_at = float("inf")
        self.results.append(({**result, "at": time.monotonic()}, blob))
        self.since = self.worked_at = time.monotonic()
        self.is_long, self.told_begun, self.n_starts = False, False, 0

    def bury(self) -> None:
        """Say what became of the job that the child had begun when it ended; the rest gets another child."""
        assert self.child is not None
        child, was_ended = self.child, self.kill_at < time.monotonic()
        begun = self.lease.begun()
        told = self.drop_child()
        first = self.given[0]["place"] if self.given else NOBODY
        if self.given and begun >= first:
            has_output = child.keep_output(self.given[0]["id"])
            began = time.time() - (time.monotonic() - self.since)
            job = {"id": self.given[0]["id"], "attempt": self.given[0]["attempt"]}
            extra = {"began": began, "ended": time.time(), "has_output": has_output, "interrupted": was_ended}
            self.add_result({**job, **extra, **told}, b"")
        elif self.given:
            self.count_start(child, was_killed=told.get("state") == "lost")
        self.give()

    def count_start(self, child: WarmChild, *, was_killed: bool) -> None:
        """Note that a child ended before it began a job; if that happens again, the first job of the batch fails."""
        self.n_starts += 1
        if self.n_starts < (_MOST_KILLS if was_killed else _MOST_STARTS):
            child.keep_output(None)
            return
        text = f"the process that runs jobs does not start: {child.last_words() or 'it says nothing'}"
        child.keep_output(None)
        job, wrong = self.given[0], {"type": "StartError", "text": text, "traceback": ""}
        self.add_result({"id": job["id"], "attempt": job["attempt"], "state": "error", "error": wrong}, b"")

    def mind_the_child(self, now: float) -> None:
        """Say that a job runs, end one that is to end, and kill one that does not."""
        if not self.given or self.child is None:
            return
        job = self.given[0]
        key, has_begun = (job["id"], job["attempt"]), self.lease.begun() >= job["place"]
        if not has_begun:
            self.since = now
        elapsed = now - self.since
        self.is_long = self.is_long or elapsed >= _BEGUN_SECONDS
        if self.is_long and not self.told_begun and self.link.socket is not None:
            self.told_begun = True
            if len(self.batch) > 1:
                self.give_back(1)  # it takes long: others run the rest
            told = {"id": job["id"], "attempt": job["attempt"], "at": time.time() - elapsed, "pid": self.child.pid}
            self.link.send({"op": "begun", "slot": self.name, **told})
        if self.is_long:
            if self.child.has_ended():
                self.bury()
                return
            self.child.bound_output(now)
        if job.get("timeout") and elapsed >= job["timeout"]:
            self.ends.setdefault(key, "timeout")
        if key in self.ends and self.kill_at == float("inf") and has_begun:
            self.kill_at = now + float(self.options["grace"])
            self.lease.note_end(job["place"])
            self.child.end(signal.SIGTERM)
        if job.get("memory") and now - self.weighed_at >= _WEIGH_SECONDS and key not in self.ends:
            self.weighed_at = now
            if self.child.memory() > job["memory"]:
                self.ends[key], self.kill_at = "memory", now
        if now >= self.kill_at:
            self.child.end(signal.SIGKILL)  # which its pipe shows


def _refused(result: Mapping[str, Any], error: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is told of a job whose result the resource does not take."""
    wrong = {"type": "UsageError", "text": f"its result was refused: {error.get('text')}", "traceback": ""}
    return {"id": result["id"], "attempt": result["attempt"], "state": "error", "error": wrong, "refused": True}


def _ended(how: str, job: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is told of a job that was ended."""
    if how == "cancel":
        return {"state": "cancelled", "error": None}
    if how == "timeout":
        words = f"it ran longer than its timeout of {job.get('timeout') or 0:g} s"
        return {"state": "error", "reason": "time", "error": {"type": "TimeoutError", "text": words, "traceback": ""}}
    if how == "memory":
        words = f"it used more than its {as_asked(int(job.get('memory') or 0))} of memory"
        return {"state": "error", "reason": "memory", "error": {"type": "MemoryError", "text": words, "traceback": ""}}
    reason, words = ("stopped", "the compute resource was stopped") if how == "stopped" else ("lost", "it was ended")
    return {"state": "lost", "reason": reason, "error": {"type": "Lost", "text": words, "traceback": ""}}


def run(options: Mapping[str, Any]) -> str:
    """Be a slot, in a task of Dask; return why it ended."""
    from distributed import get_worker, secede

    secede()  # it waits for its child, mostly: its thread is for another slot
    return Slot(options, get_worker()).run()
