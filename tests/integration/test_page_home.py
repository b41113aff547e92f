"""A page on a server, opened at home; a page at home, with things of servers on it."""

from __future__ import annotations

import inspect
import json
import os
import signal
from typing import Any
from urllib.parse import urlencode

import pytest

from ports.state import wait_until
from tests.lab import page
from tests.lab.site import Site

pytestmark = [pytest.mark.ci, pytest.mark.timeout(150)]
ASK = """
import json, sys
given = json.load(sys.stdin)
visitor = Visitor(given["link"])
if "/-/in" in given["link"]:
    visitor.enter()
answers = [vars(visitor.ask(path)) for path in given["paths"]]
print(json.dumps(answers))
"""


def ports(site: Site, *words: str) -> Any:
    done = site.run("laptop", [site.python, "-m", "ports", *words, "--json"], timeout=90)
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout)


def ask(site: Site, link: str, *paths: str) -> list[dict[str, Any]]:
    """Ask a page on alice's laptop."""
    code = inspect.getsource(page) + ASK
    done = site.run("laptop", [site.python, "-c", code], input=json.dumps({"link": link, "paths": paths}), timeout=60)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def test_a_page_on_a_server_alone_opens_at_home(laptop: Site) -> None:
    started = laptop.run("laptop", [laptop.python, "-m", "ports", "page", "-H", "server1"], timeout=90)
    try:
        assert "`ports open server1:page` opens it here" in started.stdout, started
        [row] = ports(laptop, "open", "server1:page", "--background")
        link = str(row["local_url"]).replace("localhost", "127.0.0.1")
        elsewhere = urlencode({"host": "server9", "kind": "cluster", "name": "main"})
        whole, gone = ask(laptop, link, "/", f"/-/go?{elsewhere}")
        assert (whole["status"], "My hosts" in whole["text"]) == (200, True)
        assert gone["status"] == 503
    finally:
        ports(laptop, "tunnel", "close", "--all")
        assert ports(laptop, "page", "stop", "-H", "server1")[0]["state"] == "stopped"


class AtHome:
    """Alice's browser on her laptop, at a page in the background."""

    def __init__(self, site: Site, *hosts: str) -> None:
        self.site = site
        row = ports(site, "page", *hosts, "--background", "--no-browser")
        self.link, self.sent = str(row["local_url"]), {}

    def ask(self, path: str = "/") -> str:
        """Return a page."""
        code = f"{inspect.getsource(page)}\nimport json, sys\ngiven = json.load(sys.stdin)\n"
        code += "visitor = Visitor(given['link'], None, given['sent'])\nvisitor.sent or visitor.enter()\n"
        code += "answer = visitor.ask(given['path'])\nprint(json.dumps([visitor.sent, answer.status, answer.text]))"
        given = json.dumps({"link": self.link, "sent": self.sent, "path": path})
        done = self.site.run("laptop", [self.site.python, "-c", code], input=given, timeout=60)
        assert done.returncode == 0, done.stderr
        self.sent, status, text = json.loads(done.stdout)
        assert status == 200, text
        return str(text)

    def shows(self, word: str) -> bool:
        """Wait until the first page has a word."""
        return wait_until(lambda: word in self.ask() or None, timeout=60, what=f"{word} on the page", every=0.2)


def test_a_page_at_home_never_waits_for_a_host_and_outlives_its_keeper(laptop: Site) -> None:
    serves = [laptop.python, "-u", "-m", "http.server", "--bind", "127.0.0.1", "18080"]
    serving = laptop.popen("server1", serves)
    try:
        seen = AtHome(laptop, "server1", "server2")
        first = seen.ask()
        assert ">server1<" in first
        assert ">server2<" in first
        seen.shows("name=18080")
        [keeper] = [one for one in laptop.host("laptop").processes() if "tunnels.keeper" in " ".join(one.command)]
        os.kill(keeper.pid, signal.SIGKILL)
        other = [laptop.python, "-u", "-m", "http.server", "--bind", "127.0.0.1", "18081"]
        with laptop.popen("server1", other) as later:
            seen.shows("name=18081")
            later.kill()
    finally:
        serving.kill()
        serving.communicate()
        ports(laptop, "page", "stop")
        laptop.run("laptop", [laptop.python, "-m", "ports", "tunnel", "close", "--all"])
        ports(laptop, "prune")  # what the killed keeper left
