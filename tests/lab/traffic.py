"""What goes through a link while its way is cut: a service on a host, and a program on the laptop that uses it.

The program asks for a page ten times a second, each time on a new connection, and for the state that ``ports tunnel
list`` shows; on command it also downloads, keeps a connection idle, holds a websocket. All hosts have one clock, so
what it notes is compared with the moments at which a test cut and mended.
"""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from tests.lab.site import HostProcess, Running, Site

# a server on the far side: prints its port, then sends back what comes
ECHO = """
import socket, threading
server = socket.create_server(("127.0.0.1", 0), backlog=256)
print(server.getsockname()[1], flush=True)
def serve(connection):
    with connection:
        while data := connection.recv(1 << 18):
            connection.sendall(data)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""

#: Serves HTTP/1.1 on a loopback port, which it prints: a page, a download of a given length, a websocket that echoes.
SERVICE = r"""
import base64, hashlib, http.server, os, socketserver, struct, sys, time
class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        path, _, words = self.path.partition("?")
        if path == "/download":
            self.download(int(words))
        elif path == "/websocket":
            self.websocket()
        elif path == "/never":
            time.sleep(600)
        else:
            body = os.environ["PAGE"].encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
    def download(self, seconds):
        self.send_response(200)
        self.send_header("Content-Length", str(seconds * 20 * 65536))
        self.end_headers()
        for number in range(seconds * 20):
            self.wfile.write(struct.pack(">Q", number) * 8192)
            time.sleep(0.05)
    def websocket(self):
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        while True:
            head = self.rfile.read(2)
            if len(head) < 2:
                break
            mask, data = self.rfile.read(4), self.rfile.read(head[1] & 127)
            clear = bytes(one ^ mask[place % 4] for place, one in enumerate(data))
            self.wfile.write(bytes([head[0], len(clear)]) + clear)
        self.close_connection = True
    def log_message(self, *words):
        pass
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 512
server = Server(("127.0.0.1", int(sys.argv[1])), Page)
print(server.server_port, flush=True)
server.serve_forever()
"""
#: Accepts and never answers.
MUTE = """
import socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
held = []
while True:
    held.append(listener.accept())
"""
_USE = r"""
import base64, collections, hashlib, http.client, json, os, selectors, socket, struct, sys, threading, time
import urllib.error, urllib.request
from urllib.parse import urlsplit
from ports import tunnels
url = sys.argv[1]
port = urlsplit(url).port
polls, states, downloads, messages, asked, kept = [], [], [], [], [], {}
over = threading.Event()

def get(path="", timeout=60):
    begun = time.time()
    try:
        with urllib.request.urlopen(url + path, timeout=timeout) as answer:
            status, text = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read()
    except (OSError, http.client.HTTPException) as error:
        status, text = None, repr(error).encode()
    return [begun, time.time() - begun, status, text.decode(errors="replace")[:400]]

def poll():
    while not over.wait(0.1):
        polls.append(get())

def watch():
    while not over.wait(0.2):
        rows = [row for row in tunnels.list() if row["local_port"] == port]
        states.append([time.time(), rows[0]["state"] if rows else None, rows[0]["error"] if rows else None])

def download(seconds):
    made = {"begun": time.time(), "whole": False, "error": None}
    downloads.append(made)
    got, wanted = hashlib.sha256(), hashlib.sha256()
    for number in range(seconds * 20):
        wanted.update(struct.pack(">Q", number) * 8192)
    try:
        with urllib.request.urlopen(url + "download?%d" % seconds, timeout=300) as answer:
            while data := answer.read1(65536):
                got.update(data)
        made["whole"] = got.digest() == wanted.digest()
    except (OSError, http.client.HTTPException) as error:
        made["error"] = repr(error)
    made["ended"] = time.time()

def exactly(connection, count):
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise ConnectionError("closed")
        data += more
    return data

def websocket():
    made = {"echoed": 0, "error": None, "last": None}
    messages.append(made)
    try:
        connection = socket.create_connection(("localhost", port), 120)
        head = "GET /websocket HTTP/1.1\r\nHost: localhost:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" % port
        head += "Sec-WebSocket-Key: %s\r\n" % base64.b64encode(os.urandom(16)).decode()
        connection.sendall((head + "Sec-WebSocket-Version: 13\r\n\r\n").encode())
        said = b""
        while not said.endswith(b"\r\n\r\n"):
            said += exactly(connection, 1)
        assert said.startswith(b"HTTP/1.1 101"), said
        while not over.wait(0.1):
            text, mask = b"%f" % time.time(), os.urandom(4)
            connection.sendall(bytes([0x81, 0x80 | len(text)]) + mask
                + bytes(one ^ mask[place % 4] for place, one in enumerate(text)))
            assert exactly(connection, 2 + len(text))[2:] == text
            made["echoed"] += 1
            made["last"] = time.time()
    except (OSError, AssertionError) as error:
        made["error"] = repr(error)

