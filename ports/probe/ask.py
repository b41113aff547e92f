"""Asking one's own ports what they are: the only place of the probe that speaks to anybody."""

import re
import time

if __name__ != "__main__":  # piped, these names are there already
    from ports.probe.sockets import open_socket

MYPY = False
if MYPY:
    from typing import Any, Dict, List, Tuple  # noqa: F401 - in comments

    Json = Dict[str, Any]

MOST_ASKED = 64  # ports asked in one probe: past that the answer would come too late
REQUEST = b"HEAD / HTTP/1.0\r\nHost: localhost\r\nUser-Agent: ports\r\n\r\n"
# Dask with TLS waits to be spoken to: a request would be a failed handshake in its log.
SHY = re.compile(r"ports_cluster|multiprocessing\.(spawn|forkserver)")
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def ask(rows: "List[Json]", silence: float, patience: float) -> None:
    """Set ``http`` of each row, all at once; the rows must be of this user's own listeners.

    A port is first listened to for `silence` seconds, as Dask speaks first and takes HTTP for the length of a message;
    those that said nothing get an HTTP request, and `patience` seconds to answer it.
    """
    if not rows:
        return
    from select import POLLIN, poll

    poller, waiting = poll(), {}  # type: Any, Dict[int, Tuple[Any, Json]]
    for row in sorted(rows, key=lambda row: -(row["started_at"] or 0))[:MOST_ASKED]:  # the newest first
        connection = open_socket(row["family"] == "tcp6")
        connection.setblocking(False)
        connection.connect_ex((ANY.get(row["address"], row["address"]), row["port"]))
        waiting[connection.fileno()] = connection, row
        poller.register(connection, POLLIN)
    for limit, speak in ((silence, False), (patience, True)):
        for connection, row in waiting.values() if speak else ():
            if SHY.search(" ".join(row["argv"])):
                continue
            try:
                connection.send(REQUEST)
            except OSError:  # poll tells what became of it
                pass
        end = time.monotonic() + limit
        while waiting:
            ready = poller.poll(max(0, int((end - time.monotonic()) * 1000)))
            if not ready:
                break
            for fd, _ in ready:
                poller.unregister(fd)
                connection, row = waiting.pop(fd)
                judge(row, connection, speak)
    for connection, _ in waiting.values():
        connection.close()


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
