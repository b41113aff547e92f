"""``ports shell``: a terminal on a server, left and found again, over the connection's end."""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pexpect
import pytest

from ports.state.waiting import wait_until
from tests.acceptance.conftest import Laptop
from tests.lab import prefixes
from tests.lab.leaks import LeakCheck
from tests.lab.namespaces import NamespaceSite

pytestmark = [pytest.mark.ci, pytest.mark.timeout(120)]

Terminal = Callable[..., "pexpect.spawn[str]"]
LEAVE = "\x02d"  # Ctrl-b d


@pytest.fixture
def terminal(laptop: Laptop, root_site: NamespaceSite, nothing_left: LeakCheck) -> Iterator[Terminal]:
    """Return a function that starts ``ports <words>`` at a terminal of alice's laptop."""
    nothing_left.allow("file */tmux.sock")  # tmux leaves it when its last shell is left by `exit`
    opened: list[pexpect.spawn[str]] = []

    def start(*words: str) -> pexpect.spawn[str]:
        command, environment = root_site.shell_command("laptop")
        typed = " ".join(laptop.command(*words))
        command[-2] = f"exec {typed}"
        one = pexpect.spawn(
            command[0],
            command[1:],
            env={**environment, "TERM": "xterm"},
            encoding="utf-8",
            timeout=30,
            dimensions=(40, 160),
        )
        opened.append(one)
        return one

    yield start
    for one in opened:
        one.close(force=True)


def answer(terminal: pexpect.spawn[str], line: str, pattern: str) -> str:
    """Type a line at a prompt, and return what the pattern finds after it, escape sequences left out."""
    terminal.sendline(line)
    terminal.expect(pattern)
    return str(terminal.match.group(1))


def test_bash_on_a_server_is_found_again_after_a_cut_connection(laptop: Laptop, terminal: Terminal) -> None:
    word = secrets.token_hex(4)
    first = terminal("shell", "server1:work", "--bash")
    first.expect(r"\$ ")
    assert answer(first, "echo on-$(hostname)-$((6 * 7))", r"(on-server1-42)")
    first.sendline(f"kept={word}")
    first.send(LEAVE)
    first.expect("detached")
    first.expect(pexpect.EOF)
    again = terminal("shell", "server1:work", "--bash")
    again.expect(r"\$ ")
    assert answer(again, "echo it-is-$kept.", rf"(it-is-{word}\.)")
    laptop.hang_up()  # the connection ends under it
    again.expect(pexpect.EOF)
    third = terminal("shell", "server1:work")
    third.expect(r"\$ ")
    assert answer(third, "echo still-$kept.", rf"(still-{word}\.)")
    third.sendline("exit")
    third.expect(pexpect.EOF)


def test_ipython_is_the_shell_of_a_host_in_the_environment_that_is_named(laptop: Laptop, terminal: Terminal) -> None:
    first = terminal("shell", "server1")
    first.expect(r"In .*\[.*1.*\].*: ")
    code = "import sys; print('runs', sys.prefix, 'there')"
    assert answer(first, code, r"runs (/\S+) there") == sys.prefix
    first.sendline("exit")
    first.expect(pexpect.EOF)
    other = terminal("shell", "server1:other", "--env", "/opt/notebooks")
    other.expect(r"In .*\[.*1.*\].*: ")
    assert answer(other, code, r"runs (/\S+) there") == "/opt/notebooks"
    other.sendline("exit")
    other.expect(pexpect.EOF)


def test_a_cluster_is_attached_to_and_left_from_home(laptop: Laptop, terminal: Terminal) -> None:
    laptop.json("cluster", "start", "-H", "server1", "--n-workers", "0")
    pane = terminal("cluster", "attach", "main", "-H", "server1")
    pane.expect("cluster main runs at")
    pane.send(LEAVE)
    pane.expect("detached")
    pane.expect(pexpect.EOF)
    assert laptop.json("cluster", "show", "main", "-H", "server1")["state"] == "running"
    laptop.json("cluster", "stop", "main", "-H", "server1")


@pytest.fixture
def odd_home(laptop: Laptop, root_site: NamespaceSite) -> Iterator[str]:
    """Alice's home on server1 has a blank and an umlaut in its path."""
    accounts, home = root_site.host("server1").path("/etc/passwd"), "/home/al ice ü"
    before = accounts.read_text()
    root_site.run("server1", ["cp", "-a", "/home/alice", home], user="root", check=True)
    accounts.write_text(before.replace(":/home/alice:", f":{home}:"))
    yield home
    accounts.write_text(before)
    root_site.run("server1", ["rm", "-rf", home], user="root", check=True)


