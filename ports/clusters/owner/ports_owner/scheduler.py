"""The scheduler of a private cluster: its dashboard is on a Unix socket, and only its owner ends it."""

from __future__ import annotations

import asyncio
import functools
import time
from pathlib import Path
from typing import Any

from distributed import Scheduler
from distributed.http.routing import RoutingApplication
from tornado.netutil import bind_unix_socket
from tornado.web import ErrorHandler, HTTPError, RequestHandler

from . import dashboard_gate, memory_deaths, peer_check

TOLD_SECONDS = 1.0  # at most, until what clients must know has been sent to them
AFTER_TOLD_SECONDS = 0.05  # for a client to read it


def is_local(name):
    """Say whether `name` means this machine, whatever a name server says."""
    return name is not None and (name.strip("[]") in ("localhost", "127.0.0.1", "::1") or name.endswith(".localhost"))


class PrivateApplication(RoutingApplication):
    """Answers requests to localhost only, and only from the dashboard's own pages.

    The dashboard is called localhost at both ends of a tunnel. Any other page in the browser at home, also one of
    another local port, could open a websocket to it, or let its own name resolve to 127.0.0.1.
    """

    def find_handler(self, request, **kwargs):
        """Refuse other names in Host and Origin, then route as Dask does."""
        if is_local(request.host_name) and dashboard_gate.comes_from_its_own_page(request):
            return super().find_handler(request, **kwargs)
        return self.get_handler_delegate(request, ErrorHandler, {"status_code": 403})


class PrivateScheduler(Scheduler):
    """A scheduler whose dashboard listens on a private Unix socket, and that only its owner ends."""

    http_server: Any

    def __init__(self, *args, dashboard_socket, gate=None, **kwargs):
        self.dashboard_socket = dashboard_socket
        self.gate, self.gate_server, self.dashboard_port = gate, None, None
        self.policies = None
        self.last_tasks = {}  # address of a worker that was removed → a task that it ran
        super().__init__(*args, **kwargs)
        self.handlers["terminate"] = self.refuse_to_end

    def start_http_server(self, routes, dashboard_address, default_port=0, ssl_options=None):
        """Serve the dashboard on the Unix socket, 0600, and nowhere else."""
        self.http_application = PrivateApplication([*routes, ("/ports.json", Summary, {"scheduler": self})])
        self.http_server = peer_check.OwnServer(self.http_application)
        Path(self.dashboard_socket).unlink(missing_ok=True)
        self.http_server.add_socket(bind_unix_socket(self.dashboard_socket, mode=0o600))
        self.http_server.address, self.http_server.port = self.dashboard_socket, 0  # what Dask reads
        self.services["dashboard"] = self.http_server
        if self.gate is not None:
            self.gate_server, self.dashboard_port = dashboard_gate.open_gate(self.http_application, *self.gate)

    @functools.wraps(Scheduler.remove_worker)  # others look at its signature
    async def remove_worker(self, address, *args, **kwargs):
        """Remember what a worker ran, then remove it."""
        worker = self.workers.get(address)
        running = [*(getattr(worker, "executing", None) or ()), *(worker.processing if worker else ())]
        if running:
            self.last_tasks[address] = running[0].prefix.name
            if len(self.last_tasks) > memory_deaths.MOST:
                del self.last_tasks[next(iter(self.last_tasks))]
        return await super().remove_worker(address, *args, **kwargs)

    @functools.wraps(Scheduler.add_client)
    async def add_client(self, *args, client, **kwargs):
        """Serve a client as Dask does, and let workers notice what its tasks print."""
        if self.policies is not None:
            self.policies.notes.joined(client)
        await super().add_client(*args, client=client, **kwargs)

    async def restart(self, *args, timeout=30, wait_for_workers=True, **kwargs):
        """Restart as Dask does, also where no worker is left; answer when all that were asked for are back.

        A client learns of the restart on one connection and gets this answer on another. It drops all futures when it
        learns of it, so this answer must not be first: the client would drop what it submits next.
        """
        until = time.monotonic() + timeout
        memory_deaths.DEATHS.clear()
        answer = await super().restart(*args, timeout=timeout, wait_for_workers=wait_for_workers, **kwargs)
        if wait_for_workers and self.policies is not None:
            await self.policies.workforce.wait(max(1.0, until - time.monotonic()))
        await self.told()
        return answer

    async def told(self):
        """Wait until clients have read what was sent to them."""
        until = time.monotonic() + TOLD_SECONDS
        while any(getattr(comm, "buffer", ()) for comm in self.client_comms.values()) and time.monotonic() < until:
            await asyncio.sleep(0.005)
        await asyncio.sleep(AFTER_TOLD_SECONDS)

    async def refuse_to_end(self, *args, **kwargs):
        """Refuse a client's `shutdown`: other notebooks use this cluster."""
        raise RuntimeError("a client cannot end this cluster, as others use it; `ports cluster stop` ends it")


def n_running(worker):
    """Return how many tasks a worker runs: it has got some more, which wait for a thread of it. Pure."""
    long_running = len(worker.long_running)
    return long_running + min(worker.nthreads, len(worker.processing) - long_running)


class Summary(RequestHandler):
    """What ``ports cluster list`` shows, read from memory."""

    def initialize(self, scheduler):
        """Keep the scheduler at hand."""
        self.scheduler = scheduler

    def get(self):
        """Answer with counts and bytes; with ``?since=EPOCH``, also with the points of the history after that."""
        workers = list(self.scheduler.workers.values())
        policies = self.scheduler.policies
        self.write(
            {
                "n_workers": len(workers),
                "n_threads": sum(worker.nthreads for worker in workers),
                "memory_bytes": sum(worker.metrics.get("memory", 0) for worker in workers),
                "memory_limit_bytes": sum(worker.memory_limit or 0 for worker in workers),
                "n_tasks": len(self.scheduler.tasks),
                "n_running": sum(map(n_running, workers)),
                "n_clients": len([key for key in self.scheduler.clients if key != "fire-and-forget"]),
                **(policies.summary() if policies else {}),
                **(policies.history.summary(workers) if policies else {}),
                **self.points(),
            }
        )

    def points(self):
        """Return the history that is asked for."""
        since = self.get_query_argument("since", None)
        if since is None or self.scheduler.policies is None:
            return {}
        try:
            return {"history": self.scheduler.policies.history.ring.after(float(since))}
        except ValueError:
            raise HTTPError(400) from None
