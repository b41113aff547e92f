#!/usr/bin/env python
"""Write what the schema of the settings says into the pages and the docstring that list settings and options.

Run it after an edit of ports/state/settings.json; tests/unit/test_options.py fails where it was forgotten.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ports.cli.cluster import cluster
from ports.cli.notebook import notebook
from ports.state import settings

COMMANDS = {"cluster": cluster, "notebook": notebook}
TOP = Path(__file__).resolve().parents[1]
TYPES = {"boolean": "bool", "integer": "int", "number": "float", "string": "str", "object": "mapping"}


def meaning(node: dict[str, Any]) -> str:
    """Return the sentences of a setting for a page."""
    text = " ".join([node["description"], *([node["more"]] if "more" in node else [])])
    return text + (f" [Details]({node['see']})." if "see" in node else "")


def settings_rows(path: str, nodes: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield the rows of docs/settings.md for the leaves below `path`."""
    for name, node in nodes.items():
        if "properties" in node:
            continue
        value = settings.allowed({**node, "because": ""}, null=True).rstrip(": ")
        default = json.dumps(node.get("default"), ensure_ascii=False)
        unset = f" If null: {node['unset']}." if "unset" in node and node["default"] is None else ""
        yield f"| `{path}.{name}` | {value} | `{default}` | {meaning(node)}{unset} |"


def option_rows() -> Iterator[str]:
    """Yield the rows of docs/clusters.md."""
    nodes = settings.section("cluster")
    flags = {one.name: "`, `".join([*one.opts, *one.secondary_opts]) for one in cluster.commands["start"].params}
    for name in settings.options("cluster"):
        node = nodes[name]
        yield f"| `{name}` | `{flags[name]}` | {meaning(node)} | {settings.default_in_words(node)} |"


def parameters() -> str:
    """Return the options in the docstring of `ports.clusters.start`."""
    lines = []
    for name in settings.options("cluster"):
        node = settings.section("cluster")[name]
        default = settings.default_in_words(node)
        default = f'``"{default}"``' if "enum" in node else default
        lines.append(f"    {name} : {python_type(node)}, optional")
        text = f"{node['description']} Default: {default}."
        lines += textwrap.wrap(text, 120, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(lines) + "\n"


def python_type(node: dict[str, Any]) -> str:
    """Return the type of an option as numpydoc has it."""
    if "enum" in node:
        return "{" + ", ".join(f'"{one}"' for one in node["enum"]) + "}"
    kinds = node["type"] if isinstance(node["type"], list) else [node["type"]]
    names = [TYPES[kind] for kind in kinds if kind != "null"]
    if "pattern" in node and "expects" not in node:
        names = ['"' + node["pattern"].strip("^$") + '"' if name == "str" else name for name in names]
    return " or ".join(names)


def table(text: str, start: str, rows: list[str]) -> str:
    """Replace the rows of a table, those that begin like `start`, by `rows`."""
    lines = text.splitlines(keepends=True)
    old = [number for number, line in enumerate(lines) if re.match(start, line)]
    lines[old[0] : old[-1] + 1] = [f"{row}\n" for row in rows]
    return "".join(lines)


def written() -> dict[Path, str]:
    """Return the files that follow from the schema, as they should be."""
    top = settings.schema()["properties"]
    page = TOP / "docs" / "settings.md"
    text = table(page.read_text("utf-8"), r"\| `ports\.\w+` ", [*settings_rows("ports", dict(top))])
    text = table(
        text,
        r"\| `ports\.hosts\.<alias>",
        [*settings_rows("ports.hosts.<alias>", top["hosts"]["additionalProperties"]["properties"])],
    )
    for name in ("cluster", "notebook", "open", "page", "ssh", "jobs"):
        text = table(text, rf"\| `ports\.{name}\.", [*settings_rows(f"ports.{name}", settings.section(name))])
    found = {page: text}
    page = TOP / "docs" / "clusters.md"
    found[page] = table(page.read_text("utf-8"), r"\| `\w+` \| `--", [*option_rows()])
    page = TOP / "docs" / "commands.md"
    found[page] = with_flags(with_flags(page.read_text("utf-8"), "cluster"), "notebook")
    page = TOP / "ports" / "clusters" / "_start.py"
    before, rest = page.read_text("utf-8").split("    n_workers : ", 1)
    found[page] = before + parameters() + "    **asked\n" + rest.split("    **asked\n", 1)[1]
    return found


def with_flags(text: str, kind: str) -> str:
    """Return docs/commands.md with the help of the options of ``start``, except ``--environ``, which has its own."""
    heading = f"### `ports {kind} start [NAME]`\n"
    head, rest = text.split(heading, 1)
    body, mark, tail = rest.partition("\n### ")
    last = "- `--option`" if kind == "cluster" else "- `--timeout`"
    for option in COMMANDS[kind].commands["start"].params:
        if option.name in settings.options(kind) and option.name != "environ":
            names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
            line = textwrap.fill(f"- {names}: {option.help}", 120, subsequent_indent="  ", break_on_hyphens=False)
            body, n_found = re.subn(
                rf"^- `{option.opts[0]}`.*\n(?:  .*\n)*", f"{line}\n".replace("\\", r"\\"), body, flags=re.M
            )
            if not n_found:  # a new option: behind the others
                body = body.replace(last, f"{line}\n{last}")
    return f"{head}{heading}{body}{mark}{tail}"


if __name__ == "__main__":
    for path, text in written().items():
        path.write_text(text, encoding="utf-8")
