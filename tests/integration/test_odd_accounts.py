"""Accounts that are not like the usual one: start files that end, wait or read; an expired password; an odd home."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_remote import at_a_terminal, probe_user
from tests.lab import Site
from tests.lab.namespaces import NamespaceSite

MAY_STAY = ("file */tmux-*/default", "file */tmux.sock")  # sockets of tmux servers that have ended
pytestmark = [pytest.mark.ci, pytest.mark.timeout(120)]

MEND = "`[ -t 0 ] || return`"


def ports(site: Site, *words: str, env: dict[str, str] | None = None) -> tuple[Any, str]:
    """Return the JSON that a command on the laptop prints, and its stderr."""
    done = site.run("laptop", [site.python, "-m", "ports", *words, "--json"], env=env or {}, timeout=100)
    assert done.stdout, done.stderr
    return json.loads(done.stdout), done.stderr


def check(site: Site, host: str, name: str, **options: Any) -> dict[str, Any]:
    """Return a row of doctor."""
    return {row["name"]: row for row in ports(site, "doctor", host, **options)[0] if row["host"] == host}[name]


def write(site: Site, host: str, file: str, lines: str, shell: str = "/bin/bash") -> None:
    """Give alice a start file on a host."""
    for program in ("fish", "tmux"):
        if program in lines and not shutil.which(program):
            pytest.skip(f"there is no {program}")
    site.host(host).set_login_shell(site.users[0], shell)
    site.host(host).write(file, f"{lines}\n")


# --- start files of each command ---


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        ("exec fish", "ended the shell"),
        ("exec tmux new -A", "ended the shell"),
        ("cat > /dev/null", "read the input"),
        ("while read -p 'name? ' name; do :; done", "read the input"),
    ],
)
def test_what_start_files_do_to_each_command_is_told(laptop: Site, lines: str, cause: str) -> None:
    write(laptop, "server2", "~/.bashrc", lines)
    opens = [("open", "server2:5555")] if "tmux" in lines else []  # tests/unit/test_start_files.py has the others
    for words in [("list", "server2"), ("cluster", "start", "-H", "server2"), *opens]:
        shown, _ = ports(laptop, *words)
        assert f"your start files there {cause}" in json.dumps(shown) and MEND in json.dumps(shown), shown


# --- start files of a login ---


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        ("exec fish", "ended the shell"),
        ("exec tmux new -A", "ended the shell"),
        ("exit 0", "ended the shell"),
        ("sleep 25", "took more than 1.5 s"),
    ],
)
def test_things_start_without_a_login_that_ends_and_that_is_said(laptop: Site, lines: str, cause: str) -> None:
    write(laptop, "server1", "~/.profile", lines)
    laptop.host("server1").path("~/.bash_profile").unlink(missing_ok=True)
    env = {"DASK_PORTS__HOSTS__SERVER1__ENV": str(Path(laptop.python).parent.parent)}
    if "sleep" in lines:  # else a busy machine has its time
        env["DASK_PORTS__SSH__SHELL_TIMEOUT"] = "1.5"
    began = time.monotonic()
    row = check(laptop, "server1", "shell", env=env)
    assert row["state"] == "warning" and f"your start files there {cause}" in row["cause"], row
    assert time.monotonic() - began < 20  # they are waited for once
    listed, told = ports(laptop, "cluster", "list", "-H", "server1", env=env)
    assert [row["kind"] for row in listed] == ["warning"] and f"your start files there {cause}" in listed[0]["warning"]
    assert f"server1: your start files there {cause}" in told
    assert "the command runs without the environment of your login shell; `ports doctor server1`" in told


def test_a_login_that_asks_a_question_is_read_to_its_end(laptop: Site) -> None:
    write(laptop, "server1", "~/.profile", "read -p 'name? ' name; export ASKED=yes")
    laptop.host("server1").path("~/.bash_profile").unlink(missing_ok=True)
    assert check(laptop, "server1", "shell")["state"] == "ok"


def test_a_cluster_starts_though_the_login_shell_is_replaced(laptop: Site) -> None:
    write(laptop, "server1", "~/.bash_profile", "exec fish")
    env = {"DASK_PORTS__HOSTS__SERVER1__ENV": str(Path(laptop.python).parent.parent)}
    try:
        row, told = ports(laptop, "cluster", "start", "main", "-H", "server1", "--n-workers", "1", env=env)
        assert row["state"] == "running" and "your start files there ended the shell" in told, (row, told)
    finally:
        stopped, _ = ports(laptop, "cluster", "stop", "main", "-H", "server1", env=env)
    assert stopped["state"] == "stopped"


# --- a password that has expired ---


def test_an_expired_password_leads_to_where_it_is_changed(root_site: NamespaceSite, laptop: Site) -> None:
    server = laptop.host("server2")
    server.set_login_shell(laptop.users[0], "/bin/bash")  # the accounts are written again after the test
    kinds = ("auth required pam_permit.so", "account required pam_unix.so", "session required pam_permit.so")
    server.write("/etc/pam.d/sshd", "\n".join([*kinds, "password required pam_unix.so", ""]), user="root")
    server.add_sshd_config("UsePAM yes\n")
    laptop.run("server2", ["chage", "-d", "0", laptop.users[0]], user="root", check=True)
    for words in (("list", "server2"), ("open", "server2:5555"), ("cluster", "list", "-H", "server2")):
        shown, _ = ports(laptop, *words)
        assert "your password there has expired; change it in `ssh -t server2`" in json.dumps(shown), shown
    error = probe_user(laptop, "server2", env={"DASK_PORTS__SSH__TRANSPORT": "paramiko"})
    assert "your password there has expired; change it in `ssh -t server2`" in error["message"], error
    row = check(laptop, "server2", "python")
    assert row["cause"] == "your password there has expired" and row["way_out"] == "change it in `ssh -t server2`"


# --- a home with a blank and an umlaut ---


@pytest.fixture
def odd_home(root_site: NamespaceSite, laptop: Site) -> Iterator[Site]:
    """Alice's home on server1 is ``/home/al ice ü``, and so is her environment's name."""
    home = laptop.account(laptop.users[0]).home
    odd = str(Path(home).parent / "al ice ü")
    laptop.run("server1", ["ln", "-sfn", home, odd], user="root", check=True)
    laptop.run("server1", ["ln", "-s", str(Path(laptop.python).parent.parent), f"{home}/my env ü"], check=True)
    yield laptop
    laptop.run("server1", ["rm", odd], user="root", check=True)


def move(site: Site, shell: str) -> None:
    """Give alice the login shell and the home on server1."""
    if not Path(shell).exists():
        pytest.skip(f"there is no {shell}")
    server, home = site.host("server1"), site.account(site.users[0]).home
    server.set_login_shell(site.users[0], shell)
    accounts = server.path("/etc/passwd", user="root")
    accounts.write_text(accounts.read_text().replace(f":{home}:", f":{Path(home).parent / 'al ice ü'}:"))


ENV = {"DASK_PORTS__HOSTS__SERVER1__ENV": "~/my env ü"}


@pytest.mark.parametrize(
    "shell",
    [
        "/bin/rbash",
        "/usr/bin/fish",
        *(pytest.param(f"/{one}", marks=pytest.mark.long) for one in ("bin/bash", "bin/tcsh")),
    ],
)
def test_any_shell_starts_what_lies_under_a_path_with_blanks(odd_home: Site, shell: str) -> None:
    move(odd_home, shell)
    rows = {row["name"]: row for row in ports(odd_home, "doctor", "server1", env=ENV)[0] if row["host"] == "server1"}
    assert not [row for row in rows.values() if row["state"] == "failed"], rows
    assert "my env ü/bin/python" in rows["ports"]["found"] and rows["forward-port"]["state"] == "ok"
    assert rows["state-directory"]["found"].startswith("/home/al ice ü/"), rows["state-directory"]
    assert ports(odd_home, "cluster", "list", "-H", "server1", env=ENV)[0] == []
    line = "DASK_PORTS__HOSTS__SERVER1__ENV='~/my env ü' ports shell server1 --bash; exit"
    shown = at_a_terminal(odd_home, line, {"[shell-mai": "echo in $HOME; exit\n"})
    assert "in /home/al ice ü" in shown, shown
