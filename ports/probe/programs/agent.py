"""The far end of a session that stays open: it connects, watches and answers for as long as it hears from home.

Nothing of it is installed, and nothing is left: the program comes through the session, see `ports.tunnels.agent`.
"""

import heapq
import json
import os
import selectors
import signal
import sys
import time

if __name__ != "__main__":  # piped, these names are there already
    from ..agent.browse import BrowseSocket
    from ..agent.dial import Dialer
    from ..agent.mux import CLOSE, CONTROL, OPEN, Mux
    from ..agent.views import Messages, Views
    from ..agent.watch import SocketUserWatch, start_watching
    from ..identity import boot_id, machine_id, mend_home, user_name

MYPY = False
if MYPY:
    from typing import Any, Callable, Dict, List, Optional, Tuple

    Json = Dict[str, Any]

SILENCE = 60.0  # seconds without a word from home after which it ends
GUARDED_EVERY = 2.0
PIPE = 1 << 20  # bytes of room in the pipes to sshd, if they are pipes
F_SETPIPE_SZ = 1031


class Poller:
    """The one event loop: what can be read or written, and what is due."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.callbacks = {}  # type: Dict[int, Dict[int, Callable[[], None]]]
        self.due = []  # type: List[Tuple[float, int, Callable[[], None]]]
        self.count = 0

    def on_read(self, fd: int, callback: "Optional[Callable[[], None]]") -> None:
        """Call when there is something to read."""
        self.set(fd, selectors.EVENT_READ, callback)

    def on_write(self, fd: int, callback: "Optional[Callable[[], None]]") -> None:
        """Call when there is room to write."""
        self.set(fd, selectors.EVENT_WRITE, callback)

    def later(self, seconds: float, callback: "Callable[[], None]") -> None:
        """Call once, in so many seconds."""
        self.count += 1
        heapq.heappush(self.due, (time.monotonic() + seconds, self.count, callback))

    def set(self, fd: int, event: int, callback: "Optional[Callable[[], None]]") -> None:
        """Set or take back one callback."""
        wanted = self.callbacks.setdefault(fd, {})
        before = sum(wanted)
        if callback is None:
            wanted.pop(event, None)
        else:
            wanted[event] = callback
        events = sum(wanted)
        if not events:
            del self.callbacks[fd]
            if before:
                self.selector.unregister(fd)
        elif not before:
            self.selector.register(fd, events)
        elif events != before:
            self.selector.modify(fd, events)

    def turn(self) -> None:
        """Wait for an event, and handle it."""
        wait = max(0.0, self.due[0][0] - time.monotonic()) if self.due else None
        for key, events in self.selector.select(wait):
            for event in (selectors.EVENT_READ, selectors.EVENT_WRITE):
                callback = self.callbacks.get(key.fd, {}).get(event) if events & event else None
                if callback is not None:
                    callback()
        while self.due and self.due[0][0] <= time.monotonic():
            heapq.heappop(self.due)[2]()


class AgentProgram:
    """What home asked for, over one session."""

    def __init__(self, request: "Json", ends: "Tuple[int, int]", watcher: "Optional[Tuple[int, int, int]]") -> None:
        self.request, self.watcher = request, watcher
        self.poller = Poller()
        self.mux = Mux(self.poller, ends, self.take, self.ended)
        self.dialer = Dialer(self.poller, self.mux)
        self.users = SocketUserWatch(self.tell)
        self.browse = BrowseSocket(self.poller, self.tell)
        self.views = Views(self.poller, self.mux)
        self.silence = float(request.get("silence") or SILENCE)

    def run(self, early: bytes) -> None:
        """Serve until home has gone."""
        try:
            self.greet()
            if self.watcher is not None:
                Messages(self.poller, self.mux, self.watcher[1], 0, self.watcher_ended)
            self.views.start()
            self.poller.later(self.silence, self.check_home)
            self.look_after(self.request.get("users") or [])
            if early:
                self.mux.feed(early)
            while not self.mux.ended:
                self.poller.turn()
        finally:
            self.browse.close()
            self.views.close()

    def greet(self) -> None:
        """Say who this is."""
        warnings = []
        if self.request.get("browse", True):
            try:
                self.browse.open()
            except OSError as error:
                warnings.append("`ports browse` cannot reach home from here: %s" % error)
        hello = {"type": "hello", "python": "%d.%d.%d" % sys.version_info[:3], "platform": sys.platform}  # type: Json
        hello.update(uid=os.getuid(), user=user_name(os.getuid()), host=os.uname().nodename, pid=os.getpid())
        hello.update(machine_id=machine_id(), boot_id=boot_id(), browse=self.browse.path, warnings=warnings)
        hello["magic"] = globals().get("magic", b"").hex()  # of the byte code of this interpreter
        self.tell(hello)

    def tell(self, message: "Json") -> None:
        """Send a message home."""
        self.mux.send(CONTROL, 0, json.dumps(message).encode())

    def take(self, kind: int, number: int, payload: bytes) -> None:
        """Handle a frame from home."""
        if kind == OPEN:
            self.dialer.open(number, payload)
        elif kind == CLOSE:
            self.dialer.cancel(number)
        elif kind == CONTROL:
            message = json.loads(payload.decode())
            if message["type"] == "users":
                self.users.set(message["remotes"])
            elif message["type"] == "browse":
                self.browse.answer(message)
            elif message["type"] in ("code", "view"):
                self.views.take(message)
            elif message["type"] == "look" and self.watcher is not None:
                os.write(self.watcher[2], b"l")

    def look_after(self, remotes: "List[str]") -> None:
        """Begin to watch who holds the listeners that home has tunnels to."""
        self.users.set(remotes)

        def again() -> None:
            self.users.look()
            self.poller.later(GUARDED_EVERY, again)

        self.poller.later(GUARDED_EVERY, again)

    def watcher_ended(self) -> None:
        """End: home would wait for news."""
        self.mux.end("the process that watches has ended")

    def check_home(self) -> None:
        """End when nothing came for too long: a connection that is cut does not end by itself."""
        left = self.mux.heard_at + self.silence - time.monotonic()
        if left <= 0:
            self.mux.end("nothing came from home")
        else:
            self.poller.later(left, self.check_home)

    def ended(self, reason: str) -> None:
        """Let the process that watches end."""
        if reason:
            sys.stderr.write("ports: %s\n" % reason)


def main(text: str) -> None:
    """Serve the session at standard input and output; `text` is the request."""
    mend_home()
    request = json.loads(text)
    out = os.dup(1)
    os.dup2(2, 1)  # nothing else may be printed among the frames
    watcher = start_watching(request, [0, out]) if request.get("watch", True) else None
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, leave)
    allow_many_files()
    for fd in (0, out):
        os.set_blocking(fd, False)
        widen(fd)
    try:
        os.write(out, b"\n%s\n" % request["marker"].encode())
        stdin = sys.stdin.buffer  # type: Any
        AgentProgram(request, (0, out), watcher).run(stdin.peek())  # what came behind the line with this program
    finally:
        if watcher is not None:
            os.kill(watcher[0], signal.SIGKILL)
            os.waitpid(watcher[0], os.WNOHANG)  # one that hangs on a file server ends when it can
    sys.stderr.flush()
    os._exit(0)


def leave(number: int, frame: object) -> None:
    """End in order at a signal."""
    raise SystemExit(0)


def allow_many_files() -> None:
    """Take as many open files as this user may have."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError):  # macOS says "unlimited" but does not allow it
        pass


def widen(fd: int) -> None:
    """Give a pipe more room: each time it is full costs a round trip through sshd."""
    import fcntl

    try:
        fcntl.fcntl(fd, F_SETPIPE_SZ, PIPE)
    except OSError:  # it is no pipe, or this user has used up the room for pipes
        pass
