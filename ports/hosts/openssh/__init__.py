"""The ssh program: it knows the user's configuration, agent, second factor and host keys, and carries all data.

::

    ssh_config         what `ssh -G` says, and the aliases of the configuration
    ssh_config_cache   what `ssh -G` said, while its files are the same
    errors             stderr of ssh → errors with a reason and a hint; pure
    processes          the ssh processes that this process started
    control_sockets    where the masters' control sockets are, and which master serves
    jumps              how a jump host leads to the next hop: forwarding, else a command there
    liveness           dead connections
    masters            one master per hop, shared by all `ports` processes of the user: found, or started
    ends               the end of masters
    connection         commands, forwards and terminals over a master
    diagnostics        what `ports doctor` asks of the program, and over a connection

The user's own master is used where the configuration names one, and nothing of the user's is ever ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ports.probe import face

if TYPE_CHECKING:
    from ports.hosts.openssh.connection import SSHConnection as SSHConnection
    from ports.hosts.openssh.control_sockets import Master as Master
    from ports.hosts.openssh.control_sockets import is_running as is_running
    from ports.hosts.openssh.control_sockets import kept as kept
    from ports.hosts.openssh.control_sockets import needed_by_logins as needed_by_logins
    from ports.hosts.openssh.control_sockets import sweep_all as sweep_all
    from ports.hosts.openssh.ends import close_all as close_all
    from ports.hosts.openssh.ends import end_master as end_master
    from ports.hosts.openssh.ends import masters_of as masters_of
    from ports.hosts.openssh.errors import explain as explain
    from ports.hosts.openssh.masters import running as running
    from ports.hosts.openssh.masters import start as start
    from ports.hosts.openssh.processes import end_all as end_all
    from ports.hosts.openssh.ssh_config import aliases as aliases
    from ports.hosts.openssh.ssh_config import suggest as suggest
else:
    __getattr__, __dir__, __all__ = face(
        __name__,
        {
            "connection": ("SSHConnection",),
            "control_sockets": ("Master", "is_running", "kept", "needed_by_logins", "sweep_all"),
            "errors": ("explain",),
            "ends": ("close_all", "end_master", "masters_of"),
            "masters": ("running", "start"),
            "processes": ("end_all",),
            "ssh_config": ("aliases", "suggest"),
        },
    )
