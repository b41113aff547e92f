"""The same attacks where /proc hides what others run, and where one home is on two servers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.lab.namespaces import NamespaceSite
from tests.lab.site import Site
from tests.security.conftest import ROUTES, SECRET, Scene, files, hide, protected, token_of

pytestmark = [pytest.mark.ci, pytest.mark.timeout(120)]


@pytest.fixture(params=["sockets", pytest.param("tls", marks=pytest.mark.long)])
def scene(site_of_its_own: Callable[..., Site], request: pytest.FixtureRequest) -> Iterator[Scene]:
    """Two servers with one home and hidepid=2; alice works on server1."""
    site = site_of_its_own(shared_home=True)
    assert isinstance(site, NamespaceSite)
    hide(site, 2, "server1", "server2")
    site.host("server1").write("~/.config/dask/http.yaml", ROUTES)
    yield protected(site, request.param)


def test_with_hidepid_and_a_shared_home_bob_gets_nothing(scene: Scene) -> None:
    scene.ports("cluster", "start", "main", "--n-workers", "1")
    scene.ports("notebook", "start", "lab", "--root", "/home/alice")
    assert scene.site.run("server1", ["ps", "-u", "alice", "-o", "pid="], user="bob").stdout == ""
    job = "import ports; print(ports.client(reuse='any').submit(sum, [40, 2]).result(timeout=30))"
    assert scene.alice(scene.python, "-c", job).stdout == "42\n"
    markers = [token_of(scene), SECRET]
    markers += [path.read_text().splitlines()[1] for path in files(scene, "clusters/main/credentials")]
    assert scene.bob("code")["fell"] == [] and scene.bob("pages")["fell"] == []
    assert scene.bob("look", input="\n".join(markers))["fell"] == [] and scene.bob("join")["fell"] == []
    rows = {row["name"]: row for row in scene.ports("list")}
    assert {rows[name]["state"] for name in ("main", "lab")} == {"running"}
    assert not [row for row in rows.values() if row["exposed"]]


def test_the_other_server_of_a_shared_home_neither_lists_nor_reaches_it(scene: Scene) -> None:
    scene.ports("cluster", "start", "main", "--n-workers", "1")
    listed = scene.site.run("laptop", [scene.python, "-m", "ports", "list", "server2", "--json"], timeout=60)
    assert json.loads(listed.stdout) == [], listed.stderr  # its own machine judges its records
    search = [scene.site.notebook_python, "-c", scene.attack("look")[2], "look"]
    [secret] = [path.read_text().splitlines()[1] for path in files(scene, "clusters/main/credentials")] or [SECRET]
    found = scene.site.run("server2", search, user="bob", input=secret, timeout=60)
    assert json.loads(found.stdout.splitlines()[-1])["fell"] == []
