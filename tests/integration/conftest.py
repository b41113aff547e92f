"""A state directory for one test: real clusters in it, and nothing left of them afterwards.

``home`` is fresh for each test, ``shared_home`` for each module. Both set ``PORTS_HOME`` for this process and those it
starts; scratch goes to a directory of its own on a disk, so that tests of several people on one machine do not meet.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.config
import psutil
import pytest

from ports import clusters
from ports.errors import NotFoundError, PortsError, TimedOutError
from ports.jobs import _resource
from ports.state import runtime_directory
from ports.state.waiting import wait_until
from tests.lab import processes

STARTED = signal.SIGKILL  # what is left after a failed test is ended hard


@dataclass(frozen=True)
class Home:
    """A fresh ``PORTS_HOME`` with its runtime directory and the disk for scratch."""

    state: Path
    runtime: Path
    disk: Path
    work: Path

    def ports(self, *words: str, timeout: float = 60, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the command line, as a user does, and return how it ended."""
        command = [sys.executable, "-m", "ports", *words]
        return subprocess.run(
            command, cwd=self.work, text=True, capture_output=True, timeout=timeout, check=False, **options
        )

    def json(self, *words: str, timeout: float = 60) -> Any:
        """Run the command line with ``--json`` and return its document."""
        done = self.ports(*words, "--json", timeout=timeout)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def python(self, code: str, *words: str, timeout: float = 60, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a script, as a user does, and return how it ended."""
        command = [sys.executable, "-c", code, *words]
        options.setdefault("cwd", self.work)
        return subprocess.run(command, text=True, capture_output=True, timeout=timeout, check=False, **options)

    def processes(self) -> list[psutil.Process]:
        """Return what was started with this home and has not ended."""
        mark = f"PORTS_HOME={self.state}".encode()
        tests = [processes.marked({mark}, os.fsencode(path)) for path in (self.state, self.runtime)]
        found = {one.pid for test in tests for one in processes.find(test) if one.state not in "ZX"}
        mine = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
        living = []
        for pid in sorted(found - mine):
            with contextlib.suppress(psutil.NoSuchProcess):
                living.append(psutil.Process(pid))
        return living

    def files(self) -> list[str]:
        """Return the names of the files that are there, but for the record of the machine and locks."""
        tops = (self.state, self.disk, self.runtime)
        found = [path for top in tops for path in top.rglob("*") if not path.is_dir() or path.is_symlink()]
        return sorted(path.name for path in found if path.name != "host.json" and path.suffix != ".lock")

    def left(self) -> list[str]:
        """Return what should be gone after `stop`: processes, listeners, scratch, records."""
        left = []
        for one in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):  # it ends at this moment
                left += [f"process {one.pid} {' '.join(one.cmdline())[:150]}"] if one.is_running() else []
        at = str(self.runtime)
        left += [str(one) for one in processes.listeners(Path("/proc/self")) if one.where.startswith(at)]
        left += [f"scratch {path}" for path in self.disk.iterdir()]
        left += [f"record {path}" for path in self.state.glob("hosts/*/*s/*") if path.parent.name in _KINDS]
        return left


_KINDS = ("clusters", "notebooks", "sessions")


def stop_resource() -> None:
    """Stop the compute resource and its cluster, if they run."""
    if (found := _resource.find_resource()) is not None:
        found.stop(now=True, force=True)
    with contextlib.suppress(NotFoundError):
        clusters.stop("jobs")


@pytest.fixture(scope="module")
def home_of_jobs(shared_home: Home) -> Iterator[Home]:
    """A home with a compute resource, which the first submission starts; afterwards its jobs are cancelled."""
    yield shared_home
    for row in shared_home.json("job", "list"):
        if row["state"] in ("pending", "running"):
            shared_home.ports("job", "cancel", row["id"])
    stop_resource()


@contextlib.contextmanager
def new_home(top: Path, environ: Mapping[str, str] | None = None) -> Iterator[Home]:
    """Make a home below `top`, and afterwards check that nothing is left of it."""
    state, work = top / "state", top / "work"
    work.mkdir(parents=True)
    disk = Path(tempfile.mkdtemp(prefix="test-", dir="/var/tmp"))
    with pytest.MonkeyPatch.context() as patch, dask.config.set({"temporary-directory": str(disk)}):
        patch.setenv("PORTS_HOME", str(state))
        patch.setenv("DASK_TEMPORARY_DIRECTORY", str(disk))
        patch.setenv("DASK_CONFIG", str(top / "dask"))
        patch.delenv("TMUX", raising=False)
        patch.chdir(work)
        for name, value in (environ or {}).items():
            patch.setenv(name, value)
        home = Home(state, runtime_directory(), disk, work)
        try:
            yield home
            stop_all()
            with contextlib.suppress(TimedOutError):
                wait_until(lambda: not home.left() or None, timeout=8, what="end of what the test started", every=0.05)
            left = home.left()
            assert not left, "left behind:\n" + "\n".join(left)
        finally:
            for process in home.processes():
                with contextlib.suppress(psutil.Error):
                    process.send_signal(STARTED)
            for directory in (home.runtime, disk):
                shutil.rmtree(directory, ignore_errors=True)


def stop_all() -> None:
    """Stop the clusters that a test left running on purpose."""
    for one in clusters.list():
        with contextlib.suppress(PortsError):
            one.stop()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A home for this test alone."""
    with new_home(tmp_path / "home") as made:
        yield made


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home for the tests of a module that only look."""
    with new_home(tmp_path_factory.mktemp("shared") / "home") as made:
        yield made
