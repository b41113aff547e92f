"""Whether workers that run can get another memory limit: decided from numbers."""

from __future__ import annotations

import sys
from pathlib import Path

import ports

sys.path.append(str(Path(ports.__file__).parent / "clusters/owner"))  # last, as in a cluster

from ports_owner import resize

MIB = 2**20


def test_a_worker_that_holds_much_keeps_its_limit() -> None:
    assert resize.too_large({}, 1) is None
    assert resize.too_large({0: 100 * MIB, 1: 690 * MIB}, 1000 * MIB) is None
    assert resize.too_large({0: 100 * MIB, 1: 900 * MIB}, 1000 * MIB) == (
        "worker 1 uses 900.0 MiB, too much for a limit of 1000.0 MiB; scale to fewer workers, or release results first"
    )
