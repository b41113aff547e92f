"""The cache of results: a small hit and one of 100 MB, compared with joblib.Memory."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

import ports
from benchmarks.measure import Aim, Result, Samples, interleave

LARGE = 100_000_000
HITS = {"small": 2_000, "large": 20}


def small(x: int, y: int = 2) -> int:
    """Return a small result."""
    return x + y


def large(size: int) -> Any:
    """Return a large array."""
    return np.arange(size, dtype="u1")


def hits(call: Callable[[int], Any], value: int, n_calls: int) -> float:
    """Return the seconds of one of `n_calls` hits."""
    began = time.perf_counter()
    for _ in range(n_calls):
        call(value)
    return (time.perf_counter() - began) / n_calls


def _measured(function: Callable[[int], Any], value: int, n_calls: int, runs: int) -> Samples:
    top = Path(tempfile.mkdtemp(prefix="ports-", dir="/var/tmp"))  # on a disk
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(os.environ, "PORTS_HOME", str(top / "state"))
            ours = ports.job(cache="use")(function)
            theirs = joblib.Memory(top / "joblib", verbose=0).cache(function)
            ours(value), theirs(value)
            return interleave(lambda: hits(ours, value, n_calls), lambda: hits(theirs, value, n_calls), runs)
    finally:
        shutil.rmtree(top)


def cache(runs: int) -> Iterator[Result]:
    """Measure hits of an entry of this boot whose checksum was looked at."""
    for name, function, value, limit in (("small", small, 1, 0.5), ("large", large, LARGE, 0.1)):
        samples = _measured(function, value, HITS[name], runs)
        what = {"small": "a cache hit", "large": "a cache hit of 100 MB"}[name]
        yield Result(f"cache-{name}", what, "joblib.Memory", "ms", Aim("ratio", limit), samples)


BENCHMARKS = {"cache": cache}
