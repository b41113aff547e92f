"""Dask over Unix sockets: the comm backend ``unix://``. The kernel says that both ends are this user.

The owner of a cluster and its workers import this in an interpreter that can lack `ports`, so it needs the standard
library and `distributed` only. Where `ports` is installed, the entry point ``distributed.comm.backends`` names it, and
a plain ``Client("unix://…")`` works.

The location in an address ``unix://LOCATION`` is

- a directory: a listener makes a new socket in it (``/run/mine``, ``/run/mine:0``; ``/run/mine:8786`` is called
  ``8786``);
- any other absolute path: the socket itself;
- anything else (``127.0.0.1``, ``127.0.0.1:8786``, nothing): the same in a directory of this user's below ``/tmp``.

A directory must belong to this user and be closed to others. Nothing is encrypted: nothing leaves the kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import os
import socket
import struct
import weakref
from typing import Any

import dask
from distributed.comm.core import BaseListener, Comm, CommClosedError, Connector, FatalCommClosedError
from distributed.comm.registry import Backend, backends
from distributed.comm.utils import from_frames, to_frames
from distributed.utils import ensure_memoryview, nbytes

from .ground import probe
from .socket_paths import bind, identify, path_of, place_of, reachable, remove
from .unix_sockets import Connection

logger = logging.getLogger("distributed.comm.unix")

PREFIX = "unix://"
HEAD = struct.Struct("<4sII")  # how each message begins: the format, number of frames, how many share a buffer
MAGIC = b"pdU1"
MOST_FRAMES = 2**26
SMALL = 2**17  # bytes up to which a message is joined and sent in one piece
NOT_SPLIT = 2**60
ACCEPT_AGAIN_SECONDS = 1.0


class Unix(Comm):
    """Dask's messages over one Unix socket."""

    def __init__(self, connection, local, peer, deserialize=True):
        super().__init__(deserialize=deserialize)
        self._connection = Connection(connection)
        self._local_addr, self._peer_addr = local, peer  # Dask's own names
        self._finalizer = weakref.finalize(self, self._connection.close_from_anywhere)
        self._finalizer.atexit = False

    local_address = property(lambda self: self._local_addr, doc="Address of this end.")
    peer_address = property(lambda self: self._peer_addr, doc="Address of the other end.")
    same_host = True

    async def read(self, deserializers=None):
        """Return the next message."""
        if self._connection.closed and not self._connection._left:
            raise CommClosedError(f"in {self}: closed")
        with self._broken_by_errors():
            frames = await self._read_frames()
        # A message that cannot be deserialised was received whole: the comm goes on, and Dask informs the sender.
        options = {"deserialize": self.deserialize, "deserializers": deserializers}
        try:
            return await from_frames(frames, **options, allow_offload=self.allow_offload)
        except EOFError as error:
            self.abort()
            raise CommClosedError(f"in {self}: a message that ends too early: {error}") from error

    async def _read_frames(self):
        receive = self._connection.receive
        magic, n, n_shared = HEAD.unpack(await receive(HEAD.size))
        if magic != MAGIC or n > MOST_FRAMES:
            raise EOFError(f"{bytes(magic)!r} begins no message")
        sizes = struct.unpack(f"<{n}Q", await receive(8 * n))
        bounds = [0, *itertools.accumulate(sizes[:n_shared])]
        shared = await receive(bounds[-1])
        frames = [shared[bounds[number] : bounds[number + 1]] for number in range(len(bounds) - 1)]
        for size in sizes[n_shared:]:
            frames.append(await receive(size))
        return frames

    async def write(self, msg, serializers=None, on_error="message"):
        """Send a message, at once or as the peer reads; return its size in bytes."""
        if self._connection.closed:
            raise CommClosedError(f"in {self}: closed")
        frames = await to_frames(
            msg,
            allow_offload=self.allow_offload,
            serializers=serializers,
            on_error=on_error,
            context={"sender": self.local_info, "recipient": self.remote_info, **self.handshake_options},
            frame_split_size=NOT_SPLIT,  # parts would have to be joined again
        )
        sizes = [nbytes(frame) for frame in frames]
        head = HEAD.pack(MAGIC, len(sizes), shared_frames(frames, sizes)) + struct.pack(f"<{len(sizes)}Q", *sizes)
        total = len(head) + sum(sizes)
        if total <= SMALL:
            buffers = [memoryview(b"".join([head, *frames]))]
        else:
            buffers = [memoryview(head), *(view for view in map(ensure_memoryview, frames) if len(view))]
        with self._broken_by_errors():
            self._connection.send(buffers)
        return total

    @contextlib.contextmanager
    def _broken_by_errors(self):
        """Close where half a message may have passed; turn errors of the socket into Dask's."""
        try:
            yield
        except (OSError, EOFError) as error:
            self.abort()
            raise CommClosedError(f"in {self}: {type(error).__name__}: {error}") from error
        except BaseException:
            self.abort()
            raise

    async def close(self):
        """Close once the kernel has all that was written; it will arrive from there."""
        await self._connection.drain()
        self.abort()

    def abort(self):
        """Close at once."""
        self._finalizer.detach()
        self._connection.close()

    def closed(self):
        """Say whether this end or the other has closed."""
        return self._connection.closed or self._connection.is_left_by_peer()


