"""The page as a process: its links, its records, its end."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlencode

import pytest

from ports.state import wait_until
from tests.integration.conftest import Home
from tests.lab.page import Tab, Visitor

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


@pytest.fixture
def visitor(home: Home) -> Iterator[Visitor]:
    """Somebody who looks at a page in the background."""
    found = Visitor(home.json("page", "--background", "--no-browser")["local_url"])
    found.enter()
    yield found
    home.ports("page", "stop")


def test_twenty_of_twenty_tabs_are_live_and_the_next_is_closed(visitor: Visitor) -> None:
    tabs = [Tab(visitor) for _ in range(20)]
    assert [tab.status for tab in tabs] == [101] * 20
    shown = [tab.next() or "" for tab in tabs]
    assert [text.lstrip()[:6] for text in shown] == ["<main "] * 20
    too_many = Tab(visitor)
    assert (too_many.next(), too_many.close_code) == (None, 1013)
    for tab in [*tabs, too_many]:
        tab.close()
    assert visitor.ask("/").status == 200


def test_what_begins_to_listen_is_shown_and_its_link_leads_there(visitor: Visitor, home: Home) -> None:
    tab = Tab(visitor)
    (home.work / "found.txt").touch()
    with a_server(home) as port:
        shown = wait_until(lambda: row_of(port, tab.next() or ""), timeout=60, what="row of the listener")
        led = visitor.ask(f"/-/go?{urlencode(shown)}")
        assert (led.status, led.headers["Referrer-Policy"]) == (302, "no-referrer"), led
        with urllib.request.urlopen(led.headers["Location"], timeout=20) as answer:
            assert b"found.txt" in answer.read()
        gone = visitor.ask(f"/-/go?{urlencode({**shown, 'name': '1'})}")
        assert (gone.status, "ports list</code> shows what there is" in gone.text) == (503, True), gone.text
        assert str(port) in str(home.json("list"))
    tab.close()
    home.ports("tunnel", "close", "--all")


def row_of(port: int, html: str) -> dict[str, str] | None:
    """Return host, kind and name of the row of a port in a page; None where there is none."""
    hrefs = [href.replace("&amp;", "&") for href in re.findall(r'href="[^"]*/-/go\?([^"]+)"', html)]
    queries = [{name: values[-1] for name, values in parse_qs(href).items()} for href in hrefs]
    return next((one for one in queries if one["name"] == str(port)), None)


def test_a_page_is_one_row_of_the_list_and_found_by_its_socket(visitor: Visitor, home: Home) -> None:
    pid = home.json("page", "--no-browser")["pid"]
    rows = [row for row in home.json("list") if row["kind"] == "page" and row["pid"] == pid]
    assert [(row["name"], row["state"], row["warnings"]) for row in rows] == [("page", "running", [])]
    assert Path(rows[0]["path"]).stat().st_mode & 0o777 == 0o600
    by_socket = Visitor("http://127.0.0.1:20417/", rows[0]["path"])
    assert by_socket.ask("/").status == 200
    assert by_socket.ask("/", Host="localhost:20417").status == 403


def own_name() -> str:
    return socket.gethostname()


@contextlib.contextmanager
def a_server(home: Home) -> Iterator[int]:
    serves = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "0"]
    with subprocess.Popen(serves, cwd=home.work, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as one:
        assert one.stdout is not None
        try:
            yield int(one.stdout.readline().split("port ")[1].split()[0])
        finally:
            one.terminate()


def test_an_act_that_fails_says_so_with_and_without_javascript(visitor: Visitor) -> None:
    form = {"verb": "stop", "host": own_name(), "kind": "cluster", "name": "nothing", "token": visitor.form_token()}
    plain = visitor.act(form)
    assert (plain.status, plain.headers["Location"]) == (303, "/")
    assert "no cluster &#39;nothing&#39;" in visitor.ask("/").text
    morphed = visitor.act(form, X_Ports="morph")
    assert (morphed.status, "no cluster &#39;nothing&#39;" in morphed.text) == (409, True)
    elsewhere = visitor.act(form | {"host": "server7"})
    assert elsewhere.status == 303
    assert "no host &#39;server7&#39;" in visitor.ask("/").text


def test_a_page_that_nobody_looks_at_ends_by_itself(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASK_PORTS__PAGE__IDLE", "0.0003")
    home.json("page", "--background", "--no-browser")
    gone = wait_until(lambda: not [*home.state.glob("hosts/*/pages/*")] or None, timeout=60, what="end of the page")
    assert gone
    assert home.ports("page", "stop").returncode == 3


def test_over_ssh_a_page_has_no_port_and_says_what_to_type(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.1 50000 192.0.2.2 22")
    done = home.ports("page", "--background")
    name = own_name().partition(".")[0]
    assert f"ports open {name}:page" in done.stdout, done
    assert "`ports page stop` ends the page" in done.stderr
    [row] = [one for one in home.json("list") if one["kind"] == "page" and str(home.runtime) in str(one["path"])]
    visitor = Visitor("http://127.0.0.1:20417/", row["path"])
    assert visitor.ask("/").status == 200
    tab = Tab(visitor)
    assert (tab.status, "<main" in (tab.next() or "")) == (101, True)
    tab.close()
    form = {"verb": "show", "kind": "host", "host": "server9", "token": visitor.form_token()}
    assert visitor.act(form).status == 303
    assert visitor.act(form, Origin="http://127.0.0.1:20418").status == 403
    led = visitor.ask(f"/-/go?{urlencode({'host': own_name(), 'kind': 'cluster', 'name': 'main'})}")
    assert led.status == 503
    home.ports("page", "stop")
