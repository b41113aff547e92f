"""Ask own ports what they are: the only file of the probe that connects to anything."""

import os
import re
import time

if __name__ != "__main__":  # piped, these names are there already
    from .recognise import SPAWNED
    from .sockets import kept_waiting, open_socket

MYPY = False
if MYPY:
    from typing import Any, Dict, List, Optional, Set

    Json = Dict[str, Any]

MOST_ASKED = 64  # ports asked in one probe: with more of them the answer would come too late
REQUEST = b"HEAD / HTTP/1.0\r\nHost: localhost\r\nUser-Agent: ports\r\n\r\n"
# Dask with TLS waits for the other side to speak: a request would be a failed handshake in its log.
SHY = re.compile("ports_owner|" + SPAWNED.pattern)
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Asking:
    """Asks own ports what they are, all at once, and sets ``http`` of their rows.

    First it waits for `silence` seconds, because Dask speaks first and would take HTTP for the length of a message. A
    port that said nothing gets an HTTP request. A process that computes accepts late, and Dask there greets late: its
    port is asked only when it has accepted, for which it has half of `patience`, and has said nothing for a quarter of
    it after that. It answers late, too: it has 1.5 times `patience` for that. Where the kernel does not tell who has
    accepted, it has `patience`.

    After `add`, call `step` now and then, and `finish` at last: in between there is time for other work.
    """

    def __init__(self, silence: float, patience: float) -> None:
        import select

        self.silence, self.patience, self.left = silence, patience, MOST_ASKED
        if hasattr(select, "poll"):
            self.poller = select.poll()  # type: Any
        else:  # Windows, at home; hosts that this is piped to have a poll
            from .poller import Poller

            self.poller = Poller()
        self.open = {}  # type: Dict[int, List[Any]]

    def add(self, rows: "List[Json]") -> None:
        """Connect to the listeners of `rows`, which must be this user's own, until there are too many."""
        added = []
        for row in rows[: self.left]:
            connection = open_socket(row["family"] == "tcp6")
            connection.setblocking(False)
            connection.connect_ex((ANY.get(row["address"], row["address"]), row["port"]))
            self.poller.register(connection, 1)  # POLLIN
            # Then: when it is due, when it was asked (False: it has not accepted), and how long it may take to accept.
            added.append([connection, row, 0.0, None, 0.0])
        self.left -= len(added)
        due = time.monotonic() + self.silence
        for one in added:
            one[2], one[4] = due, due + self.patience / 2
            self.open[one[0].fileno()] = one

    def step(self, wait: float = 0.0) -> None:
        """Note what came within `wait` seconds, ask ports that were silent, give up those that did not answer."""
        if wait and wait < 0.001:  # poll knows only whole milliseconds
            time.sleep(wait)
        now = time.monotonic() + (wait if wait >= 0.001 else 0)
        for fd, _ in self.poller.poll(int(wait * 1000)):
            self.poller.unregister(fd)
            connection, row, _, asked, _ = self.open.pop(fd)
            judge(row, connection, bool(asked))
        now = min(now, time.monotonic())  # nothing that is due later has been looked at
        due = [one for one in self.open.values() if one[2] <= now]
        late = [one for one in due if one[3]]
        if any(one[2] < one[3] + self.patience for one in late):
            late = self.without_busy_ones(late)
        silent = [one for one in due if not one[3] and not SHY.search(" ".join(one[1]["argv"]))]
        waiting = unaccepted() if silent else None
        for one in due:
            busy = waiting and one[1]["inode"] in waiting
            if one in silent and (one[4] > now if busy else one[3] is False):
                one[2:4] = [
                    now + (self.silence if busy else max(self.silence, self.patience / 4)),
                    False if busy else None,
                ]
            elif one in silent and not busy:
                one[2:4] = [time.monotonic() + self.patience / 2, time.monotonic()]
                try:
                    one[0].send(REQUEST)
                except OSError:  # poll shows what became of it
                    pass
            elif not one[3] or one in late:
                self.poller.unregister(one[0])
                del self.open[one[0].fileno()]
                one[0].close()

    def without_busy_ones(self, late: "List[List[Any]]") -> "List[List[Any]]":
        """Return those of `late` to give up; those that compute get the rest of their time."""
        waiting = unaccepted()
        times = 1.0 if waiting is None else 1.5
        for one in late:
            if one[1]["inode"] not in (waiting or ()):
                one[2] = max(one[2], one[3] + times * self.patience)
        now = time.monotonic()
        return [one for one in late if one[2] <= now]

    def finish(self) -> None:
        """Wait for all answers."""
        while self.open:
            self.step(max(0.0, min(one[2] for one in self.open.values()) - time.monotonic()))


def unaccepted() -> "Optional[Set[int]]":
    """Return the inodes of listeners with connections to accept, or None where the kernel does not tell."""
    try:
        return set(kept_waiting())
    except OSError:  # no netlink here
        return None


