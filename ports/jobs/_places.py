"""Every file of jobs.

::

    <state>/hosts/<machine>/jobs/        0700
        owner.json                       the host name and the boot that own this queue
        store.sqlite (+ -wal)            the queue: see `_store`
        ids/<N>                          an id is reserved by this file, before it is printed
        ids/<N>/key                      or, of a submission file, by this directory with its key
        submissions/<KEY>                submissions that no resource has taken in yet
        workspaces/<KEY>                 which objects a submission needs
        environs/<KEY>                   0600: the environment of a script, until its job has ended
        notices/<N>                      what the services of the setting jobs.notify answered at its end
        ends.json                        the jobs that ended last, for who holds a connection to this machine
        directory                        the path of <data>, where that is another directory
    <data>/                              the setting jobs.directory, the scratch setting, or the directory above; 0700
        work/<N>/ work/<N>.<I>/          stdout, stderr and the files of one job; made when first needed
        streams/<slot>.out .err          what the child of a slot prints at this moment
        results/<N> results/<N>.<I>      results above 64 KiB
        objects/<SHA-256>                functions, scripts and arguments above 64 KiB
        objects/<ab>/<cdef…>             files and directories of copies: see `_trees`
        cache/                           results of calls
        environments/<key>/              what `--setup` made
    <runtime>/
        resource.sock                    0600: what the resource answers on
        resource.lock                    held by the one process that may open the store
        leases/<slot>                    locked by all processes that run the jobs of a slot or of a script
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from pathlib import Path

from ports import state
from ports.errors import StoreError, UsageError, warn
from ports.jobs import _durable
from ports.jobs._model import JobId
from ports.probe import size
from ports.state import settings


@dataclasses.dataclass(frozen=True)
class Places:
    """The files of jobs of one machine. `root` outlives a boot; `runtime` is local, and short enough for sockets.

    What is large is in `data`, which is `root` unless another directory was chosen (`elsewhere`).
    """

    root: Path
    runtime: Path
    elsewhere: Path | None = None

    @property
    def data(self) -> Path:
        """Directory of what is large: objects, output, results."""
        return self.elsewhere or self.root

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
        return self.data / "objects"

    @property
    def workspaces(self) -> Path:
        """Directory with a file for each submission with a copy, by its key: which objects it needs."""
        return self.root / "workspaces"

    @property
    def environs(self) -> Path:
        """Directory of the environments of scripts, by the key of their submission."""
        return self.root / "environs"

    @property
    def notices(self) -> Path:
        """Directory of what services answered to the end of jobs."""
        return self.root / "notices"

    @property
    def ends(self) -> Path:
        """File with the jobs that ended last, replaced at each end that somebody wants to hear of."""
        return self.root / "ends.json"

    @property
    def results(self) -> Path:
        """Directory of large results."""
        return self.data / "results"

    @property
    def streams(self) -> Path:
        """Directory of what the children of the slots print at this moment."""
        return self.data / "streams"

    @property
    def work(self) -> Path:
        """Directory of the jobs' own directories."""
        return self.data / "work"

    @property
    def cache(self) -> Path:
        """Directory of the results of calls."""
        return self.data / "cache"

    @property
    def environments(self) -> Path:
        """Directory of what `--setup` made."""
        return self.data / "environments"

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
_CHOSEN = "directory"  # the file that names another directory for what is large
_DATA = ("work", "objects", "results", "cache")
SPARE = 16 << 20  # bytes that stay free: the queue needs them


def here() -> Places:
    """Return the places of this machine; only the runtime directory is created.

    Raises
    ------
    UnsafePathError
        Another user owns the state directory or the runtime directory.
    StoreError
        The directories cannot be looked through.
    """
    root = state.paths.here().root / "jobs"
    return Places(root, state.runtime_directory(), _chosen(root))


def make_places() -> Places:
    """Create the directories of jobs on this machine with mode 0700, and return the places; raises as `here`.

    Raises
    ------
    UsageError
        The directory of the setting is missing, in memory, or not safe.
    """
    root, data = make_data()
    places = Places(root, state.runtime_directory(), data)
    for directory in (
        places.ids,
        places.submissions,
        places.workspaces,
        places.environs,
        places.leases,
        places.objects,
        places.results,
        places.streams,
        places.work,
    ):
        state.make_private(directory)
    return places


