"""The process that keeps tunnels in the background for weeks."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

SAY = """
import os, sys
from pathlib import Path
from ports.tunnels import keeper
log = Path(sys.argv[1])
os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
for number in range(200):
    keeper._log(log, {"host": "server1", "name": "main", "state": "down", "error": f"reason {number}"})
"""
TAKE_FILES = """
import resource
from ports.tunnels import keeper
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))
keeper.allow_many_files()
least, after = resource.getrlimit(resource.RLIMIT_NOFILE)
print(least == min(most, 10240), after == most)
"""


def python(code: str, *arguments: str) -> str:
    environ = {**os.environ, "DASK_PORTS__LOG_BYTES": "1000"}
    argv = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_log_of_a_host_that_is_down_for_weeks_is_rotated(tmp_path: Path) -> None:
    log = tmp_path / "tunnels.log"
    python(SAY, str(log))
    assert log.read_text().splitlines()[-1].endswith("server1:main down reason 199")
    assert {path.name for path in tmp_path.iterdir()} == {"tunnels.log", "tunnels.log.1"}
    assert all(path.stat().st_size < 1100 for path in tmp_path.iterdir())


def test_a_keeper_takes_as_many_files_as_it_may_have() -> None:
    assert python(TAKE_FILES) == "True True\n"
