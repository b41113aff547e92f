"""The environment that `--setup` makes for scripts: made once, by one job, and used by all that ask for the same.

It is a program: ``python -I -S set_up.py ENVIRONMENTS PYTHON COMMAND WORD…`` makes the environment unless it is there,
and becomes WORD…, with the environment active. So the output of the setup is the job's, and time limit and
cancellation of the job hold for it. Standard library only.

An environment is named after the command, the interpreter, and the content of the files that the command names. It is a
venv with a file `READY`, which comes last: one without it is thrown away. ``<name>.lock`` is held by who makes it, and
shared by who uses it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable

READY = "ready.json"
FAILED = "setup.json"  # in the directory of the job
_STATUS = 125  # of the script where its environment could not be made
_VENV = "python -m venv"


class SetUpError(Exception):
    """The environment cannot be made; `status` is the exit status of what failed."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


def name_of(python: str, command: str, directory: str) -> str:
    """Return the name of the environment: another command, interpreter or content of a file makes another one."""
    parts: list[object] = [1, os.path.realpath(python), _version(python), command]
    for word in words_of(command):
        path = os.path.join(directory, word)
        if os.path.isfile(path):
            with open(path, "rb") as file:
                parts.append([word, hashlib.sha256(file.read()).hexdigest()])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def words_of(command: str) -> list[str]:
    """Return the words of a command that can name files: ``-r requirements.txt``, ``--file=env.yaml``."""
    try:
        words = shlex.split(command)
    except ValueError:  # a quotation without end, which the shell will say
        words = command.split()
    return [part for word in words for part in dict.fromkeys((word, word.partition("=")[2])) if part]


def _version(python: str) -> str:
    """Return the version of an interpreter; raises SetUpError where there is none."""
    code = "import sys; print(*sys.version_info[:3], sep='.')"
    try:
        done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise SetUpError(f"{python} is no Python that runs here ({error})") from error
    return done.stdout.strip()


def made(environments: str, python: str, command: str, directory: str) -> str:
    """Return the environment, which this process uses from now on; it is made if nobody has done so before.

    Raises
    ------
    SetUpError
        The command failed; the next job tries again.
    """
    os.makedirs(environments, mode=0o700, exist_ok=True)
    name = name_of(python, command, directory)
    target, lock = os.path.join(environments, name), os.path.join(environments, f"{name}.lock")
    ready = os.path.join(target, READY)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    os.set_inheritable(descriptor, True)  # for as long as the script runs
    while True:
        _lock(descriptor, fcntl.LOCK_SH)
        if os.path.exists(ready):
            os.utime(ready)  # it was used
            return target
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # of two that share it, neither would get it alone
        _lock(descriptor, fcntl.LOCK_EX)
        if not os.path.exists(ready):
            _make(target, python, command, directory)


def _lock(descriptor: int, how: int) -> None:
    """Take a lock, and say so where another job has it."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        print("ports: waiting for another job, which makes the environment of --setup", file=sys.stderr, flush=True)
        fcntl.flock(descriptor, how)


def _make(target: str, python: str, command: str, directory: str) -> None:
    print(f"ports: making the environment of --setup in {target}: {command}", file=sys.stderr, flush=True)
    shutil.rmtree(target, ignore_errors=True)  # of a job that was killed
    try:
        _run([python, "-m", "venv", target], directory, dict(os.environ), _VENV)
        _run(["/bin/sh", "-e", "-c", command], directory, active(target, os.environ), command)
        os.sync()  # a power cut must not leave empty modules behind a `READY`
        with open(os.path.join(target, READY), "x", encoding="utf-8") as file:
            json.dump({"format": 1, "command": command, "python": python}, file)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _run(words: list[str], directory: str, environ: dict[str, str], called: str) -> None:
    environ.pop("PYTHONHOME", None)
    done = subprocess.run(words, cwd=directory, env=environ, check=False)
    if done.returncode:
        ended = f"signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
        raise SetUpError(f"`{called}`: {ended}", done.returncode)


def active(target: str, environ: os._Environ[str] | dict[str, str]) -> dict[str, str]:
    """Return the variables of a process in the environment `target`, as its ``activate`` sets them."""
    programs = os.path.join(target, "bin")
    path = environ.get("PATH", os.defpath)
    kept = {name: value for name, value in environ.items() if name != "PYTHONHOME"}
    return {**kept, "VIRTUAL_ENV": target, "PATH": f"{programs}{os.pathsep}{path}"}


def put_aside(environments: str, is_old: Callable[[float], bool]) -> list[str]:
    """Rename the environments that no job uses and that are old, which are to be removed; return their new paths.

    Parameters
    ----------
    is_old : callable
        Gets when one was last used.
    """
    aside = []
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(environments):
            target, lock = os.path.join(environments, name), os.path.join(environments, f"{name}.lock")
            if name.endswith(".lock") or not os.path.isdir(target):
                continue
            with contextlib.suppress(OSError), open(lock, "a") as file:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                ready = os.path.join(target, READY)
                if is_old(os.stat(ready if os.path.exists(ready) else target).st_mtime):
                    os.rename(target, f"{target}.old")
                    aside.append(f"{target}.old")
    return aside


def main(words: list[str]) -> int:
    """Make the environment, and become the command in it; return an exit status if that fails."""
    environments, python, command, *argv = words
    directory = os.getcwd()
    try:
        target = made(environments, python or sys.executable, command, directory)
        os.environ.update(active(target, os.environ))
        os.environ.pop("PYTHONHOME", None)
        os.execvp(argv[0], argv)
    except SetUpError as error:
        _note(str(error), error.status)
        print(f"ports: the setup failed: {error}", file=sys.stderr)
    except OSError as error:
        if error.filename == argv[0] or not error.filename:
            print(f"ports: cannot run {argv[0]}: {error.strerror}", file=sys.stderr)
            return 127
        _note(f"{error.filename}: {error.strerror}", 1)
        print(f"ports: the setup failed: {error.filename}: {error.strerror}", file=sys.stderr)
    return _STATUS


def _note(text: str, status: int) -> None:
    """Note for the launcher that it was the setup which failed."""
    kept = os.environ.get("PORTS_JOB_DIRECTORY", "")
    told = {"attempt": int(os.environ.get("PORTS_ATTEMPT") or 0), "status": status, "text": text[:500]}
    with contextlib.suppress(OSError), open(os.path.join(os.path.dirname(kept), FAILED), "w") as file:
        json.dump(told, file)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
