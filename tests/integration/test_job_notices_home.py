"""The end of a job on server1 is said where `ports open` runs, on alice's laptop."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from ports.state import wait_until
from tests.integration.test_tunnels import Serve
from tests.integration.test_tunnels import serve as serve  # a fixture
from tests.lab import Site
from tests.lab.laptop import python

MAY_STAY = ("file */tunnels/shown.json",)
pytestmark = [pytest.mark.ci, pytest.mark.timeout(300)]

SUBMIT = """
import ports
def night(seconds):
    import time
    time.sleep(seconds)
    raise ValueError("no more data")
with ports.host("server1"):
    ports.job(notify=True)(night).submit(3)
    print("1")
"""


@pytest.fixture
def server(laptop: Site) -> Iterator[Site]:
    """The laptop, from which a compute resource on server1 is reached that ends with the test."""
    yield laptop
    laptop.run("laptop", [laptop.python, "-m", "ports", "resource", "stop", "-H", "server1", "--now"], timeout=120)
    laptop.run("server1", ["sh", "-c", "rm -rf ~/.local/state/ports/hosts/*/jobs /tmp/ports-$(id -u)/leases"])


@pytest.fixture
def desktop(laptop: Site) -> Iterator[str]:
    """A notify-send on the laptop, which keeps what it is to show; gives its directory."""
    home = laptop.environment("laptop")["HOME"]
    tool = f"""mkdir ~/desktop; cat > ~/desktop/notify-send <<'END'
#!/bin/sh
printf '%s|' "$@" >> {home}/desktop/shown
END
chmod 755 ~/desktop/notify-send"""
    assert laptop.run("laptop", ["sh", "-c", tool]).returncode == 0
    yield f"{home}/desktop"
    laptop.run("laptop", ["sh", "-c", "rm -rf ~/desktop"])


def test_the_end_of_a_job_is_said_where_ports_open_runs(server: Site, serve: Serve, desktop: str) -> None:
    path = server.environment("laptop")["PATH"]
    env = {"PATH": f"{desktop}:{path}", "DISPLAY": ":7", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/nowhere"}
    said: list[str] = []

    def shown() -> str | None:
        return server.run("laptop", ["cat", f"{desktop}/shown"]).stdout or None

    opened = [server.python, "-m", "ports", "open", f"server1:{serve('server1')}"]
    with server.popen("laptop", opened, env=env) as running:
        reader = threading.Thread(target=lambda: said.extend(running.stderr or ()), daemon=True)
        reader.start()
        try:
            wait_until(lambda: any("Ctrl-C closes" in line for line in said) or None, timeout=60, what="the link")
            assert python(server, SUBMIT, prelude="", timeout=120) == 1
            wait_until(lambda: any("no more data" in line for line in said) or None, timeout=90, what="the end")
            notice = wait_until(shown, timeout=30, what="the notice on the desktop", every=0.2)
        finally:
            running.terminate()
            running.wait(30)
            reader.join(10)
    (line,) = [line for line in said if "no more data" in line]
    assert line.startswith("job server1:1 (night) failed after "), line
    assert line.endswith("`ports job show server1:1` shows more\n")
    told = server.run("laptop", [server.python, "-m", "ports", "job", "show", "server1:1"], timeout=60)
    assert "no more data" in told.stdout, told.stderr
    assert notice.startswith("--app-name=ports|--|job server1:1 (night) failed after ")
