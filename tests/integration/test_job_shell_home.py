"""A shell where a job runs on server1, at a terminal of alice's laptop."""

from __future__ import annotations

import pytest

from ports.state.waiting import wait_until
from tests.integration.test_remote import at_a_terminal
from tests.lab import Site

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


def test_a_shell_on_a_server_opens_at_home(laptop: Site) -> None:
    line = [laptop.python, "-m", "ports"]
    script = "cd /var; while sleep 0.2; do :; done"
    submit = ["job", "submit", "-H", "server1", "--cpus", "1", "--environ", "MINE=7", "--", "sh", "-c", script]
    done = laptop.run("laptop", [*line, *submit], timeout=120)
    assert done.returncode == 0, done.stderr
    id = done.stdout.strip()
    number = id.rpartition(":")[2]
    try:
        state = [*line, "job", "list", "-H", "server1", "--json"]
        running = lambda: '"running"' in laptop.run("laptop", state, timeout=60).stdout or None  # noqa: E731
        wait_until(running, timeout=60, what="the job", every=0.3)
        prompt = f"(job {number})"
        told = at_a_terminal(
            laptop,
            f"TERM=xterm {laptop.python} -m ports job shell server1:{number}; echo all''over",
            {prompt: "echo at=$PWD=$MINE=\nexit\n", "allover": "exit\n"},
        )
        assert "at=/var=7=" in told, told
        assert '"running"' in laptop.run("laptop", state, timeout=60).stdout
    finally:
        laptop.run("laptop", [*line, "job", "cancel", "-H", "server1", number], timeout=60)
        laptop.run("laptop", [*line, "resource", "stop", "-H", "server1", "--now"], timeout=120)
        laptop.run("server1", ["sh", "-c", "rm -rf ~/.local/state/ports/hosts/*/jobs /tmp/ports-$(id -u)/leases"])
