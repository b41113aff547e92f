"""Jobs of several hosts → what the list on the page shows, and what is asked before an act. Pure: no clock, no disk.

Rows are what hosts say, so nothing in them is trusted: see `_facts`. An id is checked before a link is made of it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from ports.errors import PortsError
from ports.probe import duration
from ports.web import _facts

PAGE = 50  # rows
STATES = ("running", "pending", "finished", "error", "cancelled", "lost")
ENDED = ("finished", "error", "cancelled", "lost")
JOBS = "-/jobs"
_LONGEST_SEARCH = 200


class Id(NamedTuple):
    """A job on a host; of this machine, `host` is empty."""

    host: str
    number: str

    def __str__(self) -> str:
        return f"{self.host}:{self.number}" if self.host else self.number

    @property
    def href(self) -> str:
        """Its page, below the place of the page."""
        return f"{JOBS}/{quote(str(self), safe='')}"

    @property
    def typed(self) -> str:
        """The id as a word of a command line."""
        return shlex.quote(str(self))


def parse_id(text: object) -> Id:
    """Return the id that `text` names: ``12``, ``12.7``, ``server1:12``; raises UsageError."""
    from ports import jobs

    host, _, number = text.rpartition(":") if isinstance(text, str) else ("", "", text)
    return Id(host, str(jobs.parse_id(number)))


@dataclass(frozen=True)
class Query:
    """What a list shows: the words of a search, a state, a host, and what is older than the jobs `before`.

    `hosts` are those of the page, this machine being the empty text. `first` is the number of the first row.
    """

    search: str = ""
    state: str = ""
    host: str | None = None
    before: Mapping[str, str] = field(default_factory=dict)
    first: int = 1

    @classmethod
    def of(cls, given: Mapping[str, Sequence[str]], hosts: Mapping[str, str]) -> Query:
        """Return the query of a URL; what is invalid in it is left out.

        Parameters
        ----------
        hosts : mapping
            The hosts of the page by the names that people use; this machine's is the empty text.
        """
        search = " ".join(_last(given, "q").split())[:_LONGEST_SEARCH]
        state, host = _last(given, "state"), hosts.get(_last(given, "host"))
        before: dict[str, str] = {}
        for one in given.get("before", ()):
            try:
                id = parse_id(one)
            except PortsError:
                continue
            if id.host in hosts.values():
                before[id.host] = id.number.partition(".")[0]
        first = _last(given, "from")
        n = int(first) if first.isascii() and first.isdigit() and len(first) < 10 else 1
        return cls(search, state if state in STATES else "", host, before, n if before and n else 1)

    def asked(self, hosts: Mapping[str, str]) -> tuple[list[str], str]:
        """Return the hosts that are asked, and for which words: a word that names a host chooses it."""
        named = [hosts[word] for word in self.search.split() if word in hosts]
        words = " ".join(word for word in self.search.split() if word not in hosts)
        wanted = [self.host] if self.host is not None else list(dict.fromkeys(named)) or list(hosts.values())
        return wanted, words

    def filters(self, host: str, words: str) -> dict[str, Any]:
        """Return what the jobs of a host are asked for."""
        found: dict[str, Any] = {"search": words, "state": self.state, "before": self.before.get(host)}
        return {name: value for name, value in found.items() if value}

    def href(self, hosts: Mapping[str, str], **changed: Any) -> str:
        """Return the URL of this list with something changed: ``state``, ``before``, ``first``, ``host``."""
        state, host = changed.get("state", self.state), changed.get("host", self.host)
        before, first = changed.get("before", {}), changed.get("first", 1)
        called = next((name for name, alias in hosts.items() if alias == host), None)
        pairs = [("q", self.search), ("state", state), ("host", called), ("from", first if before else None)]
        pairs += [("before", str(Id(alias, number))) for alias, number in sorted(before.items())]
        text = urlencode([(name, value) for name, value in pairs if value])
        return f"{JOBS}?{text}" if text else JOBS


def _last(given: Mapping[str, Sequence[str]], name: str) -> str:
    return given[name][-1] if given.get(name) else ""


class Looked(NamedTuple):
    """What one host said of its jobs: the answer of ``page`` (see `ports.jobs`), or why there is none."""

    host: str
    page: Mapping[str, Any] | None
    trouble: str = ""
    way_out: str = ""


def jobs(query: Query, hosts: Mapping[str, str], looks: Sequence[Looked], now: float) -> dict[str, Any]:
    """Return what ``jobs.html`` shows.

    Parameters
    ----------
    hosts : mapping
        The hosts of the page by the names that people use; this machine's is the empty text.
    """
    called = {alias: name for name, alias in hosts.items()}
    rows, more = _merged(looks)
    before = dict(query.before)
    for id, _ in rows:
        before[id.host] = id.number
    tally = _tally(looks)
    total = None if tally is None else tally[query.state] if query.state else sum(tally.values())
    last = query.first + len(rows) - 1
    return {
        "rows": [_row(id, row, called, now) for id, row in rows],
        "has_hosts": len(hosts) > 1,
        "tabs": _tabs(query, hosts, tally),
        "search": query.search,
        "state_name": query.state,
        "host": called.get(query.host) if query.host is not None else None,
        "everywhere": query.href(hosts, host=None),
        "troubles": [_trouble(one, called) for one in looks if one.trouble or one.way_out],
        "span": _span(query.first, last, total) if rows else "",
        "newest": query.href(hosts) if query.before else None,
        "older": query.href(hosts, before=before, first=last + 1) if more else None,
        "empty": "" if rows else _empty(query, looks),
        "commands": _commands(query, hosts),
        "new": f"{JOBS}/new" + (f"?{urlencode({'host': called[query.host]})}" if query.host in called else ""),
    }


def _merged(looks: Sequence[Looked]) -> tuple[list[tuple[Id, Mapping[str, Any]]], bool]:
    """Return the newest rows of all hosts, each host's in its own order, and whether there are more."""
    waiting = {one.host: _identified(one) for one in looks}
    found: list[tuple[Id, Mapping[str, Any]]] = []
    while len(found) < PAGE and any(waiting.values()):
        host = max((host for host in waiting if waiting[host]), key=lambda one: _created(waiting[one][0][1]))
        found.append(waiting[host].pop(0))
    return found, any(waiting.values())


