"""Asking one's own ports what they are: the only place of the probe that speaks to anybody."""

import re
import time

if __name__ != "__main__":  # piped, these names are there already
    from ports.probe.sockets import open_socket

MYPY = False
if MYPY:
    from typing import Any, Dict, List  # noqa: F401 - in comments

    Json = Dict[str, Any]

MOST_ASKED = 64  # ports asked in one probe: past that the answer would come too late
REQUEST = b"HEAD / HTTP/1.0\r\nHost: localhost\r\nUser-Agent: ports\r\n\r\n"
# Dask with TLS waits to be spoken to: a request would be a failed handshake in its log.
SHY = re.compile(r"ports_cluster|multiprocessing\.(spawn|forkserver)")
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Asking:
    """Asks own ports what they are, all at once, and sets ``http`` of their rows.

    A port is first listened to for `silence` seconds, as Dask speaks first and takes HTTP for the length of a message;
    when it said nothing it gets an HTTP request, and `patience` seconds to answer it. Whoever adds rows calls `step`
    now and then, and `finish` at last: in between there is time for other work.
    """

    def __init__(self, silence: float, patience: float) -> None:
        from select import POLLIN, poll

        self.silence, self.patience, self.wanted = silence, patience, POLLIN
        self.poller, self.left = poll(), MOST_ASKED
        self.open = {}  # type: Dict[int, List[Any]]

    def add(self, rows: "List[Json]") -> None:
        """Connect to the listeners of `rows`, which must be this user's own, until there are too many."""
        added = []
        for row in rows[: self.left]:
            connection = open_socket(row["family"] == "tcp6")
            connection.setblocking(False)
            connection.connect_ex((ANY.get(row["address"], row["address"]), row["port"]))
            self.poller.register(connection, self.wanted)
            added.append([connection, row, 0.0, False])
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
            judge(row, connection, asked)
        now = min(now, time.monotonic())  # what falls due later has not been looked at
        due = [fd for fd, one in self.open.items() if one[2] <= now]
        for fd in due:
            connection, row, _, asked = self.open[fd]
            if asked:
                self.poller.unregister(fd)
                connection.close()
                del self.open[fd]
                continue
            self.open[fd][2:] = [time.monotonic() + self.patience, True]
            if SHY.search(" ".join(row["argv"])):
                continue
            try:
                connection.send(REQUEST)
            except OSError:  # poll tells what became of it
                pass

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
    if answer[:1] == b"\xff" and answer[9:10] == b"\x7f" and any("ipykernel" in word for word in row["argv"]):
        row["kind"] = "kernel"  # ZeroMQ's greeting: where it collects what its forked processes print
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
        owners = [pid for pid in [row["pid"], *ancestors.get(row["pid"], [])] if speaking.get(pid) == "dask-scheduler"]
        row["of"] = "dask:%d" % (owners[0] if owners else row["pid"])
