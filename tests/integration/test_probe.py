"""The probe among real listeners: this process's, a Jupyter server's, Dask's, another user's."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ports import listeners, probe
from ports.listeners import Listener
from ports.probe.sockets import netlink_listeners, parse_proc_net, psutil_listeners
from ports.state.waiting import wait_until

pytestmark = pytest.mark.xdist_group("machine")

OLD_PYTHONS = [*Path.home().glob(".pyenv/versions/3.6.*/bin/python"), Path("/usr/bin/python3.6")]
OLD_PYTHON = next((str(path) for path in OLD_PYTHONS if path.exists()), None)
Run = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def run() -> Iterator[Run]:
    """Start a process that ends with the test."""
    with contextlib.ExitStack() as stack:

        def start(*argv: str, **options: Any) -> subprocess.Popen[bytes]:
            options = {
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.DEVNULL,
                "stderr": subprocess.DEVNULL,
            } | options
            child = stack.enter_context(subprocess.Popen(argv, start_new_session=True, **options))

            def end() -> None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGTERM)
                try:
                    child.wait(10)
                except subprocess.TimeoutExpired:
                    os.killpg(child.pid, signal.SIGKILL)

            stack.callback(end)
            return child

        yield start


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the probe only the records that the test makes."""
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    return tmp_path


class Server:
    """A listener of this process that says `greeting`, keeps what it hears, then says `answer`."""

    def __init__(
        self, greeting: bytes = b"", answer: bytes = b"", address: str = "127.0.0.1", computes: float = 0.0
    ) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.create_server((address, 0), family=family)
        self.port = self._socket.getsockname()[1]
        self.heard: list[bytes] = []
        self._greeting, self._answer, self._computes = greeting, answer, computes
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(2)
                with contextlib.suppress(OSError):
                    connection.sendall(self._greeting)
                    self.heard.append(connection.recv(1000))
                    time.sleep(self._computes)
                    connection.sendall(self._answer if self.heard[-1] else b"")

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)


def rows_of(document: dict[str, Any], port: int) -> list[dict[str, Any]]:
    return [row for row in document["listeners"] if row["port"] == port]


@pytest.mark.parametrize(
    ("address", "family", "network"),
    [("127.0.0.1", "tcp", False), ("0.0.0.0", "tcp", True), ("::1", "tcp6", False), ("::", "tcp6", True)],
)
def test_a_listener_is_found_with_its_process(address: str, family: str, network: bool) -> None:
    with Server(address=address) as server:
        (row,) = rows_of(probe.probe({"ask_http": False}), server.port)
        identity = probe.process_identity(os.getpid())
    assert (row["family"], row["address"], row["open_to_network"]) == (family, address, network)
    assert (row["pid"], row["uid"], row["cwd"]) == (os.getpid(), os.getuid(), str(Path.cwd()))
    assert row["argv"] == Path("/proc/self/cmdline").read_text().split("\0")[:-1]
    assert row["started_at"] <= probe.probe()["time"] and identity["pid"] == os.getpid()


def test_netlink_proc_and_psutil_agree() -> None:
    with Server() as one, Server(address="::1") as two:
        ports = {one.port, two.port}
        netlink = [row for row in netlink_listeners() if row["port"] in ports]
        proc = parse_proc_net(Path("/proc/net/tcp").read_text(), False)
        proc += parse_proc_net(Path("/proc/net/tcp6").read_text(), True)
        others = [row for row in psutil_listeners([]) if row["port"] in ports]
    assert len(netlink) == 2 and sorted(netlink, key=str) == sorted((r for r in proc if r["port"] in ports), key=str)
    assert {(row["family"], row["port"], row["pid"]) for row in others} == {
        ("tcp", one.port, os.getpid()),
        ("tcp6", two.port, os.getpid()),
    }


def test_a_port_that_speaks_first_is_not_spoken_to() -> None:
    with Server(greeting=b"SSH-2.0-x\r\n") as server:
        (row,) = rows_of(probe.probe(), server.port)
    assert (row["http"], server.heard) == (False, [b""])


def test_a_silent_port_is_asked_by_http() -> None:
    with Server(answer=b"HTTP/1.0 404 Not Found\r\n\r\n") as web, Server(answer=b"what?\r\n") as other:
        document = probe.probe({"patience": 2.0})
        heard = wait_until(lambda: web.heard or None, timeout=2, what="the question")
    assert rows_of(document, web.port)[0]["http"] is True and heard[0].startswith(b"HEAD / HTTP/1.0\r\n")
    assert rows_of(document, other.port)[0]["http"] is False


