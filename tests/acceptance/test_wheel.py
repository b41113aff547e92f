"""What users install is the wheel, not this checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "ports", source / "ports", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "etc", source / "etc")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(source)]
    subprocess.run(command, check=True, timeout=150)
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {name for name in names if name.startswith("ports/")}
    there = {str(path.relative_to(ROOT)) for path in (ROOT / "ports").rglob("*") if path.is_file()}
    assert {name for name in there if "__pycache__" not in name} == shipped
    # where Dask looks for settings: it names what finds the credentials of an address
    assert [name for name in names if name.endswith(".data/data/etc/dask/ports-client.yaml")]
    # where Jupyter looks for extensions of its server
    place = ".data/data/etc/jupyter/jupyter_server_config.d/ports.web.json"
    assert [name for name in names if name.endswith(place)]
