"""Other nodes with the name that a host has at home: login nodes share a name and a home directory."""

import os
import time

if __name__ != "__main__":  # piped, these names are there already
    from .own_host import host_directory, read_record
    from .records import NAME, SESSION_KINDS

MYPY = False
if MYPY:
    from typing import Any, Dict, List, Set

    Json = Dict[str, Any]

NAME_SERVER = 2.0  # seconds that it may take; if it takes longer, only nodes that the settings name are known
KNOWN_SECONDS = 300.0
KNOWN = {}  # type: Dict[str, Set[str]]
ASKED = {}  # type: Dict[str, float]


def left_running() -> "List[Json]":
    """Return the other hosts on which sessions of this user were started and have no end: ``node``, ``sessions``."""
    top = host_directory()
    hosts, own = os.path.split(top)
    found = []
    for machine in listed(hosts):
        sessions = [] if machine == own else sessions_of(os.path.join(hosts, machine))
        if sessions:
            try:
                name = (read_record(os.path.join(hosts, machine, "host.json")) or {}).get("name")
            except ValueError:  # of a newer `ports`, or half a record
                continue
            if name:
                found.append({"node": str(name), "sessions": sessions})
    return found


def nodes_of(session: str) -> "List[str]":
    """Return the other hosts on which `session`, ``"cluster:main"``, was started and has no end."""
    return [str(one["node"]) for one in left_running() if session in one["sessions"]]


def sessions_of(host: str) -> "List[str]":
    """Return the clusters and notebook servers of another host that have no end: ``cluster:main``."""
    return [
        "%s:%s" % (kind, name)
        for kind, folder in SESSION_KINDS.items()
        for name in listed(os.path.join(host, folder))
        if NAME.match(name) and os.path.exists(os.path.join(host, folder, name, "running.json"))
        if not os.path.exists(os.path.join(host, folder, name, "exit.json"))
    ]


def elsewhere(called: str, chosen: "List[str]") -> "List[Json]":
    """Return those of `left_running` that are on nodes with the name `called`, or on `chosen` ones."""
    try:
        found = left_running()
    except OSError:  # the probe warns of what it cannot list of this machine
        return []
    unknown = [one["node"] for one in found if one["node"] not in chosen]
    addresses = look_up([called, *unknown]) if unknown else {}
    own = addresses.get(called, set())
    return [one for one in found if one["node"] in chosen or own & addresses.get(one["node"], set())]


def look_up(names: "List[str]") -> "Dict[str, Set[str]]":
    """Return the addresses of `names`; the name server is asked every five minutes."""
    import socket  # 7 ms, which few users pay
    import threading

    def ask() -> None:
        for name in due:
            ASKED[name] = now
            try:
                KNOWN[name] = {str(one[4][0]) for one in socket.getaddrinfo(name, None)}
            except (OSError, UnicodeError):
                continue

    now = time.monotonic()
    due = [name for name in names if name not in ASKED or now - ASKED[name] > KNOWN_SECONDS]
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(NAME_SERVER)
    return dict(KNOWN)


def listed(directory: str) -> "List[str]":
    """Return the names in a directory, none if it cannot be read."""
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []
