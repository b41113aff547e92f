"""Dask: the connection to a cluster's scheduler, and the summary that its owner serves on a Unix socket.

Importing this module does not import Dask: the command line lists clusters without it. Of Dask's objects, only a
`distributed.Client` leaves it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import inspect
import json
import platform
import re
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ports import probe
from ports.clusters import _options
from ports.errors import DaskError, UsageError
from ports.listeners import socket_user
from ports.state import settings

if TYPE_CHECKING:
    from distributed import Client
    from distributed.security import Security

_OURS = re.compile(r"unix:///.+|tls://([0-9]{1,3}(?:\.[0-9]{1,3}){3}):[0-9]{1,5}")
_LARGEST = 2**62  # larger sizes fit no type of the operating system


def versions() -> dict[str, str]:
    """Return the versions that client and cluster should share; Dask is not imported."""
    found = {"python": platform.python_version()}
    return found | {package: metadata.version(package) for package in ("dask", "distributed")}


def parse_bytes(text: str | float) -> int | str | float:
    """Return ``"4GB"`` as bytes; ``"auto"`` and fractions of the machine's memory are returned as they are.

    Raises
    ------
    UsageError
        It is not a size.
    """
    if not isinstance(text, str) or text == "auto":
        return text
    from dask.utils import parse_bytes

    with contextlib.suppress(ValueError, OverflowError):
        if 0 <= (found := int(parse_bytes(text))) < _LARGEST:
            return found
    sizes = "bytes, 4GB, 2GiB, a fraction of the machine's memory (0.25), or 0 for no limit"
    raise UsageError(f"memory_limit {text!r} is not a size; write {sizes}")


def security(address: str, credentials: Path) -> Security:
    """Return what a connection to the scheduler at `address` needs, as Dask takes it: nothing for a Unix socket."""
    from distributed.security import Security

    if address.startswith("unix://"):
        return Security(require_encryption=False)
    file = str(credentials)
    return Security(tls_ca_file=file, tls_client_cert=file, tls_client_key=file, require_encryption=True)


def coming_security() -> Any:
    """Return credentials of a cluster that is starting; its method ``become`` takes the real ones.

    A client reads its credentials when it is made. It connects later, when it has awaited its cluster.
    """
    from distributed.security import Security

    class Coming(Security):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(require_encryption=True)
            self.arguments: dict[str, Any] = {"require_encryption": True}  # until then, nothing is sent in the clear

        def get_connection_args(self, role: str) -> dict[str, Any]:
            return self.arguments  # the client and its connections share this

        def become(self, real: Security) -> None:
            for name in Security.__slots__:
                setattr(self, name, getattr(real, name))
            self.arguments.update(real.get_connection_args("client"))

    return Coming()


def prepare() -> None:
    """Let Dask in this process know ``unix://``, and where to find the credentials for an address.

    An installation of `ports` tells Dask both. One for developers lacks the file for the second.
    """
    import dask

    import_module("ports.clusters.owner.ports_owner.comm").register()
    if dask.config.get("distributed.client.security-loader", default=None) is None:
        dask.config.set({"distributed.client.security-loader": "ports.clusters.credentials.load"})


def check_keywords(keywords: Mapping[str, Any]) -> None:
    """Raise UsageError for a keyword of `LocalCluster` that Dask here does not take: a start would fail after seconds.

    It passes those that it does not know to its workers, and these pass theirs to their server.
    """
    if not keywords:
        return
    from distributed import LocalCluster, Nanny, Scheduler, Worker
    from distributed.core import Server

    own = _parameters(LocalCluster, Nanny, Worker, Server)
    for name, value in keywords.items():
        if name not in own:
            known = [*settings.options(_options.KIND), *own]
            raise UsageError(_options.no_option(name, value, known, of="ports, or of Dask's LocalCluster and Worker"))
    within, theirs = keywords.get("scheduler_kwargs"), _parameters(Scheduler, Server)
    for name, value in within.items() if isinstance(within, Mapping) else ():
        if name not in theirs:
            raise UsageError(_options.no_option(name, value, theirs, of="Dask's Scheduler (scheduler_kwargs)"))


def _parameters(*classes: type) -> list[str]:
    """Return the keywords that the constructors of `classes` name."""
    named = [one for cls in classes for one in inspect.signature(cls.__init__).parameters.values()]  # type: ignore[misc]
    return [
        one.name for one in named if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY) and one.name != "self"
    ]


def import_client() -> None:
    """Import what `connect` needs."""
    import distributed  # noqa: F401


def connect(cluster: object, *, timeout: float, **options: Any) -> Client:
    """Return a client connected to `cluster`, any cluster object of Dask's kind.

    Raises
    ------
    DaskError
        The scheduler did not answer within `timeout` seconds.
    ForeignListenerError
        Another user listens at its address: nothing is sent there, and nothing of it is unpickled.
    """
    address = str(getattr(cluster, "scheduler_address", ""))
    _check_owner(address, cluster)
    _wait_for_first_word(address, timeout, cluster)
    from distributed import Client

    prepare()
    client = Client.__new__(Client)
    try:
        with _no_collection(), _limited(client, timeout):
            client.__init__(cluster, timeout=timeout, **options)
    except BaseException as error:
        _discard(client)
        if (explained := _explained(error, timeout, cluster)) is None:
            raise
        raise explained from error
    return client


def _not_mine(cluster: object) -> str:
    """Return what to do where somebody else, or nobody, is at an address of `cluster`, an object or its name."""
    return _options.way_back(cluster if isinstance(cluster, str) else getattr(cluster, "name", None) or "NAME")


def _explained(error: BaseException, timeout: float, cluster: object) -> DaskError | None:
    """Return what is raised where a client did not connect because of `error`; None: `error` itself."""
    from distributed.comm.core import FatalCommClosedError

    if not isinstance(error, OSError | TimeoutError | asyncio.TimeoutError):
        return None
    if isinstance(error, FatalCommClosedError):  # a Unix socket that is missing, dead or another user's
        return DaskError(f"{error}; {_not_mine(cluster)}")
    return DaskError(f"the scheduler did not answer within {timeout:g} s ({error})")


def _wait_for_first_word(address: str, timeout: float, cluster: object) -> None:
    """Wait until the scheduler at a Unix socket greets; raise DaskError if it does not within `timeout` seconds.

    A stopped process accepts connections and says nothing. Dask limits the time of a connection and of TLS, but not of
    the greetings that follow (distributed 2026.8.0, comm/core.py): a client would wait until the process goes on.
    """
    if not address.startswith("unix://"):
        return
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(address.removeprefix("unix://"))
            if (uid := probe.peer_uid(connection)) != probe.own_uid():
                raise DaskError(f"{address} is not listened on by this user, but by uid {uid}; {_not_mine(cluster)}")
            connection.recv(1)
        except TimeoutError as error:
            raise DaskError(f"the scheduler did not answer within {timeout:g} s") from error
        except OSError:
            pass  # Dask says why


class Later:
    """A client of an event loop, for ``await`` and for ``async with``, as `distributed.Client` itself."""

    def __init__(self, coming: Coroutine[Any, Any, Client]) -> None:
        self._coming = coming

    def __await__(self) -> Generator[Any, None, Client]:
        return self._coming.__await__()

    async def __aenter__(self) -> Client:
        self._client = await self
        return self._client

    async def __aexit__(self, *_: object) -> None:
        await cast("Any", self._client).close()


async def connect_async(cluster: object, *, timeout: float, **options: Any) -> Client:
    """Return a client of the running event loop, connected to `cluster`; raises as `connect`."""
    await asyncio.to_thread(import_client)  # takes 0.4 s
    address = str(getattr(cluster, "scheduler_address", ""))
    _check_owner(address, cluster)
    await asyncio.to_thread(_wait_for_first_word, address, timeout, cluster)
    from distributed import Client

    prepare()
    client = Client.__new__(Client)
    try:
        with _no_collection():
            client.__init__(cluster, asynchronous=True, timeout=timeout, **options)
        await asyncio.wait_for(client, timeout)
    except BaseException as error:
        await _discard_async(client)
        if (explained := _explained(error, timeout, cluster)) is None:
            raise
        raise explained from error
    return client


@contextlib.contextmanager
def _limited(client: Client, timeout: float) -> Iterator[None]:
    """Limit the whole start of `client`: Dask limits its first connection only, not the answers that follow."""
    start = client._start

    async def limited(**options: Any) -> Any:
        return await asyncio.wait_for(start(**options), 2 * timeout)

    client._start = limited
    try:
        yield
    finally:
        del client._start


def close_clients(address: str) -> None:
    """Close the clients of this process that are connected to `address`, before its scheduler ends.

    A client that loses its scheduler tries to connect for 10 seconds and logs an error.
    """
    distributed = sys.modules.get("distributed")
    for client in list(distributed.Client._instances) if distributed is not None else ():
        if client.status not in ("running", "connecting") or getattr(client.scheduler, "address", None) != address:
            continue
        with contextlib.suppress(Exception):
            if client.asynchronous:
                client.loop.add_callback(client.close)
            else:
                client.close(timeout=2)


def close_waiting(cluster: object) -> None:
    """Close the clients of the running event loop that wait for `cluster`, which does not start.

    Dask leaves them half made: the collector would find coroutines that nobody awaited.
    """
    distributed = sys.modules.get("distributed")
    for client in list(distributed.Client._instances) if distributed is not None else ():
        if client.cluster is cluster and client.status == "connecting" and client.asynchronous:
            client.loop.add_callback(client._close)


def changed_config() -> dict[str, Any]:
    """Return what this process has set in Dask's configuration, key → value: files and variables say something else.

    The owner of a cluster reads the same files and variables itself. Left out are credentials, what `ports` decides,
    and what JSON cannot hold.
    """
    config = sys.modules.get("dask.config")
    if config is None:
        return {}
    written = config.merge(*config.defaults, config.collect())
    return _options.changed(config.config, written)


def configured(keys: Iterable[str]) -> dict[str, Any]:
    """Return the values that `keys` have in Dask's configuration of this process; None where it has none."""
    names = list(keys)
    if not names:
        return {}
    import dask
    import distributed  # noqa: F401 - its defaults are part of the configuration

    return {name: dask.config.get(name, default=None) for name in names}


