"""Every file of jobs.

::

    <state>/hosts/<machine>/jobs/        0700
        owner.json                       the host name and the boot that own this queue
        store.sqlite (+ -wal)            the queue: see `_store`
        ids/<N>                          an id is reserved by this file, before it is printed
        ids/<N>/key                      or, of a submission file, by this directory with its key
        submissions/<KEY>                submissions that no resource has taken in yet
        work/<N>/ work/<N>.<I>/          stdout, stderr and the files of one job; made when first needed
        streams/<slot>.out .err          what the child of a slot prints at this moment
        results/<N> results/<N>.<I>      results above 64 KiB
        objects/<SHA-256>                functions, scripts and arguments above 64 KiB
        objects/<ab>/<cdef…>             files and directories of copies: see `_trees`
        workspaces/<KEY>                 which of these a submission needs
        environs/<KEY>                   0600: the environment of a script, until its job has ended
    <runtime>/
        resource.sock                    0600: what the resource answers on
        resource.lock                    held by the one process that may open the store
        leases/<slot>                    locked by all processes that run the jobs of a slot or of a script
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ports import state
from ports.jobs._model import JobId


@dataclasses.dataclass(frozen=True)
class Places:
    """The files of jobs of one machine. `root` outlives a boot; `runtime` is local, and short enough for sockets."""

    root: Path
    runtime: Path

    @property
    def owner(self) -> Path:
        """Record of the machine to which the queue belongs."""
        return self.root / "owner.json"

    @property
    def store(self) -> Path:
        """The SQLite file of the queue."""
        return self.root / "store.sqlite"

    @property
    def ids(self) -> Path:
        """Directory with a directory for each id that was given to a submission."""
        return self.root / "ids"

    @property
    def submissions(self) -> Path:
        """Directory of submissions that wait for a resource."""
        return self.root / "submissions"

    @property
    def objects(self) -> Path:
        """Directory of large functions, scripts and arguments, by SHA-256."""
        return self.root / "objects"

    @property
    def workspaces(self) -> Path:
        """Directory with a file for each submission with a copy, by its key: which objects it needs."""
        return self.root / "workspaces"

    @property
    def environs(self) -> Path:
        """Directory of the environments of scripts, by the key of their submission."""
        return self.root / "environs"

    @property
    def results(self) -> Path:
        """Directory of large results."""
        return self.root / "results"

    @property
    def streams(self) -> Path:
        """Directory of what the children of the slots print at this moment."""
        return self.root / "streams"

    @property
    def work(self) -> Path:
        """Directory of the jobs' own directories."""
        return self.root / "work"

    @property
    def socket(self) -> Path:
        """Unix socket on which the resource answers."""
        return self.runtime / "resource.sock"

    @property
    def lock(self) -> Path:
        """Lock of the process that has the store open."""
        return self.runtime / f"{LOCK}.lock"

    @property
    def leases(self) -> Path:
        """Directory of the locks that show which slots and scripts live."""
        return self.runtime / "leases"

    def work_of(self, job: JobId) -> Path:
        """Directory of one job: its stdout, its stderr, and the files of its script."""
        return self.work / str(job)

    def copy_of(self, job: JobId) -> Path:
        """Directory in which a script with a copy runs."""
        return self.work_of(job) / "workspace"

    def fetched(self, job: JobId) -> Path:
        """File that is there once the output of a job with a copy was fetched after its end."""
        return self.work_of(job) / "fetched.json"

    def workspace_of(self, key: str) -> Path:
        """File that says which objects the submission `key` needs."""
        return self.workspaces / key

    def environ_of(self, key: str) -> Path:
        """File with the environment of the scripts of the submission `key`."""
        return self.environs / key

    def result_of(self, job: JobId) -> Path:
        """File of a result above 64 KiB."""
        return self.results / str(job)

    def stdout_of(self, slot: str) -> Path:
        """File in which the child of `slot` collects the stdout of the job that runs now."""
        return self.streams / f"{slot}.out"

    def stderr_of(self, slot: str) -> Path:
        """File in which the child of `slot` collects the stderr of the job that runs now."""
        return self.streams / f"{slot}.err"

    def lease_of(self, slot: str) -> Path:
        """Lock of a slot, or of a script: its `slot` is ``job-12.7-1``, with the attempt at the end."""
        return self.leases / slot


LOCK = "resource"


def here() -> Places:
    """Return the places of this machine; only the runtime directory is created.

    Raises
    ------
    UnsafePathError
        Another user owns the state directory or the runtime directory.
    StoreError
        The directories cannot be looked through.
    """
    return Places(state.paths.here().root / "jobs", state.runtime_directory())


def make_places() -> Places:
    """Create the directories of jobs on this machine with mode 0700, and return the places; raises as `here`."""
    places = Places(state.paths.make_state().root / "jobs", state.runtime_directory())
    for directory in (
        places.root,
        places.ids,
        places.submissions,
        places.objects,
        places.workspaces,
        places.environs,
        places.results,
        places.streams,
        places.work,
        places.leases,
    ):
        state.make_private(directory)
    return places
