"""The command line: its table of commands, options that all share, errors as exit codes and JSON."""

from __future__ import annotations

import importlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ports import errors, listeners, tunnels
from ports.cli import cluster, job, main, output, tunnel
from ports.cli import list as list_
from ports.cli import watch as watching
from ports.cli.output import Output
from ports.hosts import Target, _ask
from ports.hosts.targets import parse
from ports.listeners import _list
from ports.state import paths
from ports.tunnels import _views

TERMINAL = {"attach", "login"}  # they take over the terminal: there is nothing to print as JSON


def commands(group: click.Group = main.ports, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield all commands with their words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from commands(found, f"{path}{name} ")
        else:
            yield f"{path}{name}", found


ALL = dict(commands())


def options(command: click.Command) -> set[str]:
    return {name for parameter in command.params if isinstance(parameter, click.Option) for name in parameter.opts}


def test_the_table_of_commands_says_what_they_say() -> None:
    for name, (module, attribute, text) in main.COMMANDS.items():
        found = getattr(importlib.import_module(module), attribute)
        assert isinstance(found, click.Command), name
        assert (found.help or "").startswith(text.rstrip(".")), name


def test_every_command_and_option_has_a_help_text() -> None:
    for name, command in ALL.items():
        assert command.help, name
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.opts}"


def test_no_help_of_a_command_is_cut_in_the_list_of_its_group(capsys: pytest.CaptureFixture[str]) -> None:
    for name, _ in groups():
        assert main.run(main.ports, [*name.split()[name == "ports" :], "-h"]) == 0
        listed = capsys.readouterr().out.partition("Commands:")[2]
        assert listed and "..." not in listed, listed


def test_every_command_keeps_its_help_options_for_itself() -> None:
    for name, command in [*ALL.items(), *((name, found) for name, found in groups())]:
        assert command.context_settings["help_option_names"] == ["-h", "--help"], name


def groups() -> Iterator[tuple[str, click.Command]]:
    """Yield the top and all groups below it."""
    yield "ports", main.ports
    context = click.Context(main.ports)
    for name in main.COMMANDS:
        found = main.ports.get_command(context, name)  # type: ignore[attr-defined]
        if isinstance(found, click.Group):
            yield name, found


@pytest.mark.parametrize("kind", ["cluster", "notebook"])
def test_every_kind_of_session_has_the_shared_commands(kind: str) -> None:
    for name in ("start", "list", "show", "logs", "attach", "stop"):
        assert f"{kind} {name}" in ALL
    assert "[default: 50]" in ALL[f"{kind} logs"].get_help(click.Context(ALL[f"{kind} logs"]))


def test_every_command_prints_json_on_request() -> None:
    without = {name for name, command in ALL.items() if "--json" not in options(command)}
    assert {name.split()[-1] for name in without} <= TERMINAL


def test_every_command_acts_on_another_host_on_request() -> None:
    assert [name for name, command in ALL.items() if not {"-H", "--host"} <= options(command)] == []


