"""What `ports` recorded on this machine, read without `ports`."""

import json
import os
import re

if __name__ != "__main__":  # piped, these names are there already
    from ports.probe.identity import FORMAT, is_same_process_alive, machine_id, read_bytes

MYPY = False
if MYPY:
    from typing import Any, Dict, List, Optional

    Json = Dict[str, Any]

NAME = re.compile(r"[a-z][a-z0-9-]{0,30}$")


def state_directory() -> str:
    """Return where `ports` keeps its records."""
    state = os.environ.get("XDG_STATE_HOME", "")
    state = state if os.path.isabs(state) else os.path.expanduser("~/.local/state")
    return os.path.expanduser(os.environ.get("PORTS_HOME") or os.path.join(state, "ports"))


def host_directory() -> str:
    """Return where the records of this machine are."""
    return os.path.join(state_directory(), "hosts", machine_id())


def read_record(path: str) -> "Optional[Json]":
    """Return a record, None where there is none; raises ValueError with a reason that can be shown."""
    try:
        with open(path, encoding="utf-8") as file:
            record = json.load(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise ValueError("record %s cannot be read: %s; `ports prune` moves it aside" % (path, error))
    if not isinstance(record, dict) or not isinstance(record.get("format"), int):
        raise ValueError("record %s has no format number; `ports prune` moves it aside" % path)
    if record["format"] > FORMAT:
        known = (path, record["format"], FORMAT)
        raise ValueError("newer: record %s has format %d, this ports knows up to %d; upgrade it" % known)
    return record


def read_session(directory: str, name: str) -> "Json":
    """Return the records of one cluster or notebook server, or its ``error``."""
    session = {"name": name}  # type: Json
    try:
        for part in ("record", "running", "exit"):
            session[part] = read_record(os.path.join(directory, part + ".json"))
        record, running = session["record"] or {}, session["running"]
        who = running["process"] if running else record.get("launcher") or record.get("started_by")
        session["alive"] = is_same_process_alive(who) if who and not session["exit"] else False
        if running and running.get("token_file"):
            session["token"] = read_bytes(running["token_file"]).decode().strip()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        text = str(error) if type(error) is ValueError else "record in %s is half a record: %r" % (directory, error)
        newer = text.startswith("newer: ")
        return {"name": name, "error": text[7:] if newer else text, "newer": newer, "alive": None}
    return session


def read_sessions(kind: str) -> "List[Json]":
    """Return what is recorded of all sessions of `kind`, ``"clusters"`` or ``"notebooks"``, on this machine."""
    directory = os.path.join(host_directory(), kind)
    try:
        names = sorted(name for name in os.listdir(directory) if NAME.match(name))
    except OSError:
        return []
    found = [read_session(os.path.join(directory, name), name) for name in names]
    return [one for one in found if "error" in one or one["record"] or one["running"] or one["exit"]]
