"""Notebook servers, with a real Jupyter: private, found again, and gone when they are stopped."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.config
import psutil
import pytest
import websocket

from ports import errors, listeners, notebooks, probe, sessions
from ports.listeners import Listener
from ports.notebooks import _notebooks
from ports.notebooks._notebook import Notebook
from ports.state import paths, runtime_directory
from ports.state.waiting import wait_until
from tests.integration.conftest import new_home

pytestmark = pytest.mark.ci

TOKEN_LENGTH = 48


@pytest.fixture(scope="module", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Records, sockets and Jupyter's own files of these tests alone; nothing may be left of them."""
    top = tmp_path_factory.mktemp("notebooks")
    own = {
        f"JUPYTER_{variable}": str(top / "jupyter" / variable) for variable in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")
    }
    with new_home(top, {**own, "IPYTHONDIR": str(top / "ipython")}):
        yield top


@pytest.fixture(scope="module")
def root(state: Path) -> Path:
    """A directory to serve, with a file whose name is not plain."""
    served = state / "data of alice"
    served.mkdir()
    (served / "notes & more.txt").write_text("seen")
    return served


@pytest.fixture(scope="module")
def shared(root: Path) -> Iterator[Notebook]:
    """One server for the tests that only look."""
    found = notebooks.start("shared", root=root)
    yield found
    found.stop()


def ask(
    notebook: Notebook, method: str, path: str, *, token: str | None = "", port: int | None = None, **headers: str
) -> tuple[int, Any, http.client.HTTPMessage]:
    """Return status, JSON (or text) and headers of an answer; `token` is the notebook's own unless it is None."""
    port = port or notebook.port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    if token is not None:
        headers["Authorization"] = f"token {token or notebook.token}"
    body = headers.pop("body", None)
    try:
        connection.request(method, path, body=body, headers={"Host": f"localhost:{port}", **headers})
        answer = connection.getresponse()
        text = answer.read().decode()
    finally:
        connection.close()
    return answer.status, json.loads(text) if text[:1] in ("{", "[") else text, answer.headers


def run_in_kernel(notebook: Notebook, kernel: str, code: str, *, port: int | None = None) -> str:
    """Run `code` and return what it prints, over a websocket as the browser does it."""
    port = port or notebook.port
    channel = websocket.create_connection(
        f"ws://localhost:{port}/api/kernels/{kernel}/channels",
        header=[f"Authorization: token {notebook.token}"],
        origin=f"http://localhost:{port}",
        timeout=30,
    )
    message = uuid.uuid4().hex
    header = {"msg_id": message, "msg_type": "execute_request", "username": "", "session": message, "version": "5.3"}
    content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False, "stop_on_error": True}
    request = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
    channel.send(json.dumps(request))
    printed, answered, idle = "", False, False
    try:
        while not (answered and idle):
            found = json.loads(channel.recv())
            if found["parent_header"].get("msg_id") != message:
                continue
            if found["msg_type"] == "stream":
                printed += found["content"]["text"]
            assert found["msg_type"] != "error", found["content"]
            answered |= found["msg_type"] == "execute_reply"
            idle |= found["msg_type"] == "status" and found["content"]["execution_state"] == "idle"
    finally:
        channel.close()
    return printed


