"""Who else uses this machine."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ports.machine import _people
from ports.state import wait_until

STRANGER = 70001  # above the uids that useradd gives, as a directory service's are


@pytest.mark.skipif(not Path("/proc/self/stat").exists() or os.geteuid() != 0, reason="needs root, to be another user")
def test_a_living_process_makes_a_user_and_a_zombie_does_not() -> None:
    child = os.fork()
    if child == 0:
        os.setuid(STRANGER)
        signal.pause()
    try:
        wait_until(lambda: STRANGER in _people._uids() or None, timeout=10, what="the stranger's process")
        os.kill(child, signal.SIGKILL)
        wait_until(lambda: STRANGER not in _people._uids() or None, timeout=10, what="its end, not waited for")
        assert Path(f"/proc/{child}").exists()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
