"""Alice's laptop and what she runs on the servers: every test types commands, as she does.

===============  ======================================================================================
`laptop`         the command line on alice's laptop, all hosts as they were at first, nothing left after
`at_work`        her morning, for all tests of a module: a cluster and a notebook server on server1, and a
                 Jupyter on server2 that she started by hand, where nothing of `ports` is installed
===============  ======================================================================================
"""

from __future__ import annotations

import json
import subprocess
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from ports.state.waiting import wait_until
from tests.lab import Site
from tests.lab.leaks import LeakCheck
from tests.lab.namespaces import NamespaceSite
from tests.lab.site import Running

#: What `ports` keeps on purpose: its connections, which later commands use, and what a link's token comes from.
KEPT = ("file */ssh/*.log", "file */tokens/*")

FETCH = """
import json, sys, urllib.error, urllib.request
found = []
for url in sys.argv[1:]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            found.append([answer.status, answer.read().decode(errors="replace")])
    except urllib.error.HTTPError as error:
        found.append([error.code, ""])
    except OSError as error:
        found.append([None, str(error)])
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Laptop:
    """Commands that alice types on her laptop, or on another host."""

    site: Site

    def type(self, *words: str, timeout: float = 60, **where: Any) -> subprocess.CompletedProcess[str]:
        """Run ``ports <words>`` to its end."""
        return self.site.run(where.pop("host", "laptop"), self.command(*words), timeout=timeout, **where)

    def command(self, *words: str) -> list[str]:
        """Return the command line of ``ports <words>``."""
        return [self.site.python, "-m", "ports", *words]

    def json(self, *words: str, code: int = 0, **where: Any) -> Any:
        """Run ``ports <words> --json``, and return its document."""
        done = self.type(*words, "--json", **where)
        assert done.returncode == code, done.stderr + done.stdout
        return json.loads(done.stdout)

    def python(self, host: str, code: str, *words: str, timeout: float = 60) -> str:
        """Run a script that succeeds, and return what it prints."""
        done = self.site.run(host, [self.site.python, "-c", code, *words], timeout=timeout)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fetch(self, *urls: str) -> list[tuple[int | None, str]]:
        """Return status and text of pages, as a program on the laptop gets them."""
        return [(status, text) for status, text in json.loads(self.python("laptop", FETCH, *urls))]

    def open(self, *words: str) -> tuple[Running, list[dict[str, Any]]]:
        """Start ``ports open`` in the foreground; return it, and its rows once all are up."""
        running = self.site.popen("laptop", self.command("open", *words, "--json"))
        assert running.stdout is not None
        line = running.stdout.readline()
        assert line, running.communicate()[1]
        return running, json.loads(line)

    def listening(self, ports: set[int]) -> set[str]:
        """Return which addresses of the laptop listen on one of `ports`."""
        found = [one.where for one in self.site.host("laptop").listeners()]
        return {where for where in found if where.rpartition(":")[2] in map(str, ports)}

    def hang_up(self) -> None:
        """End the connections that `ports` keeps for later commands, of all users."""
        for user in self.site.users:
            close = [self.site.python, "-c", "from ports.hosts import openssh; openssh.close_all()"]
            self.site.run("laptop", close, user=user, check=True)


def without_token(url: str) -> str:
    """Return a link without its query."""
    return urllib.parse.urlunsplit(urllib.parse.urlsplit(url)._replace(query=""))


@pytest.fixture
def laptop(site: Site, fresh_home: Site, nothing_left: LeakCheck) -> Iterator[Laptop]:
    """The command line on alice's laptop."""
    for pattern in KEPT:
        nothing_left.allow(pattern)
    made = Laptop(site)
    yield made
    made.hang_up()


@dataclass(frozen=True)
class AtWork(Laptop):
    """Alice's laptop in the morning: ``main`` and ``lab`` run on server1, a Jupyter of hers on server2."""

    by_hand: Running


@pytest.fixture(scope="module")
def at_work(root_site: NamespaceSite) -> Iterator[AtWork]:
    """Alice's morning; what was started ends with the module, and nothing of it may be left."""
    root_site.reset()
    check = LeakCheck(root_site)
    for pattern in KEPT:
        check.allow(pattern)
    check.allow("file */jupyter/*")
    root_site.host("server2").write("~/analysis/data.csv", "x,y\n1,2\n")
    jupyter = [str(root_site.notebook_python), "-m", "jupyter", "lab", "--no-browser"]
    quiet = subprocess.DEVNULL
    by_hand = root_site.popen("server2", jupyter, cwd="/home/alice/analysis", stdout=quiet, stderr=quiet)
    made = AtWork(root_site, by_hand)
    starts = [["cluster", "start", "main", "--n-workers", "2"], ["notebook", "start"]]
    begun = [root_site.popen("laptop", made.command(*words, "-H", "server1")) for words in starts]
    for one in begun:
        _, stderr = one.communicate(timeout=60)
        assert one.returncode == 0, stderr
    wait_until(lambda: made.json("list", "server2") or None, timeout=30, what="the Jupyter started by hand", every=0.5)
    yield made
    by_hand.terminate()
    by_hand.wait(10)
    for words in (["cluster", "stop", "main"], ["notebook", "stop"]):
        done = made.type(*words, "-H", "server1")
        assert done.returncode == 0, done.stderr
    made.hang_up()
    check.verify()
