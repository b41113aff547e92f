"""What `ports` recorded on this machine, read without `ports`."""

import json
import os
import re

if __name__ != "__main__":  # piped, these names are there already
    from .files import own_text
    from .identity import FORMAT, is_same_process_alive, machine_id, sha256

MYPY = False
if MYPY:
    from typing import Any, Dict, List, Optional

    Json = Dict[str, Any]

NAME = re.compile(r"[a-z][a-z0-9-]{0,30}$")
TOKEN = re.compile(r"[0-9a-f]{48}$")
LARGEST = 2**62
TEXT, WHOLE, NUMBER = (str,), (int,), (int, float)
SESSION_KINDS = {"cluster": "clusters", "notebook": "notebooks"}  # and the folders of their records
# Of what is read here: its types, where it is there at all, and what must be there.
TYPES = {"directory": TEXT, "root": TEXT, "created_at": NUMBER, "started_at": NUMBER, "address": TEXT}  # type: Dict[str, Any]
TYPES.update({"dashboard": TEXT, "port": WHOLE, "base_url": TEXT, "url_path": TEXT, "token_file": TEXT})
TYPES.update({"machine": TEXT, "boot_id": TEXT, "pid_namespace": TEXT, "pid": WHOLE, "start_ticks": WHOLE})
TYPES.update({"status": WHOLE, "signal": WHOLE, "ended_at": NUMBER, "reason": TEXT, "process": (dict,)})
TYPES.update({"started_by": (dict,), "launcher": (dict,)})
NEEDED = {
    "process": ["machine", "boot_id", "pid_namespace", "pid", "start_ticks"],
    "clusters/record.json": ["started_by", "created_at", "directory"],
    "notebooks/record.json": ["started_by", "created_at", "root", "token_file"],
    "clusters/running.json": ["process", "address", "dashboard", "started_at"],
    "notebooks/running.json": ["process", "port", "base_url", "url_path", "token_file"],
}


def state_directory() -> str:
    """Return the directory of the records of `ports`, absolute; it need not exist."""
    home, state = os.environ.get("PORTS_HOME"), os.environ.get("XDG_STATE_HOME", "")
    state = state if os.path.isabs(state) else os.path.expanduser("~/.local/state")
    return os.path.abspath(os.path.expanduser(home) if home else os.path.join(state, "ports"))


def host_directory() -> str:
    """Return the directory of the records of this machine."""
    return os.path.join(state_directory(), "hosts", machine_id())


def own_runtime_directory(base: str) -> str:
    """Return where the Unix sockets of this ``PORTS_HOME`` are: `base`, or a directory in it."""
    if "PORTS_HOME" not in os.environ:
        return base
    return os.path.join(base, sha256(os.fsencode(state_directory()))[:8])


def read_record(path: str) -> "Optional[Json]":
    """Return a record, None where there is none; raises ValueError with a reason that can be shown."""
    try:
        record = json.loads(own_text(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RuntimeError) as error:  # the last: nested too deep
        raise ValueError("record %s cannot be read: %s; `ports prune` moves it aside" % (path, error))
    if not isinstance(record, dict) or type(record.get("format")) is not int:
        raise ValueError("record %s has no format number; `ports prune` moves it aside" % path)
    if record["format"] > FORMAT:
        known = (path, record["format"], FORMAT)
        raise ValueError(
            "newer: record %s has format %d, but this version of ports reads formats up to %d; upgrade ports" % known
        )
    return record


def check(record: "Json", needed: str) -> "Json":
    """Return the record; raises KeyError for what is missing, TypeError for what is of another type."""
    for key in NEEDED.get(needed, ()):
        if record[key] is None:
            raise KeyError(key)
    for key, types in TYPES.items():
        value = record.get(key)
        if value is None:
            continue
        wrong = type(value) not in types or (types != TEXT and types != (dict,) and not abs(value) < LARGEST)
        if wrong or (types == TEXT and "\0" in value):
            raise TypeError(key)
        if types == (dict,):
            check(value, "process")
    return record


def read_token(path: str) -> "Optional[str]":
    """Return the token in `path`; None where there is none, or where others may have read or written it."""
    try:
        text = own_text(path, private=True).strip()
    except (OSError, ValueError):
        return None
    return text if TOKEN.match(text) else None


def read_session(directory: str, name: str) -> "Json":
    """Return the records of one cluster or notebook server, or its ``error``."""
    session = {"name": name}  # type: Json
    try:
        for part in ("record", "running", "exit"):
            session[part] = read_record(os.path.join(directory, part + ".json"))
            if session[part]:
                kind = os.path.basename(os.path.dirname(directory))
                check(session[part], "%s/%s.json" % (kind, part))
        record, running = session["record"] or {}, session["running"]
        who = running["process"] if running else record.get("launcher") or record.get("started_by")
        session["alive"] = is_same_process_alive(who) if who and not session["exit"] else False
        if running and running.get("token_file"):
            session["token"] = read_token(running["token_file"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        text = str(error) if type(error) is ValueError else "record in %s is half a record: %r" % (directory, error)
        newer = text.startswith("newer: ")
        return {"name": name, "error": text[7:] if newer else text, "newer": newer, "alive": None}
    return session


def read_sessions(folder: str) -> "List[Json]":
    """Return what is recorded of all sessions in `folder`, ``"clusters"`` or ``"notebooks"``, on this machine."""
    directory = os.path.join(host_directory(), folder)
    try:
        names = sorted(name for name in os.listdir(directory) if NAME.match(name))
    except OSError:
        return []
    found = [read_session(os.path.join(directory, name), name) for name in names]
    return [one for one in found if "error" in one or one["record"] or one["running"] or one["exit"]]
