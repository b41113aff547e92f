"""The page as a process: its links, its records, its end."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ports.state import wait_until
from tests.integration.conftest import Home
from tests.lab.page import Visitor

pytestmark = pytest.mark.ci


def test_a_link_works_once_and_page_prints_another_one(home: Home) -> None:
    first = home.ports("page", "--background", "--no-browser")
    assert "the link works once, `ports page` prints another one; `ports page stop` ends the page" in first.stderr
    link = first.stdout.split()[1]
    assert Visitor(link).ask("/").status == 403
    assert "`ports page` prints a link that opens it" in Visitor(link).ask("/").text
    browser = Visitor(link)
    assert (browser.enter().status, browser.ask("/").status) == (302, 200)
    assert browser.enter().status == 302  # it has the cookie
    refused = Visitor(link).enter()
    assert (refused.status, "`ports page` prints another one" in refused.text) == (403, True)
    another = Visitor(home.ports("page", "--no-browser").stdout.split()[1])
    assert (another.enter().status, another.ask("/").status) == (302, 200)
    assert home.json("page", "stop")[0]["state"] == "stopped"
    none = home.ports("page", "stop")
    assert (none.returncode, "`ports page` starts one" in none.stderr) == (3, True)


def test_two_pages_at_once_have_ports_and_cookies_of_their_own(home: Home) -> None:
    words = [sys.executable, "-m", "ports", "page", "--no-browser", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=home.work, text=True) as running:
        assert running.stdout is not None
        here = running.stdout.readline()
        assert '"background": false' in here
        kept = home.json("page", "--background", "--no-browser")
        browser = Visitor(kept["local_url"])
        browser.enter()
        cookie = browser.sent["Cookie"]
        assert f"ports-page-{kept['local_port']}=" in cookie
        assert cookie.partition("=")[0] not in here
        assert len(home.json("page", "stop")) == 2
        assert running.wait(10) == 0
    assert not [*home.state.glob("hosts/*/pages/*")], "records"


def test_a_page_is_ended_by_ctrl_c_and_leaves_nothing(home: Home) -> None:
    words = [sys.executable, "-m", "ports", "page", "--no-browser"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=home.work, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("page  http://127.0.0.1:")
        running.send_signal(2)
        assert running.wait(10) == 0
    wait_until(lambda: not [*home.runtime.glob("page-*")] or None, timeout=5, what="end of its socket")
    assert not [*home.state.glob("hosts/*/pages/*")]
