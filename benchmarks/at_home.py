"""The half of the benchmarks that runs on the laptop, as its user: ``python -m benchmarks.at_home NAME JSON``.

It prints its measurements as one JSON document: a list of [ours, theirs] for each row.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.commands import PORTS, seconds
from benchmarks.measure import Samples, interleave

LINK = re.compile(r"https?://(?:localhost|127\.0\.0\.1):(\d+)\S*")
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPGRADE = b"GET /echo HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
UPGRADE += b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
CONNECTIONS, ROUNDS, REPEATS, TRIPS = 6, 4, 10, 200
CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-quic", "--no-first-run"]
CHROMIUM += ["--disable-component-update", "--disable-sync", "--headless"]

Parameters = dict[str, Any]


@contextlib.contextmanager
def ports_open(targets: list[str], *options: str) -> Iterator[Iterator[str]]:
    """Run ``ports open`` and yield its links as they come up."""
    command = [*PORTS, "open", *targets, "--no-browser", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield (found.group(0) for line in process.stdout if (found := LINK.search(line)))
        finally:
            process.terminate()
            process.wait(20)


@contextlib.contextmanager
def ssh_forward(parameters: Parameters) -> Iterator[int]:
    """Run a plain ``ssh -N -L``, as most people do, and yield its local port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    command = [*parameters["ssh"], "-N", "-L", f"127.0.0.1:{port}:127.0.0.1:{parameters['port']}", "server1"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            _answer(f"http://127.0.0.1:{port}/", patience=20)
            yield port
        finally:
            process.terminate()
            process.wait(20)


@contextlib.contextmanager
def both(parameters: Parameters) -> Iterator[tuple[str, str]]:
    """Open both tunnels to the same service and yield their links; the one of `ports` has the token."""
    target, options = f"server1:{parameters['target']}", parameters.get("options", ())
    with ssh_forward(parameters) as port, ports_open([target], *options) as links:
        link = next(links)
        yield link, LINK.sub(lambda found: found.group(0).replace(f":{found.group(1)}", f":{port}", 1), link)


def open_two(parameters: Parameters) -> list[Samples]:
    """Time from no connection to two notebooks that answer; the peer is one login through the jump host."""

    def ours() -> float:
        disconnect()
        start = time.perf_counter()
        with ports_open(["server1", "server2"]) as links:
            for link in (next(links), next(links)):
                _answer(link)
            return time.perf_counter() - start

    def theirs() -> float:
        disconnect()
        return seconds([*parameters["ssh"], "server1", "true"])

    try:
        return [interleave(ours, theirs, parameters["runs"])]
    finally:
        disconnect()


def list_host(parameters: Parameters) -> list[Samples]:
    """List what runs on a host without `ports`; the peer runs an interpreter there over the same connection."""
    from ports import hosts
    from ports.hosts import openssh

    try:
        master = openssh.start(hosts.resolve("server2"), warm=True)
        time.sleep(2.5)  # `ports` does not remember a configuration that was written this moment; a user's is older
        over_it = [*parameters["ssh"], "-S", str(master.control), "server2", "python3", "-c", "pass"]
        listing = [*PORTS, "list", "server2", "--json"]
        return [interleave(lambda: seconds(listing), lambda: seconds(over_it), parameters["runs"])]
    finally:
        disconnect()


def requests(parameters: Parameters) -> list[Samples]:
    """Time lock-step requests, and the round trip of one small request."""
    with both(parameters) as links:
        ours, theirs = (_port(link) for link in links)
        lock_step = interleave(lambda: _lock_step(ours), lambda: _lock_step(theirs), parameters["runs"])
        trip = interleave(lambda: _round_trip(ours), lambda: _round_trip(theirs), parameters["runs"])
    disconnect()
    return [lock_step, trip]


def websocket(parameters: Parameters) -> list[Samples]:
    """Time the round trip of one small message."""
    with both(parameters) as links:
        ours, theirs = (_port(link) for link in links)
        samples = interleave(lambda: _echo(ours), lambda: _echo(theirs), parameters["runs"])
    disconnect()
    return [samples]


def download(parameters: Parameters) -> list[Samples]:
    """Time a download of 256 MiB."""
    with both(parameters) as links:
        ours, theirs = (_port(link) for link in links)
        samples = interleave(lambda: _fetch(ours), lambda: _fetch(theirs), parameters["runs"])
    disconnect()
    return [samples]


def page(parameters: Parameters) -> list[Samples]:
    """Time JupyterLab in a browser with an empty profile, until its launcher shows."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, both(parameters) as (ours, theirs):

        def load(link: str) -> float:
            with tempfile.TemporaryDirectory(prefix="bench-chromium-") as profile:
                context = playwright.chromium.launch_persistent_context(
                    profile, executable_path=parameters["chromium"], headless=True, args=CHROMIUM
                )
                try:
                    shown = context.pages[0] if context.pages else context.new_page()
                    start = time.perf_counter()
                    shown.goto(link, wait_until="commit")
                    shown.wait_for_selector(".jp-Launcher-section", timeout=60_000)
                    return time.perf_counter() - start
                finally:
                    context.close()

        samples = interleave(lambda: load(ours), lambda: load(theirs), parameters["runs"])
    disconnect()
    return [samples]


def disconnect() -> None:
    """End the master connections of `ports`."""
    from ports.hosts import openssh

    openssh.close_all()


def _answer(link: str, patience: float = 0.0) -> None:
    """Fetch `link`, and retry for `patience` seconds."""
    end = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(link, timeout=20) as answer:
                answer.read(1)
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def _port(link: str) -> int:
    found = LINK.match(link)
    assert found is not None
    return int(found.group(1))


def _lock_step(port: int) -> float:
    """Return the mean seconds of a few rounds in which several connections write a request each, then all read.

    A plain tunnel stalls for 40 ms in some rounds and not in others, so one measurement is the mean of a few rounds.
    """
    return sum(_rounds(port) for _ in range(REPEATS)) / REPEATS


def _rounds(port: int) -> float:
    with contextlib.ExitStack() as stack:
        open_ones = [stack.enter_context(_connect(port)) for _ in range(CONNECTIONS)]
        start = time.perf_counter()
        for _ in range(ROUNDS):
            for one in open_ones:
                one.sendall(REQUEST)
            for one in open_ones:
                _read_answer(one)
        return time.perf_counter() - start


def _round_trip(port: int) -> float:
    """Return the median seconds of one small request on a connection that stays open."""
    with _connect(port) as connection:
        took = []
        for _ in range(TRIPS):
            start = time.perf_counter()
            connection.sendall(REQUEST)
            _read_answer(connection)
            took.append(time.perf_counter() - start)
    return sorted(took)[len(took) // 2]


def _echo(port: int) -> float:
    """Return the median seconds until the echo of a websocket message is back."""
    message = bytes((0x81, 0x80 | 32, 1, 2, 3, 4)) + bytes(32)  # text, masked
    with _connect(port) as connection:
        connection.sendall(UPGRADE)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        assert head.startswith(b"HTTP/1.1 101 "), head
        took = []
        for _ in range(TRIPS):
            start = time.perf_counter()
            connection.sendall(message)
            left = 2 + 32
            while left:
                left -= len(connection.recv(left))
            took.append(time.perf_counter() - start)
    return sorted(took)[len(took) // 2]


def _fetch(port: int) -> float:
    with _connect(port) as connection:
        start = time.perf_counter()
        connection.sendall(REQUEST.replace(b"GET /", b"GET /large"))
        left, buffer = _length(connection), bytearray(1 << 20)
        while left:
            got = connection.recv_into(buffer, min(left, len(buffer)))
            assert got, "the tunnel ended"
            left -= got
        return time.perf_counter() - start


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), 60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _length(connection: socket.socket) -> int:
    """Read the head of an answer, byte by byte so that the body stays unread, and return the length of the body."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        got = connection.recv(1)
        assert got, "the tunnel ended"
        head += got
    return int(re.search(rb"Content-Length: (\d+)", head).group(1))  # type: ignore[union-attr]


def _read_answer(connection: socket.socket) -> None:
    answer = b""
    while b"\r\n\r\n" not in answer or len(answer.partition(b"\r\n\r\n")[2]) < 100:
        got = connection.recv(4096)
        assert got, "the tunnel ended"
        answer += got


BENCHMARKS: dict[str, Callable[[Parameters], list[Samples]]] = {
    "list-host": list_host,
    "open": open_two,
    "requests": requests,
    "websocket": websocket,
    "page": page,
    "download": download,
}

if __name__ == "__main__":
    os.environ.setdefault("PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD", "1")
    measured = BENCHMARKS[sys.argv[1]](json.loads(sys.argv[2]))
    print(json.dumps([[one.ours, one.theirs] for one in measured]))
