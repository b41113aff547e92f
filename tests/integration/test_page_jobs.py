"""Jobs on the page of a real process: a job from the form to its output, here and on a server through a jump host."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

from ports.state import wait_until
from tests.integration.conftest import Home
from tests.lab import Site
from tests.lab.page import Tab, Visitor

pytestmark = [pytest.mark.ci, pytest.mark.timeout(240)]


@pytest.fixture
def browser(home_of_jobs: Home) -> Iterator[Visitor]:
    """A browser that is in."""
    made = Visitor(home_of_jobs.json("page", "--background", "--no-browser")["local_url"])
    made.enter()
    yield made
    home_of_jobs.ports("page", "stop")


def token(browser: Visitor) -> str:
    found = re.search(r'name="token" value="([^"]+)"', browser.ask("/-/jobs/new").text)
    assert found is not None
    return found[1]


def submitted(browser: Visitor, **fields: str) -> str:
    """Submit what the form says, and return the path of the job's page."""
    asked = {"kind": "job", "verb": "submit", "token": token(browser), **fields}
    answer = browser.act(asked)
    assert answer.status == 303, answer.text
    return "/" + answer.headers["Location"].removeprefix("../").lstrip("/")


def shown(browser: Visitor, path: str, text: str) -> str:
    """Wait until a page shows a text, and return what it shows."""
    limit = 60

    def look() -> str | None:
        found = browser.ask(path).text
        return found if text in found else None

    return wait_until(look, timeout=limit, what=f"{text!r} at {path}", every=0.3)


def test_a_job_of_the_page_runs_and_its_output_comes_live(home_of_jobs: Home, browser: Visitor) -> None:
    here = re.search(r'<option value="([^"]+)"', browser.ask("/-/jobs/new").text)
    assert here is not None
    (home_of_jobs.work / "go").unlink(missing_ok=True)
    command = "echo begin; until [ -e go ]; do sleep 0.1; done; echo end; exit 3"
    fields = {"host": here[1], "directory": str(home_of_jobs.work), "command": command, "cpus": "1"}
    path = submitted(browser, **fields)
    shown(browser, path, "begin")
    tab = Tab(browser, path)
    assert tab.status == 101
    (home_of_jobs.work / "go").touch()
    while "end\n" not in (seen := tab.next() or "end\n"):
        pass
    assert "begin" in seen
    tab.close()
    done = shown(browser, path, "exit status 3")
    assert "exit code 3" in done and "Run again" in done
    refused = browser.act({**fields, "kind": "job", "verb": "submit", "token": token(browser), "cpus": "99999"})
    said = re.search(r'id="wrong-cpus" role="alert">(.*?)<', refused.text)
    assert refused.status == 409 and said is not None and "this job can never run here: it needs 99999 cpus" in said[1]


def test_a_job_that_runs_is_cancelled_and_run_again(home_of_jobs: Home, browser: Visitor) -> None:
    ids = [home_of_jobs.ports("job", "submit", "--cpus", "0.1", "--", "sleep", "600").stdout.strip() for _ in range(2)]
    for id in ids:
        shown(browser, f"/-/jobs/{id}", ">running<")
    asked = browser.ask(f"/-/jobs/selected?{urlencode([('verb', 'cancel'), *(('id', id) for id in ids)])}").text
    assert "2 of them run: SIGTERM now, SIGKILL after 30 s." in asked
    body = urlencode([("kind", "job"), ("verb", "cancel"), ("token", token(browser)), *(("id", id) for id in ids)])
    answer = browser.ask("/-/do", "POST", body, Origin=f"http://{browser.authority}")
    assert answer.status == 303, answer.text
    for id in ids:
        shown(browser, f"/-/jobs/{id}", ">cancelled<")
    again = browser.act({"kind": "job", "verb": "rerun", "id": ids[0], "token": token(browser)})
    assert again.status == 303
    row = home_of_jobs.json("job", "list", "-n", "1")[0]
    assert row["command"] == "sleep 600" and row["id"] not in ids


def test_jobs_of_a_server_are_on_the_page_at_home(laptop: Site) -> None:
    def ports(*words: str) -> str:
        done = laptop.run("laptop", [laptop.python, "-m", "ports", *words], timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    code = f"""
import json, sys, time
sys.path.insert(0, {sys.path[0]!r})
from tests.integration.test_page_jobs import Visitor, shown, submitted
browser = Visitor(json.loads(sys.argv[1])["local_url"])
browser.enter()
path = submitted(browser, host="server1", directory="~", command="hostname | tr a-z A-Z; echo made", cpus="1")
text = shown(browser, path, ">finished<")
whole = browser.ask(path + "/file?stream=stdout")
print(json.dumps([path, whole.headers["Content-Disposition"], whole.text, browser.ask("/-/jobs").text]))
"""
    try:
        link = ports("page", "server1", "--background", "--no-browser", "--json")
        done = laptop.run("laptop", [laptop.python, "-c", code, link], timeout=150)
        assert done.returncode == 0, done.stderr
        path, saved, whole, listed = json.loads(done.stdout)
        assert path == "/-/jobs/server1%3A1" and 'filename="job-1.stdout.txt"' in saved
        assert whole.rstrip().endswith("made") and ">server1<" in listed and "hostname | tr a-z A-Z" in listed
    finally:
        ports("page", "stop")
        ports("resource", "stop", "-H", "server1", "--now")
        laptop.run("server1", ["sh", "-c", "rm -rf ~/.local/state/ports/hosts/*/jobs /tmp/ports-$(id -u)/leases"])
