"""What a host says names commands: at home they are to be typed with its alias."""

from __future__ import annotations

import ast
import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ports
from ports import listeners, probe
from ports.cli import main
from ports.hosts import targets
from ports.listeners import _at_home
from ports.state import paths

COMMANDS = st.sampled_from(["cluster start", "cluster stop x", "notebook logs lab", "prune"])
WORDS = st.text("abc ;'.", max_size=9)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "no cluster 'x'; `ports cluster start x` starts it",
            "no cluster 'x'; `ports cluster start x -H s1` starts it",
        ),
        ("`ports prune` moves it aside", "`ports prune -H s1` moves it aside"),
        (
            "`ports open box:lab` opens it, `ports notebook stop lab` ends it",
            "`ports open s1:lab` opens it, `ports notebook stop lab -H s1` ends it",
        ),
        ("`ports shell --list` lists them", "`ports shell --list -H s1` lists them"),
        ("name a host by `ports shell HOST`", "name a host by `ports shell HOST`"),
        ("`ports cluster start -H s2`", "`ports cluster start -H s2`"),
        ("`ports list s1 --all` shows it", "`ports list s1 --all` shows it"),
        (
            "it was stopped, by `ports cluster stop` or in Python",
            "it was stopped, by `ports cluster stop` or in Python",
        ),
        ("`ports login s1`, `pip install ports`", "`ports login s1`, `pip install ports`"),
        ("`ports open b:x` (replace b by your own alias for this machine) opens it", "`ports open s1:x` opens it"),
    ],
)
def test_a_hint_of_a_host_is_told_as_it_is_to_be_typed_at_home(said: str, told: str) -> None:
    assert targets.hints_at("s1", said) == told
    assert targets.hints_at(None, said) == said


@given(before=WORDS, command=COMMANDS, after=WORDS)
def test_only_commands_change_and_each_once(before: str, command: str, after: str) -> None:
    told = targets.hints_at("s1", f"{before}`ports {command}`{after}")
    assert told == f"{before}`ports {command} -H s1`{after}"
    assert targets.hints_at("s1", told) == told


CAME = [
    {"client": "1", "alias": "old", "address": "10.0.0.9"},
    {"client": "2", "alias": "server1-from-home", "address": "10.0.0.1"},
    {"client": "3", "alias": "bob@desk", "address": "10.0.0.2"},
    {"client": "4", "alias": "$(x)", "address": "10.0.0.2"},
]


