"""Services that bob offers where alice's were: her client, her links and her listings do not speak to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ports.state.waiting import wait_until
from tests.lab.namespaces import NamespaceSite
from tests.lab.site import Running
from tests.security.conftest import CLUSTER, MODES, TOKEN, Scene, end, files, protected, tell, token_of, unprotected

pytestmark = [pytest.mark.ci, pytest.mark.timeout(120)]

PORT = 23456
# A scheduler whose first answer, once unpickled, runs code of bob's.
SCHEDULER = """
import asyncio, sys
from distributed import Scheduler
from distributed.protocol.serialize import ToPickle
class Trap:
    def __reduce__(self):
        return exec, ("import os; open('/tmp/trap-%d' % os.getuid(), 'w').close()",)
async def main():
    async with Scheduler(host="127.0.0.1", port=int(sys.argv[1]), dashboard=False) as scheduler:
        tell = scheduler.identity
        scheduler.handlers["identity"] = lambda *args, **options: {**tell(), "gift": ToPickle(Trap())}
        print("listening", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
asyncio.run(main())
"""
# Takes connections at a port or a path until its input ends, and tells what was said; answers as a web page.
PAGE = """
import json, os, select, socket, sys
place = sys.argv[1]
server = socket.socket(socket.AF_UNIX if "/" in place else socket.AF_INET)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(place if "/" in place else ("127.0.0.1", int(place)))
if "/" in place:
    os.chmod(place, 0o777)
server.listen()
print("listening", flush=True)
said = []
while sys.stdin not in (ready := select.select([server, sys.stdin], [], [])[0]):
    connection = server.accept()[0]
    connection.settimeout(1)
    try:
        said.append(connection.recv(10_000).decode(errors="replace"))
        connection.sendall(b"HTTP/1.0 200 OK\\r\\nContent-Type: text/html\\r\\n\\r\\nof bob")
    except OSError:
        said.append("")
    connection.close()
print(json.dumps(said))
"""
CLIENT = """
import ports
client = ports.client(n_workers=0, reuse="any")
print(client.scheduler.address)
client.close()
"""


@pytest.fixture(params=MODES)
def scene(work_site: NamespaceSite, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """Alice's server; what she runs there ends with the test."""
    made = protected(work_site, request.param)
    yield made
    for row in made.ports("cluster", "list"):
        made.ports("cluster", "stop", row["name"])


def rogue(scene: Scene, code: str, *words: object) -> Running:
    """Let bob offer something."""
    running = scene.runs(scene.python, "-c", code, *map(str, words), user="bob")
    assert tell(running) == ["listening"]
    return running


def said_to(running: Running) -> list[str]:
    """End what bob offers, and return what was said to it, an item for each connection."""
    out, errors = running.communicate(timeout=15)
    assert running.returncode == 0, errors
    return list(json.loads(out.splitlines()[-1]))


def sprung(scene: Scene) -> bool:
    """Tell whether bob's code ran as alice."""
    return scene.path(f"/tmp/trap-{scene.site.account('alice').uid}").exists()


def edit(file: Path, **changes: Any) -> None:
    """Change alice's record, which stays hers."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def kill_all(scene: Scene) -> None:
    """End alice's processes as the kernel does when memory is short: nothing is noted."""
    uid, host = scene.site.account("alice").uid, scene.site.host(scene.host)
    for one in host.processes():
        if one.uid == uid:
            os.kill(one.pid, signal.SIGKILL)
    wait_until(
        lambda: not [one for one in host.processes() if one.uid == uid and one.state != "Z"] or None,
        timeout=10,
        what="end of alice's processes",
    )


def test_a_plain_client_joins_bob_s_scheduler_and_runs_his_code(work_site: NamespaceSite) -> None:
    scene = unprotected(work_site)
    cluster = scene.runs(scene.python, "-c", CLUSTER, json.dumps({"scheduler_port": PORT}))
    assert tell(cluster) == [f'"tcp://127.0.0.1:{PORT}"']
    end(cluster)
    bobs = rogue(scene, SCHEDULER, PORT)
    scene.alice(scene.python, "-c", f"import distributed; distributed.Client('tcp://127.0.0.1:{PORT}', timeout=5)")
    assert sprung(scene)
    end(bobs)
    scene.path(f"/tmp/trap-{work_site.account('alice').uid}").unlink()


def test_a_client_starts_a_new_cluster_where_bob_took_the_old_port(scene: Scene) -> None:
    scene.ports("cluster", "start", "main", "--n-workers", "0")
    [running] = files(scene, "clusters/main/running.json")
    address = json.loads(running.read_text())["address"]
    port = address.rpartition(":")[2] if address.startswith("tls://") else PORT
    kill_all(scene)
    bobs = rogue(scene, SCHEDULER, port)
    done = scene.alice(scene.python, "-c", CLIENT)
    assert done.returncode == 0 and done.stdout.strip() != address and not sprung(scene), done.stderr
    end(bobs)


@pytest.mark.parametrize("protocol", ["tcp", "tls"])
def test_a_client_of_ports_does_not_follow_a_record_to_bob(scene: Scene, protocol: str) -> None:
    scene.ports("cluster", "start", "main", "--n-workers", "0")
    [running] = files(scene, "clusters/main/running.json")
    before = json.loads(running.read_text())["address"]
    bobs = rogue(scene, PAGE, PORT)
    edit(running, address=f"{protocol}://127.0.0.1:{PORT}")
    plain = "import distributed, ports; distributed.Client(ports.cluster(n_workers=0, reuse='any'), timeout=5)"
    clients = ([scene.python, "-c", CLIENT], [scene.python, "-c", plain])
    for command in (*clients, [scene.python, "-m", "ports", "cluster", "scale", "main", "2"]):
        done = scene.alice(*command)
        assert done.returncode != 0 and f"127.0.0.1:{PORT} belongs to bob, not to you" in done.stderr, done.stderr
    assert said_to(bobs) == []
    edit(running, address=before)


def test_no_listing_and_no_link_goes_to_a_socket_of_bob_s(scene: Scene) -> None:
    scene.ports("cluster", "start", "main", "--n-workers", "0")
    [running] = files(scene, "clusters/main/running.json")
    before = json.loads(running.read_text())["dashboard"]
    scene.site.run(scene.host, ["mkdir", "-m", "755", "/tmp/bobs"], user="bob", check=True)
    bobs = rogue(scene, PAGE, "/tmp/bobs/dashboard.sock")
    edit(running, dashboard="/tmp/bobs/dashboard.sock")
    [row] = scene.ports("cluster", "list")
    assert row["state"] == "unknown" and "/tmp/bobs/dashboard.sock belongs to bob" in row["reason"]
    [row] = [row for row in scene.ports("list") if row["name"] == "main"]
    assert row["path"] is None and row["url"] is None
    opened = scene.site.run("laptop", [scene.python, "-m", "ports", "open", "server1:main"], timeout=60)
    assert opened.returncode != 0 and "http://" not in opened.stdout
    hang_up(scene)
    assert said_to(bobs) == []
    edit(running, dashboard=before)
    scene.site.run(scene.host, ["rm", "-r", "/tmp/bobs"], user="bob", check=True)


def hang_up(scene: Scene) -> None:
    close = [scene.python, "-c", "from ports.hosts import openssh; openssh.close_all()"]
    scene.site.run("laptop", close, check=True)


FETCH = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"


def test_a_plain_forward_shows_bob_s_page_where_the_dashboard_was(work_site: NamespaceSite) -> None:
    scene = unprotected(work_site)
    bobs = rogue(scene, PAGE, 8787)
    assert page_through(work_site, "9000:127.0.0.1:8787") == "of bob"
    assert said_to(bobs)[0].startswith("GET /status")


def test_a_plain_forward_to_a_path_shows_bob_s_page_where_a_dashboard_was(work_site: NamespaceSite) -> None:
    scene = unprotected(work_site)
    work_site.run(scene.host, ["mkdir", "-m", "755", "/tmp/bobs"], user="bob", check=True)
    bobs = rogue(scene, PAGE, "/tmp/bobs/dashboard.sock")
    assert page_through(work_site, "9001:/tmp/bobs/dashboard.sock") == "of bob"
    assert said_to(bobs)[0].startswith("GET /status")
    work_site.run(scene.host, ["rm", "-r", "/tmp/bobs"], user="bob", check=True)


def page_through(site: NamespaceSite, forward: str) -> str:
    """Return the page that alice's laptop shows through a plain ``ssh -L``."""
    quiet = subprocess.DEVNULL
    running = site.popen("laptop", ["ssh", "-N", "-L", forward, "server2"], stdout=quiet, stderr=quiet)
    url = f"http://127.0.0.1:{forward.partition(':')[0]}/status"

    def page() -> str | None:
        return site.run("laptop", ["python3", "-c", FETCH, url]).stdout.strip() or None

    try:
        return wait_until(page, timeout=20, what="the forward")
    finally:
        running.kill()
        running.wait(10)


def test_a_bookmark_hands_bob_the_token_where_a_jupyter_was(work_site: NamespaceSite) -> None:
    scene = unprotected(work_site)
    bobs = rogue(scene, PAGE, 18888)
    scene.alice("python3", "-c", FETCH, f"http://127.0.0.1:18888/lab?token={TOKEN}")
    assert TOKEN in said_to(bobs)[0]


def test_bob_gets_neither_token_nor_visit_where_a_notebook_server_was(work_site: NamespaceSite) -> None:
    scene = protected(work_site, "tls")
    started = scene.ports("notebook", "start", "lab", "--root", "/home/alice")
    [running] = files(scene, "notebooks/lab/running.json")
    token, port = token_of(scene), started["port"]
    edit(running, port=PORT)  # as if it had ended and its process's number were another's
    bobs = rogue(scene, PAGE, PORT)
    [row] = scene.ports("notebook", "list")
    assert row["state"] == "unknown" and f"127.0.0.1:{PORT} belongs to bob" in row["reason"]
    [listed] = [row for row in scene.ports("list") if row["name"] == "lab"]
    assert listed["port"] is None and listed["url"] is None
    opened = scene.site.run("laptop", [scene.python, "-m", "ports", "open", "server1:lab"], timeout=60)
    assert opened.returncode != 0 and token not in opened.stdout + opened.stderr
    hang_up(scene)
    edit(running, port=port)
    kill_all(scene)
    again = rogue(scene, PAGE, port)
    assert [row["state"] for row in scene.ports("notebook", "list")] == ["stopped"]
    assert said_to(bobs) == [] and said_to(again) == []
    scene.ports("notebook", "stop", "lab")