def test_a_busy_dask_that_accepts_late_gets_no_http() -> None:
    heard: list[bytes] = []

    def serve() -> None:
        select.select([busy], [], [])
        time.sleep(0.3)  # computes
        with busy.accept()[0] as connection:
            time.sleep(0.2)  # computes on
            connection.sendall(b"pickle-protocol")
            heard.append(connection.recv(1000))

    with socket.create_server(("127.0.0.1", 0)) as busy:
        thread = threading.Thread(target=serve)
        thread.start()
        (row,) = rows_of(probe.probe({"port": busy.getsockname()[1], "patience": 6.0}), busy.getsockname()[1])
        thread.join(5)
    assert row["kind"] == "dask-scheduler" and heard == [b""]


@pytest.mark.ci
def test_who_accepts_may_compute_for_longer_than_who_does_not_even_accept() -> None:
    with Server(answer=b"HTTP/1.0 200 OK\r\n\r\n", computes=2.2) as slow:
        (row,) = rows_of(probe.probe({"port": slow.port, "patience": 2.0}), slow.port)
    assert row["http"] is True
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port, start = deaf.getsockname()[1], time.monotonic()
        (row,) = rows_of(probe.probe({"port": port, "patience": 6.0}), port)
        assert row["http"] is None and 3.0 <= time.monotonic() - start < 5.5


def test_asking_can_be_left_out() -> None:
    with Server(answer=b"HTTP/1.0 200 OK\r\n\r\n") as server:
        (row,) = rows_of(probe.probe({"ask_http": False}), server.port)
    assert row["http"] is None and server.heard == []


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to run a process as another user")
def test_another_user_s_listener_is_port_and_user_only_and_not_spoken_to(run: Run) -> None:
    code = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); "
        "s.accept(); print('somebody connected', flush=True)"
    )
    child = run(sys.executable, "-I", "-c", code, user=65534, stdout=subprocess.PIPE, cwd="/")
    assert child.stdout is not None
    port = int(child.stdout.readline())
    assert rows_of(probe.probe(), port) == []
    (row,) = rows_of(probe.probe({"all": True}), port)
    assert (row["user"], row["uid"], row.get("pid"), row.get("argv")) == ("nobody", 65534, None, None)
    assert rows_of(probe.probe({"port": port}), port) == [row]
    (seen,) = (one for one in listeners.list(all_users=True) if one.port == port)
    assert (seen.mine, seen.owner, seen.pid, seen.name, seen.directory) == (False, "nobody", None, None, None)
    child.terminate()
    assert child.stdout.read() == b""