@pytest.mark.parametrize(
    ("address", "alias"),
    [("10.0.0.1", "server1-from-home"), ("10.0.0.2", "bob@desk"), ("10.0.0.7", "bob@desk"), ("", "bob@desk")],
)
def test_the_alias_is_that_of_the_client_of_this_session_else_the_last(address: str, alias: str) -> None:
    assert _at_home.last_alias(CAME, address) == alias
    assert _at_home.last_alias([], address) is None


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that is not called by name in the settings; return the directory of its records, which is not there."""
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    return Path(probe.host_directory())


def test_a_client_is_noted_only_where_records_are_already(server: Path) -> None:
    came = {"client": "1", "alias": "server1-from-home"}
    probe.clients.note_client(came)
    assert not server.exists()
    assert listeners.guess_note() == f"replace {listeners.short_name()} by your own alias for this machine"
    paths.make_state()
    probe.clients.note_client(came)
    assert listeners.open_command("main") == "ports open server1-from-home:main"
    assert listeners.guess_note() is None
    assert (server / "clients.json").stat().st_mode & 0o777 == 0o600


def test_a_shell_from_home_is_noted_before_anything_started(server: Path) -> None:
    probe.clients.note_client({"client": "1", "alias": "s1"}, make=True)
    assert [path.stat().st_mode & 0o777 for path in (server, server.parents[1])] == [0o700] * 2
    assert paths.make_state().root == server and listeners.alias() == "s1"


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"format": 1}', '{"format": 1, "clients": 7}', '{"format": 1, "clients": [{"alias": 1}]}', "\udcff"],
)
def test_no_record_of_clients_changes_more_than_the_guess(content: str, server: Path) -> None:
    paths.make_state()
    (server / "clients.json").write_bytes(content.encode(errors="surrogateescape"))
    assert listeners.alias() == listeners.short_name() and listeners.guess_note()
    probe.clients.note_client({"client": "1", "alias": "s1"})
    assert (listeners.alias(), listeners.guess_note()) == ("s1", None)


def test_a_record_of_clients_from_a_newer_version_is_left_alone(server: Path) -> None:
    paths.make_state()
    (server / "clients.json").write_text(newer := '{"format": 99}')
    probe.clients.note_client({"client": "1", "alias": "s1"})
    assert (server / "clients.json").read_text() == newer


@pytest.mark.parametrize("alias", ["a b", "-x", "$(x)", "h:22", "a`b", "x" * 300, "a\nb", "", None, 7])
def test_what_is_no_alias_is_not_printed(alias: object, server: Path) -> None:
    paths.make_state()
    probe.clients.note_client({"client": "1", "alias": alias})
    assert listeners.alias() == listeners.short_name()


@pytest.mark.parametrize(
    ("typed", "printed"),
    [("s1", "s1"), ("bob@s1", "bob@s1"), ("::1", "[::1]"), ("ssh://bob@s1:22", "ssh://bob@s1:22"), ("s/node1", "s")],
)
def test_an_alias_is_told_as_it_stands_before_a_name(typed: str, printed: str) -> None:
    assert targets.before_colon(typed) == printed
    assert targets.parse(f"{printed}:main").name == "main"


def texts(tree: ast.Module) -> Iterator[str]:
    """Yield all texts of a module that are no docstrings; what an f-string inserts stands in braces."""
    bodies = [one.body[0] for one in ast.walk(tree) if isinstance(getattr(one, "body", None), list) and one.body]
    docstrings = {id(one.value) for one in bodies if isinstance(one, ast.Expr)}
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in node.values}
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "{" + ast.unparse(part.value) + "}"
                for part in node.values
                if isinstance(part, (ast.Constant, ast.FormattedValue))
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not {id(node)} & (docstrings | inside):
            yield node.value


@functools.cache
def all_texts() -> list[tuple[str, str]]:
    """Return the texts of all files of the package that are no docstrings, each with its file."""
    root = Path(ports.__file__).parent
    files = sorted(root.rglob("*.py"))
    return [(str(path.relative_to(root)), text) for path in files for text in texts(ast.parse(path.read_text()))]


def named_commands() -> list[tuple[str, str]]:
    """Return each command that a message names, with the file that says it."""
    return sorted({(command, file) for file, text in all_texts() for command in re.findall(r"`(ports [^`]*)`", text)})


#: What stands for a value in a message, and one of the values.
VALUES = {
    r"\{[^}]*host_(option|argument)[^}]*\}": "",
    r"\{n_workers\}": "4",
    r"\{[\w.]*kind[\w.]*\}": "cluster",
    r"\{(id|row\[.id.\])\}": "12",
    r"\{verb\} ": "show ",
    r"\{[^}]*\}": "main",
    r"\bN$": "1",
    r"\b(HOST|PORT|NAME|ALIAS)\b": "22",
}


def ports_context() -> click.Context:
    """Return a context as the command line makes it: click remembers the first help option that it sees."""
    return main.ports.make_context("ports", ["list"], resilient_parsing=True)


@pytest.mark.parametrize(("command", "file"), named_commands())
def test_a_command_that_a_message_names_exists(command: str, file: str) -> None:
    if command.startswith(("ports COMMAND", "ports {' '.join(", "ports {one")):
        pytest.skip("the command that was typed")
    for pattern, value in VALUES.items():
        command = re.sub(pattern, value, command)
    words, found, context = shlex.split(command)[1:], main.ports, ports_context()
    while isinstance(found, click.Group) and words and not words[0].startswith("-"):
        name, child, words = found.resolve_command(context, words)
        assert child is not None, file
        found, context = child, click.Context(child, info_name=name, parent=context)  # type: ignore[assignment]
    try:
        if not isinstance(found, click.Group) or words:
            found.make_context(context.info_name, words, parent=context.parent)
    except (click.MissingParameter, click.exceptions.Exit):
        pass  # only the command is named; or --help
