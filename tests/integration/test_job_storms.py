"""The rules of the queue in many storms, and many requests that can be anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.test_job_storm import hostile, storm

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(autouse=True)
def state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))


def test_the_rules_hold_in_many_storms() -> None:
    storm(200, 60)


def test_many_requests_that_can_be_anything_are_answered(tmp_path: Path) -> None:
    hostile(tmp_path, 3_000)
