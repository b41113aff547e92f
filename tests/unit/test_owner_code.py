"""The copy of its code that each cluster has: what comes along, and what does not."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ports.clusters import _owner

TAG = sys.implementation.cache_tag


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = tmp_path / "source"
    (made / "__pycache__").mkdir(parents=True)
    (made / "guard.py").write_text("")
    return made


def copied(source: Path) -> set[str]:
    return {str(path.relative_to(source)) for path in _owner._files(source)}


def test_byte_code_of_this_python_comes_along(source: Path) -> None:
    (source / f"__pycache__/guard.{TAG}.pyc").write_bytes(b"")
    assert copied(source) == {"guard.py", f"__pycache__/guard.{TAG}.pyc"}


@pytest.mark.parametrize(
    "name", ["guard.cpython-39.pyc", "guard.pypy310.pyc", f"guard.{TAG}.opt-1.pyc", f"gone.{TAG}.pyc"]
)
def test_byte_code_of_another_python_stays_behind(source: Path, name: str) -> None:
    (source / "__pycache__" / name).write_bytes(b"")
    assert copied(source) == {"guard.py"}


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_byte_code_that_another_user_made_stays_behind(source: Path) -> None:
    compiled = source / f"__pycache__/guard.{TAG}.pyc"
    compiled.write_bytes(b"")
    os.chown(compiled, 65534, 65534)
    assert copied(source) == {"guard.py"}


def test_byte_code_is_found_where_python_writes_it_elsewhere(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "pycache_prefix", "/nowhere")
    (source / f"__pycache__/guard.{TAG}.pyc").write_bytes(b"")
    assert copied(source) == {"guard.py", f"__pycache__/guard.{TAG}.pyc"}
