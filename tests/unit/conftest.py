"""What several unit tests use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.job_queue import Desk


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A queue of jobs in a state directory of its own."""
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    made = Desk(tmp_path)
    yield made
    made.close()
