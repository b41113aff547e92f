"""Watch what listens: in a process of its own, which can hang on a file server while tunnels go on.

A look costs a millisecond or two. Only if it differs from the look before, everything is looked at and asked.
"""

import json
import os
import select
import struct
import time
import zlib

if __name__ != "__main__":  # piped, these names are there already
    from ..clients import note_client
    from ..identity import stat_of, user_name
    from ..nodes import left_running
    from ..own_host import host_directory
    from ..programs.probe import probe
    from ..recognise import runtime_directories
    from ..records import SESSION_KINDS
    from ..socket_users import holder_of, listening
    from ..sockets import is_socket_of, unix_table

MYPY = False
if MYPY:
    from typing import Any, Callable, Dict, List, Optional, Set, Tuple  # noqa: F401 - in comments

    from ..socket_users import Holder

    Json = Dict[str, Any]

LENGTH = struct.Struct(">I")
ASKED_AGAIN = (1.0, 6.0, 25.0)  # seconds after which a silent port is asked again
SHARE = 10.0  # time between two full looks, in multiples of the time that one takes
MOST_ENDS = 1 << 17  # bytes of the file of ends
UNSEEN = (-1, 0)  # in the place of a holder: nobody has looked yet
ANSWER = ("http", "scheme", "kind", "greets")


class Answers:
    """What ports have said, by inode. A port that has answered is not asked again."""

    def __init__(self) -> None:
        self.known = {}  # type: Dict[int, Json]
        self.due = {}  # type: Dict[int, List[float]]
        self.seen = set()  # type: Set[int]
        self.doors = {}  # type: Dict[int, bool]  # of notebook servers: whether they ask for nothing

    def unknown(self, rows: "List[Json]") -> "List[Json]":
        """Fill in what is known, and return the rows to ask."""
        now = time.monotonic()
        for row in rows:
            row.update(self.known.get(row["inode"], {}))
        self.seen.update(row["inode"] for row in rows)
        new = [row for row in rows if row["inode"] not in self.known]
        for row in new:
            self.due.setdefault(row["inode"], [now + wait for wait in ASKED_AGAIN])
        return new + [row for row in rows if row["inode"] in self.known and self.is_due(row["inode"], now)]

    def is_due(self, inode: int, now: float) -> bool:
        """Tell whether a silent port is due to be asked again, and count it."""
        times = self.due[inode]
        if self.known[inode]["http"] is not None or not times or times[0] > now:
            return False
        del times[0]
        return True

    def keep(self, rows: "List[Json]") -> None:
        """Note the answers of those that were asked, and forget those that are gone."""
        for row in rows:
            self.known[row["inode"]] = {key: row[key] for key in ANSWER}
        seen, self.seen = self.seen, set()
        self.known = {inode: answer for inode, answer in self.known.items() if inode in seen}
        self.due = {inode: times for inode, times in self.due.items() if inode in seen}

    def next_time(self) -> "Optional[float]":
        """Return when the next silent port is due; None if there is none."""
        silent = [self.due[inode][0] for inode, one in self.known.items() if one["http"] is None and self.due[inode]]
        return min(silent) if silent else None


def watch(request: "Json", out: int, control: int) -> None:
    """Write what listens to `out`, now and at each change, until `control` ends; a byte there causes a look at once.

    Each message is a length and compressed JSON: ``document`` as `probe` returns it, ``ends`` of jobs, or ``error``.
    """
    answers, seen, last = Answers(), None, None  # type: Answers, Any, Any
    ends_at = 0  # type: Any  # nobody has looked yet
    interval, document = float(request.get("interval") or 2.0), {}  # type: float, Json
    while True:
        started = time.monotonic()
        pause, told = interval, None  # type: float, Optional[Json]
        try:
            now, due = glance(request, document), answers.next_time()
            if now != seen or (due is not None and due <= started):
                document = probe(dict(request.get("probe") or {}, answers=answers))
                seen, shown = now, essence(document)
                if shown != last:
                    last, told = shown, {"type": "document", "document": document}
                pause = max(interval, SHARE * (time.monotonic() - started))
        except Exception as error:  # noqa: BLE001 - a disk that fails for a while must not end the watch
            told, last, seen = {"type": "trouble", "error": "%s: %s" % (type(error).__name__, error)}, None, None
        if told is not None:
            tell(out, told)
            note_client(request.get("came"))  # also where the directory of records has come since
        now = stamp(job_ends())
        if now != ends_at:
            ends_at = now
            tell_ends(out)
        ready, _, _ = select.select([control], [], [], pause)
        if ready:
            if not os.read(control, 100):
                return
            seen = None