@contextlib.contextmanager
def relay(port: int) -> Iterator[int]:
    """Forward another local port to `port`, as a tunnel does."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def copy(source: socket.socket, sink: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    sink.sendall(data)
                sink.shutdown(socket.SHUT_WR)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    near, far = server.accept()[0], socket.create_connection(("127.0.0.1", port))
                    for pair in ((near, far), (far, near)):
                        threading.Thread(target=copy, args=pair, daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def kernel_process(notebook: Notebook, kernel: str) -> psutil.Process:
    """Return the process of a kernel."""
    assert notebook.pid is not None
    for child in psutil.Process(notebook.pid).children(recursive=True):
        if any(kernel in word for word in child.cmdline()):
            return child
    raise AssertionError(f"no process of kernel {kernel}")


def process_texts(pid: int) -> str:
    """Return command line and environment of a process."""
    return "".join(Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace") for name in ("cmdline", "environ"))


def files_of(state: Path) -> set[str]:
    """Return what is below the state and the runtime directory, the parts that always stay left out."""
    found = [path for path in (state / "state").rglob("*") if path.is_file()]
    found += [path for path in runtime_directory().rglob("*") if path.suffix != ".lock"]
    return {path.name for path in found} - {"host.json", "runtime.json"}


@pytest.mark.quick
def test_a_server_answers_those_who_know_its_token_and_nobody_else(shared: Notebook, root: Path) -> None:
    assert (shared.state, shared.managed, shared.root) == ("running", True, str(root))
    assert ask(shared, "GET", "/api/status")[0] == 200
    assert ask(shared, "GET", "/api/status", token=None)[0] == 403
    assert ask(shared, "GET", "/api/status", token="0" * TOKEN_LENGTH)[0] == 403
    assert [one["name"] for one in ask(shared, "GET", "/api/contents")[1]["content"]] == ["notes & more.txt"]


@pytest.mark.quick
def test_it_listens_on_loopback_only(shared: Notebook) -> None:
    found = [one for one in probe.probe({"ask_http": False})["listeners"] if one.get("pid") == shared.pid]
    assert {(one["address"], one["port"]) for one in found} == {("127.0.0.1", shared.port)}


@pytest.mark.quick
def test_its_link_opens_lab_without_news_or_updates(shared: Notebook) -> None:
    assert shared.url == f"http://localhost:{shared.port}/lab?token={shared.token}"
    status, page, _ = ask(shared, "GET", f"/lab?token={shared.token}", token=None)
    assert status == 200
    assert '"news": {"disabled": true}' in page


@pytest.mark.quick
def test_a_row_holds_no_token(shared: Notebook) -> None:
    row = notebooks.get("shared").row()
    assert row["url"] == f"http://localhost:{shared.port}/lab"
    assert (row["kind"], row["name"], row["state"], row["pid"]) == ("notebook", "shared", "running", shared.pid)
    assert str(shared.token) not in json.dumps(row) + repr(shared) + shared._repr_html_()


@pytest.mark.quick
def test_kernels_and_pages_work_through_a_tunnel_on_another_port(shared: Notebook) -> None:
    assert shared.port is not None
    with relay(shared.port) as near:
        status, _, headers = ask(shared, "GET", f"/lab?token={shared.token}", token=None, port=near)
        cookies = "; ".join(cookie.split(";")[0] for cookie in headers.get_all("Set-Cookie") or [])
        assert status == 200
        assert ask(shared, "GET", "/api/status", token=None, port=near, Cookie=cookies)[0] == 200
        xsrf = cookies.split("_xsrf=")[1].split(";")[0]
        status, made, _ = ask(
            shared, "POST", "/api/kernels", token=None, port=near,
            Cookie=cookies, Origin=f"http://localhost:{near}", **{"X-XSRFToken": xsrf},
        )  # fmt: skip
        assert status == 201, made
        assert run_in_kernel(shared, made["id"], "print(6 * 7)", port=near) == "42\n"
        assert ask(shared, "DELETE", f"/api/kernels/{made['id']}", port=near)[0] == 204


@pytest.mark.quick
def test_no_command_line_environment_or_log_shows_the_token(shared: Notebook) -> None:
    token = str(shared.token)
    kernel = ask(shared, "POST", "/api/kernels")[1]["id"]
    try:
        shown = run_in_kernel(shared, kernel, "import os; print(dict(os.environ)); print(os.popen('env').read())")
        assert "JUPYTER_RUNTIME_DIR" in shown  # the user's own, not the server's
        assert token not in shown
        assert str(runtime_directory()) not in shown.split("'JUPYTER_RUNTIME_DIR'")[1].split(",")[0]
        # every process that shows it to others, or gives it to its children
        mine = [one.pid for one in psutil.process_iter() if one.pid != os.getpid() and one.uids().real == os.getuid()]
        for pid in mine:
            with contextlib.suppress(OSError):
                assert token not in process_texts(pid), psutil.Process(pid).cmdline()
        assert token not in "\n".join(shared.logs())
    finally:
        ask(shared, "DELETE", f"/api/kernels/{kernel}")


@pytest.mark.quick
def test_kernels_speak_over_sockets_that_only_their_user_may_open(shared: Notebook) -> None:
    kernel = ask(shared, "POST", "/api/kernels")[1]["id"]
    try:
        run_in_kernel(shared, kernel, "pass")
        process = kernel_process(shared, kernel)
        file = Path(next(word for word in process.cmdline() if word.endswith(".json")))
        connection = json.loads(file.read_text())
        assert connection["transport"] == "ipc"
        sockets = list(file.parent.glob(f"kernel-{kernel}-ipc-*"))
        assert len(sockets) >= 5
        assert max(len(str(one)) for one in sockets) < 108
        for directory in (file.parent, file.parent.parent):
            assert (directory.stat().st_uid, stat.S_IMODE(directory.stat().st_mode) & 0o077) == (os.getuid(), 0)
        # One port is ipykernel's own, for the output of forked processes: it takes messages that hold a random key of
        # 16 bytes and tells nothing. The five channels, through which code goes in and output comes out, are sockets.
        listening = [one for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]
        assert len(listening) <= 1
        assert process.pid not in [one.pid for one in listeners.list()]  # and is nothing that a person looks for
    finally:
        ask(shared, "DELETE", f"/api/kernels/{kernel}")


@pytest.mark.quick
def test_the_longest_name_leaves_room_for_the_sockets_of_kernels() -> None:
    assert len(str(runtime_directory() / "nb-0123456789" / f"kernel-{uuid.uuid4()}-ipc-99")) < 104  # macOS's limit


@pytest.mark.quick
def test_a_second_start_of_a_name_is_a_conflict_that_says_how_to_get_there(shared: Notebook) -> None:
    with pytest.raises(errors.NameInUseError, match=r"`ports open \S+:shared` opens it at home") as raised:
        notebooks.start("shared")
    assert raised.value.exit_code == 4
    assert notebooks.get("shared").state == "running"


def test_stop_keeps_log_and_token_and_the_next_start_has_the_same_link(state: Path, root: Path) -> None:
    before = files_of(state)
    first = notebooks.start("again", root=root)
    kernel = ask(first, "POST", "/api/kernels")[1]["id"]
    child = int(run_in_kernel(first, kernel, "import subprocess; print(subprocess.Popen(['sleep', '300']).pid)"))
    processes = [psutil.Process(pid) for pid in (first.pid, child)] + [kernel_process(first, kernel)]
    url = first.url
    _notebooks.stop("again")
    assert [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []
    assert files_of(state) - before == {"notebook-again.log", "notebook-again"}
    assert "Shutting down 1 kernel" in "\n".join(first.logs())
    with pytest.raises(errors.NotFoundError):
        notebooks.get("again")

    second = notebooks.start("again", root=root)
    assert second.url == url
    second.stop()


def test_a_token_that_others_may_have_read_is_replaced(root: Path, state: Path) -> None:
    file = paths.here().token("notebook", "leaky")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("a" * TOKEN_LENGTH)
    file.chmod(0o644)
    found = notebooks.start("leaky", root=root)
    try:
        assert found.token != "a" * TOKEN_LENGTH
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert ask(found, "GET", "/api/status", token="a" * TOKEN_LENGTH)[0] == 403
    finally:
        found.stop()


def test_the_users_own_configuration_cannot_make_it_public(
    state: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = state / "own"
    own.mkdir()
    (own / "jupyter_server_config.py").write_text(
        "c.ServerApp.token = c.IdentityProvider.token = c.NotebookApp.token = ''\n"
        "c.ServerApp.ip = '0.0.0.0'\nc.ServerApp.port = 8888\nc.ServerApp.certfile = '/nonexistent'\n"
        "c.KernelManager.transport = 'tcp'\nc.ServerApp.base_url = '/mine'\n"
    )
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(own))
    monkeypatch.setenv("JUPYTER_TOKEN", "known-to-all")
    found = notebooks.start("own", root=root)
    try:
        assert found.url == f"http://localhost:{found.port}/mine/lab?token={found.token}"
        assert ask(found, "GET", "/mine/api/status", token=None)[0] == 403
        assert ask(found, "GET", "/mine/api/status", token="known-to-all")[0] == 403
        assert ask(found, "GET", "/mine/api/status")[0] == 200
        listeners = [one for one in probe.probe({"ask_http": False})["listeners"] if one.get("pid") == found.pid]
        assert [one["address"] for one in listeners] == ["127.0.0.1"]
    finally:
        found.stop()


@pytest.mark.parametrize("section", ["ServerApp", "FileContentsManager"])
def test_a_preferred_directory_outside_and_a_path_with_blanks_start(
    state: Path, root: Path, monkeypatch: pytest.MonkeyPatch, section: str
) -> None:
    own = state / f"preferred-{section}"
    own.mkdir()
    (own / "jupyter_server_config.py").write_text(
        f"c.{section}.preferred_dir = {str(own)!r}\nc.ServerApp.base_url = '/my lab/'\n"
    )
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(own))
    found = notebooks.start("preferred", root=root)
    try:
        assert found.url == f"http://localhost:{found.port}/my%20lab/lab?token={found.token}"
        assert ask(found, "GET", "/my%20lab/api/status")[0] == 200
        assert any("is left out: it is outside of" in line for line in found.logs())
    finally:
        found.stop()


def test_a_server_that_was_killed_says_so_and_leaves_no_kernel(root: Path, state: Path) -> None:
    before = files_of(state)
    found = notebooks.start("killed", root=root)
    kernel = kernel_process(found, ask(found, "POST", "/api/kernels")[1]["id"])
    assert found.pid is not None
    os.kill(found.pid, signal.SIGKILL)

    def stopped() -> Notebook | None:
        seen = notebooks.get("killed")
        return seen if seen.state == "stopped" and seen.reason == "killed by signal 9" else None

    seen = wait_until(stopped, timeout=15, what="record of the end")
    assert (seen.url, seen.row()["url"]) == (None, None)
    assert not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE
    seen.stop()
    assert files_of(state) - before == {"notebook-killed.log", "notebook-killed"}


def test_a_server_that_does_not_answer_is_not_called_running(shared: Notebook) -> None:
    assert shared.pid is not None
    os.kill(shared.pid, signal.SIGSTOP)
    try:
        seen = notebooks.get("shared")
        assert (seen.state, seen.pid) == ("unknown", shared.pid)
        assert "does not answer" in str(seen.reason)
    finally:
        os.kill(shared.pid, signal.SIGCONT)
    assert notebooks.get("shared").state == "running"


def test_a_server_that_ends_while_it_starts_says_why(state: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = state / "broken"
    broken.mkdir()
    (broken / "jupyter_server_config.py").write_text("print('the licence has run out', flush=True)\nexit(7)\n")
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(broken))
    before = files_of(state)
    with pytest.raises(errors.StartError) as raised:
        notebooks.start("broken", root=root)
    assert raised.value.reason == "exit status 7"
    assert "the licence has run out" in raised.value.output
    assert str(raised.value.log).endswith("logs/notebook-broken.log")
    assert files_of(state) - before == {"notebook-broken.log", "notebook-broken"}


def test_a_start_that_takes_too_long_is_ended(root: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = state / "slow"
    slow.mkdir()
    (slow / "jupyter_server_config.py").write_text("import time\ntime.sleep(300)\n")
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(slow))
    before = files_of(state)
    with pytest.raises(errors.StartError, match=r"did not answer within 2 s"):
        notebooks.start("slow", root=root, timeout=2)
    assert [one.name for one in notebooks.list() if one.name == "slow"] == []
    assert files_of(state) - before == {"notebook-slow.log", "notebook-slow"}


def test_a_start_whose_starter_is_killed_is_found_running(root: Path) -> None:
    code = "from ports import notebooks; notebooks.start('orphan', root='.')"
    starter = subprocess.Popen([sys.executable, "-c", code], cwd=root, env=dict(os.environ))
    launched = sessions.files("notebook", "orphan").record

    def launcher() -> bool | None:
        return True if launched.exists() and json.loads(launched.read_text()).get("launcher") else None

    wait_until(launcher, timeout=20, what="launch")
    starter.kill()
    starter.wait(10)
    found = wait_until(
        lambda: one if (one := notebooks.get("orphan")).state == "running" else None, timeout=20, what="the server"
    )
    assert ask(found, "GET", "/api/status")[0] == 200
    found.stop()


def test_of_two_starts_in_the_same_second_one_wins(root: Path) -> None:
    code = (
        "from ports import errors, listeners, notebooks\n"
        "try:\n    print(notebooks.start('race', root='.').pid)\n"
        "except errors.NameInUseError as error:\n    print(error)\n"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=root, env=dict(os.environ), stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = sorted(one.communicate(timeout=60)[0].strip() for one in both)
    found = notebooks.get("race")
    assert said[0] == str(found.pid)
    assert "notebook 'race' exists already" in said[1]
    found.stop()


@contextlib.contextmanager
def by_hand(root: Path, log: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server as people do, in a terminal, from the directory that it serves."""
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ServerApp.ip=127.0.0.1", *options]
    command += ["--allow-root"] if os.getuid() == 0 else []
    with log.open("wb") as output, subprocess.Popen(command, cwd=root, stdout=output, stderr=output) as process:
        try:
            yield process
        finally:
            process.terminate()


