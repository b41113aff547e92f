"""The documentation says everything that there is, and its pages and links exist."""

from __future__ import annotations

import ast
import doctest
import functools
import importlib
import inspect
import re
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

import ports
from ports import clusters, errors, listeners, machine
from ports.cli import main
from ports.clusters._documents import ClusterRow, GuardShown
from ports.doctor import _checks
from ports.errors import PortsError
from ports.listeners import _exposures
from ports.state import settings as config
from ports.tunnels._tunnel import Tunnel

TOP = Path(__file__).resolve().parents[2]
DOCS = TOP / "docs"
SHARED = ("--json", "--host", "-H")


def commands() -> Iterator[tuple[str, click.Command]]:
    """Yield the words and the command of all that can be typed."""

    def walk(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        if not isinstance(command, click.Group):
            yield path, command
            return
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from walk(f"{path} {name}", found)

    yield from walk("ports", main.ports)


def section(heading: str) -> str:
    """Return the section of commands.md of the command `heading`."""
    found = re.search(rf"^### `{re.escape(heading)}[ `].*?(?=^##|\Z)", read("commands.md"), re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/commands.md has no section '### `{heading} …`'"
    return found.group()


def read(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


ALL = dict(commands())
FACES = sorted(Path(ports.__file__).parent.glob("*/__init__.py"))
FACES_WITH_EXAMPLE = [face.parent.name for face in FACES if ">>> " in face.read_text("utf-8")]


@pytest.mark.parametrize("words", [words for words in ALL if words != "ports ls"])
def test_every_command_and_option_is_documented(words: str) -> None:
    text = section(words)
    for parameter in ALL[words].params:
        if isinstance(parameter, click.Option):
            for name in [*parameter.opts, *parameter.secondary_opts]:
                assert f"`{name}`" in text or name in SHARED, f"docs/commands.md does not tell {name} of `{words}`"
        else:
            assert parameter.make_metavar(click.Context(ALL[words])) in text.splitlines()[0]


def options(command: click.Command) -> set[str]:
    return {name for one in command.params for name in one.opts}


def plain(text: str) -> str:
    """Return `text` without Markdown's marks and line ends."""
    return " ".join(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("`", "").split())


@pytest.mark.parametrize("words", [words for words in ALL if words != "ports ls"])
def test_a_command_and_its_options_are_documented_in_the_words_of_help(words: str) -> None:
    text, command = plain(section(words)), ALL[words]
    helps = [command.help or "", *(one.help or "" for one in command.params if isinstance(one, click.Option))]
    shared = {
        plain(one.help or "") for one in command.params if one.opts[-1] in SHARED and isinstance(one, click.Option)
    }
    assert [one for one in map(plain, helps) if one not in text and one not in shared] == []


def test_the_options_that_many_commands_share_are_documented_once() -> None:
    introduction = read("commands.md").partition("\n## ")[0]
    assert all(f"`{name}`" in introduction for name in SHARED)


def test_the_page_says_which_commands_take_the_shared_options() -> None:
    without_json = {words for words, command in ALL.items() if "--json" not in options(command)}
    assert without_json == {"ports cluster attach", "ports notebook attach"}
    assert all("--host" in options(command) for command in ALL.values())


def test_the_page_of_paramiko_says_which_commands_take_a_transport() -> None:
    named = re.search(r"^`--transport` of (.*?) sets it", read("paramiko.md"), re.MULTILINE)
    with_transport = {words for words, command in ALL.items() if "--transport" in options(command)}
    assert named is not None
    assert set(re.findall(r"`(ports \w+)`", named.group(1))) == with_transport - {"ports ls"}


def test_no_command_is_documented_that_is_not_there() -> None:
    for heading in re.findall(r"^### `(ports [a-z ]+)", read("commands.md"), re.MULTILINE):
        assert heading.strip() in ALL


def settings(schema: dict[str, Any], path: str) -> Iterator[tuple[str, Any, str]]:
    """Yield the path, the default and the description of each setting."""
    for name, part in schema.get("properties", {}).items():
        if "properties" in part:
            yield from settings(part, f"{path}.{name}")
        else:
            yield f"{path}.{name}", part.get("default"), part["description"]
        if isinstance(part.get("additionalProperties"), dict):
            yield from settings(part["additionalProperties"], f"{path}.{name}.<alias>")


@pytest.mark.parametrize(("name", "default", "description"), list(settings(config.schema(), "ports")))
def test_every_setting_is_documented_with_its_default(name: str, default: object, description: str) -> None:
    rows = [line for line in read("settings.md").splitlines() if line.startswith(f"| `{name}` |")]
    assert len(rows) == 1, f"docs/settings.md has no row for {name}"
    shown = rows[0].split(" | ")
    assert yaml.safe_load(shown[2].strip("`")) == default
    assert plain(shown[3]).startswith(plain(description))


def test_no_setting_is_documented_that_is_not_there() -> None:
    known = {name for name, *_ in settings(config.schema(), "ports")}
    assert set(re.findall(r"^\| `(ports\.[\w.<>]+)` \|", read("settings.md"), re.MULTILINE)) == known


def all_errors(kind: type[PortsError] = PortsError) -> Iterator[type[PortsError]]:
    yield kind
    for one in kind.__subclasses__():
        if one.__module__ == errors.__name__:
            yield from all_errors(one)


@pytest.mark.parametrize("error", list(all_errors()), ids=lambda error: error.__name__)
def test_every_error_is_documented_with_its_exit_code(error: type[PortsError]) -> None:
    meaning = (error.__doc__ or "").partition("\n\n")[0]
    assert f"| `{error.__name__}` | {error.exit_code} | {' '.join(meaning.split())} |" in read("exit-codes.md")


@pytest.mark.parametrize("code", sorted({0, 130, *(error.exit_code for error in all_errors())}))
def test_every_exit_code_is_documented(code: int) -> None:
    assert re.search(rf"^\| {code} \| \w", read("exit-codes.md"), re.MULTILINE)


@pytest.mark.parametrize("name", ports.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    assert re.search(rf"`ports\.{name}\b", read("python.md")) or name == "__version__"


@pytest.mark.parametrize("start", ["README.md", "docs/index.md"])
def test_every_page_for_users_is_linked_from_the_first_pages(start: str) -> None:
    linked = {Path(name).name for name in re.findall(r"\]\(([^)#]+\.md)", (TOP / start).read_text())}
    developers = {"architecture.md", "unix-comm.md", "benchmarks.md", "lab.md", "index.md"}
    pages = {page.name for page in DOCS.glob("*.md")}
    assert sorted(pages - linked - (developers if start == "docs/index.md" else set())) == []


def test_every_page_is_in_the_navigation_and_every_page_of_it_exists() -> None:
    def pages(part: Any) -> Iterator[str]:
        for one in part.values() if isinstance(part, dict) else part:
            yield from [one] if isinstance(one, str) else pages(one)

    navigation = yaml.safe_load((TOP / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    assert set(pages(navigation)) == {path.name for path in DOCS.glob("*.md")}


@pytest.mark.parametrize("page", [*sorted(DOCS.glob("*.md")), *TOP.glob("*.md")], ids=lambda page: page.name)
def test_every_link_to_a_file_or_heading_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        found = page.parent / name if name else page
        assert found.exists(), f"{page.name} links to {target}"
        headings = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        slugs = [re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings]
        assert not anchor or anchor in slugs, f"{page.name} links to {target}, which has the headings {slugs}"


@pytest.mark.parametrize("path", sorted(Path(ports.__file__).parent.glob("[a-z]*")), ids=lambda path: path.name)
def test_every_module_is_in_the_picture_of_the_architecture(path: Path) -> None:
    if path.suffix == ".py" or (path / "__init__.py").exists():
        assert re.search(rf"\b{path.stem}\b", read("architecture.md"))


WHERE = re.findall(r"^\| (.*) \| `(\S+)` \| `(\w+)` \|$", read("architecture.md"), re.MULTILINE)


def test_no_name_of_a_test_is_longer_than_70_characters() -> None:
    text = "".join(path.read_text("utf-8") for path in (TOP / "tests").rglob("test_*.py"))
    names = re.findall(r"^ *(?:async )?def (test_\w+)", text, re.MULTILINE)
    assert len(names) > 900
    assert [name for name in names if len(name) > 70] == []


def test_the_architecture_says_where_thirty_behaviours_are() -> None:
    assert len({what for what, _, _ in WHERE}) >= 30
    for what, file, name in WHERE:
        path = Path(ports.__file__).parent / file
        pattern = rf'"{name}"' if path.suffix == ".json" else rf"^(class |def |async def )?{name}\b"
        assert path.exists() and re.search(pattern, path.read_text("utf-8"), re.MULTILINE), what


def typed() -> Iterator[tuple[str, list[str]]]:
    """Yield page and words of each `ports` command in a block of the documentation."""
    for page in [*DOCS.glob("*.md"), *TOP.glob("*.md")]:
        blocks = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
        for block in (text for language, text in blocks if language in ("", "bash", "console")):
            for line in re.findall(r"^ *(?:\$ )?ports (.*?) *(?:#.*)?$", block, re.MULTILINE):
                yield page.name, shlex.split(line)


@pytest.mark.parametrize(("page", "words"), sorted(typed()), ids=str)
def test_every_command_in_an_example_can_be_typed_like_that(page: str, words: list[str]) -> None:
    command: click.Command = main.ports
    context = click.Context(command)
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, words)
        assert found is not None, f"{page}: {name}"
        command = found
    command.make_context("ports", words)  # raises where it does not parse


def test_what_the_old_package_had_is_documented() -> None:
    assert "jupyter_forwarding" in read("commands.md")
    assert "ports.server_helpers.print_commands" in read("python.md")


@pytest.mark.parametrize("name", FACES_WITH_EXAMPLE)
def test_the_example_of_a_face_runs(name: str) -> None:
    face = importlib.import_module(f"ports.{name}")
    assert doctest.testmod(face).attempted > 0 and doctest.testmod(face).failed == 0


@pytest.mark.parametrize("name", config.options("cluster"))
def test_the_docstring_of_a_start_tells_every_option_with_its_default(name: str) -> None:
    text = inspect.getdoc(clusters.start) or ""  # Python 3.13 takes the indentation away itself
    found = re.search(rf"^{name} : .*, optional\n((    .*\n)+)", text, re.MULTILINE)
    assert found is not None, f"ports.clusters.start does not tell {name}"
    default = config.defaults()["cluster"][name]
    told = " ".join(found.group(1).split())
    assert "Default: " in told
    if default not in (None, {}):
        assert re.search(rf"Default: (``)?\"?{re.escape(f'{default}')}\"?", told), f"{name} is {default!r} by default"


def test_every_warning_of_an_exposed_listener_is_on_the_page_of_security() -> None:
    page = plain(read("security.md"))
    for reason in ("dask", "dashboard", "token", "kernel", "debugger"):
        row = {"kind": "listener", "exposed": [reason], "pid": 7, "port": 8787}
        assert [one.what for one in _exposures.find("listener", [row]) if f"| {one.what} |" not in page] == [], reason


def test_every_key_in_json_is_documented() -> None:
    cluster = ClusterRow.__required_keys__ | ClusterRow.__optional_keys__
    usage = machine.usage().row()
    with socket.create_server(("127.0.0.1", 0)):
        listening = [key for row in listeners.list() for key in row.row()]
    keys = {*cluster, *GuardShown.__annotations__, *usage, *usage["share"], *usage["users"][0], *listening}
    keys |= {*Tunnel(host="server1").row(), *_checks.ok("tmux", "tmux 3.3a").row("server1")}
    page = read("json.md")
    assert {key for key in keys if f"`{key}`" not in page} == set()


#: Pieces of output that pages quote, each of one message of the code.
QUOTES = {
    "README.md": ("Ctrl-C closes them", "at home, type: ", "then open: ", "without ports there: "),
    "docs/index.md": ("Ctrl-C closes them", "at home, type: ", "then open: ", "without ports there: "),
    "docs/day.md": (
        "Ctrl-C closes them",
        "it has ended; ",
        "` starts it, under the same link",
        "it is back, under the same link",
        "the connection did not survive the sleep of this machine",
        "its links answer again once the connection is back",
        "open again, under the same links",
        " is not there",
        "waits for a login and is not tried again until then",
        "run `ports login ",
    ),
    "docs/notebooks.md": (" serves ", "at home: "),
    "docs/security.md": ("belongs to ", ", not to you"),
    "docs/sharing.md": (
        "time lost waiting for ",
        " promised to clusters and not used yet",
        "a cluster of yours would get ",
        " available",
        " and not promised",
        " active",
        "the limits of your tmux server",
        " as far as can be seen",
        "others (hidden here)",
        ", more than the ",
        " that you can use here",
        "; ask for at most ",
        " (fewer workers, a smaller memory_limit)",
        ", free some memory (`ports who` shows who uses how much)",
        ", or pass force=True (--force)",
    ),
}


@functools.cache
def literals() -> list[tuple[Path, int, str]]:
    """Return file, line and text of each string of the code that is no docstring; NUL stands for what is filled in."""
    found = []
    for path in sorted(Path(ports.__file__).parent.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
        documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        heads = (node.body[0] for node in ast.walk(tree) if isinstance(node, documented) and node.body)
        docstrings = {id(head.value) for head in heads if isinstance(head, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
                found.append((path, node.lineno, "".join(map(str, parts))))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings | inside:
                found.append((path, node.lineno, node.value))
    return found


def spaced(text: str) -> str:
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize(("page", "quote"), [(page, quote) for page, quotes in QUOTES.items() for quote in quotes])
def test_what_a_page_quotes_is_said_by_the_code(page: str, quote: str) -> None:
    assert spaced(quote) in spaced((TOP / page).read_text(encoding="utf-8"))
    assert any(spaced(quote).strip() in spaced(text) for _, _, text in literals())


#: Words that make an English-speaking reader stop; CONTRIBUTING.md has better ones.
STUMBLES = re.compile(
    r"\bthat cannot be(?=\s*(?:$|[.,;:|)]|is\b|are\b))|"
    r"\b(?:(?:is|are) told|anew|but for|so that nobody|shall|to be had|lest|as ever|the least there is|while you do not"
    r"|newcomers?)\b",
    re.IGNORECASE | re.MULTILINE,
)


def test_no_message_has_words_that_need_a_second_reading() -> None:
    found = [f"{path}:{line}: {text!r}" for path, line, text in literals() if STUMBLES.search(text)]
    assert found == [], "CONTRIBUTING.md, section English, has better words"


@pytest.mark.parametrize(
    "page",
    [*sorted(DOCS.glob("*.md")), *sorted(TOP.glob("*.md")), TOP / "ssh_config.example"],
    ids=lambda page: page.name,
)
def test_no_page_has_words_that_need_a_second_reading(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    table = re.compile(r"^\| instead of .*?\n\n", re.MULTILINE | re.DOTALL)  # what to avoid, in CONTRIBUTING.md
    assert [found.group() for found in STUMBLES.finditer(table.sub("", text))] == []
