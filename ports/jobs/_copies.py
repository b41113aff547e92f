"""A script with a copy of its directory: what is copied and said, and what the submission has of it.

The copy is written when the job is submitted: what you change later does not reach the job. `workspaces/KEY` names the
objects that a submission needs, until the job is removed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ports import state
from ports.errors import StoreError, UsageError, warn
from ports.jobs import _durable, _interpreters, _packages, _trees, _workspace
from ports.jobs._model import Submission
from ports.jobs._places import Places
from ports.jobs._scripts import Script
from ports.jobs._trees import Objects, Tree
from ports.jobs._workspace import Left, Selection
from ports.jobs.resource import lay_out
from ports.probe import sent, words

_MOST_LEFT = 20  # that the submission notes of what stays behind
_LARGEST_PATCH = 16 << 20
_YOUNG = 1.0  # seconds for which a look at the directory counts as one of now


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a script with a copy is about to get.

    Parameters
    ----------
    out : sequence of str
        Files and directories of the copy that are its output; none: what the script makes or changes.
    reuse : mapping
        Path in the copy -> file of another job that is put there.
    reused : sequence of str
        The same as it was typed: ``12/results``.
    """

    script: Script
    selection: Selection
    out: tuple[str, ...] = ()
    send_all: bool = False
    reuse: Mapping[str, str] = dataclasses.field(default_factory=dict)
    reused: tuple[str, ...] = ()
    unused: list[float] = dataclasses.field(default_factory=lambda: [time.monotonic()])  # when it was made

    @property
    def submission(self) -> Submission:
        """What is submitted, without what its files add."""
        return self.script.submission

    def row(self) -> dict[str, Any]:
        """Return what would be submitted, what would be copied, and what stays behind."""
        return {**self.script.row(), "workspace": self.copy_row()}

    def copy_row(self) -> dict[str, Any]:
        """Return what would be copied, and what stays behind."""
        found = self.selection
        return {
            "root": found.root,
            "out": list(self.out),
            "send_all": self.send_all,
            "reuse": list(self.reused),
            "n_files": len(found.files),
            "n_bytes": found.n_bytes,
            "largest": [{"path": path, "n_bytes": n_bytes} for path, n_bytes in found.largest()],
            "left": _left(found.left),
            "links_outside": _workspace.links_outside(found),
        }

    def written(self, places: Places) -> tuple[Script, dict[str, Any]]:
        """Write the copy, and return the script that runs in it, and its row; raises as `_trees.snapshot`.

        The caller holds `Objects.kept` until the submission is noted.
        """
        objects = Objects(places.objects)
        tree, n_new = _trees.snapshot(objects, self.selected)
        script, row, patch = self.described(tree)
        for data in patch.values():
            objects.put(data)
        return script, {**row, "n_new_bytes": n_new}

    def described(self, tree: Tree) -> tuple[Script, dict[str, Any], dict[str, bytes]]:
        """Return the script that runs in a tree, its row, and what was not committed, by its SHA-256."""
        found, root = tree.selection, tree.selection.root
        told, patch = _workspace.recorded(root)
        row = dataclasses.replace(self, selection=found).copy_row() | {"tree": tree.digest, "how": lay_out.COPY, **told}
        objects = {}
        if patch and len(patch) <= _LARGEST_PATCH:
            row["patch"] = hashlib.sha256(patch).hexdigest()
            objects[row["patch"]] = patch
        kept = {**row, "left": row["left"][:_MOST_LEFT], "n_left": len(row["left"]), "largest": []}
        return with_workspace(self.script, kept), row, objects

    def selected(self) -> Selection:
        """Look through the directory, as it is now; a plan of this moment has done so, which counts once."""
        if self.unused and time.monotonic() - self.unused.pop() < _YOUNG:
            return self.selection
        return _selected(self.selection.root, self.send_all, self.reuse)


def plan(
    script: Script,
    *,
    root: str | None = None,
    out: Sequence[str] = (),
    send_all: bool = False,
    reuse: Mapping[str, str] | None = None,
    reused: Sequence[str] = (),
) -> Plan:
    """Look through the directory of a script, and return what would be copied.

    Raises
    ------
    UsageError
        Too much would be copied, the command line names a file that would stay behind, or `out` is outside.
    """
    outputs = tuple(dict.fromkeys(_relative(one, "--out") for one in out))
    files = dict(reuse or {})
    if not reused and not files:  # else it can come from there
        place, environ = root or str(script.submission.directory), None if root else script.environ
        _interpreters.check_file(script.argv, place, environ)
    found = _selected(root or str(script.submission.directory), send_all, files)
    _workspace.check_words([*script.argv, *_workspace.split_words(_setup(script))], found)
    return Plan(script=script, selection=found, out=outputs, send_all=send_all, reuse=files, reused=tuple(reused))


