"""From what a probe found to listeners: rows of one server are one listener, and each has a name. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, cast

from ports.listeners import _exposures, _kinds
from ports.listeners._listener import Listener
from ports.probe import sha256, words_of
from ports.sessions import FOLDERS

if TYPE_CHECKING:
    from ports.probe import rows as probe_rows

NAME_LENGTH = 31
_JOB = re.compile(r"[1-9][0-9]{0,11}(\.[0-9]{1,6})?", re.ASCII)


def from_probe(document: Mapping[str, Any], host: str | None = None) -> tuple[Listener, ...]:
    """Return what a probe found, sessions first and other users' listeners last.

    Parameters
    ----------
    document : dict
        What `ports.probe.probe` returns.
    host : str, optional
        What the host is called. Default: its own name.
    """
    found_there = cast("probe_rows.Document", document)
    host = host or found_there["host"]
    rows, machine, uid = found_there["listeners"], found_there["machine_id"], found_there["uid"]
    found = [
        _session(kind, session, found_there, host)
        for kind in _kinds.SESSIONS
        for session in document.get(FOLDERS[kind]) or ()
    ]
    mine = [row for row in rows if row["uid"] == uid]
    loose = [row for row in mine if row["kind"] != "kernel" and not _is_of_session(row)]
    kernels = [row for row in mine if row["kind"] == "kernel"]
    found += _named([_of_group(group, host, machine, kernels) for group in _groups(loose)], found)
    others = [row for row in rows if row["uid"] != uid]
    found += [replace(_of_group(group, host, machine), mine=False) for group in _groups(others)]
    return tuple(sorted(found, key=_rank))


def slug(text: str, otherwise: str) -> str:
    """Return `text` as a name: ``[a-z][a-z0-9-]{0,30}``; `otherwise` if nothing of it can be used."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if plain and not plain[0].isalpha():
        plain = f"{otherwise}-{plain}"
    return plain[:NAME_LENGTH].rstrip("-") or otherwise


def _session(kind: str, session: probe_rows.Session, document: probe_rows.Document, host: str) -> Listener:
    """Return a cluster or notebook server that `ports` started, with the address of its page."""
    name = session["name"]
    state, reason = _judge(kind, session, document["boot_id"], document.get("pid_namespace", ""))
    known = Listener(
        host=host,
        machine=document["machine_id"],
        kind=kind,
        name=name,
        state=state,
        reason=reason,
        owner=document["user"],
        managed=True,
    )
    if "error" in session:
        return known
    record, running = session["record"] or {}, session["running"] or {}
    known = replace(
        known,
        directory=record.get("root") or record.get("directory"),
        started_at=running.get("started_at") or record.get("created_at"),
        asked=_asked(record),
        stopped_at=((session["exit"] or {}).get("ended_at") or None) if state == "stopped" else None,
    )
    return _with_page(known, session, document) if state == "running" else known


def _with_page(known: Listener, session: probe_rows.Session, document: probe_rows.Document) -> Listener:
    """Return a session that runs with its process and the address of its page, or why it has none."""
    kind, name, running = known.kind, session["name"], session["running"]
    assert running is not None, "else it would not run"
    has_page = kind in _kinds.PAGES
    known = replace(known, pid=running["process"]["pid"], http=has_page, token=session.get("token"))
    own = [row for row in document["listeners"] if row.get("of") == f"{kind}:{name}"]
    row = next((row for row in own if row["path"] or kind != "cluster"), None)
    if row is None:
        return replace(known, reason=_why_no_page(kind, name, session) if has_page else None)
    return replace(
        known,
        address=row["address"] if row["port"] else None,
        port=row["port"],
        path=row["path"],
        scheme=row["scheme"],
        url_path=row["url_path"],
        open_to_network=any(one["open_to_network"] for one in own),
        exposed=tuple(_exposures.find(kind, own)),
    )


def _asked(record: probe_rows.RecordDocument) -> tuple[str, ...]:
    """Return what a session was started with; a record of another version, or one edited by hand, can say anything."""
    found = record.get("asked")
    return tuple(found) if isinstance(found, list) and all(isinstance(one, str) for one in found) else ()


def _why_no_page(kind: str, name: str, session: probe_rows.Session) -> str:
    from ports.sessions import start_line  # 1.5 ms, which a machine without sessions does not pay

    if not session.get("gone"):
        return "its process runs, but its page does not answer yet"
    removed = PurePosixPath(str(session["gone"])).parent
    again = f"`ports {kind} stop {name}`, then `{start_line(kind, name, _asked(session['record'] or {}))}`"
    return f"somebody removed its sockets in {removed} (a clean-up of /tmp?), so nothing can connect to it; {again}"


def _judge(kind: str, session: probe_rows.Session, boot_id: str, namespace: str) -> tuple[str, str | None]:
    from ports.sessions import Exit, verdict, way_out  # 1.5 ms, which a machine without sessions does not pay

    if "error" in session:
        return "unknown", session["error"]
    try:
        ended = Exit.from_json(session["exit"]) if session["exit"] else None
    except (TypeError, ValueError) as error:
        return "unknown", f"the record of its end cannot be read: {error}"
    record, running = session["record"] or {}, session["running"]
    launcher = record.get("launcher")
    who = (running and running["process"]) or launcher or record.get("started_by") or {}
    state, reason = verdict(
        ended,
        session["alive"],
        running=bool(running),
        launched=bool(launcher),
        same_boot=who.get("boot_id", boot_id) == boot_id,
        same_container=not namespace or who.get("pid_namespace", namespace) == namespace,
    )
    return state, f"{reason}; {way_out(kind, session['name'])}" if state == "unknown" else reason