def parse_seconds(text: float | str | None) -> float | None:
    """Return a length of time as Dask writes it, ``"500ms"``, in seconds; raises UsageError."""
    if not isinstance(text, str):
        return text
    from dask.utils import parse_timedelta

    try:
        return float(parse_timedelta(text))
    except (ValueError, KeyError) as error:
        raise UsageError(f"timeout {text!r} is not a length of time; write seconds, 500ms or 2m") from error


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector away while a client starts.

    `LoopRunner.start` holds a lock. `Client.__del__` of a client that never connected wants the same lock, in the same
    thread: a collection there waits for itself (distributed 2026.8.0, utils.py). The user can have made that client.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _discard(client: Client) -> None:
    """Close a client that did not connect and end its thread: `Client.__del__` has nothing left to do."""
    with contextlib.suppress(Exception):
        client.close(timeout=1)
    _forget(client)


async def _discard_async(client: Client) -> None:
    """Close a client of the running event loop that did not connect."""
    started = getattr(client, "_started", None)
    if started is not None:
        started.cancel()
        with contextlib.suppress(Exception, asyncio.CancelledError):
            await started
    with contextlib.suppress(Exception, asyncio.CancelledError):
        await client.close(timeout=1)
    _forget(client)


def _forget(client: Client) -> None:
    """Undo what Dask's `close` leaves of a client that stopped in the middle of its start."""
    runner = getattr(client, "_loop_runner", None)
    if runner is not None:
        with contextlib.suppress(Exception):
            runner.stop()  # `close` leaves it running if the connection had failed already
    if getattr(client, "status", None) == "newly-created" and hasattr(client, "_set_config"):
        with client._set_config:  # it is Dask's default scheduler already
            pass