def judge(row: "Json", connection: "Any", asked: bool) -> None:
    """Note what the port said."""
    try:
        answer = connection.recv(4096)
    except OSError:  # refused, or reset
        answer = b""
    connection.close()
    if answer:
        row["http"] = answer.startswith(b"HTTP/")
    if b"pickle-protocol" in answer and not row["kind"].startswith("dask-"):  # Dask's greeting
        child = any("multiprocessing" in word for word in row["argv"])
        row["kind"] = "dask-worker" if child else "dask-scheduler"
    row["greets"] = b"pickle-protocol" in answer  # with TLS it says nothing
    if answer[:1] == b"\xff" and answer[9:10] == b"\x7f" and any("ipykernel" in word for word in row["argv"]):
        row.update(
            kind="kernel", greets=None
        )  # ZeroMQ's greeting: this port collects what forked processes print, and tells nothing
    if asked and answer[:2] == b"\x15\x03":  # a TLS alert: whatever it is, it speaks TLS
        row.update(scheme="https", http=None)


def pair_dask(rows: "List[Json]", ancestors: "Dict[int, List[int]]") -> None:
    """Find the dashboards among the ports of Dask started by hand, and the ports of one cluster (``of``)."""
    speaking = {row["pid"]: row["kind"] for row in rows if row["kind"].startswith("dask-") and row["pid"]}
    for row in rows:
        kind = speaking.get(row["pid"])
        if kind is None or row["kind"] not in ("listener", kind):
            continue
        row["kind"] = kind
        if row.get("http"):
            row["url_path"] = "status"
        chain = [pid for pid in [row["pid"], *ancestors.get(row["pid"], [])] if pid in speaking]
        schedulers = [pid for pid in chain if speaking[pid] == "dask-scheduler"]
        row["of"] = "dask:%d" % (schedulers[0] if schedulers else chain[-1])  # in a task: its worker's


def ask_notebooks(rows: "List[Json]", known: "Dict[int, bool]") -> None:
    """Note which notebook servers among `rows` do something without a credential (``open``).

    A record shows only what the server's own login of Jupyter would ask for. `known` are answers of before, by inode.
    """
    end = time.monotonic() + 0.5
    for row in rows:
        if row["kind"] == "notebook" and row["pid"] and not row.get("of"):
            if row["path"] and not is_for_others(row["path"]):
                continue
            # a server that asks for a credential shows its login page without a line in its log
            for page in ("login", "api/status?no_track_activity=1") if row["inode"] not in known else ():
                status = status_of(row, "%s/%s" % (row.get("base", ""), page), end - time.monotonic())
                if status is None:
                    break  # it is not known
                if status == 200 or page != "login":
                    known[row["inode"]] = status == 200 and page != "login"
                    break
            row["open"] = known.get(row["inode"])


def is_for_others(path: str) -> bool:
    """Tell whether the modes of a Unix socket and of the directories above it let others connect to it.

    A mode that cannot be read does not close it: its server is asked, then.
    """
    wanted = 0o022
    try:
        while os.stat(path).st_mode & wanted:
            if path == "/":
                return True
            path, wanted = os.path.dirname(path), 0o011
    except FileNotFoundError:  # nobody else can connect to it, either
        pass
    except OSError:
        return True
    return False


def status_of(row: "Json", path: str, seconds: float) -> "Optional[int]":
    """Return the HTTP status of an own server's answer; None where none came."""
    import socket

    request = "GET /%s HTTP/1.0\r\nHost: localhost\r\nUser-Agent: ports\r\n\r\n" % path.lstrip("/").replace(" ", "%20")
    families = {"unix": "AF_UNIX", "tcp6": "AF_INET6"}
    connection = socket.socket(getattr(socket, families.get(row["family"], "AF_INET")))
    try:
        connection.settimeout(seconds)
        connection.connect(row["path"] or (ANY.get(row["address"], row["address"]), row["port"]))
        if row["scheme"] == "https":
            import ssl

            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection = context.wrap_socket(connection)
        connection.sendall(request.encode())
        return int(connection.recv(4096).split(None, 2)[1])
    except (OSError, ValueError, IndexError):
        return None
    finally:
        connection.close()


def find_exposed(rows: "List[Json]", ancestors: "Dict[int, List[int]]") -> None:
    """Note why others can use a row (``exposed``), and for kernels, which server they belong to (``of``).

    ``dask``, ``token`` and ``debugger``: any user of the machine can run code there. ``dashboard`` and ``kernel``: any
    user can read it. ``network``: other machines reach it, too.
    """
    servers = {row["pid"] for row in rows if row["kind"] == "notebook" and row["pid"]}
    for row in rows:
        found, greets = [], row.pop("greets")
        if greets:
            found.append("dask")
        elif row["kind"].startswith("dask-") and row.get("http"):
            found.append("dashboard")
        row.pop("base", None)
        if row.pop("open", None):
            found.append("token")
        if row["kind"] == "debugpy" and {str(row["port"]), "0"} & set(row["argv"]):  # not the other one
            found.append("debugger")
        if row["kind"] == "kernel" and row["port"] and greets is not None:
            found.append("kernel")
            row["of"] = next(("server:%d" % pid for pid in ancestors.get(row["pid"], []) if pid in servers), None)
        # ports of a cluster are open because the user asked for it, and they require its certificate
        if row["open_to_network"] and not str(row.get("of")).startswith("cluster:"):
            found.append("network")
        row["exposed"] = found