def keep(name):
    kept[name] = connection = http.client.HTTPConnection("localhost", port, timeout=60)
    return ask(name)

def ask(name):
    begun = time.time()
    try:
        kept[name].request("GET", "/")
        answer = kept[name].getresponse()
        text = answer.read().decode(errors="replace")
        return [begun, time.time() - begun, answer.status, text[:200]]
    except (OSError, http.client.HTTPException) as error:
        return [begun, time.time() - begun, None, repr(error)]

def under_way(path):
    asked.append(get(path))

def many(count):
    begun, found, answers = time.time(), collections.Counter(), []
    def one():
        answers.append(get(timeout=60))
    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return [begun, time.time() - begun, sorted({str(one[2]) for one in answers}), len(answers)]

def start(function, *words):
    threading.Thread(target=function, args=words, daemon=True).start()

start(poll)
start(watch)
for line in sys.stdin:
    word, *rest = json.loads(line)
    answer = None
    if word == "end":
        over.set()
    if word == "start":
        start(globals()[rest[0]], *rest[1:])
    elif word in ("look", "end"):
        noted = (polls[-50:], states[-1:]) if word == "look" else (polls, states)
        answer = dict(zip(("polls", "states"), noted), downloads=downloads, messages=messages, asked=asked)
    else:
        answer = globals()[word](*rest)
    print(json.dumps(answer), flush=True)
"""

_FETCH = """
import sys, urllib.error, urllib.request
try:
    answer = urllib.request.urlopen(sys.argv[1], timeout=15)
except urllib.error.HTTPError as error:
    answer = error
except OSError:
    sys.exit()
print(answer.read().decode(errors="replace"), end="")
"""


def soon() -> float:
    """Return the seconds from packets flowing again to an answer on the link, at most."""
    return 5.0 * _slowness()


def at_once() -> float:
    """Return the seconds until the page that stands in for a service comes, at most."""
    return 1.0 * _slowness()


def stale() -> float:
    """Return the seconds that a state may be shown after it ceased to be."""
    return 10.0 * _slowness()


def _slowness() -> float:
    """Return how much longer a machine takes that is as busy as this one now: its load per processor, at least 1."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@dataclass(frozen=True)
class Seen:
    """What the program noted; moments are seconds since the epoch."""

    #: Begun, seconds it took, HTTP status or None, text.
    polls: list[tuple[float, float, int | None, str]]
    #: When the state was shown, the state, the error.
    states: list[tuple[float, str | None, str | None]]
    downloads: list[dict[str, Any]]
    messages: list[dict[str, Any]]
    #: As `polls`: what was started with ``under_way``.
    asked: list[tuple[float, float, int | None, str]]

    def answered_after(self, moment: float) -> float:
        """Return the seconds from `moment` to the first page that came from the service; inf where none did."""
        ended = [begun + took for begun, took, status, _ in self.polls if status == 200 and begun + took > moment]
        return min(ended, default=float("inf")) - moment

    def shown_after(self, moment: float, *wanted: str) -> float:
        """Return the seconds from `moment` until one of the states `wanted` was shown; inf where none was."""
        shown = [when for when, state, _ in self.states if when > moment and state in wanted]
        return min(shown, default=float("inf")) - moment

    def slowest(self, begin: float, end: float) -> float:
        """Return how long the slowest answer took that was asked for between two moments."""
        return max((took for begun, took, _, _ in self.polls if begin < begun < end), default=0.0)

    def statuses(self, begin: float, end: float) -> set[int | None]:
        """Return the HTTP statuses of what was asked for between two moments."""
        return {status for begun, _, status, _ in self.polls if begin < begun < end}


class Traffic:
    """The program that uses `url` on the laptop."""

    def __init__(self, site: Site, url: str) -> None:
        self.running: Running = site.popen("laptop", [site.python, "-c", _USE, url], stdin=subprocess.PIPE)

    def tell(self, *words: Any) -> Any:
        """Give it a command: ``start``, ``keep``, ``ask``, ``get``, ``many``, ``look``; return its answer."""
        assert self.running.stdin is not None and self.running.stdout is not None
        self.running.stdin.write(json.dumps(words) + "\n")
        self.running.stdin.flush()
        line = self.running.stdout.readline()
        assert line, self.running.communicate()[1]
        return json.loads(line)

    def seen(self) -> Seen:
        """Return the state shown last, and the last answers."""
        return Seen(**self.tell("look"))

    def is_shown(self, *wanted: str) -> float | None:
        """Return the moment if one of the states `wanted` is what is shown now."""
        states = self.seen().states
        return time.time() if states and states[-1][1] in wanted else None

    def is_answered(self, since: float) -> float | None:
        """Return how long after `since` the service answered, None if it has not yet."""
        after = self.seen().answered_after(since)
        return after if after < float("inf") else None

    def end(self) -> Seen:
        """Let it end, and return all that it noted."""
        return Seen(**self.tell("end"))


