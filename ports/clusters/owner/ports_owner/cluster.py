"""What the policies of an owner see of the cluster that they serve.

The idle policy, the guard, the kept results and the promise take any cluster object that has this. Today that is
`distributed.LocalCluster`. Each other `distributed.SpecCluster` has it, too.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, Protocol

from distributed import Scheduler


class OwnedCluster(Protocol):
    """A cluster whose owner runs on the same machine as its workers.

    Attributes
    ----------
    scheduler : Scheduler
        Runs in this process.
    worker_spec : mapping
        Name → how to make that worker, of each worker that should run.
    new_spec : dict
        How to make a further worker.
    workers : dict
        Name → nanny, or worker without one, of each that was started.
    """

    scheduler: Scheduler
    worker_spec: Mapping[Any, Mapping[str, Any]]
    new_spec: dict[str, Any]
    workers: dict[Any, Any]

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait until the workers that should run have started, and those that should not have ended."""

    def scale(self, n: int) -> object:
        """Set how many workers should run."""

    def close(self) -> object:
        """End the workers and the scheduler."""


def is_own(cluster: OwnedCluster, name: object) -> bool:
    """Say whether a worker called `name` is one of this owner's; others join with the certificate, maybe elsewhere."""
    return name in cluster.worker_spec
