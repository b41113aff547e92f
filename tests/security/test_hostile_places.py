"""What bob was first to make, takes after a reboot, or fills: alice's cluster starts all the same, or says why not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab.namespaces import NamespaceSite
from tests.lab.site import Site
from tests.security.conftest import CLUSTER, MODES, Scene, end, files, protected, tell, unprotected

pytestmark = [pytest.mark.ci, pytest.mark.timeout(120)]

JOB = """
import json, ports
with ports.client(reuse="any") as client:
    result = client.submit(sum, [40, 2]).result(timeout=30)
    written = client.run(lambda dask_worker: open(dask_worker.local_directory + "/x", "wb").write(bytes(3_000_000)))
print(json.dumps([result, *written.values()]))
"""
FILL = """
import contextlib, os
with contextlib.suppress(OSError), open("/tmp/full", "wb", buffering=0) as file:
    while True:
        file.write(bytes(100_000))
with contextlib.suppress(OSError):
    for number in range(100_000):
        os.close(os.open(f"/tmp/{number}.full", os.O_CREAT))
"""
PLACES = {
    "directory": "mkdir /tmp/ports-{uid}; chmod 777 /tmp/ports-{uid}; touch /tmp/ports-{uid}/tmux.sock",
    "link to bob's directory": "mkdir /tmp/bobs; chmod 777 /tmp/bobs; ln -s /tmp/bobs /tmp/ports-{uid}",
    "link to alice's directory": "ln -s /home/alice /tmp/ports-{uid}",
    "file": "echo x > /tmp/ports-{uid}",
    "pipe": "mkfifo -m 666 /tmp/ports-{uid}",
}
MUCH_THE_SAME = ("link to alice's directory", "file")
MORE = """
for name in /tmp/tmux-{uid} /tmp/dask-scratch-space /tmp/dask-worker-space /var/tmp/dask-scratch-space; do
    mkdir $name; chmod 777 $name
done
"""


# Where things lie hardly depends on how a cluster talks: one mode each time, the other in the long run.
@pytest.fixture(params=[pytest.param(mode, marks=[pytest.mark.long] if mode == "tls" else []) for mode in MODES])
def scene(work_site: NamespaceSite, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """Alice's server, where bob may make what he likes in /tmp."""
    made = protected(work_site, request.param)
    yield made
    clean(made)


def clean(scene: Scene) -> None:
    """Remove what bob made; the clusters must have been stopped."""
    bob = scene.site.account("bob").uid
    find = ["find", "/tmp", "/var/tmp", "-mindepth", "1", "-uid", str(bob), "-delete"]
    scene.site.run(scene.host, find, user="root", check=True)
    for record in files(scene, "runtime.json"):
        record.unlink()


def as_bob(scene: Scene, script: str) -> None:
    uid = str(scene.site.account("alice").uid)
    scene.site.run(scene.host, ["sh", "-c", script.replace("{uid}", uid)], user="bob", check=True)


def what_alice_left_open(scene: Scene) -> list[str]:
    """Return what is alice's in /tmp and /var/tmp, and neither in a directory of hers nor closed to others."""
    uid, found = scene.site.account("alice").uid, []
    for top in ("/tmp", "/var/tmp"):
        for path in scene.path(top).rglob("*"):
            mine, parent = path.lstat(), path.parent.lstat()
            if path.name.startswith("ports-promise-"):
                continue  # a line of numbers for everybody's eyes
            if mine.st_uid == uid and parent.st_uid != uid and mine.st_mode & 0o077:
                found.append(str(path))
    return found