class Journey:
    """Alice's laptop with what she opened, until `end`."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._started: list[Running] = []

    def start(self, host: str, argv: list[str], **where: Any) -> Running:
        """Start a command on `host` that ends with the journey at the latest."""
        self._started.append(self.site.popen(host, argv, **where))
        return self._started[-1]

    def serve(self, host: str, *, code: str = SERVICE, port: int = 0, user: str | None = None) -> tuple[Running, int]:
        """Start a service on `host`; return it and its port. Its page says whose and where it is."""
        whose = user or self.site.users[0]
        env = {"PAGE": f"page of {whose} on {host}"}
        running = self.start(host, ["/usr/bin/python3", "-c", code, str(port)], user=user, env=env)
        assert running.stdout is not None
        line = running.stdout.readline()
        assert line, running.communicate()[1]
        return running, int(line)

    def ports(self, *words: str, timeout: float = 90, **where: Any) -> Any:
        """Run ``ports … --json`` on the laptop, and return its document."""
        done = self.site.run("laptop", [self.site.python, "-m", "ports", *words, "--json"], timeout=timeout, **where)
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def open(self, *targets: str, dead_after: float = 3.0, env: dict[str, str] | None = None) -> list[dict[str, Any]]:
        """Open targets in the background, and return their rows."""
        settings = {"DASK_PORTS__OPEN__DEAD_AFTER": str(dead_after), **(env or {})}
        rows: list[dict[str, Any]] = self.ports("open", "--background", *targets, env=settings)
        assert all(row["local_url"] for row in rows), rows
        return rows

    def tunnels(self) -> list[dict[str, Any]]:
        """Return what ``ports tunnel list`` shows."""
        rows: list[dict[str, Any]] = self.ports("tunnel", "list")
        return rows

    def use(self, url: str) -> Traffic:
        """Start the program that uses `url`."""
        made = Traffic(self.site, url)
        self._started.append(made.running)
        return made

    def fetch(self, url: str, *, timeout: float = 20) -> str:
        """Return the page at `url`, whatever its status, as a program on the laptop gets it; "" where none comes."""
        done = self.site.run("laptop", ["/usr/bin/python3", "-c", _FETCH, url], timeout=timeout)
        return done.stdout

    def masters(self) -> list[HostProcess]:
        """Return the connections that `ports` keeps."""
        found = self.site.host("laptop").processes()
        return [one for one in found if " -f -N -M " in " ".join(one.command) and one.state != "Z"]

    def sessions(self, host: str) -> list[int]:
        """Return the processes of the sshd of `host` that serve a connection."""
        found = self.site.host(host).processes()
        names = ("sshd: ", "sshd-session: ")
        return [one.pid for one in found if one.command[0].startswith(names) and "[listener]" not in one.command[0]]

    def logins(self) -> dict[str, int]:
        """Return how many logins each host has seen."""
        return {name: host.log().count("Accepted publickey") for name, host in self.site.hosts.items()}

    def at_a_terminal(self, line: str, prompt: str, answer: str, *, timeout: float = 40) -> str:
        """Type `line` at a terminal on the laptop, answer each `prompt`, and return what was shown."""
        command, environment = self.site.shell_command("laptop")
        child, terminal = pty.fork()
        if child == 0:
            os.execvpe(command[0], command, {**os.environ, **environment})
        shown, answered, end = "", 0, time.monotonic() + timeout
        os.write(terminal, f"exec {line}\n".encode())
        try:
            while time.monotonic() < end:
                if not select.select([terminal], [], [], 0.2)[0]:
                    continue
                try:
                    shown += os.read(terminal, 4096).decode(errors="replace")
                except OSError:  # it has ended
                    break
                while shown.count(prompt) > answered:
                    answered += 1
                    os.write(terminal, f"{answer}\n".encode())
        finally:
            os.close(terminal)
            if os.waitpid(child, os.WNOHANG) == (0, 0):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        return shown

    def end(self) -> None:
        """End what was started, and the connections that `ports` keeps on purpose."""
        for running in self._started:
            running.kill()
            running.communicate()
        closed = self.site.run("laptop", [self.site.python, "-m", "ports", "tunnel", "close", "--all"])
        assert closed.returncode == 0, closed.stderr
        hang_up = "from ports.hosts import openssh; openssh.close_all()"
        assert self.site.run("laptop", [self.site.python, "-c", hang_up]).returncode == 0
