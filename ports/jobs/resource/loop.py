"""The process of the compute resource: it owns the queue, and all others ask its socket.

It runs as ``python -c … loop.main(DIRECTORY, for_a_job=…)`` in a session. All that arrives in one turn is one
transaction of the queue; what it answers is sent after the commit. The socket answers before the cluster is there, and
the code is all loaded at the start: an upgrade of `ports` changes nothing in a process that runs.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import functools
import os
import resource
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from ports import probe, sessions, state
from ports._version import VERSION
from ports.errors import PortsError, UsageError
from ports.jobs import _headers, _places
from ports.jobs._notices import Notifier
from ports.jobs._places import Places
from ports.jobs._protocol import PROTOCOL, Decoder, Frame, ProtocolError, encode
from ports.jobs._resource import ResourceRunning
from ports.jobs._room import MOST_OF_A_BATCH
from ports.jobs._store import Store
from ports.jobs._turn import SCRIPTS, Queue, Reply, Request
from ports.jobs.resource import lease, oversee, room
from ports.jobs.resource.crew import Crew
from ports.jobs.resource.ends import Ends
from ports.jobs.resource.stopping import Stopping
from ports.jobs.resource.sweeper import Sweeper
from ports.state import records, settings

_PIECE = 1 << 20
_TICK_SECONDS = 0.1
_SLOW_BYTES = 16 * 2**20  # unsent: nothing more is read from who does not read
_MOST_BYTES = 2 * 2**30  # unsent: the connection ends
_HELLO_SECONDS = 10.0
_MOST_PEERS = 1000
_MOST_FILES = 4096
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_FRESH_SECONDS = 2.0  # a status waits so long for a look at what other users leave
_REST_SECONDS = 0.5  # for which no connection is taken where there is no room for one
_SCRIPTS_SECONDS = (0.1, 0.5)  # between two looks at scripts: for a few, and for many
_YOUNG_SECONDS = 0.01  # between the first looks after a script was started: many end soon
_LOOK_SECONDS = 2.0  # between two looks at whether the socket is still there


class Peer:
    """One connection: a client's, or a slot's."""

    def __init__(self, connection: socket.socket, number: int) -> None:
        self.connection, self.number = connection, number
        self.decoder = Decoder()
        self.out: collections.deque[memoryview] = collections.deque()
        self.unsent = 0
        self.since = time.monotonic()
        self.is_known = self.is_closing = False
        self.task = ""  # of a slot: its key in Dask
        self.asked_status: set[Any] = set()

    def write(self, data: bytes) -> None:
        """Send `data`, as far as the other side takes it; the rest waits."""
        self.out.append(memoryview(data))
        self.unsent += len(data)
        self.push()

    def push(self) -> None:
        """Send what waits, as far as the other side takes it; raises OSError when it is gone."""
        while self.out:
            try:
                sent = self.connection.send(self.out[0])
            except BlockingIOError:
                return
            self.unsent -= sent
            self.out[0] = self.out[0][sent:]
            if not self.out[0]:
                self.out.popleft()

    def read(self) -> list[Frame]:
        """Return the requests that have come; raises OSError when the other side is gone, and ProtocolError."""
        data = self.connection.recv(_PIECE)
        if not data:
            raise ConnectionResetError("it ended")
        return self.decoder.feed(data)


class Loop:
    """The loop: sockets on one side, the queue on the other.

    Parameters
    ----------
    listener : socket
        Bound to the resource's path.
    crew : Crew
        Keeps the slots. None: nobody runs jobs here, for tests.
    scripts : callable, optional
        Called at least twice a second; returns requests about scripts that have ended.
    end_script : callable, optional
        Called with what the queue says of a script that is to end.
    grace : float
        Seconds between the SIGTERM and the SIGKILL of a function.
    """

    def __init__(
        self,
        queue: Queue,
        listener: socket.socket,
        crew: Crew | None = None,
        scripts: Callable[[], list[Request]] = list,
        end_script: Callable[[dict[str, Any]], object] = dict,
        *,
        grace: float = 30.0,
    ) -> None:
        self.queue, self.listener, self.crew = queue, listener, crew
        self.scripts, self.end_script = scripts, end_script
        self.on_over: Callable[[list[int]], object] = list  # hears of submissions that ended
        self.notifier: Notifier | None = None
        self.stopping = Stopping(queue, grace)
        self.rests_until: float | None = None
        self.late: list[tuple[float, Request]] = []  # requests that wait for news of the machine, and until when
        self.places: Places | None = None  # where the socket is made again if it is gone
        self.peers: dict[int, Peer] = {}
        self.numbers = 0
        self.is_over = False
        self.next_tick = self.next_scripts = 0.0
        self.script_at = float("-inf")  # when one was started last
        self.next_look = time.monotonic() + _LOOK_SECONDS
        self.selector = selectors.DefaultSelector()
        listener.setblocking(False)
        self.selector.register(listener, selectors.EVENT_READ, None)
        self.waker, self.wakes = socket.socketpair()
        for one in (self.waker, self.wakes):
            one.setblocking(False)
        self.selector.register(self.waker, selectors.EVENT_READ, None)

    def wake(self) -> None:
        """Let the loop turn once more; from any thread."""
        with contextlib.suppress(OSError):
            self.wakes.send(b"x")

    def stop(self) -> None:
        """End the loop after this turn; from any thread, and from a signal's handler."""
        self.is_over = True
        self.wake()

    def run(self) -> None:
        """Turn until `stop` is called."""
        while not self.is_over:
            self.turn()
        for peer in list(self.peers.values()):
            self.drop(peer)
        self.selector.close()
        self.listener.close()

    def turn(self) -> None:
        """Wait for something, do all that it asks for in one transaction, and answer."""
        inbox: list[Request] = []
        for key, events in self.selector.select(self.patience(time.monotonic())):
            if key.fileobj is self.listener:
                self.accept()
            elif key.fileobj is self.waker:
                with contextlib.suppress(OSError):
                    self.waker.recv(4096)
            else:
                self.serve(key.data, events, inbox)
        now = time.monotonic()
        inbox += self.fresh(now)
        if self.rests_until is not None and now >= self.rests_until:
            self.go_on()
        if now >= self.next_scripts:
            inbox += self.safely(self.scripts, [])
            self.next_scripts = now + pause(now - self.script_at, time.monotonic() - now)
        if inbox:
            self.deliver(self.safely(lambda: self.queue.turn(inbox), inbox))
        if now >= self.next_tick:
            self.next_tick = now + _TICK_SECONDS
            self.deliver(self.safely(self.queue.tick, []))
            self.drop_silent(now)
        if over := self.queue.take_over():
            self.safely(functools.partial(self.on_over, over), [])
        if now >= self.next_look:
            self.next_look = now + _LOOK_SECONDS
            self.safely(self.listen_again, [])
        self.deliver(self.safely(self.stopping.look, []))
        if self.crew is not None:
            tasks = frozenset(one.task for one in self.peers.values() if one.task)
            self.crew.want(self.queue.wanted_slots, tasks, self.queue.is_waiting)
            self.queue.trouble = self.crew.state["reason"]

    def patience(self, now: float) -> float:
        """Return how long to wait for something to arrive; while a script is young, it is looked at between ticks."""
        is_young = now - self.script_at < 10 * _SCRIPTS_SECONDS[0]
        return max(0.0, (min(self.next_tick, self.next_scripts) if is_young else self.next_tick) - now)

    def safely(self, step: Callable[[], Any], inbox: list[Request]) -> Any:
        """Do a step of the queue. If it fails, all who asked get that as an answer, and the resource goes on."""
        try:
            return step()
        except Exception as error:  # noqa: BLE001 - one request must not end all jobs
            if not isinstance(error, PortsError):
                traceback.print_exc()
            text = str(error) if isinstance(error, PortsError) else f"the resource failed: {error!r}; see its log"
            told = {"kind": type(error).__name__, "text": text, "exit_code": getattr(error, "exit_code", 5)}
            return [Reply(one.connection, {"n": one.header.get("n"), "error": told}) for one in inbox]

    # --- connections ---

    def listen_again(self) -> None:
        """Make the socket again that somebody removed, with all of the runtime directory, say."""
        places = self.places
        if places is None or places.socket.exists():
            return
        print(f"somebody removed {places.socket}; it is made again", file=sys.stderr)
        state.make_private(places.runtime)
        fresh = listen(places)
        fresh.setblocking(False)
        if self.rests_until is None:
            self.selector.unregister(self.listener)
        self.listener.close()
        self.listener = fresh
        self.go_on()

    def accept(self) -> None:
        """Take a connection of this user's."""
        try:
            connection, _ = self.listener.accept()
        except OSError as error:
            if error.errno in _FULL:
                self.rest(error)
            return
        if probe.peer_uid(connection) not in (None, probe.own_uid()) or len(self.peers) >= _MOST_PEERS:
            connection.close()
            return
        connection.setblocking(False)
        self.numbers += 1
        peer = self.peers[self.numbers] = Peer(connection, self.numbers)
        self.selector.register(connection, selectors.EVENT_READ, peer)

    def rest(self, error: OSError) -> None:
        """Take no connection for a moment: the one that waits would wake the loop again and again."""
        print(f"no more connections: {error.strerror}", file=sys.stderr)
        self.rests_until = time.monotonic() + _REST_SECONDS
        self.selector.unregister(self.listener)

    def go_on(self) -> None:
        """Take connections again."""
        self.rests_until = None
        self.selector.register(self.listener, selectors.EVENT_READ, None)

    def serve(self, peer: Peer, events: int, inbox: list[Request]) -> None:
        """Send what waits for a connection, and take what it asks for."""
        if peer.number not in self.peers:
            return
        try:
            if events & selectors.EVENT_WRITE:
                peer.push()
            if events & selectors.EVENT_READ:
                for frame in peer.read():
                    self.take(peer, frame, inbox)
            self.listen_to(peer)
        except ProtocolError as error:
            self.refuse(peer, str(error))
        except OSError:
            self.drop(peer)

    def take(self, peer: Peer, frame: Frame, inbox: list[Request]) -> None:
        """Answer a greeting; all else is for the queue."""
        header = frame.header
        if not peer.is_known:
            self.greet(peer, header)
            return
        if header.get("op") == "stop":
            self.answer_stop(peer, header)
            return
        if header.get("op") == "started":
            self.script_at = self.next_scripts = time.monotonic()
        request = Request(peer.number, header, frame.blobs)
        if header.get("op") == "status":
            peer.asked_status.add(repr(header.get("n")))
            if self.crew is not None and self.crew.is_stale:
                self.crew.look_now()
                self.late.append((time.monotonic() + _FRESH_SECONDS, request))
                return
        inbox.append(request)

    def fresh(self, now: float) -> list[Request]:
        """Return the requests that waited until it is known what other users leave of the machine."""
        if self.crew is None:
            return []
        if self.crew.available is not None:
            self.queue.available, self.crew.available = self.crew.available, None
        due = [request for until, request in self.late if now >= until or not self.crew.is_stale]
        self.late = [(until, request) for until, request in self.late if request not in due]
        return due

    def greet(self, peer: Peer, header: dict[str, Any]) -> None:
        """Answer the first request, which says which protocol the other side speaks."""
        if header.get("op") != "hello":
            raise ProtocolError("the first request must be 'hello'")
        if header.get("protocol") != PROTOCOL:
            asks = f"ports {header.get('version')} asks in protocol {header.get('protocol')}"
            text = f"this resource answers in {PROTOCOL}; `ports resource stop`, then `ports resource start`"
            raise ProtocolError(f"{asks}, but {text}")
        peer.is_known = True
        peer.task = str(header.get("task") or "")
        python = ".".join(map(str, sys.version_info[:2]))
        told = {"n": header.get("n"), "protocol": PROTOCOL, "version": VERSION, "pid": os.getpid(), "python": python}
        peer.write(encode(told))

    def answer_stop(self, peer: Peer, header: dict[str, Any]) -> None:
        """Note that the resource is to stop; the answer comes when that is possible."""
        try:
            self.stopping.ask(peer.number, header)
        except UsageError as error:
            peer.write(encode(_headers.error_of(Request(peer.number, header).n, error)))

    def refuse(self, peer: Peer, text: str) -> None:
        """Say why a connection ends, and end it."""
        with contextlib.suppress(OSError):
            peer.write(encode({"error": {"kind": "UsageError", "text": text, "exit_code": 2}}))
        self.drop(peer)

    def listen_to(self, peer: Peer) -> None:
        """Read from a connection unless it does not read itself; write while something waits for it."""
        if peer.unsent > _MOST_BYTES:
            raise ConnectionResetError("it reads nothing")
        events = selectors.EVENT_WRITE if peer.out else 0
        events |= selectors.EVENT_READ if peer.unsent < _SLOW_BYTES else 0
        self.selector.modify(peer.connection, events, peer)

    def drop(self, peer: Peer) -> None:
        """End a connection; the queue forgets what it waits for."""
        if self.peers.pop(peer.number, None) is None:
            return
        self.selector.unregister(peer.connection)
        peer.connection.close()
        self.queue.gone(peer.number)
        self.stopping.gone(peer.number)

    def drop_silent(self, now: float) -> None:
        """End connections that never say who they are."""
        for peer in [one for one in self.peers.values() if not one.is_known and now - one.since > _HELLO_SECONDS]:
            self.drop(peer)

    def deliver(self, replies: list[Reply]) -> None:
        """Send what the queue answers, after its commit."""
        together: dict[int, list[bytes]] = {}
        for connection, header, blobs in replies:
            if connection == SCRIPTS:
                self.safely(functools.partial(self.end_script, header), [])
            peer = self.peers.get(connection) if isinstance(connection, int) else None
            if peer is None:
                continue
            if peer.asked_status and repr(header.get("n")) in peer.asked_status:
                peer.asked_status.discard(repr(header.get("n")))
                header = {**header, **self.own_status()}
            together.setdefault(peer.number, []).append(self.encoded(header, blobs))
        for number, parts in together.items():
            peer = self.peers[number]
            try:
                peer.write(b"".join(parts))
                self.listen_to(peer)
            except OSError:
                self.drop(peer)

    def encoded(self, header: dict[str, Any], blobs: Any) -> bytes:
        """Return a frame; an answer that is too large for one becomes an error."""
        try:
            return encode(header, blobs)
        except ProtocolError as error:
            told = {"kind": "UsageError", "text": f"the answer is too large: {error}", "exit_code": 2}
            return encode({"n": header.get("n"), "error": told})

    def own_status(self) -> dict[str, Any]:
        """Return what the loop adds to ``status``: the cluster, and the memory of this process."""
        shown: dict[str, Any] = {"cluster": self.crew.shown() if self.crew is not None else None, "pid": os.getpid()}
        with contextlib.suppress(OSError, ValueError, IndexError):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            shown["memory"] = pages * os.sysconf("SC_PAGE_SIZE")
        if self.notifier is not None and self.notifier.failed is not None:
            shown["notice_failed"] = self.notifier.failed
        return {**shown, "version": VERSION, "connections": len(self.peers)}


