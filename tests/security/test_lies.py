"""What bob says that he was promised: whatever it is, it refuses alice nothing and keeps her waiting for nothing."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from ports import machine
from tests.lab.namespaces import NamespaceSite
from tests.security.conftest import Scene, protected, tell
from tests.security.test_hostile_places import clean

pytestmark = [pytest.mark.ci, pytest.mark.timeout(120)]

PROMISE = "/tmp/ports-promise-{uid}-000000000000000{number}"
# A promise of more than there is, a FIFO, what never ends, and one in another's name.
LIES = """
import fcntl, os, signal
path = "/tmp/ports-promise-%d-%016x" % (os.getuid(), 7)
fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
os.write(fd, b"1 999 999999 99999999999999\\n")
fcntl.lockf(fd, fcntl.LOCK_EX)
os.mkfifo(path[:-1] + "8")
os.symlink("/dev/zero", path[:-1] + "9")
os.symlink(path, "/tmp/ports-promise-%d-%016x" % (os.getuid() + 1, 1))
print("ready", flush=True)
signal.pause()
"""


def share(scene: Scene) -> dict[str, Any]:
    return dict(scene.ports("who")["share"])


def active(found: dict[str, Any]) -> str:
    """Return who else counts, in the words of a share."""
    return str(found["explained"]).rpartition(", ")[2]


def test_bobs_lie_makes_alices_default_smaller_and_refuses_nothing(work_site: NamespaceSite) -> None:
    scene, bob = protected(work_site, "sockets"), work_site.account("bob").uid
    before = share(scene)
    liar = scene.runs(scene.python, "-c", LIES, user="bob")
    try:
        assert tell(liar) == ["ready"]
        for number in (8, 9):  # the control: who reads these as they come does not get to the end
            with pytest.raises(subprocess.TimeoutExpired):
                scene.alice("grep", "-c", "x", PROMISE.format(uid=bob, number=number), timeout=2)
        after = share(scene)
        assert "one other active" in after["explained"]
        least = 0.12 * machine.usage().available_bytes
        assert least < after["n_workers"] * after["memory_limit"] < before["n_workers"] * before["memory_limit"]
        much = str(int(machine.usage().available_bytes * 0.8))
        scene.ports("cluster", "start", "main", "--n-workers", "1", "--threads-per-worker", "1", "--memory-limit", much)
    finally:
        liar.kill()
        liar.communicate()
        scene.ports("cluster", "stop", "main")
        clean(scene)
    assert active(share(scene)) == active(before)