@pytest.mark.quick
def test_a_server_that_was_started_by_hand_is_found_and_left_alone(state: Path) -> None:
    root = state / "Thesis 2026"
    root.mkdir()
    runtime = state / "jupyter" / "RUNTIME_DIR"
    runtime.mkdir(parents=True, exist_ok=True)
    dead = runtime / "jpserver-4000000.json"
    dead.write_text(json.dumps({"pid": 4000000, "port": 8888, "base_url": "/", "root_dir": str(root), "token": "t"}))

    with by_hand(root, state / "by-hand.log") as process:

        def listed() -> Notebook | None:
            return next((one for one in notebooks.list() if one.pid == process.pid and one.token), None)

        found = wait_until(listed, timeout=20, what="the server in the list", every=0.2)
        assert (found.name, found.state, found.managed, found.root) == ("thesis-2026", "running", False, str(root))
        assert ask(found, "GET", "/api/status")[0] == 200
        assert [one.name for one in notebooks.list() if one.root == str(root)] == ["thesis-2026"]
        assert str(found.token) not in json.dumps(found.row())
        for refused in (found.stop, found.logs, found.attach):
            with pytest.raises(errors.UsageError, match="was started by hand"):
                refused()
        assert notebooks.get("thesis-2026").state == "running"
        assert process.poll() is None
        assert {path.name for path in runtime.glob("jpserver-*.json")} == {dead.name, f"jpserver-{process.pid}.json"}
    assert "thesis-2026" not in [one.name for one in notebooks.list()]
    assert dead.exists()
    dead.unlink()