@pytest.mark.parametrize(
    "place", [pytest.param(one, marks=[pytest.mark.long] if one in MUCH_THE_SAME else []) for one in PLACES]
)
def test_a_place_that_bob_made_first_is_not_used(scene: Scene, place: str) -> None:
    as_bob(scene, PLACES[place] + MORE)
    started = scene.ports("cluster", "start", "main", "--n-workers", "1")
    try:
        runtime = scene.path(started["url"].removeprefix("unix:")).parent
        assert runtime.name.startswith(f"ports-{scene.site.account('alice').uid}-")
        assert runtime.lstat().st_mode & 0o7777 == 0o40700 & 0o7777
        assert json.loads(scene.alice(scene.python, "-c", JOB).stdout)[0] == 42
        assert [row["state"] for row in scene.ports("cluster", "list")] == ["running"]
        bobs = [path for top in ("/tmp", "/var/tmp") for path in scene.path(top).iterdir() if is_bobs(scene, path)]
        assert len(bobs) >= 5
        inside = [path for one in bobs if one.is_dir() and not one.is_symlink() for path in one.rglob("*")]
        assert all(is_bobs(scene, path) for path in inside)
        assert what_alice_left_open(scene) == []
    finally:
        scene.ports("cluster", "stop", "main")
    shutil.rmtree(runtime)


def is_bobs(scene: Scene, path: Path) -> bool:
    return path.lstat().st_uid == scene.site.account("bob").uid


def test_bob_replaces_a_worker_directory_of_a_default_cluster(work_site: NamespaceSite) -> None:
    scene = unprotected(work_site)
    as_bob(scene, "mkdir /tmp/dask-scratch-space; chmod 777 /tmp/dask-scratch-space")
    cluster = scene.runs(scene.python, "-c", CLUSTER, "{}")
    tell(cluster)
    code = "import os; open('/tmp/ran', 'w').write(str(os.getuid()))"
    as_bob(
        scene,
        f"""cd /tmp/dask-scratch-space && for name in worker-*/; do
            name=${{name%/}}; mv "$name" "old-$name"; mkdir -m 755 "$name"; echo "{code}" > "$name/colorsys.py"
        done""",
    )
    tell(cluster, "client.submit(lambda: str(__import__('colorsys')), pure=False).result()")
    assert scene.path("/tmp/ran").read_text() == str(work_site.account("alice").uid)
    end(cluster)
    scene.path("/tmp/ran").unlink()
    work_site.run("server2", ["rm", "-r", "/tmp/dask-scratch-space"], user="root", check=True)


def test_plain_tmux_does_not_start_where_bob_made_its_directory(scene: Scene) -> None:
    as_bob(scene, MORE)
    done = scene.alice("tmux", "new-session", "-d", "true")
    assert done.returncode != 0 and "unsafe permissions" in done.stderr


def test_scratch_goes_nowhere_where_bob_could_exchange_it(scene: Scene) -> None:
    scene.site.run(scene.host, ["mkdir", "/scratch"], user="root", check=True)
    try:
        scene.site.run(scene.host, ["chmod", "777", "/scratch"], user="root", check=True)  # no sticky bit: a mistake
        done = scene.alice(scene.python, "-m", "ports", "cluster", "start", "main", "--local-directory", "/scratch")
        assert done.returncode == 2 and "local_directory /scratch is not safe: any user could replace" in done.stderr
        as_bob(scene, "mkdir -m 777 /tmp/dask /scratch/theirs")
        done = scene.alice(
            scene.python, "-m", "ports", "cluster", "start", "main", "--local-directory", "/scratch/theirs"
        )
        assert done.returncode == 2 and "is not safe: /scratch/theirs belongs to uid" in done.stderr
        started = scene.ports("cluster", "start", "main", "--n-workers", "0")
        assert started["scratch"].startswith("/var/tmp/")
        scene.ports("cluster", "stop", "main")
    finally:
        scene.site.run(scene.host, ["rm", "-r", "/scratch"], user="root", check=True)


def test_a_link_of_bob_s_on_the_way_to_scratch_may_turn_later(scene: Scene) -> None:
    scene.alice("sh", "-c", "mkdir -m 755 /var/tmp/alices; ln -s /var/tmp/bobs/link ~/mine", check=True)
    as_bob(scene, "mkdir -m 755 /var/tmp/bobs; ln -s /var/tmp/alices /var/tmp/bobs/link")
    started = scene.ports("cluster", "start", "main", "--n-workers", "1", "--local-directory", "/home/alice/mine")
    try:
        theirs = f"/var/tmp/bobs/copy/{Path(started['scratch']).name}"
        as_bob(scene, f"mkdir -p -m 777 {theirs}; ln -sfn /var/tmp/bobs/copy /var/tmp/bobs/link")
        scene.ports("cluster", "restart", "main")
        assert json.loads(scene.alice(scene.python, "-c", JOB).stdout)[0] == 42
        assert not list(scene.path(theirs).iterdir())
        assert Path(started["scratch"]).parent == Path("/var/tmp/alices")
    finally:
        scene.ports("cluster", "stop", "main")
        scene.alice("rm", "-r", "/var/tmp/alices", "/home/alice/mine")


@pytest.mark.parametrize("mode", MODES)
def test_names_that_bob_takes_after_a_reboot_hinder_nobody(site_of_its_own: Callable[..., Site], mode: str) -> None:
    site = site_of_its_own()
    assert isinstance(site, NamespaceSite)
    scene = protected(site, mode)
    started = scene.ports("cluster", "start", "main", "--n-workers", "0")
    dashboard = started["url"].removeprefix("unix:")
    site.host(scene.host).power_off()
    site.host(scene.host).power_on()
    as_bob(
        scene, f"mkdir -m 755 {Path(dashboard).parent}; touch {dashboard}; mkdir -m 777 {started['scratch']} || true"
    )
    [row] = scene.ports("cluster", "list")
    assert (row["state"], row["reason"]) == ("stopped", "the machine was restarted")
    again = scene.ports("cluster", "start", "main", "--n-workers", "0")
    assert again["state"] == "running" and Path(again["url"].removeprefix("unix:")).parent != Path(dashboard).parent
    assert is_bobs(scene, scene.path(dashboard))  # it is left alone
    scene.ports("cluster", "stop", "main")


def limit_tmp(scene: Scene, options: str) -> None:
    scene.site.run(scene.host, ["mount", "-o", f"remount,{options}", "/tmp"], user="root", check=True)


def test_a_full_tmp_stops_no_cluster_and_a_start_says_why(scene: Scene, work_site: NamespaceSite) -> None:
    scene.ports("cluster", "start", "main", "--n-workers", "1")
    plain = unprotected(work_site)
    cluster = plain.runs(plain.python, "-c", CLUSTER, "{}")
    tell(cluster)
    both = (scene, plain)
    try:
        for one in both:
            limit_tmp(one, "size=8m,nr_inodes=500")
            assert one.site.run(one.host, ["python3", "-c", FILL], user="bob", timeout=60).returncode == 0
        write = "open(dask_worker.local_directory + '/x', 'wb').write(bytes(3_000_000))"
        said = tell(cluster, f"repr(client.run(lambda dask_worker: {write}, on_error='return'))")
        assert "No space left on device" in said[0]  # it cannot spill
        done = scene.alice(scene.python, "-c", JOB)
        assert done.returncode == 0 and json.loads(done.stdout) == [42, 3_000_000], done.stderr
        assert [row["state"] for row in scene.ports("cluster", "list")] == ["running"]
        done = scene.alice(scene.python, "-m", "ports", "cluster", "start", "second", "--n-workers", "0")
        assert done.returncode in (0, 5) and "Traceback" not in done.stderr
        assert done.returncode == 0 or "No space left on device" in done.stderr, done.stderr
    finally:
        for one in both:
            limit_tmp(one, "size=50%,nr_inodes=1000000")  # unlimited ones cannot be limited again
            one.site.run(one.host, ["find", "/tmp", "-name", "*full", "-delete"], user="root", check=True)
        end(cluster)
    for row in scene.ports("cluster", "list"):
        scene.ports("cluster", "stop", row["name"])
