"""The environment of `ports` on a host: activated by every start there, and named where `ports` is not on the PATH."""

from __future__ import annotations

import json

import pytest

from tests.lab import prefixes
from tests.lab.namespaces import NamespaceSite
from tests.lab.site import Site

pytestmark = [pytest.mark.ci, pytest.mark.timeout(120)]

ENV = {"DASK_PORTS__HOSTS__SERVER1__ENV": "~/envs/geo"}
SEEN = """
import json, ports
client = ports.client("main", reuse="any")
wanted = ("PATH", "CONDA_PREFIX", "VIRTUAL_ENV", "GDAL_DATA")
print(json.dumps(client.submit(lambda: {name: __import__("os").environ.get(name) for name in wanted}).result()))
client.close()
"""


def type_at_home(site: Site, *words: str, code: int = 0, **env: str) -> str:
    """Run ``ports <words>`` on the laptop; return what it printed."""
    done = site.run("laptop", [site.python, "-m", "ports", *words], env=env, timeout=60)
    assert done.returncode == code, done.stderr + done.stdout
    return done.stdout + done.stderr


@pytest.mark.parametrize("conda", [True, False], ids=["conda", "venv"])
def test_a_start_on_a_host_activates_the_environment_of_the_setting(
    root_site: NamespaceSite, laptop: Site, conda: bool
) -> None:
    prefixes.make(laptop, "server1", "envs/geo", conda=conda)
    prefix = "/home/alice/envs/geo"
    type_at_home(laptop, "cluster", "start", "-H", "server1", "--n-workers", "1", **ENV)
    try:
        done = laptop.run("server1", [f"{prefix}/bin/python", "-c", SEEN], check=True, timeout=60)
        seen = json.loads(done.stdout.splitlines()[-1])
        path = seen["PATH"].split(":")
        assert path[0] == f"{prefix}/bin"
        if conda:
            assert (seen["CONDA_PREFIX"], seen["GDAL_DATA"]) == (prefix, f"{prefix}/share/gdal")
            assert path[-1] == f"{prefix}/tools"
        else:
            assert seen["VIRTUAL_ENV"] == prefix
    finally:
        type_at_home(laptop, "cluster", "stop", "-H", "server1", **ENV)


@pytest.mark.parametrize("way", ["two lines", "setting"])
def test_a_host_says_where_ports_is_and_what_it_says_helps(root_site: NamespaceSite, laptop: Site, way: str) -> None:
    prefixes.make(laptop, "server1", "miniforge3/envs/geo")
    server = laptop.host("server1")
    server.set_login_shell("alice", "/bin/bash")
    server.write("~/.bash_profile", "export PATH=/usr/bin:/bin\n")
    listing = ("cluster", "list", "-H", "server1")
    said, *lines = type_at_home(laptop, *listing, code=5).splitlines()
    prefix = "/home/alice/miniforge3/envs/geo"
    assert f"ports is in {prefix}" in said and "put these two lines in ~/.bash_profile there, or name it as" in said
    assert "ports.hosts.server1.env in the settings at home" in said and len(lines) == 2
    if way == "setting":
        settings = {"ports": {"hosts": {"server1": {"env": prefix}}}}
        laptop.host("laptop").write("~/.config/dask/ports.yaml", json.dumps(settings))
    else:
        text = server.path("~/.bash_profile").read_text() + "".join(f"{line.strip()}\n" for line in lines)
        server.write("~/.bash_profile", text)
    assert "no clusters" in type_at_home(laptop, *listing)
    server.write("~/.bash_profile", "export PATH=/usr/bin:/bin\n")
    told = type_at_home(laptop, *listing, code=5, DASK_PORTS__HOSTS__SERVER1__ENV="nowhere")
    assert f"there is no environment 'nowhere' there; ports is in {prefix}" in told
    assert "name that as ports.hosts.server1.env" in told
