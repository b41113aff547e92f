"""What the probe reads and decides, without a listener."""

from __future__ import annotations

import ast
import ipaddress
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ports import probe
from ports.probe import identity, piped, recognise, socket_users, sockets
from ports.probe.agent import watch
from ports.probe.ask import ask_notebooks, find_exposed, is_for_others
from ports.probe.programs.examine import first_line
from ports.probe.recognise import kind_of, recognise_sessions, runtime_directories, words_of
from ports.probe.records import read_sessions
from ports.probe.sockets import new_row, parse_netlink, parse_proc_net
from ports.state.waiting import wait_until

FILES_OF = Path(piped.__file__).parent
PIECES = [*piped.FILES.values(), *piped.MORE.values()]
FILES = [FILES_OF / f"{name}.py" for names in PIECES for name in names]
# `code.replace` is Python 3.8's: older ones have the text only
INTERPRETERS = [Path(sys.executable), *sorted(Path.home().glob(".pyenv/versions/3.[1-9][0-9]*/bin/python"))]
ROWS = st.lists(
    st.tuples(
        st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)),
        st.integers(1, 65535),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
    ),
    max_size=20,
)


def datagram(rows: list[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int, int, int]], end: bool) -> bytes:
    data = b""
    for address, port, uid, inode in rows:
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        body = struct.pack("=BBBB", family, 10, 0, 0) + struct.pack(">HH", port, 0) + address.packed.ljust(16, b"\0")
        body += bytes(16 + 12) + bytes(12) + struct.pack("=II", uid, inode)
        data += struct.pack("=IHHII", 16 + len(body), 20, 2, 1, 0) + body
    return data + (struct.pack("=IHHIIi", 20, 3, 2, 1, 0, 0) if end else b"")


@given(rows=ROWS, end=st.booleans())
def test_each_listener_of_a_netlink_datagram_is_read(rows: list, end: bool) -> None:
    found, last = parse_netlink(datagram(rows, end))
    assert last == end
    assert [(ipaddress.ip_address(row["address"]), row["port"], row["uid"], row["inode"]) for row in found] == rows


@given(data=st.binary(max_size=300))
def test_a_broken_netlink_datagram_is_an_error_or_read_to_its_end(data: bytes) -> None:
    try:
        parse_netlink(data)
    except OSError:
        pass


@given(rows=ROWS)
def test_proc_net_says_what_netlink_says(rows: list) -> None:
    for version in (4, 6):
        lines = ["  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"]
        mine = [row for row in rows if row[0].version == version]
        for address, port, uid, inode in mine:
            words = struct.unpack(f"={len(address.packed) // 4}I", address.packed)
            shown = "".join(f"{word:08X}" for word in words)
            for state in ("0A", "01"):  # a connection beside each listener
                lines.append(f"0: {shown}:{port:04X} {shown}:0000 {state} 0:0 00:0 00000000 {uid} 0 {inode} 1 0 100")
        found = parse_proc_net("\n".join(lines), version == 6)
        assert found == parse_netlink(datagram(mine, True))[0]


