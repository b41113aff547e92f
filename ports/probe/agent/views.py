"""Looks for who watches at home, made by a process of its own, which can hang on a file server while tunnels go on.

Nobody looks, and there is no such process. Its code comes from home before the first look (`piped.more`).
"""

import base64
import json
import os
import signal
import time
import zlib

if __name__ != "__main__":  # piped, these names are there already
    from ..agent.mux import CONTROL, DOCUMENT
    from ..agent.watch import LENGTH
    from ..ring import POINT_SECONDS, MachineRing

MYPY = False
if MYPY:
    from typing import Any, Callable, Dict, List, Optional  # noqa: F401 - in comments

    Json = Dict[str, Any]

UNSEEN_SECONDS = 60.0  # without a look, after which the process that looks ends
MOST_VIEWS = 4  # looks that wait for one that hangs
ENDED = "the process that looks has ended; the next look starts another"
HANGS = "an earlier look has not ended: a disk there does not answer"


class Messages:
    """Passes on what a process of ours writes, each a length and compressed JSON; waits while too much waits for home.

    Parameters
    ----------
    number : int
        Tells it from others that wait.
    on_end : callable
        Called when the process has ended.
    """

    def __init__(self, poller: "Any", mux: "Any", read: int, number: int, on_end: "Callable[[], None]") -> None:
        self.poller, self.mux, self.read, self.number, self.on_end = poller, mux, read, number, on_end
        self.data = bytearray()
        self.n_passed = 0
        poller.on_read(read, self.pass_on)

    def pass_on(self) -> None:
        """Pass on what is there."""
        if self.mux.wait(self.number, lambda: self.poller.on_read(self.read, self.pass_on)):
            self.poller.on_read(self.read, None)
            return
        data = os.read(self.read, 1 << 16)
        self.data += data
        while len(self.data) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(self.data)[0]
            if len(self.data) < end:
                break
            self.mux.send(DOCUMENT, 0, bytes(self.data[LENGTH.size : end]))
            del self.data[:end]
            self.n_passed += 1
        if not data:
            self.poller.on_read(self.read, None)
            self.on_end()


class Views:
    """Answers looks, and keeps the history of this machine."""

    def __init__(self, poller: "Any", mux: "Any") -> None:
        self.poller, self.mux = poller, mux
        self.history = MachineRing()
        self.code = None  # type: Optional[Json]
        self.process = None  # type: Any  # its pid, where it reads, and what it writes
        self.asked = []  # type: List[Any]  # the ids of looks
        self.left = []  # type: List[int]  # processes that were told to end
        self.asked_at = 0.0

    def start(self) -> None:
        """Begin the history."""
        self.poller.later(POINT_SECONDS, self.sample)

    def sample(self) -> None:
        """Add a point, and do so again."""
        self.poller.later(POINT_SECONDS, self.sample)
        self.history.sample()
        if not self.waiting() and time.monotonic() - self.asked_at > UNSEEN_SECONDS:
            self.close()
        self.reap()

    def take(self, message: "Json") -> None:
        """Handle ``code``, or ``view``."""
        if message["type"] == "code":
            self.code = message
            return
        if self.code is None or len(self.waiting()) >= MOST_VIEWS:
            self.refuse(message.get("id"), HANGS if self.code else "it has no code")
            return
        self.asked_at = time.monotonic()
        if self.process is None:
            self.begin()
        self.tell_points(message)
        line = json.dumps(dict(message, points=[]))
        self.asked.append(message.get("id"))
        try:
            write_whole(self.process[1], line.encode() + b"\n")
        except OSError:  # it has just ended, or hangs since so long that nothing more fits
            self.asked.pop()
            self.refuse(message.get("id"), ENDED)

    def tell_points(self, message: "Json") -> None:
        """Send the points of the machine that home lacks, before the answer: a day of them does not fit into a pipe."""
        points = self.history.ring.after((message.get("since") or {}).get("machine"))
        told = {"type": "points", "id": message.get("id"), "points": points}
        self.mux.send(DOCUMENT, 0, zlib.compress(json.dumps(told).encode(), 1))

    def waiting(self) -> "List[Any]":
        """Return the ids of the looks that were not answered yet."""
        if self.process is not None:
            del self.asked[: self.process[2].n_passed]
            self.process[2].n_passed = 0
        return self.asked

    def refuse(self, number: "Any", why: str) -> None:
        """Answer a look with an error."""
        self.mux.send(CONTROL, 0, json.dumps({"type": "view", "id": number, "error": why}).encode())

    def begin(self) -> None:
        """Start the process."""
        heard, control = os.pipe()
        read, write = os.pipe()
        pid = os.fork()
        if pid:
            os.close(heard)
            os.close(write)
            self.process = pid, control, Messages(self.poller, self.mux, read, -1, self.ended)
            return
        try:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            close_all_but(heard, write)
            assert self.code is not None
            loaded(self.code)["serve"](heard, write)
        except BaseException:  # noqa: BLE001 - the parent is gone, or this process should end
            pass
        os._exit(0)

    def ended(self) -> None:
        """Forget the process, and answer those who wait."""
        waiting, self.asked = self.waiting(), []
        self.close()
        for number in waiting:
            self.refuse(number, ENDED)

    def close(self) -> None:
        """End the process."""
        if self.process is None:
            return
        (pid, control, messages), self.process = self.process, None
        self.poller.on_read(messages.read, None)
        os.close(control)
        os.close(messages.read)
        os.kill(pid, signal.SIGKILL)
        self.left.append(pid)
        self.reap()

    def reap(self) -> None:
        """Take note of processes that have ended; one that hangs on a file server ends when it can."""
        self.left = [pid for pid in self.left if not os.waitpid(pid, os.WNOHANG)[0]]


def write_whole(fd: int, data: bytes) -> None:
    """Write all of it, or raise OSError: the other side reads no more."""
    import select

    view = memoryview(data)
    while len(view):
        if not select.select([], [fd], [], 0)[1]:
            raise OSError("full")
        view = view[os.write(fd, view[: select.PIPE_BUF]) :]


def close_all_but(*kept: int) -> None:
    """Close the files of this process: connections that it has from its parent would never end."""
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    for name in os.listdir(folder):
        if name.isdigit() and int(name) > 2 and int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:  # that of the list itself
                pass
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):
        os.dup2(null, fd)


def loaded(message: "Json") -> "Json":
    """Return the names of code that came from home, byte code of this interpreter or text, and those that are here.

    What is here keeps its own names.
    """
    import marshal

    names = dict(globals())

    data = zlib.decompress(base64.b64decode(message["code"]))
    for one in marshal.loads(data) if message.get("is_code") else [compile(data, "ports-program", "exec")]:
        exec(one, names)
    return names