@contextlib.contextmanager
def closed_on_error(client: Client) -> Iterator[None]:
    """Close `client` if the block fails: nobody has it yet."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):
            client.close(timeout=2)
        raise


def call(address: str, credentials: Path, operation: str, *, cluster: str, timeout: float, **arguments: Any) -> Any:
    """Run one operation of the scheduler at `address` and return its answer; `cluster` is its name, for errors.

    Raises
    ------
    DaskError
        It failed, or took longer than `timeout` seconds.
    ForeignListenerError
        Another user listens at that address.
    """
    _check_owner(address, cluster)
    from distributed.core import rpc

    prepare()

    async def ask() -> Any:
        args = security(address, credentials).get_connection_args("client")
        async with rpc(address, connection_args=args) as scheduler:
            return await asyncio.wait_for(getattr(scheduler, operation)(**arguments), timeout)

    try:
        return _run_apart(ask)
    except (asyncio.TimeoutError, TimeoutError) as error:
        why = f"failed: {error}" if str(error) else f"took longer than {timeout:g} s"  # with words: the scheduler's own
        raise DaskError(f"{operation.removeprefix('ports_')} {why}") from error
    except Exception as error:
        raise DaskError(f"{operation.removeprefix('ports_')} failed: {error}") from error


def _run_apart(function: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Return what a coroutine returns, in a thread of its own: a notebook's own thread runs an event loop already.

    Ctrl-C does not wait for the thread.
    """
    found: Future[Any] = Future()

    def run() -> None:
        try:
            found.set_result(asyncio.run(function()))
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            found.set_exception(error)

    threading.Thread(target=run, name="ports-call", daemon=True).start()
    return found.result()