def test_help_lists_the_commands_and_no_second_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(main.ports, ["-h"]) == 0
    shown = capsys.readouterr().out
    listed = [line.split()[0] for line in shown.partition("Commands:")[2].splitlines() if line.strip()]
    assert set(main.COMMANDS) - {"ls"} <= set(listed) and "ls" not in listed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cluter"], "no command 'cluter'; did you mean `ports cluster`?"),
        (["xyzzy"], "no command 'xyzzy'"),
        (["start"], "did you mean `ports cluster start`, `ports notebook start` or `ports resource start`?"),
        (["stop"], "`ports notebook stop`, `ports resource stop` or `ports tunnel close`?"),
        (["status"], "did you mean `ports list` or `ports who`?"),
        (["statu"], "did you mean `ports list` or `ports who`?"),
        (["strt"], "did you mean `ports cluster start`, `ports notebook start` or `ports resource start`?"),
        (["notebook", "ps"], "did you mean `ports notebook list` or `ports notebook show`?"),
        (["cluster", "start", "--optin", "x=1"], "no option '--optin'; did you mean `--option`?"),
        (["cluster", "start", "--option", "x"], "--option 'x' is not NAME=VALUE"),
        (["help"], "did you mean `ports --help` or `ports COMMAND --help`?"),
        (["cluster", "status"], "did you mean `ports cluster list` or `ports cluster show`?"),
        (["cluster", "strat"], "no command 'strat'; did you mean `ports cluster start`?"),
        (["tunnel", "clos"], "no command 'clos'; did you mean `ports tunnel close`?"),
        (["cluster", "start", "--n-worker", "2"], "no option '--n-worker'; did you mean `--n-workers`"),
        (["list", "server1:main"], "'server1:main' is more than a host; `ports open server1:main` opens it"),
        (["doctor", "server1:6006"], "`ports open server1:6006` opens it"),
        (["login", "alice@server1:22"], "`ports open alice@server1:22` opens it"),
        (["cluster", "start", "--n-wrkers", "2"], "--n-workers"),
        (
            ["cluster", "scale", "main"],
            "the last word is a number of workers, not main; write `ports cluster scale main 4`",
        ),
        (["cluster", "scale", "main", "two", "-H", "s1"], "not two; write `ports cluster scale main 4 -H s1`"),
        (["cluster", "scale", "ip"], "the last word is a number of workers, not ip; write `ports cluster scale ip 4`"),
        (
            ["cluster", "scale", "2", "main"],
            "the last word is a number of workers, not main; write `ports cluster scale main 4`",
        ),
        (["cluster", "scale", "main", "all"], "scale takes a number of workers; `ports cluster start --n-workers all`"),
        (["cluster", "scale", "main", "big", "3"], "main big are 2 names"),
    ],
)
def test_a_wrong_word_is_exit_code_2_with_the_way_out(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(main.ports, words) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("ports: ") and message in shown.err
    assert "(see `ports" in shown.err and shown.err.count("\n") == 1
    assert main.run(main.ports, [*words, "--json"]) == 2
    assert message in json.loads(capsys.readouterr().out)["error"]["message"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["cluster", "start", "--n-workers", "-1"],
            "--n-workers is -1; it must be a whole number of at least 0, or 'all'",
        ),
        (
            ["cluster", "start", "--n-workers", "many"],
            "--n-workers is 'many'; it must be a whole number of at least 0, or 'all'",
        ),
        (["cluster", "scale", "main", "1.5"], "N_WORKERS is 1.5; it must be a whole number of 0 or more"),
        (["open", "x", "--local-port", "70000"], "--local-port is 70000; it must be a whole number from 0 to 65535"),
        (["notebook", "start", "--timeout", "soon"], "--timeout is soon; it must be a number of 0 or more"),
        (["cluster", "start", "--timeout", "nan"], "--timeout is nan; it must be a number of 0 or more"),
        (["shell", "server1", "data"], "write `ports shell server1:data`"),
        (["shell", "server1", "data", "more"], "write `ports shell HOST:NAME`"),
        (["shell", "list"], "no host 'list'; did you mean `ports shell --list`?"),
        (["shell", "stop"], "did you mean `ports shell --stop`?"),
        (["shell", "server1:data", "--list"], "--list shows all shells; leave 'data' out"),
        (["shell", "--list", "--stop"], "two commands; leave one of them out"),
        (["shell", "--json"], "--json goes with --list and --stop"),
    ],
)
def test_a_number_or_target_that_cannot_be_is_told_in_words(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(main.ports, words) == 2
    assert message in capsys.readouterr().err


def test_every_number_tells_its_range_in_words() -> None:
    for name, command in ALL.items():
        for parameter in command.params:
            assert not isinstance(parameter.type, click.IntRange | click.FloatRange), f"{name} {parameter.name}"


def test_the_older_command_and_every_command_take_a_short_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command, words in ((tunnel.open_, ["-h"]), (main.ports, ["open", "-h"]), (main.ports, ["cluster", "-h"])):
        assert main.run(command, words, "jupyter_forwarding") == 0
        assert "Usage: jupyter_forwarding" in capsys.readouterr().out


def in_a_terminal(code: str, **environ: str) -> bytes:
    """Return what `code` prints where it has a terminal."""
    ours, theirs = os.openpty()
    with open(ours, "rb", buffering=0) as screen:
        plain = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}
        subprocess.run([sys.executable, "-c", code], stdout=theirs, env=plain | environ, check=True, timeout=30)
        os.close(theirs)
        return screen.read(100_000).replace(b"\r\n", b"\n")


