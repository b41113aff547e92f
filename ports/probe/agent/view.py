"""A look at what changes all the time, for somebody who watches: who uses the machine, jobs, numbers of clusters.

It is made again and again in one process, so each look goes on from the one before: one pass over the process table,
and nothing is asked again that cannot have changed. Rows of what listens are `watch`'s.
"""

import json
import os
import socket
import sys
import time

if __name__ != "__main__":  # piped, these names are there already
    from ..gpus import GpuReader
    from ..identity import own_uid, user_name
    from ..own_host import host_directory, read_record
    from ..programs.who import (
        INTERVAL,
        SMALL,
        Process,
        described,
        is_dask,
        pids,
        process,
        processes,
        processes_by_psutil,
    )
    from ..promises import DIRECTORY, candidates, promises
    from ..queue.frames import PROTOCOL, Decoder, encode
    from ..queue.reach import SOCKET, connected, queue_stamp, runtime_of_jobs
    from ..queue.rest import answered, look
    from ..queue.words import Refused
    from ..records import NAME
    from ..ring import MachineRing
    from ..socket_users import peer_uid
    from ..vitals import busy_ticks
    from .watch import tell

MYPY = False
if MYPY:
    from typing import Any, Dict, List, Optional, Set, Tuple  # noqa: F401 - in comments

    Json = Dict[str, Any]

LONGEST_LOOK = 60.0  # seconds between two looks, above which the first says nothing about now
SHORTEST_LOOK = 0.1
PARTS = 8  # looks after which every process was read again
UNEXPLAINED = 0.5  # cores that are busy, above which all processes are read at once
YOUNG_SECONDS = 1.0
QUEUE_SECONDS = 10.0  # after which a queue is asked again in any case
GPU_SECONDS = 10.0  # between two looks at GPUs, whose driver takes its time
TICKS = float(os.sysconf("SC_CLK_TCK")) if sys.platform == "linux" else 100.0
CLUSTER_SECONDS, JOBS_SECONDS = 1.0, 5.0  # for an answer
SILENT_SECONDS = 15.0  # for which a cluster that did not answer is not asked again
MOST_ANSWER = 1 << 22  # bytes
NOT_NUMBERS = ("history", "name")


class Viewer:
    """Looks again and again; see `view`."""

    def __init__(self) -> None:
        self.sight, self.queue = Sight(), QueueView()
        self.silent = {}  # type: Dict[str, Tuple[float, str]]  # sockets, until when they are not asked, and why
        self.ring = MachineRing()
        self.patience = CLUSTER_SECONDS

    def view(self, request: "Json") -> "Json":
        """Return what was asked for: `who`, `jobs` (how many rows), `clusters`; and why a part is None.

        ``patience``: for how many seconds the owner of a cluster is waited for (1.0).
        ``since`` holds the time of the last point of each history that is known at home: ``machine``, ``clusters``.
        ``points`` are those of the machine, where another process keeps them.
        """
        since = request.get("since") or {}
        answer = {"type": "view", "id": request.get("id"), "time": time.time(), "who": None, "jobs": None}  # type: Json
        troubles = {}  # type: Dict[str, str]
        points = request["points"] if "points" in request else self.own_points(since.get("machine"))
        history = {"machine": points, "clusters": {}}  # type: Json
        answer.update(clusters=None, history=history, troubles=troubles)
        if request.get("who"):
            answer["who"] = tried("who", troubles, self.sight.look)
        if request.get("jobs"):
            answer["jobs"] = tried("jobs", troubles, lambda: self.queue.look(request["jobs"]))
        if request.get("clusters"):
            wanted = since.get("clusters") or {}
            answer["clusters"] = tried(
                "clusters", troubles, lambda: self.clusters(wanted, troubles, history["clusters"])
            )
        return answer

    def own_points(self, since: "Any") -> "List[Any]":
        """Return the points of the machine, where no other process keeps them: one more when it is due."""
        self.ring.sample_if_due()
        return self.ring.ring.after(since)

    def clusters(self, since: "Json", troubles: "Dict[str, str]", history: "Json") -> "Json":
        """Return the numbers of each cluster that runs; those of one that does not answer are None."""
        found = {}  # type: Json
        folder = os.path.join(host_directory(), "clusters")
        try:
            names = sorted(name for name in os.listdir(folder) if NAME.match(name))
        except FileNotFoundError:
            return found
        for name in names:
            try:
                running = read_record(os.path.join(folder, name, "running.json")) or {}
            except (OSError, ValueError):  # its row says so
                continue
            path = running.get("dashboard")
            if isinstance(path, str) and os.path.exists(path):
                told = self.numbers(path, since.get(name), "cluster " + name, troubles)
                found[name] = told and {key: value for key, value in told.items() if key not in NOT_NUMBERS}
                history[name] = (told or {}).get("history") or []
        return found

    def numbers(self, path: str, since: "Any", called: str, troubles: "Dict[str, str]") -> "Optional[Json]":
        """Return what the owner of a cluster says; None where it says nothing, and for a while after that."""
        until, why = self.silent.get(path, (0.0, ""))
        if time.monotonic() >= until:
            self.silent.pop(path, None)
            try:
                return ask_owner(path, float(since) if isinstance(since, (int, float)) else 0.0, self.patience)
            except (OSError, ValueError) as error:
                why = "it does not answer: %s" % (getattr(error, "strerror", None) or error)
                self.silent[path] = (time.monotonic() + SILENT_SECONDS, why)
        troubles[called] = why
        return None


