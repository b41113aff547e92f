"""What a command prints, taken for as long as somebody hears; a start of which nobody hears is undone."""

import json
import os
import signal
import subprocess

if __name__ != "__main__":  # piped, these names are there already
    from .answer import send

MYPY = False
if MYPY:
    from typing import Any, Dict, List

    Json = Dict[str, Any]


def attend(child: "Any", text: bytes) -> bytes:
    """Return all that the child prints; interrupt it when nobody reads the answer any more (Ctrl-C at home)."""
    from select import POLLERR, POLLHUP, poll
    from threading import Thread

    poller, chunks = poll(), []  # type: Any, List[bytes]
    poller.register(child.stdout, 1)
    poller.register(1, 0)

    def feed() -> None:
        try:
            child.stdin.write(text)
            child.stdin.close()
        except OSError:  # it does not read any more
            pass

    Thread(target=feed, daemon=True).start()
    while True:
        ready = poller.poll(200)
        if not ready and child.poll() is not None:  # a process that it left running still has its stdout
            return b"".join(chunks)
        for fd, event in ready:
            if fd == 1 and event & (POLLERR | POLLHUP):
                poller.unregister(1)
                child.send_signal(signal.SIGINT)
            elif fd != 1:
                chunk = os.read(fd, 65536)
                chunks.append(chunk)
                if not chunk:
                    child.wait()
                    return b"".join(chunks)


def is_start(text: str) -> bool:
    """Tell whether a command printed the row of the session that it started, and no error."""
    try:
        row = json.loads(text)
    except ValueError:
        return False
    return isinstance(row, dict) and "error" not in row and {"kind", "name"} <= set(row)


def deliver(request: "Json", answer: "Json", command: "List[str]", environ: "Dict[str, str]", cwd: str) -> None:
    """Send the answer to a start; where nobody was there to read it, stop what was started."""
    try:
        gone = is_asker_gone()
        if not gone:
            send(request, answer)
            gone = is_asker_gone()
    except OSError:
        gone = True
    if not gone:
        return
    started = json.loads(answer["stdout"])
    words = json.dumps([started["kind"], "stop", started["name"], "--json"]) + "\n"
    null, argv = subprocess.DEVNULL, command + request["argv"]  # nobody reads its complaints, either
    undo = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=null, stderr=null, cwd=cwd, env=environ)
    undo.communicate(words.encode())


def is_asker_gone() -> bool:
    """Tell whether nobody reads what this process prints (Ctrl-C at home, or the connection is gone)."""
    from select import POLLERR, POLLHUP, poll

    poller = poll()
    poller.register(1, 0)
    return any(event & (POLLERR | POLLHUP) for _, event in poller.poll(0))
