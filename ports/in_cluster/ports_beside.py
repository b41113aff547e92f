"""Modules of `ports` that need nothing but Python, from beside this folder: a cluster's may lack `ports`."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path


@functools.cache
def load(path):
    """Return the module in the file `path` of the package: ``"accounts.py"``."""
    name = "ports_beside_" + path.replace("/", "_").partition(".")[0]
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
