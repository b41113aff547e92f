"""The walk of an alias from ``ports open HOST`` to the ssh master is short; ``benchmarks/walk.py`` counts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
MOST_FUNCTIONS, MOST_FILES, MOST_LINES = 25, 8, 40

# in a process of its own, because an audit hook stays for good
WALK = """
import json
from benchmarks.walk import refused_host, rows_of, walk
with refused_host() as alias:
    seen = walk(["open", alias, "--no-browser"], alias)
print(json.dumps([seen.started.is_set(), rows_of(seen)]))
"""


def test_an_alias_passes_few_functions_on_its_way_to_the_master() -> None:
    done = subprocess.run([sys.executable, "-c", WALK], cwd=TOP, capture_output=True, text=True, timeout=60, check=True)
    is_started, rows = json.loads(done.stdout.splitlines()[-1])
    assert is_started
    names = {(file, name) for file, _, name, _ in rows}
    assert {("cli/tunnel.py", "open_"), ("hosts/openssh/masters.py", "start")} <= names
    shown = "\n".join(f"{file}:{line} {name}" for file, line, name, _ in rows)
    assert len(rows) <= MOST_FUNCTIONS, shown
    assert len({file for file, *_ in rows}) <= MOST_FILES, shown
    assert max(lines for *_, lines in rows) <= MOST_LINES, shown
