"""The program of ours that runs on a host while tunnels to it are open: here, started by a shell of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ports import listeners, probe
from ports.errors import ConnectionLostError, FarSideError, RefusedError, SlowError, SSHError, TimedOutError
from ports.probe import socket_users
from ports.state.waiting import wait_until
from ports.tunnels._agent_session import PYTHON, Agent
from tests.integration.conftest import Home

OLD_PYTHONS = [*Path.home().glob(".pyenv/versions/3.6.*/bin/python"), Path("/usr/bin/python3.6")]
OLD_PYTHON = next((str(path) for path in OLD_PYTHONS if path.exists()), None)
HERE = "exec " + PYTHON.format(python=sys.executable)  # signals go to the program, not to the shell
NOT_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root may listen as another user")
PATIENCE = 15.0

pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.timeout(90)]


class Far:
    """A running program and its home end."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.agent = Agent("far")
        self.messages: list[dict[str, Any]] = []
        self.lost: list[str] = []

    def documents(self) -> list[dict[str, Any]]:
        """Return all documents so far."""
        return [one["document"] for one in self.messages if one["type"] == "document"]

    async def until(self, poll: Callable[[], Any], what: str, timeout: float = PATIENCE) -> Any:
        """Return what `poll` returns, once it is something."""
        end = time.monotonic() + timeout
        while True:
            with contextlib.suppress(BlockingIOError):
                if found := poll():
                    return found
            assert time.monotonic() < end, f"no {what}"
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def far(
    request: dict[str, Any] | None = None, *, command: str = HERE, shell: str = "sh", timeout: float = 30
) -> AsyncIterator[Far]:
    """Start the program in a shell of this machine, as sshd would; afterwards nothing of it must be left."""
    mine, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen([shell, "-c", command], stdin=theirs, stdout=theirs, start_new_session=True)
    found = Far(process)
    start = found.agent.start(
        mine, request or {}, on_message=found.messages.append, on_lost=found.lost.append, timeout=timeout
    )
    try:
        await start
        yield found
    finally:
        found.agent.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGCONT)
        try:
            await asyncio.to_thread(process.wait, PATIENCE)
            wait_until(lambda: not in_session(process.pid) or None, timeout=PATIENCE, what="end of all of it")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def in_session(pid: int) -> list[int]:
    """Return the processes of the group that `pid` leads."""
    found = []
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(one.pid) == pid and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one.pid)
    return found


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


