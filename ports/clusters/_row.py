"""A cluster as a row: what tables, notebooks and ``--json`` show."""

from __future__ import annotations

import socket

from ports import listeners, probe, sessions
from ports.clusters import _text
from ports.clusters._documents import ClusterRow
from ports.clusters._options import KIND, ClusterRunning
from ports.clusters._snapshot import Snapshot


def row(now: Snapshot, *, with_token: bool = False) -> ClusterRow:
    """Return the row of a cluster; `with_token` adds the token to the link of a dashboard on a TCP port."""
    counts = now.summary or {}
    made: ClusterRow = {
        "host": socket.gethostname(),
        "kind": KIND,
        "name": now.name,
        "state": now.state,
        "reason": now.reason,
        "stopped_at": now.found.ended_at,
        "url": f"unix:{now.running.dashboard}" if now.found.running else None,
        "link": listeners.cluster_link(now.name),
        "command": listeners.open_command(now.name),
        "command_note": listeners.guess_note(),
        "log": str(now.log),
        "n_workers": counts.get("n_workers"),
        "n_asked": counts.get("n_asked"),
        "n_threads": counts.get("n_threads"),
        "memory_bytes": counts.get("memory_bytes"),
        "memory_limit_bytes": counts.get("memory_limit_bytes"),
        "n_tasks": counts.get("n_tasks"),
        "n_running": counts.get("n_running"),
        "n_clients": counts.get("n_clients"),
        "worker_memory_bytes": counts.get("worker_memory_bytes"),
        "worker_limit_bytes": counts.get("worker_limit_bytes"),
        "tasks_per_second": counts.get("tasks_per_second"),
        "guard": counts.get("guard"),
        "asleep": counts.get("asleep"),
        "ends_at": counts.get("ends_at"),
        "note": _text.cluster_note(counts, now.found.record.memory_typed if now.found.record else ""),
    }
    if now.found.record is not None:
        _add_record(made, now, with_token=with_token)
    return made


def _add_record(made: ClusterRow, now: Snapshot, *, with_token: bool) -> None:
    record, running = now.record, now.running if now.found.running else None
    made |= {
        "pid": running.process.pid if running else None,
        "address": running.address if running else None,
        "security": record.security,
        "interface": record.interface,
        "tcp_link": _tcp_link(running, record.token_file if with_token else None),
        "started_at": running.started_at if running else record.created_at,
        "directory": record.directory,
        "interpreter": record.interpreter,
        "scratch": record.scratch,
        "memory_typed": record.memory_typed or None,
        "explained": record.explained or None,
        "tmux": sessions.attach_line(record),
        "versions": running.versions if running else None,
    }


def _tcp_link(running: ClusterRunning | None, token_file: str | None) -> str | None:
    """Return the link of a dashboard on a TCP port, as a program that forwards this port sees it."""
    if running is None or running.dashboard_port is None:
        return None
    token = probe.read_token(token_file) if token_file is not None else None
    return f"http://127.0.0.1:{running.dashboard_port}/status" + (f"?token={token}" if token else "")
