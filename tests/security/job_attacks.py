"""What bob tries against alice's jobs: the part of `attacks` about the queue, its files and processes."""

import contextlib
import os
import socket
import sys

if __name__ != "__main__":  # run, these names are there
    from tests.security.attacks import ALICE
    from tests.security.snooping import read

# Each is answered to whom the resource listens to, if only by an error.
REQUESTS = {
    "status": {},
    "list": {"newest": 50},
    "show": {"id": "1"},
    "result": {"id": "1", "wait": 0},
    "cancel": {"ids": ["999"], "reason": "by bob"},
    "submit": {"key": "0" * 32, "submission": {}},
    "prune": {"older": 0, "dry": True},
    "rerun": {"id": "999"},
    "ended": {"slot": "bobs", "results": []},
}


def speak(path):
    """Ask alice's resource for each thing, as her own programs do; tell what was answered, and what with her words."""
    marker = sys.stdin.read().strip().encode()
    answers = {op: answer(path, op, fields) for op, fields in {"hello": {}, **REQUESTS}.items()}
    fell = [op for op, said in answers.items() if said]
    return {"fell": fell, "tried": len(answers), "read": [op for op in fell if marker in answers[op]]}


def answer(path, op, fields):
    """Return the bytes that answer a request after the greeting; none where there is no answer."""
    from ports.jobs import _protocol  # anybody may install it

    decoder, said, frames = _protocol.Decoder(), b"", []
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(path)
        greeting = _protocol.encode({"n": 1, "op": "hello", "protocol": 1, "version": "bob"})
        connection.sendall(greeting + (_protocol.encode({"n": 2, "op": op, **fields}) if op != "hello" else b""))
        while len(frames) < (1 if op == "hello" else 2):
            data = connection.recv(1_000_000)
            if not data:
                break
            said += data
            frames += decoder.feed(data)
    return said if len(frames) == (1 if op == "hello" else 2) else b""


def connect(path):
    """Connect to a Unix socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(path)


def append(path):
    """Open a file to write at its end; nothing is written."""
    os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK))


def create(path):
    """Make a file in a directory, and remove it."""
    name = os.path.join(path, ".made-by-the-attack")
    os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    os.unlink(name)


def look_into(path):
    """Open a file to read it."""
    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))


def touch():
    """Try to list, read, change and reach what his input names, a path a line."""
    ways = {"list": os.listdir, "read": look_into, "append": append, "create": create, "connect": connect}
    paths, fell = sys.stdin.read().splitlines(), []
    for path in paths:
        for way, attempt in ways.items():
            with contextlib.suppress(OSError):
                attempt(path)
                fell.append(f"{way} {path}")
    return {"fell": fell, "tried": len(paths) * len(ways)}


def processes():
    """Reach into alice's processes: their files and pipes, memory, environment and directory; signal them."""
    fell, tried = set(), 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        top = f"/proc/{name}"
        with contextlib.suppress(OSError):
            if os.stat(top).st_uid != ALICE or int(name) == os.getpid():
                continue
            tried += 1
            fell |= {part for part in ("environ", "mem") if read(f"{top}/{part}")}
            for part, attempt in (("fd", list_and_open), ("cwd", os.listdir), ("root", os.listdir)):
                with contextlib.suppress(OSError):
                    attempt(f"{top}/{part}")
                    fell.add(part)
            os.kill(int(name), 0)
            fell.add("signal")
    return {"fell": sorted(fell), "tried": tried}


def list_and_open(directory):
    """Open one of the pipes and files of a process."""
    for name in os.listdir(directory):
        with contextlib.suppress(OSError):
            os.close(os.open(f"{directory}/{name}", os.O_RDONLY | os.O_NONBLOCK))
            return
    raise OSError("none can be opened")


def offer(path):
    """Answer at a path as a compute resource would, until his input ends; tell what was said there."""
    import select

    from ports.jobs import _protocol

    server, said = socket.socket(socket.AF_UNIX), []
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    server.bind(path)
    os.chmod(path, 0o777)
    server.listen()
    print("listening", flush=True)
    while sys.stdin not in select.select([server, sys.stdin], [], [])[0]:
        connection = server.accept()[0]
        connection.settimeout(2)
        with contextlib.suppress(OSError), connection:
            for header in ({"n": 1, "protocol": 1, "version": "1", "pid": 1, "python": "3.11"}, {"n": 2, "id": "666"}):
                data = connection.recv(1_000_000)
                said.append(repr(data)) if data else None
                connection.sendall(_protocol.encode(header))
    return {"fell": said, "tried": 1}