@pytest.mark.parametrize(
    ("address", "seen"),
    [
        *[("127.0.0.1", False), ("127.0.1.1", False), ("::1", False), ("::ffff:127.0.0.1", False)],
        *[("0.0.0.0", True), ("::", True), ("192.168.1.4", True), ("fe80::1", True)],
    ],
)
def test_what_is_not_on_the_loopback_is_open_to_the_network(address: str, seen: bool) -> None:
    family = "tcp6" if ":" in address else "tcp"
    assert new_row(family, address, 80, 0, 0)["open_to_network"] is seen


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("/opt/env/bin/python3.11 /opt/env/bin/jupyter-lab --port=8888", "notebook"),
        ("/opt/env/bin/python -m jupyter lab", "notebook"),
        ("python -Im jupyterlab", "notebook"),
        ("python3 -X dev -W ignore -m notebook", "notebook"),
        ("/usr/bin/python3 /usr/local/bin/jupyterhub-singleuser --port=0", "notebook"),
        ("python -m jupyter_server", "notebook"),
        ("python /env/bin/tensorboard --logdir runs", "tensorboard"),
        ("python -m tensorboard.main --logdir runs", "tensorboard"),
        ("/env/bin/python /env/lib/debugpy/adapter --for-server 4711 --host 127.0.0.1 --port 5678", "debugpy"),
        ("python -m debugpy.adapter --for-server 4711 --port 5678", "debugpy"),
        ("python -m debugpy --listen 5678 app.py", "listener"),  # the program's; its adapter is another process
        ("python /env/bin/mlflow ui", "mlflow"),
        ("/env/bin/python /env/bin/gunicorn -b 127.0.0.1:5000 -w 4 mlflow.server:app", "mlflow"),
        ("python /env/bin/bokeh serve app.py", "bokeh"),
        ("python -m panel serve app.ipynb", "panel"),
        ("python -m streamlit run app.py", "streamlit"),
        ("python /env/bin/dask scheduler --port 0", "dask-scheduler"),
        ("python /env/bin/dask-scheduler", "dask-scheduler"),
        ("python -m distributed.cli.dask_worker tcp://10.0.0.1:8786", "dask-worker"),
        ("/home/a/.vscode-server/bin/1/node /home/a/.vscode-server/bin/1/out/server-main.js --port=0", "code-server"),
        ("/usr/lib/rstudio-server/bin/rserver", "rstudio"),
        ("python3 -m http.server 8000", "http-server"),
        ("ssh -N -L 8888:localhost:8888 server1", "tunnel"),
        ("/usr/bin/python3 -m ports open server1", "tunnel"),
        ("postgres -D /data", "database"),
        ("python train.py --notebook", "listener"),
        ("python -c import.jupyterlab", "listener"),
        ("/home/a/bin/sshfs-web", "listener"),
    ],
)
def test_a_command_line_tells_what_listens(line: str, kind: str) -> None:
    assert kind_of(line.split(" "), 8888) == kind


def test_the_forwarded_port_of_a_login_is_a_tunnel_and_no_path() -> None:
    assert kind_of(["sshd: alice@pts/0"], 6010) == "tunnel"


@given(argv=st.lists(st.text(st.characters(exclude_characters="\0"), max_size=12), max_size=6))
def test_any_command_line_has_a_kind(argv: list[str]) -> None:
    assert kind_of(argv, 80) and words_of(argv) is not None


def test_only_the_ports_of_its_connection_file_are_the_kernel_s(tmp_path: Path) -> None:
    file = tmp_path / "kernel-3f.json"
    file.write_text(json.dumps({"shell_port": 4001, "iopub_port": 4002, "stdin_port": 4003}))
    argv = ["python", "-m", "ipykernel_launcher", "-f", str(file)]
    assert (kind_of(argv, 4002), kind_of(argv, 8787)) == ("kernel", "listener")
    file.write_text('{"shell_port": 40')
    assert kind_of(argv, 4002) == "kernel"


@pytest.mark.parametrize(
    ("row", "reasons"),
    [
        ({"kind": "dask-scheduler", "greets": True}, ["dask"]),
        ({"kind": "dask-scheduler", "http": True}, ["dashboard"]),
        ({"kind": "dask-scheduler", "http": False}, []),  # with TLS it does not greet
        ({"kind": "notebook", "token": "", "open": True}, ["token"]),
        ({"kind": "notebook", "token": "3f"}, []),
        ({"kind": "notebook", "token": "", "open": False}, []),
        ({"kind": "http-server", "open_to_network": True}, ["network"]),
        ({"kind": "kernel"}, ["kernel"]),
        ({"kind": "kernel", "greets": None}, []),  # the port that collects and tells nothing
        ({"kind": "debugpy", "argv": ["adapter", "--for-server", "4711", "--port", "80"]}, ["debugger"]),
        ({"kind": "debugpy", "argv": ["adapter", "--for-server", "4711", "--port", "81"]}, []),
        ({"kind": "cluster"}, []),
    ],
)
def test_what_others_can_use_is_noted(row: dict[str, object], reasons: list[str]) -> None:
    whole = {"pid": 7, "port": 80, "http": None, "open_to_network": False, "greets": False, **row}
    find_exposed([whole], {})
    assert whole["exposed"] == reasons and "greets" not in whole


