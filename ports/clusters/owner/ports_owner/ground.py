"""The folder `probe` of `ports` as a package: it needs nothing but Python, and a cluster can lack `ports`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

_NAME = "_ports_probe"


def _load():
    """Load the folder from its place in `ports`, where there is no copy beside this package."""
    folder = Path(__file__).parents[3] / "probe"
    spec = importlib.util.spec_from_file_location(
        _NAME, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = sys.modules[_NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


probe: Any
if __name__.startswith("ports."):  # a client: in a task, what is called `_NAME` is of the version that its owner has
    probe = importlib.import_module("ports.probe")
else:
    try:  # beside this package, or loaded from text already
        probe = importlib.import_module(_NAME)
    except ModuleNotFoundError:
        probe = _load()