def pause(since: float, took: float) -> float:
    """Return how long to wait before the next look at scripts.

    Parameters
    ----------
    since : float
        Seconds since one was started. The end of a young one is seen soon.
    took : float
        Seconds that the last look took.
    """
    least, most = _SCRIPTS_SECONDS
    return min(most, max(20 * took, min(least, max(_YOUNG_SECONDS, since / 10))))


def listen(places: Places) -> socket.socket:
    """Bind the resource's socket, 0600; the lock of the store must be held, so what is there is a dead one's."""
    with contextlib.suppress(FileNotFoundError):
        places.socket.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(os.fspath(places.socket))
    finally:
        os.umask(before)
    listener.listen(128)
    return listener


def main(directory: str, *, for_a_job: bool = False) -> None:
    """Be the compute resource of this user on this machine until SIGTERM, and end this process."""
    code = 0
    try:
        serve(Path(directory), for_a_job=for_a_job)
    except PortsError as error:
        code = error.exit_code
        print(f"ports: {error}", file=sys.stderr)
        with contextlib.suppress(OSError):  # the launcher notes it as the reason
            (Path(directory) / "why").write_text(str(error), encoding="utf-8", errors="replace")
    except BaseException:  # noqa: BLE001 - it ends either way
        code = 1
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)  # Dask's threads would take seconds to end