def _is_of_session(row: probe_rows.Listener) -> bool:
    return str(row.get("of", "")).startswith(tuple(f"{kind}:" for kind in _kinds.SESSIONS))


def _groups(rows: Iterable[probe_rows.Listener]) -> Iterable[tuple[probe_rows.Listener, ...]]:
    """Return the rows of each server together: IPv4 and IPv6, and all ports of one Dask cluster."""
    found: dict[Any, tuple[probe_rows.Listener, ...]] = {}
    for row in rows:
        # a page of `ports page` has a Unix socket beside its port
        place = "page" if row["kind"] == "page" else row["port"] or row["path"]
        key = row.get("of") or (row["uid"], row.get("pid"), place)
        found[key] = (*found.get(key, ()), row)
    return found.values()


def _of_group(
    group: Sequence[probe_rows.Listener], host: str, machine: str, kernels: Iterable[probe_rows.Listener] = ()
) -> Listener:
    """Return a server that `ports` did not start; of several ports, the one with the page stands for all."""
    pages = [row for row in group if row.get("http")]
    schedulers = [row for row in pages if row["kind"] == "dask-scheduler"]
    sockets = [row for row in pages if row["kind"] == "page" and row["path"]]  # it lets in what comes from home
    row = (schedulers or sockets or pages or [one for one in group if one["open_to_network"]] or group)[0]
    kinds = [one["kind"] for one in group]
    kind = "dask-scheduler" if "dask-scheduler" in kinds else row["kind"]
    same = [one for one in group if one["port"] == row["port"]]
    open_ones = [one for one in same if one["open_to_network"]]
    its_own = [one for one in kernels if one.get("of") == f"server:{row.get('pid')}"]
    return Listener(
        host=host,
        machine=machine,
        kind=kind,
        name=_preferred_name(row, kind),
        state="running",
        owner=row["user"],
        address=(open_ones or same)[0]["address"] if row["port"] else None,
        port=row["port"],
        path=row["path"],
        pid=row.get("pid"),
        started_at=row.get("started_at"),
        directory=row.get("root") or row.get("cwd"),
        open_to_network=bool(open_ones),
        http=row.get("http"),
        scheme=row.get("scheme", "http"),
        url_path=row.get("url_path", ""),
        reason=_reason(row),
        hub=bool(row.get("hub")),
        job=_job(row),
        token=row.get("token") or None,
        # without a command line it is another user's: nothing is known of it
        exposed=tuple(_exposures.find(kind, group, its_own)) if "argv" in row else (),
    )


def _reason(row: probe_rows.Listener) -> str | None:
    """Return what a reader must know of a listener that `ports` did not start."""
    if row.get("task_of"):
        return f"a task of cluster '{row['task_of']}' opened it"
    if row.get("hub"):
        return "a JupyterHub started it: open it through the hub"
    if row["kind"] == "notebook" and "token" in row and row["token"] is None:
        return "Jupyter's record of it was not found: take the token from the link that it printed at its start"
    return None


def _job(row: probe_rows.Listener) -> str | None:
    """Return the id of the job that started a listener; a variable of its process has it, which can be anything."""
    found = row.get("job")
    return found if isinstance(found, str) and _JOB.fullmatch(found) else None


def _preferred_name(row: probe_rows.Listener, kind: str) -> str | None:
    """Return the name that a listener would get if it were alone; None for another user's."""
    if "argv" not in row:
        return None
    if (job := _job(row)) is not None:
        return f"job-{job.replace('.', '-')}"
    if kind == "notebook":
        return slug(PurePosixPath(row.get("root") or "").name, "notebook")
    if kind != "listener":
        return slug(kind, "listener")
    program = words_of(row["argv"]).partition(" ")[0]
    return slug("python" if program == "-c" else re.sub(r"\.(py|js|jar|sh|R|jl)$", "", program), "listener")


def _named(found: Iterable[Listener], taken_by: Iterable[Listener]) -> Iterable[Listener]:
    """Give each a name of its own. The one that has run longest keeps the plain one, so that links stay."""
    taken = {one.name for one in taken_by}
    for one in sorted(found, key=lambda one: (one.started_at or float("inf"), one.port or 0, one.path or "")):
        name = preferred = one.name or "listener"
        for tail in (_digest(one.directory), str(one.port or _digest(one.path)), _digest(f"{one.path}{one.port}")):
            if name in taken and (tail.isdigit() or one.kind == "notebook"):
                name = f"{preferred[: NAME_LENGTH - 1 - len(tail)].rstrip('-')}-{tail}"
        taken.add(name)
        yield replace(one, name=name)


def _digest(text: str | None) -> str:
    return "x" + sha256(str(text).encode("utf-8", "surrogateescape"))[:4]


def _rank(one: Listener) -> tuple[Any, ...]:
    order = _kinds.SESSIONS.index(one.kind) if one.kind in _kinds.SESSIONS else len(_kinds.SESSIONS)
    return not one.mine, order, one.kind == "listener", one.name or "", one.port or 0
