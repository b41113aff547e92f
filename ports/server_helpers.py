"""The names of the older package, for notebooks that import them; new ones say `ports.show`."""

from __future__ import annotations

from ports.clusters import show


def print_commands(cluster: object, local_port: int = 8880) -> None:
    """Print what to type at home to see the dashboard of `cluster` on `local_port`."""
    show(cluster, local_port=local_port)
