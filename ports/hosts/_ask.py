"""Questions to another host, over SSH: the probe, its other programs, and ``ports … --json`` there."""

from __future__ import annotations

import functools
import json
import os
import queue
import re
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from ports.errors import FarSideError, PortsError, collecting_warnings, warn
from ports.hosts import _connect, _far_errors, _far_warnings, _shell_words, targets
from ports.hosts._resolve import is_here, resolve
from ports.hosts._route import Route
from ports.hosts._several import call_into
from ports.probe import machine_id, own_uid, read_answer, script, sha256, user_name
from ports.state import settings

#: The variable that names a host to its own `ports attach` as it is called where the command was typed.
CALLED = "PORTS_CALLED"
# Understood by bash, zsh, tcsh and fish alike; -I keeps PYTHON* variables and the user's own modules out of it,
# -S saves 5 to 30 ms.
# No `exec`: a restricted shell (rbash) refuses it.
_READ_PROGRAM = "{python} -I -S -"
_NO_PYTHON = re.compile(
    r"python.*(not found|No such file|unknown command|permission denied|restricted)|"
    r"(not found|unknown command).*python",
    re.IGNORECASE,
)
_PASSWORD = re.compile(r"^(WARNING: )?Your password has expired|^Password change required", re.MULTILINE)
#: Why a program there does not get what is sent to it.
READS_INPUT = "your start files there read the input of the command (`read`, `cat`)"
_MEND = "put `[ -t 0 ] || return` before such a line in ~/.bashrc or its like there"
_ASKED_SECONDS = 0.1  # over a connection that stands, a host has been asked after 10 to 30 ms
_begun: dict[tuple[str, str], queue.SimpleQueue[tuple[str, Any]]] = {}


@dataclass(frozen=True)
class Answer:
    """What a program that was piped to python3 on a host left.

    Attributes
    ----------
    found : dict, optional
        Its answer; None where it did not come so far.
    printed, complaints : str
        What the start files of the shell there, or the shell itself, wrote to stdout and stderr.
    sent, received : float
        When, by the clock here.
    command : str
        The line of the shell there that ran python3 for a program on its standard input.
    runs_commands : bool, optional
        Whether the shell there runs a command without input; asked where python3 did not answer.
    """

    found: dict[str, Any] | None
    printed: str
    complaints: str
    status: int
    sent: float
    received: float
    command: str = _READ_PROGRAM.format(python="python3")
    runs_commands: bool | None = None

    @property
    def has_no_python(self) -> bool:
        """No python3 was found there."""
        return self.found is None and self.status != 0 and bool(_NO_PYTHON.search(self.complaints + self.printed))

    def why_none(self, alias: str) -> tuple[str, str]:
        """Return why python3 did not answer, and a hint."""
        told = why_no_answer(alias, self.printed, self.complaints, self.status)
        if self.runs_commands is None or "python3 there is older" in told[0] or self.has_no_python:
            return told
        if self.runs_commands:
            return READS_INPUT, _MEND
        return f"your start files there ended the shell (exit or exec), with status {self.status}", _MEND


def probe(
    host: str | Route, request: dict[str, Any] | None = None, *, timeout: float = 30.0, batch: bool | None = None
) -> dict[str, Any]:
    """Return what `ports.probe.probe` finds on `host`, where nothing needs to be installed but python3.

    Raises
    ------
    SSHError
        There is no connection to the host.
    FarSideError
        There is no python3, or the probe failed there.
    """
    alias = host if isinstance(host, str) else host.alias
    begun = _begun.pop((alias, json.dumps(request)), None)
    if begun is None:
        return _found(host, {**(request or {}), "do": "probe"}, timeout=timeout, batch=batch)
    _, result = begun.get()
    if isinstance(result, BaseException):
        raise result
    document, warnings = result
    for text in warnings:
        warn(text)
    return dict(document)


def ask_who(
    host: str | Route, what: str, request: dict[str, Any], *, timeout: float = 60.0, batch: bool | None = None
) -> dict[str, Any]:
    """Return what the program `what` of `ports.probe.piped` finds on `host`; raises as `probe`."""
    return _found(host, {**request, "do": what}, timeout=timeout, batch=batch)


def begin_probe(aliases: Iterable[str], request: dict[str, Any]) -> None:
    """Begin to `probe` hosts; the next call with the same `request` returns what this one finds.

    When this returns, the hosts have been asked, or a connection to them is being made. Meanwhile this process may do
    other work.
    """
    asked = []
    for alias in (one for one in dict.fromkeys(aliases) if not is_here(one)):
        begun = _begun[alias, json.dumps(request)] = queue.SimpleQueue()
        asked.append(threading.Event())
        found = functools.partial(_found_early, request={**request, "do": "probe"}, on_start=asked[-1].set)
        threading.Thread(target=call_into, args=(begun, alias, found), name=f"host-{alias}", daemon=True).start()
    until = time.monotonic() + _ASKED_SECONDS
    for one in asked:
        one.wait(max(0.0, until - time.monotonic()))


