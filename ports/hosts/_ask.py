"""Acting on other hosts: the probe and `ports … --json` there, over SSH; several hosts at once."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ports.errors import FarSideError, PortsError, warn
from ports.hosts import _far_errors, _transport, openssh, targets
from ports.probe import read_answer, script
from ports.state import settings

T = TypeVar("T")

#: The variable that tells `ports attach` on a host how it is called where the command was typed.
CALLED = "PORTS_CALLED"
# Understood by bash, zsh, tcsh and fish alike; -I keeps PYTHON* variables and the user's own modules out of it,
# -S saves 5 to 30 ms.
_PYTHON = "exec python3 -I -S -"
_NO_PYTHON = re.compile(r"not found|No such file|unknown command|permission denied", re.IGNORECASE)
_ASKED_SECONDS = 0.1  # where a connection stands, a host has been asked after 10 to 30 ms
_begun: dict[tuple[str, str], queue.SimpleQueue[tuple[str, Any]]] = {}


def probe(
    alias: str, request: dict[str, Any] | None = None, *, timeout: float = 30.0, batch: bool | None = None
) -> dict[str, Any]:
    """Return what `ports.probe.probe` finds on `alias`, where nothing needs to be installed but python3.

    Raises
    ------
    SSHError
        There is no way to the host.
    FarSideError
        There is no python3, or the probe failed there.
    """
    begun = _begun.pop((alias, json.dumps(request)), None)
    if begun is None:
        return _ask(alias, {**(request or {}), "do": "probe"}, timeout=timeout, batch=batch)
    _, result = begun.get()
    if isinstance(result, BaseException):
        raise result
    return dict(result)


def ask_who(alias: str, what: str, request: dict[str, Any], *, timeout: float = 60.0) -> dict[str, Any]:
    """Return what the program `what` of `ports.probe.piped` finds on `alias`; raises as `probe`."""
    return _ask(alias, {**request, "do": what}, timeout=timeout, batch=None)


def begin_probe(aliases: Iterable[str], request: dict[str, Any]) -> None:
    """Begin to `probe` hosts; the next call with the same `request` returns what this one finds.

    This process may do other work meanwhile: when this returns, they have been asked, or a connection is made first.
    """
    asked = []
    for alias in dict.fromkeys(aliases):
        begun = _begun[alias, json.dumps(request)] = queue.SimpleQueue()
        asked.append(threading.Event())
        ask = functools.partial(_ask, timeout=30.0, batch=None, on_start=asked[-1].set)
        _in_thread(alias, functools.partial(ask, request={**request, "do": "probe"}), begun)
    until = time.monotonic() + _ASKED_SECONDS
    for one in asked:
        one.wait(max(0.0, until - time.monotonic()))


def run_ports(
    alias: str,
    argv: list[str],
    *,
    stdin: str = "",
    cwd: str | None = None,
    timeout: float = 120.0,
    batch: bool | None = None,
    login: bool = False,
) -> Any:
    """Run ``ports <argv> --json`` on `alias` and return the JSON document that it printed.

    The interpreter there is that of the setting ``ports.hosts.<alias>.env``, else the one in which `ports` last ran on
    the host, else the one on the login shell's PATH.

    Parameters
    ----------
    login : bool
        Take the environment of the login shell there, as a command typed there would.

    Raises
    ------
    SSHError
        There is no way to the host.
    FarSideError
        `ports` is not there, or did not print JSON.
    PortsError
        What the command there raised, with the same exit code.
    """
    far_argv = json.dumps([*argv, *([] if "--json" in argv else ["--json"])])
    # not as arguments: all users there see those, and one may be a variable that holds a key
    request: dict[str, Any] = {"do": "run", "argv": ["--arguments-from-stdin"], "stdin": f"{far_argv}\n{stdin}"}
    request |= {"env": settings.host(alias).get("env"), "login": login}
    if cwd:
        request["cwd"] = cwd
    answer = _ask(alias, request, timeout=timeout, batch=batch)
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
    for line in str(answer["stderr"]).splitlines():  # its warnings
        if line.startswith("ports: "):
            warn(f"{alias}: {targets.hints_at(alias, line.removeprefix('ports: '))}")
    return document


def interactive(alias: str, argv: list[str]) -> None:
    """Replace this process by ``ports <argv>`` on `alias`, at this terminal; raises as `run`."""
    request = {"do": "run", "argv": ["--version"], "env": settings.host(alias).get("env")}
    command = str(_ask(alias, request, timeout=60, batch=None)["command"])
    names = ["env", f"{CALLED}={alias}"] if "attach" in argv[1:2] else []  # a shell would hand it on
    words = [*names, command, *([] if command.endswith("/ports") else ["-m", "ports"]), *argv]
    for word in words:
        if not re.fullmatch(r"[\w@%+=:,./-]+", word):  # which shell would read it there is not known
            raise FarSideError(alias, f"{word!r} cannot be handed to the shell there; use letters, digits, '-' and '/'")
    _transport.interactive(alias, " ".join(words))


def login(alias: str) -> dict[str, Any]:
    """Connect to `alias`, and return its row; where a person must answer a prompt, this is where it is asked.

    Raises
    ------
    LoginNeededError
        There is no terminal to ask at.
    SSHError
        There is no way to the host.
    """
    user, address, kept = _transport.login(alias)
    row = {"host": alias, "kind": "host", "state": "connected", "user": user, "address": address}
    return row if kept else {**row, "note": "paramiko's connection lives as long as its command, so this one has ended"}


def logout(*aliases: str) -> list[dict[str, Any]]:
    """End connections that are kept for later commands, and return a row for each; the user's own ssh goes on.

    Those that go through one that ends, as to a jump host, end with it.

    Parameters
    ----------
    *aliases : str
        Hosts; the row of one to which no connection was kept has the state ``nothing``. None: all connections.
    """
    kept = _kept(aliases)
    wanted = {openssh.places(alias)[-1].control for alias in aliases} if aliases else {way[-1].control for way in kept}
    ended = [way for way in kept if any(place.control in wanted for place in way)]
    for way in sorted(ended, key=len, reverse=True):  # a jump host's last
        openssh.end_master(way[-1])
    rows = [_host_row(way[-1].alias, "disconnected") for way in ended]
    if not aliases:
        return rows + [_host_row(None, "disconnected") for _ in range(openssh.close_all())]
    there = {way[-1].control for way in ended}
    missing = [alias for alias in dict.fromkeys(aliases) if openssh.places(alias)[-1].control not in there]
    return rows + [_host_row(alias, "nothing") for alias in missing]


def _kept(named: tuple[str, ...]) -> list[list[openssh.Master]]:
    """Return the connections that are kept, each with those that it goes through, under the names that are known."""
    found: dict[Path, list[openssh.Master]] = {}
    if not openssh.kept():  # else ssh need not be asked what each alias means
        return []
    for alias in dict.fromkeys([*named, *openssh.aliases()]):
        with contextlib.suppress(PortsError):  # a line for another host that cannot be read
            way = openssh.places(alias)
            if way[-1].control not in found and openssh.is_running(way[-1].control):
                found[way[-1].control] = way
    return list(found.values())


def _host_row(alias: str | None, state: str) -> dict[str, Any]:
    return {"host": alias, "kind": "host", "name": None, "state": state, "url": None}


def is_connected(alias: str) -> bool:
    """Tell whether a connection to `alias` is kept; nothing is connected, and whether it carries is not asked."""
    return _transport.is_connected(alias)


def on_each(
    aliases: Iterable[str],
    function: Callable[[str], T],
    *,
    on_result: Callable[[str, T | PortsError], None] | None = None,
) -> dict[str, T | PortsError]:
    """Call `function` for all hosts at once; a host that is down or slow costs the others nothing.

    Parameters
    ----------
    on_result : callable, optional
        Is called, in this thread, with each host's result as soon as it is there.

    Returns
    -------
    dict
        The result of each host, or the error that it raised, in the order of `aliases`.
    """
    names = list(dict.fromkeys(aliases))
    results: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    for name in names:
        _in_thread(name, function, results)
    found: dict[str, T | PortsError] = {}
    try:
        while len(found) < len(names):
            alias, result = results.get()
            if isinstance(result, BaseException) and not isinstance(result, PortsError):
                raise result
            found[alias] = result
            if on_result is not None:
                on_result(alias, result)
    except BaseException:
        _transport.end_all()
        raise
    return {name: found[name] for name in names}


def _in_thread(alias: str, function: Callable[[str], Any], results: queue.SimpleQueue[tuple[str, Any]]) -> None:
    def call() -> None:
        try:
            results.put((alias, function(alias)))
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            results.put((alias, error))

    # a daemon: a host that hangs must not keep the process, after Ctrl-C, until its time is over
    threading.Thread(target=call, name=f"host-{alias}", daemon=True).start()


def failed_row(alias: str, error: PortsError) -> dict[str, Any]:
    """Return the row of a host that failed, for a listing of several."""
    return {**_host_row(alias, "error"), "error": str(error), "exit_code": error.exit_code}


def nothing_rows(alias: str, hosts: Sequence[str]) -> list[dict[str, Any]]:
    """Return the row of a host on which there is nothing, for a listing of several; of one, an empty list says it."""
    return [_host_row(alias, "nothing")] if len(hosts) > 1 else []


def probe_names(alias: str) -> dict[str, Any]:
    """Return, for a request to the probe, the name that leads to `alias` and the other nodes that the settings name.

    Raises
    ------
    SSHError
        The configuration cannot be read.
    """
    if "/" in alias:  # it is a node
        return {}
    return {"called": _transport.hostname(alias), "nodes": settings.host(alias).get("nodes")}


def _ask(
    alias: str,
    request: dict[str, Any],
    *,
    timeout: float,
    batch: bool | None,
    on_start: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Pipe the program for `request` to python3 on the host, and return its answer."""
    if request["do"] == "probe":
        request = {**request, **probe_names(alias)}
    marker = f"ports-{os.urandom(8).hex()}:"  # start files of the shell there may print, before and after
    text = script({**request, "marker": marker}).encode()
    again = request["do"] in ("probe", "who")  # they only look
    done = _transport.run_command(
        alias, _PYTHON, input=text, timeout=timeout, batch=batch, repeatable=again, on_start=on_start
    )
    answer = read_answer(done.output, marker)
    if answer is None and _NO_PYTHON.search(done.stderr + done.output) and (named := named_python(alias)):
        done = _transport.run_command(alias, f"exec {named} -I -S -", input=text, timeout=timeout, batch=batch)
        answer = read_answer(done.output, marker)
    if answer is None:
        raise FarSideError(alias, _why_no_answer(alias, done))
    if "error" in answer:
        message = str(answer.get("message") or answer["error"])
        raise FarSideError(alias, message.replace("hosts.<alias>", f"hosts.{alias}"))
    return {**answer, "stderr": done.stderr}


def named_python(alias: str) -> str | None:
    """Return the interpreter of the environment that the settings name by its path, where that needs no quoting."""
    env = str(settings.host(alias).get("env") or "")
    return f"{env.rstrip('/')}/bin/python" if re.fullmatch(r"[~/][\w@%+=:,./-]*", env) else None


def _why_no_answer(alias: str, done: _transport.Completed) -> str:
    lines = [line.strip() for line in (done.stderr + "\n" + done.output).splitlines() if line.strip()]
    if "SyntaxError" in done.stderr:
        return "python3 there is older than 3.6; load a newer one in the start file of your shell there"
    missing = [line for line in lines if "python" in line and _NO_PYTHON.search(line)]
    if missing:
        return (
            f"there is no python3 ({missing[-1]}); load one in the start file of your shell there, or name an "
            f"environment by its path as ports.hosts.{alias}.env in the settings"
        )
    last = f": {lines[-1]}" if lines else ""
    return (
        f"the shell there ended with status {done.status} before python3 answered{last}; try `ssh {alias} python3 -V`"
    )
