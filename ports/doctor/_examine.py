"""``ports doctor``: the whole route from here to a server, as a checklist with causes and hints.

::

    _checks   what a check found, and its row
    _judge    facts → checks; pure
    _wsl      Linux on Windows
    _here     this machine            _route   the hops to a host
    _environment   its Python         _there   the host itself
                                      _forwarding   what it lets be forwarded, and how fast that is

Nothing is changed on either side except the connections to hosts, which later commands use. Every step ends by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ports.doctor import _forwarding, _here, _route, _there
from ports.doctor._checks import FAILED, Check, CheckRow, failed, from_error, skipped
from ports.errors import PortsError
from ports.hosts import Answer, Route, is_here, on_each
from ports.state import paths

OnRow = Callable[[CheckRow], None]
OnStep = Callable[[str, str], None]

_AT_THE_END = (*_there.SERVER_CHECKS, *_forwarding.FORWARD_CHECKS)


def examine(
    hosts: Iterable[str] = (),
    *,
    on_row: OnRow | None = None,
    on_step: OnStep | None = None,
    on_host: Callable[[str], None] | None = None,
) -> list[CheckRow]:
    """Return the rows of all checks: of this machine, of the route to each of `hosts`, and of each host itself.

    Parameters
    ----------
    hosts : iterable of str
        Aliases of ``~/.ssh/config``, examined at once. None: this machine alone, as a client and as a server.
    on_row : callable, optional
        Called with each row as it comes, from several threads.
    on_step : callable, optional
        Called with a host and the step that begins there.
    on_host : callable, optional
        Called with a host once all of its rows are there, this machine first.
    """
    names = [one for one in dict.fromkeys(hosts) if not is_here(one)]  # this machine is examined anyway
    tell_row, tell_step = on_row or (lambda row: None), on_step or (lambda host, text: None)
    tell_end = on_host or (lambda host: None)
    rows: list[CheckRow] = []
    unmet = []
    for check in _here.as_client(needs_ssh=bool(names)) if names else _here.as_both():
        rows.append(check.row(paths.host_name()))
        tell_row(rows[-1])
        unmet += [check.name] if check.name in ("settings", "ssh") and check.state == FAILED else []
    tell_end(paths.host_name())

    def one(host: str) -> list[CheckRow]:
        found = []
        for check in _checks(host, unmet, tell_step):
            found.append(check.row(host))
            tell_row(found[-1])
        tell_end(host)
        return found

    try:
        for found in on_each(names, one).values():
            if isinstance(found, PortsError):
                raise found
            rows += found
    except BaseException:  # Ctrl-C: the threads that would do it end with the process
        _forwarding.cancel_all()
        raise
    return rows


def is_well(rows: Iterable[CheckRow]) -> bool:
    """Tell whether the main job can be done: nothing failed."""
    return not any(row["state"] == FAILED for row in rows)


def _checks(alias: str, unmet: list[str], tell: OnStep) -> Iterator[Check]:
    """Yield the checks of one host; those that depend on a failed one as skipped."""
    if unmet:
        yield from _skip(("configuration", *_route.HOP_CHECKS, *_AT_THE_END), f"needs {unmet[0]} here")
        return
    tell(alias, "reading the configuration of ssh")
    configuration, route = _route.configuration(alias)
    yield configuration
    if route is None:
        yield from _skip((*_route.HOP_CHECKS, *_AT_THE_END), "needs configuration")
        return
    walk, reached = _route.Walk(route), _Reached(route)
    tell(alias, f"looking for {route.hops[0].hostname}")
    yield from reached.note(walk.approach())
    answer: Answer | None = None
    if reached.failure is None:
        through = f" through {' and '.join(hop.alias for hop in route.hops[:-1])}" if route.hops[1:] else ""
        tell(alias, f"connecting{through}, and asking python3 there")
        answer = walk.connect(lambda: _there.ask(route))
        tell(alias, "asking each hop")
        yield from reached.note(walk.hop_checks())
    if reached.failure is not None:
        yield from reached.skip_the_rest()
    elif answer is None:
        assert walk.error is not None
        hint = f"start files of the shell there may hang, or it is overloaded: check that `ssh {alias} true` returns"
        found = from_error("python", walk.error, alias, hint)
        is_silent = " within " in (
            found.cause or ""
        )  # other errors, such as one session too many, name their own way out
        yield failed("python", str(found.cause), hint if is_silent else str(found.hint))
        yield from _skip(_AT_THE_END[1:], f"needs python on {alias}")
    else:
        yield from _there.judge_answer(alias, answer)
        tell(alias, "asking ports there for its scratch, its environment and its records")
        yield from _there.own_checks(alias, answer)
        tell(alias, "trying what can be forwarded")
        yield from _forwarding.forwards(route, answer.command if (answer.found or {}).get("executable") else None)


class _Reached:
    """How far the checks came: those still to come, and the first that failed."""

    def __init__(self, route: Route) -> None:
        self.to_come = [(hop.alias, name) for hop in route.hops[:-1] for name in _route.JUMP_CHECKS]
        self.to_come += [(route.end.alias, name) for name in _route.HOP_CHECKS]
        self.failure: Check | None = None

    def note(self, checks: Iterable[Check]) -> Iterator[Check]:
        """Pass checks on."""
        for check in checks:
            self.to_come = [one for one in self.to_come if one != (check.hop, check.name)]
            if check.state == FAILED and self.failure is None:
                self.failure = check
            yield check

    def skip_the_rest(self) -> Iterator[Check]:
        """Yield what is not looked at any more."""
        assert self.failure is not None
        needs = f"needs {self.failure.name} of {self.failure.hop}"
        yield from (skipped(name, needs).at(hop) for hop, name in self.to_come)
        yield from _skip(_AT_THE_END, needs)


def _skip(names: Iterable[str], cause: str) -> Iterator[Check]:
    return (skipped(name, cause) for name in names)
