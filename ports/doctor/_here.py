"""The checks of this machine: as a client, which reaches servers, and as a server, on which clusters run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ports import hosts, machine, sessions, tunnels
from ports._version import VERSION
from ports.doctor import _environment, _judge, _wsl
from ports.doctor._checks import FAILED, Check, failed, from_error, ok, skipped, split, warning
from ports.errors import PortsError, ToolMissingError
from ports.hosts.openssh import diagnostics as ssh
from ports.probe import examine, space
from ports.state import paths, settings


def as_client(*, needs_ssh: bool) -> Iterator[Check]:
    """Yield what reaching other hosts takes; without ssh nothing of it works, which matters where it is needed."""
    yield ok("ports", f"{VERSION}, Python {'.'.join(map(str, sys.version_info[:3]))} ({sys.executable})")
    yield _judge.state_directory(space(str(paths.state_directory())))
    checked = _guarded("settings", _settings)
    yield checked
    if checked.state == FAILED:
        yield skipped("ssh", "needs settings")
        return
    yield _guarded("ssh", lambda: _ssh(needs_ssh))
    found = _wsl.look()
    if found is not None:
        yield from _wsl.judge(found, str(settings.get("ssh.program")), _own_configuration())


def as_both() -> Iterator[Check]:
    """Yield all checks of this machine."""
    yield from as_client(needs_ssh=False)
    if paths.can_serve():
        yield from as_server()


def as_server() -> Iterator[Check]:
    """Yield what clusters and notebook servers on this machine take."""
    facts = examine()
    yield _judge.tmux(facts["tmux"])
    yield _judge.logout(facts["logout_ends"], machine.LOGOUT_HINT, login_ends=facts["login_ends"])
    yield _judge.memory(facts["memory"])
    yield _guarded("scratch", _environment.scratch)
    yield _guarded("environment", _environment.environment)
    yield _guarded("records", _records)


def _records() -> Check:
    """Return whether something is recorded of which nothing can be known, or that can be this machine's own."""
    unknown: list[tuple[str, Any]] = []
    for kind in sessions.FOLDERS:
        found = [sessions.find(kind, name, sessions.KINDS[kind].record_class()) for name in sessions.names(kind)]
        unknown += [(kind, one) for one in found if one is not None and one.state == "unknown"]
    errors = [str(one.error) for _, one in unknown if one.error is not None]
    errors += [str(error) for error in tunnels.unreadable_records()]
    if errors:
        cause, told = split(errors[0])
        more = f" (and {len(errors) - 1} more)" if errors[1:] else ""
        return warning("records", cause + more, told)
    if unknown:
        first = unknown[0][1]
        named = ", ".join(f"{of} {one.name!r}" for of, one in unknown)
        return warning("records", f"what became of {named} cannot be known here", str(first.reason))
    if others := sessions.other_names(same_id=True):
        adopts = f"`ports prune --adopt {others[0]}` takes its records over"
        hint = f"if {others[0]} is gone, or was this machine's name, {adopts}"
        named = ", ".join(others)
        return ok(
            "records", f"all can be read; {named} {'has' if len(others) == 1 else 'have'} this machine's id: {hint}"
        )
    return ok("records", "all can be read")


def _settings() -> Check:
    settings.load()
    _, mistakes = settings.explain()
    if mistakes:  # of the site: the defaults serve
        return warning("settings", str(mistakes[0]), "ask who wrote the file; `ports settings` shows all mistakes")
    return ok("settings", "no wrong key or value")


def _ssh(needed: bool) -> Check:
    try:
        program = ssh.examine_program()
    except ToolMissingError as error:
        found = from_error("ssh", error, "")
        if hosts.choose_transport() == "paramiko":
            cause = f"{found.cause}: hosts are reached by paramiko in this process, which logs in for each command"
            return warning("ssh", cause, found.hint)
        return found if needed else warning("ssh", f"{found.cause}: no other host can be reached", found.hint)
    if hosts.choose_transport() == "paramiko" and program.multiplexes:
        return ok("ssh", f"{program.name}, but paramiko carries (ports.ssh.transport)")
    return _judge.ssh_program(program.name, program.version, program.multiplexes)


def _own_configuration() -> Path:
    chosen = settings.get("ssh.config")
    return Path(chosen).expanduser() if chosen else Path.home() / ".ssh" / "config"


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    """Return what `check` finds; an error of ours is a check that failed."""
    try:
        return check()
    except PortsError as error:
        found = from_error(name, error, "")
        return failed(name, found.cause, found.hint or "correct it; docs/settings.md lists what there is")