def shared_frames(frames, sizes):
    """Return how many of the first frames are received into one buffer.

    An array keeps its buffer in memory, so each gets one of its own. What comes before the first array is unpickled at
    once. Where it is small it shares that buffer, which saves a call.
    """
    array, before = None, 0
    for number, (frame, size) in enumerate(zip(frames, sizes)):  # noqa: B905 - `strict` is not in Python 3.9
        owner = frame.obj if isinstance(frame, memoryview) else frame
        if not isinstance(owner, bytes) and owner is not array:
            if array is not None or before > max(2048, size // 20):
                return number
            array = owner
        before += size
    return len(sizes)


def own_address(name):
    """Return the address of an end that only connects: the name that the kernel gave to its socket."""
    return f"{PREFIX}@{os.fsdecode(name).strip(chr(0))}"


class UnixConnector(Connector):
    """Connects to listeners of this user."""

    async def connect(self, address, deserialize=True, **connection_args):
        """Return a comm. A socket that is missing, dead or another user's raises at once: Dask does not try again."""
        path = path_of(address)
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.setblocking(False)
            connection.bind("")  # a name from the kernel, which the other end sees too
            with reachable(path) as name:
                connection.connect(name)
            uid = probe.peer_uid(connection)
            if uid != os.geteuid():
                raise FatalCommClosedError(f"{PREFIX}{path} is not listened on by this user, but by uid {uid}")
            return Unix(connection, own_address(connection.getsockname()), PREFIX + path, deserialize)
        except BaseException as error:
            connection.close()
            if isinstance(error, (FileNotFoundError, ConnectionRefusedError, NotADirectoryError)):
                raise FatalCommClosedError(f"nobody listens on {PREFIX}{path}: {error.strerror}") from error
            raise  # a full queue (EAGAIN) too: Dask tries again


class UnixListener(BaseListener):
    """Listens on a Unix socket for processes of this user."""

    prefix = PREFIX

    def __init__(self, loc, comm_handler, deserialize=True, allow_offload=True, **connection_args):
        super().__init__()
        self.directory, self.name = place_of(loc)
        self.comm_handler, self.deserialize, self.allow_offload = comm_handler, deserialize, allow_offload
        self._socket = self._identity = None
        self._loop: Any = None
        self._tasks = set()

    async def start(self):
        """Make the socket and listen."""
        self._loop = asyncio.get_running_loop()
        self._socket, self.name = bind(self.directory, self.name)
        self._identity = identify(os.path.join(self.directory, self.name))
        self._socket.listen(int(dask.config.get("distributed.comm.socket-backlog")))
        self._loop.add_reader(self._socket.fileno(), self._accept)

    def _accept(self):
        while self._socket is not None:
            try:
                connection, name = self._socket.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    logger.error("cannot accept connections at %s: %s", self.listen_address, error.strerror)
                    self._loop.remove_reader(self._socket.fileno())
                    self._loop.call_later(ACCEPT_AGAIN_SECONDS, self._accept_again)
                return
            pid, uid = probe.peer(connection)
            if uid != os.geteuid():
                logger.warning("refused uid %d (pid %d) at %s", uid, pid, self.listen_address)
                connection.close()
                continue
            comm = Unix(connection, self.listen_address, own_address(name), self.deserialize)
            comm.allow_offload = self.allow_offload
            task = self._loop.create_task(self._serve(comm))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _accept_again(self):
        if self._socket is not None:
            self._loop.add_reader(self._socket.fileno(), self._accept)

    async def _serve(self, comm):
        if self._socket is None:  # the listener stopped meanwhile, and nothing else would abort the handshake
            return comm.abort()
        try:
            await self.on_connection(comm)
        except OSError:
            logger.info("connection from %s closed before its handshake was over", comm.peer_address)
            return comm.abort()
        await self.comm_handler(comm)

    def stop(self):
        """Stop listening, and remove the socket."""
        listener, self._socket = self._socket, None
        if listener is None:
            return
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            self._loop.remove_reader(listener.fileno())
        listener.close()
        remove(self.directory, self.name, self._identity)

    @property
    def listen_address(self):
        """Address of the socket."""
        if self.name is None:
            raise ValueError("invalid operation on a listener that was not started")
        return PREFIX + os.path.join(self.directory, self.name)

    contact_address = listen_address


class UnixBackend(Backend):
    """Dask's view of ``unix://``."""

    def get_connector(self):
        """Return what connects."""
        return UnixConnector()

    def get_listener(self, loc, handle_comm, deserialize, **connection_args):
        """Return what listens."""
        return UnixListener(loc, handle_comm, deserialize, **connection_args)

    def get_address_host(self, loc):
        """Return the machine, which is always this one."""
        return "127.0.0.1"

    def resolve_address(self, loc):
        """Return the path of the socket."""
        return loc if loc.startswith(("/", "@")) else path_of(loc)

    def get_local_address_for(self, loc):
        """Return where to listen, to be reached by a process that listens at `loc`: in the same directory."""
        return os.path.dirname(path_of(loc))


def register():
    """Teach Dask in this process ``unix://``."""
    backends.setdefault("unix", UnixBackend())
