"""What other users of the machine can read, reach and guess of a cluster with TLS: nothing."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import ssl
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from dask import config
from distributed import Client

from ports import clusters
from ports.clusters import _dask, credentials
from ports.clusters._cluster import Cluster
from ports.errors import ForeignListenerError, UsageError
from ports.state import paths, runtime
from tests.integration.conftest import Home
from tests.lab.processes import listeners

SECRET = "sesame-7f3a"


@pytest.fixture(scope="module")
def private(shared_home: Home) -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("A_TOKEN_OF_MINE", SECRET)
        environ = {"GIVEN": f"{SECRET}-2"}
        yield clusters.start("private", n_workers=1, threads_per_worker=1, environ=environ, security="tls")
        clusters.get("private").stop()


def tcp_listeners(home: Home) -> dict[int, str]:
    """Return the ports on which the cluster's processes listen, each with its address."""
    found = {}
    for process in home.processes():
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                found[connection.laddr.port] = connection.laddr.ip
    return found


def test_every_tcp_listener_wants_the_certificate_of_the_cluster(shared_home: Home, private: Cluster) -> None:
    found = tcp_listeners(shared_home)
    assert len(found) == 3  # scheduler, nanny, worker; no HTTP server and no dashboard
    assert set(found.values()) == {"127.0.0.1"}
    mine = ssl.create_default_context(cafile=str(private._now.found.files.credentials))
    mine.load_cert_chain(private._now.found.files.credentials)
    mine.check_hostname = False
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
    for port in found:
        assert answer_to(port, mine)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            answer_to(port, stranger)


def answer_to(port: int, context: ssl.SSLContext) -> bytes:
    """Return the first bytes that a listener sends after the handshake."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain) as connection,
    ):
        return connection.recv(8)


def test_no_tcp_listener_answers_http(shared_home: Home, private: Cluster) -> None:
    for port in tcp_listeners(shared_home):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"GET /status HTTP/1.0\r\n\r\n")
            try:
                answer = connection.recv(100)
            except ConnectionError:
                answer = b""
        assert not answer.startswith(b"HTTP")


def test_a_stock_client_without_certificates_fails_at_once(private: Cluster) -> None:
    """In interpreters of their own, as users have them: a client that failed leaves Dask's event loop half-ended."""
    code = "import sys, time, distributed; start = time.monotonic()\n"
    code += "try: distributed.Client(sys.argv[1], timeout=1)\n"
    code += "except (OSError, TypeError): print('refused after', time.monotonic() - start)"
    environ = {**os.environ, "DASK_DISTRIBUTED__CLIENT__SECURITY_LOADER": ""}  # as where `ports` is not installed
    for address in (private.scheduler_address, private.scheduler_address.replace("tls", "tcp")):
        command = [sys.executable, "-c", code, address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environ)
        assert done.stdout.startswith("refused after "), done.stderr
        assert float(done.stdout.split()[-1]) < 6


