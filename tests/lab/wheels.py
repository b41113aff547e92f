"""Wheels for tests in which pip installs: their network has no index, so `scripts/prepare wheels` gets them before.

`python -m tests.lab.wheels` prints the interpreter of another minor version, if there is one, for that script.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

DIRECTORY = Path(__file__).parents[2] / ".wheels"


def from_wheels() -> list[str]:
    """Return the options of pip that take wheels from `DIRECTORY` alone; none where it is not there."""
    return ["--no-index", "--find-links", str(DIRECTORY)] if DIRECTORY.is_dir() else []


def other_python_here() -> Path | None:
    """Return an interpreter of another minor version than this one's: of uv, pyenv or the system."""
    return next((path for path in _other_pythons() if path.exists()), None)


def _other_pythons() -> Iterator[Path]:
    for minor in (13, 12, 11, 10):
        if minor == sys.version_info[1]:
            continue
        if (uv := shutil.which("uv")) is not None:
            done = subprocess.run([uv, "python", "find", f"3.{minor}"], capture_output=True, text=True, check=False)
            yield from map(Path, done.stdout.split())
        yield from Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python3.{minor}")
        yield Path(f"/usr/bin/python3.{minor}")


if __name__ == "__main__":
    print(other_python_here() or "")
