"""Several machines for one job: the first that can begin it at once gets it, else the one with the shortest wait.

All are asked at the same time. A job is submitted to one of them only: who has been sent it is asked again for its
answer, under the same key, and no other gets it unless that machine has refused it.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ports import hosts
from ports.errors import FarSideError, NetworkError, PortsError, UsageError, warn
from ports.jobs import _afar, _client, _model, _where
from ports.jobs._model import PENDING, RUNNING, Capacity, Copied, Needs, Said, untold

if TYPE_CHECKING:
    from ports.jobs._copies import Plan
    from ports.jobs._scripts import Script

AT_ONCE, AFTER_A_START, LATER, AFTER_OTHERS, NOT_NOW, NEVER = range(6)


@dataclasses.dataclass(frozen=True)
class Offer:
    """What a machine says to a job: the smaller `rank` is, the sooner it begins."""

    host: str
    rank: tuple[float, ...]
    says: str
    ask_less: bool = False

    @property
    def is_possible(self) -> bool:
        """Whether it can be submitted there at all."""
        return self.rank[0] != NEVER

    def __str__(self) -> str:
        return f"{self.host}: {self.says}"


def offer(host: str, status: Mapping[str, Any] | PortsError, needs: Needs) -> Offer:
    """Return what follows from the status of a machine, or from the error that was raised instead."""
    if isinstance(status, PortsError):
        return left_out(host, status)
    if (capacity := Capacity.of_status(status)) is None:
        is_doubtful = not status.get("has_ports")  # it is known of the PATH without a login only
        return Offer(host, (AFTER_A_START, is_doubtful), "no compute resource runs yet")
    wanted = needs.on(capacity)
    if (why := capacity.refuse(wanted)) is not None:
        return never(host, why)
    counts = status.get("counts") or {}
    n_waiting, n_running = int(counts.get(PENDING) or 0), int(counts.get(RUNNING) or 0)
    waiting = f"{n_waiting} {'job waits' if n_waiting == 1 else 'jobs wait'}" if n_waiting else "nothing waits"
    if status.get("draining"):
        return Offer(host, (NOT_NOW, n_waiting), f"it drains, {waiting}")
    if not n_waiting and _fits(status.get("free") or {}, wanted):
        return Offer(host, (AT_ONCE,), "starts at once")
    if not _fits(status.get("without_jobs") or status["capacity"], wanted):  # nobody knows for how long
        return Offer(host, (AFTER_OTHERS, n_waiting), f"other users have what it needs, {waiting}")
    return Offer(host, (LATER, (n_waiting + n_running) / max(capacity.cpus, 0.1)), f"full, {waiting}")


def never(host: str, why: str) -> Offer:
    """Return the offer of a machine that has less than the job needs."""
    return Offer(host, (NEVER,), f"can never run it: {why}", ask_less=True)


def left_out(host: str, error: PortsError) -> Offer:
    """Return the offer of a machine that cannot be asked, or that refused, in the words of all."""
    said = str(error).removeprefix(f"{host}: ").removeprefix(f"{host} ")
    if said.startswith(_model.NEVER):
        return never(host, said.removeprefix(_model.NEVER).removesuffix(f"; {_model.ASK_LESS}"))
    return Offer(host, (NEVER,), f"left out: {said}")


def none_of(found: Sequence[Offer]) -> UsageError:
    """Return the error for a job that no machine can run: what each says, and once what helps."""
    names, said = ", ".join(one.host for one in found), "; ".join(map(str, found))
    way = f"; {_model.ASK_LESS}" if any(one.ask_less for one in found) else ""
    return UsageError(f"none of {names} can run this job: {said}{way}")


def _fits(free: Mapping[str, Any], needs: Needs) -> bool:
    cpus, memory, gpus = free.get("cpus"), free.get("memory"), free.get("gpus") or ()
    has_memory = needs.memory is None or memory is None or needs.memory <= memory
    return (cpus is None or needs.cpus <= cpus) and has_memory and needs.gpus <= len(gpus)


def offers(names: Sequence[str], needs: Needs) -> list[Offer]:
    """Ask all machines at the same time, and return what they say, the best first.

    Raises
    ------
    UsageError
        None of them can ever run it.
    NetworkError
        None of them is reached.
    """
    told = hosts.on_each(names, _status)
    found = [offer(name, told[name], needs) for name in names]
    if not any(one.is_possible for one in found):
        if all(isinstance(one, PortsError) for one in told.values()):
            raise NetworkError(",".join(names), f"none of them is reached. {'; '.join(map(str, found))}")
        raise none_of(found)
    return sorted(found, key=lambda one: one.rank)


def _status(name: str) -> dict[str, Any]:
    machine = _afar.Afar(name)
    if machine.is_running():
        return dict(machine.ask("status").header)
    return dict(machine.ask("disk.status").header)


def words(chosen: Offer, found: Sequence[Offer]) -> str:
    """Return in a sentence which machine gets the job, and why the others do not."""
    started = ", so one is started" if chosen.rank[0] == AFTER_A_START else ""
    return "; ".join([f"{chosen}{started}", *(str(one) for one in found if one.host != chosen.host)])


class Several:
    """The jobs of one of several machines, which is chosen at submission."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(dict.fromkeys(names))
        self.host = ",".join(self.names)

    def submit_script(
        self,
        script: Script | Plan,
        *,
        start: bool = True,
        copied: Copied = untold,
        said: Said = untold,
    ) -> str:
        """Submit a script to the machine that begins it first, and return its id; raises as `offers`."""
        if script.submission.after:
            raise UsageError(f"after: job {script.submission.after[0]} is of one machine; name that one, not several")
        if reused := getattr(script, "reused", ()):
            raise UsageError(f"reuse: {reused[0]} is of one machine; name that one, not several")
        found = offers(self.names, script.submission.needs)
        told = {one.host: one for one in found}
        for one in filter(lambda one: one.is_possible, found):
            try:
                id = _afar.Afar(one.host).submit_script(script, start=start, can_wait=False, copied=copied, said=said)
            except (UsageError, FarSideError) as error:  # what none could know before a resource was started there
                told[one.host] = left_out(one.host, error)
                continue
            said(words(one, list(told.values())))
            return id
        raise none_of([told[name] for name in self.names])


