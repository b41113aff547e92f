"""What the page does to jobs: cancel, run again, submit. Each is one call of the core, in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from ports import jobs
from ports.errors import PortsError, TimedOutError, UsageError, collecting_warnings
from ports.web._jobs_looks import Looks
from ports.web._jobs_view import Id

_SECONDS = 120.0  # for a resource that starts first
MOST = 1000  # jobs of one act
_LONGEST = 32_000  # characters of a field


class Failed(NamedTuple):
    """Jobs with which an act did not succeed, and why."""

    ids: tuple[Id, ...]
    reason: str


class Acts:
    """Acts of one page; the same act is done once at a time."""

    def __init__(self, looks: Looks) -> None:
        self._looks = looks
        self._flying: dict[tuple[Any, ...], Future[Any]] = {}
        #: What was said of a job as it was submitted.
        self.notes: dict[str, list[str]] = {}

    async def _do(self, host: str, key: tuple[Any, ...], act: Any) -> Any:
        """Do something on a host; who asks for the same meanwhile gets the same answer."""
        key = (host, *key)
        if (flying := self._flying.get(key)) is None:
            flying = self._flying[key] = self._looks.begin(host, act)
            flying.add_done_callback(lambda _: self._flying.pop(key, None))
        made = asyncio.wrap_future(flying)
        made.add_done_callback(lambda one: one.cancelled() or one.exception())
        done, _ = await asyncio.wait([made], timeout=_SECONDS)
        if not done:
            raise TimedOutError(f"the jobs of {host or 'this machine'}; it goes on", _SECONDS)
        return flying.result()

    async def cancel(self, ids: Sequence[Id]) -> list[Failed]:
        """Cancel jobs of several hosts; return those of hosts that failed."""
        return await self._each(ids, "cancel", lambda machine, numbers: machine.cancel(numbers))

    async def rerun(self, ids: Sequence[Id]) -> list[Failed]:
        """Run jobs again, and return those with which that failed."""
        found = [self._each([id], "rerun", lambda machine, numbers: machine.rerun(numbers[0])) for id in ids]
        return [one for failed in await asyncio.gather(*found) for one in failed]

    async def _each(self, ids: Sequence[Id], verb: str, act: Any) -> list[Failed]:
        by_host: dict[str, list[Id]] = {}
        for id in ids:
            by_host.setdefault(id.host, []).append(id)

        async def one(host: str, some: list[Id]) -> list[Failed]:
            numbers = [id.number for id in some]
            try:
                await self._do(host, (verb, *numbers), lambda machine: act(machine, numbers))
            except PortsError as error:
                return [Failed(tuple(some), str(error))]
            return []

        answers = await asyncio.gather(*(one(host, some) for host, some in by_host.items()))
        return [failed for answer in answers for failed in answer]

    async def submit(self, host: str, values: Mapping[str, str], source: Id | None = None) -> Id:
        """Submit what the form says, and return its id.

        Parameters
        ----------
        source : Id, optional
            A job of the same host that had a copy of its directory: the new one gets the same files.

        Raises
        ------
        PortsError
            The job is refused, by a sentence that begins with the name of a field where it is about one.
        """
        for name, value in values.items():
            if len(value) > _LONGEST:
                raise UsageError(f"{name}: it has more than {_LONGEST:,} characters")
        options, said = options_of(values), list[str]()
        words = jobs.command(values.get("command", ""), is_far=bool(host))
        where = values.get("directory", "").strip() or "~"

        def act(machine: Any) -> Any:
            with collecting_warnings(said.append):
                if source is not None:
                    return machine.rerun(source.number, change=lambda row: jobs.changed(row, words, **options))
                if host and not machine.has_directory(where):
                    raise UsageError(f"directory: {where} is not on {host}; name one that is there")
                script = jobs.describe(words, directory=where, is_far=bool(host), **options)
                return machine.submit_script(script, said=said.append)

        id = await self._do(host, ("submit", str(source), *sorted(values.items())), act)
        made = Id(host, str(id).rpartition(":")[2])
        if said:
            self.notes[str(made)] = list(dict.fromkeys(said))
            for old in list(self.notes)[:-MOST]:
                del self.notes[old]
        return made


def options_of(values: Mapping[str, str]) -> dict[str, Any]:
    """Return the options of a job that are filled in; raises UsageError."""
    given = {name: text for name, value in values.items() if (text := value.strip())}
    found: dict[str, Any] = {}
    if "cpus" in given:
        found["cpus"] = _number(given["cpus"], "cpus", "2")
    if "gpus" in given:
        found["gpus"] = int(_number(given["gpus"], "gpus", "1", whole=True))
    if "memory" in given:
        memory = given["memory"]
        found["memory"] = int(memory) if memory.isascii() and memory.isdigit() and len(memory) < 19 else memory
    return found | {name: given[name] for name in ("timeout", "retries", "name") if name in given}


def _number(text: str, name: str, example: str, *, whole: bool = False) -> float:
    try:
        return int(text) if whole else float(text)
    except ValueError:
        kind = "whole number" if whole else "number"
        raise UsageError(f"{name}: {text[:60]!r} is no {kind}; write for example {example}") from None
