"""The ssh program: it knows the user's configuration, agent, second factor and host keys, and carries all data.

::

    routes     alias → hops: `ssh -G`, ProxyJump, the older ProxyCommand form
    refusals   stderr of ssh → errors with a reason and a way out; pure
    masters    one connection per hop, shared by all `ports` processes of the user
    sessions   commands, forwards and terminals over a connection
    children   the ssh processes that this process started

The user's own ssh processes and control sockets are never used or ended.
"""

from __future__ import annotations

from ports.adapters.openssh.children import end_all
from ports.adapters.openssh.masters import (
    Master,
    close,
    close_all,
    connect,
    end_master,
    is_running,
    kept,
    places,
    running,
)
from ports.adapters.openssh.refusals import explain, explain_forward
from ports.adapters.openssh.routes import Destination, Host, aliases, resolve, route, suggest
from ports.adapters.openssh.sessions import Completed, cancel, end, forward, interactive, popen, run

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
    "route",
    "run",
    "running",
    "suggest",
]
