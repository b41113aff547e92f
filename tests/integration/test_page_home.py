"""A page on a server, opened at home; a page at home, with things of servers on it."""

from __future__ import annotations

import inspect
import json
from typing import Any
from urllib.parse import urlencode

import pytest

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
