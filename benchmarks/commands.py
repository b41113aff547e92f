"""Commands and scripts that benchmarks time: from the start of the process to its end, or to a line that it prints."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ports.probe import sha256

READY = "ready"
#: The command that an installation puts on the PATH.
PORTS = [str(Path(sys.prefix, "bin/ports"))]
PACKAGE = Path(__file__).resolve().parents[1] / "ports"


def seconds(argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> float:
    """Return how many seconds `argv` runs. Its output is ignored; its failure is an error."""
    start = time.perf_counter()
    null = subprocess.DEVNULL
    done = subprocess.run(argv, stdin=null, capture_output=True, env=env, cwd=cwd, timeout=120, check=False)
    took = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)[:200]} ended with {done.returncode}: {done.stderr.decode()[-2000:]}")
    return took


@contextmanager
def until_ready(argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> Iterator[tuple[float, int]]:
    """Start `argv`; yield the seconds until it prints ``ready``, and its pid. Closing its stdin lets it continue."""
    start = time.perf_counter()
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, env=env) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            for line in process.stdout:
                if line.strip() == READY:
                    break
            else:
                raise RuntimeError(f"{' '.join(argv)[:200]} ended before it was ready")
            yield time.perf_counter() - start, process.pid
        finally:
            process.stdin.close()
            process.wait(60)


@contextmanager
def home() -> Iterator[dict[str, str]]:
    """Yield an environment without records of `ports`, with scratch on a disk for both sides. Then remove it."""
    top = Path(tempfile.mkdtemp(prefix="ports-bench-", dir="/var/tmp"))
    own = {"PORTS_HOME": top / "state", "DASK_TEMPORARY_DIRECTORY": top / "scratch", "DASK_CONFIG": top / "dask"}
    (top / "scratch").mkdir()
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PORTS_", "DASK_", "TMUX", "PYTHON"))
    }
    try:
        yield {**kept, **{name: str(path) for name, path in own.items()}}
    finally:
        sockets = Path(f"/tmp/ports-{os.getuid()}") / sha256(os.fsencode(top / "state"))[:8]
        for directory in (top, sockets):
            shutil.rmtree(directory, ignore_errors=True)
