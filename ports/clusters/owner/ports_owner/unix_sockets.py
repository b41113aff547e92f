"""Bytes over one Unix socket, and the user at its other end.

Standard library and `distributed` only, as for all that runs inside a cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
import threading
from collections import deque

from distributed.protocol.utils import host_array

logger = logging.getLogger("distributed.comm.unix")

CHUNK = 2**16  # bytes that are read at once if fewer are asked for: the next messages come along
IN_THREAD = 2**21  # from so many bytes on a thread waits in the kernel, without a turn of the event loop for each part
MOST_THREADS = 16  # at a time; more transfers go through the event loop, so none waits for a free thread
MOST_BUFFERS = 1024  # of one system call: IOV_MAX

_threads = threading.BoundedSemaphore(MOST_THREADS)


class Connection:
    """Bytes over one Unix socket, received and sent from an event loop."""

    def __init__(self, connection):
        connection.setblocking(True)  # for the threads; the event loop says MSG_DONTWAIT
        self.socket = connection
        self.closed = False
        self._left = memoryview(b"")  # was read with earlier messages
        self._queue: deque[memoryview] = deque()  # will be sent
        self._is_sending = False
        self._reader = self._drained = self._watched_by = self._watched_to_send_by = None
        self._lock, self._n_threads = threading.Lock(), 0

    async def receive(self, n):
        """Return the next `n` bytes, writable; raises EOFError if the peer has closed."""
        view = host_array(n)
        done = min(n, len(self._left))
        view[:done], self._left = self._left[:done], self._left[done:]
        while done < n:
            if self.closed:
                raise EOFError("closed")
            if n - done >= IN_THREAD and _threads.acquire(blocking=False):
                await self._in_thread(self._receive_all, view[done:])
                break
            try:
                got = self._receive_some(view[done:])
            except BlockingIOError:
                await self._readable()
                continue
            if not got:
                raise EOFError("closed by the peer")
            done += got
        return view

    def _receive_some(self, view):
        if len(view) >= CHUNK:
            return self.socket.recv_into(view, len(view), socket.MSG_DONTWAIT)
        data = memoryview(self.socket.recv(CHUNK, socket.MSG_DONTWAIT))
        got = min(len(data), len(view))
        view[:got], self._left = data[:got], data[got:]
        return got

    def _receive_all(self, view):
        while view:
            got = self.socket.recv_into(view, min(len(view), 2**30), socket.MSG_WAITALL)
            if not got:
                raise EOFError("closed by the peer")
            view = view[got:]

    def send(self, buffers):
        """Send `buffers`, memoryviews of bytes, now or when the peer reads; raises EOFError if the peer has closed."""
        self._queue.extend(buffers)
        if not self._is_sending:
            self._go_on_sending()
        if self.closed:
            raise EOFError("closed by the peer")

    def _go_on_sending(self, error=None):
        self._is_sending = False
        if error is not None:
            self.close()
        try:
            while self._queue and not self.closed:
                self._send_some(self._queue, socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._is_sending = True
            self._wait_to_send()
            return
        except OSError:
            self.close()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _wait_to_send(self):
        """Hand a large queue to a thread; for a small one, wait until there is room."""
        loop = asyncio.get_running_loop()
        if sum(map(len, self._queue)) >= IN_THREAD and _threads.acquire(blocking=False):
            queue, self._queue = self._queue, deque()
            self._start_thread(loop, self._go_on_sending, self._send_all, queue)
        else:
            self._watched_to_send_by = loop
            loop.add_writer(self.socket.fileno(), self._on_writable)

    def _on_writable(self):
        self._unwatch_to_send()
        self._go_on_sending()

    def _unwatch_to_send(self):
        watched_by, self._watched_to_send_by = self._watched_to_send_by, None
        if watched_by is not None:
            watched_by.remove_writer(self.socket.fileno())

    async def drain(self):
        """Return once all is sent, or the peer has closed."""
        if self._is_sending and not self.closed:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def _send_some(self, left, flags=0):
        sent = self.socket.sendmsg(itertools.islice(left, MOST_BUFFERS), (), flags)
        while left and sent >= len(left[0]):
            sent -= len(left.popleft())
        if sent:
            left[0] = left[0][sent:]

    def _send_all(self, left):
        while left:
            self._send_some(left)

    def _start_thread(self, loop, end, work, *arguments):
        """Run `work` in a thread, for which one of `_threads` was taken, then `end` with its error in the event loop.

        The socket stays open until it has returned.
        """

        def run():
            error = None
            try:
                work(*arguments)
            except (OSError, EOFError) as caught:
                error = caught
            _threads.release()
            with self._lock:
                self._n_threads -= 1
                if self.closed and not self._n_threads:
                    self.socket.close()
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(end, error)

        with self._lock:
            self._n_threads += 1
        threading.Thread(target=run, name="ports-unix", daemon=True).start()

    async def _in_thread(self, work, *arguments):
        loop = asyncio.get_running_loop()
        ended = loop.create_future()

        def end(error):
            if not ended.done():
                ended.set_result(None) if error is None else ended.set_exception(error)

        self._start_thread(loop, end, work, *arguments)
        await ended

    async def _readable(self):
        loop = asyncio.get_running_loop()
        self._reader = loop.create_future()
        if self._watched_by is None:
            self._watched_by = loop
            loop.add_reader(self.socket.fileno(), self._on_readable)
        try:
            await self._reader
        finally:
            self._reader = None

    def _on_readable(self):
        """Wake the reader. If there is none, close if the peer has closed, and stop watching if there is data."""
        if self._reader is not None:
            if not self._reader.done():
                self._reader.set_result(None)
        elif self._left or self._n_threads or (is_at_end := self._is_at_end()) is False:
            self._unwatch()
        elif is_at_end:
            self.close()

    def is_left_by_peer(self):
        """Say whether the peer has closed while the event loop does not watch: after reads that did not wait."""
        return self._watched_by is None and not self._left and not self._n_threads and bool(self._is_at_end())

    def _is_at_end(self):
        """Say whether the peer has closed; None if it has not and there is nothing to read."""
        try:
            return not self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            return True

    def _unwatch(self):
        watched_by, self._watched_by = self._watched_by, None
        if watched_by is not None:
            watched_by.remove_reader(self.socket.fileno())

    def close(self):
        """Close. Callers that wait here get an EOFError."""
        if self.closed:
            return
        self.closed = True
        for waiting in (self._reader, self._drained):
            if waiting is not None and not waiting.done():
                waiting.set_result(None)
        self._unwatch()
        self._unwatch_to_send()
        self._queue.clear()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # threads return
        with self._lock:
            if not self._n_threads:
                self.socket.close()

    def close_from_anywhere(self):
        """Close from the thread that collects the garbage, whichever it is."""
        if self.closed:
            return
        logger.warning("Closing dangling Unix socket %s", self.socket)
        watched_by = self._watched_by or self._watched_to_send_by
        try:
            if watched_by is None:
                self.close()
            else:
                watched_by.call_soon_threadsafe(self.close)
        except RuntimeError:  # the event loop is closed and watches nothing
            self._watched_by = self._watched_to_send_by = None
            self.close()