def tried(name: str, troubles: "Dict[str, str]", do: "Any") -> "Any":
    """Return what `do` returns; None where it fails, with the reason among `troubles`."""
    try:
        return do()
    except Refused as refused:
        troubles[name] = refused.text
    except Exception as error:  # noqa: BLE001 - whatever it is, the next look may succeed
        troubles[name] = "%s: %s" % (type(error).__name__, error)
    return None


def ask_owner(path: str, since: float, patience: float) -> "Json":
    """Return the document of a cluster's owner at its Unix socket; raises OSError, ValueError."""
    end = time.monotonic() + patience
    data = bytearray()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(patience)
        connection.connect(path)
        uid = peer_uid(connection)
        if uid not in (None, own_uid()):
            raise ValueError("uid %s answers at %s, not you" % (uid, path))
        connection.sendall(b"GET /ports.json?since=%.1f HTTP/1.0\r\nHost: localhost\r\n\r\n" % since)
        while len(data) < MOST_ANSWER:
            connection.settimeout(max(0.01, end - time.monotonic()))
            piece = connection.recv(1 << 16)
            data += piece
            if not piece or time.monotonic() > end:
                break
    finally:
        connection.close()
    head, _, body = bytes(data).partition(b"\r\n\r\n")
    if head.split(b" ", 2)[1:2] != [b"200"]:
        raise ValueError("it answers %r" % head.split(b"\r\n")[0].decode("latin-1"))
    told = json.loads(body.decode())
    if not isinstance(told, dict):
        raise ValueError("it answers no object")
    return told


