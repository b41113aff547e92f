"""NEW in the pane of dask-labextension: a private cluster of `ports`, which outlives the Jupyter server.

dask-labextension makes what Dask's configuration names as ``labextension.factory``. The file
``etc/dask/ports-client.yaml``, which is installed with `ports`, names `PortsCluster`.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from jupyter_server.utils import url_path_join

from ports import clusters, listeners
from ports.errors import NameInUseError, NotFoundError, PortsError
from ports.state import settings

_FRESH_SECONDS = 1.0
_PATIENCE_SECONDS = 5.0  # that the event loop of the Jupyter server waits for a scheduler
_NOTHING: dict[str, Any] = {"workers": {}}
#: Below it lies what this server shows of `ports`; None where the extension is disabled.
base_url: str | None = None


@dataclass(frozen=True)
class Bounds:
    """Between which numbers of workers a cluster adapts; dask-labextension shows both."""

    minimum: int
    maximum: int


class PortsCluster:
    """What dask-labextension calls on a cluster of its pane. Nothing here makes the Jupyter server wait for long.

    The first has the name of the setting ``cluster.name``; while a cluster of that name runs, the next has ``main-2``.
    SHUTDOWN in the pane stops it.

    Parameters
    ----------
    name : str, optional
        The name of the first.
    asynchronous : bool
        As dask-labextension passes it.
    **options
        Options of `ports.clusters.start`: what Dask's configuration has as ``labextension.factory.kwargs``.
    """

    def __init__(self, *, name: str | None = None, asynchronous: bool = True, **options: Any) -> None:
        self._asked, self._options = name, options
        self._cluster: clusters.Cluster | None = None
        self._info: dict[str, Any] = _NOTHING
        self._seen, self._looks = 0.0, threading.Lock()

    def __await__(self) -> Generator[Any, None, PortsCluster]:
        yield from asyncio.to_thread(self._start).__await__()
        return self

    def _start(self) -> None:
        self._cluster = _start_first_free(self._asked or settings.get("cluster.name"), self._options)
        self._look()

    @property
    def _running(self) -> clusters.Cluster:
        assert self._cluster is not None, "dask-labextension awaits a cluster before it uses it"
        return self._cluster

    @property
    def scheduler_address(self) -> str:
        """Address of the scheduler; a plain `Client` of yours takes it. Empty once the cluster has ended."""
        try:
            return self._running.scheduler_address
        except PortsError:
            return ""

    @property
    def dashboard_link(self) -> str:
        """Link of the dashboard in this Jupyter server, else at home.

        The pane sends each dashboard through a proxy of its own, which knows TCP ports only, except links below
        ``proxy/``: those it uses as they are. `ports.web` redirects this one to the dashboard.
        """
        name = self._running.name
        return listeners.cluster_link(name) if base_url is None else str(link(base_url, name))

    @property
    def scheduler_info(self) -> dict[str, Any]:
        """What the scheduler said of its workers a moment ago; the next look begins in a thread."""
        if time.monotonic() - self._seen > _FRESH_SECONDS and self._looks.acquire(blocking=False):
            threading.Thread(target=self._look_once, name="ports-labextension", daemon=True).start()
        return self._info

    def _look_once(self) -> None:
        try:
            self._look()
        finally:
            self._looks.release()

    def _look(self) -> None:
        try:
            self._info = self._running.scheduler_info
        except PortsError:
            self._info = _NOTHING
        self._seen = time.monotonic()

    async def scale(self, n: int) -> None:
        """Set the number of workers."""
        await asyncio.to_thread(self._running.scale, n)
        await asyncio.to_thread(self._look)

    def adapt(self, *, minimum: int = 0, maximum: int | None = None) -> Bounds:
        """Let the number of workers follow the tasks."""
        most = len(self._info["workers"]) if maximum is None else maximum
        _within(_PATIENCE_SECONDS, lambda: self._running.adapt(minimum=minimum, maximum=most))
        return Bounds(minimum, most)

    async def close(self) -> None:
        """End the cluster, as SHUTDOWN in the pane says."""
        try:
            await asyncio.to_thread(self._running.stop)
        except NotFoundError:
            return  # it has ended elsewhere


def link(base_url: str, name: str) -> Any:
    """Return the path of the dashboard of `name` that the pane of dask-labextension uses as it is."""
    return url_path_join(base_url, "proxy", "ports", name, "status")


def _start_first_free(name: str, options: dict[str, Any]) -> clusters.Cluster:
    for number in itertools.count(1):
        try:
            return clusters.start(name if number == 1 else f"{name}-{number}", **options)
        except NameInUseError:
            continue
    raise AssertionError


def _within(seconds: float, act: Callable[[], None]) -> None:
    """Run `act` in a thread and raise its error; after `seconds` it goes on, and nobody waits for it."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    thread = threading.Thread(target=run, name="ports-labextension", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
