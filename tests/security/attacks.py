"""What bob tries against alice: run by his account as ``python -c <this text> ATTACK [WORD …]``; prints JSON.

``fell`` is what he got, ``tried`` how many doors he tried. He knows what every account of a machine sees: who listens
where, the names of Unix sockets, command lines. Standard library only, but where he speaks Dask or ZeroMQ. What he
overhears and reads stands in `snooping`, what he tries against jobs in
`job_attacks`. All three are run as one text.
"""

import asyncio
import contextlib
import http.client
import json
import os
import pwd
import re
import socket
import ssl
import sys
import tempfile

ALICE = pwd.getpwnam("alice").pw_uid
# Tried in any case; what else there is, the control's own applications say, see `routes`.
ROUTES = ("/", "/status", "/info/main/workers.html", "/json/counts.json", "/metrics", "/health", "/ports.json", "/info")
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

    from ports.clusters._certificates import write_self_signed  # anybody may install it

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


async def run_code(ways, places=None):
    """Try all of alice's ports in all `ways`, at once; or `places`."""
    import logging

    logging.disable(logging.CRITICAL)
    tries = []
    for address, port, greeting in doors(places):
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
    return {"fell": sorted({*fell, *reached}), "tried": len(tries) + len(unix_sockets()), "ways": len(ways)}


def doors(places=None):
    """Return addresses and ports of alice's, or `places`, each with what it says by itself.

    That is Dask's greeting, or nothing; what greets as ZeroMQ does is a kernel's, see `eavesdrop`.
    """
    places = tcp_ports() if places is None else places
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


def code(address=None, *ports):
    """Run code through scheduler, worker and nanny: plainly, without a certificate, with one of his own.

    At `address`, or where alice listens.
    """
    plain = ("tcp", {})
    tls = [("tls", {"connection_args": {"ssl_context": context}}) for context in contexts()]
    places = [(address, int(port)) for port in ports] if address else None
    return asyncio.run(run_code([plain, *tls], places))


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


def routes():
    """Return the paths of all pages of alice's scheduler and workers, from their applications: by code as her."""
    plain = [door[:2] for door in doors() if b"pickle-protocol" in door[2]]

    async def ask_all():
        return await asyncio.gather(*(routes_at(f"tcp://{address}:{port}") for address, port in plain))

    found = asyncio.run(ask_all())
    # Each page of Bokeh's has files and a websocket like any other's, see `websocket`; its single plots are one sort.
    paths = {path for paths in found for path in paths}
    no_page = re.compile(r"/(ws|metadata|autoload\.js|static/.*|sitemap\.json|favicon\.ico)$")
    fell = [path for path in paths if not no_page.search(path)]
    plots = sorted(path for path in fell if path.startswith("/individual-"))
    return {"fell": sorted({*fell} - {*plots[1:]}), "tried": len(found)}


async def routes_at(address):
    """Return the paths of one scheduler's or worker's pages; none of a nanny's, which has none."""
    from distributed.core import rpc
    from distributed.protocol.pickle import dumps, loads

    async with rpc(address, timeout=8) as there:
        kind = (await there.identity())["type"]
        if "Nanny" in kind:
            return ()
        run = there.run_function if "Scheduler" in kind else there.run
        answer = await run(function=dumps(paths_of), wait=True, args=dumps(()), kwargs=dumps({}))
        found = answer["result"]
        return [path_like(pattern) for pattern in (loads(found) if isinstance(found, bytes) else found)]


def paths_of(dask_scheduler=None, dask_worker=None):
    """Return the patterns of all paths that a scheduler or worker answers."""
    found, top = set(), (dask_scheduler or dask_worker).http_application

    def walk(router):
        for rule in router.rules:
            if hasattr(rule.matcher, "regex"):
                found.add(rule.matcher.regex.pattern)
            if hasattr(rule.target, "rules"):
                walk(rule.target)

    for application in (top, *top.applications):
        walk(application.default_router)
        walk(application.wildcard_router)
        found.update(getattr(application, "app_paths", ()))  # of Bokeh
    return sorted(found)


def path_like(pattern):
    """Return a path that a pattern means."""
    path = re.sub(r"\([^()]*\)", "0", pattern.rstrip("$").replace("/?", ""))
    return path.replace("\\", "") or "/"


def pages(address=None, *ports):
    """Read every page, open the websocket of the dashboard, and give an order; at `address`, or where alice listens.

    His input says which pages there are besides `ROUTES`.
    """
    paths = sorted({*ROUTES, *sys.stdin.read().split()})
    places = [(address, int(port)) for port in ports] if address else [door[:2] for door in doors() if not door[2]]
    ways = (None, *contexts())
    fell = {one for found in at_once(pages_of, [(*place, ways, paths) for place in places]) for one in found}
    return {"fell": sorted(fell), "tried": len(places) * len(ways), "ways": len(ways)}


def pages_of(address, port, ways, paths):
    """Return what one port gives away of `paths`, asked plainly or else with TLS."""
    for context in ways:
        if ask(address, port, "GET", "/health", context=context)[0] is None:
            continue
        found = {path: ask(address, port, "GET", path, context=context)[0] for path in paths}
        fell = [path for path, status in found.items() if status == 200]
        order = json.dumps({"workers": []})
        if ask(address, port, "POST", "/api/v1/retire_workers", order, context=context)[0] == 200:
            fell.append("POST /api/v1/retire_workers")
        if not context and websocket(address, port):
            fell.append("websocket")
        return fell
    return []


def knock(address, *ports):
    """Connect to ports of another machine, whatever would be spoken there."""
    found = at_once(is_reached, [(address, int(port)) for port in ports])
    return {"fell": [port for port, reached in zip(ports, found, strict=True) if reached], "tried": len(ports)}


def is_reached(address, port):
    """Tell whether something accepts a connection."""
    try:
        socket.create_connection((address, port), timeout=5).close()
    except OSError:
        return False
    return True


def at_once(function, arguments):
    """Return what `function` returns for each of `arguments`; many ports say nothing, and are waited for together."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(32) as threads:
        return list(threads.map(lambda given: function(*given), arguments))


def websocket(address, port):
    """Tell whether the dashboard lets bob's websocket in."""
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


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])), flush=True)
