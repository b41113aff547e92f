"""Home's way to the jobs of this machine: it speaks the frames of jobs over one session.

Requests of the queue go to the compute resource's Unix socket, as they come, and its answers go home. Where none runs,
the queue at rest answers, until one does. What is asked of the files of jobs is answered here in both cases. The code
for these two comes from home before it is needed the first time (`piped.more`), so that a session begins sooner.
"""

import os
import select
import sys
import time

if __name__ != "__main__":  # piped, these names are there already
    from ..answer import send
    from ..own_host import host_directory
    from ..queue.disk import OWN
    from ..queue.frames import PROTOCOL, Cutter, Decoder, ProtocolError, encode
    from ..queue.places import disk_refuses
    from ..queue.reach import SOCKET, connected, queue_stamp, runtime_of_jobs
    from ..queue.rest import answered, look
    from ..queue.words import Busy, Refused

MYPY = False
if MYPY:
    from typing import Any, Dict, List, Optional, Sequence  # noqa: F401 - in comments

    Json = Dict[str, Any]

RECORD = ("resources", "jobs")  # below the machine's directory; it goes when somebody stops the resource
ROOM = 1 << 20  # bytes that wait for one side while the other is heard no further
LOOK_SECONDS = 1.0  # between two looks at the queue at rest for who waits
BUSY_SECONDS = 5.0  # for which a resource that starts is waited for
PREFIX, CODE = "disk.", "disk.code"
MOST_OWN = 64 * 2**20  # bytes of the blocks of a request that is answered here, whether a resource runs or not


class Held:
    """A request that is answered later: `said` is the last answer, and `end` when it is answered at the latest."""

    def __init__(self, header: "Json", end: "Optional[float]") -> None:
        self.header, self.end = header, end
        self.said = None  # type: Any


