"""What the launcher of a notebook server makes of the user's own configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from ports.notebooks import jupyter_launch


@pytest.mark.parametrize(
    ("preferred", "outside"),
    [("{root}/in", False), ("in", False), ("/in", False), ("{root}", False), ("{root}/..", True)],
)
def test_a_preferred_directory_outside_of_the_root_is_known(tmp_path: Path, preferred: str, outside: bool) -> None:
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    assert jupyter_launch.is_outside(preferred.format(root=root), str(root)) is outside
