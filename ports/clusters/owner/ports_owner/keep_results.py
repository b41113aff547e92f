"""Kept results: what workers still hold when a cluster expires, pickled to files that only their user removes.

The files are in a directory of their own beside the scratch, on the same disk; the scratch goes with the cluster. A
note in the state directory tells later commands where they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from . import idle_rules
from .cluster import OwnedCluster
from .log import say, warn
from .record import Record

MOST_SECONDS = 3600.0  # for one result: a worker that hangs delays the end by this


class KeptResults:
    """The results of one cluster at its end, as files."""

    def __init__(self, cluster: OwnedCluster, record: Record, directory: Path) -> None:
        self.cluster, self.name, self.scratch = cluster, record.name, Path(record.scratch)
        self.notes = directory.parents[1] / "held"
        self.directory: Path | None = None
        self.note: Path | None = None

    async def keep(self) -> str:
        """Write held results to files, log the name of each, and return a summary; empty where none is held.

        Raises OSError where no directory for them can be made.
        """
        tasks = [task for task in self.cluster.scheduler.tasks.values() if task.state == "memory"]
        if not tasks:
            return ""
        self.make_directory()
        say(f"idle: {idle_rules.results(len(tasks))} held and written to {self.directory}")
        n_kept = 0
        for number, task in enumerate(tasks):
            key = task.key
            kept, reason = await self.keep_one(task, idle_rules.file_name(str(key), number))
            n_kept += kept
            (say if kept else warn)(f"idle: held result {key}: {reason}")
        if not n_kept:
            self.drop()
            return f"{idle_rules.results(len(tasks))} held, and could not be kept: the log says why"
        missing = f" ({len(tasks) - n_kept} could not be kept)" if n_kept < len(tasks) else ""
        say(f"idle: held results are in {self.directory} until you remove them; pickle.load reads them")
        return f"{idle_rules.results(n_kept, 'held result')} in {self.directory}{missing}"

    async def keep_one(self, task: Any, file: str) -> tuple[bool, str]:
        """Let a worker write one result; return whether it did, and the file's name or why not."""
        if task.actor:
            return False, "not kept: an actor lives in its worker"
        addresses = [worker.address for worker in task.who_has or ()][:1]
        if not addresses:
            return False, "not kept: it was released"
        message = {"op": "ports_keep_results", "directory": str(self.directory), "keys": {task.key: file}}
        asked = self.cluster.scheduler.broadcast(msg=message, workers=addresses, on_error="return")
        try:
            answer = (await asyncio.wait_for(asked, MOST_SECONDS)).get(addresses[0])
        except asyncio.TimeoutError:
            return False, "not kept: its worker did not answer"
        if not isinstance(answer, dict):
            return False, f"not kept: {answer}"
        said = answer.get(task.key, "not kept: its worker has it no longer")
        return said == file, said

    def make_directory(self) -> None:
        """Make a new directory, 0700: beside the scratch, else in the state directory."""
        self.notes.mkdir(mode=0o700, exist_ok=True)
        try:
            self.directory = new_directory(self.scratch.parent, f"{self.scratch.name}-held")
        except OSError as error:
            warn(f"idle: {self.scratch.parent}: {error.strerror}; results go to {self.notes}")
            self.directory = new_directory(self.notes, f"{self.scratch.name}-held")
        self.note = self.notes / f"{self.directory.name}.json"
        data = {"format": 1, "cluster": self.name, "path": str(self.directory), "kept_at": time.time()}
        data["mount"] = next(str(one) for one in self.directory.parents if os.path.ismount(one))
        with os.fdopen(os.open(self.note, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(data, file, indent=2, sort_keys=True)

    def drop(self) -> None:
        """Remove the files: the cluster goes on, and still holds the results."""
        if self.directory is not None:
            assert self.note is not None
            shutil.rmtree(self.directory, ignore_errors=True)
            with contextlib.suppress(OSError):
                self.note.unlink()
        self.directory = self.note = None


def new_directory(parent: Path, name: str) -> Path:
    """Make the directory `name` in `parent`, with a number where that exists, and return its path."""
    for number in itertools.count(1):
        path = parent / (name if number == 1 else f"{name.removesuffix('-held')}-{number}-held")
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
            return path
    raise AssertionError("numbers do not end")