class Sight:
    """Looks who uses the machine, each time since the look before.

    A process that computed a moment ago, or is new, is read at each look; of the others, one in `PARTS`. When the
    cores are busier than what is read explains, the rest is read as well, unless that was of no use a moment ago.
    """

    def __init__(self) -> None:
        self.found, self.others = {}, set()  # type: Dict[int, Process], Set[int]  # threads of the kernel, and zombies
        self.at, self.busy = float("-inf"), None  # type: float, Optional[int]
        self.skip = self.vain = 0  # looks without the rest, where reading that explained nothing
        self.turn, self.dark = 0, 0.0  # cores that are busy without any process that is seen
        self.told = None  # type: Optional[Json]
        self.promised = [None, []]  # type: List[Any]  # the time of their directory, and what can be promises there
        self.names = {}  # type: Dict[int, str]  # a directory service takes its time
        self.gpus, self.gpus_at, self.reader = None, float("-inf"), GpuReader()  # type: Any, float, GpuReader

    def look(self) -> "Json":
        """Return what `who` says; the same as before within a moment, in which nothing can be measured."""
        now = time.monotonic()
        if self.told is not None and now - self.at < SHORTEST_LOOK:
            return self.told
        is_first = now - self.at > LONGEST_LOOK
        if is_first:
            self.found, self.at, self.busy = processes(), now, busy_ticks()
            for one in self.found.values():
                one.at = now
            time.sleep(INTERVAL)
            now = time.monotonic()
        passed, busy = now - self.at, busy_ticks()
        cores = None
        if busy is not None and self.busy is not None:
            cores = max(0, busy - self.busy) / TICKS / passed
        self.read(now, cores, is_first)
        self.at, self.busy = now, busy
        if now - self.gpus_at >= GPU_SECONDS:
            self.gpus, self.gpus_at = self.reader.read(), now
        self.told = described(self.found, passed, cores, self.promises(), self.name_of)
        self.told["gpus"] = self.gpus
        return self.told

    def read(self, now: float, cores: "Optional[float]", everything: bool) -> None:
        """Read the processes that are due, and all where those do not explain the `cores` that are busy."""
        before, self.turn = self.found, (self.turn + 1) % PARTS
        if sys.platform != "linux":
            self.found = processes_by_psutil()
            for pid, one in self.found.items():
                measure_since(before.get(pid), one, self.at, now)
            return
        self.found, rest, others, self.others = {}, [], self.others, set()
        for pid in pids():
            last = before.get(pid)
            is_due = everything or pid % PARTS == self.turn
            if not is_due and pid in others:
                self.others.add(pid)
            elif is_due or last is None or last.cores > 0:
                self.read_one(pid, last, now)
            else:
                self.found[pid] = last
                rest.append(pid)
        dark, self.skip = self.dark_of(cores), max(0, self.skip - 1)
        if rest and dark > self.dark + UNEXPLAINED and not self.skip:
            for pid in rest:
                self.read_one(pid, self.found.pop(pid), now)
            self.dark = self.dark_of(cores)
            self.vain = min(PARTS, 2 * self.vain or 1) if self.dark > dark - UNEXPLAINED else 0
            self.skip = self.vain + 1
        self.dark = min(self.dark, max(0.0, dark))

    def dark_of(self, cores: "Optional[float]") -> float:
        """Return how many of the `cores` that are busy no process that is seen explains."""
        return (cores or 0.0) - sum(one.cores for one in self.found.values())

    def read_one(self, pid: int, last: "Optional[Process]", now: float) -> None:
        """Read one process."""
        one = process(pid)
        if one is None:
            self.others.add(pid)
            return
        measure_since(last, one, self.at, now)
        is_known = last is not None and (last.started, last.name) == (one.started, one.name) and last.memory > SMALL
        one.dask = last.dask if last is not None and is_known else is_dask(pid, one)
        self.found[pid] = one

    def promises(self) -> "List[Json]":
        """Return the promises; their directory is looked through when it has changed."""
        try:
            changed = os.stat(DIRECTORY).st_mtime_ns
        except OSError:
            changed = None
        young = changed is None or time.time() - changed / 1e9 < YOUNG_SECONDS  # it can change again at the same time
        if young or changed != self.promised[0]:
            self.promised = [None if young else changed, candidates(DIRECTORY)]
        return promises(DIRECTORY, self.promised[1])

    def name_of(self, uid: int) -> str:
        """Return the name of a user, asked once."""
        if uid not in self.names:
            self.names[uid] = user_name(uid)
        return self.names[uid]


