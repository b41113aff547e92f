"""``ports who``: how much of a machine each user has, what is promised, and what is left."""

from __future__ import annotations

import contextlib
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from ports.cli import watch as watching
from ports.cli.commands import Command
from ports.cli.options import Host
from ports.cli.output import Output, echo, waiting, write_json
from ports.errors import harmless

if TYPE_CHECKING:
    from ports.machine import Usage, User

_WIDTH, _NARROWEST = 20, 4  # columns of a bar
_LITTLE = 0.002  # of the memory: a user with less who computes nothing is counted and not named
_MUCH_OF_A_DISK = 100 * 2**20  # bytes of my jobs
_ASCII = str.maketrans("█▒·×", "#+.x")


@click.command(cls=Command)
@click.argument("named", metavar="[HOST]", required=False, type=Host())
@click.option(
    "-H", "--host", metavar="ALIAS", type=Host(), help="Look at this host of ~/.ssh/config, which needs only python3."
)
@watching.with_watch
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def who(named: str | None, host: str | None, watch: bool, as_json: bool) -> None:
    """Show who uses how much of this machine, and what is left; what clusters are promised counts as taken."""
    watching.refuse_document(watch, as_json)
    if named and host:
        raise click.UsageError(f"{named} and {host} are two hosts; name one")
    host = host or named
    with waiting(Output(as_json), f"waiting for {host or 'the measurement'}"):
        found = look(host)
    if as_json:
        write_json(found.row())
        return
    if watch:
        watching.show(looks(found, host))
    else:
        show(found)


def looks(first: Usage, host: str | None) -> Iterator[list[str]]:
    """Yield what to show of each look at a machine, without an end."""
    from ports import hosts

    yield shown(first)
    if host is not None and not hosts.is_here(host):
        yield from looks_there(first, host)
    while True:
        began = time.monotonic()
        found = look(host, interval=watching.EVERY)
        time.sleep(max(0.0, began + watching.EVERY - time.monotonic()))
        yield shown(found)


def looks_there(first: Usage, host: str) -> Iterator[list[str]]:
    """Yield what to show of another host, as the session that stays there reports it."""
    from ports import machine, tunnels

    with tunnels.watch([host], want=("who",)) as watched:
        while True:
            time.sleep(watching.EVERY)
            (view,) = watched.views()
            found = first if view["machine"] is None else machine.from_row(view["machine"])
            yield [*shown(found), *([] if view["reason"] is None else [missing(view)])]


def missing(view: Mapping[str, Any]) -> str:
    """Return why what is shown of a host is old. Pure."""
    way_out = f"; `{view['way_out']}`" if view["way_out"] else ""
    return harmless(f"{view['host']}: {view['condition']}: {view['reason']}{way_out}", lines=False)


def look(host: str | None, *, interval: float | None = None) -> Usage:
    """Return what there is of a machine; of this one, with the names of my clusters."""
    from dataclasses import replace

    from ports import clusters, hosts, machine
    from ports.errors import PortsError

    found = machine.usage(host, interval=interval, jobs=interval is None)
    with contextlib.suppress(PortsError):  # the names of my clusters; who uses the machine is shown without them
        if host is None or hosts.is_here(host):
            return replace(found, own_clusters=clusters.with_promises())
    return found


def show(found: Usage) -> None:
    """Show a machine."""
    echo("\n".join(shown(found)))


def shown(found: Usage) -> list[str]:
    """Return `lines` for stdout: of its width, and in its encoding."""
    told = lines(found, shutil.get_terminal_size().columns if sys.stdout.isatty() else None)
    told = [harmless(line, lines=False) for line in told]
    try:
        "".join(told).encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return [line.translate(_ASCII) for line in told]
    return told


def lines(found: Usage, columns: int | None = None) -> list[str]:
    """Return what to show of a machine: a heading, a row for each user, and what is left. Pure.

    Parameters
    ----------
    columns : int, optional
        Width of the terminal: bars shrink, and sentences break between words, to fit. Default: no limit.
    """
    rows = table(found, _WIDTH)
    if columns is not None and (excess := max(map(len, rows)) - columns) > 0:
        rows = table(found, max(_NARROWEST, _WIDTH - excess))
        if max(map(len, rows)) > columns:
            rows = table(found, 0)
    hidden = [hidden_line(found)] if found.hidden else []
    said = [*hidden, *gpu_lines(found), *left_lines(found), *jobs_lines(found)]
    return [*fold([heading(found)], columns), *rows, *fold(said, columns)]


def fold(sentences: Sequence[str], columns: int | None) -> list[str]:
    """Return sentences as lines of at most `columns`."""
    if columns is None:
        return list(sentences)
    import textwrap

    return [line for one in sentences for line in textwrap.wrap(one, max(20, columns), subsequent_indent="  ")]


def table(found: Usage, width: int) -> list[str]:
    """Return a row for each user, with a bar of `width`; without bars if that is 0."""
    people = sorted((one for one in found.users if one.is_person), key=lambda one: (-one.memory_bytes, one.user))
    named = [one for one in people if one.is_me or is_much(one, found)]
    cells = [["USER", "MEMORY", "", "CORES", "DASK", "PROMISED"]]
    cells += [cells_of(one.user, [one], found, width) for one in named]
    if len(people) > len(named):
        few = [one for one in people if one not in named]
        cells.append(cells_of(f"{len(few)} with little", few, found, width))
    system = [one for one in found.users if not one.is_person]
    if system:
        cells.append(cells_of("system", system, found, width))
    right: tuple[bool, ...] = (False, False, True, True, True, False)
    if not width:
        cells = [[line[0], line[2] or line[1], *line[3:]] for line in cells]
        right = (False, True, True, True, False)
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    rows = [
        "  ".join(
            text.rjust(n) if is_right else text.ljust(n) for text, n, is_right in zip(line, widths, right, strict=True)
        )
        for line in cells
    ]
    return [row.rstrip() for row in rows]


