"""The table of session kinds: what stands in it is what the records, the probe and the command line have."""

from __future__ import annotations

import dataclasses
import importlib
import re
from itertools import product
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from click import Context, Group

from ports import sessions
from ports.cli import main, output
from ports.clusters import _owner
from ports.jobs import _resource
from ports.notebooks import _jupyter
from ports.probe import ask, rows
from ports.probe import records as read_there
from ports.probe.programs import who
from ports.sessions import KINDS, Exit, Running, SessionRecord, verdict
from ports.sessions._start import LAUNCHER
from ports.state import ProcessId, Record

RECORDED = sorted(sessions.FOLDERS)


def record_of(kind: str) -> type[SessionRecord]:
    return KINDS[kind].record_class()


@pytest.mark.parametrize("kind", RECORDED)
def test_a_kind_names_the_class_of_its_record(kind: str) -> None:
    cls = record_of(kind)
    assert issubclass(cls, SessionRecord) and cls is not SessionRecord
    assert issubclass(cls.answers, Running) and cls.answers is not Running


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS.values() if kind.verbs])
def test_a_kind_has_the_verbs_of_its_commands(kind: str) -> None:
    group = getattr(importlib.import_module(main.COMMANDS[kind][0]), main.COMMANDS[kind][1])
    assert isinstance(group, Group)
    assert set(group.list_commands(Context(group))) == set(KINDS[kind].verbs)


def test_a_kind_without_verbs_is_a_command_itself() -> None:
    assert {kind.name for kind in KINDS.values() if not kind.verbs} == {"shell"}
    assert "shell" in main.COMMANDS


@pytest.mark.parametrize("kind", RECORDED)
def test_a_recorded_session_is_in_a_state_of_its_kind(kind: str) -> None:
    ends, flags = (None, Exit(status=1)), (True, False)
    found = {
        verdict(ended, alive, running=running, launched=launched, same_boot=same)[0]
        for ended, alive, running, launched, same in product(ends, (True, False, None), flags, flags, flags)
    }
    assert found == set(KINDS[kind].states)
    assert found <= set(output.STYLES)  # each has its colour


COMMAND_LINES = {
    "cluster": ["python", *_owner.command(Path("/state/clusters/main"))],
    "notebook": _jupyter.command(
        Path("/env/bin/python"),
        "lab",
        token_file=Path("/state/tokens/notebook-lab"),
        runtime=Path("/tmp/ports-1/nb-1"),
        root=Path("/data"),
        port=1,
    ),
    "resource": ["python", "-c", f"{_resource._PROGRAM}('/state/resources/jobs')"],
    "shell": [*LAUNCHER, "/tmp/ports-1/shell-main.launch"],
}


def test_a_command_line_tells_the_kind() -> None:
    assert set(COMMAND_LINES) == set(KINDS)
    for kind, argv in COMMAND_LINES.items():
        assert [one.name for one in KINDS.values() if re.search(one.command_line, " ".join(argv))] == [kind]


def test_the_probe_knows_a_cluster_by_the_same_command_line() -> None:
    line = " ".join(COMMAND_LINES["cluster"])
    assert ask.SHY.search(line) and who.DASK.search(line.encode())


# --- what the probe reads of records, without their classes ---


def test_the_probe_reads_the_records_of_the_same_kinds() -> None:
    assert read_there.SESSION_KINDS == sessions.FOLDERS


def fields_of(cls: type[Record]) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def required(cls: type[Record]) -> set[str]:
    missing = dataclasses.MISSING
    return {one.name for one in dataclasses.fields(cls) if one.default is missing and one.default_factory is missing}


def as_the_probe_says(hint: Any) -> tuple[type, ...]:
    """Return the types in JSON of what a field of the type `hint` holds, as `TYPES` of the probe names them."""
    if get_origin(hint) is UnionType:
        return tuple(one for part in get_args(hint) if part is not type(None) for one in as_the_probe_says(part))
    if get_origin(hint) in (tuple, list):
        return (list,)
    if hint is rows.ProcessDocument or (isinstance(hint, type) and issubclass(hint, Record)):
        return (dict,)
    return (int, float) if hint is float else (hint,)


DOCUMENTS: dict[str, type[Record]] = {
    "process": ProcessId,
    **{f"{folder}/record.json": record_of(kind) for kind, folder in sessions.FOLDERS.items()},
    **{f"{folder}/running.json": record_of(kind).answers for kind, folder in sessions.FOLDERS.items()},
}


def test_the_probe_needs_what_every_record_has() -> None:
    assert set(read_there.NEEDED) == set(DOCUMENTS)
    for document, keys in read_there.NEEDED.items():
        assert set(keys) <= required(DOCUMENTS[document]), document
    assert set(read_there.NEEDED["process"]) == required(ProcessId)


def test_the_probe_expects_the_types_that_records_have() -> None:
    fields: dict[str, set[tuple[type, ...]]] = {}
    for cls in (*DOCUMENTS.values(), Exit):
        for name, hint in fields_of(cls).items():
            fields.setdefault(name, set()).add(as_the_probe_says(hint))
    for name, types in read_there.TYPES.items():
        assert fields[name] == {types}, name


TYPED: dict[type[Any], tuple[type[Record], ...]] = {
    rows.ProcessDocument: (ProcessId,),
    rows.RecordDocument: tuple(map(record_of, RECORDED)),
    rows.RunningDocument: tuple(record_of(kind).answers for kind in RECORDED),
    rows.ExitDocument: (Exit,),
}


@pytest.mark.parametrize("document", TYPED, ids=lambda document: document.__name__)
def test_a_typed_document_has_the_fields_of_its_records(document: type[Any]) -> None:
    for name, hint in get_type_hints(document).items():
        having = [fields_of(cls)[name] for cls in TYPED[document] if name in fields_of(cls)]
        assert having, name
        assert {as_the_probe_says(found) for found in having} == {as_the_probe_says(hint)}, name


def test_the_typed_documents_name_all_that_the_probe_reads() -> None:
    named = {name for document in TYPED for name in get_type_hints(document)}
    assert set(read_there.TYPES) <= named
    assert {key for keys in read_there.NEEDED.values() for key in keys} <= named
