"""A workspace that goes from alice's laptop to server1, through the jump host, and its output that comes home."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.integration.test_job_from_home import ports, server  # noqa: F401  the fixture
from tests.lab import Site

pytestmark = [pytest.mark.ci, pytest.mark.timeout(240)]
PROJECT = """
mkdir -p ~/project/data && cd ~/project && git init -q
echo 'import yaml, not_there_at_all' > train.py; echo 41 > data/x; echo TOKEN=1 > .env; echo ignored > big.log
printf 'mkdir -p results; cp data/x results/x; head -c 3000000 /dev/zero > results/big; pwd; ls -a\\n' > train.sh
echo '*.log' > .gitignore; git add train.py train.sh data .gitignore
"""


def shell(site: Site, text: str) -> subprocess.CompletedProcess[str]:
    return site.run("laptop", ["sh", "-c", text], timeout=120)


def here(site: Site, *words: str) -> Any:
    """Run `ports` in the project."""
    return shell(site, f"cd ~/project && exec {site.python} -m ports {' '.join(words)}")


def test_a_workspace_goes_to_a_server_and_its_output_comes_home(server: Site) -> None:  # noqa: F811
    assert shell(server, PROJECT).returncode == 0
    submit = ("job", "submit", "-H", "server1", "--cpus", "1", "--out", "results", "--", "sh", "train.sh")
    try:
        first = here(server, *submit)
        assert first.returncode == 0, first.stderr
        assert "sent 4 files" in first.stderr and ".env" in first.stderr and "big.log" in first.stderr
        id = first.stdout.strip()
        assert ports(server, "job", "wait", id).returncode == 0, ports(server, "job", "logs", id).stderr
        out = ports(server, "job", "logs", "--stdout", id).stdout
        assert f"work/{id.partition(':')[2]}/workspace" in out and ".env" not in out and "big.log" not in out
        done = here(server, "job", "fetch", id, "--json")
        row = json.loads(done.stdout)
        assert (row["n_files"], row["left_out"]) == (2, []) and "server1" in row["directory"], done.stderr
        assert shell(server, f"cat ~/project/{row['directory']}/results/x").stdout == "41\n"
        assert json.loads(here(server, "job", "fetch", id, "--json").stdout)["n_same"] == 2
        again = here(server, *submit)
        assert "0 B of it new" in again.stderr, again.stderr
        shell(server, "echo 42 > ~/project/data/x")
        then, today = (ports(server, "job", "rerun", *words, id).stdout.strip() for words in ((), ("--here",)))
        assert ports(server, "job", "wait", then, today).returncode == 0
        for one, value in ((then, "41\n"), (today, "42\n")):
            found = json.loads(here(server, "job", "fetch", one, "--json").stdout)
            assert shell(server, f"cat ~/project/{found['directory']}/results/x").stdout == value
        said = here(server, "job", "submit", "-H", "server1", "--", "python3", "train.py").stderr
        assert "not_there_at_all, which the script imports, is missing on server1" in said or "are missing" in said
        in_place = here(server, *submit[:6], "--in-place", "--", "pwd")
        assert "~/project is not on server1: the job runs in your home there" in in_place.stderr
        removed = ports(server, "job", "prune", "-H", "server1", "--older", "0s", "--unfetched")
        assert removed.returncode == 0, removed.stderr
    finally:
        shell(server, "rm -rf ~/project ~/.local/state/ports/hosts/*/jobs")
