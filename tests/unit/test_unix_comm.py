"""Unix sockets as a comm of Dask: where they lie, who may connect, and what passes through them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed.comm import connect, listen
from distributed.comm.core import Comm, CommClosedError, FatalCommClosedError
from distributed.protocol import to_serialize
from hypothesis import given, settings
from hypothesis import strategies as st

from ports.clusters.owner.ports_owner import comm as ports_comm
from ports.clusters.owner.ports_owner import socket_paths, unix_sockets
from ports.state.waiting import wait_until


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """Return a private directory with a short path."""
    with tempfile.TemporaryDirectory(prefix="ports-", dir="/tmp") as made:
        yield Path(made)


async def echo(comm: Comm) -> None:
    with contextlib.suppress(CommClosedError):
        while True:
            await comm.write(await comm.read())


@contextlib.asynccontextmanager
async def echoing(
    place: Path, handle: Callable[[Comm], Awaitable[None]] = echo, deserialize: bool = True
) -> AsyncIterator[tuple[Comm, Any]]:
    """Yield a comm to a listener in this process, and the listener."""
    async with listen(f"unix://{place}", handle, deserialize=deserialize) as listener:
        comm = await connect(listener.contact_address, timeout=5)
        try:
            yield comm, listener
        finally:
            await comm.close()


def all_free() -> bool | None:
    """Return True when no thread sends or receives."""
    taken = 0
    while unix_sockets._threads.acquire(blocking=False):
        taken += 1
    unix_sockets._threads.release(taken)
    return True if taken == unix_sockets.MOST_THREADS else None


def run(main: Awaitable[Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main, 60))


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("", (socket_paths.usual(), None)),
        ("127.0.0.1:0", (socket_paths.usual(), None)),
        ("127.0.0.1:8786", (socket_paths.usual(), "8786")),
        ("/", ("/", None)),
        ("/tmp:0", ("/tmp", None)),
        ("/tmp/:99", ("/tmp", "99")),
        ("/tmp/no-such-thing", ("/tmp", "no-such-thing")),
        ("/tmp/no-such-thing:0", ("/tmp", "no-such-thing")),
    ],
)
def test_a_location_names_a_directory_or_a_socket(location: str, expected: tuple[str, str | None]) -> None:
    assert socket_paths.place_of(location) == expected


def test_what_names_no_socket_cannot_be_connected_to(place: Path) -> None:
    for location in ("", "127.0.0.1", f"{place}:0"):
        with pytest.raises(ValueError, match="it names no socket"):
            run(connect(f"unix://{location}", timeout=5))


def test_a_directory_that_others_may_enter_takes_no_socket(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(PermissionError, match="mode 0700; name another one"):
        run(listen(f"unix://{tmp_path}", echo).start())
    tmp_path.chmod(0o700)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(OSError, match="no directory for sockets"):
        run(listen(f"unix://{tmp_path / 'link'}", echo).start())


def test_a_socket_is_for_its_owner_alone_and_goes_with_its_listener(place: Path) -> None:
    async def main() -> None:
        async with echoing(place) as (_, listener):
            path = Path(listener.contact_address.removeprefix("unix://"))
            assert path.parent == place and not path.stat().st_mode & 0o077
        assert list(place.iterdir()) == []

    run(main())


def test_nobody_listening_is_an_error_at_once(place: Path) -> None:
    dead = place / "dead"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(dead))
    for path in (dead, place / "missing", dead / "below"):
        with pytest.raises(FatalCommClosedError, match=f"nobody listens on unix://{path}"):
            run(connect(f"unix://{path}", timeout=50))
    dead.unlink()


def test_a_dead_socket_is_replaced_and_a_living_one_is_not(place: Path) -> None:
    async def main() -> None:
        for _ in range(2):
            (place / "here").unlink(missing_ok=True)
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(str(place / "here"))
            async with listen(f"unix://{place}/here", echo) as first:
                assert first.listen_address == f"unix://{place}/here"
                with pytest.raises(OSError, match="in use"):
                    await listen(f"unix://{place}/here", echo).start()

    run(main())
    assert list(place.iterdir()) == []


def test_what_killed_processes_left_goes_with_the_next_listener(place: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    here = f"{socket_paths.pid_namespace():x}"
    left, others = place / f"{here}.{ended.pid}.1", [place / f"1.{ended.pid}.1", place / f"{here}.{os.getpid()}.999"]
    for path in (left, *others):
        path.touch()

    async def main() -> None:
        async with echoing(place):
            assert not left.exists() and all(path.exists() for path in others)

    run(main())
    for path in others:
        path.unlink()


def test_a_path_may_be_longer_than_the_address_of_a_socket(place: Path) -> None:
    deep = place / ("x" * 120)
    deep.mkdir(mode=0o700)

    async def main() -> None:
        async with echoing(deep) as (comm, _):
            await comm.write({"x": 1})
            assert await comm.read() == {"x": 1}

    run(main())
    deep.rmdir()


MESSAGES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text() | st.binary(max_size=300_000),
    lambda inner: st.lists(inner, max_size=5).map(tuple) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=8,
)


@settings(max_examples=30, deadline=None)
@given(messages=st.lists(MESSAGES, max_size=5))
def test_messages_arrive_as_they_were_sent(place: Path, messages: list[Any]) -> None:
    async def main() -> None:
        async with echoing(place) as (comm, _):
            for message in messages:
                await comm.write({"x": message})
            for message in messages:
                assert (await comm.read())["x"] == message

    run(main())


@pytest.mark.parametrize("n", [1, 2**16, 2**17, 2**21 - 1, 2**21, 2**25])
def test_large_messages_pass_in_both_directions_at_once(place: Path, n: int) -> None:
    data = os.urandom(2**16) * (n // 2**16 + 1)

    async def main() -> None:
        async with echoing(place) as (comm, _):
            for _ in range(3):
                await comm.write({"x": data[:n]})
                assert (await comm.read())["x"] == data[:n]

    run(main())


@pytest.mark.parametrize(
    ("frames", "shared"),
    [
        ([], 0),
        ([b"head", b"pickle"], 2),
        ([b"head", bytearray(10)], 2),
        ([b"head", bytearray(10), bytearray(10)], 2),
        ([b"h" * 3000, bytearray(10)], 1),
        ([b"h" * 3000, bytearray(100_000), b"tail"], 3),
        ([memoryview(b"head"), memoryview(bytearray(10)), b"x", memoryview(bytearray(5))], 3),
    ],
)
def test_arrays_are_received_into_buffers_of_their_own(frames: list[Any], shared: int) -> None:
    assert ports_comm.shared_frames(frames, [len(frame) for frame in frames]) == shared


def test_both_ends_call_each_other_by_the_same_addresses(place: Path) -> None:
    seen: list[tuple[str, str]] = []

    async def note(comm: Comm) -> None:
        seen.append((comm.peer_address, comm.local_address))
        await echo(comm)

    async def main() -> None:
        async with echoing(place, note) as (comm, _):
            await comm.write({"x": 1})
            await comm.read()
            assert seen == [(comm.local_address, comm.peer_address)]
            assert re.fullmatch(r"unix://@[0-9a-f]+", comm.local_address)  # the kernel's name, no two alike
            assert comm.same_host and comm.handshake_options["compression"] is None

    run(main())


def test_many_large_messages_at_once_need_no_free_thread(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(2**22)

    async def one(comm: Comm) -> None:
        await comm.write({"x": data})
        assert (await comm.read())["x"] == data

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            opened = [(await stack.enter_async_context(echoing(place)))[0] for _ in range(20)]
            await asyncio.gather(*map(one, opened))

    run(main())
    assert all_free()


def test_what_is_written_before_anybody_reads_arrives_in_order(place: Path) -> None:
    async def late(comm: Comm) -> None:
        await asyncio.sleep(0.1)
        await echo(comm)

    async def main() -> None:
        async with echoing(place, late) as (comm, _):
            sizes = (2**22, 10, 2**18, 2**22, 0, 2**23)
            for number, size in enumerate(sizes):
                await comm.write({"n": number, "x": b"x" * size})
            for number, size in enumerate(sizes):
                got = await comm.read()
                assert (got["n"], len(got["x"])) == (number, size)

    run(main())


def test_an_idle_end_sees_that_the_other_has_closed(place: Path) -> None:
    async def leave(comm: Comm) -> None:
        await comm.read()
        await comm.close()

    async def main() -> None:
        async with echoing(place, leave) as (comm, _):
            await comm.write({"x": 1})
            with pytest.raises(CommClosedError, match="closed by the peer"):
                await comm.read()
            assert comm.closed()
            with pytest.raises(CommClosedError):
                await comm.write({"x": 1})

    run(main())


@pytest.mark.parametrize(
    ("pause", "is_closed"),
    [
        pytest.param(0.0, lambda comm: comm.closed(), id="asked"),  # as a pool does before it takes one again
        pytest.param(0.1, lambda comm: comm._connection.closed, id="watched"),  # an end that waited is, from then on
    ],
)
def test_an_end_that_nobody_reads_sees_it_too(place: Path, pause: float, is_closed: Callable[[Comm], bool]) -> None:
    async def leave(comm: Comm) -> None:
        await comm.read()
        await asyncio.sleep(pause)
        await comm.write({"x": 1})
        await comm.read()
        await comm.close()

    async def main() -> None:
        async with echoing(place, leave) as (comm, _):
            await comm.write({"x": 1})
            await comm.read()
            await comm.write({"x": 1})
            deadline = asyncio.get_running_loop().time() + 10
            while not is_closed(comm):
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.01)

    run(main())


def test_what_was_written_before_a_close_arrives(place: Path) -> None:
    async def leave(comm: Comm) -> None:
        await comm.read()
        for number in range(3):
            await comm.write({"x": number, "data": b"x" * 3_000_000})
        await comm.close()

    async def main() -> None:
        async with echoing(place, leave) as (comm, _):
            await comm.write({"x": 1})
            await asyncio.sleep(0.05)
            assert [(await comm.read())["x"] for _ in range(3)] == [0, 1, 2]

    run(main())


def test_an_abort_ends_what_waits_in_a_thread_or_in_the_loop(place: Path) -> None:
    async def hold(comm: Comm) -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        for size in (2**26, 2**20):  # the first is sent by a thread, the second by the event loop
            async with echoing(place, hold) as (comm, _):
                assert await comm.write({"x": b"x" * size}) > size  # as with TCP, it goes as the peer reads
                reading = asyncio.ensure_future(comm.read())
                closing = asyncio.ensure_future(comm.close())
                await asyncio.wait([closing, reading], timeout=0.1)
                assert not closing.done() and not reading.done()
                comm.abort()
                await closing
                with pytest.raises(CommClosedError):
                    await reading
                wait_until(all_free, timeout=10, what="return of the thread, though nobody reads")

    run(main())


def test_a_cancelled_read_closes_as_half_a_message_may_be_gone(place: Path) -> None:
    async def main() -> None:
        async with echoing(place) as (comm, _):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(comm.read(), 0.05)
            assert comm.closed()

    run(main())


class Broken:
    def __reduce__(self) -> Any:
        return _raise, ()


def _raise() -> None:
    raise OSError("no such file in here")


def test_what_cannot_be_deserialised_closes_nothing(place: Path) -> None:
    async def main() -> None:
        async with echoing(place, deserialize=False) as (comm, _):  # it only passes on, as a scheduler does
            await comm.write({"x": to_serialize(Broken())})
            with pytest.raises(OSError, match="no such file in here"):
                await comm.read()
            await comm.write({"x": 1})
            assert await comm.read() == {"x": 1}

    run(main())


@pytest.mark.parametrize("said", [b"GET / HTTP/1.0\r\n\r\n", b"pdU0" + bytes(8)])
def test_what_does_not_speak_dask_is_cut_off(place: Path, said: bytes) -> None:
    async def main() -> None:
        async with listen(f"unix://{place}", echo) as listener:
            path = listener.contact_address.removeprefix("unix://")
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(said)
            answer = await reader.read()  # its half of the handshake, then the end
            assert b"HTTP" not in answer and answer.startswith(ports_comm.MAGIC)
            writer.close()

    run(main())


def test_a_forgotten_comm_closes_its_socket(place: Path) -> None:
    async def main() -> None:
        async with listen(f"unix://{place}", echo) as listener:
            comm = await connect(listener.contact_address, timeout=5)
            line = comm._connection
            await comm.write({"x": 1})
            await comm.read()
            del comm
            gc.collect()
            await asyncio.sleep(0)
            await asyncio.sleep(0.05)
            assert line.closed

    run(main())


CONNECT = """
import os, socket, sys
os.setgid(54321); os.setuid(54321)
with socket.socket(socket.AF_UNIX) as connection:
    connection.settimeout(10)
    connection.connect(sys.argv[1])
    print(len(connection.recv(100)))
