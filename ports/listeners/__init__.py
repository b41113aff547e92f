"""What listens on a machine and is mine, whose a listener is, and what it is called at home."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ports.probe import face

if TYPE_CHECKING:
    from ports.listeners import links as links
    from ports.listeners import socket_user as socket_user
    from ports.listeners._at_home import alias as alias
    from ports.listeners._at_home import cluster_link as cluster_link
    from ports.listeners._at_home import open_command as open_command
    from ports.listeners._listeners import Listener as Listener
    from ports.listeners._listeners import from_probe as from_probe
    from ports.listeners._listeners import list as list
    from ports.listeners._listeners import rows as rows
    from ports.listeners._rows import ListenerRow as ListenerRow
else:
    __getattr__, __dir__, __all__ = face(
        __name__,
        {
            "_at_home": (
                "alias",
                "cluster_link",
                "open_command",
            ),
            "_listeners": (
                "Listener",
                "from_probe",
                "list",
                "rows",
            ),
            "_rows": ("ListenerRow",),
        },
        modules=(
            "links",
            "socket_user",
        ),
    )
