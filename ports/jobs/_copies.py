"""A script with a copy of its directory: what is copied and said, and what the submission has of it.

The copy is written when the job is submitted: what you change later does not reach the job. `workspaces/KEY` names the
objects that a submission needs, until the job is removed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ports import state
from ports.errors import StoreError, UsageError
from ports.jobs import _durable, _trees, _workspace
from ports.jobs._places import Places
from ports.jobs._scripts import Script
from ports.jobs._trees import Objects
from ports.jobs._workspace import Left, Selection
from ports.jobs.resource import lay_out

_MOST_LEFT = 20  # that the submission notes of what stays behind
_LARGEST_PATCH = 16 << 20
_PYTHON = re.compile(r"(python|ipython)[\d.]*")
_PYTHON_SECONDS = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a script with a copy is about to get.

    Parameters
    ----------
    out : sequence of str
        Files and directories of the copy that are its output; none: what the script makes or changes.
    reuse : mapping
        Path in the copy -> file of another job that is put there.
    """

    script: Script
    selection: Selection
    out: tuple[str, ...] = ()
    send_all: bool = False
    reuse: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Return what would be submitted, what would be copied, and what stays behind."""
        return {**self.script.row(), "workspace": self.copy_row()}

    def copy_row(self) -> dict[str, Any]:
        """Return what would be copied, and what stays behind."""
        found = self.selection
        return {
            "root": found.root,
            "out": list(self.out),
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
        tree, n_new = _trees.snapshot(objects, self._selected)
        found, root = tree.selection, tree.selection.root
        told, patch = _workspace.recorded(root)
        row = dataclasses.replace(self, selection=found).copy_row() | {"tree": tree.digest, "how": lay_out.COPY, **told}
        if patch and len(patch) <= _LARGEST_PATCH:
            row["patch"] = objects.put(patch)
        if (version := _python(self.script.argv, root, self.script.environ)) is not None:
            row["python"] = version
        kept = {**row, "left": row["left"][:_MOST_LEFT], "n_left": len(row["left"]), "largest": []}
        return with_workspace(self.script, kept), {**row, "n_new_bytes": n_new}

    def _selected(self) -> Selection:
        return _selected(self.selection.root, self.send_all, self.reuse)


def plan(
    script: Script, *, out: Sequence[str] = (), send_all: bool = False, reuse: Mapping[str, str] | None = None
) -> Plan:
    """Look through the directory of a script, and return what would be copied.

    Raises
    ------
    UsageError
        Too much would be copied, the command line names a file that would stay behind, or `out` is outside.
    """
    outputs = tuple(dict.fromkeys(_relative(one, "--out") for one in out))
    reused = dict(reuse or {})
    found = _selected(str(script.submission.directory), send_all, reused)
    _workspace.check_words(script.argv, found)
    return Plan(script=script, selection=found, out=outputs, send_all=send_all, reuse=reused)


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


def _python(words: Sequence[str], root: str, environ: Mapping[str, str]) -> str | None:
    """Return the version of the Python that the script runs in; None if it is another program."""
    if not _PYTHON.fullmatch(Path(words[0]).name):
        return None
    program = shutil.which(words[0], path=environ.get("PATH", os.defpath))
    code = "import platform; print(platform.python_version())"
    try:
        done = subprocess.run(
            [program or words[0], "-I", "-c", code] if "ipython" not in words[0] else [program or words[0], "-V"],
            cwd=root, env=dict(environ), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_PYTHON_SECONDS, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None  # it will say so itself
    return done.stdout.strip() or None


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


def keep(places: Places, key: str, script: Script) -> Path | None:
    """Note which objects a submission needs, and return the file; None if the script runs in place."""
    if (workspace := of(script)) is None:
        return None
    state.make_private(places.workspaces)
    told = {"format": 1, "tree": workspace["tree"], "objects": [workspace["patch"]] if "patch" in workspace else []}
    path = places.workspace_of(key)
    _durable.write(path, json.dumps(told).encode())
    return path


def sweep(places: Places) -> int:
    """Remove the objects that no submission needs any more, and return their size; raises StoreError."""
    if not places.workspaces.is_dir():
        return 0

    def needed() -> tuple[list[str], list[str]]:
        told = [_read(path) for path in places.workspaces.iterdir() if not path.name.startswith(".")]
        return [str(one["tree"]) for one in told], [str(name) for one in told for name in one["objects"]]

    return Objects(places.objects).sweep(needed)


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise StoreError(path, "it says which files a job needs, and cannot be read", "") from error
