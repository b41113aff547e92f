"""What a job on server1 listens on, opened on alice's laptop as soon as it does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.lab import Site
from tests.lab.laptop import python

pytestmark = [pytest.mark.ci, pytest.mark.timeout(300)]

PAGE = """
import http.server, time
time.sleep(1)
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"the board of the job")
    do_HEAD = do_GET
http.server.HTTPServer(("127.0.0.1", 0), Page).serve_forever()
"""
FETCH = "import sys, urllib.request; print(repr(urllib.request.urlopen(sys.argv[1]).read().decode()).replace(chr(39), chr(34)))"  # fmt: skip # noqa: E501


@pytest.fixture
def server(laptop: Site) -> Iterator[Site]:
    """The laptop, from which a compute resource on server1 is reached that ends with the test."""
    yield laptop
    line = [laptop.python, "-m", "ports"]
    laptop.run("laptop", [*line, "tunnel", "close", "--all"], timeout=60)
    for row in json.loads(laptop.run("laptop", [*line, "job", "list", "server1", "--json"], timeout=60).stdout):
        if row["state"] in ("pending", "running"):
            laptop.run("laptop", [*line, "job", "cancel", row["id"]], timeout=60)
    laptop.run("laptop", [*line, "resource", "stop", "-H", "server1", "--now"], timeout=120)
    laptop.run("server1", ["sh", "-c", "rm -rf ~/.local/state/ports/hosts/*/jobs /tmp/ports-$(id -u)/leases"])


def test_what_a_job_listens_on_opens_at_home(server: Site) -> None:
    def ports(*words: str) -> tuple[int, str, str]:
        done = server.run("laptop", [server.python, "-m", "ports", *words], timeout=120)
        return done.returncode, done.stdout, done.stderr

    submit = ("job", "submit", "-H", "server1", "--cpus", "0.1", "--open", "--")
    code, out, err = ports(*submit, "/usr/bin/python3", "-c", PAGE)
    told = re.fullmatch(r"job server1:1 listens on port (\d+): (http://localhost:\d+/)\n", out)
    assert code == 0 and told is not None, (out, err)
    assert python(server, FETCH, told[2], prelude="") == "the board of the job"
    code, out, err = ports("job", "show", "server1:1")
    assert f"port {told[1]}: {told[2]}" in out, err
    code, out, err = ports("tunnel", "close", "--all")
    assert "job-1" in out, (out, err)
    code, out, err = ports("job", "show", "server1:1")  # nothing of it is open now
    assert f"`ports open server1:{told[1]}` opens it" in " ".join(out.split()), out
    code, out, err = ports("open", f"server1:{told[1]}", "--background")
    assert (code, told[2] in out) == (0, True), (out, err)
    ports("tunnel", "close", "--all")
    code, out, err = ports("open", "server1", "--background")  # its page is opened with its host
    assert code == 0 and re.search(rf"job-1 +{told[2]}\n", out), (out, err)
    code, out, err = ports(*submit, "sh", "-c", "exit 3")
    assert code == 8 and "ended before it listened on a port; job server1:2 failed: exit status 3" in " ".join(
        err.split()
    )
    assert "`ports job logs server1:2` shows more" in " ".join(err.split())
    code, out, err = ports(*submit, "true")
    assert code == 3 and "job server1:3 ended before it listened on a port" in " ".join(err.split()), err