def glance(request: "Json", document: "Json") -> "Any":
    """Return a value that changes when something has changed since the last look."""
    wanted = request.get("probe") or {}
    sessions = [one for folder in SESSION_KINDS.values() for one in document.get(folder, [])]
    pids = [one["running"]["process"]["pid"] for one in sessions if one.get("alive") and one.get("running")]
    paths = [row["path"] for row in document.get("listeners", ()) if row["path"]]
    found = [stamp(path) for path in paths + watched_directories()]
    processes = [(stat_of(pid) or ("", 0, 0))[2] for pid in pids]
    others = left_running() if wanted.get("called") else []
    own = [one for one in unix_table() or () if is_socket_of(one[0], os.getuid())]
    return listening(os.getuid(), bool(wanted.get("all"))), own, processes, found, others


def watched_directories() -> "List[str]":
    """Return the directories whose time changes when a record is replaced."""
    top = host_directory()
    found = [top] + [os.path.join(top, folder) for folder in SESSION_KINDS.values()]
    for parent in found[1:]:
        try:
            found += [os.path.join(parent, name) for name in sorted(os.listdir(parent))]
        except OSError:
            continue
    return found + sorted(set(runtime_directories(dict(os.environ))))


def stamp(path: str) -> "Any":
    """Return a value that changes with a directory, or when a socket is replaced."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_uid


def essence(document: "Json") -> "Any":
    """Return the document without the parts that differ each time."""
    rows = [{key: value for key, value in row.items() if key != "started_at"} for row in document["listeners"]]
    return [(key, value) for key, value in sorted(document.items()) if key not in ("time", "listeners")], rows


def job_ends() -> str:
    """Return the file that the compute resource replaces when a job ends; a look at its time costs nothing."""
    return os.path.join(host_directory(), "jobs", "ends.json")


def tell_ends(out: int) -> None:
    """Report the jobs that ended last; home knows which of them are new."""
    try:
        with open(job_ends(), "rb") as file:
            ends = json.loads(file.read(MOST_ENDS).decode("utf-8", "replace"))["ends"]
    except FileNotFoundError:  # no job has ended; home learns that whatever comes is new
        ends = []
    except (OSError, ValueError, KeyError, TypeError):
        return
    tell(out, {"type": "ends", "machine": os.path.basename(host_directory()), "ends": ends})


def tell(out: int, told: "Json") -> None:
    """Write one message."""
    blob = zlib.compress(json.dumps(told).encode("utf-8", "surrogateescape"), 1)
    write_out(out, LENGTH.pack(len(blob)) + blob)


def write_out(fd: int, data: bytes) -> None:
    """Write all of it."""
    view = memoryview(data)
    while len(view):
        view = view[os.write(fd, view) :]


class SocketUserWatch:
    """Watches the listeners that home has tunnels to, and reports when another user takes one of them.

    What cannot be seen for a while counts as it was seen last: a failure is no news of anybody.
    """

    def __init__(self, tell: "Callable[[Json], None]") -> None:
        self.tell = tell
        self.holders = {}  # type: Dict[str, Optional[Holder]]

    def set(self, remotes: "List[str]") -> None:
        """Watch these from now on; one that is nobody's or another's is reported at once."""
        self.holders = {remote: self.holders.get(remote, UNSEEN) for remote in remotes}
        self.look()

    def look(self) -> None:
        """Report what has changed since the last look."""
        for remote, before in list(self.holders.items()):
            try:
                now = holder_of(remote)
            except (OSError, ValueError):
                continue
            if now == before:
                continue
            self.holders[remote] = now
            if before != UNSEEN:
                self.report(remote, before, now)
            elif now is None or now[0] != os.getuid():
                self.report(remote, None, now)

    def report(self, remote: str, before: "Optional[Holder]", now: "Optional[Holder]") -> None:
        """Tell home about one."""
        told = {"type": "users", "remote": remote, "uid": None, "user": None, "inode": None}  # type: Json
        told["before"] = None if before is None else {"uid": before[0], "inode": before[1]}
        if now is not None:
            told.update(uid=now[0], inode=now[1], user=user_name(now[0]))
        told["mine"] = now is not None and now[0] == os.getuid()
        self.tell(told)


def start_watching(request: "Json", closed: "List[int]") -> "Tuple[int, int, int]":
    """Start the process that watches; return its pid, what it writes to, and what ends it when closed."""
    read, write = os.pipe()
    heard, control = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        os.close(heard)
        return pid, read, control
    try:
        for fd in [read, control, *closed]:
            os.close(fd)
        watch(request, write, heard)
    except BaseException:  # noqa: BLE001 - the parent is gone, or this process should end
        pass
    os._exit(0)