@pytest.fixture(scope="module")
def plain(state: Path) -> Path:
    """A conda environment that has the Jupyter server, and not Lab; its activation sets a variable."""
    prefix = state / "envs" / "plain"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(prefix)], check=True, timeout=60)
    (prefix / "conda-meta").mkdir()
    scripts = prefix / "etc" / "conda" / "activate.d"
    scripts.mkdir(parents=True)
    (scripts / "gdal.sh").write_text('echo loading; export GDAL_DATA="$CONDA_PREFIX/share/gdal"\n')
    (there,) = (prefix / "lib").glob("python3*/site-packages")
    import jupyter_server

    for path in Path(jupyter_server.__file__).parents[1].iterdir():
        if not path.name.lower().startswith(("jupyterlab", "notebook", "jupyter_lsp", "__", "ports")):
            (there / path.name).symlink_to(path)
    return prefix


def test_a_plain_server_runs_in_another_activated_environment(plain: Path, root: Path) -> None:
    command = [sys.executable, "-m", "ports", "notebook", "start", "plain", "--root", str(root), "--env", str(plain)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = notebooks.get("plain")
    try:
        assert said.splitlines()[0].endswith(f"serves {root}, without JupyterLab: it is not in that environment")
        assert found.row()["server"] == "server"
        assert found.url == f"http://localhost:{found.port}/?token={found.token}"
        assert ask(found, "GET", "/")[0] in (200, 302)
        kernel = ask(found, "POST", "/api/kernels")[1]["id"]
        code = "import os, sys; print(sys.prefix); print(os.environ['GDAL_DATA']); print(os.getcwd())"
        printed = run_in_kernel(found, kernel, code).splitlines()
        assert printed == [str(plain), f"{plain}/share/gdal", str(root)]
        assert found.row()["env"] == str(plain)
    finally:
        found.stop()


def test_the_environment_can_be_a_setting_of_this_machine(plain: Path, root: Path) -> None:
    with dask.config.set({"ports.alias": "here", "ports.hosts": {"here": {"notebook_env": str(plain)}}}):
        found = notebooks.start("setting", root=root)
    assert found.row()["env"] == str(plain)
    found.stop()


def test_without_tmux_it_runs_detached(root: Path, monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    found = notebooks.start("detached", root=root)
    assert found.row()["tmux"] is None
    with pytest.raises(errors.TmuxError, match="ports notebook logs detached"):
        found.attach()
    assert "is running at" in "\n".join(found.logs(50))
    found.stop()
    assert found.pid is not None
    assert not psutil.pid_exists(found.pid) or psutil.Process(found.pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.quick
def test_bad_input_is_refused_before_anything_starts(root: Path, state: Path) -> None:
    before = files_of(state)
    empty = state / "empty"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(empty)], check=True, timeout=60)
    with pytest.raises(errors.UsageError, match="does not exist; pass the directory"):
        notebooks.start("bad", root=root / "nowhere")
    with pytest.raises(errors.UsageError, match="is not a directory"):
        notebooks.start("bad", root=root / "notes & more.txt")
    with pytest.raises(errors.InvalidNameError):
        notebooks.start("Not A Name", root=root)
    with pytest.raises(errors.NotFoundError, match="no environment 'nowhere'"):
        notebooks.start("bad", root=root, env="nowhere")
    with pytest.raises(errors.ToolMissingError, match=r"Jupyter in environment 'empty'.*-m pip install jupyterlab"):
        notebooks.start("bad", root=root, env=str(empty))
    with pytest.raises(errors.NotFoundError, match="no notebook 'bad'"):
        _notebooks.stop("bad")
    assert files_of(state) == before


PROVIDERS = """
from jupyter_server.auth import IdentityProvider, User

class Anybody(IdentityProvider):
    def get_user(self, handler):
        return User("anybody")

class BadgeHolders(IdentityProvider):
    login_available = False

    def get_user(self, handler):
        return User("alice") if handler.request.headers.get("X-Badge") == "7" else None
"""
NO_TOKEN = "--IdentityProvider.token="
PROVIDER = "--ServerApp.identity_provider_class=providers"
#: What a server is started with, its environment, and whether it answers without a credential.
ASKING: dict[str, tuple[list[str], dict[str, str], bool]] = {
    "a token": ([], {}, False),
    "a token of the environment": ([], {"JUPYTER_TOKEN": "sesame"}, False),
    "a hashed password": ([NO_TOKEN, "--PasswordIdentityProvider.hashed_password=sha1:1:ab"], {}, False),
    "a password that is required": (
        [
            NO_TOKEN,
            "--PasswordIdentityProvider.hashed_password=sha1:1:ab",
            "--PasswordIdentityProvider.password_required=1",
        ],
        {},
        False,
    ),
    "a header": ([NO_TOKEN, PROVIDER + ".BadgeHolders"], {}, False),
    "nothing": ([NO_TOKEN], {}, True),
    "nothing, with unauthenticated access": ([NO_TOKEN, "--ServerApp.allow_unauthenticated_access=True"], {}, True),
    "nothing, whatever its token": ([PROVIDER + ".Anybody"], {}, True),
    "nothing, at a path": ([NO_TOKEN, "--ServerApp.base_url=/a/b"], {}, True),
}


@contextlib.contextmanager
def servers(state: Path, wanted: dict[str, tuple[list[str], dict[str, str]]]) -> Iterator[dict[str, int]]:
    """Start plain Jupyter servers by hand, all at once; yield their pids."""
    (state / "providers.py").write_text(PROVIDERS)
    (state / "jupyter" / "RUNTIME_DIR").mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        pids = {}
        for what, (options, environ) in wanted.items():
            command = [sys.executable, "-m", "jupyter_server", "--no-browser", *options]
            command += [] if any("sock" in option for option in options) else ["--ServerApp.port=0"]
            command += ["--allow-root"] if os.getuid() == 0 else []
            output = stack.enter_context((state / "asking.log").open("ab"))
            environ = {**os.environ, "PYTHONPATH": str(state), **environ}
            process = subprocess.Popen(command, cwd=state, env=environ, stdout=output, stderr=output)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            pids[what] = process.pid
        yield pids


def seen(pid: int) -> Listener | None:
    return next((one for one in listeners.list() if one.pid == pid and one.kind == "notebook"), None)


def test_one_request_tells_whether_a_server_asks_for_a_credential(state: Path) -> None:
    with servers(state, {what: (options, environ) for what, (options, environ, _) in ASKING.items()}) as pids:

        def all_there() -> bool | None:
            files = {path.name for path in (state / "jupyter" / "RUNTIME_DIR").glob("jpserver-*.json")}
            return {f"jpserver-{pid}.json" for pid in pids.values()} <= files or None

        wait_until(all_there, timeout=60, what="the servers", every=0.3)

        def exposed() -> dict[str, bool]:
            rows = {one.pid: one for one in listeners.list()}
            return {what: "token" in [one.reason for one in rows[pid].exposed] for what, pid in pids.items()}

        expected = {what: is_open for what, (*_, is_open) in ASKING.items()}
        wait_until(lambda: exposed() == expected or None, timeout=20, what=f"{expected}", every=0.3)
        texts = [text for one in listeners.list() if one.pid in pids.values() for text in one.warnings]
        assert not any("kill" in text for text in texts)


def test_a_server_of_a_jupyterhub_has_no_link_and_no_token(state: Path) -> None:
    hub = {"JUPYTERHUB_API_TOKEN": "its-api-token", "JUPYTERHUB_SERVICE_PREFIX": "/user/alice/"}
    options = ["--IdentityProvider.token=its-api-token", "--ServerApp.base_url=/user/alice/"]
    with servers(state, {"hub": (options, hub)}) as pids:
        found = wait_until(lambda: seen(pids["hub"]), timeout=30, what="the server", every=0.2)
        record = state / "jupyter" / "RUNTIME_DIR" / f"jpserver-{pids['hub']}.json"
        assert wait_until(lambda: "its-api-token" in record.read_text() or None, timeout=20, what="its record")
        found = seen(pids["hub"]) or found
        assert (found.token, found.url) == (None, None)
        assert found.reason == "a JupyterHub started it: open it through the hub"
        by_hand = next(one for one in notebooks.list() if one.pid == pids["hub"])
        assert (by_hand.token, by_hand.url) == (None, None)
        assert "its-api-token" not in repr(by_hand.row()) + repr(found.row())


def test_a_server_with_a_runtime_directory_of_its_own_is_found(state: Path) -> None:
    options = [f"--ServerApp.runtime_dir={state / 'elsewhere'}", "--IdentityProvider.token=sesame"]
    with servers(state, {"own": (options, {})}) as pids:

        def with_token() -> Listener | None:
            found = seen(pids["own"])
            return found if found and found.token else None

        assert wait_until(with_token, timeout=30, what="its token", every=0.2).token == "sesame"


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that all users of the machine can look into."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        os.chmod(made, 0o755)
        yield Path(made)


def test_servers_on_unix_sockets_of_their_own_are_found_anywhere(state: Path, public: Path) -> None:
    """The socket listens, so the kernel's table has it, whatever directory holds the record of the server."""
    (state / "deep" / "er").mkdir(parents=True)
    (state / "config").mkdir()
    text = f"c.ServerApp.runtime_dir = {str(state / 'hidden')!r}; c.ServerApp.sock = {str(state / 'c.sock')!r}"
    (state / "config" / "jupyter_server_config.py").write_text(text)
    elsewhere = f"--ServerApp.runtime_dir={state / 'runtime of its own'}"
    wanted: dict[str, tuple[list[str], dict[str, str]]] = {
        "option": ([f"--sock={state / 'deep' / 'er' / 'a b.sock'}", elsewhere], {}),
        "environment": (
            [f"--ServerApp.sock={state / 'e.sock'}"],
            {"JUPYTER_RUNTIME_DIR": str(state / "by environment")},
        ),
        "relative": (["--ServerApp.sock=deep/r.sock", elsewhere], {}),
        "open": ([f"--ServerApp.sock={public / 'open.sock'}", "--ServerApp.sock_mode=0666", NO_TOKEN, elsewhere], {}),
        "enclosed": ([f"--ServerApp.sock={state / 'in.sock'}", "--ServerApp.sock_mode=0666", NO_TOKEN, elsewhere], {}),
        "private": ([f"--ServerApp.sock={state / 'private.sock'}", NO_TOKEN, elsewhere], {}),
        "file": (
            ["--ServerApp.sock_mode=0600"],
            {"JUPYTER_CONFIG_DIR": str(state / "config")},
        ),
    }
    expected = {
        "option": (str(state / "deep" / "er" / "a b.sock"), True, None, []),
        "environment": (str(state / "e.sock"), True, None, []),
        "relative": (str(state / "deep" / "r.sock"), True, None, []),
        "open": (str(public / "open.sock"), False, None, ["token"]),
        "enclosed": (str(state / "in.sock"), False, None, []),
        "private": (str(state / "private.sock"), False, None, []),
        "file": (str(state / "c.sock"), True, None, []),
    }
    with servers(state, wanted) as pids:

        def found() -> dict[str, tuple[str | None, bool, str | None, list[str]]]:
            rows = {one.pid: one for one in listeners.list() if one.kind == "notebook" and one.path}
            return {
                what: (
                    rows[pid].path,
                    bool(rows[pid].token),
                    (rows[pid].reason or "").partition(":")[0] or None,
                    [one.reason for one in rows[pid].exposed],
                )
                for what, pid in pids.items()
                if pid in rows
            }

        try:
            wait_until(lambda: found() == expected or None, timeout=60, what="the servers", every=0.5)
        finally:
            assert found() == expected
        rows = [one for one in listeners.list() if one.pid in pids.values()]
        assert sorted(one.path or "" for one in rows) == sorted(path for path, *_ in expected.values())


def test_what_else_a_notebook_server_opens_is_no_page(state: Path) -> None:
    """An extension's own Unix sockets, those of kernels, and those of other programs are not listed."""
    (state / "extra.py").write_text(
        "import socket\ndef _jupyter_server_extension_points(): return [{'module': 'extra'}]\n"
        "def _load_jupyter_server_extension(server):\n"
        "    server.extra = socket.socket(socket.AF_UNIX); server.extra.bind('extra.sock'); server.extra.listen()\n"
    )
    with servers(state, {"one": (["--ServerApp.jpserver_extensions={'extra': True}"], {})}) as pids:
        found = wait_until(lambda: seen(pids["one"]), timeout=30, what="the server", every=0.2)
        wait_until(lambda: (state / "extra.sock").exists() or None, timeout=10, what="the extension's socket")
        assert [one.port for one in listeners.list() if one.pid == pids["one"]] == [found.port]
        assert not [one for one in listeners.list() if one.path and one.kind != "notebook"]
