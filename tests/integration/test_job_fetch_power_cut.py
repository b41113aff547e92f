"""A power cut right after `ports job fetch`: what it noted as fetched is on the disk."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.integration.test_job_power_cut import copied, disk, mounted  # noqa: F401  the fixture
from tests.unit.test_job_outputs import ID, Job, write

pytestmark = [pytest.mark.ci, pytest.mark.timeout(120)]


@pytest.mark.parametrize("n_files", [3, 60])  # one by one, and the whole file system
def test_what_is_noted_as_fetched_survives_a_power_cut(disk: Path, tmp_path: Path, n_files: int) -> None:  # noqa: F811
    job = Job(tmp_path)
    for number in range(n_files):
        write(job.copy / f"r/{number}/x", f"{number} " * 5000)
    image, copy = disk / "image", disk / "copy"
    with image.open("wb") as file:
        file.truncate(48 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-E", "nodiscard", str(image)], check=True)
    with mounted(image, disk / "mounted") as place:
        job.fetch(job.row("r"), place / "night")
        copied(image, copy)
    assert job.places.fetched(ID).exists()
    with mounted(copy, disk / "mounted") as place:
        found = {int(path.parent.name): path.read_text() for path in (place / "night").glob("r/*/x")}
    assert found == {number: f"{number} " * 5000 for number in range(n_files)}