SPAWN, FORKSERVER = "multiprocessing.spawn import spawn_main", "multiprocessing.forkserver import main"
TLS = {"address": "tls://127.0.0.1:4000", "dashboard": "/s/d.sock"}
SOCKETS = {"address": "unix:///s/scheduler", "dashboard": "/s/d.sock", "dashboard_port": 4004}


@pytest.mark.parametrize(
    ("running", "pid", "above", "row", "is_own"),
    [
        (TLS, 50, [], {}, True),  # scheduler and nannies
        (TLS, 51, [50], {"argv": ["python", "-c", SPAWN]}, True),
        (TLS, 51, [60, 50], {"argv": ["python", "-c", FORKSERVER]}, True),
        (TLS, 51, [50], {"argv": ["python", "-c", SPAWN], "address": "0.0.0.0"}, False),
        (TLS, 70, [51, 50], {"argv": ["python", "-c", SPAWN]}, False),  # a worker of a cluster in a task
        (TLS, 70, [51, 60, 50], {"argv": ["python", "-c", FORKSERVER]}, False),
        (TLS, 70, [50], {"argv": ["python", "train.py"]}, False),
        (SOCKETS, 50, [], {}, False),
        (SOCKETS, 50, [], {"port": 4004}, True),
        (SOCKETS, 51, [50], {"argv": ["python", "-c", SPAWN]}, False),
    ],
)
def test_what_tasks_open_is_told_from_a_cluster_s_own_ports(
    running: dict[str, object], pid: int, above: list[int], row: dict[str, object], is_own: bool
) -> None:
    whole: dict[str, object] = {"kind": "listener", "pid": pid, "port": 46507, "path": None, "address": "127.0.0.1"}
    whole |= {"argv": ["python", "-c", "from ports_owner import owner"], **row}
    known = {"name": "main", "alive": True, "running": {**running, "process": {"pid": 50}}}
    recognise_sessions([whole], {"clusters": [known], "notebooks": []}, {pid: [*above, 9, 1]})
    assert (whole.get("of"), whole.get("task_of")) == (("cluster:main", None) if is_own else (None, "main"))


def test_a_kernel_is_its_server_s() -> None:
    usual = {"port": 80, "http": None, "open_to_network": False, "token": "3f"}
    server, kernel = {"kind": "notebook", "pid": 7, **usual}, {"kind": "kernel", "pid": 9, **usual}
    rows = [{**one, "greets": False} for one in (server, kernel)]
    find_exposed(rows, {9: [8, 7, 1]})
    assert rows[1]["of"] == "server:7"


def test_runtime_directories_follow_the_variables_of_the_server() -> None:
    assert runtime_directories({"HOME": "/h"})[0] == "/h/.local/share/jupyter/runtime"
    assert runtime_directories({"HOME": "/h", "XDG_DATA_HOME": "/x"})[0] == "/x/jupyter/runtime"
    assert runtime_directories({"HOME": "/h", "JUPYTER_DATA_DIR": "/d"})[0] == "/d/runtime"
    assert runtime_directories({"HOME": "/h", "JUPYTER_RUNTIME_DIR": "/r"})[0] == "/r"


