"""Run `ports` on this machine for a user on another one: find the interpreter, then run it."""

import os
import re
import select
import signal
import subprocess
import time

if __name__ != "__main__":  # piped, these names are there already
    from ..clients import note_client
    from ..delivery import attend, deliver, is_start
    from ..installations import environment_python, way_to_ports
    from ..own_host import host_directory, read_record

MYPY = False
if MYPY:
    from typing import Any, Dict, List, Optional

    Json = Dict[str, Any]


class StartFilesError(Exception):
    """The start files of the login shell do not come to their end; the text says what they do."""


def login_shell() -> str:
    """Return this user's login shell."""
    import pwd  # home, where this does not run, may be Windows

    return os.environ.get("SHELL") or pwd.getpwuid(os.getuid()).pw_shell or "/bin/sh"


def login_environment(timeout: float = 20.0, environ: "Optional[Dict[str, str]]" = None) -> "Dict[str, str]":
    """Return the environment that this user's login shell makes; raises StartFilesError where it shows none.

    `environ` is what it begins with, by default this process's.

    The shell runs ``env``, which every shell understands, even tcsh and fish. What its start files print comes before
    the first variable or after the last.
    """
    shell = login_shell()
    # without a locale, fish garbles letters of variables
    given = dict(os.environ if environ is None else environ)
    letters = {} if any(map(given.get, ("LC_ALL", "LC_CTYPE", "LANG"))) else {"LC_CTYPE": "C.UTF-8"}
    try:
        child = subprocess.Popen(
            [
                "-" + os.path.basename(shell),
                "-c",
                "env -0" if "rbash" in shell else "/usr/bin/env -0",
            ],  # a leading "-" makes a login shell, in all of them
            executable=shell,
            env=dict(given, **letters),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise StartFilesError("your login shell %s does not start there (%s)" % (shell, error.strerror)) from None
    try:
        output = output_of(child, timeout).decode("utf-8", "surrogateescape")
    except subprocess.TimeoutExpired:
        raise StartFilesError("your start files there took more than %g s" % timeout) from None
    items = [item.rpartition("\n")[2] if i == 0 else item for i, item in enumerate(output.split("\0")[:-1])]
    pairs = [item.split("=", 1) for item in items if re.match(r"\w+=", item)]
    found = {key: value for key, value in pairs if letters.get(key) != value}
    if not found:
        raise StartFilesError(
            "your start files there ended the shell (exit or exec), with status %d" % child.returncode
        )
    return found


def output_of(child: "Any", timeout: float) -> bytes:
    """Return what a process that leads its own session wrote; raises subprocess.TimeoutExpired, and then it is ended.

    A daemon that it started can keep its stdout open, so the end of the process counts, not that of its output.
    """
    chunks, until = [], time.monotonic() + timeout  # type: List[bytes], float
    with child.stdout as pipe:
        while time.monotonic() < until:
            has_ended = child.poll() is not None  # before the look: what it wrote is in the pipe by now
            if select.select([pipe], [], [], 0 if has_ended else 0.05)[0]:
                chunks.append(os.read(pipe.fileno(), 65536))
                if not chunks[-1]:
                    break
            elif has_ended:
                break
    try:
        child.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        raise
    return b"".join(chunks)


class LoginShell:
    """This user's login shell, which is asked once for its environment, and may take `timeout` seconds."""

    def __init__(self, timeout: "Optional[float]") -> None:
        self._timeout = timeout or 20.0
        self._found = None  # type: Any

    def environment(self) -> "Dict[str, str]":
        """Return what `login_environment` returns, or raise what it raises."""
        if self._found is None:
            try:
                self._found = login_environment(self._timeout)
            except StartFilesError as error:
                self._found = error
        if isinstance(self._found, StartFilesError):
            raise self._found
        return dict(self._found)


def find_command(env: "Optional[str]", environ: "Dict[str, str]", shell: LoginShell) -> "List[str]":
    """Return the command that starts `ports` here; raises LookupError with a sentence that says what to do."""
    hint = "name the environment that has it as ports.hosts.<alias>.env in the settings at home"
    if env:
        python = environment_python(env)
        if python is None:
            raise LookupError("there is no environment %r there; %s" % (env, way_to_ports() or hint))
        return [python, "-m", "ports"]
    try:
        recorded = (read_record(os.path.join(host_directory(), "host.json")) or {}).get("python")
    except (OSError, ValueError):  # newer, or broken: the program itself says so
        recorded = None
    if recorded and os.access(recorded, os.X_OK):
        return [recorded, "-m", "ports"]
    unknown = ""
    try:
        environ.update(shell.environment())
    except StartFilesError as error:
        unknown = "%s, so the PATH of your login shell is unknown; " % error
    for directory in environ.get("PATH", "").split(os.pathsep):
        program = os.path.join(directory, "ports")
        if os.path.isfile(program) and os.access(program, os.X_OK):
            return [program]
    if unknown:
        mend = "%smend them (`[ -t 0 ] || return` before such a line), or %s"
        raise LookupError(mend % (unknown, way_to_ports() or hint))
    way = way_to_ports(login_shell())
    if way:
        raise LookupError("ports is not on the PATH of your login shell there; %s" % way)
    raise LookupError("ports is not installed there, or not on the login shell's PATH; install it, or %s" % hint)


def has_ports(command: "List[str]") -> bool:
    """Tell whether the interpreter of a command knows `ports`."""
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('ports') is None)"
    return subprocess.call([command[0], "-c", code], stdin=subprocess.DEVNULL) == 0