def serve(directory: Path, *, for_a_job: bool = False) -> None:
    """Open the queue, and answer until SIGTERM. The cluster starts at once for a job that is on its way."""
    places = _places.make_places()
    room_for_files()
    store = Store.open(places)
    try:
        limits = settings.get("jobs.queues")
        script_of = functools.partial(oversee.left, places)
        queue = Queue(store, capacity=room.capacity(), is_alive=lease.look, script_of=script_of, limits=limits)
        oversee.forget_environs(queue, places, time.time())
        sweeper = Sweeper(places)
        queue.dispose_by(sweeper.add)
        loop = Loop(
            queue,
            listen(places),
            grace=float(settings.get("jobs.grace")),
            scripts=functools.partial(oversee.ended, queue, places, lease.look),
            end_script=functools.partial(oversee.end, places=places),
        )
        has = queue.capacity
        loop.crew = Crew(slot_options(directory, places), loop.wake, cpus=has.cpus, memory=has.memory)
        loop.crew.is_expected = for_a_job
        loop.crew.start()
        sweeper.start()
        loop.places = places
        loop.notifier = Notifier(places)
        loop.on_over = ends = Ends(store, loop.notifier, time.time)
        ends.catch_up()

        def end(number: int, frame: FrameType | None) -> None:
            loop.stop()

        signal.signal(signal.SIGTERM, end)
        announce(directory, places)
        loop.run()
        with contextlib.suppress(FileNotFoundError):
            places.socket.unlink()
    finally:
        store.close()


