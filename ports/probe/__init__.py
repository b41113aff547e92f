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

from .lazy import face as face

MYPY = False
if MYPY:
    from . import accounts as accounts
    from . import files as files
    from . import memory as memory
    from . import processes as processes
    from . import promises as promises
    from . import socket_users as socket_users
    from .accounts import is_person as is_person
    from .agent import mux as mux
    from .identity import boot_id as boot_id
    from .identity import is_same_process_alive as is_same_process_alive
    from .identity import is_zombie as is_zombie
    from .identity import machine_id as machine_id
    from .identity import own_uid as own_uid
    from .identity import pid_namespace as pid_namespace
    from .identity import process_identity as process_identity
    from .identity import read_bytes as read_bytes
    from .identity import sha256 as sha256
    from .identity import stat_of as stat_of
    from .identity import user_name as user_name
    from .logout import logout_ends as logout_ends
    from .nodes import nodes_of as nodes_of
    from .piped import read_answer as read_answer
    from .piped import script as script
    from .programs import who as who
    from .programs.examine import examine as examine
    from .programs.examine import space as space
    from .programs.run import usual_roots as usual_roots
    from .programs.survey import probe as probe
    from .recognise import words_of as words_of
    from .records import own_runtime_directory as own_runtime_directory
    from .records import read_token as read_token
    from .records import state_directory as state_directory
    from .safe_path import SAFE_PATH as SAFE_PATH
    from .socket_users import holder_of as holder_of
    from .socket_users import peer as peer
    from .socket_users import peer_uid as peer_uid
    from .units import duration as duration
    from .units import memory_used as memory_used
    from .units import size as size
else:
    __getattr__, __dir__, __all__ = face(
        __name__,
        {
            "accounts": ("is_person",),
            "identity": (
                "boot_id",
                "is_same_process_alive",
                "is_zombie",
                "machine_id",
                "own_uid",
                "pid_namespace",
                "process_identity",
                "read_bytes",
                "sha256",
                "stat_of",
                "user_name",
            ),
            "lazy": ("face",),
            "logout": ("logout_ends",),
            "nodes": ("nodes_of",),
            "piped": (
                "read_answer",
                "script",
            ),
            "programs.examine": (
                "examine",
                "space",
            ),
            "programs.run": ("usual_roots",),
            "programs.survey": ("probe",),
            "recognise": ("words_of",),
            "records": (
                "own_runtime_directory",
                "read_token",
                "state_directory",
            ),
            "safe_path": ("SAFE_PATH",),
            "socket_users": (
                "holder_of",
                "peer",
                "peer_uid",
            ),
            "units": (
                "duration",
                "memory_used",
                "size",
            ),
        },
        modules=(
            "accounts",
            "agent.mux",
            "files",
            "memory",
            "processes",
            "programs.who",
            "promises",
            "socket_users",
        ),
    )
