"""The ssh program: it knows the user's configuration, agent, second factor and host keys, and carries all data.

::

    routes     alias → hops: `ssh -G`, ProxyJump, the older ProxyCommand form
    remembered what `ssh -G` said, while its files are the same
    refusals   stderr of ssh → errors with a reason and a way out; pure
    children   the ssh processes that this process started
    controls   where the connections are: their control sockets
    hops       doors from a jump host to the next: forwarding, else a command there
    logins     the start of one connection
    silence    connections that carry nothing any more
    masters    one connection per hop, shared by all `ports` processes of the user
    sessions   commands, forwards and terminals over a connection
    checks     what `ports doctor` asks of the program, and over a connection

The user's own master is used where the configuration names one, and nothing of the user's is ever ended.
"""

from __future__ import annotations

from ports.hosts.openssh.commands import Completed, cancel, end, forward, interactive, popen, run, session
from ports.hosts.openssh.control_sockets import Master, is_running, kept, sweep_all
from ports.hosts.openssh.errors import explain, explain_forward
from ports.hosts.openssh.liveness import retire
from ports.hosts.openssh.masters import close, close_all, connect, end_master, places, running
from ports.hosts.openssh.processes import end_all
from ports.hosts.openssh.ssh_config import Destination, Host, aliases, resolve, route, suggest

__all__ = [
    "Completed",
    "Destination",
    "Host",
    "Master",
    "aliases",
    "cancel",
    "close",
    "close_all",
    "connect",
    "end",
    "end_all",
    "end_master",
    "explain",
    "explain_forward",
    "forward",
    "interactive",
    "is_running",
    "kept",
    "places",
    "popen",
    "resolve",
    "retire",
    "route",
    "run",
    "running",
    "session",
    "suggest",
    "sweep_all",
]