def is_much(one: User, found: Usage) -> bool:
    """Tell whether a user has enough to be named."""
    return bool(one.memory_bytes >= _LITTLE * found.memory_bytes or one.cores >= 0.05 or one.promised_bytes)


def heading(found: Usage) -> str:
    """Return what the machine has, in a line."""
    from ports.probe import size

    cores = f"{found.n_cores} cores"
    if found.busy_cores is not None:
        cores += f", {found.busy_cores:.1f} busy"
    parts = [cores, f"{size(found.memory_bytes)}, {size(found.available_bytes)} available"]
    if found.swap_bytes:
        parts.append(f"swap {size(found.swap_bytes)}, {size(found.swap_bytes - found.swap_free_bytes)} in use")
    if found.pressure:
        told = {"cpu": "cpu_some", "memory": "memory_some", "disks": "io_some"}
        waits = [f"{name} {found.pressure[key]:.0f} %" for name, key in told.items() if key in found.pressure]
        parts.append(f"time lost waiting for {', '.join(waits)}")
    return f"{found.host}: {'; '.join(parts)}"


def cells_of(name: str, users: Sequence[User], found: Usage, width: int) -> list[str]:
    """Return the row of a user, or of several together, with a bar of `width`."""
    from ports.probe import size

    memory, promised = sum(one.memory_bytes for one in users), sum(one.promised_bytes for one in users)
    unfilled = found.unfilled_bytes(users)
    dask, threads = sum(one.dask_bytes for one in users), sum(one.promised_threads for one in users)
    cores = f"{sum(one.cores for one in users):.1f}"
    told = f"{size(promised)}, {threads} thread{'' if threads == 1 else 's'}" if promised or threads else ""
    if lent := sum(one.lent_bytes for one in users):
        told = f"{told.removesuffix(', 0 threads') or size(0)} (lends {size(lent)})"
    return [
        name,
        bar(memory, unfilled, found.memory_bytes, width),
        size(memory),
        cores,
        size(dask) if dask else "",
        told,
    ]


def bar(used: float, promised: float, whole: float, width: int) -> str:
    """Return a bar: what is used, what is promised beyond that, and the rest of the machine's memory."""
    n_used = min(width, round(width * used / whole))
    n_promised = min(width - n_used, round(width * promised / whole))
    return "█" * n_used + "▒" * n_promised + "·" * (width - n_used - n_promised)


def hidden_line(found: Usage) -> str:
    """Return what is known of users whose processes this machine hides."""
    from ports.probe import size

    together = size(found.unseen_bytes)
    return f"this machine hides the processes of others (hidepid); together they use about {together}"


def gpu_lines(found: Usage) -> list[str]:
    """Return a line for each GPU: what it is, how busy, and how much of its memory each user has."""
    from ports.probe import size

    said = []
    for gpu in found.gpus or ():
        parts = [f"gpu {gpu['index']}: {gpu['name']}"]
        if gpu["memory_bytes"]:
            parts.append(f"{size(gpu['used_bytes'])} of {size(gpu['memory_bytes'])}")
        if gpu["busy"] is not None:
            parts.append(f"{gpu['busy']} % busy")
        said.append(", ".join([*parts, *(f"{user} {size(used)}" for user, used in gpu["users"].items())]))
    return said


def jobs_lines(found: Usage) -> list[str]:
    """Return what my jobs have of the disk, where that is much: homes have quotas."""
    from ports.probe import size

    kept = found.jobs
    if kept is None or kept["bytes"] < _MUCH_OF_A_DISK:
        return []
    least = "" if kept["is_all"] else "more than "
    told = (
        f"your jobs have {least}{size(kept['bytes'])} in {kept['directory']}, where {size(kept['free_bytes'])} are free"
    )
    if found.host == socket.gethostname():
        return [f"{told}; `ports job prune --older 30d` removes old ones"]
    return [f"{told}; `ports job prune -H {found.host} --older 30d` removes old ones"]


def left_lines(found: Usage) -> list[str]:
    """Return what is left, and what a cluster would get of it by default."""
    from ports.probe import size

    unfilled = found.unfilled_bytes(found.users)
    idle = max(0.0, found.n_cores - (found.busy_cores or 0.0))
    parts = [f"left: {idle:.1f} cores, {size(found.available_bytes)}"]
    if unfilled:  # several promises can go beyond what is there
        parts.append(f"of which {size(min(unfilled, found.available_bytes))} are promised to clusters and not used yet")
    if found.usable_cores < found.n_cores or found.limit_bytes < found.memory_bytes:
        limit = f"you may have {found.usable_cores:g} cores and {size(found.limit_bytes)}"
        parts.append(limit + f", of which {size(found.limit_available_bytes)} are left")
    return [", ".join(parts), f"a cluster of yours would get {found.share.explained}"]