def interfaces() -> dict[str, str]:
    """Return the network interfaces of this machine that a cluster can listen on, with their IPv4 addresses."""
    import psutil  # as Dask looks for them

    return {
        name: one.address
        for name, addresses in psutil.net_if_addrs().items()
        for one in addresses
        if one.family == socket.AF_INET
    }


def check_address(address: str, cluster: object) -> bool | None:
    """Raise if `address` of `cluster` is not one that an owner writes, or if another user listens there.

    Returns
    -------
    bool or None
        As `peers.check`: False where nothing listens there.

    Raises
    ------
    DaskError
        It is neither a Unix socket nor an address of this machine with TLS: `ports` wrote no such record.
    ForeignListenerError
        Another user listens there.
    """
    found, written = socket_user.check(address, _not_mine(cluster)), _OURS.fullmatch(address)
    if written is None or not (written[1] in (None, "127.0.0.1") or socket_user.is_own_address(written[1])):
        why = f"{address!r} is not an address of a cluster of ports, so nothing is sent there"
        raise DaskError(f"{why}; {_not_mine(cluster)}")
    return found


def _check_owner(address: str, cluster: object) -> None:
    """Raise if no process of this user listens at `address`: another user can have taken a port that was freed."""
    if check_address(address, cluster) is False:
        raise DaskError(f"nothing listens at {address}; {_not_mine(cluster)}")


def summary(dashboard: str, name: str, *, timeout: float = 2.0) -> dict[str, Any] | None:
    """Return the counts that the process at the socket `dashboard` of cluster `name` answers; None where it does not.

    Raises
    ------
    ForeignListenerError
        Another user listens there.
    """
    connection = _UnixConnection("localhost", timeout=timeout)
    try:
        connection.connect_to(dashboard, _not_mine(name))
        connection.request("GET", "/ports.json")
        answer = connection.getresponse()
        found = json.loads(answer.read()) if answer.status == 200 else None
        return found if isinstance(found, dict) else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


class _UnixConnection(http.client.HTTPConnection):
    """HTTP to a Unix socket on which this user listens."""

    def connect_to(self, path: str, hint: str) -> None:
        socket_user.check_socket(path, hint)
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(path)
        socket_user.check_connection(self.sock, path, hint)


def stale_modules(client: Client, *, scratch: str, timeout: float) -> dict[str, float]:
    """Return the modules that changed after workers imported them: file → time of the change, epoch.

    Only the workers know what they imported, so they are asked, for at most `timeout` seconds. Modules of installed
    packages are left out, and those below `scratch`, which `client.upload_file` put there and reloads itself.
    """
    found: dict[str, float] = {}
    try:
        answers = client.sync(_ask_workers, client, _changed_modules(scratch), timeout)
    except Exception:  # noqa: BLE001 - a warning that fails must not fail the call
        return found
    for answer in answers.values():
        if isinstance(answer, dict):
            found.update(answer)
    return found


async def _ask_workers(client: Client, function: Callable[[], dict[str, float]], timeout: float) -> dict[str, Any]:
    seen = client._scheduler_identity
    if not seen.get("n_workers", len(seen.get("workers", ()))):  # newer versions of Dask give a number only
        return {}  # those that come back import again, and a function for them would wait for that
    answers = await asyncio.wait_for(client._run(function, on_error="return"), timeout)
    return dict(answers)


def _changed_modules(scratch: str) -> Callable[[], dict[str, float]]:
    """Return a function that is pickled by value: the workers' environment can lack `ports`."""

    def changed() -> dict[str, float]:
        import os
        import pathlib
        import sys
        import sysconfig
        import time

        import psutil

        paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
        started = psutil.Process().create_time()
        if sys.platform == "linux":  # psutil reckons from the boot in whole seconds; Python takes 0.1 s to start
            ticks = int(pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
            age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
            started = time.time() - age + 0.1
        found: dict[str, float] = {}
        for module in list(sys.modules.values()):
            file = getattr(module, "__file__", None)
            ours = getattr(module, "__name__", "").startswith("ports_")
            if not file or ours or "-packages" in file or file.startswith((scratch, *paths)):
                continue
            try:
                changed = pathlib.Path(file).stat().st_mtime
            except OSError:
                continue
            if started < changed <= time.time() + 1:
                found[file] = changed
        return found

    return changed