def _created(row: Mapping[str, Any]) -> float:
    return _facts.number(row, "created_at") or 0.0


def _identified(look: Looked) -> list[tuple[Id, Mapping[str, Any]]]:
    """Return the rows of a host with the ids that the page gives them; a row without an id is none."""
    found = []
    for row in _facts.rows(look.page, "rows"):
        try:
            id = parse_id(row.get("id"))
        except PortsError:
            continue
        found.append((Id(look.host, id.number), row))
    return found


def _tally(looks: Sequence[Looked]) -> dict[str, int] | None:
    """Return how many rows of all hosts are in each state; None where a host that answered did not count."""
    total = dict.fromkeys(STATES, 0)
    for one in looks:
        if one.page is None:
            continue
        tally = one.page.get("tally")
        if not isinstance(tally, Mapping):
            return None
        for state in STATES:
            total[state] += int(_facts.number(tally, state) or 0)
    return total


def _tabs(query: Query, hosts: Mapping[str, str], tally: Mapping[str, int] | None) -> list[dict[str, Any]]:
    shown = [state for state in STATES if tally is None or tally[state] or state == query.state]
    counts = {"": None if tally is None else sum(tally.values()), **(tally or {})}
    return [
        {
            "word": state or "all",
            "count": "" if (n := counts.get(state)) is None else f"{n:,}",
            "href": query.href(hosts, state=state),
            "is_current": state == query.state,
        }
        for state in ("", *shown)
    ]


def _span(first: int, last: int, total: int | None) -> str:
    return f"{first:,}\u2013{last:,}" + ("" if total is None or total < last else f" of {total:,}")


def _trouble(look: Looked, called: Mapping[str, str]) -> dict[str, Any]:
    said = [*_facts.said(look.trouble)]
    return {"host": called.get(look.host, look.host), "said": said, "way_out": look.way_out}


def _empty(query: Query, looks: Sequence[Looked]) -> str:
    if all(one.page is None for one in looks):
        return ""
    if query.search or query.state or query.before:
        return "No job matches."
    return "No jobs yet. Send a script with `ports job submit -- python train.py`, or with New job above."


def _commands(query: Query, hosts: Mapping[str, str]) -> list[str]:
    """Return what shows the same in a terminal."""
    wanted, words = query.asked(hosts)
    typed = ["ports", "job", "list", *(shlex.quote(one) for one in wanted if one)]
    typed += ["--state", query.state] if query.state else []
    return [" ".join([*typed, *(["--search", shlex.quote(words)] if words else [])])]


