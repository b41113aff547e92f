"""The ground that travels: `probe` and `ports_owner` as packages under other names, from files and from text."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import ports

PACKAGE = Path(ports.__file__).parent
# A clean interpreter with Dask's packages, but without `ports`: what a host is that has nothing of ours.
HOOK = """
import importlib.abc, importlib.util, json, sys

class Texts(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    "Finds modules among texts; a package's own text is below its name."

    def __init__(self, texts):
        self.texts = texts

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ports":
            raise ModuleNotFoundError("ports is not there", name=name)
        if name not in self.texts:
            return None
        is_package = any(other.startswith(name + ".") for other in self.texts)
        return importlib.util.spec_from_loader(name, self, is_package=is_package)

    def get_source(self, name):
        return self.texts[name]

sys.meta_path.insert(0, Texts(json.loads(sys.stdin.read())))
"""


def texts() -> dict[str, str]:
    """Return the source of each module of both packages by its name."""
    found = {}
    for name, folder in (("_ports_probe", PACKAGE / "probe"), ("ports_owner", PACKAGE / "clusters/owner/ports_owner")):
        for file in folder.rglob("*.py"):
            parts = file.relative_to(folder).with_suffix("").parts
            inner = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[f"{name}.{inner}".rstrip(".")] = file.read_text(encoding="utf-8")
    return found


def run(code: str) -> list[str]:
    """Return the lines that `code` prints where both packages are there as texts only."""
    command = [sys.executable, "-I", "-c", HOOK + code]
    done = subprocess.run(command, input=json.dumps(texts()), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_probe_is_a_package_from_text() -> None:
    found = run(
        "import _ports_probe as probe\n"
        "print(len(probe.probe({'ask_http': False})['listeners']) >= 0, probe.who.who({'interval': 0})['uid'])\n"
        "print('distributed' in sys.modules, getattr(probe, '__file__', None))"
    )
    import os

    assert found == [f"True {os.getuid()}", "False None"]


def test_the_owner_of_a_cluster_is_a_package_from_text() -> None:
    """A scheduler that listens on a Unix socket, and a meter, without a file of `ports`."""
    code = (
        "import asyncio, os, tempfile\n"
        "from ports_owner import comm, memory, owner\n"
        "from ports_owner.ground import probe\n"
        "from distributed.comm import connect, listen\n"
        "async def call():\n"
        "    async def echo(comm): await comm.write(await comm.read())\n"
        "    async with listen('unix://' + tempfile.mkdtemp(dir='/tmp'), echo) as found:\n"
        "        comm = await connect(found.contact_address, timeout=5)\n"
        "        await comm.write('hello')\n"
        "        print(await comm.read(), comm.peer_address.startswith('unix://'))\n"
        "        await comm.close()\n"
        "comm.register()\n"
        "asyncio.run(call())\n"
        "print(memory.Meter().domains()[0].total > 0, probe.__name__, 'ports' in sys.modules)"
    )
    assert run(code) == ["hello True", "True _ports_probe False"]


@pytest.mark.parametrize("python", [sys.executable, "/usr/bin/python3"])
def test_the_launcher_loads_all_of_it_before_it_starts_anything(python: str, tmp_path: Path) -> None:
    """An upgrade can replace the files of `ports` while a session runs."""
    if not Path(python).exists():
        pytest.skip(f"there is no {python}")
    copy = tmp_path / "ports"
    for name in ("probe", "sessions/launch.py"):
        source, target = PACKAGE / name, copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-r", str(source), str(target)], check=True)
    (tmp_path / "launch.json").write_text(
        json.dumps(
            {
                "argv": ["sh", "-c", f"rm -r {copy}; (sleep 60 &); echo gone"],
                "cwd": str(tmp_path),
                "environ": {"PATH": "/usr/bin:/bin"},
                "log": str(tmp_path / "log"),
                "log_bytes": 10_000,
                "title": "a test",
                "exit": str(tmp_path / "exit.json"),
                "hold": [],
            }
        )
    )
    command = [python, "-I", "-S", str(copy / "sessions/launch.py"), str(tmp_path / "launch.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr, copy.exists()) == (0, "", False)
    assert json.loads((tmp_path / "exit.json").read_text())["status"] == 0


def test_a_client_in_a_task_has_the_probe_of_its_own_version() -> None:
    """Where `ports` was upgraded since, the probe of the cluster's owner is older than the `ports` that a task uses."""
    code = (
        "import sys, types\n"
        "sys.modules['_ports_probe'] = types.ModuleType('_ports_probe')\n"
        "from ports.clusters.owner.ports_owner import comm\n"
        "from ports import probe\n"
        "print(comm.probe is probe)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "True\n", done.stderr
