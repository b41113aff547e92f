"""Where a dashboard is in the Jupyter server of this kernel. Pure, but for one look at a process.

The extension of the server, `ports.web`, leaves the path of its route in the server's environment, which the kernels
that it starts get. A variable of Jupyter's own names the server that started a kernel, so nothing is claimed in a
process that only inherited the first one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import quote

VARIABLE = "PORTS_JUPYTER_ROUTE"
_STARTED_BY = "JPY_PARENT_PID"


def announcement(base_url: str) -> dict[str, str]:
    """Return the variable for the kernels of this process, a Jupyter server at `base_url` with the route."""
    return {VARIABLE: f"{os.getpid()}:{base_url.rstrip('/')}/ports"}


def route(name: str, environ: Mapping[str, str] | None = None) -> str | None:
    """Return the path of cluster `name` in the Jupyter server that started this kernel: ``/ports/main``.

    None where this is no kernel, where its server runs without the route, or where the server has ended.
    """
    environ = os.environ if environ is None else environ
    pid, _, prefix = environ.get(VARIABLE, "").partition(":")
    if not prefix or environ.get(_STARTED_BY) != pid or os.name == "nt":
        return None
    try:
        os.kill(int(pid), 0)
    except (OSError, ValueError):
        return None
    return f"{prefix}/{quote(name)}"