class Session:
    """What home and this machine say to each other.

    Parameters
    ----------
    root, runtime : str
        The directory of jobs, and that of the socket.
    resource : socket or None
        The connection to the resource, if one runs.
    """

    def __init__(self, root: str, runtime: str, resource: "Any") -> None:
        self.root, self.runtime, self.resource = root, runtime, resource
        self.asked, self.told = Cutter(), Cutter(reads=False)
        self.part = bytearray()  # of the present request, which has not gone on
        self.goes_on = None  # type: Optional[bool]  # to the resource, once that is known
        self.to_home, self.to_resource = bytearray(), bytearray()
        self.answers = []  # type: List[bytes]  # of ours, while the resource is in the middle of one
        self.held = []  # type: List[Held]
        self.greeting = b""
        self.looked_at = 0.0
        self.stamp = None  # type: Any

    # --- bytes ---

    def run(self, out: int, early: bytes) -> None:
        """Go on until home ends, or the resource, and all has gone."""
        is_over = False
        os.set_blocking(0, False)
        os.set_blocking(out, False)
        self.hear_home(early)
        while True:
            resource = self.resource.fileno() if self.resource is not None else None
            if is_over and not (self.to_resource or self.to_home):
                return
            wanted = {}  # type: Dict[int, int]
            is_full = len(self.to_home) > ROOM or len(self.to_resource) > ROOM
            for number, is_wanted, event in (
                (0, not (is_full or is_over), select.POLLIN),
                (out, bool(self.to_home), select.POLLOUT),
                (resource, len(self.to_home) < ROOM and not is_over, select.POLLIN),
                (resource, bool(self.to_resource), select.POLLOUT),
            ):
                if number is not None and is_wanted:
                    wanted[number] = wanted.get(number, 0) | event
            ready = self.waited(wanted)
            if ready.get(out, 0):
                is_over = not self.push(out, self.to_home) or is_over
            if resource is not None and ready.get(resource, 0):
                is_over = not self.talk(resource, ready[resource], wanted[resource]) or is_over
            if ready.get(0, 0):
                data = pulled(0)
                is_over = data == b"" or is_over
                self.hear_home(data or b"")
            self.look_again()

    def waited(self, wanted: "Dict[int, int]") -> "Dict[int, int]":
        """Return what is ready of the descriptors and events; None is, after a while, where somebody waits."""
        poller = select.poll()
        for number, events in wanted.items():
            poller.register(number, events)
        if not self.held:
            return dict(poller.poll())
        left = [LOOK_SECONDS] + [one.end - time.monotonic() for one in self.held if one.end is not None]
        return dict(poller.poll(max(1, int(min(left) * 1000))))

    def talk(self, resource: int, events: int, wanted: int) -> bool:
        """Exchange bytes with the resource; False when it has ended."""
        if events & ~select.POLLIN and self.to_resource and not self.push(resource, self.to_resource):
            return False
        if not events & ~select.POLLOUT or not wanted & select.POLLIN:
            return True
        data = pulled(resource)
        view = memoryview(data or b"")
        while view:
            n, is_over = self.told.take(view)
            self.to_home += view[:n]
            view = view[n:]
            if is_over:
                self.told.next_frame()
                self.flush()
        return data != b""

    def push(self, target: int, waiting: bytearray) -> bool:
        """Give what the target takes; False if nobody reads it."""
        try:
            del waiting[: os.write(target, waiting)]
        except BlockingIOError:
            pass
        except OSError:
            waiting.clear()
            return False
        return True

    def hear_home(self, data: bytes) -> None:
        """Let requests go on to the resource, or answer them."""
        view = memoryview(data)
        while view:
            n, is_over = self.asked.take(view)
            self.part += view[:n]
            view = view[n:]
            if self.asked.header is not None:
                self.pass_on(self.asked.header, is_over)

    def pass_on(self, header: "Json", is_over: bool) -> None:
        """Do with the bytes of a request what is to be done with it."""
        if self.goes_on is None:
            if header.get("op") == "hello":
                self.greeting = b""
            is_own = str(header.get("op")).startswith(PREFIX)
            if is_own and self.asked.n_bytes > MOST_OWN:
                raise ProtocolError("%s: more than %d bytes" % (header.get("op"), MOST_OWN))
            self.goes_on = not is_own and self.reached()
        if header.get("op") == "hello":
            self.greeting = bytes(self.part)  # a resource that is found later hears it first
        if self.goes_on:
            self.to_resource += self.part
            self.part.clear()
        if is_over:
            raw, goes_on = bytes(self.part), self.goes_on
            self.part.clear()
            self.goes_on = None
            self.asked.next_frame()
            if not goes_on:
                self.answer(header, raw)

    # --- answers of ours ---

    def reached(self) -> bool:
        """Tell whether a resource answers; one that was started meanwhile is greeted, and gets what waits."""
        if self.resource is not None:
            return True
        try:
            self.resource = connected(os.path.join(self.runtime, SOCKET))
        except (OSError, ValueError):
            return False
        self.resource.setblocking(False)
        self.to_resource += self.greeting
        return True

    def hand_over(self, held: "Sequence[Held]") -> None:
        """Let the resource answer those who wait."""
        for one in held:
            left = {} if one.end is None else {"wait": max(0.0, one.end - time.monotonic())}
            self.to_resource += encode(dict(one.header, **left))

    def answer(self, header: "Json", raw: bytes) -> None:
        """Answer a request here."""
        frame = Decoder().feed(raw)[0]
        if header.get("op") == CODE:
            load(header, frame.blobs[0])
            return
        if header.get("op") == "hello":
            told = {"protocol": PROTOCOL, "version": None, "pid": os.getpid(), "is_running": False}  # type: Json
            self.reply(header, dict(told, python="%d.%d" % sys.version_info[:2]))
            return
        own = OWN.get(str(header.get("op")))
        if own is not None:
            self.tried(header, lambda: self.reply(header, *own(self.root, header, frame.blobs)))
        elif str(header.get("op")).startswith(PREFIX):
            self.refuse(header, Refused("UsageError", "op: %s is unknown" % header["op"]))
        elif not self.tried(header, lambda: self.at_rest(header, frame.blobs)):
            self.to_resource += raw  # one has started meanwhile

    def tried(self, header: "Json", do: "Any") -> bool:
        """Do what answers a request, or answer with the error; False if a resource is to answer it."""
        end = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                do()
                return True
            except Busy as busy:
                if self.reached():
                    return False
                if time.monotonic() > end:
                    self.refuse(header, busy)
                    return True
                time.sleep(0.05)
            except Refused as refused:
                self.refuse(header, refused)
                return True
            except OSError as error:
                self.refuse(header, disk_refuses(str(error.filename or self.root), error))
                return True
            except Exception as error:  # noqa: BLE001 - whatever it is, the session goes on
                told = "the program there failed: %s: %s" % (type(error).__name__, error)
                self.refuse(header, Refused("PortsError", told))
                return True

    def at_rest(self, header: "Json", blobs: "Sequence[bytes]") -> None:
        """Answer a request from the queue on the disk, now or later."""
        told, results, is_over = answered(header, blobs, self.looked)
        if is_over and "indices" not in told:
            self.reply(header, told, results)
            return
        wait = header.get("wait")
        held = Held(dict(header), time.monotonic() + wait if isinstance(wait, (int, float)) else None)
        if not self.tell(held, told, results, is_over):
            self.held.append(held)
            self.stamp = None  # what changed before is not known of it

    def looked(self, question: "Any", is_lenient: bool) -> "Any":
        """Look at the queue."""
        return look(self.root, self.runtime, question, is_lenient)

    def tell(self, held: Held, told: "Json", results: "Sequence[bytes]", is_over: bool) -> bool:
        """Tell who waits what is new; return True if that was all."""
        header, is_late = held.header, held.end is not None and held.end <= time.monotonic()
        if "indices" in told:
            more = told["indices"]
            if more:
                self.reply(header, dict(told, more=True), results)
                header["from"] = told["next"]
            if is_over or (is_late and not more):
                last = {"indices": [], "states": [], "errors": [], "next": told["next"], "has_ended": is_over}
                self.reply(header, last)
            return is_over or (is_late and not more)
        if "rows" in told:
            if told["rows"] != held.said:
                held.said = told["rows"]
                self.reply(header, told)
            return is_over
        if is_over or is_late:
            self.reply(header, told, results)
        return is_over or is_late

    def look_again(self) -> None:
        """Look at the queue for those who wait, once in a while, and where something changed."""
        now = time.monotonic()
        is_due = now >= self.looked_at + LOOK_SECONDS or any(one.end and one.end <= now for one in self.held)
        if not self.held or not is_due:
            return
        held, self.held = self.held, []
        if self.reached():
            self.hand_over(held)
            return
        self.looked_at, stamp = now, queue_stamp(self.root)
        is_same, self.stamp = stamp == self.stamp, stamp
        for one in held:
            is_late = one.end is not None and one.end <= now
            if is_same and not is_late:
                self.held.append(one)
            elif not self.tried(one.header, lambda: self.told_again(one)):
                self.hand_over([one])

    def told_again(self, one: Held) -> None:
        """Look at the queue for one that waits."""
        if not self.tell(one, *answered(one.header, (), self.looked)):
            self.held.append(one)

    def refuse(self, header: "Json", refused: "Refused") -> None:
        """Answer with an error."""
        self.reply(header, {"error": refused.told()})

    def reply(self, header: "Json", told: "Json", blobs: "Sequence[bytes]" = ()) -> None:
        """Answer a request, between two frames of the resource."""
        self.answers.append(encode(dict(told, n=header.get("n")), blobs))
        self.flush()

    def flush(self) -> None:
        """Send the answers of ours."""
        if self.told.is_between:
            self.to_home += b"".join(self.answers)
            self.answers = []