def test_a_home_with_a_blank_and_an_umlaut_has_shell_and_attach(
    laptop: Laptop, root_site: NamespaceSite, odd_home: str, terminal: Terminal
) -> None:
    text = "ports:\n  hosts:\n    server1:\n      env: ~/my env\n"
    root_site.host("laptop").write("~/.config/dask/ports.yaml", text)
    root_site.run("server1", ["ln", "-s", sys.prefix, f"{odd_home}/my env"], user="root", check=True)
    shell = terminal("shell", "server1:work", "--bash")
    shell.expect(r"\$ ")
    assert answer(shell, "echo home-is-$HOME.", r"(home-is-/[^.]*)\.") == f"home-is-{odd_home}"
    shell.sendline("exit")
    shell.expect(pexpect.EOF)
    laptop.json("cluster", "start", "-H", "server1", "--n-workers", "0")
    pane = terminal("cluster", "attach", "main", "-H", "server1")
    pane.expect("cluster main runs at")
    pane.send(LEAVE)
    pane.expect(pexpect.EOF)
    laptop.json("cluster", "stop", "main", "-H", "server1")
    told = laptop.type("doctor", "server1")
    assert not re.search(r"\\[23][0-7]{2}", told.stdout + told.stderr), told.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["server1:Bad"], "'Bad' is not a name"),
        (["server1", "--env", "none"], "no environment 'none'"),
        (["sever1"], "did you mean server1 or"),
        (["server2"], "ports is not installed there"),
        (["server1", "--env", "a b"], "no environment 'a b'"),
    ],
)
def test_a_shell_that_cannot_be_says_why(laptop: Laptop, root_site: NamespaceSite, words: list[str], told: str) -> None:
    assert root_site.kind == "namespaces"
    done = laptop.type("shell", *words)
    assert done.returncode in (2, 3, 5)
    assert told in done.stderr + done.stdout
    assert len([line for line in (done.stderr + done.stdout).splitlines() if line.strip()]) == 1
    assert not re.search("Traceback", done.stderr)


@pytest.mark.parametrize("conda", [True, False], ids=["conda", "venv"])
def test_a_bash_of_a_host_enters_the_environment_of_the_setting(
    laptop: Laptop, terminal: Terminal, conda: bool
) -> None:
    prefixes.make(laptop.site, "server1", "envs/geo", conda=conda)
    server, prefix = laptop.site.host("server1"), "/home/alice/envs/geo"
    # what a login reads comes first, and must not undo it: `conda init` enters the base environment there
    server.write("~/.bash_profile", "export PATH=/usr/local/bin:/usr/bin:/bin CONDA_PREFIX=/opt/base READ=profile\n")
    laptop.site.host("laptop").write("~/.config/dask/ports.yaml", "ports: {hosts: {server1: {env: ~/envs/geo}}}\n")
    shell = terminal("shell", "server1", "--bash")
    shell.expect(r"\(geo\).*\$ ")
    told = answer(shell, "echo in-$READ-$(command -v python).", r"(in-profile-\S+\.)")
    assert told == f"in-profile-{prefix}/bin/python."
    named = "CONDA_PREFIX" if conda else "VIRTUAL_ENV"
    assert answer(shell, f"echo it-is-${named}.", r"(it-is-/\S+\.)") == f"it-is-{prefix}."
    if conda:
        assert answer(shell, "echo has-$GDAL_DATA.", r"(has-/\S+\.)") == f"has-{prefix}/share/gdal."
    shell.sendline("exit")
    shell.expect(pexpect.EOF)


def test_a_shell_is_listed_and_stopped_from_home_as_on_its_host(laptop: Laptop, terminal: Terminal) -> None:
    first = terminal("shell", "server1:data", "--bash")
    first.expect(r"\$ ")
    first.sendline("cd /tmp; sleep 1000")
    found = wait_until(lambda: listed_program(laptop, "sleep"), timeout=20, what="the shell in the list", every=0.3)
    assert (found["kind"], found["name"], found["state"], found["host"]) == ("shell", "data", "running", "server1")
    assert (found["directory"], found["terminals"]) == ("/tmp", 1) and "attach-session" in found["tmux"]
    first.send(LEAVE)
    first.expect(pexpect.EOF)
    assert "data" in laptop.type("shell", "--list", "-H", "server1").stdout
    missing = laptop.json("shell", "server1:none", "--stop", code=3)["error"]["message"]
    assert missing == "no shell 'none'; there is data"
    told = laptop.type("shell", "server1:data", "--stop")
    assert told.stdout == "shell 'data' is stopped on server1\n", told.stderr
    assert not [one for one in laptop.site.host("server1").processes() if "sleep" in one.command]
    assert laptop.json("shell", "server1", "--list") == []
    told = laptop.type("shell", "server1", "--list")
    assert told.stderr == "no shells on server1; `ports shell server1` starts one\n"
    assert laptop.json("shell", "--list") == []  # none is on the laptop


def listed_program(laptop: Laptop, program: str) -> dict[str, Any] | None:
    """Return the row of the shell in which `program` is in the foreground."""
    rows = laptop.json("shell", "server1", "--list")
    return next((row for row in rows if row["program"] == program), None)
