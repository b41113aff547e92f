"""The packages that a script imports: which of them its Python has not, and which it has in another version than here.

Imports are read, not run. Modules of the script's own directory, those of Python, and imports that the script can do
without (in ``try``, or for type checkers only) are left out.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ports.jobs import _interpreters

_MOST_FILES = 500
_LARGEST_FILE = 4 << 20
_SECONDS = 10.0
_CAUGHT = ("ImportError", "ModuleNotFoundError", "Exception", "BaseException")
MARK = "ports-packages:"
#: Run by the Python of the script, with the names as arguments: says its version, and that of each package.
CODE = """
import importlib.util, json, sys
try:
    from importlib import metadata
except ImportError:
    metadata = None
found = {}
def version(name):
    for one in (name, *KNOWN.get(name, ())):
        try:
            return metadata.version(one)
        except Exception:
            pass
    return ""
KNOWN = {"yaml": ["PyYAML"], "sklearn": ["scikit-learn"], "cv2": ["opencv-python", "opencv-python-headless"],
         "PIL": ["Pillow"], "bs4": ["beautifulsoup4"], "skimage": ["scikit-image"], "dateutil": ["python-dateutil"],
         "attr": ["attrs"], "OpenSSL": ["pyOpenSSL"], "Bio": ["biopython"], "git": ["GitPython"], "zmq": ["pyzmq"]}
sys.path[:] = [one for one in sys.path if one]
for name in sys.argv[1:]:
    try:
        is_there = name in sys.modules or importlib.util.find_spec(name) is not None
    except Exception:
        is_there = False
    found[name] = version(name) if is_there else None
print("\\n" + MARK + json.dumps({"python": "%d.%d.%d" % sys.version_info[:3], "packages": found}))
""".replace("MARK", repr(MARK))


def imports(words: Sequence[str], directory: str) -> list[str] | None:
    """Return the packages that a command of Python imports, by their first names; None if it runs no Python script."""
    script = _script(words, directory)
    if script is None:
        return None
    roots = list(dict.fromkeys((os.path.dirname(script), directory)))
    found: set[str] = set()
    pending, seen = [script], {script}
    while pending and len(seen) < _MOST_FILES:
        names, local = _imported(pending.pop())
        for name in names:
            paths = [path for root in roots for path in _local(root, name)]
            found.update([] if paths else [name.partition(".")[0]])
            local += paths
        fresh = [path for path in dict.fromkeys(local) if path not in seen]
        seen.update(fresh)
        pending += fresh
    return sorted(found - set(sys.stdlib_module_names) - {"__main__"})


def python_of(words: Sequence[str]) -> str | None:
    """Return the interpreter of a command; None if it runs something else."""
    return words[0] if _interpreters.called(words, _interpreters.PYTHON) else None


def _script(words: Sequence[str], directory: str) -> str | None:
    """Return the file that a command of Python runs."""
    if python_of(words) is None:
        return None
    if (name := _interpreters.file_of(words)) is not None:
        path = os.path.join(directory, name)
        return path if os.path.isfile(path) else None
    inline = next((n for n, word in enumerate(words[1:], 1) if _interpreters.PYTHON.inline.fullmatch(word)), None)
    if inline is None or words[inline] != "-m":
        return None
    return next(
        (path for path in _local(directory, "".join(words[inline + 1 : inline + 2])) if os.path.isfile(path)), None
    )


def _local(root: str, name: str) -> Iterator[str]:
    """Yield the files below `root` that an import of `name` runs: packages on the way, and the module."""
    place = root
    for part in filter(None, name.split(".")):
        place = os.path.join(place, part)
        for path in (f"{place}.py", os.path.join(place, "__init__.py"), os.path.join(place, "__main__.py")):
            if os.path.isfile(path):
                yield path


def _imported(path: str) -> tuple[set[str], list[str]]:
    """Return the modules that a file imports, ``a.b`` of ``from a import b`` among them, and files of its package."""
    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read(_LARGEST_FILE))
    except (OSError, ValueError, SyntaxError, RecursionError):
        return set(), []  # it will say so itself
    found: set[str] = set()
    local: list[str] = []
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            found.update(one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = {f"{module}.{one.name}".strip(".") for one in node.names}
            if node.level:
                place = os.path.join(os.path.dirname(path), *[os.pardir] * (node.level - 1))
                local += [one for name in sorted(names) for one in _local(os.path.normpath(place), name)]
            else:
                found.update({module, *names})
        pending += _needed(node)
    return found - {""}, local


def _needed(node: ast.AST) -> list[ast.AST]:
    """Return what is below a node, without what the script can do without."""
    if isinstance(node, ast.Try) and any(_catches(handler) for handler in node.handlers):
        return [*node.handlers, *node.orelse, *node.finalbody]
    if isinstance(node, ast.If) and any("TYPE_CHECKING" in (getattr(one, "id", ""), getattr(one, "attr", ""))
                                        for one in ast.walk(node.test)):  # fmt: skip
        return list(node.orelse)
    return list(ast.iter_child_nodes(node))


def _catches(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    return any(getattr(one, "id", getattr(one, "attr", "")) in _CAUGHT for one in ast.walk(handler.type))


def look(words: Sequence[str], names: Sequence[str], directory: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return what the Python of a command says: its version, and the versions of `names`; empty if it says nothing."""
    python = python_of(words)
    program = shutil.which(python, path=environ.get("PATH", os.defpath)) if python and os.sep not in python else python
    if program is None:
        return {}
    path = os.path.join(directory, program)
    try:
        done = subprocess.run(
            [path, "-c", CODE, *names], cwd="/", env=dict(environ), stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return {}  # the job will say it
    return read(done.stdout)


def said(text: str) -> dict[str, Any]:
    """Return what a program said in the line of `MARK`, among what start files printed."""
    try:
        found = json.loads(text.rpartition(f"\n{MARK}")[2].partition("\n")[0])
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def read(text: str) -> dict[str, Any]:
    """Return what `CODE` said."""
    found = said(text)
    packages = found.get("packages")
    if not isinstance(packages, dict):
        return {}
    kept = {str(name)[:100]: None if one is None else str(one)[:60] for name, one in packages.items()}
    return {"python": str(found.get("python"))[:60], "packages": kept}


def notes(there: Mapping[str, Any], here: Mapping[str, Any], host: str) -> list[str]:
    """Return in sentences which packages are missing where the script runs, or differ in their first number.

    >>> notes({"packages": {"torch": None, "numpy": "2.1.0"}}, {"packages": {"numpy": "1.26"}}, "server1")
    ['torch, which the script imports, is missing on server1', 'numpy is 2.1.0 on server1, and 1.26 here']
    """
    packages, own = dict(there.get("packages") or {}), dict(here.get("packages") or {})
    missing = [name for name, version in packages.items() if version is None]
    verb = "is" if len(missing) == 1 else "are"
    lines = [f"{', '.join(missing)}, which the script imports, {verb} missing on {host}"] if missing else []
    for name, version in packages.items():
        if version and own.get(name) and _first(version) != _first(str(own[name])):
            lines.append(f"{name} is {version} on {host}, and {own[name]} here")
    return lines


def _first(version: str) -> str:
    return version.partition(".")[0]
