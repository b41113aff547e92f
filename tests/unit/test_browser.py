"""The link that a browser is given: it shows no token, and leads on once, for this user alone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ports.cli.output import Output
from ports.cli.tunnel import Links

URL = "http://127.0.0.1:1/lab?token=secret"
# Stands for a browser: fetches the link as each of the users that it is told, and writes what came.
BROWSER = """#!{python}
import http.client, os, sys, urllib.parse
link = urllib.parse.urlsplit(sys.argv[1])
with open({file!r}, "w") as file:
    print(sys.argv[1], file=file, flush=True)
    for uid in {uids}:
        if os.fork() == 0:
            if uid != os.getuid():
                os.setuid(uid)
            connection = http.client.HTTPConnection("127.0.0.1", link.port)
            connection.request("GET", link.path)
            answer = connection.getresponse()
            print(answer.status, answer.getheader("Location"), file=file, flush=True)
            os._exit(0)
        os.wait()
"""
OPEN = f"from ports.tunnels import _browser as browser; print(browser.open_once({URL!r}, timeout=10))"


def browse(tmp_path: Path, uids: list[int]) -> list[str]:
    program, said = tmp_path / "browser", tmp_path / "said"
    program.write_text(BROWSER.format(python=sys.executable, file=str(said), uids=uids))
    program.chmod(0o755)
    environ = {**os.environ, "BROWSER": str(program)}
    done = subprocess.run([sys.executable, "-c", OPEN], env=environ, capture_output=True, text=True, timeout=30)
    assert done.stdout == "True\n", done.stderr
    return said.read_text().splitlines()


def test_the_browser_gets_a_link_without_the_token_on_the_served_address(tmp_path: Path) -> None:
    link, first, again = browse(tmp_path, [os.getuid()] * 2)
    assert link.startswith("http://127.0.0.1:") and "secret" not in link
    assert (first, again) == (f"302 {URL}", "404 None")


def others_reach_python() -> bool:
    """Say whether this interpreter can be run by another user: one below /root cannot."""
    try:
        return subprocess.run([sys.executable, "-c", ""], user=65534, cwd="/", capture_output=True).returncode == 0
    except (PermissionError, FileNotFoundError):
        return False


@pytest.mark.skipif(os.getuid() != 0 or not others_reach_python(), reason="another user must run this Python")
def test_another_user_who_comes_first_gets_nothing_and_my_browser_does(tmp_path: Path) -> None:
    assert browse(tmp_path, [65534, 0])[1:] == ["404 None", f"302 {URL}"]


def test_a_browser_that_does_not_come_keeps_no_link_from_being_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "browser"
    program.write_text(f"#!/bin/sh\nwhile [ ! -e {tmp_path}/end ]; do sleep 0.05; done\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(program))
    monkeypatch.setattr("webbrowser._tryorder", None)  # the variable is read once
    shown = Links(Output(as_json=True), browse=True)
    row = {"host": "server1", "kind": "cluster", "name": "main", "state": "open", "local_url": URL}
    ends = threading.Timer(3, (tmp_path / "end").touch)
    ends.start()
    begun = time.monotonic()
    shown.event(row)
    took = time.monotonic() - begun
    ends.cancel()
    (tmp_path / "end").touch()
    shown.wait_for_browser()
    assert took < 1


@pytest.mark.parametrize(("browse", "opens"), [(None, True), (True, True), (False, False)])
def test_no_browser_holds_for_what_the_settings_would_open(
    monkeypatch: pytest.MonkeyPatch, browse: bool | None, opens: bool
) -> None:
    shown = Links(Output(as_json=True), browse=browse)
    seen: list[str] = []
    monkeypatch.setattr(shown, "_show", seen.append)
    row = {"host": "server1", "kind": "cluster", "name": "main", "state": "open", "local_url": URL}
    shown.event({**row, "notice": "open"})  # it came up later, and the setting open.new says: open
    assert bool(seen) is opens
