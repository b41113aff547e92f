"""Two thousand jobs, while all that runs them is killed at random moments: none is lost, none lies."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.integration.conftest import new_home, stop_resource
from tests.lab.job_kills import PARTS, Storm

pytestmark = [pytest.mark.ci, pytest.mark.xdist_group("machine"), pytest.mark.timeout(3600)]
SEED = 20_261_130


@pytest.mark.parametrize(
    "n_rounds",
    [2, pytest.param(10, marks=pytest.mark.long), pytest.param(200, marks=[pytest.mark.storm, pytest.mark.timeout(0)])],
)
def test_no_job_is_lost_or_lies_in_a_storm(tmp_path: Path, n_rounds: int) -> None:
    seeds = random.Random(SEED + n_rounds)
    for number in range(n_rounds):
        seed = seeds.randrange(10**6)
        with new_home(tmp_path / f"home-{number}", {"DASK_PORTS__JOBS__GRACE": "2"}) as home:
            storm = Storm(home.processes, tmp_path / f"effects-{number}", seed)
            try:
                storm.run(2_000, 12, 6 if n_rounds == 2 else 10)
                faults = list(storm.faults())
            finally:
                storm.client.close()
                stop_resource()
            assert not faults, f"seed {seed}, killed {storm.killed}:\n" + "\n".join(faults[:20])
            assert set(storm.killed) == set(PARTS)
