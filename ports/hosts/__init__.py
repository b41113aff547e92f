"""Other machines over SSH: their names, connections to them, and questions to them.

>>> from ports import hosts
>>> target = hosts.targets.parse("server1:lab")
>>> target.host, target.name
('server1', 'lab')

`resolve` turns an alias of ``~/.ssh/config`` into a `Route`, once for a command; `connect` makes a `Connection` of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ports.probe import face

if TYPE_CHECKING:
    from ports.hosts import openssh as openssh
    from ports.hosts import targets as targets
    from ports.hosts._aliases import aliases as aliases
    from ports.hosts._ask import CALLED as CALLED
    from ports.hosts._ask import Answer as Answer
    from ports.hosts._ask import ask as ask
    from ports.hosts._ask import ask_who as ask_who
    from ports.hosts._ask import begin_probe as begin_probe
    from ports.hosts._ask import came_by as came_by
    from ports.hosts._ask import explain_silence as explain_silence
    from ports.hosts._ask import interactive as interactive
    from ports.hosts._ask import named_pythons as named_pythons
    from ports.hosts._ask import probe as probe
    from ports.hosts._ask import probe_names as probe_names
    from ports.hosts._ask import run_ports as run_ports
    from ports.hosts._ask import start_request as start_request
    from ports.hosts._ask import why_no_answer as why_no_answer
    from ports.hosts._connect import connect as connect
    from ports.hosts._connect import is_connected as is_connected
    from ports.hosts._connect import login_keys as login_keys
    from ports.hosts._connection import Connection as Connection
    from ports.hosts._connection import Dial as Dial
    from ports.hosts._connection import to_unix_socket as to_unix_socket
    from ports.hosts._far_errors import describe_error as describe_error
    from ports.hosts._far_warnings import with_warnings as with_warnings
    from ports.hosts._knock import await_answer as await_answer
    from ports.hosts._knock import first_addresses as first_addresses
    from ports.hosts._logins import login as login
    from ports.hosts._logins import logout as logout
    from ports.hosts._logins import reached_through as reached_through
    from ports.hosts._prompts import is_asking as is_asking
    from ports.hosts._resolve import HERE as HERE
    from ports.hosts._resolve import choose_transport as choose_transport
    from ports.hosts._resolve import here as here
    from ports.hosts._resolve import is_here as is_here
    from ports.hosts._resolve import resolve as resolve
    from ports.hosts._route import Hop as Hop
    from ports.hosts._route import Route as Route
    from ports.hosts._several import failed_row as failed_row
    from ports.hosts._several import nothing_rows as nothing_rows
    from ports.hosts._several import on_each as on_each
    from ports.hosts._this_machine import host_argument as host_argument
    from ports.hosts._this_machine import host_option as host_option
    from ports.hosts.targets import Target as Target
else:
    __getattr__, __dir__, __all__ = face(
        __name__,
        {
            "_aliases": ("aliases",),
            "_ask": (
                "CALLED",
                "Answer",
                "ask",
                "ask_who",
                "begin_probe",
                "came_by",
                "explain_silence",
                "interactive",
                "named_pythons",
                "probe",
                "probe_names",
                "run_ports",
                "start_request",
                "why_no_answer",
            ),
            "_connect": ("connect", "is_connected", "login_keys"),
            "_connection": ("Connection", "Dial", "to_unix_socket"),
            "_far_errors": ("describe_error",),
            "_far_warnings": ("with_warnings",),
            "_knock": ("await_answer", "first_addresses"),
            "_logins": ("login", "logout", "reached_through"),
            "_prompts": ("is_asking",),
            "_resolve": ("HERE", "choose_transport", "here", "is_here", "resolve"),
            "_route": ("Hop", "Route"),
            "_several": ("failed_row", "nothing_rows", "on_each"),
            "_this_machine": ("host_argument", "host_option"),
            "targets": ("Target",),
        },
        modules=("openssh", "targets"),
    )
