"""The verbs of the page: each is a command of the command line, in words. Pure.

A verb, its fields and their limits are in this table. From outside come only a host of the page, a checked name or
port, and the values of fields. So no word that a browser sends becomes an option.

>>> words("stop", "atlas", "cluster", "main", {})
['cluster', 'stop', 'main', '-H', 'atlas']
>>> words("scale", None, "cluster", "main", {"n_workers": "4"})
['cluster', 'scale', 'main', '4']
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ports.errors import PortsError
from ports.state import paths


@dataclass(frozen=True, kw_only=True)
class Field:
    """A value that somebody types: its name in the form, its words in the sheet, and what it may be.

    `option` is the option of the command; None where the value stands without one. `rule` says what the browser takes.
    """

    name: str
    label: str
    option: str | None
    pattern: str
    empty: str = ""
    required: bool = False
    rule: str = ""

    @property
    def is_number(self) -> bool:
        """Whether a keypad of digits helps to type it."""
        return self.pattern == _NUMBER


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One act: its words before the name, whether it names a thing, its fields, and whether something ends."""

    words: tuple[str, ...]
    label: str
    named: bool = True
    target: bool = False
    fields: tuple[Field, ...] = ()
    after: tuple[str, ...] = ()
    ends: bool = False


_NUMBER = r"[0-9]{1,5}"
_SIZE = r"[0-9]{1,6}(\.[0-9]{1,3})?( ?[kKMGT]i?B)?"
_SIZE_RULE = "A size, such as 4GB or 512MiB"
_COUNT_RULE = "A whole number, such as 4"
_NAME_RULE = "A letter a-z, then up to 30 of a-z, 0-9 and '-'"
_PORT = re.compile(r"[0-9]{1,5}")
_N_WORKERS = Field(
    name="n_workers", label="Workers", option="--n-workers", pattern=_NUMBER, empty="fair share", rule=_COUNT_RULE
)
_MEMORY = Field(
    name="memory_limit",
    label="Memory of each",
    option="--memory-limit",
    pattern=_SIZE,
    empty="fair share",
    rule=_SIZE_RULE,
)
_SCALE = Field(name="n_workers", label="Workers", option=None, pattern=_NUMBER, required=True, rule=_COUNT_RULE)
NAMES = {
    kind: Field(name="name", label="Name", option=None, pattern=r"[a-z][a-z0-9\-]{0,30}", empty=empty, rule=_NAME_RULE)
    for kind, empty in (("cluster", "main"), ("notebook", "lab"))
}
_REMOVE = Verb(words=("prune",), label="Remove…", named=False, ends=True)

VERBS: dict[tuple[str, str], Verb] = {
    ("cluster", "start"): Verb(words=("cluster", "start"), label="Start cluster", fields=(_N_WORKERS, _MEMORY)),
    ("cluster", "scale"): Verb(words=("cluster", "scale"), label="Scale…", fields=(_SCALE,)),
    ("cluster", "restart"): Verb(words=("cluster", "restart"), label="Restart…", ends=True),
    ("cluster", "stop"): Verb(words=("cluster", "stop"), label="Stop…", ends=True),
    ("cluster", "remove"): _REMOVE,
    ("notebook", "start"): Verb(words=("notebook", "start"), label="Start JupyterLab"),
    ("notebook", "stop"): Verb(words=("notebook", "stop"), label="Stop…", ends=True),
    ("notebook", "remove"): _REMOVE,
    ("resource", "start"): Verb(words=("resource", "start"), label="Start the queue of jobs", named=False),
    ("resource", "drain"): Verb(words=("resource", "drain"), label="Drain…", named=False, ends=True),
    ("resource", "resume"): Verb(words=("resource", "resume"), label="Resume", named=False),
    ("resource", "stop"): Verb(words=("resource", "stop"), label="Stop…", named=False, ends=True),
    ("resource", "remove"): _REMOVE,
    ("tunnel", "open"): Verb(words=("open",), label="Open", target=True, after=("--background", "--no-browser")),
    ("tunnel", "close"): Verb(words=("tunnel", "close"), label="Close link…", target=True, ends=True),
}


