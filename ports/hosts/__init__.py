"""Other machines over SSH: their names, connections to them, and what is asked of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ports.probe import face

if TYPE_CHECKING:
    from ports.hosts import openssh as openssh
    from ports.hosts import targets as targets
    from ports.hosts._ask import CALLED as CALLED
    from ports.hosts._ask import ask_who as ask_who
    from ports.hosts._ask import begin_probe as begin_probe
    from ports.hosts._ask import failed_row as failed_row
    from ports.hosts._ask import interactive as interactive
    from ports.hosts._ask import is_connected as is_connected
    from ports.hosts._ask import login as login
    from ports.hosts._ask import logout as logout
    from ports.hosts._ask import named_python as named_python
    from ports.hosts._ask import nothing_rows as nothing_rows
    from ports.hosts._ask import on_each as on_each
    from ports.hosts._ask import probe as probe
    from ports.hosts._ask import probe_names as probe_names
    from ports.hosts._ask import run_ports as run_ports
    from ports.hosts._connection import Carrier as Carrier
    from ports.hosts._connection import Dial as Dial
    from ports.hosts._connection import connect as connect
    from ports.hosts._far_errors import describe_error as describe_error
    from ports.hosts._transport import choose_transport as choose_transport
    from ports.hosts._transport import connection as connection
    from ports.hosts._transport import end_all as end_all
    from ports.hosts._transport import hops as hops
    from ports.hosts._transport import login_keys as login_keys
    from ports.hosts._transport import run_command as run_command
    from ports.hosts.targets import Target as Target
else:
    __getattr__, __dir__, __all__ = face(
        __name__,
        {
            "_ask": (
                "CALLED",
                "ask_who",
                "begin_probe",
                "failed_row",
                "interactive",
                "is_connected",
                "login",
                "logout",
                "named_python",
                "nothing_rows",
                "on_each",
                "probe",
                "probe_names",
                "run_ports",
            ),
            "_connection": (
                "Carrier",
                "Dial",
                "connect",
            ),
            "_far_errors": ("describe_error",),
            "_transport": (
                "choose_transport",
                "connection",
                "end_all",
                "hops",
                "login_keys",
                "run_command",
            ),
            "targets": ("Target",),
        },
        modules=(
            "openssh",
            "targets",
        ),
    )
