"""The files of a script on their way to another machine: it says which are missing there, and only these are sent.

An unchanged directory costs one question. What has arrived stays there: after a cut, the rest is sent.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ports import sessions
from ports.errors import StoreError, UsageError
from ports.jobs import _copies, _outputs, _packages, _places, _trees
from ports.jobs._model import parse_id
from ports.jobs._scripts import Script
from ports.jobs._trees import Objects, Tree
from ports.jobs.resource import lay_out
from ports.probe import size

_FEW = 2_000  # objects that are asked for at once; of more, directories are asked for first
_MOST_NAMES = 100_000  # of one question
_MOST_BYTES, _MOST_OBJECTS = 8 << 20, 1_000  # of one message
_AT_ONCE = 3  # messages on their way
_TRIES = 5
_SPARE = 64 << 20  # bytes that stay free there
_SILENT, _EVERY = 3.0, 5.0  # seconds without a word, and between two lines


class Asks(Protocol):
    """Another machine, which answers requests; see `_connection.Connection`."""

    def ask(self, op: str, blobs: Any = (), **fields: Any) -> Any:
        """Return the answer to a request."""


class Missing(NamedTuple):
    """What another machine has not, by name; of large files a part can be there. `told` says what room it has."""

    files: Mapping[str, str]
    data: Mapping[str, bytes]
    parts: Mapping[str, int]
    told: Mapping[str, Any]


def send(
    machine: Asks, plan: _copies.Plan, key: str, *, host: str, say: Callable[[str], object] = lambda text: None
) -> tuple[Script, dict[str, Any]]:
    """Send the files of a script, and return the script that runs in them there, and what was sent.

    Parameters
    ----------
    key : str
        That of the submission, which comes next: what it needs is kept there from now on.
    host : str
        What the machine is called.
    say : callable
        Gets a line now and then about how far it is, from 3 s on.

    Raises
    ------
    UsageError
        A file cannot be read, or changes again and again.
    StoreError
        The disk there has too little space; nothing was sent.
    """
    objects = Objects(_places.make_places().objects)
    quick = True
    for left in range(_TRIES - 1, -1, -1):
        others = _reused(machine, plan.reused, host)
        tree = objects.read(plan.selected(), is_here=False, quick=quick and not others)
        tree = _trees.with_entries(tree, others)
        script, row, patch = plan.described(tree)
        try:
            with _let_go_if_interrupted(machine, key):
                n_bytes = _sent(machine, tree, patch, host, say)
        except _NotRead:
            quick = False
            continue
        except _trees.ChangedError:
            if not left:
                raise
            continue
        if not tree.is_noted:
            objects.note(tree, is_here=False)
        kept = machine.ask("disk.keep", key=key, trees=[tree.digest], objects=list(patch)).header
        if kept.get("is_whole"):
            return script, {**row, "n_new_bytes": n_bytes}
        quick = False  # something was removed there: all of it is asked for
    raise StoreError(plan.selection.root, f"its files on {host} are removed again and again", "submit it again")


def _reused(machine: Asks, reused: Sequence[str], host: str) -> dict[str, lay_out.Entry]:
    """Return the output of other jobs there that goes along, by its path; it becomes objects without coming home."""
    found: dict[str, lay_out.Entry] = {}
    for text in reused:
        id, path = reused_from(text, host)
        row = {**machine.ask("show", id=id).header["row"], "id": f"{host}:{id}"}
        chosen = _outputs.chosen(row, path, _outputs.There(machine.ask, host, row).find)
        for one in chosen:
            if one.kind == "l":
                name, target = os.fsencode(os.path.basename(one.path)), os.fsencode(one.target)
                found[one.path] = lay_out.Entry("l", "", len(target), name, target)
        names = [one.path for one in chosen if one.kind != "l"]
        for begin in range(0, len(names), _MOST_OBJECTS):
            told = machine.ask("disk.reuse", id=id, paths=names[begin : begin + _MOST_OBJECTS]).header
            for path, name, n_bytes in told["files"]:
                kind = "x" if str(name).endswith(".x") else "f"
                found[path] = lay_out.Entry(kind, str(name)[:64], int(n_bytes), os.fsencode(os.path.basename(path)))
    return found


def reused_from(text: str, host: str) -> tuple[str, str]:
    """Return the id and the path of ``server1:12/results``; raises UsageError unless the job is one of that host."""
    id, slash, path = text.partition("/")
    if not slash:
        raise UsageError(f"reuse: {text!r} has no path; write JOB/PATH, for example {id}/results")
    named, _, number = id.rpartition(":")
    if named and named != host:
        raise UsageError(f"reuse: job {id} is of {named}, and this one runs on {host}; `ports job fetch {id}` gets it")
    return str(parse_id(number)), path or "."


def keep(ask: Callable[..., Any], key: str, contents: Mapping[str, bytes], *, host: str) -> None:
    """Send contents that are missing on another machine, and let it keep all of them for a submission.

    Parameters
    ----------
    ask : callable
        Asks that machine, as `Asks.ask`.
    contents : mapping
        By their SHA-256.

    Raises
    ------
    StoreError
        The disk there has too little space; nothing was sent.
    """
    for _ in range(_TRIES):
        told = ask("disk.missing", names=list(contents)).header
        missing, parts = [str(one) for one in told["missing"]], dict(told.get("parts") or {})
        wanted = Missing({}, {one: contents[one] for one in missing}, parts, told)
        _check_room(wanted, sum(len(contents[one]) for one in missing), host)
        for name in missing:
            data, at = contents[name], int(parts.get(name) or 0)
            at = at if at < len(data) else 0
            while at < len(data):
                piece = data[at : at + _MOST_BYTES]
                at = int(ask("disk.put", [piece], name=name, at=at, size=len(data)).header["at"])
        if ask("disk.keep", key=key, trees=[], objects=list(contents)).header.get("is_whole"):
            return
    raise StoreError(f"{host}:objects", "files are removed there again and again", "submit it again")


def asked_packages(script: Script, root: str) -> list[str] | None:
    """Return the packages for which a machine is asked, to which a script goes from `root`; None: it is not asked."""
    return None if "setup" in (script.submission.script or {}) else _packages.imports(script.argv, root)


def recorded(machine: Asks, script: Script, root: str, *, host: str) -> tuple[Script, list[str], bool]:
    """Return the script with the versions of what it imports there, in sentences what is missing, and if Python spoke.

    Parameters
    ----------
    root : str
        The directory here that has its files.
    """
    names, python = asked_packages(script, root), _packages.python_of(script.argv)
    if names is None:
        return script, [], True
    answer = machine.ask("disk.packages", [_packages.CODE.encode()], python=python, names=names).header
    there = _packages.read(str(answer.get("said") or ""))
    here = _packages.look(script.argv, names, root, sessions.surroundings.of_this_process())
    submission = dataclasses.replace(script.submission, script={**(script.submission.script or {}), **there})
    return dataclasses.replace(script, submission=submission), _packages.notes(there, here, host), bool(there)


def forget(machine: Asks, key: str) -> None:
    """Let the files go that were kept for a submission which was refused."""
    machine.ask("disk.forget", key=key)


@contextlib.contextmanager
def _let_go_if_interrupted(machine: Asks, key: str) -> Iterator[None]:
    """Let `prune` there go on after Ctrl-C in a notebook; nobody waits for a way that is cut."""
    try:
        yield
    except KeyboardInterrupt:
        from ports.errors import PortsError

        def run() -> None:
            with contextlib.suppress(PortsError):
                forget(machine, key)

        threading.Thread(target=run, name="let go", daemon=True).start()
        raise


class _NotRead(Exception):
    """Files are missing there, and the quick look has not said which there are."""


def _sent(machine: Asks, tree: Tree, patch: Mapping[str, bytes], host: str, say: Callable[[str], object]) -> int:
    """Send what is missing there, and return its size."""
    first = machine.ask("disk.missing", trees=[tree.digest], names=list(patch)).header
    missing = [str(one) for one in first["missing"]]
    if not missing:
        return 0
    if tree.digest in missing and not tree.directories:
        raise _NotRead
    wanted = _missing(machine, tree, patch, missing, first)
    n_bytes = sum(tree.selection.files[path].st_size for path in wanted.files.values())
    n_bytes += sum(map(len, wanted.data.values()))
    _check_room(wanted, n_bytes - sum(wanted.parts.values()), host)
    progress = _Progress(n_bytes, host, say)
    pool = concurrent.futures.ThreadPoolExecutor(_AT_ONCE)
    try:
        waiting: set[concurrent.futures.Future[int]] = set()
        for work in _messages(machine, tree, wanted):
            waiting.add(pool.submit(work))
            if len(waiting) >= _AT_ONCE:
                done, waiting = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
                progress.add(sum(one.result() for one in done))
        for one in waiting:
            progress.add(one.result())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C does not wait for a way that is cut
    directories = {name: data for name, data in wanted.data.items() if name in tree.directories}
    for names in _packed({name: len(data) for name, data in directories.items()}):
        machine.ask("disk.put", [directories[name] for name in names], names=names)
    return n_bytes


def _missing(
    machine: Asks, tree: Tree, patch: Mapping[str, bytes], missing: list[str], first: Mapping[str, Any]
) -> Missing:
    """Return what is missing there: of many objects only those are asked for that can be."""
    files = {_trees.object_name(kind, digest): path for (kind, digest), path in tree.sources.items()}
    data = {**tree.directories, **patch}
    names, told, parts = [one for one in missing if one in patch], first, dict(first.get("parts") or {})
    asked: list[str] = []
    if tree.digest in missing:
        asked = [*files, *tree.directories]
        if len(asked) > _FEW:
            asked = []
            unwhole = _asked(machine, "trees", list(tree.directories))[0]
            for digest in unwhole:
                asked += [digest, *(_trees.object_name(one.kind, one.digest)
                                    for one in lay_out.load(tree.directories[digest]) if one.kind in "fx")]  # fmt: skip
    more, found, last = _asked(machine, "names", list(dict.fromkeys(asked)))
    names, parts, told = [*names, *more], {**parts, **found}, last or told
    return Missing(
        {name: files[name] for name in names if name in files},
        {name: data[name] for name in names if name in data},
        parts,
        told,
    )


def _asked(machine: Asks, field: str, names: list[str]) -> tuple[list[str], dict[str, int], Mapping[str, Any]]:
    missing: list[str] = []
    parts: dict[str, int] = {}
    told: Mapping[str, Any] = {}
    for begin in range(0, len(names), _MOST_NAMES):
        told = machine.ask("disk.missing", **{field: names[begin : begin + _MOST_NAMES]}).header
        missing += map(str, told["missing"])
        parts.update({str(name): int(n) for name, n in dict(told.get("parts") or {}).items()})
    return missing, parts, told


def _check_room(wanted: Missing, n_bytes: int, host: str) -> None:
    free, n_files = int(wanted.told.get("free") or 0), len(wanted.files) + len(wanted.data)
    needed = n_bytes + n_files * int(wanted.told.get("block") or 0) + _SPARE
    n_free = wanted.told.get("n_free")
    if needed > free or (n_free is not None and n_files > int(n_free)):
        path = f"{host}:{wanted.told.get('path')}"
        reason = f"no space for {size(n_bytes)} in {n_files:,} files, {size(free)} are free"
        raise StoreError(path, reason, f"`ports job prune -H {host} --older 7d` removes old jobs there")


def _packed(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Divide objects into messages."""
    names: list[str] = []
    total = 0
    for name, n_bytes in sizes.items():
        if names and (total + n_bytes > _MOST_BYTES or len(names) >= _MOST_OBJECTS):
            yield names
            names, total = [], 0
        names.append(name)
        total += n_bytes
    if names:
        yield names