def mine_at(port: int) -> Listener | None:
    return next((one for one in listeners.list() if one.port == port), None)


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """Start a Jupyter server by hand, with a runtime directory that only its own environment names."""
    directory = tmp_path_factory.mktemp("jupyter")
    root = directory / "My Analysis (2)"
    root.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    variables = {"JUPYTER_RUNTIME_DIR": str(directory / "runtime"), "JUPYTER_CONFIG_DIR": str(directory / "config")}
    argv = [sys.executable, "-m", "jupyter_server", "--allow-root", "--no-browser", f"--port={port}"]
    argv += ["--ServerApp.port_retries=0", "--ServerApp.token=secret1234", "--ServerApp.base_url=/hub/alice/"]
    with subprocess.Popen(
        argv, cwd=root, env={**os.environ, **variables}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as child:
        try:
            records = (directory / "runtime").glob
            wait_until(lambda: [*records("jpserver-*.json")] or None, timeout=60, what="record of the Jupyter server")
            yield root, port
        finally:
            child.terminate()


def test_a_jupyter_server_started_by_hand_is_found_with_its_token(jupyter: tuple[Path, int]) -> None:
    root, port = jupyter
    found = wait_until(lambda: mine_at(port), timeout=10, what="the Jupyter server")
    assert (found.kind, found.name, found.directory, found.state) == ("notebook", "my-analysis-2", str(root), "running")
    assert (found.token, found.managed, found.http) == ("secret1234", False, True)
    assert found.url == f"http://localhost:{port}/hub/alice"
    assert "secret1234" not in repr(found) + json.dumps(found.row())


def test_a_stale_record_names_nobody_and_stays(jupyter: tuple[Path, int], own_state: Path) -> None:
    """The server that left it had the port of the test's own listener."""
    runtime = own_state / "runtime"
    runtime.mkdir()
    with Server() as server:
        stale = runtime / "jpserver-1.json"
        stale.write_text(json.dumps({"pid": 1, "port": server.port, "token": "old", "base_url": "/"}))
        (runtime / "nbserver-7.json").write_text('{"pid": 7, "po')
        with pytest.warns(UserWarning, match=r"nbserver-7\.json cannot be read"):
            found = mine_at(server.port)
        assert found is not None and (found.kind, found.token) == ("listener", None)
        assert stale.exists() and (runtime / "nbserver-7.json").exists()


def test_a_hand_started_dask_is_one_listener(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    argv = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--host", "127.0.0.1"]
    child = run(*argv, "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file), cwd=tmp_path)
    wait_until(lambda: file.exists() or None, timeout=60, what="the scheduler")

    def seen() -> Listener | None:
        found = [one for one in listeners.list() if one.pid == child.pid]
        assert len(found) <= 1
        return found[0] if found and found[0].http else None

    found = wait_until(seen, timeout=30, what="the dashboard")
    assert (found.kind, found.name, found.url_path, found.directory) == (
        "dask-scheduler",
        "dask-scheduler",
        "status",
        str(tmp_path),
    )


@pytest.mark.ci
def test_a_jupyter_server_on_a_unix_socket_is_found(run: Run, own_state: Path) -> None:
    path = own_state / "jupyter.sock"
    argv = [sys.executable, "-m", "jupyter_server", "--allow-root", "--no-browser", f"--ServerApp.sock={path}"]
    child = run(*argv, cwd=own_state, env={**os.environ, "JUPYTER_CONFIG_DIR": str(own_state / "config")})
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(own_state / "other.sock"))
        other.listen()

        def seen() -> list[Listener] | None:
            return [one for one in listeners.list() if one.path and str(own_state) in one.path] or None

        (found,) = wait_until(seen, timeout=30, what="the server")
    assert (found.path, found.port, found.kind, found.pid) == (str(path), None, "notebook", child.pid)
    assert found.token and found.url is None


def pipe(request: dict[str, Any], python: str, **options: Any) -> dict[str, Any] | None:
    text = probe.script({**request, "marker": "ports-test:"})
    done = subprocess.run([python, "-I", "-S", "-"], input=text, capture_output=True, text=True, timeout=60, **options)
    assert done.returncode == 0, done.stderr
    return probe.read_answer(done.stdout, "ports-test:")


@pytest.mark.parametrize("python", [sys.executable, OLD_PYTHON], ids=["this", "3.6"])
def test_the_probe_runs_from_a_pipe(python: str | None) -> None:
    if python is None:
        pytest.skip("there is no Python 3.6 here")
    with Server(answer=b"HTTP/1.0 200 OK\r\n\r\n", address="::1") as server:
        answer = pipe({"do": "probe", "patience": 2.0}, python)
        assert answer is not None
        (row,) = rows_of(answer, server.port)
        (here,) = rows_of(probe.probe({"patience": 2.0}), server.port)
    assert {**row, "started_at": 0} == {**here, "started_at": 0} and abs(row["started_at"] - here["started_at"]) < 1
    assert answer["machine_id"] == probe.machine_id()


NOISE = {
    "bash": (".bash_profile", "echo welcome; echo PATH=/wrong; export PATH={bin}:$PATH\n"),
    "tcsh": (".tcshrc", "echo welcome\nsetenv PATH {bin}:$PATH\n"),
    "fish": (".config/fish/config.fish", "echo welcome\nset -gx PATH {bin} $PATH\n"),
}


@pytest.mark.parametrize("shell", NOISE)
def test_ports_is_found_on_the_path_of_a_login_shell_that_prints(shell: str, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"there is no {shell} here")
    file, text = NOISE[shell]
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    binaries = tmp_path / "far bin"
    binaries.mkdir()
    (tmp_path / file).write_text(text.format(bin=f"'{binaries}'"))
    (binaries / "ports").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ports "$@"\n')
    (binaries / "ports").chmod(stat.S_IRWXU)
    environ = {"HOME": str(tmp_path), "SHELL": program, "PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path.cwd())}
    answer = pipe({"do": "run", "argv": ["--version"]}, sys.executable, env=environ)
    assert answer is not None and answer["command"] == str(binaries / "ports")
    assert (answer["status"], answer["stdout"].count("\n")) == (0, 1)


def test_without_ports_on_the_far_side_the_answer_says_so(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"}
    answer = pipe({"do": "run", "argv": ["list"]}, sys.executable, env=environ)
    assert answer is not None and answer["error"] == "no-ports" and "install it" in answer["message"]
    answer = pipe({"do": "run", "argv": ["list"], "env": "nosuch"}, sys.executable, env=environ)
    assert answer is not None and answer["error"] == "no-ports" and "'nosuch'" in answer["message"]


def test_the_run_is_interrupted_when_nobody_waits_for_its_answer(run: Run, tmp_path: Path) -> None:
    """As when somebody types Ctrl-C at home: a start there must not go on by itself."""
    (tmp_path / "ports").write_text(
        "#!/bin/sh\ntrap 'echo $$ > ended; exit 130' INT\n: > up\nwhile :; do sleep 0.1; done\n"
    )
    (tmp_path / "ports").chmod(stat.S_IRWXU)
    (tmp_path / ".profile").write_text(f"PATH='{tmp_path}':$PATH\n")
    environ = {"HOME": str(tmp_path), "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"}
    child = run(sys.executable, "-", env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(probe.script({"do": "run", "argv": [], "marker": "x"}).encode())
    child.stdin.close()
    wait_until(lambda: (tmp_path / "up").exists() or None, timeout=20, what="the run")
    child.stdout.close()
    wait_until(lambda: (tmp_path / "ended").exists() or None, timeout=10, what="its interruption")
    child.wait(10)
