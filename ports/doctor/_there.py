"""The far end: its python3, shell, programs, disk, memory and clock."""

from __future__ import annotations

from collections.abc import Iterator

from ports import hosts
from ports._version import VERSION
from ports.doctor import _judge
from ports.doctor._checks import Check, failed, skipped
from ports.errors import PortsError
from ports.hosts import Answer, Route, targets

# What `ports` there finds of its own machine.
OWN_CHECKS = ("scratch", "environment", "records")
SERVER_CHECKS = ("python", "shell", "ports", "tmux", "logout", "state-directory", "memory", "clock", *OWN_CHECKS)

_SCOPE = "with `systemd-run --user --scope` before the command"

PATIENCE = 60.0  # start files of a loaded server, and programs that say their version


def ask(route: Route) -> Answer:
    """Examine the far side by one program, piped to its python3; raises SSHError where there is no connection to it."""
    hosts.connect(route, batch=True).close()  # first, so that the clock is not asked while a login takes its time
    request = {"do": "examine", "ports": True, **hosts.start_request(route.alias)}
    return hosts.ask(route, request, timeout=PATIENCE, batch=True, repeatable=True)


def judge_answer(alias: str, answer: Answer) -> Iterator[Check]:
    """Yield the checks that the answer allows."""
    facts = answer.found
    if facts is None:
        yield failed("python", *answer.why_none(alias))
        yield from (skipped(name, f"needs python on {alias}") for name in SERVER_CHECKS[1:])
        return
    if "error" in facts:
        yield failed("python", f"the examination failed there: {facts.get('message')}", "report it, with this line")
        yield from (skipped(name, f"needs python on {alias}") for name in SERVER_CHECKS[1:])
        return
    yield _judge.python(facts["python"], facts["executable"])
    took = facts["began"] - answer.sent, answer.received - facts["time"]
    yield _judge.shell(answer.printed, answer.complaints, max(0.0, sum(took)), facts.get("start_files"))
    yield _judge.installed(facts["ports"], VERSION, alias)
    yield _judge.tmux(facts["tmux"])
    yield _judge.logout(
        facts["logout_ends"],
        f"run `ssh {alias} loginctl enable-linger` once, then start there {_SCOPE}",
        login_ends=facts["login_ends"],
    )
    yield _judge.state_directory(facts["state"])
    yield _judge.memory(facts["memory"])
    yield _judge.clock(facts["time"] - answer.received, facts["began"] - answer.sent)


def own_checks(alias: str, answer: Answer) -> Iterator[Check]:
    """Yield the checks that `ports` there makes of its own machine: they are the same as here."""
    facts = answer.found or {}
    if "error" in facts or "error" in facts.get("ports", {"error": ""}):
        cause = "needs python" if "error" in facts else "needs ports"
        yield from (skipped(name, f"{cause} on {alias}") for name in (() if "error" in facts else OWN_CHECKS))
        return
    try:
        # start files that do not come to their end are not waited for twice
        has_login = facts.get("start_files") is None
        found = hosts.run_ports(alias, ["doctor"], login=has_login, batch=True, timeout=PATIENCE)
        rows = {row["name"]: row for row in found}
    except (PortsError, TypeError, KeyError) as error:
        yield from (skipped(name, f"`ports doctor` does not work there: {error}") for name in OWN_CHECKS)
        return
    for name in OWN_CHECKS:
        row = rows.get(name)
        if row is None:
            yield skipped(name, f"ports {facts['ports']['version']} there does not look at it")
            continue
        texts = [targets.hints_at(alias, str(row[key] or "")) for key in ("found", "cause", "way_out")]
        yield Check(name, str(row["state"]), *texts)
