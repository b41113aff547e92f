"""What listens on a machine and is mine, whose a listener is, and what it is called at home.

>>> from ports import listeners
>>> listeners.links.url(8880, path="lab", token="0123abc")
'http://localhost:8880/lab?token=0123abc'
>>> listeners.is_session("notebook"), listeners.is_asked("database", http=None)
(True, False)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ports.probe import face

if TYPE_CHECKING:
    from ports.listeners import links as links
    from ports.listeners import socket_user as socket_user
    from ports.listeners._at_home import alias as alias
    from ports.listeners._at_home import cluster_link as cluster_link
    from ports.listeners._at_home import guess_in_brackets as guess_in_brackets
    from ports.listeners._at_home import guess_note as guess_note
    from ports.listeners._at_home import open_command as open_command
    from ports.listeners._at_home import short_name as short_name
    from ports.listeners._from_probe import from_probe as from_probe
    from ports.listeners._in_jupyter import announcement as announcement
    from ports.listeners._in_jupyter import route as route
    from ports.listeners._kinds import is_asked as is_asked
    from ports.listeners._kinds import is_session as is_session
    from ports.listeners._list import list as list
    from ports.listeners._list import rows as rows
    from ports.listeners._listener import Listener as Listener
    from ports.listeners._rows import ListenerRow as ListenerRow
else:
    __getattr__, __dir__, __all__ = face(
        __name__,
        {
            "_at_home": (
                "alias",
                "cluster_link",
                "guess_in_brackets",
                "guess_note",
                "open_command",
                "short_name",
            ),
            "_from_probe": ("from_probe",),
            "_in_jupyter": ("announcement", "route"),
            "_kinds": ("is_asked", "is_session"),
            "_list": ("list", "rows"),
            "_listener": ("Listener",),
            "_rows": ("ListenerRow",),
        },
        modules=(
            "links",
            "socket_user",
        ),
    )