TABLE = """
from ports.cli.output import write_table
write_table([{"name": "main", "state": "running", "reason": "x" * 300}, {"name": "old", "state": "stopped"}], "cluster")
"""


def test_a_table_has_colours_in_a_terminal_only() -> None:
    coloured = in_a_terminal(TABLE, TERM="xterm")
    assert b"\033[32mrunning\033[0m" in coloured and b"\033[31mstopped\033[0m" in coloured
    heading, _, note, _ = coloured.splitlines()
    assert heading.startswith(b"\033[1mNAME") and note == b"    " + b"x" * 300  # no word is broken
    plain = re.sub(rb"\033\[\d+m", b"", coloured)
    assert plain == in_a_terminal(TABLE, TERM="dumb")
    piped = subprocess.run([sys.executable, "-c", TABLE], capture_output=True, check=True, timeout=30).stdout
    assert piped.split() == [b"NAME", b"STATE", b"NOTE", b"main", b"running", b"x" * 300, b"old", b"stopped"]
    assert piped.count(b"\n") == 3, "what a program reads has a line for each row"
    without = in_a_terminal(TABLE, TERM="xterm", NO_COLOR="1")
    assert b"\033[32m" not in without and without.startswith(b"\033[1mNAME")


ROW = {"host": "server1", "kind": "notebook", "name": "lab", "state": "open", "local_url": "http://localhost:2/"}


def test_links_are_results_and_all_else_is_told_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    links = tunnel.Links(Output(as_json=False), browse=False)
    links.event({**ROW, "state": "connecting", "local_url": None})
    assert capsys.readouterr() == ("", "")
    links.event(
        {
            **ROW,
            "state": "error",
            "host": "away",
            "kind": "host",
            "name": None,
            "local_url": None,
            "error": "away: is down",
        }
    )
    links.event({**ROW, "state": "error", "name": "x", "local_url": None, "error": "port 1 is held by bob"})
    links.event(
        {
            **ROW,
            "state": "error",
            "name": "y",
            "local_url": None,
            "error": "no cluster 'server1:y'; `ports cluster start y`",
        }
    )
    links.event({**ROW, "state": "nothing", "kind": "host", "name": None, "local_url": None, "note": "nothing runs"})
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "ports: away: is down",
        "ports: server1:x: port 1 is held by bob",
        "ports: no cluster 'server1:y'; `ports cluster start y -H server1`",
        "server1: nothing runs",
    ]
    links.event(ROW)
    links.event({**ROW, "state": "closed", "local_url": None, "note": "port 2 is held by `ports open`, process 7"})
    shown = capsys.readouterr()
    assert shown.out.split() == ["HOST", "WHAT", "LINK", "server1", "notebook", "lab", "http://localhost:2/"]
    assert shown.err == "server1:lab: closed\n"


def test_a_host_is_reported_once_and_a_service_by_its_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    links = tunnel.Links(Output(as_json=False), browse=False)
    several = [{**ROW, "name": name} for name in ("lab", "other")]
    for state in ("open", "down", "down", "open"):
        for row in several:
            links.event({**row, "state": state, "error": "server1: nothing came back" if state == "down" else None})
    links.event({**ROW, "state": "ended", "error": "no running notebook 'server1:lab'"})
    links.event(ROW)
    links.event({**ROW, "name": "later", "notice": "notify"})
    links.event({**ROW, "name": "quiet", "notice": "silent"})
    shown = capsys.readouterr()
    assert [line.split()[2] for line in shown.out.splitlines()[1:]] == ["lab", "other", "later"]
    assert shown.err.splitlines() == [
        "server1: down; nothing came back; its links answer again once the connection is back",
        "server1: open again, under the same links",
        "server1:lab: it has ended; no running notebook 'server1:lab'",
        "server1:lab: it is back, under the same link",
    ]