def _messages(machine: Asks, tree: Tree, wanted: Missing) -> Iterator[Callable[[], int]]:
    """Yield what sends files, and other content that no directory is: directories come last, when all is there."""
    sizes = {name: tree.selection.files[path].st_size for name, path in wanted.files.items()}
    sizes |= {name: len(data) for name, data in wanted.data.items() if name not in tree.directories}
    large = [name for name in wanted.files if sizes[name] > _MOST_BYTES]
    for names in _packed({name: n for name, n in sizes.items() if name not in large}):
        yield lambda names=names: _put(machine, tree, wanted, names)  # type: ignore[misc]
    for name in large:
        yield lambda name=name: _put_large(machine, tree, wanted, name)  # type: ignore[misc]


def _put(machine: Asks, tree: Tree, wanted: Missing, names: list[str]) -> int:
    blobs = []
    for name in names:
        data = wanted.data.get(name)
        if data is None:
            with _trees.opened(tree.selection, wanted.files[name]) as file:
                data = file.read()
            if hashlib.sha256(data).hexdigest() != name[:64]:
                raise _trees.ChangedError(wanted.files[name])
        blobs.append(data)
    machine.ask("disk.put", blobs, names=names)
    return sum(map(len, blobs))


def _put_large(machine: Asks, tree: Tree, wanted: Missing, name: str) -> int:
    """Send a large file in pieces, from where an earlier attempt stopped."""
    path, at = wanted.files[name], wanted.parts.get(name, 0)
    with _trees.opened(tree.selection, path) as file:
        n_bytes = os.fstat(file.fileno()).st_size
        first = at = at if at < n_bytes else 0
        while at < n_bytes:
            file.seek(at)
            data = file.read(_MOST_BYTES)
            if not data or n_bytes != tree.selection.files[path].st_size:
                raise _trees.ChangedError(path)
            try:
                at = int(machine.ask("disk.put", [data], name=name, at=at, size=n_bytes).header["at"])
            except UsageError as error:  # what has arrived is not what was read before
                raise _trees.ChangedError(path) from error
    return n_bytes - first


class _Progress:
    """A line from time to time that says how much has been sent."""

    def __init__(self, n_bytes: int, host: str, say: Callable[[str], object]) -> None:
        self._total, self._host, self._say = n_bytes, host, say
        self._done, self._next = 0, time.monotonic() + _SILENT

    def add(self, n_bytes: int) -> None:
        """Note that so much has arrived."""
        self._done += n_bytes
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVERY
            self._say(f"sending to {self._host}: {size(self._done)} of {size(self._total)}")
