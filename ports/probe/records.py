"""What `ports` recorded on this machine, read without `ports`."""

import os
import re

if __name__ != "__main__":  # piped, these names are there already
    from .files import own_text
    from .living import is_session_alive
    from .own_host import host_directory, own_names, read_record

MYPY = False
if MYPY:
    from typing import Any, Dict, List, Optional

    Json = Dict[str, Any]

NAME = re.compile(r"[a-z][a-z0-9-]{0,30}$")
TOKEN = re.compile(r"[0-9a-f]{48}$")
LARGEST = 2**62
TEXT, WHOLE, NUMBER = (str,), (int,), (int, float)
# and the folders of their records
SESSION_KINDS = {"cluster": "clusters", "notebook": "notebooks", "resource": "resources"}
# Of what is read here: its types, where it is there at all, and what must be there.
TYPES = {"directory": TEXT, "root": TEXT, "created_at": NUMBER, "started_at": NUMBER, "address": TEXT}  # type: Dict[str, Any]
TYPES.update({"dashboard": TEXT, "port": WHOLE, "base_url": TEXT, "url_path": TEXT, "token_file": TEXT})
TYPES.update({"machine": TEXT, "boot_id": TEXT, "pid_namespace": TEXT, "pid": WHOLE, "start_ticks": WHOLE})
TYPES.update({"status": WHOLE, "signal": WHOLE, "ended_at": NUMBER, "reason": TEXT, "process": (dict,)})
TYPES.update({"started_by": (dict,), "launcher": (dict,)})
NEEDED = {
    "process": ["machine", "boot_id", "pid_namespace", "pid", "start_ticks"],
    "clusters/record.json": ["started_by", "created_at", "directory"],
    "resources/record.json": ["started_by", "created_at"],
    "resources/running.json": ["process", "started_at"],
    "notebooks/record.json": ["started_by", "created_at", "root", "token_file"],
    "clusters/running.json": ["process", "address", "dashboard", "started_at"],
    "notebooks/running.json": ["process", "port", "base_url", "url_path", "token_file"],
}


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
        session["alive"] = is_session_alive(who, directory, own_names) if who and not session["exit"] else False
        if running and running.get("token_file"):
            session["token"] = read_token(running["token_file"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        text = str(error) if type(error) is ValueError else "record in %s is half a record: %r" % (directory, error)
        newer = text.startswith("newer: ")
        return {"name": name, "error": text[7:] if newer else text, "newer": newer, "alive": None}
    return session


def read_sessions(folder: str) -> "List[Json]":
    """Return what is recorded of all sessions in `folder`, ``"clusters"`` or ``"notebooks"``, on this machine.

    Raises OSError where that cannot be read: nothing is known then, and not that there are none.
    """
    directory = os.path.join(host_directory(), folder)
    try:
        names = sorted(name for name in os.listdir(directory) if NAME.match(name))
    except FileNotFoundError:
        return []
    found = [read_session(os.path.join(directory, name), name) for name in names]
    return [one for one in found if "error" in one or one["record"] or one["running"] or one["exit"]]
