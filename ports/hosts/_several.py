"""Several hosts at once, and the rows of hosts in a listing."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

from ports.errors import PortsError
from ports.hosts import openssh

if TYPE_CHECKING:
    from typing_extensions import NotRequired

T = TypeVar("T")


class HostRow(TypedDict):
    """The row of a host, in a listing. `state` is ``error``, ``nothing``, ``connected`` or ``disconnected``."""

    host: str | None
    kind: Literal["host"]
    name: None
    state: str
    url: None
    error: NotRequired[str]
    exit_code: NotRequired[int]


def on_each(
    aliases: Iterable[str],
    function: Callable[[str], T],
    *,
    on_result: Callable[[str, T | PortsError], None] | None = None,
) -> dict[str, T | PortsError]:
    """Call `function` for all hosts at once; a host that is down or slow does not delay the others.

    Parameters
    ----------
    on_result : callable, optional
        Is called, in this thread, with each host's result as soon as it is there.

    Returns
    -------
    dict
        The result of each host, or the error that it raised, in the order of `aliases`.
    """
    names = list(dict.fromkeys(aliases))
    results: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    for name in names:
        # a daemon: after Ctrl-C, a host that hangs must not keep the process until its time is over
        ask = contextvars.copy_context().run  # its warnings belong to who collects them here
        threading.Thread(
            target=ask, args=(call_into, results, name, function), name=f"host-{name}", daemon=True
        ).start()
    found: dict[str, T | PortsError] = {}
    try:
        while len(found) < len(names):
            alias, result = results.get()
            if isinstance(result, BaseException) and not isinstance(result, PortsError):
                raise result
            found[alias] = result
            if on_result is not None:
                on_result(alias, result)
    except BaseException:
        openssh.end_all()
        raise
    return {name: found[name] for name in names}


def call_into(results: queue.SimpleQueue[tuple[str, Any]], alias: str, function: Callable[[str], Any]) -> None:
    """Call `function`, and put its result or its error into `results`."""
    try:
        results.put((alias, function(alias)))
    except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
        results.put((alias, error))


def failed_row(alias: str, error: PortsError) -> HostRow:
    """Return the row of a host that failed, for a listing of several."""
    row = host_row(alias, "error")
    row["error"], row["exit_code"] = str(error), error.exit_code
    return row


def nothing_rows(alias: str, hosts: Sequence[str]) -> list[HostRow]:
    """Return the row of a host on which there is nothing, for a listing of several; for one, an empty list says so."""
    return [host_row(alias, "nothing")] if len(hosts) > 1 else []


def host_row(alias: str | None, state: str) -> HostRow:
    """Return the row of a host."""
    return {"host": alias, "kind": "host", "name": None, "state": state, "url": None}
