"""Dask clusters that outlive what started them: start, find, list, scale, stop.

>>> from ports import clusters
>>> clusters.start("example", idle=-1)
Traceback (most recent call last):
    ...
ports.errors.UsageError: idle is -1; it must be a number of hours from 0 (never) to 1000000
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ports.probe import face

if TYPE_CHECKING:
    from ports.clusters import credentials as credentials
    from ports.clusters._cluster import Cluster as Cluster
    from ports.clusters._find import get as get
    from ports.clusters._find import list as list
    from ports.clusters._find import logs as logs
    from ports.clusters._find import prune as prune
    from ports.clusters._find import stop as stop
    from ports.clusters._kept_results import KeptResults as KeptResults
    from ports.clusters._kept_results import list_kept as list_kept
    from ports.clusters._kept_results import remove_kept as remove_kept
    from ports.clusters._options import ClusterRecord as ClusterRecord
    from ports.clusters._options import ClusterRunning as ClusterRunning
    from ports.clusters._options import way_back as way_back
    from ports.clusters._scratch import scratch_parent as scratch_parent
    from ports.clusters._show import show as show
    from ports.clusters._snapshot import with_promises as with_promises
    from ports.clusters._start import client as client
    from ports.clusters._start import cluster as cluster
    from ports.clusters._start import start as start
    from ports.clusters._text import cluster_state as cluster_state
else:
    __getattr__, __dir__, __all__ = face(
        __name__,
        {
            "_cluster": ("Cluster",),
            "_find": (
                "get",
                "list",
                "logs",
                "prune",
                "stop",
            ),
            "_kept_results": (
                "KeptResults",
                "list_kept",
                "remove_kept",
            ),
            "_options": (
                "ClusterRecord",
                "ClusterRunning",
                "way_back",
            ),
            "_scratch": ("scratch_parent",),
            "_show": ("show",),
            "_snapshot": ("with_promises",),
            "_start": (
                "client",
                "cluster",
                "start",
            ),
            "_text": ("cluster_state",),
        },
        modules=("credentials",),
    )
