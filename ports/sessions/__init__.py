"""Long-lived commands in tmux: started, recorded, found again, ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ports.probe import face

if TYPE_CHECKING:
    from ports.sessions import environments as environments
    from ports.sessions import processes as processes
    from ports.sessions._shells import open_shell as open_shell
    from ports.sessions._start import Found as Found
    from ports.sessions._start import SessionRecord as SessionRecord
    from ports.sessions._start import abandon as abandon
    from ports.sessions._start import claim as claim
    from ports.sessions._start import elsewhere as elsewhere
    from ports.sessions._start import find as find
    from ports.sessions._start import is_broken as is_broken
    from ports.sessions._start import names as names
    from ports.sessions._start import new_identity as new_identity
    from ports.sessions._start import start as start
    from ports.sessions._start import starter_environ as starter_environ
    from ports.sessions._start import stop as stop
    from ports.sessions._start import tail as tail
    from ports.sessions._terminals import attach as attach
    from ports.sessions._terminals import attach_line as attach_line
    from ports.sessions._tmux import tmux_server_pid as tmux_server_pid
    from ports.sessions.environments import Environment as Environment
else:
    __getattr__, __dir__, __all__ = face(
        __name__,
        {
            "_shells": ("open_shell",),
            "_start": (
                "Found",
                "SessionRecord",
                "abandon",
                "claim",
                "elsewhere",
                "find",
                "is_broken",
                "names",
                "new_identity",
                "start",
                "starter_environ",
                "stop",
                "tail",
            ),
            "_terminals": (
                "attach",
                "attach_line",
            ),
            "_tmux": ("tmux_server_pid",),
            "environments": ("Environment",),
        },
        modules=(
            "environments",
            "processes",
        ),
    )
