"""How many slots there are: what jobs need of the machine decides, not how many threads a worker has."""

from __future__ import annotations

import pytest

from ports.jobs.resource.crew import missing


@pytest.mark.parametrize(
    ("wanted", "cpus", "live", "starts"),
    [
        (2, 2, 0, 2),
        (2, 2, 2, 0),
        (20, 2, 5, 15),  # twenty jobs of a tenth of a core: none of them waits behind another
        (500, 2, 20, 0),  # smaller ones share
        (5, 0.2, 0, 5),
        (0, 8, 3, 0),
    ],
)
def test_as_many_slots_start_as_jobs_find_room(wanted: int, cpus: float, live: int, starts: int) -> None:
    assert missing(wanted, cpus, live) == starts
