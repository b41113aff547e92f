"""What bob was first to make, or takes after a reboot: alice's jobs go elsewhere and speak to no resource of his."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.lab.namespaces import NamespaceSite
from tests.security.conftest import Scene, files, protected, tell
from tests.security.test_hostile_places import PLACES, as_bob, clean, is_bobs, what_alice_left_open
from tests.security.test_job_attacks import clear, submit

pytestmark = [pytest.mark.ci, pytest.mark.timeout(120)]


@pytest.fixture
def scene(work_site: NamespaceSite) -> Iterator[Scene]:
    """Alice's server without jobs, where bob may make what he likes in /tmp."""
    made = protected(work_site, "sockets")
    assert not list(made.path("/tmp").glob("ports-*"))
    yield made
    made.ports("resource", "stop", "--now") if made.ports("resource", "list") else None
    clear(made)
    clean(made)
    made.site.run(made.host, ["sh", "-c", "rm -rf /tmp/ports-*"], user="root", check=True)


@pytest.mark.parametrize(
    "place", [pytest.param(one, marks=[pytest.mark.long] if one != "directory" else []) for one in PLACES]
)
def test_jobs_use_no_place_that_bob_made_first(scene: Scene, place: str) -> None:
    """He offers a resource of his own there, where it is a directory."""
    as_bob(scene, PLACES[place])
    uid = scene.site.account("alice").uid
    path = f"/tmp/ports-{uid}/resource.sock"
    rogue = scene.runs(*scene.attack("offer", path), user="bob") if place == "directory" else None
    if rogue is not None:
        assert tell(rogue) == ["listening"]
        knock = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({path!r}); s.send(b'by hand'); s.recv(9)"
        scene.alice("python3", "-c", knock, check=True)  # a program that does not look gets its answer
    try:
        id = submit(scene, "exit 0")
        assert scene.alice(scene.python, "-m", "ports", "job", "wait", "--within", "60", id).returncode == 0
        assert what_alice_left_open(scene) == []
        bobs = [one for one in scene.path("/tmp").iterdir() if is_bobs(scene, one) and not one.is_symlink()]
        assert all(is_bobs(scene, path) for one in bobs if one.is_dir() for path in one.rglob("*"))
    finally:
        if rogue is not None:
            out, errors = rogue.communicate(timeout=30)
            assert json.loads(out.splitlines()[-1])["fell"] == ["b'by hand'"], errors


def test_a_resource_of_bob_s_is_not_asked_where_alice_s_was(scene: Scene) -> None:
    """After a reboot the path of her socket is anybody's; her record names it."""
    as_bob(scene, "mkdir /tmp/ports-{uid}; chmod 777 /tmp/ports-{uid}")
    scene.ports("resource", "start")
    [record] = files(scene, "runtime.json")
    runtime = json.loads(record.read_text())["path"]
    scene.ports("resource", "stop")
    scene.site.run(scene.host, ["rm", "-rf", runtime], user="root", check=True)
    as_bob(scene, f"mkdir -m 777 {runtime}")
    rogue = scene.runs(*scene.attack("offer", f"{runtime}/resource.sock"), user="bob")
    assert tell(rogue) == ["listening"]
    id = submit(scene, "exit 0")
    assert scene.alice(scene.python, "-m", "ports", "job", "wait", "--within", "60", id).returncode == 0
    out, errors = rogue.communicate(timeout=30)
    assert json.loads(out.splitlines()[-1])["fell"] == [], errors


def test_a_fetch_writes_nothing_where_bob_made_its_directory_first(scene: Scene) -> None:
    scene.site.host("server1").write("~/project/in.txt", "x")
    line = "mkdir made; echo secret > made/out"
    id = submit(scene, line, "--copy", "--out", "made", cwd="/home/alice/project")
    assert scene.alice(scene.python, "-m", "ports", "job", "wait", "--within", "60", id).returncode == 0
    scene.alice("mkdir", "/home/alice/private", check=True)
    as_bob(scene, f"mkdir -m 777 /tmp/job-{id}; ln -s /home/alice/private /tmp/job-{id}/made")
    try:
        done = scene.alice(scene.python, "-m", "ports", "job", "fetch", id, cwd="/tmp")
        assert done.returncode == 4 and "belongs to" in done.stderr and "--to" in done.stderr, done.stderr
        assert not [*scene.path("/home/alice/private").iterdir()]
        done = scene.alice(scene.python, "-m", "ports", "job", "fetch", id, "--to", "/home/alice/fetched", cwd="/tmp")
        assert scene.path("/home/alice/fetched/made/out").read_text() == "secret\n", done.stderr
    finally:
        scene.alice("rm", "-rf", "/home/alice/private", "/home/alice/fetched")
