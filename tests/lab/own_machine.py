"""A network and a `/tmp` of its own for a process of tests, so that it meets nothing of what else runs on the machine.

`ports` looks at all listeners of its user, asks them what they are, and reads in `/tmp` what clusters are promised.
There tests that run side by side would meet, and tests would meet people. Only root can have this, and only on Linux.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
TMP = Path("/tmp")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Move a worker of pytest-xdist into a network and a /tmp of its own."""
    if not hasattr(config, "workerinput") or sys.platform != "linux" or os.geteuid() != 0:
        return
    try:
        move_in()
    except OSError:
        return  # such as in a container that may not; then tests meet as users' programs do
    if config.option.basetemp:
        Path(config.option.basetemp).parent.mkdir(parents=True, exist_ok=True)


def move_in() -> None:
    """Leave the network and the mounts of this machine behind; this thread and what it starts do so."""
    libc = ctypes.CDLL(None, use_errno=True)

    def check(result: int) -> None:
        if result:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    check(libc.unshare(CLONE_NEWNS | CLONE_NEWNET))
    check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, capture_output=True)
    needed = (CHECKOUT, Path(sys.prefix), Path(sys.base_prefix), Path.home(), Path.cwd())
    if not any(path.is_relative_to(TMP) for path in needed) and Path(tempfile.gettempdir()) == TMP:
        check(libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, b"mode=1777"))
