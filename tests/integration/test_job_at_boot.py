"""The compute resource after a boot: a real crontab, in a mount of its own, and what commands say without it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ports.jobs import _places
from tests.integration.conftest import Home, stop_resource

pytestmark = [pytest.mark.ci, pytest.mark.xdist_group("machine")]
SPOOL = Path("/var/spool/cron/crontabs")
STEPS = """
mount --bind "$1" /var/spool/cron/crontabs || exit 77
printf '5 * * * * true\\n' | crontab - || exit 77
for words in --at-boot --at-boot --no-at-boot; do
    "$2" -m ports resource start $words || exit 1
    echo "== $words"; crontab -l
done
"""


@pytest.fixture
def site(home: Home) -> Iterator[Home]:
    """A home in which a resource may run; it and its cluster are stopped afterwards."""
    yield home
    stop_resource()


@pytest.mark.skipif(os.getuid() != 0, reason="a crontab of its own needs root")
@pytest.mark.skipif(shutil.which("crontab") is None or not SPOOL.is_dir(), reason="there is no cron")
def test_at_boot_is_one_line_which_starts_the_resource(site: Home, tmp_path: Path) -> None:
    table = tmp_path / "crontabs"
    table.mkdir()
    command = ["unshare", "-m", "--propagation", "private", "sh", "-c", STEPS, "sh", table, sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, cwd=site.work)
    if done.returncode == 77:
        pytest.skip(f"no crontab can be had here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    _, *parts = done.stdout.split("== ")
    tables = {part.split("\n")[0] + str(number): part.split("\n")[1:] for number, part in enumerate(parts)}
    first, again, without = ([one for one in lines if one[:1] in "@5" and one] for lines in tables.values())
    assert first == again and len(first) == 2 and first[0] == without[0] == "5 * * * * true" and len(without) == 1
    assert "the compute resource starts after each boot" in done.stderr + done.stdout
    assert "does not start after a boot" in done.stdout
    stop_resource()
    line = first[1].removeprefix("@reboot ").replace("\\%", "%")
    bare = {"HOME": str(Path.home()), "LOGNAME": "root", "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"}
    kept = {name: value for name, value in os.environ.items() if name.startswith("DASK_")}
    subprocess.run(["/bin/sh", "-c", line], env={**bare, **kept}, check=True, timeout=60, cwd="/")
    assert site.json("resource", "show")["state"] == "running"


def test_without_crontab_it_is_refused_in_a_sentence(site: Home, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    done = site.ports("resource", "start", "--at-boot", env={**os.environ, "PATH": str(tmp_path / "bin")})
    said = " ".join(done.stderr.split())
    assert done.returncode == 5 and "crontab is not installed; without it nothing starts by itself" in said, said
    assert site.json("resource", "list") == []


def test_after_a_boot_each_command_says_what_waits(site: Home) -> None:
    assert site.ports("resource", "start").returncode == site.ports("resource", "drain").returncode == 0
    submitted = site.ports("job", "submit", "--", "true")
    assert submitted.returncode == 0 and "was booted" not in submitted.stderr, submitted.stderr
    assert site.ports("resource", "stop").returncode == 0
    owner = _places.here().owner
    owner.write_text(json.dumps({**json.loads(owner.read_text()), "boot_id": "of yesterday"}))
    for words in (["job", "list"], ["resource", "list"], ["job", "show", "1"]):
        said = " ".join(site.ports(*words).stderr.split())
        assert "this machine was booted, and 1 job waits; `ports resource start` goes on with them" in said, said
    assert "was booted" not in site.ports("resource", "start").stderr
    assert "was booted" not in site.ports("job", "list").stderr