def make_data() -> tuple[Path, Path | None]:
    """Create the directory of the queue, and that of what is large if it is another one; return both."""
    root = state.make_private(state.paths.make_state().root / "jobs")
    return root, _settle(root)


def planned() -> Path:
    """Return the directory of what is large: the one that is in use, or that the first job would choose."""
    root = state.paths.here().root / "jobs"
    return _chosen(root) or (_wanted(root) if _is_unused(root) else None) or root


def is_elsewhere() -> Path | None:
    """Return the directory that the settings name now, if jobs are kept in another one."""
    root = state.paths.here().root / "jobs"
    found = _wanted(root) if settings.get("jobs.directory") else None
    return found if found is not None and found != (_chosen(root) or root) else None


def _chosen(root: Path) -> Path | None:
    """Return the directory that was chosen for what is large; None if that is `root`."""
    try:
        text = (root / _CHOSEN).read_text(encoding="utf-8", errors="surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(root / _CHOSEN, error.strerror or str(error)) from error
    if not text.startswith("/") or not text.endswith("\n"):
        raise StoreError(root / _CHOSEN, "it does not name the directory of the jobs", "write that path into it")
    return Path(text[:-1])


def _settle(root: Path) -> Path | None:
    """Choose the directory of what is large, once and for all jobs, and create it."""
    found = _chosen(root)
    if found is None and _is_unused(root) and (wanted := _wanted(root)) is not None:
        _check(wanted.parent.parent)
        _durable.create(root / _CHOSEN, f"{wanted}\n".encode(errors="surrogateescape"))
        found = _chosen(root)
    elif (named := is_elsewhere()) is not None:
        file = root / _CHOSEN
        warn(
            f"jobs are kept in {found or root}, as the first job chose, and not in {named}; to move them, run "
            f"`ports resource stop`, move work, objects, results, streams and cache there, and write its path into "
            f"{file}"
        )
    if found is not None:
        if not found.parent.parent.is_dir():
            hint = f"mount it again, or remove {root / _CHOSEN} and lose the output of the jobs there"
            raise StoreError(found.parent.parent, "it is gone, and jobs are kept there", hint)
        state.make_private(found.parent)
        state.make_private(found)
    return found


def _is_unused(root: Path) -> bool:
    """Say whether nothing large is kept in `root`, and no queue is there."""
    for name in _DATA:
        with contextlib.suppress(OSError):
            if any((root / name).iterdir()):
                return False
    return not (root / "store.sqlite").exists()


def _wanted(root: Path) -> Path | None:
    """Return the directory that the settings name for the jobs of this machine; None if they name none."""
    given = settings.get("jobs.directory") or settings.get("cluster.local_directory")
    if not given:
        return None
    user = state.paths.user_name().replace(" ", "-").replace("/", "-")
    parent = Path(os.path.realpath(Path(str(given)).expanduser().absolute()))
    return parent / f"ports-{user}-jobs" / root.parent.name


def _check(directory: Path) -> None:
    """Raise UsageError if the directory of the setting is none in which jobs can be kept."""
    name = "jobs.directory" if settings.get("jobs.directory") else "cluster.local_directory"
    ways = "name a directory of yours on a disk in the setting jobs.directory"
    if not directory.is_dir() or not os.access(directory, os.W_OK | os.X_OK):
        raise UsageError(f"{name}: {directory} is missing or not writable; {ways}")
    if (why := state.exchangeable(directory)) is not None:
        raise UsageError(f"{name}: {directory} is not safe: {why}; {ways}")


def check_room(places: Places) -> None:
    """Raise StoreError if a disk has no room for one more job, before anything of it is written."""
    for directory in dict.fromkeys((places.root, places.data)):
        with _durable.translated(directory):
            free = shutil.disk_usage(directory).free
        if free < SPARE:
            raise StoreError(directory, f"no space for a job, {size(free)} are free", _durable.FULL)
