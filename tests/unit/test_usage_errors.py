"""What the command line says of a wrong word: one whole sentence, in its own words, that a terminal does not cut."""

from __future__ import annotations

import importlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest

from ports import errors
from ports.cli import main, output, tunnel
from ports.cli.commands import Group
from ports.cli.output import Output
from ports.hosts import _ask, targets
from ports.state.waiting import wait_until

list_command = importlib.import_module("ports.cli.list")  # the package has the command by that name

# The words of click, of Python and of a program that was cut.
NOT_OURS = re.compile(
    r"Error:|No such|Missing|unexpected|Invalid value|requires an argument|does not take|\.[. ]*\(see"
)


def contexts(group: click.Group, path: list[str]) -> list[tuple[list[str], click.Command]]:
    found: list[tuple[list[str], click.Command]] = []
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        found += contexts(command, [*path, name]) if isinstance(command, Group) else [([*path, name], command)]
    return found


ALL = contexts(main.ports, [])  # type: ignore[arg-type]


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the sentence with which the command line refuses `words`, which reach no command."""
    assert main.run(main.ports, words) == 2, words
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("ports: ") and shown.err.count("\n") == 1, shown
    assert not NOT_OURS.search(shown.err), shown.err
    return shown.err.removeprefix("ports: ")


@pytest.mark.parametrize(("words", "command"), ALL, ids=[" ".join(words) for words, _ in ALL])
def test_each_command_refuses_a_wrong_option_in_a_sentence(
    words: list[str], command: click.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused([*words, "--no-such-option"], capsys).startswith("no option '--no-such-option'")
    for parameter in command.params:
        if not isinstance(parameter, click.Option) or parameter.name in ("help",):
            continue
        option = max(parameter.opts, key=len)
        if parameter.is_flag:
            assert refused([*words, f"{option}=x"], capsys).startswith(f"option {option} takes no value")
        else:
            assert refused([*words, option], capsys).startswith(f"option {option} needs a value")


@pytest.mark.parametrize(("words", "command"), ALL, ids=[" ".join(words) for words, _ in ALL])
def test_each_command_refuses_an_argument_too_many_or_missing(
    words: list[str], command: click.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [one for one in command.params if isinstance(one, click.Argument)]
    if any(one.required and one.nargs == 1 for one in arguments):
        assert f" is missing; write `ports {' '.join(words)} " in refused(words, capsys)
    if all(one.nargs == 1 for one in arguments) and not command.context_settings.get("allow_extra_args"):
        given = ["1" if one.name in ("n_workers", "id") else "x" for one in arguments]
        told = refused([*words, *given, "extra"], capsys)
        assert "'extra' is more than `ports" in told or "takes no argument" in told


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["cluster", "scale"], "N_WORKERS is missing; write `ports cluster scale [NAME] N_WORKERS`"),
        (["login"], "HOST is missing; write `ports login HOST`"),
        (["cluster", "show", "main", "more"], "'more' is more than `ports cluster show [NAME]` takes"),
        (["cluster", "start", "a", "b"], "'b' is more than `ports cluster start [NAME]` takes"),
        (["tunnel", "list", "x"], "`ports tunnel list` takes no argument; it lists all; `ports open x` opens a tunnel"),
        (["cluster", "scale", "main", "-1"], "-1 begins like an option; a number here is never negative"),
        (["--all", "list"], "no option '--all' before a command; options of a command are written behind it"),
        (
            ["open", "x", "--transport", "shh"],
            "--transport is 'shh'; it must be one of auto, ssh, paramiko; did you mean",
        ),
        (
            ["cluster", "start", "--guard", "puase"],
            "--guard is 'puase'; it must be one of off, pause, restart; did you",
        ),
        (["who", "a", "b"], "'b' is more than `ports who [HOST]` takes"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_usage_error_names_the_word_and_what_is_meant(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(words, capsys).startswith(sentence)


@pytest.fixture
def main_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of records in which a cluster 'thesis' has left something, and an ssh configuration."""
    file = tmp_path / "config"
    file.write_text("Host server1 thesis2\n")
    monkeypatch.delitem(sys.modules, "dask.config", raising=False)
    monkeypatch.setenv("DASK_PORTS__SSH__CONFIG", str(file))
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "home"))
    from ports.state import paths

    (paths.here().root / "clusters" / "thesis").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["cluster", "list", "main"], "ports cluster show main"),
        (["cluster", "list", "thesis"], "ports cluster show thesis"),
        (["notebook", "list", "lab"], "ports notebook show lab"),
        (["cluster", "list", "main", "-H", "s1"], "ports cluster show main -H s1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_listing_of_a_name_is_refused_with_show(
    words: list[str], meant: str, main_here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"{words[2]!r} is no host of ~/.ssh/config; did you mean `{meant}`?" in refused(words, capsys)


def test_an_unknown_host_that_is_a_cluster_here_is_said(
    main_here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ports import machine

    def usage(host: str | None = None, **_: Any) -> Any:
        raise errors.UnknownHostError(str(host), "the name cannot be resolved")

    monkeypatch.setattr(machine, "usage", usage)  # the answer of a name server
    assert main.run(main.ports, ["who", "thesis"]) == 5
    assert "(cluster 'thesis' is here: `ports cluster show thesis`)" in capsys.readouterr().err


# --- several hosts: the code of each counts ---


@pytest.fixture
def hosts_with_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[dict[str, Any]]]:
    """What `ports settings` answers on hosts; a missing one is away."""
    found: dict[str, list[dict[str, Any]]] = {}
    right = {"host": "box", "kind": "setting", "name": "alias", "value": "s1", "source": "/f", "state": "set"}
    found["server1"] = [right]
    wrong = {**right, "name": "ports.x", "state": "error", "error": "setting ports.x in /f: no such setting"}
    found["server2"] = [right, {**wrong, "exit_code": 2}]

    def run(alias: str, argv: list[str], **_: Any) -> Any:
        if alias not in found:
            raise errors.NetworkError(alias, "does not answer")
        return found[alias]

    monkeypatch.setenv("PORTS_HOME", str(tmp_path))
    monkeypatch.setattr(_ask, "run_ports", run)  # what runs there is tested on the site
    return found


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["table", "json"])
@pytest.mark.parametrize(
    ("hosts", "code"),
    [(["server1"], 0), (["server2"], 2), (["server1", "server2"], 2), (["server2", "server1"], 2),
     (["server1", "server2", "away"], 5)],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_mistake_on_one_of_several_hosts_is_the_exit_code(
    hosts: list[str],
    code: int,
    form: list[str],
    hosts_with_settings: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main.run(main.ports, ["settings", *hosts, *form]) == code
    shown = capsys.readouterr()
    if form:
        assert {row["host"] for row in json.loads(shown.out)} == set(hosts)
    elif hosts[1:]:
        assert "ports: server2: setting ports.x in /f" in shown.err


def test_hosts_that_are_all_away_are_not_called_empty(
    hosts_with_settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(main.ports, ["cluster", "list", "away", "gone"]) == 5
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err == "ports: away: does not answer\nports: gone: does not answer\n"


# --- in a terminal ---


class Terminal:
    """A command that has a terminal of its own, whose screen keeps all that was written."""

    def __init__(self, words: list[str], **environ: str) -> None:
        ours, theirs = os.openpty()
        self.screen, self.text = ours, b""
        take = (
            "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", take, *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, **environ},
            start_new_session=True,
        )
        os.close(theirs)

    def read(self) -> bool:
        """Read what comes soon; return whether more can come."""
        try:
            more = os.read(self.screen, 65536) if select.select([self.screen], [], [], 0.1)[0] else None
        except OSError:  # the last one that wrote to it has ended
            return False
        self.text += more or b""
        return more != b""

    def lines(self) -> list[str]:
        """Return all lines, once the command has ended."""
        while self.read():
            pass
        self.process.wait(20)
        os.close(self.screen)
        return self.text.decode().replace("\r\n", "\n").splitlines()


@pytest.mark.parametrize("columns", ["80", "60"])
def test_a_message_in_a_terminal_is_broken_between_words(columns: str) -> None:
    words = ["cluster", "start", "--calm-after", "never", "--memory-limit", "2GB"]
    shown = Terminal([sys.executable, "-m", "ports", *words], COLUMNS=columns, TERM="xterm").lines()
    assert len(shown) > 1 and max(map(len, shown)) <= int(columns)
    plain = subprocess.run([sys.executable, "-m", "ports", *words], capture_output=True, text=True, timeout=30)
    assert " ".join(" ".join(shown).split()) == plain.stderr.strip() and plain.returncode == 2
    assert "`ports cluster start --help`" in "\n".join(shown), "a command in backticks stays in one line"


@pytest.mark.parametrize(
    ("command", "shown"), [("who", b"a cluster of yours"), ("list", b"\033[K\n\033[J")], ids=["who", "list"]
)
def test_ctrl_c_ends_the_line_of_the_terminal_first(command: str, shown: bytes) -> None:
    terminal = Terminal([sys.executable, "-m", "ports", command, "--watch"], TERM="xterm", COLUMNS="80")
    try:
        wait_until(
            lambda: True if terminal.read() and shown in terminal.text.replace(b"\r", b"") else None,
            timeout=30,
            what="the table",
        )
        os.write(terminal.screen, b"\x03")
        lines = terminal.lines()
    finally:
        terminal.process.kill()
    assert terminal.process.returncode == 130
    assert lines[-2:] == ["^C", ""], lines[-3:]


# --- a command that is silent for 3 s says what it waits for ---


@pytest.mark.parametrize(
    ("words", "awaited"),
    [
        (["cluster", "start"], "the start of cluster 'main'"),
        (["cluster", "stop", "big"], "the end of cluster 'big'"),
        (["cluster", "scale", "big", "3"], "the scheduler of cluster 'big'"),
        (["cluster", "restart"], "the workers of cluster 'main'"),
        (["notebook", "start"], "the start of notebook 'lab'"),
        (["cluster", "list"], "an answer of what runs here"),
        (["prune"], "an answer of what runs here"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_a_slow_command_waits_for_here_is_named(words: list[str], awaited: str, main_here: Path) -> None:
    command = main.ports
    with click.Context(main.ports, info_name="ports") as context:
        for word in words:
            if not isinstance(command, click.Group):
                break
            command = command.get_command(context, word)  # type: ignore[assignment]
            rest = words[words.index(word) + 1 :]
            args = rest if not isinstance(command, click.Group) else []
            context = command.make_context(word, list(args), parent=context, resilient_parsing=not args and bool(rest))
        assert output.awaited(context) == awaited


@pytest.mark.parametrize(
    ("words", "slow"),
    [
        ("cluster list", "ports.clusters.list"),
        ("cluster stop", "ports.clusters.get"),
        ("cluster show", "ports.clusters.get"),
        ("notebook list", "ports.notebooks.list"),
        ("prune", "ports.doctor.prune"),
        ("settings", "ports.state.settings.explain"),
    ],
)
def test_a_slow_command_on_this_machine_says_that_it_waits(
    words: str, slow: str, main_here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []

    def until_it_is_said(*_: Any, **__: Any) -> Any:
        """Take as long as the command is silent."""
        said.append(wait_until(lambda: capsys.readouterr().err or None, timeout=10, what="word of what is awaited"))
        raise errors.UsageError("that is all")

    monkeypatch.setattr(output, "SILENT_SECONDS", 0.05)
    monkeypatch.setattr(slow, until_it_is_said)
    main.run(main.ports, words.split())
    assert [one.startswith("waiting for ") and one.endswith(" …\n") for one in said] == [True], said


@pytest.mark.parametrize("hosts", [["server1"], ["server1", "server2"]], ids="+".join)
def test_a_listing_says_which_hosts_are_awaited(
    hosts: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("SILENT_SECONDS", "_MOMENT"):
        monkeypatch.setattr(list_command, name, 0.01)
    with list_command.Arriving(Output(as_json=False), hosts):
        told = wait_until(lambda: capsys.readouterr().err or None, timeout=10, what="word of it")
    assert told == f"waiting for {', '.join(hosts)}\n"
    with list_command.Arriving(Output(as_json=True), hosts) as quiet:
        assert not quiet._timer.is_alive()


def test_an_open_says_which_hosts_have_not_answered(capsys: pytest.CaptureFixture[str]) -> None:
    named = [targets.parse(one) for one in ("server1:lab", "ssh://alice@login:22", "server2")]
    links = tunnel.Links(Output(as_json=False), browse=False, named=named)
    links.event({"host": "server2", "kind": "host", "name": None, "state": "nothing", "local_url": None, "note": "x"})
    capsys.readouterr()
    links._say_awaited("")
    assert capsys.readouterr().err == "waiting for ssh://alice@login:22, server1 …\n"


SCALE = """
from pathlib import Path
from ports.clusters import _dask
print("asks", flush=True)
_dask.call("unix://{path}", Path("/none"), "identity", cluster="main", timeout=60)
"""


def test_ctrl_c_does_not_wait_for_a_scheduler_that_is_silent(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(60)
        asks = subprocess.Popen([sys.executable, "-c", SCALE.format(path=path)], stderr=subprocess.PIPE, text=True)
        try:
            connection, _ = listener.accept()
            with connection:
                time.sleep(0.5)  # it waits for the answer then
                asks.send_signal(signal.SIGINT)
                _, said = asks.communicate(timeout=30)
        finally:
            asks.kill()
    assert said.splitlines()[-1] == "KeyboardInterrupt"