def today(script: Script) -> tuple[Script, dict[str, Any]] | None:
    """Return a script of before without its copy, and how a copy of its directory as it is now is planned.

    None if it ran in place.

    Raises
    ------
    UsageError
        Its directory is gone.
    """
    if (workspace := of(script)) is None:
        return None
    root, told = str(workspace["root"]), dict(script.submission.script or {})
    if not os.path.isdir(root):  # noqa: PTH112
        raise UsageError(f"{root} is gone; without --here, the job runs again with the files that it had")
    del told["workspace"]
    submission = dataclasses.replace(script.submission, script=told, directory=root)
    names = ("out", "send_all", "reuse")
    return dataclasses.replace(script, submission=submission), {
        one: workspace[one] for one in names if one in workspace
    }


def nothing_sent(script: Script, root: str, host: str) -> str | None:
    """Return in a sentence why the directory `root` does not go to another machine unasked; None if it does.

    It is a home, say, and the command needs nothing of it.

    Raises
    ------
    UsageError
        The command line names a file of it.
    """
    if (what := _workspace.no_workspace(root, str(Path.home()))) is None:
        return None
    if named := _workspace.named_files([*script.argv, _setup(script)], root):
        raise UsageError(
            f"{named[0]} is in {root}, {what}, which is not sent to {host}; `cd` to the directory of your script. "
            f"--in-place uses the files that {host} has"
        )
    return f"{root} is {what}, so nothing is sent: the job runs in your home on {host}"


def _setup(script: Script) -> str:
    return str(((script.submission.script or {}).get("setup") or {}).get("command") or "")


def _selected(root: str, send_all: bool, reuse: Mapping[str, str]) -> Selection:
    own = str(state.paths.here().root.parent.parent)
    found = _workspace.select(root, send_all=send_all, home=str(Path.home()), own=own)
    return _workspace.with_others(found, reuse) if reuse else found


def _relative(path: str, option: str) -> str:
    found = os.path.normpath(path)
    if not path or found.startswith(("/", "../")) or found == "..":
        raise UsageError(f"{option}: {path!r} is outside of the copy; write a path below the current directory")
    return found


def _left(found: Sequence[Left]) -> list[dict[str, Any]]:
    largest = sorted(found, key=lambda one: (-one.n_bytes, one.path))
    return [{"path": one.path, "why": one.why, "n_bytes": one.n_bytes, "is_all": one.exact} for one in largest]


def with_workspace(script: Script, workspace: Mapping[str, Any]) -> Script:
    """Return the script with what its submission has of its copy."""
    told = {**(script.submission.script or {}), "workspace": _plain(workspace)}
    return dataclasses.replace(script, submission=dataclasses.replace(script.submission, script=told))


def _plain(value: Any) -> Any:
    """Return `value` with names that are not UTF-8 made readable: the queue has only texts."""
    if isinstance(value, str):
        return os.fsencode(value).decode("utf-8", "backslashreplace")
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def of(script: Script) -> dict[str, Any] | None:
    """Return what a submission has of its copy; None if the script runs in place."""
    found = (script.submission.script or {}).get("workspace")
    return dict(found) if isinstance(found, Mapping) else None


def with_records(script: Script) -> tuple[Script, list[str], dict[str, bytes]]:
    """Return the script with what its submission records of its source and its Python; and notes, and its patch.

    The packages that it imports are looked for in its Python: notes say which are missing. A setup can install them.
    """
    told, directory = dict(script.submission.script or {}), str(script.submission.directory)
    objects: dict[str, bytes] = {}
    if of(script) is None:
        more, patch = _workspace.recorded(directory)
        told |= more
        if patch and len(patch) <= _LARGEST_PATCH:
            told["patch"] = hashlib.sha256(patch).hexdigest()
            objects[told["patch"]] = patch
    names = _packages.imports(script.argv, directory)
    found = {} if "setup" in told else _packages.look(script.argv, names or [], directory, script.environ)
    told |= found
    notes = _packages.notes(found, {}, state.paths.host_name())
    submission = dataclasses.replace(script.submission, script=_plain(told))
    return dataclasses.replace(script, submission=submission), notes, objects


def needed(places: Places, key: str, script: Script) -> dict[Path, bytes]:
    """Return the file that notes which objects a submission needs, with its content; nothing if it needs none."""
    told = script.submission.script or {}
    workspace = of(script) or {}
    noted = {"format": 1, "objects": [one["patch"] for one in (workspace, told) if "patch" in one]}
    if workspace:
        noted["tree"] = workspace["tree"]
    elif not noted["objects"]:
        return {}
    state.make_private(places.workspaces)
    return {places.workspace_of(key): json.dumps(noted).encode()}


def sweep(places: Places) -> int:
    """Remove the objects that no submission needs any more, and return their size; raises StoreError."""
    with _durable.translated(places.objects):
        try:
            return sent.sweep_objects(str(places.root))
        except words.Refused as error:
            if error.kind == "ConflictError":
                warn(error.text)
                return 0
            raise StoreError(places.workspaces, error.text, "") from error