def measure_since(last: "Optional[Process]", one: Process, began: float, now: float) -> None:
    """Note how many cores a process has kept busy since it was read; one that is new, since `began`."""
    is_same = last is not None and last.started == one.started
    ticks, at = (last.ticks, last.at) if last is not None and is_same else (0, began)
    one.at = now
    one.cores = max(0, one.ticks - ticks) / TICKS / max(0.001, now - at)


class QueueView:
    """Looks at the jobs of this machine. A queue in which nothing runs is not asked again until it changes."""

    def __init__(self) -> None:
        self.resource = None  # type: Any  # a connection
        self.decoder = Decoder()
        self.n = 0
        self.stamp = None  # type: Any
        self.told, self.at = None, float("-inf")  # type: Optional[Json], float

    def look(self, newest: int) -> "Json":
        """Return the newest rows, how many jobs are in each state, and what the resource says of itself."""
        root = os.path.join(host_directory(), "jobs")
        runtime = runtime_of_jobs()
        stamp, now = [newest, queue_stamp(root), self.reached(runtime)], time.monotonic()
        is_same = self.told is not None and stamp == self.stamp and now - self.at < QUEUE_SECONDS
        if self.told is not None and is_same and not (self.told["counts"] or {}).get("running"):
            return self.told
        self.stamp, self.told, self.at = None, None, now
        told = self.ask("list", newest=newest, filters={}) if stamp[2] else None
        status = self.ask("status") if told is not None else None
        if told is None or status is None:
            stamp[2] = False
            told, _, _ = answered(
                {"op": "list", "newest": newest}, (), lambda do, lenient: look(root, runtime, do, lenient)
            )
        self.stamp, keys = stamp, ("rows", "counts", "notices", "at_rest")
        self.told = {key: told.get(key) for key in keys}
        self.told.update(at_rest=bool(told.get("at_rest")), resource=status)
        return self.told

    def reached(self, runtime: str) -> bool:
        """Tell whether a resource answers; connect to it if that was not done, or if the connection has ended."""
        if self.resource is not None:
            self.resource.settimeout(0)
            try:
                if self.resource.recv(1, socket.MSG_PEEK):
                    return True
                self.lose()
            except BlockingIOError:
                return True
            except OSError:
                self.lose()
        try:
            self.resource = connected(os.path.join(runtime, SOCKET))
        except OSError:
            return False
        self.decoder, self.n = Decoder(), 0
        return self.ask("hello", protocol=PROTOCOL, version=None) is not None

    def ask(self, op: str, **fields: "Any") -> "Optional[Json]":
        """Return the answer of the resource to one request; None where it has ended. Raises Refused, OSError."""
        self.n += 1
        try:
            self.resource.settimeout(JOBS_SECONDS)
            self.resource.sendall(encode(dict(fields, op=op, n=self.n)))
            while True:
                data = self.resource.recv(1 << 18)
                for frame in self.decoder.feed(data) if data else ():
                    if frame.header.get("error") is not None:
                        raise refused_by(frame.header["error"])
                    if frame.header.get("n") == self.n:
                        return {key: value for key, value in frame.header.items() if key != "n"}
                if not data:
                    break
        except socket.timeout:
            self.lose()
            raise OSError("the compute resource does not answer") from None
        except (BrokenPipeError, ConnectionResetError):
            pass
        except BaseException:
            self.lose()
            raise
        self.lose()
        return None

    def lose(self) -> None:
        """Let go of a connection that has ended."""
        if self.resource is not None:
            self.resource.close()
        self.resource = None


def refused_by(told: "Any") -> "Refused":
    """Return the error that a resource answered."""
    told = told if isinstance(told, dict) else {"text": told}
    return Refused(str(told.get("kind")), str(told.get("text")))


def serve(requests: int, answers: int) -> None:
    """Answer the requests that come as lines, until they end: each answer is a length and compressed JSON."""
    viewer = Viewer()
    with os.fdopen(requests, "rb") as lines:
        for line in lines:
            tell(answers, viewer.view(json.loads(line.decode())))