def _found_early(alias: str, request: dict[str, Any], on_start: Callable[[], None]) -> tuple[dict[str, Any], list[str]]:
    """Return what is found on a host, and the warnings, which are said when somebody asks for it."""
    with collecting_warnings() as told:
        return _found(alias, request, timeout=30.0, on_start=on_start), told


def run_ports(
    host: str | Route,
    argv: list[str],
    *,
    stdin: str = "",
    cwd: str | None = None,
    timeout: float = 120.0,
    batch: bool | None = None,
    login: bool = False,
    starts: bool = False,
) -> Any:
    """Run ``ports <argv> --json`` on `host` and return the JSON document that it printed.

    The interpreter there is that of the setting ``ports.hosts.<alias>.env``, else the one in which `ports` last ran on
    the host, else the one on the login shell's PATH.

    Parameters
    ----------
    login : bool
        Take the environment of the login shell there, as a command typed there would.
    starts : bool
        The command starts a session. It is stopped again where its answer comes back to nobody (Ctrl-C here).

    Raises
    ------
    SSHError
        There is no connection to the host.
    FarSideError
        `ports` is not there, or did not print JSON.
    PortsError
        What the command there raised, with the same exit code.
    """
    route = resolve(host) if isinstance(host, str) else host
    alias = route.alias
    far_argv = json.dumps(_with_json(argv))
    # not as arguments: all users there see those, and one may contain a key
    request: dict[str, Any] = {"do": "run", "argv": ["--arguments-from-stdin"], "stdin": f"{far_argv}\n{stdin}"}
    request |= {**start_request(alias), "login": login, "starts": starts, "came": came_by(route)}
    if cwd:
        request["cwd"] = cwd
    answer = _found(route, request, timeout=timeout, batch=batch)
    status, text = answer.get("status"), str(answer.get("stdout") or "")
    try:
        document = json.loads(text)
    except ValueError as error:
        if status == 7:
            raise _far_errors.FarRecordError(
                alias, "a newer ports wrote a record there; upgrade ports there"
            ) from error
        tail = [line.strip() for line in (answer["stderr"] + "\n" + text).splitlines() if line.strip()]
        reason = f"`ports {' '.join(argv)}` ended there with status {status} and printed no JSON"
        raise FarSideError(alias, reason + (f": {tail[-1]}" if tail else "")) from error
    told = document.get("error") if isinstance(document, dict) else None
    if status and isinstance(told, dict) and "type" in told:
        failure = _far_errors.revive(alias, told)
        failure.where = alias
        raise failure
    document, told_there = _far_warnings.without_warnings(document, str(answer["stderr"]))
    for text in told_there:
        warn(f"{alias}: {targets.hints_at(alias, text)}")
    return document


def _with_json(argv: list[str]) -> list[str]:
    n = argv.index("--") if "--" in argv else len(argv)  # what follows is not for `ports`
    return [*argv[:n], *([] if "--json" in argv[:n] else ["--json"]), *argv[n:]]


def interactive(alias: str, argv: list[str]) -> None:
    """Replace this process by ``ports <argv>`` on `alias`, at this terminal; raises as `run_ports`."""
    route = resolve(alias)
    request = {"do": "run", "argv": ["--version"], **start_request(alias), "came": came_by(route)}
    request["shell"] = argv[:1] == ["shell"]
    found = _found(route, request, timeout=60)
    command, home = str(found["command"]), str(found["home"])
    names = [f"{CALLED}={alias}"] if "attach" in argv[1:2] else []  # a shell would pass it on
    names += [] if home.isascii() else [f"HOME={home}"]  # fish without a locale garbles its letters
    words = [*names, command, *([] if command.endswith("/ports") else ["-m", "ports"]), *argv]
    _connect.connect(route).interactive(_shell_words.line(words))


def ask(
    route: Route,
    request: dict[str, Any],
    *,
    timeout: float = 60.0,
    batch: bool | None = None,
    repeatable: bool = False,
    on_start: Callable[[], None] | None = None,
) -> Answer:
    """Pipe the program for `request` to python3 on the host, else to the one of the settings, and return its answer.

    Raises
    ------
    SSHError
        There is no connection to the host.
    """
    marker = f"ports-{os.urandom(8).hex()}:"  # start files of the shell there may print, before and after
    text = script({**request, "marker": marker}).encode()
    pythons = ["python3", *named_pythons(route.alias)]
    while True:
        sent, command = time.time(), _READ_PROGRAM.format(python=pythons.pop(0))
        done = _connect.run(
            route,
            command,
            input=text,
            timeout=timeout,
            batch=batch,
            repeatable=repeatable,
            on_start=on_start,
        )
        found = read_answer(done.output, marker)
        printed = done.output.partition(f"\n{marker}")[0] if found is not None else done.output
        answer = Answer(found, printed, done.stderr, done.status, sent, time.time(), command)
        if found is not None:
            return answer
        if not answer.has_no_python or not pythons:
            return answer if _PASSWORD.search(done.stderr) else replace(answer, runs_commands=_runs_commands(route))


