"""What a task of alice's cluster opens: bob gets in, as through nothing that `ports` opens, and she is told."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterator

import pytest

from tests.lab.namespaces import NamespaceSite
from tests.security.conftest import MODES, Scene, end, protected, tell
from tests.security.test_rogues import FETCH, hang_up

pytestmark = [pytest.mark.ci, pytest.mark.timeout(120)]

# Until its input ends, a task has a plain cluster, or a page; prints the port of that.
TASK = """
import distributed, functools, http.server, ports, sys, threading
def plain():
    distributed.get_worker().door = cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1)
    return cluster.scheduler.port
def page():
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory="/usr/share")
    distributed.get_worker().door = server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.close = lambda: (server.shutdown(), server.server_close())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port
with ports.client(reuse="any") as client:
    print(client.submit(globals()[sys.argv[1]], pure=False).result(timeout=60), flush=True)
    sys.stdin.read()
    client.run(lambda dask_worker: dask_worker.door.close())
"""


@pytest.fixture(params=MODES)
def scene(work_site: NamespaceSite, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """Alice's server with a cluster."""
    made = protected(work_site, request.param)
    made.ports("cluster", "start", "main", "--n-workers", "1")
    yield made
    made.ports("cluster", "stop", "main")
    hang_up(made)


def test_alice_is_told_of_a_plain_cluster_in_a_task_which_lets_bob_in(scene: Scene) -> None:
    task = scene.runs(scene.python, "-c", TASK, "plain")
    tell(task)
    assert f"Scheduler as {scene.site.account('alice').uid}" in scene.bob("code")["fell"]
    done = scene.site.run("laptop", [scene.python, "-m", "ports", "list", "server1", "--json"], timeout=60)
    rows = json.loads(done.stdout)
    assert not [row for row in rows if row["kind"] == "cluster" and row["exposed"]]
    opened = [row for row in rows if row["reason"] == "a task of cluster 'main' opened it"]
    exposed = {one["reason"]: one["way_out"] for row in opened for one in row["exposed"]}
    assert set(exposed) == {"dask", "network"}
    assert exposed["dask"].startswith("end the task of cluster 'main' that opened it, `ports.client()` starts")
    shown = scene.site.run("laptop", [scene.python, "-m", "ports", "list", "server1"], timeout=60)
    assert "on server1: anyone on this machine can run code as you; end the task" in shown.stderr
    end(task)
    assert scene.bob("code")["fell"] == []


def test_a_page_of_a_task_is_opened_at_home(scene: Scene) -> None:
    task = scene.runs(scene.python, "-c", TASK, "page")
    [port] = tell(task)
    words = ["open", f"server1:{port}", "--background", "--json"]
    done = scene.site.run("laptop", [scene.python, "-m", "ports", *words], timeout=60)
    assert done.returncode == 0, done.stderr
    [row] = json.loads(done.stdout)
    assert urllib.parse.urlsplit(row["local_url"]).hostname == "localhost"
    assert (
        "Directory listing" in scene.site.run("laptop", ["python3", "-c", FETCH, row["local_url"]], check=True).stdout
    )
    scene.site.run("laptop", [scene.python, "-m", "ports", "tunnel", "close", "--all"], check=True, timeout=60)
    end(task)
