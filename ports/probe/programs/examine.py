"""What `ports doctor` wants to know about a machine: programs, space, memory, clock. It only looks."""

import os
import shutil
import subprocess
import sys
import time

if __name__ != "__main__":  # piped, these names are there already
    from ..identity import FORMAT, user_name
    from ..logout import login_ends, logout_ends
    from ..memory import limits
    from ..own_host import state_directory
    from ..programs.run import LoginShell, StartFilesError, find_command

MYPY = False
if MYPY:
    from typing import Any, Dict, List, Optional

    Json = Dict[str, Any]

PATIENCE = 10  # seconds for a program to say its version


def examine(request: "Optional[Json]" = None) -> "Json":
    """Return what matters to `ports` on this machine; nothing is written.

    Parameters
    ----------
    request : dict
        With ``ports`` (False) it also looks at the login shell, and for `ports`, in the environment ``env`` if given,
        as `run` does; ``patience`` is `run`'s.
    """
    wanted = request or {}
    environ = dict(os.environ, PYTHONDONTWRITEBYTECODE="1")
    facts = {"format": FORMAT, "began": time.time(), "host": os.uname().nodename, "platform": sys.platform}  # type: Json
    user = user_name(os.getuid())
    facts.update(user=user, python="%d.%d.%d" % sys.version_info[:3], executable=sys.executable)
    facts.update(logout_ends=logout_ends(user), login_ends=login_ends(user))
    facts.update(state=space(state_directory()), memory=memory_left())
    shell, login = LoginShell(wanted.get("patience")), {}  # type: LoginShell, Dict[str, str]
    facts["start_files"] = None
    there = shutil.which("tmux", path=environ.get("PATH"))
    if wanted.get("ports") or not there:  # its start files may take long
        try:
            login = shell.environment()
        except StartFilesError as error:
            facts["start_files"] = str(error)
    if not there:
        environ.update(login)
    facts["tmux"] = first_line([shutil.which("tmux", path=environ.get("PATH")), "-V"], environ)
    if wanted.get("ports"):
        facts["ports"] = installed(wanted.get("env"), environ, shell)
    facts["time"] = time.time()
    return facts


def installed(env: "Optional[str]", environ: "Dict[str, str]", shell: LoginShell) -> "Json":
    """Return version and interpreter of the `ports` that `run` would start, or the ``error``."""
    try:
        command = find_command(env, environ, shell)
    except LookupError as error:
        return {"error": str(error)}
    line = first_line([*command, "--version"], environ)
    if line is None or "version" not in line:
        return {"error": "%s has no ports that works (%s)" % (command[0], line)}
    return {"version": line.split()[-1], "command": command[0]}


def first_line(command: "List[Any]", environ: "Dict[str, str]") -> "Optional[str]":
    """Return the last line that a program prints, or why there is none; None if there is no such program."""
    if not command[0]:
        return None
    try:
        child = subprocess.Popen(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    except OSError as error:
        return "it does not start (%s)" % error.strerror
    try:
        lines = child.communicate(timeout=PATIENCE)[0].decode("utf-8", "replace").strip().splitlines()
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return "it did not answer within %d s" % PATIENCE
    return lines[-1].strip() if lines else "it ended with status %d and said nothing" % child.returncode


def space(path: str) -> "Json":
    """Return what this user has left on the disk of `path`, which need not exist."""
    there = os.path.abspath(path)
    while not os.path.lexists(there) and there != os.path.dirname(there):
        there = os.path.dirname(there)
    found = {"path": path, "place": there}  # type: Json
    if not hasattr(os, "statvfs"):  # Windows
        disk_there = shutil.disk_usage(there)
        found.update(free_bytes=disk_there.free, total_bytes=disk_there.total, free_files=0, total_files=0)
        found["writable"] = os.path.isdir(there) and os.access(there, os.W_OK)
        return found
    try:
        disk = os.statvfs(there)
    except OSError as error:
        found["error"] = error.strerror
        return found
    found.update(free_bytes=disk.f_bavail * disk.f_frsize, total_bytes=disk.f_blocks * disk.f_frsize)
    found.update(free_files=disk.f_favail, total_files=disk.f_files)  # 0 of 0: the disk does not count them
    found["writable"] = os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK)
    return found


def memory_left(root: str = "") -> "Json":
    """Return the memory that this user may have and what is left of it, in bytes; empty without /proc."""
    if not os.path.exists(root + "/proc/meminfo"):
        return {}
    found = limits(root)
    told = {"total_bytes": found["limit_bytes"]}  # type: Json
    told["free_bytes"] = min(found["available_bytes"], found["limit_available_bytes"])
    if found["limit_bytes"] < found["total_bytes"]:
        told["limited"] = True
    return told
