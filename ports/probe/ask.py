"""Asking one's own ports what they are: the only place of the probe that speaks to anybody."""

import re
import time

if __name__ != "__main__":  # piped, these names are there already
    from .recognise import SPAWNED
    from .sockets import kept_waiting, open_socket

MYPY = False
if MYPY:
    from typing import Any, Dict, List

    Json = Dict[str, Any]

MOST_ASKED = 64  # ports asked in one probe: past that the answer would come too late
REQUEST = b"HEAD / HTTP/1.0\r\nHost: localhost\r\nUser-Agent: ports\r\n\r\n"
# Dask with TLS waits to be spoken to: a request would be a failed handshake in its log.
SHY = re.compile("ports_owner|" + SPAWNED.pattern)
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Asking:
    """Asks own ports what they are, all at once, and sets ``http`` of their rows.

    A port is first listened to for `silence` seconds, as Dask speaks first and takes HTTP for the length of a message;
    when it said nothing it gets an HTTP request. It has 1.5 times `patience` seconds to answer, as it may compute, but
    half of it when it has not even accepted the connection by then; where that cannot be known, `patience`.

    Whoever adds rows calls `step` now and then, and `finish` at last: in between there is time for other work.
    """

    def __init__(self, silence: float, patience: float) -> None:
        import select

        self.silence, self.patience, self.left = silence, patience, MOST_ASKED
        if hasattr(select, "poll"):
            self.poller = select.poll()  # type: Any
        else:  # home is Windows; where this is piped to, there is a poll
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
            added.append([connection, row, 0.0, None])  # when it falls due, and when it was asked
        self.left -= len(added)
        due = time.monotonic() + self.silence
        for one in added:
            one[2] = due
            self.open[one[0].fileno()] = one

    def step(self, wait: float = 0.0) -> None:
        """Take down what came within `wait` seconds, ask those that were silent, give up those that did not answer."""
        if wait and wait < 0.001:  # poll knows whole milliseconds only
            time.sleep(wait)
        now = time.monotonic() + (wait if wait >= 0.001 else 0)
        for fd, _ in self.poller.poll(int(wait * 1000)):
            self.poller.unregister(fd)
            connection, row, _, asked = self.open.pop(fd)
            judge(row, connection, asked is not None)
        now = min(now, time.monotonic())  # what falls due later has not been looked at
        due = [one for one in self.open.values() if one[2] <= now]
        late = [one for one in due if one[3] is not None]
        if any(one[2] < one[3] + self.patience for one in late):
            late = self.without_those_that_compute(late)
        for one in due:
            if one[3] is None and not SHY.search(" ".join(one[1]["argv"])):
                one[2:] = [time.monotonic() + self.patience / 2, time.monotonic()]
                try:
                    one[0].send(REQUEST)
                except OSError:  # poll tells what became of it
                    pass
            elif one[3] is None or one in late:
                self.poller.unregister(one[0])
                del self.open[one[0].fileno()]
                one[0].close()

    def without_those_that_compute(self, late: "List[List[Any]]") -> "List[List[Any]]":
        """Return those of `late` that are to be given up; the others get the rest of their time."""
        try:
            waiting, times = set(kept_waiting()), 1.5
        except OSError:  # no netlink here
            waiting, times = set(), 1.0
        for one in late:
            if one[1]["inode"] not in waiting:
                one[2] = max(one[2], one[3] + times * self.patience)
        now = time.monotonic()
        return [one for one in late if one[2] <= now]

    def finish(self) -> None:
        """Wait for all answers."""
        while self.open:
            self.step(max(0.0, min(one[2] for one in self.open.values()) - time.monotonic()))


def judge(row: "Json", connection: "Any", asked: bool) -> None:
    """Take down what the port said."""
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
    row["greets"] = b"pickle-protocol" in answer  # with TLS it would have said nothing
    if answer[:1] == b"\xff" and answer[9:10] == b"\x7f" and any("ipykernel" in word for word in row["argv"]):
        row.update(
            kind="kernel", greets=None
        )  # ZeroMQ's greeting: it collects what forked processes print, tells nothing
    if asked and answer[:2] == b"\x15\x03":  # a TLS alert: it is something, and wants TLS
        row.update(scheme="https", http=None)


def pair_dask(rows: "List[Json]", ancestors: "Dict[int, List[int]]") -> None:
    """Tell the dashboards of hand-started Dask from its other ports, and which ports are one cluster's (``of``)."""
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
        row["of"] = "dask:%d" % (schedulers[0] if schedulers else chain[-1])  # one in a task is its worker's process


def find_exposed(rows: "List[Json]", ancestors: "Dict[int, List[int]]") -> None:
    """Note why others can use a row (``exposed``), and of kernels, which server they belong to (``of``).

    ``dask``, ``token`` and ``debugger``: whoever is on the machine runs code; ``dashboard`` and ``kernel``: reads;
    ``network``: other machines reach it, too.
    """
    servers = {row["pid"] for row in rows if row["kind"] == "notebook" and row["pid"]}
    for row in rows:
        found, greets = [], row.pop("greets")
        if greets:
            found.append("dask")
        elif row["kind"].startswith("dask-") and row.get("http"):
            found.append("dashboard")
        if row["kind"] == "notebook" and not row.get("token") and not row.get("password"):
            found.append("token")
        if row["kind"] == "debugpy" and {str(row["port"]), "0"} & set(row["argv"]):  # the other is for what it debugs
            found.append("debugger")
        if row["kind"] == "kernel" and row["port"] and greets is not None:
            found.append("kernel")
            row["of"] = next(("server:%d" % pid for pid in ancestors.get(row["pid"], []) if pid in servers), None)
        # a cluster's own ports are there because it was told so, and ask for its certificate
        if row["open_to_network"] and not str(row.get("of")).startswith("cluster:"):
            found.append("network")
        row["exposed"] = found
