"""The far end: its python3, shell, programs, disk, memory and clock."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ports import hosts, probe
from ports._version import VERSION
from ports.doctor import _judge
from ports.doctor._checks import Check, failed, skipped
from ports.hosts import openssh
from ports.state import settings

SERVER_CHECKS = ("python", "shell", "ports", "tmux", "logout", "state-directory", "memory", "clock")

PATIENCE = 60.0  # start files of a loaded server, and programs that say their version
_PYTHON = "exec python3 -I -S -"
_NO_PYTHON = re.compile(
    r"python.*(not found|No such file|[Uu]nknown command|[Pp]ermission denied)|(not found|nknown command).*python"
)


@dataclass(frozen=True)
class Answer:
    """What came back of a program that was piped to the far python3, and when."""

    facts: dict[str, Any] | None
    printed: str
    complaints: str
    status: int
    sent: float
    received: float


def ask(alias: str, *, batch: bool) -> Answer:
    """Examine the far side by one program, piped to its python3; raises SSHError where there is no way to it."""
    marker = f"ports-{os.urandom(8).hex()}:"
    request = {"do": "examine", "marker": marker, "ports": True, "env": settings.host(alias).get("env")}
    text = probe.script(request).encode()
    _connect(alias, batch=batch)  # first, so that the clock is not asked while a login takes its time
    for command in dict.fromkeys((_PYTHON, _named(alias))):
        sent = time.time()
        done = hosts.run_command(alias, command, input=text, timeout=PATIENCE, batch=batch, repeatable=True)
        received = time.time()
        facts = probe.read_answer(done.output, marker)
        if facts is not None or not _NO_PYTHON.search(done.stderr + done.output):
            break
    printed = done.output.partition(f"\n{marker}")[0] if facts is not None else done.output
    return Answer(facts, printed, done.stderr, done.status, sent, received)


def _connect(alias: str, *, batch: bool) -> None:
    if hosts.choose_transport() == "ssh":
        openssh.connect(alias, batch=batch, warm=False)
    else:
        hosts.connection(alias, batch=batch)


def judge_answer(alias: str, answer: Answer) -> Iterator[Check]:
    """Yield the checks that the answer allows."""
    facts = answer.facts
    if facts is None:
        yield _no_answer(alias, answer)
        yield from (skipped(name, f"needs python on {alias}") for name in SERVER_CHECKS[1:])
        return
    if "error" in facts:
        yield failed("python", f"the examination failed there: {facts.get('message')}", "report it, with this line")
        yield from (skipped(name, f"needs python on {alias}") for name in SERVER_CHECKS[1:])
        return
    yield _judge.python(facts["python"], facts["executable"])
    took = facts["began"] - answer.sent, answer.received - facts["time"]
    yield _judge.shell(answer.printed, answer.complaints, max(0.0, sum(took)))
    yield _judge.installed(facts["ports"], VERSION, alias)
    yield _judge.tmux(facts["tmux"])
    yield _judge.logout(facts["logout_ends"], f"run `ssh {alias} loginctl enable-linger` once to keep them")
    yield _judge.state_directory(facts["state"])
    yield _judge.memory(facts["memory"])
    yield _judge.clock(facts["time"] - answer.received, facts["began"] - answer.sent)


def _no_answer(alias: str, answer: Answer) -> Check:
    lines = [line.strip() for line in (answer.complaints + "\n" + answer.printed).splitlines() if line.strip()]
    if "SyntaxError" in answer.complaints:
        return failed(
            "python", "python3 there is older than 3.6", "load a newer one in the start file of your shell there"
        )
    missing = [line for line in lines if _NO_PYTHON.search(line)]
    if missing:
        return failed(
            "python",
            f"there is no python3 ({missing[-1]})",
            "load one in the start file of your shell there, or name an environment by its path as "
            f"ports.hosts.{alias}.env in the settings",
        )
    last = f": {lines[-1]}" if lines else ""
    cause = f"the shell there ended with status {answer.status} before python3 answered{last}"
    return failed("python", cause, f"try `ssh {alias} python3 -V`")


def _named(alias: str) -> str:
    """Return how the interpreter of the environment that the settings name is started, where that needs no quoting."""
    env = str(settings.host(alias).get("env") or "")
    return f"exec {env.rstrip('/')}/bin/python -I -S -" if re.fullmatch(r"[~/][\w@%+=:,./-]*", env) else _PYTHON