def pulled(source: int) -> "Optional[bytes]":
    """Return what is there; empty when it has ended, None where nothing came."""
    try:
        return os.read(source, ROOM)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def load(header: "Json", code: bytes) -> None:
    """Take the rest of this program: byte code of this interpreter, or text."""
    import marshal
    import zlib

    data = zlib.decompress(code)
    for one in marshal.loads(data) if header.get("is_code") else [compile(data, "ports-program", "exec")]:
        exec(one, globals())


def jobs(request: "Json") -> "Optional[Json]":
    """Say whether a resource answers, and speak with home until it ends."""
    runtime = runtime_of_jobs()
    path = os.path.join(runtime, SOCKET)
    told, resource = {"is_running": True, "frames": PROTOCOL}, None  # type: Json, Any
    told["magic"] = globals().get("magic", b"").hex()  # of the byte code of this interpreter
    try:
        resource = connected(path)
        resource.setblocking(False)
    except OSError as error:
        has_record = os.path.isdir(os.path.join(host_directory(), *RECORD))
        reason = error.strerror or str(error)
        told.update(is_running=False, reason=reason, path=path, has_record=has_record)
    except ValueError as error:
        return {"error": "foreign", "message": str(error)}
    out = os.dup(1)
    send(request, told)
    os.dup2(2, 1)  # nothing else may be printed among the frames
    session = Session(os.path.join(host_directory(), "jobs"), runtime, resource)
    stdin = sys.stdin.buffer  # type: Any
    os.set_blocking(0, False)
    try:
        session.run(out, stdin.peek())
    except ProtocolError as error:
        os.set_blocking(out, True)
        os.write(
            out, bytes(session.to_home) + encode({"error": {"kind": "UsageError", "text": str(error), "exit_code": 2}})
        )
    sys.stderr.flush()
    os._exit(0)
