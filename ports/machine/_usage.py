"""A machine that many use: how much each user has of it, what clusters are promised, and what is left."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ports import probe, sessions
from ports.machine import fair_share
from ports.machine.fair_share import Other, Room, Size
from ports.probe import is_person, memory, promises
from ports.probe import who as looking
from ports.state import paths, runtime_directory

if TYPE_CHECKING:
    from ports.probe import rows as probe_rows

_YOUNG_SECONDS = 10.0
_NEW_SERVER = (
    "stop all that runs in it (`ports cluster list`, `ports notebook list`), and the next start makes a new server"
)
_NOT_ASKED: dict[str, Any] = {"n_workers": None, "threads_per_worker": None, "memory_limit": None}


@dataclass(frozen=True, kw_only=True)
class User:
    """What one user has of a machine at one moment, in bytes and cores.

    `memory_bytes` is what their processes have for themselves (anonymous pages); `dask_bytes` and `dask_cores` are
    Dask's part of it. `held_bytes` is what their clusters use of `promised_bytes`; None if this user cannot see it.
    Clusters without tasks lend `lent_bytes` to others until tasks come.
    """

    user: str
    uid: int
    is_person: bool
    is_me: bool
    n_processes: int
    memory_bytes: int
    cores: float
    dask_bytes: int
    dask_cores: float
    promised_bytes: int
    promised_threads: int
    held_bytes: int | None
    lent_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Usage:
    """A machine at one moment; sizes in bytes, pressure in percent of the last ten seconds.

    `limit_bytes` and `limit_available_bytes` are what the control groups around this user leave of the memory,
    `usable_cores` what affinity and quotas leave of the cores. `hidden`: this user sees only own processes.
    `gpus` are rows of `ports.machine.gpus.rows`; None for another host without a driver, or whose driver does not
    answer. `own_clusters` are the names of this user's clusters with promises, where they are known.
    """

    host: str
    time: float
    n_cores: int
    usable_cores: float
    busy_cores: float | None
    load: tuple[float, ...]
    memory_bytes: int
    available_bytes: int
    limit_bytes: int
    limit_available_bytes: int
    swap_bytes: int
    swap_free_bytes: int
    pressure: dict[str, float] | None
    hidden: bool
    users: tuple[User, ...]
    gpus: tuple[dict[str, Any], ...] | None = None
    own_clusters: tuple[str, ...] = ()
    jobs: probe_rows.KeptByJobs | None = None

    @property
    def unseen_bytes(self) -> int:
        """The bytes in use by processes that this user does not see, and by the kernel."""
        return max(0, self.memory_bytes - self.available_bytes - sum(one.memory_bytes for one in self.users))

    @property
    def unseen_cores(self) -> float:
        """The cores that are busy with processes that this user does not see, and with the kernel."""
        return max(0.0, (self.busy_cores or 0.0) - sum(one.cores for one in self.users))

    def unfilled_bytes(self, users: Sequence[User]) -> int:
        """Return the bytes that clusters of `users` are promised and do not use yet.

        For hidden clusters it is an estimate: together they use what belongs to no process seen, and each of them fills
        the same part of its promise.
        """
        hidden = sum(one.promised_bytes for one in self.users if one.held_bytes is None)
        part = max(0.0, 1.0 - self.unseen_bytes / hidden) if hidden else 0.0
        return sum(
            int(one.promised_bytes * part) if one.held_bytes is None else max(0, one.promised_bytes - one.held_bytes)
            for one in users
        )

    @property
    def room(self) -> Room:
        """What counts for the size of a cluster of mine."""
        me = [one for one in self.users if one.is_me]
        promised = sum(one.promised_bytes for one in me)
        return Room(
            cores=self.n_cores,
            memory_bytes=self.memory_bytes,
            available_bytes=self.available_bytes,
            usable_cores=self.usable_cores,
            limit_bytes=self.limit_bytes,
            limit_left_bytes=self.limit_available_bytes,
            promised_bytes=promised,
            promised_threads=sum(one.promised_threads for one in me),
            unfilled_bytes=max(0, promised - sum(one.held_bytes or 0 for one in me)),
            others=tuple(_other(one) for one in self.users if not one.is_me and (one.is_person or one.promised_bytes)),
            hidden=self.hidden,
            unseen_bytes=self.unseen_bytes,
            unseen_cores=self.unseen_cores,
            own_clusters=self.own_clusters,
        )

    @property
    def share(self) -> Size:
        """How large a cluster of mine would be by default, if it started now."""
        return fair_share.decide(self.room, _NOT_ASKED)

    def row(self) -> dict[str, Any]:
        """Return it as JSON-able data: the machine, and under ``users`` a row for each user."""
        row: dict[str, Any] = {"host": self.host, "kind": "machine", "name": self.host, "state": "running", "url": None}
        row |= {key: value for key, value in vars(self).items() if key not in ("host", "users", "own_clusters")}
        row |= {
            "load": [*self.load],
            "gpus": None if self.gpus is None else [*self.gpus],
            "users": [{**vars(one), "unfilled_bytes": self.unfilled_bytes([one])} for one in self.users],
            "unseen_bytes": self.unseen_bytes,
            "unseen_cores": self.unseen_cores,
        }
        promised = sum(one.promised_bytes for one in self.users)
        row |= {"promised_bytes": promised, "promised_threads": sum(one.promised_threads for one in self.users)}
        share = self.share
        row["share"] = {key: value for key, value in vars(share).items() if key not in ("warnings", "divided_bytes")}
        return row


def usage(
    host: str | None = None, *, interval: float | None = None, batch: bool | None = None, jobs: bool = False
) -> Usage:
    """Return how much of a machine each user has.

    Parameters
    ----------
    host : str, optional
        An alias of ``~/.ssh/config``; only python3 needs to be installed there. Default: this machine.
    interval : float, optional
        Least number of seconds between the two looks that tell which processes compute. Default: 0.1.
    batch : bool, optional
        Nobody is asked for a passphrase, password or code; threads want that. Default: ask where there is a terminal.
    jobs : bool
        Also count what the files of my jobs take on the disk, for half a second at most.

    Raises
    ------
    LoginNeededError
        With `batch`: a person must log in first.
    SSHError
        The host cannot be reached.
    """
    request = {"interval": interval, "jobs": jobs}
    if host is not None:
        from ports import hosts  # 12 ms, needed for other hosts only

        if not hosts.is_here(host):
            return from_probe(hosts.ask_who(host, "who", {**request, "gpus": True}, batch=batch), host)
    paths.check_serves("looks at processes")
    from ports.machine import gpus

    return replace(from_probe(looking.who(request), host), gpus=tuple(gpus.rows()))


def room(*, without: int | None = None, interval: float | None = None) -> Room:
    """Return what of this machine counts for the size of a cluster of mine.

    Parameters
    ----------
    without : int, optional
        Pid of the owner of a cluster whose promise does not count: it is about to change.
    interval : float, optional
        As in `usage`. Default: hardly any if this user is alone, as far as is seen, else 0.1.
    """
    document = looking.who({"interval": _interval() if interval is None else interval})
    document["promises"] = [
        one for one in document["promises"] if one["pid"] != without or one["uid"] != document["uid"]
    ]
    there = replace(from_probe(document).room, promises=frozenset(one["path"] for one in document["promises"]))
    found = within_server(there, sessions.tmux_server_pid(runtime_directory() / "tmux.sock"))
    if found.may_have == found.memory_bytes:
        return found
    own = [one for one in document["promises"] if one["uid"] == document["uid"]]
    inside = [one["bytes"] for one in own if memory.limits(pid=str(one["pid"]))["limit_bytes"] <= found.may_have]
    return replace(found, inside_bytes=sum(inside))


def within_server(found: Room, pid: int | None, *, root: str = "") -> Room:
    """Return what counts where a cluster will run: in the tmux server `pid`, if there is one already.

    A tmux server keeps the control groups and the affinity of the process that first started it, which may be a batch
    job. The smaller limits count, the starter's or the server's.
    """
    if pid is None:
        return found
    there, ends_there, ends_here = (
        memory.limits(root, str(pid)),
        memory.ends_with(root, str(pid)),
        memory.ends_with(root),
    )
    notes = found.notes
    if ends_there and ends_there != ends_here:
        notes += (f"your tmux server was started in {ends_there}, so this cluster ends with it; {_NEW_SERVER}",)
    elif ends_here and ends_here != ends_there:
        notes += (
            f"your tmux server is outside of {ends_here}, so this cluster neither ends with it nor keeps to its "
            f"limits; {_NEW_SERVER}",
        )
    cores, limit = there["usable_cores"], there["limit_bytes"]
    smaller = cores < found.my_cores or limit < found.may_have
    return replace(
        found,
        usable_cores=min(found.my_cores, cores),
        limit_bytes=min(found.may_have, limit),
        limit_left_bytes=min(found.can_have, there["limit_available_bytes"]),
        within=f"the limits of your tmux server{f', in {ends_there}' if ends_there else ''}" if smaller else None,
        notes=notes,
    )


def prune() -> list[str]:
    """Remove promises of mine whose owners are dead, and return their names."""
    removed = []
    for path, uid in promises.candidates(promises.DIRECTORY) if os.name != "nt" else ():
        found = Path(path)
        with contextlib.suppress(OSError):
            # an owner can be about to lock what it has just made
            if uid == os.getuid() and time.time() - found.lstat().st_mtime > _YOUNG_SECONDS and promises.is_void(path):
                found.unlink()
                removed.append(found.name)
    return removed


def from_probe(document: Mapping[str, Any], host: str | None = None) -> Usage:
    """Return what the probe saw on a machine, as objects."""
    seen = cast("probe_rows.Use", document)
    me, gpus = seen["uid"], seen.get("gpus")
    users = tuple(_user(found, seen["promises"], me=me) for found in seen["users"])
    return Usage(
        host=host or seen["host"],
        time=seen["time"],
        n_cores=seen["n_cores"],
        usable_cores=seen["usable_cores"],
        busy_cores=seen["busy_cores"],
        load=tuple(seen["load"]),
        memory_bytes=seen["total_bytes"],
        available_bytes=seen["available_bytes"],
        limit_bytes=seen["limit_bytes"],
        limit_available_bytes=min(seen["available_bytes"], seen["limit_available_bytes"]),
        swap_bytes=seen["swap_bytes"],
        swap_free_bytes=seen["swap_free_bytes"],
        pressure=seen["pressure"],
        hidden=seen["hidden"],
        users=users,
        gpus=None if gpus is None else tuple(gpus),
        jobs=seen.get("jobs"),
    )


def from_row(row: Mapping[str, Any]) -> Usage:
    """Return what `Usage.row` returned, as objects again."""
    users = tuple(User(**_fields(User, one)) for one in row["users"])
    gpus = None if row.get("gpus") is None else tuple(row["gpus"])
    return Usage(**{**_fields(Usage, row), "users": users, "gpus": gpus, "load": tuple(row["load"])})


def _fields(of: type, row: Mapping[str, Any]) -> dict[str, Any]:
    return {one.name: row[one.name] for one in fields(of) if one.name in row}


def _user(found: probe_rows.UserOfMachine, promises: list[probe_rows.PromiseOfCluster], *, me: int) -> User:
    uid = found["uid"]
    own = [one for one in promises if one["uid"] == uid]
    held = [None if one["held_bytes"] is None else min(one["bytes"], one["held_bytes"]) for one in own]
    return User(
        **found,
        is_person=is_person(uid) or uid == me,
        is_me=uid == me,
        promised_bytes=sum(one["bytes"] for one in own),
        promised_threads=sum(one["n_threads"] for one in own),
        held_bytes=None if None in held else sum(one for one in held if one is not None),
        lent_bytes=sum(one.get("lent_bytes", 0) for one in own),
    )


def _other(one: User) -> Other:
    return Other(
        user=one.user,
        memory_bytes=one.memory_bytes,
        cores=one.cores,
        promised_bytes=one.promised_bytes,
        promised_threads=one.promised_threads,
        held_bytes=one.held_bytes,
    )


def _interval() -> float:
    """Return for how long to look which processes compute: hardly at all if this user is alone, as far as is seen."""
    looking.begin()
    if memory.is_proc_hidden():
        return looking.INTERVAL
    others = {one.uid for one in looking.BEGUN[0][2].values()} - {probe.own_uid()}
    return looking.INTERVAL if any(map(is_person, others)) else 0.001