def _first(found: Sequence[Offer]) -> str:
    """Return the first machine on which a resource runs, or can be started; warns of those that are left out."""
    failed: list[PortsError] = []
    for one in found:
        if not one.is_possible:
            warn(str(one))
            continue
        try:
            _client.connection(one.host)
        except FarSideError as error:
            warn(str(left_out(one.host, error)))
            failed.append(error)
            continue
        return one.host
    raise failed[0]


def _of_jobs(names: Sequence[str], calls: Sequence[tuple[Sequence[Any], Mapping[str, Any]]]) -> Sequence[str]:
    """Return the machines that can get calls: where jobs are among their arguments, the one that has their results."""
    from ports.jobs import _blobs  # and cloudpickle, which no command needs

    with _where.noted() as found, contextlib.suppress(Exception):  # what cannot be sent is said when it is sent
        for args, kwargs in calls:
            _blobs.pickled((tuple(args), dict(kwargs)), replace_jobs=True)
    of = [one for one in names if one in found]
    if len(of) > 1:
        raise UsageError(
            f"jobs of {' and '.join(of)} are among the arguments, and results do not go from one to the other; pass "
            "the result() of some"
        )
    return of or names


@contextlib.contextmanager
def chosen(needs: Needs, calls: Sequence[tuple[Sequence[Any], Mapping[str, Any]]] = ()) -> Iterator[_where.Where]:
    """Let a submission go to the machine of `ports.host`, which is chosen now if that names several."""
    where = _where.current.get()
    if not where.among:
        yield where
        return
    where = _where.Where(_first(offers(_of_jobs(where.among, calls), needs)), where.trust)
    token = _where.current.set(where)
    try:
        yield where
    finally:
        _where.current.reset(token)
