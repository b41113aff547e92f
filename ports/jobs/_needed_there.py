"""What a script needs of another machine, and what of it is surely not there: said before the script waits there.

Its login shell is asked, as that of the job is: it says which programs are on its PATH. Where it has no python3,
nothing is known.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ports.errors import UsageError
from ports.jobs import _interpreters, _packages
from ports.jobs._scripts import OTHER_PYTHON, Script

if TYPE_CHECKING:
    from ports.jobs._sending import Asks

#: Programs that every machine has: no question is worth their name.
_EVERYWHERE = re.compile(
    "true|false|sh|bash|echo|printf|cat|cp|mv|rm|ls|mkdir|ln|chmod|touch|sleep|env|nice|nohup|date|test|expr|grep|sed|awk"
    "|sort|head|tail|wc|tar|find|xargs|dd|tee|uname|id|kill|ps|cut|tr"
)
_CODE = """
import json, os, shutil
ASKED = json.loads(TEXT)
place = os.path.expanduser(ASKED["directory"])
def is_there(name, mode, on_path):
    path = os.path.join(place, name)
    if mode == os.F_OK and os.path.exists(path) or os.sep in name and os.path.isfile(path) and os.access(path, mode):
        return True
    return on_path and os.sep not in name and shutil.which(name, mode) is not None
missing = [] if os.path.isdir(place) else ["directory"]
missing += [what for what, (name, mode, on_path) in sorted(ASKED["names"].items()) if not is_there(name, mode, on_path)]
print("\\n" + MARK + json.dumps({"missing": missing}))
"""


def names(script: Script, *, has_files: bool, knows_python: bool = False) -> dict[str, tuple[str, int, bool]]:
    """Return what to look for: the name, how it is used, and whether it can be on the PATH. Pure.

    Parameters
    ----------
    has_files : bool
        Its directory goes along: what is named from there is looked for here.
    knows_python : bool
        Its Python is asked for packages anyway.
    """
    told, argv = script.submission.script or {}, script.argv
    setup: Mapping[str, Any] = told.get("setup") or {}
    found: dict[str, tuple[str, int, bool]] = {}
    if not setup and not knows_python:
        found["program"] = (argv[0], os.X_OK, True)
    if setup.get("python"):
        found["python"] = (str(setup["python"]), os.X_OK, True)
    if (file := _interpreters.file_of(argv)) is not None and not script.submission.after:
        found["file"] = (file, os.F_OK, _interpreters.is_on_path_too(argv))
    return {what: one for what, one in found.items() if _is_asked(what, one[0], script.environ, has_files)}


def _is_asked(what: str, name: str, environ: Mapping[str, str], has_files: bool) -> bool:
    if os.sep in name or what == "file":
        return not has_files or name.startswith("/")
    return _EVERYWHERE.fullmatch(name) is None and "PATH" not in environ


def check(machine: Asks, script: Script, *, host: str, has_files: bool, knows_python: bool = False) -> None:
    """Raise UsageError if something that a script needs is surely not on another machine; see `names`."""
    asked, directory = names(script, has_files=has_files, knows_python=knows_python), str(script.submission.directory)
    is_own = not has_files and directory != "~" and not script.submission.after
    if not asked and not is_own:
        return
    text = json.dumps({"names": asked, "directory": directory if is_own or not has_files else "~"})
    code = _CODE.replace("TEXT", repr(text)).replace("MARK", repr(_packages.MARK))
    answer = machine.ask("disk.packages", [code.encode()], python="python3", names=[]).header
    missing = _packages.said(str(answer.get("said") or "")).get("missing")
    if isinstance(missing, list) and missing:
        raise UsageError(_words(missing, asked, directory, host))


def _words(missing: Sequence[object], asked: Mapping[str, tuple[str, int, bool]], directory: str, host: str) -> str:
    """Return in a sentence what is not there."""
    if "directory" in missing:
        return f"directory: {directory} does not exist on {host}; make it there, or name another one"
    if "file" in missing and "file" in asked:
        return f"there is no file {asked['file'][0]!r} in {directory} on {host}"
    what = "python" if "program" not in missing and "python" in asked else "program"
    name = asked.get(what, ("", 0, False))[0]
    where = f"on {host}" if os.sep in name else f"on the PATH of your login shell on {host}"
    prefix, way = ("python: ", f"; {OTHER_PYTHON}") if what == "python" else ("", "")
    return f"{prefix}there is no program {name!r} {where}{way}"