@pytest.fixture
def two_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """An ssh configuration with two hosts; what would run there is noted."""
    file = tmp_path / "config"
    file.write_text("Host server1 main\n  HostName s1.example\nHost server2\n")
    monkeypatch.delitem(sys.modules, "dask.config", raising=False)  # it has read the variables already
    monkeypatch.setenv("DASK_PORTS__SSH__CONFIG", str(file))
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "home"))
    ran: list[tuple[str, list[str]]] = []

    def run(alias: str, argv: list[str], **_: Any) -> Any:
        ran.append((alias, argv))
        if alias == "server2":
            raise errors.NetworkError(alias, "does not answer")
        return [{"host": "box", "kind": "cluster", "name": "main", "state": "running"}]

    monkeypatch.setattr(_ask, "run_ports", run)  # what runs there is tested on the site
    return ran


@pytest.mark.parametrize(
    "words", [["cluster", "list"], ["notebook", "list"], ["prune"], ["settings"]], ids=lambda words: " ".join(words)
)
def test_what_lists_takes_hosts_as_arguments_and_by_option(
    words: list[str], two_hosts: list[tuple[str, list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    for typed in (["server1"], ["-H", "server1"], ["server1", "-H", "server1"]):
        assert main.run(main.ports, [*words, *typed, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)[0]["host"] == "server1"
    assert two_hosts == [("server1", words)] * 3


@pytest.mark.parametrize(
    ("words", "targets"),
    [
        (["-H", "server1"], ["server1"]),
        (["-H", "server1", "main", "6006"], ["server1:main", "server1:6006"]),
        (["main", "--host", "alice@::1"], ["alice@[::1]:main"]),
        (["-H", "ssh://alice@server1", "main"], ["ssh://alice@server1:main"]),
    ],
)
def test_open_takes_the_host_of_its_targets_by_option(
    monkeypatch: pytest.MonkeyPatch, words: list[str], targets: list[str]
) -> None:
    from ports import tunnels

    asked: list[Target] = []

    def opened(wanted: list[Target], **_: Any) -> list[Any]:
        asked.extend(wanted)
        return [{"host": "server1", "state": "nothing"}]

    monkeypatch.setattr(tunnels, "open_in_background", opened)
    assert main.run(main.ports, ["open", "--background", *words]) == 3
    assert asked == [parse(one) for one in targets]


@pytest.mark.parametrize("words", [["open", "-H", "server1", "server2:main"], ["shell", "-H", "server1", "server1"]])
def test_a_host_that_is_named_twice_is_refused(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main.run(main.ports, words) == 2
    assert f"{words[3]!r} names a host, and so does -H server1; leave out one of them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["-H", "server1"], ("server1", ["shell", "--name", "main"])),
        (["-H", "server1", "data", "--bash"], ("server1", ["shell", "--name", "data", "--bash"])),
        (["-H", "server1", "--name", "data"], ("server1", ["shell", "--name", "data"])),
        (["-H", "localhost", "data"], ("here", "data")),
        (["localhost:data"], ("here", "data")),
    ],
)
def test_a_shell_takes_its_host_by_option(
    monkeypatch: pytest.MonkeyPatch, words: list[str], asked: tuple[str, Any]
) -> None:
    from ports import hosts, sessions

    seen: list[tuple[str, Any]] = []
    monkeypatch.setattr(hosts, "interactive", lambda host, words: seen.append((host, words)))
    monkeypatch.setattr(sessions, "open_shell", lambda name, **_: seen.append(("here", name)))
    assert main.run(main.ports, ["shell", *words]) == 0
    assert seen == [asked]


@pytest.mark.parametrize("words", [["tunnel", "list"], ["tunnel", "close", "s:main"], ["browse", "main"]])
def test_tunnels_of_another_machine_keep_the_hosts_that_they_lead_to(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"host": "far", "kind": "tunnel", "name": "main", "state": "open", "local_url": "http://localhost:1/"}
    asked: list[tuple[str, list[str]]] = []

    def run(host: str, argv: list[str], **_: Any) -> Any:
        asked.append((host, argv))
        return row if words[0] == "browse" else [row]

    monkeypatch.setattr(_ask, "run_ports", run)
    assert main.run(main.ports, [*words, "-H", "server1"]) == 0
    assert asked == [("server1", words)] and "http://localhost:1/" in capsys.readouterr().out
    assert main.run(main.ports, [*words, "-H", "server1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {**row, "host": "server1"} if words[0] == "browse" else [row]


def test_login_takes_one_host_as_argument_or_by_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ports import hosts

    monkeypatch.setattr(hosts, "login", lambda host: {"host": host, "user": "alice"})
    for typed in (["server1"], ["-H", "server1"]):
        assert main.run(main.ports, ["login", *typed]) == 0
        assert "connected to server1 as alice" in capsys.readouterr().out
    for typed in ([], ["server1", "-H", "server2"]):
        assert main.run(main.ports, ["login", *typed]) == 2


# --- this machine by name ---


@pytest.fixture
def no_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ssh program that fails the test when it runs."""
    program = tmp_path / "bin/ssh"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho ran >> {tmp_path}/ssh-ran\nexit 255\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", socket.gethostname()])
def test_this_machine_by_name_needs_no_ssh_unless_it_is_a_host(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ports import hosts

    file = tmp_path / "config"
    file.write_text("Host *\n  User alice\n")
    monkeypatch.delitem(sys.modules, "dask.config", raising=False)
    monkeypatch.setenv("DASK_PORTS__SSH__CONFIG", str(file))
    assert hosts.is_here(name) and not hosts.is_here(f"bob@{name}") and not hosts.is_here(f"{name}x")
    assert hosts.resolve(name) == hosts.here() and hosts.resolve(f"bob@{name}").transport == "ssh"
    file.write_text(f"Host {name}\n  HostName server1\n")
    assert not hosts.is_here(name) and hosts.resolve(name).transport == "ssh"


@pytest.mark.parametrize(
    "words",
    [
        ["list", "localhost"],
        ["list", "-H", "127.0.0.1"],
        ["who", "localhost"],
        ["cluster", "list", "localhost"],
        ["notebook", "list", "-H", "::1"],
        ["cluster", "list", "::1", "127.0.0.1"],
        ["settings", "localhost"],
        ["login", "localhost"],
    ],
    ids=" ".join,
)
def test_no_command_asks_this_machine_by_ssh(words: list[str], no_ssh: None, tmp_path: Path) -> None:
    environ = {**os.environ, "PORTS_HOME": str(tmp_path / "home"), "DASK_PORTS__SSH__CONFIG": os.devnull}
    done = subprocess.run(
        [sys.executable, "-m", "ports", *words, "--json"], env=environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    rows = found if isinstance(found, list) else [found]
    assert not (tmp_path / "ssh-ran").exists()
    assert all(row["host"] == words[-1] for row in rows if words[0] in ("list", "who", "login"))


def test_one_of_several_hosts_that_fails_hides_no_other(
    two_hosts: list[tuple[str, list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(main.ports, ["cluster", "list", "server1", "server2"]) == 5
    shown = capsys.readouterr()
    assert [line.split() for line in shown.out.splitlines()] == [
        ["HOST", "NAME", "STATE"],
        ["server1", "main", "running"],
    ]
    assert shown.err == "ports: server2: does not answer\n"


@dataclass
class Listed:
    """What a listing has of one listener."""

    host: str

    def row(self) -> dict[str, Any]:
        return {"host": self.host, "kind": "cluster", "name": f"on-{self.host}", "state": "running", "url": None}


@pytest.fixture
def listing(two_hosts: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Two hosts of the settings, of which one fails; return what was on the screen when they were asked."""
    shown: list[str] = []
    monkeypatch.setenv("DASK_PORTS__HOSTS", '["server1", "server2"]')

    def look(host: str | None = None, **_: Any) -> tuple[Listed, ...]:
        if host is not None:
            shown.append(capsys.readouterr().out)
        if host == "server2":
            raise errors.NetworkError(host, "does not answer")
        return (Listed(host or "here"),)

    monkeypatch.setattr(_list, "list", look)
    monkeypatch.setattr(listeners, "list", look)
    return shown


def test_a_listing_without_host_shows_this_machine_then_the_hosts(
    listing: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(main.ports, ["list"]) == 5
    last = capsys.readouterr()
    assert "on-here" in "".join(listing), "it waited for a host"
    assert "on-server1" in last.out and "on-here" not in last.out
    assert "server2: does not answer" in last.err


def test_json_without_host_is_this_machine_only(listing: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(main.ports, ["list", "--json"]) == 0
    assert [row["host"] for row in json.loads(capsys.readouterr().out)] == ["here"]
    assert listing == []


class Watched:
    """Stands for `tunnels.watch`: hosts with the views that a test gives them."""

    def __init__(self, named: Sequence[str], *, on_change: Any, batch: bool) -> None:
        self.named, self.on_change, self.batch = list(named), on_change, batch

    def views(self) -> list[dict[str, Any]]:
        return [_views.empty(one or "here", here=not one, since=time.time()) for one in self.named]

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing runs."""


def test_watching_a_list_shows_this_machine_then_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnels, "watch", Watched)
    monkeypatch.setattr(list_, "_MOMENT", 0.0)
    monkeypatch.setattr(list_, "_LEAST", 0.0)
    watched = list_.looks(("server1", "server2"), with_here=True)
    assert next(watched) == ["here  ◐ connecting", "", "server1  ◐ connecting", "", "server2  ◐ connecting"]
    assert next(list_.looks(("server1",), with_here=False)) == ["server1  ◐ connecting"]


def test_watching_shows_ones_own(listing: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(main.ports, ["list", "--all", "--watch"]) == 2
    assert "--watch shows your own; leave out --all, or --watch" in capsys.readouterr().err
    assert main.run(main.ports, ["list", "--all", "--json"]) == 0


def test_the_only_host_of_the_settings_that_fails_hides_nothing(
    listing: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DASK_PORTS__HOSTS", '["server2"]')
    assert main.run(main.ports, ["list"]) == 5
    assert "on-here" in "".join(listing)
    assert "server2: does not answer" in capsys.readouterr().err
    assert main.run(main.ports, ["list", "-H", "server1", "--json"]) == 0
    assert [row["host"] for row in json.loads(capsys.readouterr().out)] == ["server1"]


@pytest.mark.parametrize(
    "words",
    [["cluster", "stop"], ["cluster", "start"], ["cluster", "show"], ["cluster", "attach"], ["notebook", "logs"]],
    ids=lambda words: " ".join(words),
)
def test_a_name_that_is_a_host_is_refused_with_what_is_meant(
    words: list[str], two_hosts: list[tuple[str, list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(main.ports, [*words, "server1"]) == 2
    assert f"did you mean `ports {' '.join(words)} -H server1`?" in capsys.readouterr().err
    assert two_hosts == []


def test_the_default_name_may_be_a_host_too(
    two_hosts: list[tuple[str, list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(main.ports, ["cluster", "show", "main"]) == 3
    assert "no cluster 'main'" in capsys.readouterr().err


def test_a_cluster_that_is_here_may_be_called_as_a_host(
    two_hosts: list[tuple[str, list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    (paths.here().root / "clusters" / "server1").mkdir(parents=True)
    assert main.run(main.ports, ["cluster", "show", "server1"]) != 2
    assert "did you mean" not in capsys.readouterr().err


def test_who_takes_a_host_as_argument_or_by_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ports import machine

    asked: list[str | None] = []

    def usage(host: str | None = None, **_: Any) -> Any:
        asked.append(host)
        raise errors.NetworkError(str(host), "does not answer")

    monkeypatch.setattr(machine, "usage", usage)  # a host that is away
    for typed in (["server1"], ["-H", "server1"]):
        assert main.run(main.ports, ["who", *typed]) == 5
        assert capsys.readouterr().err == "ports: server1: does not answer\n"
    assert asked == ["server1"] * 2
    assert main.run(main.ports, ["who", "server1", "-H", "server2"]) == 2


def test_colours_are_left_out_where_nobody_wants_them() -> None:
    code = "import click; from ports.cli.output import styled; click.echo(styled('failed', fg='red'))"
    assert in_a_terminal(code, TERM="xterm") == b"\033[31mfailed\033[0m\n"
    assert b"\033[31m" not in in_a_terminal(code, TERM="xterm", NO_COLOR="1")
    assert in_a_terminal(code, TERM="dumb") == b"failed\n"


def test_a_wait_is_said_once_it_takes_long(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(output, "SILENT_SECONDS", 0.05)
    said = threading.Event()

    def run(alias: str, argv: list[str], **options: Any) -> Any:
        said.wait(0.5)
        return {"name": "main", "kind": "cluster", "state": "stopped", "log": "/x"}

    monkeypatch.setattr(_ask, "run_ports", run)  # a host that is slow
    assert main.run(main.ports, ["cluster", "stop", "-H", "server1"]) == 0
    assert capsys.readouterr().err == "waiting for server1, where `ports cluster stop` runs …\n"


def raising(error: BaseException) -> click.Command:
    @click.command()
    @output.with_output
    def command(out: Output) -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (errors.NotFoundError("cluster", "x", "start it"), 3, "ports: no cluster 'x'; start it\n"),
        (
            errors.PortInUseError(1, "alice"),
            4,
            "ports: port 1 is in use by alice; pass --local-port 0 (local_port=0) for a free one\n",
        ),
        (errors.DaskError("it failed"), 5, "ports: it failed\n"),
        (errors.TimedOutError("it", 2), 6, "ports: timed out after 2 s waiting for it\n"),
        (
            errors.NewerRecordError("/r", 2, 1),
            7,
            "ports: record /r has format 2, but this version of ports reads formats up to 1; ",
        ),
        (OSError(28, "No space left on device", "/r"), 5, "ports: cannot use /r: No space left on device; free space"),
        (KeyboardInterrupt(), 130, "ports: interrupted\n"),
        (click.Abort(), 130, "ports: interrupted\n"),
        (click.Abort("job 12 goes on"), 130, "ports: job 12 goes on\n"),
        (click.UsageError("wrong"), 2, "ports: wrong (see `ports --help`)\n"),
    ],
)
def test_an_error_is_a_line_and_an_exit_code(
    error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(raising(error), []) == code
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.lstrip("\n").startswith(text)


@pytest.mark.parametrize("words", [["job", "logs", "-f", "1"], ["job", "list", "--watch"], ["list", "--watch"]])
def test_ctrl_c_is_the_end_of_what_has_no_other(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "stream", interrupted)
    monkeypatch.setattr(watching, "draw", interrupted)
    assert main.run(main.ports, words) == 130
    assert capsys.readouterr().err == ""


def test_an_error_is_a_json_document_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(raising(errors.NotFoundError("cluster", "x", "start it")), ["--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert told["error"]["type"] == "NotFoundError" and told["error"]["exit_code"] == 3


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        main.run(raising(ZeroDivisionError()), [])


def test_a_warning_is_one_line_and_dasks_own_stay_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = main._show_warning
        warnings.warn("cluster 'main' had stopped", stacklevel=1)
        warnings.warn("of no use to users", DeprecationWarning, stacklevel=1)
    assert capsys.readouterr().err == "ports: cluster 'main' had stopped\n"


def test_python_dash_m_and_the_version() -> None:
    done = subprocess.run([sys.executable, "-m", "ports", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("ports, version ")


# --- the words that go to another host are those that were typed ---

NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,30}", fullmatch=True)
VALUES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
START = st.fixed_dictionaries(
    {},
    optional={
        "--n-workers": st.integers(0, 99).map(str),
        "--memory-limit": VALUES,
        "--env": VALUES,
        "--worker-start": st.sampled_from(["auto", "spawn", "forkserver"]),
        "--environ": VALUES.map(lambda text: f"A={text}"),
        "--timeout": st.floats(1, 60).map(str),
    },
)


def parsed(words: list[str]) -> dict[str, Any]:
    with cluster.start.make_context("start", list(words)) as context:
        return {**context.params, "host": None}


@pytest.mark.parametrize(("typed", "seconds"), [([], 120), (["--timeout", "300"], 360), (["--timeout", "0"], 60)])
def test_a_host_may_take_as_long_as_its_command(
    monkeypatch: pytest.MonkeyPatch, typed: list[str], seconds: float
) -> None:
    given: dict[str, Any] = {}

    def run(alias: str, argv: list[str], **options: Any) -> Any:
        given.update(options)
        return {"name": "main", "state": "stopped", "kind": "cluster"}

    monkeypatch.setattr(_ask, "run_ports", run)  # such a start takes minutes
    assert main.run(main.ports, ["cluster", "start", "-H", "server1", *typed, "--json"]) == 0
    assert given["timeout"] == seconds


@pytest.mark.parametrize("kind", ["cluster", "notebook"])
def test_a_log_of_another_host_is_told_with_the_host(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"name": "x", "state": "stopped", "kind": kind, "log": "/logs/x.log"}
    monkeypatch.setattr(_ask, "run_ports", lambda *_, **__: row)  # what runs there is tested on the site
    assert main.run(main.ports, [kind, "stop", "x", "-H", "server1"]) == 0
    assert "its log stays on server1: /logs/x.log" in capsys.readouterr().out


def test_a_variable_that_is_only_named_has_ones_own_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret=1")
    assert parsed(["--environ", "MY_KEY", "--environ", "A=b"])["environ"] == ("MY_KEY=secret=1", "A=b")
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(click.UsageError, match="MY_KEY"):
        parsed(["--environ", "MY_KEY"])


@settings(max_examples=50)
@given(name=st.none() | NAMES, given=START, flag=st.sampled_from([[], ["--daemon"], ["--no-daemon"]]))
def test_far_arguments_mean_the_same(name: str | None, given: dict[str, str], flag: list[str]) -> None:
    typed = [f"{option}={value}" for option, value in given.items()] + flag + ([name] if name else [])
    with (
        click.Context(main.ports, info_name="ports") as top,
        cluster.cluster.make_context("cluster", ["start"], parent=top, resilient_parsing=True) as middle,
        cluster.start.make_context("start", [*typed, "-H", "server1"], parent=middle) as context,
    ):
        words = output.far_arguments(context)
    assert words[:2] == ["cluster", "start"] and "server1" not in words and "--host" not in words
    assert parsed(words[2:]) == parsed(typed)


def test_a_link_that_leads_nowhere_now_is_shown_with_the_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    row = {"host": "server1", "kind": "cluster", "name": "main", "state": "ended", "local_url": "http://localhost:1/"}
    tunnel.Links(Output(as_json=False), browse=False).event({**row, "error": "server1: it closes connections"})
    told = capsys.readouterr()
    assert "http://localhost:1/" in told.out and told.err == "ports: server1: it closes connections\n"


def test_a_silent_link_comes_to_the_browser_once_it_is_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    links, shown = tunnel.Links(Output(as_json=True), browse=True), []
    monkeypatch.setattr(links, "_show", shown.append)
    row = {"host": "server1", "kind": "cluster", "name": "main", "local_url": "http://localhost:1/"}
    for state in ("silent", "open", "down", "open"):
        links.event({**row, "state": state})
    assert shown == ["http://localhost:1/"]


@pytest.mark.parametrize(
    ("summary", "state", "expected"),
    [
        ({"n_running": 3}, "running", 3),
        ({"n_workers": 1}, "running", None),
        (None, "unknown", None),
        (None, "stopped", 0),
    ],
)
def test_a_number_of_ended_tasks_that_is_unknown_is_not_called_zero(
    summary: dict[str, int] | None, state: str, expected: int | None
) -> None:
    found: Any = SimpleNamespace(summary=summary, state=state)
    assert cluster._running_tasks(found) == {"n_ended_tasks": expected}
