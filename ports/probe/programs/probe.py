"""The probe: one look at what listens on this machine and is mine, as one JSON-able document."""

import os
import sys
import time

if __name__ != "__main__":  # piped, these names are there already
    from ..ask import MOST_ASKED, Asking, ask_notebooks, find_exposed, pair_dask
    from ..identity import FORMAT, boot_id, machine_id, node, own_uid, pid_namespace, user_name
    from ..nodes import elsewhere
    from ..own_host import host_directory, read_record
    from ..recognise import (
        NEVER_ASKED,
        WEB,
        describe,
        is_page,
        jupyter_records,
        recognise_notebooks,
        recognise_sessions,
        runtime_directories,
        without_other_sockets,
    )
    from ..records import SESSION_KINDS, read_sessions
    from ..sockets import owners_of, tcp_listeners, unix_listeners

MYPY = False
if MYPY:
    from typing import Any, Dict, List, Optional, Set

    Json = Dict[str, Any]


def probe(request: "Optional[Json]" = None) -> "Json":
    """Return what listens on this machine and belongs to this user, and what `ports` recorded here.

    Parameters
    ----------
    request : dict
        ``all`` adds other users' listeners, only with port and user. ``port`` leaves out all other ports. ``ask_http``
        (True) asks own ports what they are, up to ``silence`` and ``patience`` seconds (0.02 each), see `Asking`.
        ``called`` is the name of this host at home, ``nodes`` are other hosts with that name, see `elsewhere`.
    """
    wanted = request or {}
    uid, warnings, sessions = own_uid(), [], {}  # type: int, List[str], Json
    for folder in SESSION_KINDS.values():
        sessions[folder] = []
        try:
            sessions[folder] = read_sessions(folder)
        except OSError as error:
            warnings.append("the %s of ports cannot be listed: %s: %s" % (folder, error.filename, error.strerror))
    everybody = wanted.get("all") or wanted.get("port")
    rows, known = tcp_listeners(warnings, None if everybody else uid), set()  # type: List[Json], Set[str]
    if wanted.get("port"):
        rows = [row for row in rows if row["port"] == wanted["port"]]
    own = [row for row in rows if row["uid"] == uid]
    if not wanted.get("port"):
        known = unix_paths(sessions, uid)
        own += unix_listeners(known, uid)
    own = look_at(own, sessions, wanted, warnings, known)
    names = {uid: user_name(uid)}
    for row in own:
        row["user"] = names[uid]
        del row["inode"]
    shown = ("family", "address", "path", "port", "uid", "open_to_network", "kind")
    for row in rows if everybody else ():
        if row["uid"] != uid:
            if row["uid"] not in names:
                names[row["uid"]] = user_name(row["uid"])
            own.append(dict([(key, row[key]) for key in shown], user=names[row["uid"]]))
    document = {"format": FORMAT, "host": node(), "machine_id": machine_id(), "boot_id": boot_id()}
    document["pid_namespace"] = pid_namespace()
    document.update(user=names[uid], uid=uid, time=time.time(), platform=sys.platform, listeners=own)
    document.update(sessions, ports=installed(warnings), python="%d.%d.%d" % sys.version_info[:3])
    document["elsewhere"] = elsewhere(wanted["called"], wanted.get("nodes") or []) if wanted.get("called") else []
    document["warnings"] = list(dict.fromkeys(warnings))
    return document


def unix_paths(sessions: "Json", uid: int) -> "Set[str]":
    """Return the Unix sockets that records name."""
    paths = set()  # type: Set[str]
    for record in jupyter_records(set(runtime_directories(dict(os.environ))), uid, []):
        if str(record.get("sock")).startswith("/"):
            paths.add(record["sock"])
    paths.update(page_sockets())
    for session in [one for found in sessions.values() for one in found]:
        if session["alive"] and session["running"] and session["running"].get("dashboard"):
            paths.add(session["running"]["dashboard"])
            if not os.path.exists(session["running"]["dashboard"]):
                session["gone"] = session["running"]["dashboard"]
    return paths


def page_sockets() -> "List[str]":
    """Return the Unix sockets of pages of `ports page`, as their records name them; a dead one's is not listened on."""
    found = []  # type: List[str]
    try:
        folder = os.path.join(host_directory(), "pages")
        names = [name for name in os.listdir(folder) if name.endswith(".json")]
    except OSError:
        return []
    for name in names:
        try:
            found.append(str((read_record(os.path.join(folder, name)) or {}).get("socket")))
        except (OSError, ValueError):
            continue
    return found


def look_at(
    own: "List[Json]", sessions: "Json", wanted: "Json", warnings: "List[str]", known: "Set[str]"
) -> "List[Json]":
    """Find out what this user's listeners are; return them without the Unix sockets that are no pages.

    The newest are recognised first: while the probe waits for what they say, there is time for the others.
    """
    uid = own_uid()
    holders = owners_of({row["inode"] for row in own if row["inode"] and row["pid"] is None}, uid)
    for row in own:
        row["pid"] = row["pid"] or holders.get(row["inode"])
        row.update(http=None, scheme="http", url_path="", greets=False)
    own = without_other_sockets(own, known, uid)
    newest = sorted(own, key=lambda row: (-row["inode"], -(row.get("started_at") or 0)))
    asking = Asking(wanted.get("silence", 0.02), wanted.get("patience", 0.02))
    answers = wanted.get("answers")  # the agent keeps them, because it looks again and again
    asked = []  # type: List[Json]
    ancestors = {}  # type: Dict[int, List[int]]
    while newest:
        rows, newest = newest[:MOST_ASKED], newest[MOST_ASKED:]
        ancestors.update(describe(rows))
        recognise_notebooks(rows, uid, warnings)
        recognise_sessions(rows, sessions, ancestors)
        for row in rows:
            row["http"] = True if row["kind"] in WEB else None
        # without a pid it can be the kernel's, or that of a container that happens to share this uid
        unknown = [row for row in rows if row["kind"] not in NEVER_ASKED and row["pid"] and row["port"]]
        if wanted.get("ask_http", True):
            unknown = answers.unknown(unknown) if answers else unknown
            asking.add(unknown)
            asked += unknown
        asking.step()
    asking.finish()
    with_port = {row["pid"] for row in own if row["port"]}
    own = [row for row in own if is_page(row, known, with_port)]
    if answers:
        answers.keep(asked)
    if wanted.get("ask_http", True):
        ask_notebooks(own, answers.doors if answers else {})
    pair_dask(own, ancestors)
    find_exposed(own, ancestors)
    return own


def installed(warnings: "List[str]") -> "Optional[Json]":
    """Return interpreter and version of the `ports` that last ran here."""
    try:
        return read_record(os.path.join(host_directory(), "host.json"))
    except (OSError, ValueError) as error:
        warnings.append(str(error).replace("newer: ", "", 1))
        return None
