"""What listens on a machine and is mine, and what `ports` recorded there: asked here, or on a host that has no `ports`.

The files of this package use nothing but the standard library of Python 3.6: their texts, one behind the other, are
piped to ``python3 -`` over SSH (`script`), so they are also kept short. An import of names from an
earlier file stands below ``if __name__ != "__main__"``, as those names are there already when it is piped::

    identity ← records ← sockets ← recognise ← ask, nodes ← survey
    identity ← records ← far_run      finds the interpreter there and runs `ports` in it
    far_run, logout ← examine         what `ports doctor` wants to know of a machine
    identity ← limits ← promises ← usage    who uses how much of a machine
    echo                              something to forward to

The probe deletes and changes nothing, and speaks only to ports of its own user, see `ask`.
"""

from ports.probe.identity import (
    boot_id,
    is_same_process_alive,
    machine_id,
    own_uid,
    pid_namespace,
    process_identity,
    sha256,
    user_name,
)
from ports.probe.nodes import nodes_of
from ports.probe.piped import read_answer, script
from ports.probe.records import read_token, state_directory
from ports.probe.survey import probe

__all__ = [
    "boot_id",
    "is_same_process_alive",
    "machine_id",
    "nodes_of",
    "own_uid",
    "pid_namespace",
    "probe",
    "process_identity",
    "read_answer",
    "read_token",
    "script",
    "sha256",
    "state_directory",
    "user_name",
]
