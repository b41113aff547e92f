"""What commands about jobs do not import: each of them starts a Python for a question of a few milliseconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TELL = "import sys; from ports.cli import main; main.os._exit = lambda code: print(*sorted(sys.modules)); main.main()"


@pytest.mark.parametrize(
    "words", [["submit", "--no-start", "--", "true"], ["submit", "-H", "server1", "--dry-run", "--", "true"]]
)
def test_a_submission_loads_no_sqlite_and_no_queue(words: list[str], tmp_path: Path) -> None:
    environ = {**os.environ, "PORTS_HOME": str(tmp_path / "state")}
    command = [sys.executable, "-c", TELL, "job", *words]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True, cwd=tmp_path)
    loaded = set(done.stdout.split())
    assert "ports.jobs._scripts" in loaded, done.stderr
    assert loaded.isdisjoint(
        {"sqlite3", "ports.jobs._store", "ports.jobs._turn", "ports.jobs._sending", "dask", "asyncio"}
    )