def _runs_commands(route: Route) -> bool | None:
    """Tell whether the shell there comes through its start files to a command that has no input."""
    word = f"ports-{os.urandom(8).hex()}"
    try:
        return word in _connect.run(route, f"echo {word}", timeout=10, batch=True).output
    except PortsError:
        return None


def why_no_answer(alias: str, printed: str, complaints: str = "", status: int | None = None) -> tuple[str, str]:
    """Return why python3 on `alias` did not answer, and a hint, from what the shell there wrote."""
    lines = [line.strip() for line in (complaints + "\n" + printed).splitlines() if line.strip()]
    if _PASSWORD.search(complaints):
        return "your password there has expired", f"change it in `ssh -t {shlex.quote(alias)}`"
    if "SyntaxError" in complaints and 'File "<stdin>"' in complaints:
        return "python3 there is older than 3.6", "load a newer one in the start file of your shell there"
    if missing := [line for line in lines if _NO_PYTHON.search(line)]:
        hint = "load one in the start file of your shell there, or name an environment by its path as "
        return f"there is no python3 ({missing[-1]})", f"{hint}ports.hosts.{alias}.env in the settings"
    last = f": {lines[-1][:200]}" if lines else ""
    ended = "ended" if status is None else f"ended with status {status}"
    return f"the shell there {ended} before python3 answered{last}", f"try `ssh {shlex.quote(alias)} python3 -V`"


def named_pythons(alias: str) -> list[str]:
    """Return the words that start the interpreter of the environment that the settings name by its path.

    The second are for a restricted shell; the first need no PATH.
    """
    env = str(settings.host(alias).get("env") or "")
    if env[:1] not in ("~", "/"):
        return []
    python = _shell_words.path(env.rstrip("/") + "/bin/python")
    return [python, f"env {python}"]


def start_request(alias: str) -> dict[str, Any]:
    """Return what the settings say of a program that runs `ports` there: where it is, how long a shell may take."""
    own = sys.prefix if is_here(alias) else None  # this very `ports`
    return {"env": settings.host(alias).get("env") or own, "patience": settings.get("ssh.shell_timeout")}


def came_by(route: Route) -> dict[str, str] | None:
    """Return the alias by which this user comes to a host, which it prints for those at home; None for this machine."""
    if route.transport == "none":
        return None
    client = sha256(f"{machine_id()}:{user_name(own_uid())}".encode())[:16]
    return {"client": client, "alias": targets.before_colon(route.alias)}


def explain_silence(route: Route, *, timeout: float, quick: float) -> None:
    """Raise what keeps a program on a host from answering, where another question shows it.

    Parameters
    ----------
    quick : float
        Seconds. Where this question is answered so soon, the start files there took the input of that program.

    Raises
    ------
    FarSideError
        There is no python3, or start files read the input, or end the shell.
    """
    began = time.monotonic()
    try:
        probe(route, batch=True, timeout=timeout)
    except FarSideError:
        raise
    except PortsError:  # it is as silent
        return
    if time.monotonic() - began < quick:
        raise FarSideError(route.alias, f"{READS_INPUT}; {_MEND}")


def probe_names(route: Route) -> dict[str, Any]:
    """Return what a request to the probe names: the name that leads to the host, and the nodes of the settings."""
    if "/" in route.alias or route.transport == "none":  # it is a node, or this machine
        return {}
    return {"called": route.end.hostname, "nodes": settings.host(route.alias).get("nodes")}


def _found(
    host: str | Route,
    request: dict[str, Any],
    *,
    timeout: float,
    batch: bool | None = None,
    on_start: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Return what the program for `request` finds on a host, and what was written to stderr there."""
    route = resolve(host) if isinstance(host, str) else host
    if request["do"] == "probe":
        request = {**request, **probe_names(route)}
    only_looks = request["do"] in ("probe", "who")
    answer = ask(route, request, timeout=timeout, batch=batch, repeatable=only_looks, on_start=on_start)
    if answer.found is None:
        raise FarSideError(route.alias, "; ".join(answer.why_none(route.alias)))
    if "error" in answer.found:
        message = str(answer.found.get("message") or answer.found["error"])
        raise FarSideError(route.alias, message.replace("hosts.<alias>", f"hosts.{route.alias}"))
    if answer.found.get("warning"):
        warn(f"{route.alias}: {answer.found['warning']}; `ports doctor {route.alias}` shows more")
    return {**answer.found, "stderr": answer.complaints}