def test_a_process_is_alive_until_it_ends_and_a_zombie_is_not() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        identity = probe.process_identity(child.pid)
        assert probe.is_same_process_alive(identity) is True
        assert probe.is_same_process_alive({**identity, "start_ticks": identity["start_ticks"] - 1}) is False
        assert probe.is_same_process_alive({**identity, "boot_id": "another"}) is False
        assert probe.is_same_process_alive({**identity, "pid_namespace": "pid:[1]"}) is None
        assert probe.is_same_process_alive({**identity, "machine": "another"}) is None
        assert child.stdin is not None
        child.stdin.close()
        wait_until(lambda: probe.is_same_process_alive(identity) is False or None, timeout=5, what="end of the child")
        assert child.returncode is None  # nobody has waited for it: it is a zombie
    with pytest.raises(ProcessLookupError):
        probe.process_identity(child.pid)


def session_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, part: str, text: str) -> None:
    monkeypatch.setenv("PORTS_HOME", str(tmp_path))
    directory = tmp_path / "hosts" / probe.machine_id() / "clusters" / "main"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{part}.json").write_text(text)


@pytest.mark.parametrize(
    ("text", "newer"),
    [('{"format": 1, "name"', False), ("[]", False), ("{}", False), ('{"format": 99}', True), ("\x00\xff", False)],
)
def test_an_unreadable_record_is_told_and_never_raised(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, newer: bool
) -> None:
    session_file(monkeypatch, tmp_path, "record", text)
    (found,) = read_sessions("clusters")
    assert (found["name"], found["newer"]) == ("main", newer)
    assert "record" in found["error"] and ("format 99" in found["error"]) is newer


def test_half_a_running_record_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    session_file(monkeypatch, tmp_path, "record", '{"format": 1}')
    session_file(monkeypatch, tmp_path, "running", '{"format": 1, "process": 7}')
    assert "half a record" in read_sessions("clusters")[0]["error"]


@given(before=st.text(max_size=40), after=st.text(max_size=40), value=st.text(max_size=20))
def test_the_answer_is_found_among_what_shells_print(before: str, after: str, value: str) -> None:
    output = f"{before}\nports-1f2e:{json.dumps({'value': value})}\n{after}"
    assert probe.read_answer(output, "ports-1f2e:") == {"value": value}
    assert probe.read_answer(output[: output.index("}")], "ports-1f2e:") is None


@pytest.mark.parametrize("file", sorted(set(FILES)), ids=lambda file: file.stem)
def test_what_is_piped_is_python_3_6_with_its_standard_library(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 6))
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and not node.level)
    }
    assert imported <= sys.stdlib_module_names | {"psutil"}
    assert not any(isinstance(node, ast.NamedExpr | ast.JoinedStr) for node in ast.walk(tree))


HOMES = ({"PORTS_HOME": "/{}"}, {"PORTS_HOME": "{}/a/../b"}, {"PORTS_HOME": "{}/a/./b/"}, {"PORTS_HOME": "~/mine"})
HOMES += ({"PORTS_HOME": "half"}, {"PORTS_HOME": ""}, {"XDG_STATE_HOME": "{}"}, {"XDG_STATE_HOME": "half"}, {})


