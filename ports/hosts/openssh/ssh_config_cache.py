"""What `ssh -G` said, remembered for as long as none of the files that it read has changed: it costs 8 ms a hop.

Nothing is remembered where the answer depends on more than files: on a command (``Match exec``), on the network
(``Match localnetwork``, ``CanonicalizeHostname``), on variables of the environment.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shlex
import shutil
import time
from pathlib import Path
from typing import Any

from ports.errors import PortsError
from ports.probe import sha256
from ports.state import make_private, records, runtime_directory

_DEEPEST = 16  # as ssh
_JUST_NOW_NS = 2_000_000_000  # two changes within the clock's grain look alike
_PLAIN = ("host", "originalhost", "user", "localuser")

Stamp = list[list[Any]]


class _OtherThanFilesError(Exception):
    """The configuration depends on more than files."""


def stamp(program: str, chosen: Path | None) -> Stamp | None:
    """Return stamps that show later whether a file of the configuration has changed; None where more than files counts.

    Parameters
    ----------
    chosen : Path, optional
        The only configuration file, of ``-F``. Default: the user's and the system's.
    """
    found = shutil.which(program)
    if found != "/usr/bin/ssh" or os.name == "nt":  # another build has its system-wide configuration elsewhere
        return None
    import pwd

    try:
        own = Path(pwd.getpwuid(os.getuid()).pw_dir) / ".ssh"
        stamps = [_of_file(found)]
        stamps += _of_config(str(chosen or own / "config"), str(own), 0)
        if chosen is None:
            stamps += _of_config("/etc/ssh/ssh_config", "/etc/ssh", 0)
    except (_OtherThanFilesError, KeyError, OSError, ValueError):
        return None
    newest = max(time_ns for one in stamps if one[1] == "file" and one[2] for time_ns in one[2][:2])
    return None if newest > time.time_ns() - _JUST_NOW_NS else stamps


def recall(command: list[str]) -> str | None:
    """Return what `command`, an `ssh -G`, printed, where no file has changed since."""
    if os.name == "nt":  # `stamp` had none
        return None
    try:
        known = json.loads(_file(command).read_bytes())
        same = all((_of_file(one[0]) if one[1] == "file" else _of_pattern(one[0])) == one for one in known["stamp"])
        return str(known["text"]) if same else None
    except (OSError, ValueError, KeyError, TypeError, IndexError, PortsError):
        return None


def keep(command: list[str], text: str, stamps: Stamp | None) -> None:
    """Remember what `command` printed; `stamps` were taken before it ran."""
    if stamps is None:
        return
    with contextlib.suppress(OSError, PortsError):  # it will be asked again
        file = _file(command)
        make_private(file.parent)
        records.write_json(file, {"format": records.FORMAT, "stamp": stamps, "text": text})


def _file(command: list[str]) -> Path:
    who = [*command, str(os.getuid()), os.uname().nodename]
    return runtime_directory() / "resolved" / f"{sha256(os.fsencode(json.dumps(who)))[:24]}.json"


def _of_file(path: str) -> list[Any]:
    try:
        found = Path(path).stat()
    except FileNotFoundError:
        return [path, "file", None]
    return [path, "file", [found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino]]


def _of_pattern(pattern: str) -> list[Any]:
    return [pattern, "pattern", sorted(glob.glob(pattern))]  # noqa: PTH207 - ssh takes absolute patterns


def _of_config(path: str, base: str, depth: int) -> Stamp:
    """Return the stamps of a configuration file and all that it includes; raises _OtherThanFilesError."""
    stamps = [_of_file(path)]
    if stamps[0][2] is None or depth > _DEEPEST:
        return stamps
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        key, _, value = line.strip().replace("=", " ", 1).replace("\t", " ").partition(" ")
        key = key.strip('"').lower()
        if not key or key.startswith("#"):
            continue
        words = shlex.split(value, comments=True)
        if "${" in value or (key == "match" and not _is_plain(words)):
            raise _OtherThanFilesError(line)
        if key == "canonicalizehostname" and words != ["no"]:
            raise _OtherThanFilesError(line)
        for word in words if key == "include" else ():
            if "%" in word or (word.startswith("~") and not word.startswith("~/")):
                raise _OtherThanFilesError(line)
            whole = str(Path(base).parent / word[2:]) if word.startswith("~/") else str(Path(base) / word)
            stamps.append(_of_pattern(whole))
            for included in stamps[-1][2]:
                stamps += _of_config(included, base, depth + 1)
    return stamps


def _is_plain(words: list[str]) -> bool:
    """Say whether a ``Match`` asks for nothing but names."""
    while words:
        word = words[0].lstrip("!").lower()
        if word == "all":
            words = words[1:]
        elif word in _PLAIN and len(words) > 1:
            words = words[2:]
        else:
            return False
    return True