def slot_options(directory: Path, places: Places) -> dict[str, Any]:
    """Return what each slot gets, and copy the code of its child, which must stay that of this resource."""
    code, ports = directory / "code", Path(__file__).parents[2]
    child = Path("jobs", "resource", "child.py")
    for one in (child, Path("probe", "queue", "frames.py")):
        (code / one).parent.mkdir(parents=True, exist_ok=True)
        (code / one).write_bytes((ports / one).read_bytes())
    chosen = settings.get("jobs")
    return {
        "root": str(places.root),
        "runtime": str(places.runtime),
        "child": str(code / child),
        "gpus": {str(index): uuid for index, uuid in room.uuids().items()},
        "idle": chosen["slot_idle"],
        "grace": chosen["grace"],
        "most": MOST_OF_A_BATCH,
    }


def room_for_files() -> None:
    """Raise the limit on open files: each client and each slot needs one."""
    least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if most == resource.RLIM_INFINITY else min(_MOST_FILES, most)
    if least != resource.RLIM_INFINITY and least < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def announce(directory: Path, places: Places) -> None:
    """Write ``running.json``: this process answers."""
    who = sessions.processes.identity()
    assert who is not None
    running = ResourceRunning(process=who, socket=str(places.socket), started_at=time.time(), version=VERSION)
    records.write(directory / "running.json", running)
