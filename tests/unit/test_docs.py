"""The documentation says everything that there is, and its pages and links exist."""

from __future__ import annotations

import doctest
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

import ports
from ports import clusters, errors
from ports.cli import main
from ports.clusters import _options
from ports.errors import PortsError
from ports.state import settings as config

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


@pytest.mark.parametrize("words", [words for words in ALL if words != "ports ls"])
def test_every_command_and_option_is_documented(words: str) -> None:
    text = section(words)
    for parameter in ALL[words].params:
        if isinstance(parameter, click.Option):
            for name in [*parameter.opts, *parameter.secondary_opts]:
                assert f"`{name}`" in text or name in SHARED, f"docs/commands.md does not tell {name} of `{words}`"
        else:
            assert parameter.make_metavar(click.Context(ALL[words])) in text.splitlines()[0]


def test_the_options_that_many_commands_share_are_documented_once() -> None:
    introduction = read("commands.md").partition("\n## ")[0]
    assert all(f"`{name}`" in introduction for name in SHARED)


def test_no_command_is_documented_that_is_not_there() -> None:
    for heading in re.findall(r"^### `(ports [a-z ]+)", read("commands.md"), re.MULTILINE):
        assert heading.strip() in ALL


def settings(schema: dict[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    """Yield the path and the default of each setting."""
    for name, part in schema.get("properties", {}).items():
        if "properties" in part:
            yield from settings(part, f"{path}.{name}")
        else:
            yield f"{path}.{name}", part.get("default")
        if isinstance(part.get("additionalProperties"), dict):
            yield from settings(part["additionalProperties"], f"{path}.{name}.<alias>")


@pytest.mark.parametrize(("name", "default"), list(settings(config.schema(), "ports")))
def test_every_setting_is_documented_with_its_default(name: str, default: object) -> None:
    rows = [line for line in read("settings.md").splitlines() if line.startswith(f"| `{name}` |")]
    assert len(rows) == 1, f"docs/settings.md has no row for {name}"
    shown = rows[0].split(" | ")[2].strip("`")
    assert yaml.safe_load(shown) == default


def test_no_setting_is_documented_that_is_not_there() -> None:
    known = {name for name, _ in settings(config.schema(), "ports")}
    assert set(re.findall(r"^\| `(ports\.[\w.<>]+)` \|", read("settings.md"), re.MULTILINE)) == known


def all_errors(kind: type[PortsError] = PortsError) -> Iterator[type[PortsError]]:
    yield kind
    for one in kind.__subclasses__():
        if one.__module__ == errors.__name__:
            yield from all_errors(one)


@pytest.mark.parametrize("error", list(all_errors()), ids=lambda error: error.__name__)
def test_every_error_is_documented_with_its_exit_code(error: type[PortsError]) -> None:
    assert f"| `{error.__name__}` | {error.exit_code} |" in read("exit-codes.md")


@pytest.mark.parametrize("code", sorted({0, 130, *(error.exit_code for error in all_errors())}))
def test_every_exit_code_is_documented(code: int) -> None:
    assert re.search(rf"^\| {code} \| \w", read("exit-codes.md"), re.MULTILINE)


@pytest.mark.parametrize("name", ports.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    assert re.search(rf"`ports\.{name}\b", read("python.md")) or name == "__version__"


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


@pytest.mark.parametrize("name", sorted({"clusters", "probe", "sessions", "state"}))
def test_the_example_of_a_face_runs(name: str) -> None:
    face = importlib.import_module(f"ports.{name}")
    assert doctest.testmod(face).attempted > 0 and doctest.testmod(face).failed == 0


@pytest.mark.parametrize("name", _options.option_names())
def test_the_docstring_of_a_start_tells_every_option_with_its_default(name: str) -> None:
    found = re.search(rf"^    {name} : .*, optional\n((        .*\n)+)", clusters.start.__doc__ or "", re.MULTILINE)
    assert found is not None, f"ports.clusters.start does not tell {name}"
    default = config.defaults()["cluster"][name]
    told = " ".join(found.group(1).split())
    assert "Default: " in told
    if default not in (None, {}):
        assert re.search(rf"Default: (``)?\"?{re.escape(f'{default}')}\"?", told), f"{name} is {default!r} by default"