def _row(id: Id, row: Mapping[str, Any], called: Mapping[str, str], now: float) -> dict[str, Any]:
    """Return a row of the list."""
    return {
        "id": str(id),
        "number": id.number,
        "key": f"job-{id.host}-{id.number}".replace(".", "-"),
        "href": id.href,
        "what": what(row),
        "name": other_name(row),
        "state": _facts.mark(state_of(row)),
        "host": called.get(id.host, id.host),
        "took": took(row, now),
        "progress": progress(row),
        "when": _when(row, now),
        "note": _facts.said(reason(row)) if state_of(row) in ("pending", "error", "lost", "cancelled") else [],
    }


def state_of(row: Mapping[str, Any]) -> str:
    """Return the state that a host names."""
    return _facts.text(row, "state") or "unknown"


def what(row: Mapping[str, Any]) -> str:
    """Return what a job runs, in one line: the command of a script, the name of a function."""
    return _facts.text(row, "command") or _facts.text(row, "name") or _facts.text(row, "what") or "?"


def other_name(row: Mapping[str, Any]) -> str:
    """Return the name of a job where its command does not show it."""
    name = _facts.text(row, "name")
    return "" if not row.get("command") or name in what(row) else name


def took(row: Mapping[str, Any], now: float) -> str:
    """Return how long a job ran, or runs."""
    began, ended = _facts.number(row, "began_at"), _facts.number(row, "ended_at")
    if not began:
        return ""
    return duration((ended if ended and state_of(row) in ENDED else now) - began)


def _when(row: Mapping[str, Any], now: float) -> str:
    """Return how long ago a job ended, began, or was submitted."""
    moments = [_facts.number(row, name) for name in ("ended_at", "began_at", "created_at")]
    then = next((one for one in moments if one), None)
    ago = _facts.ago(then, now)
    return f"{ago} ago" if ago else ""


def progress(row: Mapping[str, Any]) -> str:
    """Return how far a job says it is; of a map, how many of its jobs are in each state."""
    if row.get("count") is not None:
        counts = _facts.part(row, "counts")
        parts = [f"{int(n):,} {state}" for state in STATES if (n := _facts.number(counts, state))]
        return ", ".join(parts)
    said = _facts.part(row, "progress")
    done, total = _facts.number(said, "done"), _facts.number(said, "total")
    return "" if done is None else f"{done:g}" + ("" if total is None else f" of {total:g}")


def reason(row: Mapping[str, Any]) -> str:
    """Return what a job waits for, or how its last attempt ended."""
    first, second = ("why", "reason") if state_of(row) == "pending" else ("reason", "why")
    return _facts.text(row, first) or _facts.text(row, second)


# --- many jobs, selected ---


def selected_href(verb: str, ids: Sequence[Id]) -> str:
    """Return the page that asks whether it is meant."""
    return f"{JOBS}/selected?{urlencode([('verb', verb), *(('id', str(id)) for id in ids)])}"


def selected(verb: str, found: Sequence[tuple[Id, Mapping[str, Any]]], called: Mapping[str, str]) -> dict[str, Any]:
    """Return what ``jobs_selected.html`` shows: what would be cancelled or run again, and the same as commands."""
    ids = [id for id, _ in found]
    by_host = {host: [one.number for one in ids if one.host == host] for host in dict.fromkeys(id.host for id in ids)}
    n_running = sum(state_of(row) == "running" for _, row in found)
    noun = f"{len(ids)} job{'' if len(ids) == 1 else 's'}" if len(ids) != 1 else f"job {ids[0]}"
    commands = []
    for host, numbers in by_host.items():
        where = ["-H", shlex.quote(host)] if host else []
        each = [numbers] if verb == "cancel" else [[one] for one in numbers]
        commands += [" ".join(["ports", "job", verb, *some, *where]) for some in each]
    end = f"{n_running} of them {'runs' if n_running == 1 else 'run'}: SIGTERM now, SIGKILL after 30 s."
    alone = "It runs: SIGTERM now, SIGKILL after 30 s."
    return {
        "verb": verb,
        "title": f"{'Cancel' if verb == 'cancel' else 'Run again'}: {noun}?",
        "button": "Run again" if verb == "rerun" else "Cancel it" if len(ids) == 1 else "Cancel them",
        "ends": verb == "cancel",
        "warning": (alone if len(ids) == 1 else end) if verb == "cancel" and n_running else "",
        "rows": [
            {
                "id": str(id),
                "what": what(row),
                "host": called.get(id.host, id.host),
                "state": _facts.mark(state_of(row)),
            }
            for id, row in found
        ],
        "ids": [str(id) for id in ids],
        "commands": commands,
    }
