"""Long-lived commands in tmux: started, recorded, found again, ended.

A session has a kind and a name. Its records say what was started; its processes say whether it runs:

>>> from ports import sessions
>>> sessions.KINDS["cluster"].verbs
('start', 'list', 'show', 'scale', 'restart', 'logs', 'attach', 'stop')
>>> sessions.verdict(sessions.Exit(status=3), None, running=True, launched=True, same_boot=True)
('stopped', 'exit status 3')
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ports.probe import face

if TYPE_CHECKING:
    from ports.sessions import environments as environments
    from ports.sessions import processes as processes
    from ports.sessions import surroundings as surroundings
    from ports.sessions._adopt import adopt as adopt
    from ports.sessions._adopt import other_names as other_names
    from ports.sessions._asked import start_line as start_line
    from ports.sessions._asked import words as words
    from ports.sessions._attach import attach as attach
    from ports.sessions._attach import attach_line as attach_line
    from ports.sessions._end import abandon as abandon
    from ports.sessions._end import names_locked as names_locked
    from ports.sessions._end import stop as stop
    from ports.sessions._end import undone as undone
    from ports.sessions._find import elsewhere as elsewhere
    from ports.sessions._find import find as find
    from ports.sessions._find import is_alive as is_alive
    from ports.sessions._find import is_broken as is_broken
    from ports.sessions._find import names as names
    from ports.sessions._kinds import FOLDERS as FOLDERS
    from ports.sessions._kinds import KINDS as KINDS
    from ports.sessions._kinds import SessionPaths as SessionPaths
    from ports.sessions._kinds import default_name as default_name
    from ports.sessions._kinds import files as files
    from ports.sessions._kinds import folder as folder
    from ports.sessions._log_lines import follow as follow
    from ports.sessions._log_lines import tail as tail
    from ports.sessions._log_lines import tail_of_start as tail_of_start
    from ports.sessions._records import Exit as Exit
    from ports.sessions._records import Found as Found
    from ports.sessions._records import Running as Running
    from ports.sessions._records import SessionRecord as SessionRecord
    from ports.sessions._records import verdict as verdict
    from ports.sessions._records import way_out as way_out
    from ports.sessions._shells import list_shells as list_shells
    from ports.sessions._shells import open_shell as open_shell
    from ports.sessions._shells import open_shell_in as open_shell_in
    from ports.sessions._shells import prune_shells as prune_shells
    from ports.sessions._shells import stop_shell as stop_shell
    from ports.sessions._start import claim as claim
    from ports.sessions._start import new_identity as new_identity
    from ports.sessions._start import start as start
    from ports.sessions._tmux import tmux_server_pid as tmux_server_pid
    from ports.sessions.environments import Environment as Environment
else:
    __getattr__, __dir__, __all__ = face(
        __name__,
        {
            "_adopt": (
                "adopt",
                "other_names",
            ),
            "_asked": (
                "start_line",
                "words",
            ),
            "_attach": (
                "attach",
                "attach_line",
            ),
            "_end": (
                "abandon",
                "names_locked",
                "stop",
                "undone",
            ),
            "_find": (
                "elsewhere",
                "find",
                "is_alive",
                "is_broken",
                "names",
            ),
            "_kinds": (
                "FOLDERS",
                "KINDS",
                "SessionPaths",
                "default_name",
                "files",
                "folder",
            ),
            "_log_lines": (
                "follow",
                "tail",
                "tail_of_start",
            ),
            "_records": (
                "Exit",
                "Found",
                "Running",
                "SessionRecord",
                "verdict",
                "way_out",
            ),
            "_shells": (
                "list_shells",
                "open_shell",
                "open_shell_in",
                "prune_shells",
                "stop_shell",
            ),
            "_start": (
                "claim",
                "new_identity",
                "start",
            ),
            "_tmux": ("tmux_server_pid",),
            "environments": ("Environment",),
        },
        modules=("environments", "processes", "surroundings"),
    )