@pytest.mark.parametrize("variables", HOMES, ids=str)
def test_both_sides_mean_the_same_directories(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Records and sockets that one side writes are where the other one looks."""
    from ports import state
    from ports.probe.agent.browse import runtime_directory
    from ports.state import paths

    for name in ("PORTS_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    assert os.fsencode(probe.state_directory()) == os.fsencode(paths.state_directory())
    assert os.path.isabs(probe.state_directory())
    usual, made = tmp_path / "sockets", []  # type: tuple[Path, list[str]]
    monkeypatch.setattr("ports.probe.files.usual_runtime_directory", lambda: str(usual))
    monkeypatch.setattr("ports.probe.agent.browse.usual_runtime_directory", lambda: str(usual))
    assert os.fsencode(runtime_directory(made)) == os.fsencode(state.runtime_directory())


UNTOLD = """
def told():
    "What it does."
    return "told"
def untold():
    return "untold"
async def later():
    return "later"
class Both:
    "What it is."
    word = "class"
    def told(self):
        "What it does."
        return [one for one in ("a", "b")], {"x" for _ in "12"}, (lambda: "inner")()
found = (told(), untold(), Both.word, Both().told(), told.__doc__, Both.__doc__)
"""


@pytest.mark.parametrize("python", INTERPRETERS, ids=lambda path: path.parts[-3])
def test_byte_code_without_docstrings_does_the_same(python: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(piped.__file__).parents[1])!r}); from probe.piped import smaller\n"
        f"whole = compile({UNTOLD!r}, 'file', 'exec')\n"
        "for lines in (True, False):\n"
        "    names = {}; exec(smaller(whole, lines), names); print(names['found'])"
    )
    done = subprocess.run([python, "-I", "-S", "-c", code], capture_output=True, text=True, check=True, timeout=30)
    expected = ("told", "untold", "class", (["a", "b"], {"x"}, "inner"), None, "What it is.")
    assert done.stdout.splitlines() == [str(expected)] * 2


@pytest.mark.parametrize("do", sorted(set(piped.FILES) - {"agent"}))  # which is sent in pieces
def test_what_is_piped_fits_into_a_pipe_with_room_to_spare(do: str) -> None:
    assert len(probe.script({"do": do, "marker": "m" * 40})) < 60 * 1024


def test_records_that_cannot_be_listed_are_not_taken_for_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PORTS_HOME", str(tmp_path))
    folder = Path(probe.host_directory()) / "clusters"
    folder.parent.mkdir(parents=True)
    folder.write_text("no directory")
    found = probe.probe({"ask_http": False})
    assert found["clusters"] == [] and found["notebooks"] == []
    assert f"the clusters of ports cannot be listed: {folder}: Not a directory" in found["warnings"]


@pytest.mark.parametrize(
    ("lines", "said"), [("exit 0", "ended the shell"), ("exec cat", "ended the shell"), ("sleep 9", "more than 0.5 s")]
)
def test_a_login_environment_that_is_not_shown_is_not_empty(
    lines: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ports.probe.programs import run

    (tmp_path / ".bash_profile").write_text(f"{lines}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", "/bin/bash")
    with pytest.raises(run.StartFilesError, match=said):
        run.login_environment(timeout=0.5 if "sleep" in lines else 20)


def test_a_look_notices_a_new_unix_socket_of_this_user(tmp_path: Path) -> None:
    document, path = probe.probe({"ask_http": False}), str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        assert path not in [one for one, _ in watch.glance({}, document)[1]]
        listener.listen()
        assert path in [one for one, _ in watch.glance({}, document)[1]]
        listed = [row["path"] for row in probe.probe({"ask_http": False})["listeners"]]
    assert path not in listed  # no notebook server has it


RECORD = {"pid": 7, "port": 0, "sock": "work/r.sock"}


@pytest.mark.parametrize(
    ("path", "cwd", "is_its"),
    [("/a/work/r.sock", "/a", True), ("/b/work/r.sock", "/a", False), ("work/r.sock", None, True), (None, "/a", False)],
)
def test_a_record_of_jupyter_names_a_socket_relative_to_its_process(path: str, cwd: str, is_its: bool) -> None:
    assert recognise.is_about(RECORD, {"path": path, "cwd": cwd, "port": 8888}) is is_its


def test_sockets_beside_a_port_are_no_pages_without_a_record() -> None:
    beside = {"path": "/tmp/x", "pid": 7, "token": None}
    assert not recognise.is_page(beside, set(), {7})
    assert recognise.is_page(beside, {"/tmp/x"}, {7})
    assert recognise.is_page(beside, set(), {8})
    assert recognise.is_page({**beside, "token": ""}, set(), {7})
    assert recognise.is_page({**beside, "path": None}, set(), {7})


@pytest.mark.parametrize(
    ("socket_mode", "directory_mode", "is_open"), [(0o600, 0o755, False), (0o666, 0o755, True), (0o666, 0o700, False)]
)
def test_a_socket_is_for_others_if_they_can_reach_it(socket_mode: int, directory_mode: int, is_open: bool) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory, socket.socket(socket.AF_UNIX) as listener:
        path = Path(directory) / "s"
        listener.bind(str(path))
        path.chmod(socket_mode)
        Path(directory).chmod(directory_mode)
        assert is_for_others(str(path)) is is_open
    assert not is_for_others(str(path))


def test_a_login_environment_comes_although_a_daemon_keeps_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ports.probe.programs import run

    (tmp_path / ".bash_profile").write_text("setsid sleep 9 & echo $! > pid; export OF_THE_PROFILE=1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", "/bin/bash")
    before = time.monotonic()
    assert run.login_environment(timeout=5)["OF_THE_PROFILE"] == "1"
    assert time.monotonic() - before < 5
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)


def notebook_row(port: int, scheme: str = "http") -> dict[str, Any]:
    row = {"kind": "notebook", "pid": 1, "inode": 7, "family": "tcp", "path": None, "address": "127.0.0.1"}
    return {**row, "port": port, "scheme": scheme, "base": ""}


def test_a_notebook_server_that_answers_half_is_not_called_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer_once() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(999)
                connection.sendall(b"HTTP/1.1 302 Found\r\n\r\n")

        thread = threading.Thread(target=answer_once)
        thread.start()
        known: dict[int, bool] = {}
        row = notebook_row(server.getsockname()[1])
        ask_notebooks([row], known)
        thread.join()
    assert row["open"] is None and known == {}


@pytest.mark.filterwarnings("error")
def test_a_server_with_https_is_asked_without_a_warning_of_python() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=lambda: server.accept()[0].close())
        thread.start()
        row = notebook_row(server.getsockname()[1], "https")
        ask_notebooks([row], {})
        thread.join()
    assert row["open"] is None


@pytest.mark.parametrize(
    ("token", "program", "hub"), [("own", "lab", False), ("api", "lab", True), ("own", "labhub", True)]
)
def test_a_server_started_in_a_terminal_of_a_hub_has_its_own_token(token: str, program: str, hub: bool) -> None:
    row: dict[str, Any] = {"argv": ["/usr/bin/python3", f"/usr/bin/jupyter-{program}"], "cwd": "/", "path": None}
    record = {"classic": False, "token": token, "base_url": "/", "root_dir": "/"}
    recognise.fill_in_notebook(row, record, {"JUPYTERHUB_API_TOKEN": "api"})
    assert (row["hub"], row["token"]) == (hub, None if hub else token)


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash", "/bin/rbash", "/usr/bin/tcsh", "/usr/bin/fish"])
def test_the_environment_of_a_login_is_had_from_any_shell(
    shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ports.probe.programs import run

    if not Path(shell).exists():
        pytest.skip(f"there is no {shell} here")
    home = tmp_path / "al ice ü"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SHELL", shell)
    assert run.LoginShell(None).environment()["HOME"] == str(home)


@pytest.mark.parametrize("do", sorted(piped.FILES))
def test_what_is_piped_is_the_program_without_its_docstrings(do: str) -> None:
    text = b"\n".join(file.read_bytes() for file in (FILES_OF / f"{name}.py" for name in piped.FILES[do]))

    def bare(source: bytes) -> str:
        tree = ast.parse(source)
        for node in ast.walk(tree):
            body = [one for one in getattr(node, "body", None) or () if not is_constant(one)] if has_body(node) else ()
            if has_body(node):
                node.body = body
        return ast.dump(tree)

    def has_body(node: ast.AST) -> bool:
        return isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)

    def is_constant(node: ast.AST) -> bool:
        return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)

    short = piped.without_words(text)
    assert bare(short) == bare(text) and len(short) < 0.9 * len(text) and b'"""' not in short


def test_a_socket_whose_modes_cannot_be_read_is_not_called_closed(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert is_for_others(str(tmp_path / "loop" / "s"))
    assert not is_for_others(str(tmp_path / "gone"))


def test_directories_of_machines_that_cannot_be_listed_are_not_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ports.errors import StoreError
    from ports.state import paths

    monkeypatch.setenv("PORTS_HOME", str(tmp_path))
    (tmp_path / "hosts").symlink_to("hosts")
    with pytest.raises(StoreError, match="symbolic links"):
        paths.here()
    assert any("cannot be listed" in one for one in probe.probe({"ask_http": False})["warnings"])


def test_where_the_kernel_shows_no_unix_sockets_records_show_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sockets, "read_bytes", lambda path, once=False: b"")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        wanted = {str(tmp_path / "s"), str(tmp_path / "gone")}
        assert [row["path"] for row in sockets.unix_listeners(wanted, os.getuid())] == [str(tmp_path / "s")]


def test_jupyter_s_records_that_cannot_be_listed_are_told(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    warnings: list[str] = []
    assert recognise.jupyter_records({str(tmp_path / "loop"), str(tmp_path / "none")}, os.getuid(), warnings) == []
    assert len(warnings) == 1 and "cannot be listed" in warnings[0]


def test_a_process_that_cannot_be_read_is_not_called_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    who = probe.process_identity(os.getpid())
    monkeypatch.setattr(identity, "stat_of", lambda pid: None)  # too many open files, say
    assert probe.is_same_process_alive(who) is None
    assert probe.is_same_process_alive({**who, "pid": 2**22 + 1}) is False


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"\x7fELF of another machine", "it does not start (Exec format error)"),
        (b"#!/bin/sh\nexit 127\n", "it ended with status 127 and said nothing"),
        (b"#!/bin/sh\necho cannot load libevent >&2\nexit 127\n", "cannot load libevent"),
        (b"#!/bin/sh\necho tmux 3.3a\n", "tmux 3.3a"),
    ],
)
def test_a_program_that_does_not_run_is_not_called_missing(text: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "tmux").write_bytes(text)
    (tmp_path / "tmux").chmod(0o700)
    assert first_line([str(tmp_path / "tmux"), "-V"], dict(os.environ)) == told
    assert first_line([None, "-V"], {}) is None


