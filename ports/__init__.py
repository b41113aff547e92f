"""Your Dask clusters and notebooks on shared servers: private, found again, and open at home.

::

    import ports
    client = ports.client()     # finds my running cluster on this machine, or starts one in tmux

The names below are imported at their first use. ``import ports`` reads no file and imports no Dask:

>>> import ports
>>> [name for name in dir(ports) if name.endswith("s")]
['clusters', 'jobs', 'listeners', 'notebooks', 'progress', 'tunnels']
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ports._version import VERSION as __version__

if TYPE_CHECKING:
    import ports.clusters as clusters
    import ports.jobs as jobs
    import ports.listeners as listeners
    import ports.machine as machine
    import ports.notebooks as notebooks
    import ports.tunnels as tunnels
    from ports.clusters import client, cluster, show
    from ports.errors import PortsError
    from ports.jobs import File, gather, host, job, map, progress, should_stop, submit

_MODULES = ("clusters", "jobs", "notebooks", "listeners", "machine", "tunnels")
_NAMES = {
    "client": "ports.clusters",
    "cluster": "ports.clusters",
    "show": "ports.clusters",
    "PortsError": "ports.errors",
    "File": "ports.jobs",
    "gather": "ports.jobs",
    "host": "ports.jobs",
    "job": "ports.jobs",
    "load_ipython_extension": "ports.cli.in_ipython",
    "map": "ports.jobs",
    "progress": "ports.jobs",
    "should_stop": "ports.jobs",
    "submit": "ports.jobs",
    "unload_ipython_extension": "ports.cli.in_ipython",
}

__all__ = [
    "File",
    "PortsError",
    "__version__",
    "client",
    "cluster",
    "clusters",
    "gather",
    "host",
    "job",
    "jobs",
    "listeners",
    "machine",
    "map",
    "notebooks",
    "progress",
    "should_stop",
    "show",
    "submit",
    "tunnels",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"ports.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'ports' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
