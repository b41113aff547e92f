"""Where `ports browse` on this machine comes to: a socket of this user alone, for as long as home is connected."""

import json
import os
import socket

if __name__ != "__main__":  # piped, these names are there already
    from ..files import is_private, usual_runtime_directory
    from ..own_host import host_directory, own_runtime_directory, read_record
    from ..socket_users import peer_uid

MYPY = False
if MYPY:
    from typing import Any, Callable, Dict, List, Optional  # noqa: F401 - in comments

    Json = Dict[str, Any]

LONGEST_REQUEST = 1 << 16
PATIENCE_OF_BROWSE = 60.0
MOST_WAITING = 32


class BrowseSocket:
    """The socket, and those that wait for an answer from home."""

    def __init__(self, poller: "Any", tell: "Callable[[Json], None]") -> None:
        self.poller, self.tell = poller, tell
        self.path = None  # type: Optional[str]
        self.made = []  # type: List[str]
        self.visitors = {}  # type: Dict[int, Any]
        self.count = 0

    def open(self) -> None:
        """Listen; raises OSError where there is no safe place for it."""
        directory = runtime_directory(self.made)
        remove_stale(directory)
        name = "browse-%d-%s.sock" % (os.getpid(), os.urandom(4).hex())
        path, hidden = os.path.join(directory, name), os.path.join(directory, "." + name)
        self.listener = socket.socket(socket.AF_UNIX)
        mask = os.umask(0o177)
        try:
            self.listener.bind(hidden)
        finally:
            os.umask(mask)
        self.listener.listen(16)
        os.rename(hidden, path)  # under this name something always listens: otherwise it would look stale
        self.path = path
        self.listener.setblocking(False)
        self.poller.on_read(self.listener.fileno(), self.accept)

    def close(self) -> None:
        """Close the socket, and remove what was made for it."""
        for number in list(self.visitors):
            self.leave(number)
        if self.path is not None:
            self.listener.close()
            os.unlink(self.path)
            self.path = None
        for directory in self.made[::-1]:
            try:
                os.rmdir(directory)
            except OSError:  # something else uses it by now
                pass

    def accept(self) -> None:
        """Accept a connection, if it is this user's."""
        try:
            visitor, _ = self.listener.accept()
        except OSError:
            return
        if peer_uid(visitor) not in (None, os.getuid()) or len(self.visitors) >= MOST_WAITING:
            visitor.close()
            return
        visitor.setblocking(False)
        self.count += 1
        number, heard = self.count, bytearray()
        self.visitors[number] = visitor
        self.poller.on_read(visitor.fileno(), lambda: self.hear(number, heard))
        self.poller.later(PATIENCE_OF_BROWSE, lambda: self.leave(number))

    def hear(self, number: int, heard: bytearray) -> None:
        """Pass on a request: one line of JSON."""
        try:
            data = self.visitors[number].recv(LONGEST_REQUEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        heard += data
        if not data or len(heard) > LONGEST_REQUEST:
            self.leave(number)
        elif heard.endswith(b"\n"):
            try:
                request = json.loads(heard.decode())
                wanted = {key: str(request[key]) for key in ("url", "kind", "name") if request.get(key)}
            except (ValueError, TypeError, AttributeError):
                self.leave(number)
                return
            heard.clear()
            self.tell(dict(wanted, type="browse", id=number))

    def answer(self, answer: "Json") -> None:
        """Pass on what home says."""
        visitor = self.visitors.get(answer.get("id", 0))
        if visitor is not None:
            told = {key: value for key, value in answer.items() if key not in ("type", "id")}
            try:
                visitor.send(json.dumps(told).encode() + b"\n")
            except OSError:  # it no longer waits
                pass
            self.leave(answer["id"])

    def leave(self, number: int) -> None:
        """Close a connection."""
        visitor = self.visitors.pop(number, None)
        if visitor is not None:
            self.poller.on_read(visitor.fileno(), None)
            visitor.close()


def runtime_directory(made: "List[str]") -> str:
    """Return the directory for this user's sockets, as `ports` itself chooses it; add what is created to `made`.

    Raises OSError if somebody else made it first and `ports` never ran here to choose another one.
    """
    directory = usual_runtime_directory()
    try:
        kept = (read_record(os.path.join(host_directory(), "runtime.json")) or {}).get("path")
    except ValueError:
        kept = None
    if kept and is_private(kept):
        directory = kept
    for one in dict.fromkeys((directory, own_runtime_directory(directory))):
        try:
            os.mkdir(one, 0o700)
            made.append(one)
        except FileExistsError:
            pass
        if not is_private(one):
            raise OSError("%s is not private; `ports prune` there chooses another directory" % one)
    return own_runtime_directory(directory)


def remove_stale(directory: str) -> None:
    """Remove the sockets of agents that were killed."""
    for name in os.listdir(directory):
        if name.startswith(("browse-", ".browse-")) and name.endswith(".sock"):
            path = os.path.join(directory, name)
            if name[0] == "b" and not is_refused(path):
                continue
            pid = name.lstrip(".").split("-")[1]
            if name[0] == "." and pid.isdigit() and os.path.exists("/proc/" + pid):
                continue
            try:
                os.unlink(path)
            except OSError:
                pass


def is_refused(path: str) -> bool:
    """Tell whether nothing listens on a socket."""
    probe_socket = socket.socket(socket.AF_UNIX)
    probe_socket.setblocking(False)
    try:
        probe_socket.connect(path)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    finally:
        probe_socket.close()
    return False
