"""What runs below a process, on kernels that list children and on those that do not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import ports
from ports.sessions import processes
from ports.state.waiting import wait_until

sys.path.append(str(Path(ports.__file__).parent / "clusters/owner"))  # last, as in a cluster

from ports_owner import orphans
from ports_owner.ground import probe as ground

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="subreapers are Linux's")


@pytest.mark.parametrize("tells", [True, False])
def test_what_a_worker_left_is_ended_whatever_the_kernel_tells(tells: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if tells and not ground.processes.TELLS_CHILDREN:
        pytest.skip("this kernel does not")
    monkeypatch.setattr(ground.processes, "TELLS_CHILDREN", tells)
    mark = orphans.new_mark()
    code = (
        "import subprocess, sys; sys.path.append(sys.argv[1]); from ports_owner import orphans; "
        "orphans.wear(int(sys.argv[2])); "
        "one = subprocess.Popen(['sleep', '600']); print(one.pid, flush=True); one.wait()"
    )
    command = [sys.executable, "-c", code, str(Path(orphans.__file__).parents[1]), str(mark)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as left:
        assert left.stdout is not None
        below = int(left.stdout.readline())
        try:
            assert left.pid in ground.processes.children(os.getpid())
            assert ground.processes.children(left.pid) == [below]
            assert {left.pid, below} <= set(ground.processes.descendants(os.getpid()))
            assert orphans.end_left_by(mark) == 2
            wait_until(lambda: not Path(f"/proc/{below}").exists() or None, timeout=10, what="its end", every=0.02)
        finally:
            orphans.kill([left.pid, below], signal.SIGKILL)


def test_what_another_process_with_a_reused_pid_started_goes_on() -> None:
    """A process that is being ended can be gone, and its pid another's, while its children are waited for."""
    root = psutil.Process(os.getpid())
    with subprocess.Popen(["sleep", "600"]) as other:
        try:
            assert other.pid in [one.pid for one in processes._descendants([root], lambda words: False)]
            root.is_running = lambda: False  # type: ignore[method-assign]  # what psutil finds by the time of its start
            assert processes._descendants([root], lambda words: False) == []
        finally:
            other.kill()
