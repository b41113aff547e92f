"""What makes a running cluster fair: its niceness, its guard of the machine's memory, its rest when nobody uses it."""

from __future__ import annotations

import asyncio

import ports_memory
from ports_rest import Rest
from ports_watch import Guard
from ports_workers import group_be_nice


class Fair:
    """The fairness of one cluster; made once its scheduler runs."""

    def __init__(self, cluster, record, directory, ended):
        group_be_nice(record["nice"])
        self.guard = Guard(cluster, record, ports_memory.Meter())
        self.rest = Rest(cluster, record, directory, ended, self.guard)
        if record["guard"] != "off":
            self.guard.start()
        self.resting = asyncio.get_running_loop().create_task(self.rest.run())

    def scaled(self):
        """Forget the workers that would come back: somebody said how many there shall be."""
        self.rest.asleep = 0

    def close(self):
        """End all watching, before the cluster ends."""
        self.guard.over.set()
        self.resting.cancel()

    def summary(self):
        """Return what is told with the counts of the cluster."""
        return {"guard": self.guard.shown if self.guard.state.level else None, **self.rest.summary()}
