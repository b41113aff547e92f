"""The environment from which the compute resource was started: somebody can delete it, or replace it, meanwhile.

Processes that run already go on. Nothing more starts from it, so jobs wait until it is there again.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_NAMES = ("script.py", "lay_out.py", "set_up.py", "child.py", "../../sessions/launch.py")
#: What starts by path, beside the interpreter.
_PROGRAMS = tuple(os.path.normpath(_HERE / name) for name in _NAMES)


def missing(*, of_script: bool = True) -> str | None:
    """Return the first file that a job needs to start and that is gone; None if all are there.

    Parameters
    ----------
    of_script : bool
        It needs programs of ``ports`` too. A child that runs already only needs the interpreter for what it starts.
    """
    needed = (sys.executable, *_PROGRAMS) if of_script else (sys.executable,)
    return next((path for path in needed if not os.path.exists(path)), None)  # noqa: PTH110 - before each batch
