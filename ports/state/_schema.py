"""What a setting or an option may be: the packaged schema, and the one check of values against it."""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ports.errors import UsageError

Node = dict[str, Any]

_PYTHON: dict[str, Any] = {
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "string": str,
    "object": Mapping,
    "array": (list, tuple),
    "null": type(None),
}
_WORDS = {
    "boolean": "True or False",
    "string": "a text",
    "object": "a mapping of names to values",
    "array": "a list",
    "null": "null",
}

_FEW = 10  # names that a sentence can list


@functools.cache
def schema() -> Node:
    """Return the JSON schema of the settings; each leaf holds its default and description."""
    loaded: Node = json.loads(Path(__file__).with_name("settings.json").read_text(encoding="utf-8"))
    return loaded


def section(name: str) -> dict[str, Node]:
    """Return the settings of a section, ``"cluster"``: their names and what the schema says of each."""
    found: dict[str, Node] = schema()["properties"][name]["properties"]
    return found


def options(name: str) -> list[str]:
    """Return the settings of a section that are options of a start, in the order of the schema."""
    return [option for option, node in section(name).items() if not node.get("setting_only")]


def defaults() -> dict[str, Any]:
    """Return the packaged defaults."""
    return _defaults(schema())


def _defaults(node: Node) -> dict[str, Any]:
    return {
        key: _defaults(inner)
        if inner.get("type") == "object" and "properties" in inner
        else copy.deepcopy(inner["default"])
        for key, inner in node["properties"].items()
    }


def default_in_words(node: Node) -> str:
    """Return the default of a setting; where it is null or empty, what that means."""
    return str(node.get("unset", node["default"]))


def check(name: str, values: Mapping[str, Any]) -> None:
    """Check options against the settings of section `name`; None is an option that is not given.

    Raises
    ------
    UsageError
        One is invalid: says which, its value, and what is allowed.
    """
    nodes = section(name)
    for option, value in values.items():
        wrong = mismatch(value, nodes[option]) if value is not None else None
        if wrong is not None:
            raise UsageError(f"{option} {wrong}")


def problem(data: Any, node: Node) -> tuple[tuple[str, ...], str] | None:
    """Return where `data` first differs from what `node` allows, and how; None where it does not."""
    return next(problems(data, node), None)


def problems(data: Any, node: Node, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield each place where `data` differs from what `node` allows, and how."""
    if (wrong := mismatch(data, node, null=True)) is not None:
        yield path, f"it {wrong}"
        return
    pairs: list[tuple[str, Any, Any]] = []
    if isinstance(data, Mapping):
        known, others = node.get("properties", {}), node.get("additionalProperties", True)
        pairs = [(str(key), value, known.get(key, others)) for key, value in data.items()]
    elif isinstance(data, list | tuple):
        pairs = [(str(number), value, node.get("items", True)) for number, value in enumerate(data)]
    for key, value, inner in pairs:
        if inner is False:
            yield (*path, key), unknown(key, node)
        elif inner is not True:
            yield from problems(value, inner, (*path, key))


def unknown(key: str, node: Node) -> str:
    """Return that there is no setting `key`, with the ones that there are."""
    known = sorted(node.get("properties", {}))
    there = f"there are {', '.join(known)}" if len(known) <= _FEW else "`ports settings` lists all"
    return f"no such setting; {there}{near(key, known)}"


def near(word: str, known: list[str]) -> str:
    """Return ``; did you mean …?``; empty where nothing resembles `word`."""
    import difflib

    found = difflib.get_close_matches(word.lower().replace("-", "_"), known, n=1)
    return f"; did you mean {found[0]}?" if found else ""


def mismatch(value: Any, node: Node, *, null: bool = False) -> str | None:
    """Return ``is 42; it must be …``; None where `node` allows the value. With `null`, null is named where allowed."""
    types = tuple(_PYTHON[kind] for kind in _types(node))
    if "not" in node and value is node["not"]["const"]:
        fits = False
    elif "enum" in node:
        fits = value in node["enum"]
    elif types and (not isinstance(value, types) or (isinstance(value, bool) and bool not in types)):
        fits = False
    elif isinstance(value, str):
        fits = re.fullmatch(node.get("pattern", ".*"), value, re.DOTALL) is not None
    elif isinstance(value, int | float) and not isinstance(value, bool):  # neither comparison holds for NaN
        within = node.get("minimum", value) <= value <= node.get("maximum", value)
        fits = within and ("exclusiveMinimum" not in node or value > node["exclusiveMinimum"])
    else:
        fits = True
    names = node.get("propertyNames", {})
    for key in value if fits and names else ():
        if not isinstance(key, str) or not re.fullmatch(names["pattern"], key):
            return f"has {key!r}; each name must be {names['expects']}"
    meant = near(value, node["enum"]) if isinstance(value, str) and "enum" in node else ""
    shown = "a value that is not shown here" if node.get("secret") else repr(value)
    return None if fits else f"is {shown}; it must be {allowed(node, null=null)}{meant}"


def _types(node: Node) -> list[str]:
    types = node.get("type", [])
    return types if isinstance(types, list) else [types]


def allowed(node: Node, *, null: bool = False) -> str:
    """Return what may be given, in words: ``a whole number from 0 (…) to 19 (…)``."""
    if "enum" in node:
        words = [f"one of {', '.join(node['enum'])}"]
    elif "expects" in node:
        words = [node["expects"]]
    else:
        words = [_word(node, kind) for kind in _types(node) if kind != "null"]
    if null and "null" in _types(node):
        words.append(_WORDS["null"])
    because = f": {node['because']}" if "because" in node else ""
    return ", or ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words) + because


def _word(node: Node, kind: str) -> str:
    if kind == "string" and "pattern" in node:
        return repr(node["pattern"].strip("^$"))
    if kind not in ("integer", "number"):
        return _WORDS[kind]
    number = node.get("noun") or ("a whole number" if kind == "integer" else "a number")
    number += f" of {node['unit']}" if "unit" in node else ""
    means = [f" ({node[end]})" if end in node else "" for end in ("least", "most")]
    if "maximum" in node:
        return f"{number} from {node['minimum']}{means[0]} to {node['maximum']}{means[1]}"
    if "exclusiveMinimum" in node:
        return f"{number} above {node['exclusiveMinimum']}"
    return f"{number} of at least {node['minimum']}{means[0]}" if "minimum" in node else number
