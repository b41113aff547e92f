"""What a notebook reads beyond Dask's own answers: where the output of tasks is, and why a worker was killed.

The output of tasks goes to the cluster's log. Dask's own clients print what comes under the topic ``print``, so each of
them gets these lines, whatever made it. The lines of one kind reach one process once.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
import time
import uuid
from collections.abc import Iterable
from typing import Any

from distributed import KilledWorker, Scheduler
from distributed.worker import thread_state

AGAIN_SECONDS = 1.0  # until a worker whose task printed listens again, while a notebook has not read the line
MOST_TASKS = 1000  # to look at, until it is known who wants a task
REASONS_SINCE = (2025, 3)  # version of distributed
NO_NOTEBOOK = ("fire-and-forget", "Client-worker-")  # the starts of ids of clients that nobody reads


class Listener:
    """Notices in a worker's process that a task writes to stdout or stderr, says so once, and then costs nothing."""

    def __init__(self) -> None:
        self.streams: list[Any] = []

    def start(self) -> None:
        """Listen until a task writes something."""
        self.stop()
        streams: tuple[Any, ...] = (sys.stdout, sys.stderr)
        for stream in streams:
            with contextlib.suppress(AttributeError):  # a stream of somebody's own
                stream.write = functools.partial(self.write, stream)
                self.streams.append(stream)

    def stop(self) -> None:
        """Leave both streams as they were."""
        streams, self.streams = self.streams, []  # two tasks can print at once
        for stream in streams:
            with contextlib.suppress(AttributeError):
                del stream.write

    def write(self, stream: Any, text: str) -> Any:
        """Write, and tell the scheduler if a task does."""
        key = getattr(thread_state, "key", None)
        # `distributed.print` reaches the notebook by itself
        if key is not None and sys._getframe(1).f_globals.get("__name__") != "distributed.worker":
            self.stop()
            worker = thread_state.execution_state["worker"]
            worker.loop.add_callback(worker.batched_send, {"op": "ports-printed", "key": key})
        return type(stream).write(stream, text)


def write_line_by_line() -> None:
    """Let each line that a task prints reach the log at once: a worker that is killed would take its buffer along."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):  # a stream of somebody's own, or a closed one
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]


LISTENER = Listener()  # one for each process, however many workers it holds


class Notes:
    """The lines that the clients of one cluster get. A plugin of the scheduler would cost something for each task."""

    def __init__(self, scheduler: Scheduler, cluster: str) -> None:
        self.scheduler, self.cluster = scheduler, cluster
        self.told: set[tuple[str, str]] = set()  # kind of line, process
        self.deaf: set[str] = set()  # workers that have told that a task printed
        scheduler.stream_handlers["ports-printed"] = self.printed
        self.explain_killed_workers()

    def printed(self, key: Any, worker: str = "", **_: Any) -> None:
        """Say where the output is to whoever waits for the task `key`."""
        self.deaf.add(worker)
        text = f"what tasks print is in the log: `ports cluster logs {self.cluster} -f`; distributed.print prints here"
        self.tell("printed", text, clients_of(self.scheduler, key) or self.scheduler.client_comms)
        if any(("printed", process_of(one)) not in self.told for one in self.readers()):
            asyncio.get_running_loop().call_later(AGAIN_SECONDS, self.listen)

    def tell_of_death(self, text: str) -> None:
        """Say that a worker ended at its memory limit, and what shows more."""
        self.tell("death", f"{text}; `ports cluster logs {self.cluster} --warnings` shows more")

    def tell_of_end(self, text: str) -> None:
        """Say that the cluster ends, and cancel what clients wait for: each wait ends at once and says why."""
        self.tell("end", text)
        for client in self.readers():
            state = self.scheduler.clients[client]
            why = {"reason": "cluster-stopped", "msg": text} if takes_reasons(state.versions) else {}
            keys = [task.key for task in state.wants_what]
            self.scheduler.send_all({client: [{"op": "cancelled-keys", "keys": keys, **why}]}, {})

    def listen(self) -> None:
        """Let the workers that have told something listen again."""
        self.scheduler.send_all({}, {one: [{"op": "ports-listen"}] for one in self.deaf})
        self.deaf.clear()

    def joined(self, client: str) -> None:
        """Let workers listen for the tasks of a new notebook."""
        if self.deaf and ("printed", process_of(client)) not in self.told:
            self.listen()

    def readers(self) -> list[str]:
        """Return the clients that a person may read."""
        return [one for one in self.scheduler.client_comms if not one.startswith(NO_NOTEBOOK)]

    def tell(self, kind: str, text: str, clients: Iterable[str] | None = None) -> None:
        """Print a line at `clients`, by default at all of them, once for each process."""
        message = event("print", {"args": (text,), "file": 2})
        wanted = set(self.scheduler.client_comms if clients is None else clients)
        for client in self.readers():
            process = process_of(client)
            if client in wanted and (kind, process) not in self.told:
                self.told.add((kind, process))
                self.scheduler.send_all({client: [message]}, {})

    def explain_killed_workers(self) -> None:
        """Let each `KilledWorker` of this scheduler name the commands that show why."""
        name = self.cluster
        text = (
            f"`ports cluster logs {name} --warnings` shows what the workers said last, "
            f"and `ports cluster show {name}` why they ended"
        )
        start = KilledWorker.__init__

        def explained(error: Any, *args: Any, **kwargs: Any) -> None:
            start(error, *args, **kwargs)
            error.__notes__ = [text]  # travels to the client with the error
            if sys.version_info < (3, 11):  # which shows no notes
                self.tell("killed", f"a worker was killed: {text}")

        KilledWorker.__init__ = explained


def event(topic: str, what: Any) -> dict[str, Any]:
    """Return the message by which one client hears of `what`: an event of Dask's would go to all of them."""
    return {"op": "event", "topic": topic, "event": (time.time(), what)}


def takes_reasons(versions: dict[str, Any]) -> bool:
    """Say whether a client with these versions of packages is known to take the reason why keys are cancelled. Pure.

    Before distributed 2025.3, a message that has one ends in an error, and nothing is cancelled.
    """
    try:
        year, month = str(versions["packages"]["distributed"]).split(".")[:2]
        return (int(year), int(month)) >= REASONS_SINCE
    except (KeyError, TypeError, ValueError):
        return False


def process_of(client: str) -> str:
    """Return what clients of one process have in common: Dask puts the process id into the id of a client. Pure."""
    try:
        return str(uuid.UUID(client[-36:]).clock_seq)
    except ValueError:
        return client


def clients_of(scheduler: Scheduler, key: Any) -> set[str]:
    """Return the clients that wait for the task `key`, or for the nearest tasks that need it."""
    todo, seen = [scheduler.tasks.get(key)], set[Any]()
    while todo and len(seen) < MOST_TASKS:
        task = todo.pop(0)
        if task is None or task in seen:
            continue
        seen.add(task)
        if task.who_wants:
            return {client.client_key for client in task.who_wants}
        todo.extend(task.dependents)
    return set()
