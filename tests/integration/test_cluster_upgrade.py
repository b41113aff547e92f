"""A cluster that runs while `ports` is upgraded in place: it goes on with the code that it was started with."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import ports
from ports import clusters
from tests.integration.conftest import Home

pytestmark = pytest.mark.ci
FOR_CLIENTS = {"__init__.py", "comm.py", "ground.py", "socket_paths.py", "unix_sockets.py"}
START = """
import ports
cluster = ports.clusters.start(n_workers=1, threads_per_worker=1, processes={processes}, worker_start="spawn")
print(ports.__file__)
"""
AFTER = """
import ports
cluster = ports.clusters.get()
if cluster.record.processes:
    cluster.scale(2)
else:
    cluster.restart()
with cluster.get_client() as client:
    n_workers = cluster.record.n_workers
    client.wait_for_workers(n_workers, timeout=20)
    print(client.run(lambda: __import__("ports_owner.workers").__file__))
    print(n_workers, sum(client.gather(client.map(lambda n: n * n, range(100), pure=False))))
"""


def upgrade(package: Path) -> None:
    """Replace an installation: nothing of the old owner's code is left, what a client imports is new."""
    aside = package.with_name("next")
    shutil.copytree(Path(ports.__file__).parent, aside)
    for path in (aside / "clusters/owner/ports_owner").iterdir():
        if path.name not in FOR_CLIENTS:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(package)
    aside.rename(package)


@pytest.mark.parametrize("processes", [True, False], ids=["a worker that starts later", "an owner that starts again"])
def test_a_cluster_survives_an_upgrade_of_ports(home: Home, tmp_path: Path, processes: bool) -> None:
    site = tmp_path / "site"
    shutil.copytree(Path(ports.__file__).parent, site / "ports")
    environ = {**os.environ, "PYTHONPATH": str(site)}
    started = home.python(START.format(processes=processes), env=environ)
    assert started.returncode == 0, started.stderr
    assert started.stdout.strip() == str(site / "ports/__init__.py")

    upgrade(site / "ports")
    done = home.python(AFTER, env=environ)
    assert done.returncode == 0, f"{done.stderr}\n{clusters.logs(lines=30)}"
    assert done.stdout.splitlines()[-1] == f"{2 if processes else 1} {sum(n * n for n in range(100))}"
    assert str(home.state) in done.stdout and str(site) not in done.stdout

    assert home.ports("cluster", "stop", env=environ).returncode == 0
    assert home.files() == ["cluster-main.log"]


def test_the_copy_of_the_owner_s_code_is_for_its_user_alone(home: Home) -> None:
    started = clusters.start(n_workers=0)
    (code,) = home.state.rglob("clusters/main/code")
    for path in (code, *code.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path
    (owner,) = [one for one in home.processes() if any("ports_owner" in word for word in one.cmdline())]
    assert str(code) in " ".join(owner.cmdline())
    started.stop()
    assert not code.exists()