@contextlib.asynccontextmanager
async def service(serve: Serve, path: Path | None = None) -> AsyncIterator[str]:
    """Listen, and yield the address."""
    if path is None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=512)
        where = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    else:
        server, where = await asyncio.start_unix_server(serve, str(path)), str(path)
    try:
        yield where
    finally:
        server.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back all that was said, once the other side has ended."""
    writer.write(await reader.read())
    writer.close()


async def say(found: Far, where: str, text: bytes, owner: str | None = None) -> bytes:
    """Return what `echo` answers."""
    reader, writer = await asyncio.open_connection(sock=await found.agent.dial(where, owner))
    writer.write(text)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


def run(test: Callable[[], Any]) -> None:
    """Run an asynchronous test."""
    asyncio.run(asyncio.wait_for(test(), 80))


def test_it_greets_answers_a_heartbeat_and_leaves_nothing(home: Home) -> None:
    async def test() -> None:
        async with far() as found:
            hello = found.agent.hello
            assert (hello["uid"], hello["host"]) == (os.getuid(), socket.gethostname())
            assert hello["python"] == platform.python_version() and hello["warnings"] == []
            before = time.monotonic()
            assert 0 < await found.agent.ping(PATIENCE) < PATIENCE
            assert before <= found.agent.last_heard <= time.monotonic()
            assert len(list(home.runtime.glob("browse-*.sock"))) == 1
        assert found.lost == []  # it was meant
        with pytest.raises(ConnectionLostError):
            await found.agent.ping(1)

    run(test)
    assert not list(home.runtime.glob("*browse-*"))


def test_the_ends_of_jobs_are_reported_when_they_come(home: Home) -> None:
    file = Path(probe.host_directory()) / "jobs" / "ends.json"
    file.parent.mkdir(parents=True)

    def write(*ids: object) -> None:
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps({"format": 1, "ends": [{"id": id} for id in ids]}))
        fresh.replace(file)

    async def test() -> None:
        async with far({"interval": 0.1}) as found:

            def ends() -> list[list[object]]:
                told = [one for one in found.messages if one["type"] == "ends"]
                assert {one["machine"] for one in told} <= {file.parent.parent.name}
                return [[row["id"] for row in one["ends"]] for one in told]

            await found.until(lambda: ends() == [[]], "report that none has ended")
            write("1")
            await found.until(lambda: ends()[-1] == ["1"], "first report")
            assert [one["type"] for one in found.messages[:2]] == ["document", "ends"]
            file.write_text("half a file")  # it is no news
            write("1", "2")
            await found.until(lambda: ends()[-1] == ["1", "2"], "second report")
            assert len(found.documents()) == 1  # nothing was asked and looked at for that

    run(test)


def test_two_hundred_connections_at_once_all_get_their_answer(tmp_path: Path) -> None:
    async def test() -> None:
        async with far() as found, service(echo) as tcp, service(echo, tmp_path / "echo.sock") as unix:
            texts = [os.urandom(20_000) for _ in range(200)]
            said = await asyncio.gather(
                *(say(found, tcp if number % 2 else unix, text) for number, text in enumerate(texts))
            )
            assert said == texts
            await found.until(lambda: not found.agent._mux.channels, "end of all channels")  # type: ignore[union-attr]

    run(test)


def test_a_slow_reader_beside_a_fast_one_costs_it_nothing_and_no_memory() -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * (64 << 20))
        with contextlib.suppress(OSError):
            await writer.drain()
            writer.close()

    async def test() -> None:
        async with far() as found, service(flood) as large, service(echo) as small:
            slow = await found.agent.dial(large)
            await found.until(lambda: slow.recv(1, socket.MSG_PEEK), "first byte")
            before = psutil.Process().memory_info().rss
            assert await say(found, small, b"beside it" * 100_000) == b"beside it" * 100_000
            reader, writer = await asyncio.open_connection(sock=await found.agent.dial(large))
            assert len(await reader.readexactly(32 << 20)) == 32 << 20
            writer.close()
            grown = psutil.Process().memory_info().rss - before
            assert psutil.Process(found.process.pid).memory_info().rss < 64 << 20
            assert grown < 110 << 20  # the 32 MiB that were read here, twice, and 2 MiB that wait
            slow.close()

    run(test)


def test_half_a_close_reaches_the_other_side_and_the_answer_comes_back() -> None:
    async def test() -> None:
        async with far() as found, service(echo) as where:
            assert await say(found, where, b"") == b""
            assert await say(found, where, b"all of it") == b"all of it"

    run(test)


@pytest.mark.parametrize(
    ("remote", "reason"),
    [
        ("127.0.0.1:1", "connection refused: nothing listens on 127.0.0.1:1"),
        ("[::1]:1", "connection refused: nothing listens on [::1]:1"),
        ("/nowhere/app.sock", "there is no socket /nowhere/app.sock"),
        ("/etc/passwd", "there is no socket /etc/passwd"),
        ("example.org:80", "'example.org:80' is no address with a port, and no path"),
    ],
)
def test_a_refusal_says_why(remote: str, reason: str) -> None:
    async def test() -> None:
        async with far({"watch": False}) as found:
            with pytest.raises(RefusedError) as error:
                await found.agent.dial(remote)
            assert str(error.value).startswith("far: ") and reason in str(error.value)
            with pytest.raises(RefusedError, match="no user nobody-of-that-name"):
                async with service(echo) as where:
                    await found.agent.dial(where, "nobody-of-that-name")

    run(test)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "::1", "127.0.0.1"])
def test_a_listener_on_any_address_is_known_by_the_one_that_is_dialled(address: str) -> None:
    async def test() -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        both = address == "::"
        with socket.create_server((address, 0), family=family, dualstack_ipv6=both) as listener:
            port = listener.getsockname()[1]
            names = {"::": ["127.0.0.1", "[::1]"], "::1": ["[::1]"]}.get(address, ["127.0.0.1"])
            async with far({"watch": False}) as found:
                for name in names:
                    (await found.agent.dial(f"{name}:{port}")).close()
                    listener.accept()[0].close()

    run(test)


def test_without_netlink_holders_are_found_in_the_table_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*address: object) -> None:
        raise OSError("no sock_diag")

    with contextlib.ExitStack() as stack:
        for address in ("127.0.0.1", "0.0.0.0", "::1"):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            listener = stack.enter_context(socket.create_server((address, 0), family=family))
            where = f"[::1]:{listener.getsockname()[1]}" if ":" in address else f"127.0.0.1:{listener.getsockname()[1]}"
            expected = socket_users.holder_of(where)
            with monkeypatch.context() as patch:
                patch.setattr(socket_users, "listener_at", refuse)
                assert socket_users.holder_of(where) == expected == (os.getuid(), os.fstat(listener.fileno()).st_ino)


def test_a_unix_socket_at_which_nobody_listens_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(tmp_path / "left.sock"))
        async with far({"watch": False}) as found:
            with pytest.raises(RefusedError, match="connection refused: nothing listens"):
                await found.agent.dial(str(tmp_path / "left.sock"))

    run(test)


def listen_as(uid: int, family: int, address: Any) -> socket.socket:
    """Return a listener of another user; root only."""
    os.seteuid(uid)
    try:
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
        return listener
    finally:
        os.seteuid(0)


@NOT_ROOT
def test_another_users_listener_is_refused_unless_the_owner_is_named() -> None:
    nobody = pwd.getpwnam("nobody")

    async def test() -> None:
        async with far({"watch": False}) as found:
            for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
                with listen_as(nobody.pw_uid, family, (address, 0)) as listener:
                    port = listener.getsockname()[1]
                    where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
                    with pytest.raises(RefusedError, match="belongs to nobody, not to root"):
                        await found.agent.dial(where)
                    listener.settimeout(0.1)
                    with pytest.raises(TimeoutError):
                        listener.accept()  # nothing came
                    (await found.agent.dial(where, "nobody")).close()
                    listener.accept()[0].close()

    run(test)


def test_a_killed_program_is_told_and_ends_what_waits() -> None:
    async def test() -> None:
        async with far() as found, service(echo) as where:
            connection = await found.agent.dial(where)
            os.kill(found.process.pid, signal.SIGSTOP)
            pinging = asyncio.create_task(found.agent.ping(60))
            dialling = asyncio.create_task(found.agent.dial(where))
            with pytest.raises(TimedOutError):
                await found.agent.ping(0.2)
            os.kill(found.process.pid, signal.SIGKILL)
            for waiting in (pinging, dialling):
                with pytest.raises(ConnectionLostError, match="the connection was lost"):
                    await waiting
            reader, writer = await asyncio.open_connection(sock=connection)
            assert await reader.read() == b""
            writer.close()
            assert len(found.lost) == 1

    run(test)


def test_a_dial_that_is_given_up_is_given_up_there_too() -> None:
    async def test() -> None:
        async with far({"watch": False}) as found, service(echo) as where:
            os.kill(found.process.pid, signal.SIGSTOP)
            dialling = asyncio.create_task(found.agent.dial(where))
            await asyncio.sleep(0)
            dialling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dialling
            os.kill(found.process.pid, signal.SIGCONT)
            await found.agent.ping(PATIENCE)
            opened = [one.fd for one in psutil.Process(found.process.pid).net_connections("tcp")]
            assert opened == [] or await found.until(
                lambda: not psutil.Process(found.process.pid).net_connections("tcp"), "end of the connection"
            )
            assert await say(found, where, b"after it") == b"after it"

    run(test)


def test_the_program_ends_when_its_input_ends(home: Home) -> None:
    async def test() -> None:
        async with far() as found:
            assert found.agent._session is not None
            found.agent._session.shutdown(socket.SHUT_WR)
            assert await asyncio.to_thread(found.process.wait, PATIENCE) == 0
            await found.until(lambda: found.lost, "message that it was lost")

    run(test)
    assert not list(home.runtime.glob("*browse-*"))


def test_the_program_ends_when_nothing_comes_from_home(home: Home) -> None:
    async def test() -> None:
        async with far({"silence": 1.5}) as found:
            for _ in range(6):
                await found.agent.ping(PATIENCE)
                await asyncio.sleep(0.4)
            assert found.process.poll() is None and found.lost == []
            assert await asyncio.to_thread(found.process.wait, PATIENCE) == 0
            await found.until(lambda: found.lost, "message that it was lost")

    run(test)
    assert not list(home.runtime.glob("*browse-*"))


def test_a_program_that_is_told_to_end_leaves_nothing(home: Home) -> None:
    async def test() -> None:
        async with far() as found:
            found.process.terminate()
            assert await asyncio.to_thread(found.process.wait, PATIENCE) == 0

    run(test)
    assert not list(home.runtime.glob("*browse-*"))


@pytest.mark.skipif(OLD_PYTHON is None, reason="there is no Python 3.6 here")
def test_python_3_6_runs_it() -> None:
    async def test() -> None:
        async with far(command=PYTHON.format(python=OLD_PYTHON)) as found, service(echo) as where:
            assert found.agent.hello["python"].startswith("3.6.")
            text = os.urandom(3 << 20)
            assert await say(found, where, text) == text
            await found.until(found.documents, "document")

    run(test)


@pytest.mark.parametrize("shell", ["sh", "bash", "tcsh", "fish", "zsh"])
def test_any_login_shell_reads_the_command_alike(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")

    async def test() -> None:
        async with far({"watch": False}, command=PYTHON.format(python="python3"), shell=shell) as found:
            assert await found.agent.ping(PATIENCE) < PATIENCE

    run(test)


def test_what_start_files_print_is_left_aside() -> None:
    async def test() -> None:
        noise = "printf 'welcome\\n\\0ports-0:\\n'; yes warning | head -n 5000; "
        async with far({"watch": False}, command=noise + HERE) as found:
            assert await found.agent.ping(PATIENCE) < PATIENCE

    run(test)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("exec no-python3-here -c x", "ended before python3 answered; try `ssh far python3 -V`"),
        ("echo module load python first; exit 1", "ended before python3 answered: module load python first"),
        ("exec yes noise", "print without end"),
        ("cat >/dev/null", "no answer of python3 there within 1 s"),
        (HERE.replace("import sys;", "import sys;sys.version_info=(3,5);"), "is 3.5, older than 3.6"),
        (HERE.replace("import sys;", "import sys,os;os.fork=None;"), "ended before python3 answered"),
    ],
)
def test_a_program_that_does_not_start_says_why(command: str, reason: str) -> None:
    async def test() -> None:
        kind: type[SSHError]
        limit, kind = (1, SlowError) if "cat" in command else (30, FarSideError)
        with pytest.raises(kind) as error:
            async with far(command=command, timeout=limit):
                pass
        assert reason in str(error.value)

    run(test)


def test_a_document_comes_at_once_and_again_within_seconds_of_a_change() -> None:
    async def test() -> None:
        # nothing is asked, so that nothing but a change makes it look
        async with far({"interval": 0.5, "probe": {"ask_http": False}}) as found:
            (first,) = await found.until(found.documents, "first document")
            named = listeners.from_probe(first, "far")
            assert all(one.host == "far" for one in named)
            async with service(echo) as where:
                port = int(where.rpartition(":")[2])
                assert port not in ports_of(found)
                await found.until(lambda: port in ports_of(found), "report of the new listener")
            await found.until(lambda: port not in ports_of(found), "report of its end")
            await asyncio.sleep(1.2)
            count = len(found.documents())
            found.agent.send({"type": "look"})
            await asyncio.sleep(1.2)
            assert len(found.documents()) - count <= 1  # what has not changed is not told again

    run(test)


def ports_of(found: Far) -> set[int]:
    return {row["port"] for row in found.documents()[-1]["listeners"]}


def test_a_listener_that_has_answered_is_not_asked_again() -> None:
    heard: list[bytes] = []

    async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(100))
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n")
        writer.close()

    async def test() -> None:
        async with service(page) as where, far({"interval": 0.3}) as found:
            port = int(where.rpartition(":")[2])
            await found.until(
                lambda: any(
                    row["port"] == port and row.get("http") for one in found.documents() for row in one["listeners"]
                ),
                "answer of the page",
            )
            count = len(heard)
            for _ in range(3):
                seen = len(found.documents())
                async with service(echo):
                    await found.until(lambda: len(found.documents()) > seen, "report")  # noqa: B023
            rows = [row for row in found.documents()[-1]["listeners"] if row["port"] == port]
            assert rows[0]["http"] is True
            assert len(heard) == count

    run(test)


def test_a_guarded_listener_that_is_replaced_or_ends_is_reported(tmp_path: Path) -> None:
    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as first:
            where = f"127.0.0.1:{first.getsockname()[1]}"
            unix = str(tmp_path / "page.sock")
            async with far({"watch": False, "users": [where]}) as found, service(echo, tmp_path / "page.sock"):
                found.agent.send({"type": "users", "remotes": [where, unix, "127.0.0.1:1"]})
                (gone,) = await found.until(lambda: found.messages[:], "report of what never was there")
                assert (gone["type"], gone["remote"], gone["uid"]) == ("users", "127.0.0.1:1", None)
                first.close()
                with socket.create_server(("127.0.0.1", int(where.rpartition(":")[2]))):
                    replaced = (await found.until(lambda: found.messages[1:], "report of another listener"))[0]
                    assert (replaced["remote"], replaced["mine"], replaced["uid"]) == (where, True, os.getuid())
                    assert replaced["inode"] != replaced["before"]["inode"]
                    Path(unix).unlink()
                    ended = (await found.until(lambda: found.messages[2:], "report of the socket's end"))[0]
                    assert (ended["remote"], ended["mine"], ended["inode"]) == (unix, False, None)

    run(test)


@NOT_ROOT
def test_a_guarded_listener_that_another_user_takes_is_reported() -> None:
    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as mine:
            port = mine.getsockname()[1]
            async with far({"watch": False, "users": [f"127.0.0.1:{port}"]}) as found:
                mine.close()
                with listen_as(pwd.getpwnam("nobody").pw_uid, socket.AF_INET, ("127.0.0.1", port)):
                    await found.until(lambda: found.messages and found.messages[-1]["user"] == "nobody", "report")
                    assert found.messages[-1]["mine"] is False

    run(test)


@pytest.fixture
def small_home(home: Home) -> Iterator[Home]:
    """A home whose sockets are watched."""
    yield home
    assert not list(home.runtime.glob("*browse-*"))


def browse(home: Home, what: str) -> Any:
    """Return a running `ports browse`."""
    words = [sys.executable, "-m", "ports", "browse", what, "--json"]
    return asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=home.work)


def test_browse_asks_home_and_prints_what_was_opened_there(small_home: Home) -> None:
    left = small_home.runtime / "browse-1-killed.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(left))

    async def test() -> None:
        async with far() as found:
            assert not left.exists()  # the next one clears up
            asking = await browse(small_home, "http://localhost:8888/lab?token=x")
            wish = await found.until(lambda: [one for one in found.messages if one["type"] == "browse"], "wish")
            assert wish[0]["url"] == "http://localhost:8888/lab?token=x"
            found.agent.send({"type": "browse", "id": wish[0]["id"], "ok": True, "opened": "http://localhost:9000/lab"})
            output, _ = await asking.communicate()
            assert (asking.returncode, json.loads(output)["local_url"]) == (0, "http://localhost:9000/lab")
            found.messages.clear()
            asking = await browse(small_home, "https://localhost:8888/")
            wish = await found.until(lambda: [one for one in found.messages if one["type"] == "browse"], "wish")
            found.agent.send({"type": "browse", "id": wish[0]["id"], "ok": False, "error": "there is no browser"})
            output, said = await asking.communicate()
            assert (asking.returncode, said) == (5, b"ports: at home: there is no browser\n")

    run(test)


def test_browse_without_a_connection_from_home_says_so_and_clears_up(small_home: Home) -> None:
    left = small_home.runtime / "browse-1-killed.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(left))
    done = small_home.ports("browse", "http://localhost:8888/")
    assert done.returncode == 3
    assert "no `ports open` at home is connected" in done.stderr and done.stderr.count("\n") == 1
    assert not left.exists()


@pytest.mark.parametrize(
    ("what", "code", "reason"),
    [
        ("file:///etc/passwd", 2, "is not a link to a web page"),
        ("javascript:alert(1)", 2, "is not a link to a web page"),
        ("http://", 2, "is not a link to a web page"),
        ("nothing-of-that-name", 3, "`ports list` shows what is here"),
    ],
)
def test_browse_refuses_what_is_no_page(small_home: Home, what: str, code: int, reason: str) -> None:
    done = small_home.ports("browse", what)
    assert (done.returncode, reason in done.stderr) == (code, True), done.stderr


def test_a_wait_for_a_greeting_ends_with_the_reason_that_was_found() -> None:
    async def test() -> None:
        mine, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(["sh", "-c", "cat >/dev/null"], stdin=theirs, stdout=theirs)
        agent, reason = Agent("server1"), FarSideError("server1", "your start files there read the input")
        asyncio.get_running_loop().call_later(0.3, agent.abandon, reason)
        with pytest.raises(FarSideError, match="read the input"):
            await agent.start(mine, {}, on_message=lambda _: None, on_lost=lambda _: None, timeout=30)
        assert await asyncio.to_thread(process.wait, PATIENCE) == 0
        agent.abandon(reason)  # too late: nothing happens

    run(test)