def test_a_listener_that_cannot_be_seen_for_a_while_is_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    seen: list[Any] = [OSError("too many files"), (os.getuid(), 5), OSError("too many files"), (os.getuid(), 5), None]

    def holder_of(_: str) -> Any:
        found = seen.pop(0)
        if isinstance(found, OSError):
            raise found
        return found

    monkeypatch.setattr(watch, "holder_of", holder_of)
    users = watch.SocketUserWatch(told.append)
    users.set(["127.0.0.1:8888"])
    for _ in range(3):
        users.look()
    assert told == [], "nobody can say that it has gone"
    users.look()
    assert [(one["uid"], one["before"]) for one in told] == [(None, {"uid": os.getuid(), "inode": 5})]


def test_a_machine_that_shows_no_sockets_has_no_answer_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(warnings: list[str]) -> list[Any]:
        warnings.append("listening sockets cannot be seen here")
        return []

    monkeypatch.setattr(socket_users, "listener_at", lambda *_: (_ for _ in ()).throw(OSError("closed")))
    monkeypatch.setattr(socket_users, "tcp_listeners", blind)
    with pytest.raises(OSError, match="cannot be seen here"):
        probe.holder_of("127.0.0.1:8888")
    monkeypatch.setattr(socket_users, "tcp_listeners", lambda _: [])
    assert probe.holder_of("127.0.0.1:8888") is None