def test_the_dashboard_is_on_a_socket_of_its_owner_alone(shared_home: Home, private: Cluster) -> None:
    where = Path(private.record.dashboard)
    assert where.parent == shared_home.runtime and len(os.fsencode(where)) < 108
    assert stat.S_IMODE(where.stat().st_mode) == 0o600
    assert str(where) in [one.where for one in listeners(Path("/proc/self"))]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(where))
        assert struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1] == os.getuid()
        connection.sendall(b"GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        page = b"".join(iter(lambda: connection.recv(65536), b""))
    assert page.startswith(b"HTTP/1.1 200") and b"Bokeh" in page


def test_all_files_are_for_their_owner_alone(shared_home: Home, private: Cluster) -> None:
    tops = (shared_home.state, shared_home.runtime, Path(private.record.scratch))
    everything = [path for top in tops for path in (top, *top.rglob("*"))]
    assert len(everything) > 10
    for path in everything:
        found = path.lstat()
        assert found.st_uid == os.getuid()
        assert not stat.S_IMODE(found.st_mode) & 0o077 or path.is_relative_to(tops[2] / "dask-scratch-space"), path
    assert stat.S_IMODE(tops[2].stat().st_mode) == 0o700


def test_nothing_secret_is_in_arguments_or_in_tmux(shared_home: Home, private: Cluster) -> None:
    seen = subprocess.run(["ps", "-eo", "args", "ww"], capture_output=True, text=True, check=True).stdout
    assert "ports_owner" in seen and SECRET not in seen
    server = ["tmux", "-S", str(shared_home.runtime / "tmux.sock")]
    for words in (["show-environment", "-g"], ["show-environment", "-t", "=cluster-private"]):
        shown = subprocess.run([*server, *words], capture_output=True, text=True, check=True).stdout
        assert SECRET not in shown and "PORTS_HOME" not in shown
    [tmux] = [one for one in shared_home.processes() if one.name().startswith("tmux")]
    assert "A_TOKEN_OF_MINE" not in tmux.environ()
    assert SECRET not in private.log.read_text()


def test_the_file_that_hands_over_the_environment_is_gone(private: Cluster) -> None:
    assert not private._now.found.files.launch.exists()
    files = [path for path in private._now.found.files.directory.rglob("*") if path.is_file()]
    texts = [path.read_text(errors="replace") for path in files]
    assert texts and not any(f"{SECRET}\n" in text or f'{SECRET}"' in text for text in texts)


def test_a_listener_of_somebody_else_gets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(where)
        listener.listen()
        monkeypatch.setattr(os, "getuid", lambda: 4242)
        with pytest.raises(ForeignListenerError):
            _dask.summary(where, "private")


def test_scratch_goes_to_a_disk_and_never_into_memory(home: Home) -> None:
    if not Path("/dev/shm").is_dir():
        pytest.skip("this machine has no /dev/shm")
    with pytest.raises(
        UsageError, match=r"local_directory /dev/shm/x is in memory .tmpfs.; name a directory on a disk"
    ):
        clusters.start("main", local_directory="/dev/shm/x")
    with pytest.raises(UsageError, match="local_directory /nowhere/at/all is missing"):
        clusters.start("main", local_directory="/nowhere/at/all")
    assert clusters.list() == [] and home.files() == []


def test_scratch_without_a_setting_is_on_the_largest_disk(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from ports.clusters import _scratch

    monkeypatch.setattr("ports.state.settings.dask_value", lambda _: None)
    made = _scratch.choose("main", None)
    _scratch.create(made)
    try:
        assert str(made.parent) in _scratch.USUAL and stat.S_IMODE(made.stat().st_mode) == 0o700
    finally:
        made.rmdir()
    assert not made.exists()


@pytest.mark.parametrize(
    "door",
    [
        {"dashboard_address": ":8787"},
        {"host": "0.0.0.0"},
        {"protocol": "tcp"},
        {"worker_dashboard_address": ":0"},
        {"scheduler_kwargs": {"host": "0.0.0.0"}},
        {"scheduler_kwargs": {"interface": "lo"}},
        {"scheduler_kwargs": {"dashboard_address": ":8787"}},
    ],
)
def test_no_option_opens_a_door(home: Home, door: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"cannot be given|is an option of ports, not of Dask"):
        clusters.start("main", n_workers=0, **door)
    assert clusters.list() == []


def test_a_taken_runtime_directory_is_replaced_by_another(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = home.work / "taken"
    taken.mkdir(mode=0o777)
    taken.chmod(0o777)
    found = runtime._first_private(taken)
    try:
        assert found != taken and stat.S_IMODE(found.stat().st_mode) == 0o700
        assert runtime._first_private(taken) == found  # all processes agree
    finally:
        found.rmdir()
        paths.here().runtime.unlink()


def test_another_user_who_was_first_in_tmp_hinders_nobody(tmp_path: Path) -> None:
    """As a user whom nobody needs: the runtime directory follows from the uid alone."""
    uid = 54_321
    usual = Path(f"/tmp/ports-{uid}")
    if os.getuid() or usual.exists():
        pytest.skip("only root can act as another user")
    usual.mkdir()
    usual.chmod(0o777)  # root's, so somebody else's; a socket in it could be anybody's
    disk = Path(tempfile.mkdtemp(prefix="test-", dir="/var/tmp"))
    os.chown(disk, uid, uid)
    environ = {"PATH": os.environ["PATH"], "HOME": str(disk), "USER": "nobody-s", "LOGNAME": "nobody-s"}
    ports = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", sys.executable, "-m", "ports"]
    options = {"env": {**environ, "DASK_TEMPORARY_DIRECTORY": str(disk)}, "cwd": disk, "text": True, "timeout": 60}
    try:
        start = [*ports, "cluster", "start", "--n-workers", "0", "--json"]
        done = subprocess.run(start, capture_output=True, check=False, **options)
        if "ermission" in done.stderr and sys.prefix in done.stderr:
            pytest.skip("another user may not run this interpreter")
        assert done.returncode == 0, done.stderr
        where = Path(json.loads(done.stdout)["url"].removeprefix("unix:")).parent
        assert where.name.startswith(f"ports-{uid}-") and stat.S_IMODE(where.stat().st_mode) == 0o700
        found = subprocess.run([*ports, "cluster", "list", "--json"], capture_output=True, check=True, **options)
        assert [row["state"] for row in json.loads(found.stdout)] == ["running"]
        subprocess.run([*ports, "cluster", "stop"], capture_output=True, check=True, **options)
        assert list(usual.iterdir()) == []
    finally:
        for directory in (usual, disk, *Path("/tmp").glob(f"ports-{uid}-*")):
            shutil.rmtree(directory, ignore_errors=True)


def ask(port: int, path: str, **headers: str) -> http.client.HTTPResponse:
    """Return the answer of a dashboard on a TCP port."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={"Host": f"127.0.0.1:{port}", **headers})
    answer = connection.getresponse()
    answer.text = answer.read()  # type: ignore[attr-defined]
    connection.close()
    return answer


UPGRADE = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "eA=="}


def test_a_dashboard_on_a_port_answers_nobody_without_its_token(home: Home) -> None:
    cluster = clusters.start("main", n_workers=0, dashboard="tcp")
    assert cluster.record.security == "tls"
    link = urlsplit(home.json("cluster", "show", "main")["tcp_link"])
    assert link.port in tcp_listeners(home) and link.hostname == "127.0.0.1"
    path, token = f"{link.path}?{link.query}", link.query.removeprefix("token=")
    assert len(token) == 48 and token not in cluster.log.read_text()
    assert cluster.row()["tcp_link"] == f"http://127.0.0.1:{link.port}/status"
    for words in (("list",), ("scale", "main", "0"), ("restart", "main")):
        done = home.ports("cluster", *words, "--json")
        assert done.returncode == 0 and token not in done.stdout + done.stderr, words
    assert token not in json.dumps(cluster.row()) + repr(cluster) + cluster._repr_html_()
    for bare in ("/status", "/", "/ports.json", "/json/identity.json", "/sitemap.json", "/status?token=", "/statics/"):
        assert ask(link.port, bare).status == 403
    wrong = "token=" + "0" * 48
    assert ask(link.port, f"/status?{wrong}").status == 403
    assert ask(link.port, "/status/ws", **UPGRADE).status == 403
    entered = ask(link.port, path)
    assert (entered.status, entered.headers["Location"]) == (302, "/status")
    cookie = entered.headers["Set-Cookie"].partition(";")[0]
    assert token not in cookie and "HttpOnly" in entered.headers["Set-Cookie"]
    page = ask(link.port, "/status", Cookie=cookie)
    assert page.status == 200 and b"Bokeh" in page.text  # type: ignore[attr-defined]
    own, other = f"http://127.0.0.1:{link.port}", "http://127.0.0.1:1"
    for origin, status in ((own, 200), (other, 403)):
        assert ask(link.port, "/ports.json", Cookie=cookie, Origin=origin).status == status
    assert ask(link.port, f"//elsewhere/?token={token}").headers["Location"] == "/elsewhere/"
    assert ask(link.port, "/status", Cookie=cookie.replace("=", "=0")).status == 403
    shown = home.python("import ports; ports.show(ports.cluster())").stdout
    assert f"port {link.port}; `ports cluster show main`" in shown and token not in shown


def test_a_port_for_the_dashboard_needs_tls(home: Home) -> None:
    with pytest.raises(UsageError, match="pass security='tls'"):
        clusters.start("main", n_workers=0, dashboard="tcp", security="sockets")


def test_a_plain_client_finds_the_credentials_of_an_address(shared_home: Home, private: Cluster) -> None:
    [named] = (Path(__file__).parents[2] / "etc" / "dask").glob("*.yaml")
    assert (
        config.collect([str(named)], env={})["distributed"]["client"]["security-loader"]
        == "ports.clusters.credentials.load"
    )
    code = "import sys, distributed\n"
    code += "with distributed.Client(sys.argv[1], timeout=20) as client: print(client.submit(sum, [1, 2]).result())"
    environ = {**os.environ, "DASK_CONFIG": str(named)}
    done = shared_home.python(code, private.scheduler_address, env=environ)
    assert done.stdout == "3\n", done.stderr
    assert credentials.load({"address": "tls://127.0.0.1:1"}) is None
    assert credentials.load({"address": private.scheduler_address.replace("tls", "tcp")}) is None


REFUSED = """
import gc, threading
import distributed
from distributed.security import Security
import ports
from ports.clusters import _dask as dask
gc.set_threshold(1)
found = ports.clusters.get("private")
for _ in range(3):
    try:
        dask.connect(found, timeout=2, security=Security(require_encryption=False))
    except TypeError:
        print("refused")
print({one.status for one in gc.get_objects() if isinstance(one, distributed.Client)})
with found.get_client() as client:
    print(client.submit(sum, [40, 2]).result(timeout=30))
print([thread.name for thread in threading.enumerate() if thread.name == "IO loop"])
"""


def test_a_refused_client_is_closed_and_does_not_hang_the_next_one(shared_home: Home, private: Cluster) -> None:
    done = shared_home.python(REFUSED, timeout=40)
    assert done.stdout.splitlines() == ["refused"] * 3 + ["{'closed'}", "42", "[]"], done.stderr


REFUSED_IN_A_LOOP = """
import asyncio, gc
import dask.config
import distributed
from distributed.security import Security
import ports
from ports.clusters import _dask
gc.set_threshold(1)
found = ports.clusters.get("private")
async def main():
    for bad in ({"security": Security(require_encryption=False)}, {"extensions": 5}, {"heartbeat_interval": "often"}):
        try:
            await _dask.connect_async(found, timeout=2, **bad)
        except Exception as error:
            print(type(error).__name__)
    connecting = asyncio.ensure_future(_dask.connect_async(found, timeout=5))
    await asyncio.sleep(0)
    while not any(isinstance(one, distributed.Client) and one.status == "connecting" for one in gc.get_objects()):
        await asyncio.sleep(0)
    connecting.cancel()
    try:
        await connecting
    except asyncio.CancelledError:
        print("cancelled")
    found_left = {one.status for one in gc.get_objects() if isinstance(one, distributed.Client)}
    print(found_left <= {"closed", "newly-created"}, dask.config.get("scheduler", None))
    async with found.get_client(asynchronous=True) as client:
        print(await client.submit(sum, [40, 2]))
asyncio.run(main(), debug=False)
"""


def test_a_refused_client_of_an_event_loop_is_closed(shared_home: Home, private: Cluster) -> None:
    done = shared_home.python(REFUSED_IN_A_LOOP, timeout=40)
    assert done.stdout.splitlines() == [
        *("TypeError", "AttributeError", "KeyError", "cancelled"),
        *("True None", "42"),
    ], done.stderr
    assert "never awaited" not in done.stderr and "Traceback" not in done.stderr


def test_a_stock_client_is_not_led_to_another_user_s_listener(
    private: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4242)
    with pytest.raises(ForeignListenerError, match="not to you; `ports cluster stop private` ends what is left"):
        Client(private, timeout=5)


def test_a_cluster_object_makes_its_address_enough_in_this_process(private: Cluster) -> None:
    with Client(clusters.get("private").scheduler_address, timeout=20) as client:
        assert client.submit(sum, [1, 2]).result() == 3