def run(request: "Json") -> "Optional[Json]":
    """Run ``ports <argv>`` in the right interpreter, its stderr passed through, its stdout in the answer.

    The answer is sent here, because a start whose answer nobody took is undone. None: that was done.

    Parameters
    ----------
    request : dict
        ``argv``; ``env``, a conda environment's name or path, or a venv's path; ``cwd`` (the home); ``stdin``, a text;
        ``environ``, variables to set; ``login`` (False) takes the whole environment of the login shell first;
        ``patience`` (20), the seconds that its start files may take; ``starts`` (False): it starts a session, which is
        stopped again where nobody reads the answer; ``came`` is the client, see `note_client`; ``shell`` (False): a
        shell of `ports` follows.
    """
    environ = dict(os.environ)
    warning, shell = None, LoginShell(request.get("patience"))
    if request.get("login"):
        try:
            environ.update(shell.environment())
        except StartFilesError as error:
            warning = "%s; the command runs without the environment of your login shell" % error
    environ.update(request.get("environ") or {})
    cwd = os.path.expanduser(request.get("cwd") or "~")
    try:
        command = find_command(request.get("env"), environ, shell)
    except LookupError as error:
        return {"error": "no-ports", "message": str(error)}
    os.environ.update((name, environ[name]) for name in ("PORTS_HOME", "XDG_STATE_HOME") if name in environ)
    note_client(request.get("came"))  # the command may print the alias
    try:
        child = subprocess.Popen(
            command + request["argv"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=cwd, env=environ
        )
    except OSError as error:
        return {"error": "failed", "message": "%s: %s" % (error.filename or command[0], error.strerror)}
    output = attend(child, (request.get("stdin") or "").encode())
    if child.returncode == 0:
        note_client(request.get("came"), make=bool(request.get("shell")))  # the first start here makes the directory
    if child.returncode == 1 and not output and command[1:] and not has_ports(command):
        other = way_to_ports() or "install it there, or name another environment"
        return {"error": "no-ports", "message": "%s has no ports; %s" % (command[0], other)}
    text = output.decode("utf-8", "replace")
    answer = {"status": child.returncode, "stdout": text, "command": command[0], "warning": warning}  # type: Json
    answer["home"] = os.path.expanduser("~")
    if request.get("starts") and is_start(text):
        deliver(request, answer, command, environ, cwd)
        return None
    return answer
