"""Notebook servers: JupyterLab, or the plain Jupyter server, that outlive terminal and connection.

Servers of this user that were started by hand are found too, but never changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ports import listeners, machine, probe, sessions
from ports.errors import (
    ForeignListenerError,
    NameInUseError,
    NotFoundError,
    PortsError,
    StartError,
    UsageError,
    warn,
)
from ports.listeners import Listener, links
from ports.notebooks import _jupyter
from ports.notebooks._notebook import KIND, Notebook, NotebookRecord, NotebookRunning
from ports.sessions import Environment, Found, environments, processes
from ports.state import ensure_token, make_private, paths, records, runtime_directory, settings, telling

if TYPE_CHECKING:
    import builtins

_PORTS = (10_000, 19_999)  # below the local ports of `ports open`, and below those that systems assign
# Variables that belong to the starter's own server or kernel, or would override what is passed here.
_DROPPED = ("JUPYTER_TOKEN", "JUPYTER_TOKEN_FILE", "JUPYTERHUB_")


def start(
    name: str | None = None,
    *,
    root: str | Path | None = None,
    env: str | None = None,
    idle: float | None = None,
    expire: float | None = None,
    debugger: bool | None = None,
    timeout: float | None = None,
) -> Notebook:
    """Start a notebook server and return it once it answers; it runs until `Notebook.stop`.

    It is JupyterLab, or the plain Jupyter server if Lab is not installed in that environment. It listens on 127.0.0.1
    and asks for a token. Its kernels use Unix sockets that only you can open.

    Parameters
    ----------
    name : str, optional
        Default: the setting ``notebook.name``, ``"lab"``. The same name keeps the same token.
    root : path, optional
        The directory to serve. Default: the setting ``notebook.root``, else the current directory.
    env : str, optional
        A conda environment's name or path, or a venv's path. Default: the setting
        ``hosts.<this machine>.notebook_env``, else ``notebook.env``, else the environment of this interpreter.
    idle : float, optional
        Hours without computation after which a kernel ends, with its variables, even if a browser shows it. 0: never.
        Default: the setting ``notebook.idle``.
    expire : float, optional
        Days without kernels, terminals and requests after which the server ends. 0: never. Default: the setting
        ``notebook.expire``.
    debugger : bool, optional
        Allow JupyterLab's debugger. Using it opens a port through which any user of the machine can run code as you
        until the kernel ends. Default: the setting ``notebook.debugger``, False.
    timeout : float, optional
        Give up the start after this many seconds. Default: the setting ``notebook.start_timeout``.

    Raises
    ------
    NameInUseError
        A notebook server of that name runs or is starting.
    UsageError
        `root` is not a directory, or a limit is not a number.
    NotFoundError
        There is no such environment.
    ToolMissingError
        Jupyter is not in that environment.
    StartError
        It ended, or did not answer, while it started. The error has the exit status and the last lines of the log.
    """
    paths.check_serves("notebook servers")
    defaults = settings.get("notebook")
    name = paths.check_name(name or defaults["name"])
    served = _directory(root or defaults["root"])
    asked = {"root": served, "env": env, "idle": idle, "expire": expire, "debugger": debugger}
    idle = defaults["idle"] if idle is None else idle
    expire = defaults["expire"] if expire is None else expire
    debugger = defaults["debugger"] if debugger is None else debugger
    settings.check("notebook", {"idle": idle, "expire": expire})
    environment, environ = _environment(env)
    kind = _server_in(environment, environ)
    token_file = paths.here().token(KIND, name)
    record = replace(_plan(name, served, environment, kind, token_file), idle=idle, expire=expire, debugger=debugger)
    record = replace(record, asked=sessions.words(KIND, asked))
    found = _claim(record)
    needs = environments.missing_named(record.interpreter, environ, needs=("jupyter_server",))
    with telling(f"the start of notebook {name!r}; log: {found.files.log}"), sessions.undone(found), needs:
        ensure_token(token_file)
        _fresh(Path(record.runtime))
        port = links.local_port(paths.machine(), str(os.getuid()), f"{KIND}-{name}", *_PORTS)
        argv, limit = _command(record, port), timeout or defaults["start_timeout"]
        found = sessions.start(
            found, argv, environ=environ, cwd=str(served), timeout=limit, what=f"notebook {name!r}", announce=_announce
        )
        if (warning := machine.logout_warning()) is not None:
            warn(warning)
        return _notebook(found)


def list() -> builtins.list[Notebook]:
    """Return my notebook servers on this machine: those of `ports` by name, then those that were started by hand."""
    managed = [_notebook(found) for name in sessions.names(KIND) if (found := _look(name)) is not None]
    return [*managed, *_by_hand()]


def get(name: str | None = None) -> Notebook:
    """Return my notebook server `name` on this machine, whatever its state.

    Raises
    ------
    NotFoundError
        There is none of that name.
    """
    name = name or str(settings.get("notebook.name"))
    found = _look(name) if paths.NAME.fullmatch(name) else None
    if found is not None:
        return _notebook(found)
    others = _by_hand()
    for one in others:
        if one.name == name:
            return one
    there = [*sessions.names(KIND), *(one.name for one in others)]
    hint = f"there is {', '.join(there)}" if there else "`ports notebook start` starts one"
    hint = sessions.elsewhere(KIND, name) or hint
    raise NotFoundError(KIND, name, hint)


def stop(name: str | None = None) -> None:
    """Stop my notebook server `name`; raises as `get` and `Notebook.stop`."""
    get(name).stop()


def logs(name: str | None = None, lines: int = 0, *, warnings: bool = False) -> tuple[str, ...]:
    """Return the last `lines` lines of the log of my notebook server `name`, even if it is gone; 0 for all.

    With `warnings`, only lines of warning level or worse, with the lines that continue them.

    Raises
    ------
    NotFoundError
        There was never one of that name.
    UsageError
        It was started by hand.
    """
    name = name or str(settings.get("notebook.name"))
    if paths.NAME.fullmatch(name) and (log := sessions.files(KIND, name).log).exists():
        return sessions.tail(log, lines, warnings=warnings)
    return get(name).logs(lines, warnings=warnings)


def prune() -> builtins.list[str]:
    """Remove the records of notebook servers that have stopped, and return their names; logs and tokens stay."""
    stopped = [one for one in list() if one.managed and one.state == "stopped"]
    for one in stopped:
        with contextlib.suppress(NameInUseError):  # it was started again meanwhile
            one.stop()
    return [one.name for one in stopped]


def _directory(root: str | Path | None) -> Path:
    path = Path.cwd() / Path(root).expanduser() if root is not None else Path.cwd()
    if not path.is_dir():
        reason = "is not a directory" if path.exists() else "does not exist"
        raise UsageError(f"root {str(path)!r} {reason}; pass the directory to serve")
    if not os.access(path, os.R_OK | os.X_OK):
        raise UsageError(f"root {str(path)!r} cannot be read; pass a directory of yours")
    return Path(os.path.normpath(path))


def _environment(env: str | None) -> tuple[Environment, dict[str, str]]:
    """Return the environment that a server runs in, and the variables with that environment activated."""
    given = sessions.surroundings.of_a_session()
    environ = {name: value for name, value in given.items() if not name.startswith(_DROPPED)}
    own = str(settings.get("alias") or listeners.short_name())  # what a client calls this machine decides nothing
    env = env or settings.host(own).get("notebook_env") or settings.get("notebook.env")
    return environments.of_a_start(env, environ)


def _server_in(environment: Environment, environ: Mapping[str, str]) -> Literal["lab", "server"]:
    there = _jupyter.installed(environment.python, environ)
    if there.server is None:
        raise environments.missing("Jupyter", environment, "jupyterlab", "pass env=")
    return "lab" if there.lab else "server"


def _plan(name: str, root: Path, environment: Environment, kind: str, token_file: Path) -> NotebookRecord:
    mine, now = sessions.new_identity()
    # Short for any name: the path of a Unix socket has 107 bytes, and a kernel needs 50 of them.
    digest = hashlib.sha256(os.fsencode(token_file)).hexdigest()[:10]
    return NotebookRecord(
        kind=KIND,
        name=name,
        created_at=now,
        interpreter=str(environment.python),
        directory=str(Path.cwd()),
        started_by=mine,
        root=str(root),
        server=kind,
        runtime=str(runtime_directory() / f"nb-{digest}"),
        token_file=str(token_file),
        env=str(environment.prefix),
    )


def _command(record: NotebookRecord, port: int) -> builtins.list[str]:
    return _jupyter.command(
        Path(record.interpreter),
        "lab" if record.server == "lab" else "server",
        token_file=Path(record.token_file),
        runtime=Path(record.runtime),
        root=Path(record.root),
        port=port,
        idle=record.idle,
        expire=record.expire,
        debugger=record.debugger,
        again=sessions.start_line(KIND, record.name, [*record.asked, "--debugger"]),
    )


def _claim(record: NotebookRecord) -> Found[NotebookRecord]:
    try:
        return sessions.claim(record)
    except NameInUseError as error:
        name = record.name
        guess = listeners.guess_in_brackets()
        hint = f"`{listeners.open_command(name)}` opens it at home{guess}, `ports notebook stop {name}` stops it"
        raise NameInUseError(KIND, name, hint) from error


def _fresh(runtime: Path) -> Path:
    """Create the runtime directory of a server, empty: a crashed server leaves records and sockets in it."""
    shutil.rmtree(runtime, ignore_errors=True)
    return make_private(runtime)


def _announce(found: Found[NotebookRecord]) -> None:
    """Write ``running.json`` once the server answers with its token, and refuses to answer without it.

    Raises
    ------
    StartError
        It answers without a token.
    """
    record = found.record
    assert record is not None
    served = _jupyter.read_record(Path(record.runtime))
    who = processes.identity(served.pid) if served else None
    if served is None or who is None:
        return
    if _jupyter.answer(served.port, f"{served.base_url}api/status", token=probe.read_token(record.token_file)) != 200:
        return
    if _jupyter.answer(served.port, f"{served.base_url}api/status") == 200:
        reason = "it answers without a token, because your Jupyter configuration says so; remove that from ~/.jupyter"
        raise StartError(f"notebook {found.name!r}", reason, found.files.log)
    page = f"{served.base_url.strip('/')}/{'lab' if record.server == 'lab' else ''}".strip("/")
    running = NotebookRunning(
        process=who,
        port=served.port,
        base_url=served.base_url,
        url_path=page,
        root=record.root,
        token_file=record.token_file,
        server=record.server,
        version=served.version,
    )
    records.write(found.files.running, running)


def _look(name: str) -> Found[NotebookRecord] | None:
    found = sessions.find(KIND, name, NotebookRecord)
    if found is not None and found.state == "starting" and found.record is not None and found.record.launcher:
        with contextlib.suppress(PortsError):
            _announce(found)  # its starter may have been killed before it answered
        found = sessions.find(KIND, name, NotebookRecord)
    return found


def _notebook(found: Found[NotebookRecord]) -> Notebook:
    record, running = found.record, found.running
    state, reason = found.state, _why_ended(found)
    if not isinstance(running, NotebookRunning) or record is None:
        root = record.root if record else None
        return Notebook(name=found.name, state=state, reason=reason, root=root, _found=found)
    if state == "running" and (why := _silence(running.port, f"{running.base_url}api")) is not None:
        state, reason = "unknown", f"its process is alive, but {why}; log: {found.files.log}"
    return Notebook(
        name=found.name,
        state=state,
        reason=reason,
        root=record.root,
        port=running.port,
        url_path=running.url_path,
        pid=running.process.pid,
        started_at=record.created_at,
        _found=found,
    )


def _why_ended(found: Found[NotebookRecord]) -> str | None:
    """Return why it does not run. If it ended by itself, the reason is only in its log."""
    expired, began = "No kernels for", found.record.created_at if found.record else 0.0
    lines = sessions.tail_of_start(found.files.log, 20, began=began) if found.reason == "exit status 0" else ()
    if not any(expired in line for line in lines):
        return found.reason
    return f"it expired: no kernel ran for {found.record.expire:g} days" if found.record else found.reason


def _silence(port: int, path: str) -> str | None:
    """Return why a server does not answer at `port`; None if it does. The request needs no token."""
    try:
        return None if _jupyter.answer(port, path) is not None else "does not answer"
    except ForeignListenerError as error:  # another user may have taken a dead server's port
        return f"{error.listener} belongs to {error.owner}"


def _by_hand() -> builtins.list[Notebook]:
    """Return my notebook servers that were not started by `ports`."""
    return [_foreign(one) for one in listeners.list() if one.kind == KIND and one.mine and not one.managed]


def _foreign(one: Listener) -> Notebook:
    state, reason = one.state, one.reason
    local = one.port is not None and one.scheme == "http" and one.address in ("127.0.0.1", "0.0.0.0", "::")
    if local and (why := _silence(one.port or 0, f"/{one.url_path}")) is not None:
        state, reason = "unknown", f"its process is alive, but {why}"
    return Notebook(
        name=str(one.name),
        state=state,
        reason=reason,
        root=one.directory,
        port=one.port,
        path=one.path,
        scheme=one.scheme,
        url_path=one.url_path,
        pid=one.pid,
        started_at=one.started_at,
        managed=False,
        open_to_network=one.open_to_network,
        hub=one.hub,
        warnings=one.warnings,
        _token=one.token,
    )