#: What goes on while an act does.
GOING = {
    "start": "starting",
    "scale": "scaling",
    "restart": "restarting",
    "stop": "stopping",
    "remove": "removing",
    "drain": "draining",
    "resume": "resuming",
    "open": "opening",
    "close": "closing",
}


class Piece(NamedTuple):
    """A piece of the command that a sheet shows; of a field it stands only once something is typed."""

    text: str
    field: Field | None = None


def find(verb: str, kind: str) -> Verb:
    """Return the verb of a kind of thing; raises PortsError."""
    found = VERBS.get((kind, verb))
    if found is None:
        raise PortsError(f"the page cannot {verb!r} a {kind!r}; `ports --help` lists what the command line can")
    return found


def words(verb: str, host: str | None, kind: str, name: str | None, fields: Mapping[str, str]) -> list[str]:
    """Return the words to type after ``ports`` for one act; on `host`, or on this machine if it is None or empty.

    Raises
    ------
    PortsError
        No table has the verb, the name is invalid, or a field is missing, invalid or unknown.
    """
    found = find(verb, kind)
    before, after = _around(found, verb, host, kind, name)
    return [*before, *_field_words(found, fields), *after]


def shown(verb: str, host: str | None, kind: str, name: str | None) -> list[Piece]:
    """Return the same command in the pieces that a sheet shows, with a place for each field."""
    found = find(verb, kind)
    before, after = _around(found, verb, host, kind, name)
    typed = [NAMES[kind]] if verb == "start" and found.named and not name else []
    if not (typed or found.fields):
        return [Piece(" ".join(["ports", *before, *after]))]
    pieces = [Piece(" ".join(["ports", *before]))]
    pieces += [Piece(f" {one.option}" if one.option else "", one) for one in (*typed, *found.fields)]
    return [*pieces, Piece(f" {' '.join(after)}")] if after else pieces


def _around(found: Verb, verb: str, host: str | None, kind: str, name: str | None) -> tuple[list[str], list[str]]:
    """Return the words before and after those of the fields."""
    host = _checked_host(host)
    if found.target:
        if host is None:
            raise PortsError("what runs on this machine needs no tunnel; open its link")
        at = f"[{host}]" if ":" in host else host
        return [*found.words, f"{at}:{_checked_target(name)}" if name else at, *found.after], []
    before = [*found.words]
    if found.named and name:
        before.append(paths.check_name(name))
    elif found.named and verb != "start":
        raise PortsError(f"{verb} needs the name of a {kind}")
    return before, [*found.after, *(() if host is None else ("-H", host))]


def _field_words(verb: Verb, fields: Mapping[str, str]) -> list[str]:
    unknown = sorted(set(fields) - {one.name for one in verb.fields})
    if unknown:
        raise PortsError(f"no field {unknown[0]!r} here")
    made = []
    for one in verb.fields:
        value = fields.get(one.name, "").strip()
        if not value and not one.required:
            continue
        if not re.fullmatch(one.pattern, value, re.ASCII):
            example = "4" if one.is_number else "4GB"
            raise PortsError(f"{one.label.lower()}: {value!r} is invalid; type for example {example}")
        made += [value] if one.option is None else [one.option, value]
    return made


def _checked_host(host: str | None) -> str | None:
    """Return a host that no program reads as an option; the page's own list of hosts is the caller's to check."""
    if not host:
        return None
    if host.startswith("-") or not host.isprintable() or any(one.isspace() for one in host):
        raise PortsError(f"{host!r} is no host")
    return host


def _checked_target(name: str) -> str:
    """Return the name of a thing or a port."""
    return name if _PORT.fullmatch(name) and 0 < int(name) < 65536 else paths.check_name(name)
