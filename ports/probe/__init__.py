"""The ground that travels: what a program of ours can do on a machine that has nothing but Python 3.6 or newer.

It is loaded in three ways: as ``ports.probe`` here; by path, as a package of another name, in a cluster's owner and in
the launcher; and as text (`script`), a few of its files one behind the other, piped to ``python3 -`` over SSH. So its
files use the standard library only and are kept short, and an import of names from an earlier file stands below
``if __name__ != "__main__"``: piped, those names are there already.

``programs/`` has a file for each kind of request, which `piped.FILES` puts behind the files that it needs::

    probe     what listens there and is mine, and what `ports` recorded
    run       `ports` itself, in the interpreter that has it
    examine   what `ports doctor` wants to know of a machine
    who       who uses how much of a machine
    echo      something to forward to
    jobs      the frames of jobs: from and to the compute resource there, and what the queue at rest answers
    agent     stays for as long as a tunnel is open, see ``agent/``

Nothing here changes what others made, and only ports of this user are spoken to, see `ask`.

>>> import os
>>> from ports import probe
>>> probe.size(3 * 2**30), probe.duration(12_000)
('3.0 GiB', '3 h 20 min')
>>> this = probe.process_identity(os.getpid())
>>> probe.is_same_process_alive(this), probe.is_zombie(this["pid"])
(True, False)
"""

from .lazy import face as face

MYPY = False
if MYPY:
    from . import accounts as accounts
    from . import callers as callers
    from . import clients as clients
    from . import ends as ends
    from . import files as files
    from . import launchers as launchers
    from . import living as living
    from . import memory as memory
    from . import processes as processes
    from . import promises as promises
    from . import ring as ring
    from . import rows as rows
    from . import socket_users as socket_users
    from .accounts import is_person as is_person
    from .agent import mux as mux
    from .agent import view as view
    from .agent.watch import Answers as Answers
    from .agent.watch import glance as glance
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
    from .installations import usual_roots as usual_roots
    from .living import LOCK as LOCK
    from .living import is_locked as is_locked
    from .living import is_session_alive as is_session_alive
    from .logout import logout_ends as logout_ends
    from .nodes import left_running as left_running
    from .nodes import nodes_of as nodes_of
    from .own_host import host_directory as host_directory
    from .own_host import own_names as own_names
    from .own_host import own_runtime_directory as own_runtime_directory
    from .own_host import state_directory as state_directory
    from .piped import SESSION as SESSION
    from .piped import TOO_OLD as TOO_OLD
    from .piped import first_line as first_line
    from .piped import more as more
    from .piped import read_answer as read_answer
    from .piped import script as script
    from .programs import who as who
    from .programs.examine import examine as examine
    from .programs.examine import space as space
    from .programs.probe import probe as probe
    from .programs.run import StartFilesError as StartFilesError
    from .programs.run import login_environment as login_environment
    from .queue import durable as durable
    from .queue import ended as ended
    from .queue import frames as frames
    from .queue import kept as kept
    from .queue import left as left
    from .queue import places as places
    from .queue import rest as rest
    from .queue import sent as sent
    from .queue import words as words
    from .recognise import words_of as words_of
    from .records import read_token as read_token
    from .safe_path import SAFE_PATH as SAFE_PATH
    from .socket_users import holder_of as holder_of
    from .socket_users import peer as peer
    from .socket_users import peer_uid as peer_uid
    from .units import as_typed as as_typed
    from .units import duration as duration
    from .units import memory_used as memory_used
    from .units import size as size
else:
    __getattr__, __dir__, __all__ = face(
        __name__,
        {
            "accounts": ("is_person",),
            "agent.watch": ("Answers", "glance"),
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
            "installations": ("usual_roots",),
            "lazy": ("face",),
            "living": (
                "LOCK",
                "is_locked",
                "is_session_alive",
            ),
            "logout": ("logout_ends",),
            "nodes": (
                "left_running",
                "nodes_of",
            ),
            "piped": (
                "SESSION",
                "TOO_OLD",
                "first_line",
                "more",
                "read_answer",
                "script",
            ),
            "programs.examine": (
                "examine",
                "space",
            ),
            "programs.probe": ("probe",),
            "programs.run": (
                "StartFilesError",
                "login_environment",
            ),
            "recognise": ("words_of",),
            "own_host": (
                "host_directory",
                "own_names",
                "own_runtime_directory",
                "state_directory",
            ),
            "records": ("read_token",),
            "safe_path": ("SAFE_PATH",),
            "socket_users": (
                "holder_of",
                "peer",
                "peer_uid",
            ),
            "units": (
                "as_typed",
                "duration",
                "memory_used",
                "size",
            ),
        },
        modules=(
            "accounts",
            "agent.mux",
            "agent.view",
            "callers",
            "clients",
            "ends",
            "files",
            "launchers",
            "living",
            "memory",
            "processes",
            "programs.who",
            "promises",
            "queue.durable",
            "queue.ended",
            "queue.frames",
            "queue.kept",
            "queue.left",
            "queue.places",
            "queue.rest",
            "queue.sent",
            "queue.words",
            "ring",
            "rows",
            "socket_users",
        ),
    )
