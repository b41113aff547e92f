"""Which packages a script imports, and what is said of those that its Python has not."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ports.jobs import _copies, _packages, _scripts

SCRIPT = """
import os, sys, json
import numpy as np
from yaml.representer import Representer
import local_module, pack.deep
from pack import other
from pack2 import *
import xml.etree.ElementTree
try:
    import optional_one
except ImportError:
    optional_one = None
try:
    import needed_anyway
finally:
    pass
if TYPE_CHECKING:
    import for_checkers
if typing.TYPE_CHECKING:
    import for_checkers
else:
    import for_runs
def inside():
    import lazily.deep
"""


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local_module.py").write_text("import from_local\n")
    (tmp_path / "pack").mkdir()
    for name, text in {
        "__init__": "",
        "deep": "from . import sibling",
        "sibling": "import from_sibling",
        "other": "",
    }.items():
        (tmp_path / "pack" / f"{name}.py").write_text(text)
    (tmp_path / "train.py").write_text(SCRIPT)
    return tmp_path


def test_imports_are_found_without_local_and_optional_ones(top: Path) -> None:
    assert _packages.imports(["python3", "train.py"], str(top)) == sorted(
        ["numpy", "yaml", "pack2", "needed_anyway", "for_runs", "lazily", "from_local", "from_sibling"]
    )


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["python", "-u", "train.py", "-c", "x"], True),
        (["/opt/x/bin/python3.11", "-W", "ignore", "-X", "dev", "train.py"], True),
        (["python", "-m", "train", "--lr", "1"], True),
        (["python", "-m", "pack.deep"], True),
        (["python", "-m", "pip"], False),
        (["python", "-c", "import train"], False),
        (["python", "missing.py"], False),
        (["python"], False),
        (["bash", "train.py"], False),
        (["./train.py"], False),
        ([], False),
    ],
)
def test_the_script_of_a_command_is_found(top: Path, words: list[str], found: bool) -> None:
    assert (_packages.imports(words, str(top)) is not None) == found


@pytest.mark.parametrize(
    "text", ["import (", "\0", "\xff\xfe", "x = " + "(" * 5000], ids=["syntax", "nul", "bytes", "deep"]
)
def test_a_script_that_cannot_be_read_imports_nothing(top: Path, text: str) -> None:
    (top / "train.py").write_bytes(text.encode("latin-1"))
    assert _packages.imports(["python", "train.py"], str(top)) == []


def test_the_python_of_the_command_says_what_it_has(top: Path) -> None:
    found = _packages.look(
        [sys.executable, "x.py"], ["numpy", "yaml", "click", "not_there_at_all"], str(top), os.environ
    )
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["packages"]["not_there_at_all"] is None and found["packages"]["yaml"][0].isdigit()
    assert found["packages"]["click"][0].isdigit()


def test_a_module_of_the_directory_is_not_run_by_the_look(top: Path) -> None:
    (top / "json.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    assert _packages.look([sys.executable], ["numpy"], str(top), {**os.environ, "PYTHONPATH": ""})["python"]
    assert not (top / "ran").exists()


@pytest.mark.parametrize("words", [["python-that-is-not-there"], ["bash", "x"], []])
def test_what_says_nothing_records_nothing(top: Path, words: list[str]) -> None:
    assert _packages.look(words, ["numpy"], str(top), {"PATH": "/usr/bin:/bin"}) == {}


@pytest.mark.parametrize(
    "said", ["", "noise", f"\n{_packages.MARK}[]", f"\n{_packages.MARK}{{}}", f"\n{_packages.MARK}{{"]
)
def test_an_answer_that_is_none_records_nothing(said: str) -> None:
    assert _packages.read(said) == {}


def test_a_package_that_is_missing_or_of_another_first_number_is_said() -> None:
    there = {"packages": {"torch": None, "jax": None, "numpy": "2.1.0", "yaml": "6.0", "odd": "", "same": "1.2"}}
    here = {"packages": {"torch": "2.0", "numpy": "1.26", "yaml": "6.1", "odd": "1", "same": "1.9", "gone": None}}
    assert _packages.notes(there, here, "server1") == [
        "torch, jax, which the script imports, are missing on server1",
        "numpy is 2.1.0 on server1, and 1.26 here",
    ]
    assert _packages.notes({}, here, "server1") == []


def test_a_submission_records_its_source_and_its_python(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.unit.test_job_workspace import git

    (top / "train.py").write_text("import click, not_there_at_all\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        git(top, *words)
    (top / "train.py").write_text("import click, not_there_at_all\n# changed\n")
    script, notes, patch = _copies.with_records(_scripts.describe([sys.executable, "train.py"]))
    told = script.submission.script or {}
    assert len(told["commit"]) == 40 and told["dirty"] is True and b"+# changed" in patch[told["patch"]]
    assert told["packages"]["not_there_at_all"] is None and told["packages"]["click"] and told["python"]
    assert len(notes) == 1 and notes[0].startswith("not_there_at_all, which the script imports, is missing on ")
    with_setup = _scripts.describe(["made-by-the-setup"], setup="true")
    assert _copies.with_records(with_setup)[1] == []  # it can install it