"""
LISTEN = """
import os, socket, sys
os.setgid(54321); os.setuid(54321)
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1]); listener.listen(); print("listening", flush=True); sys.stdin.read()
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
def test_another_user_is_refused_at_both_ends_whatever_the_modes_say(place: Path) -> None:
    async def connect_as_other() -> bytes:
        async with listen(f"unix://{place}", echo) as listener:
            path = Path(listener.contact_address.removeprefix("unix://"))
            place.chmod(0o777)
            path.chmod(0o777)
            command = [sys.executable, "-c", CONNECT, str(path)]
            done = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
            return (await done.communicate())[0]

    try:
        assert run(connect_as_other()) == b"0\n"  # closed without a word
        command = [sys.executable, "-c", LISTEN, str(place / "rogue")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as rogue:
            assert rogue.stdout is not None and rogue.stdout.readline() == b"listening\n"
            with pytest.raises(FatalCommClosedError, match="but by uid 54321"):
                run(connect(f"unix://{place}/rogue", timeout=50))
            rogue.communicate()
    finally:
        place.chmod(0o700)
        (place / "rogue").unlink(missing_ok=True)


def test_dask_finds_the_scheme_where_ports_is_installed() -> None:
    code = "from distributed.comm.registry import get_backend; print(type(get_backend('unix')).__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd="/")
    assert done.stdout == "UnixBackend\n", done.stderr
