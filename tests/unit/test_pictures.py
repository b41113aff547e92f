"""The pictures of the documentation: they exist, they are small, pages show them, and they are up to date."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.acceptance.chromium import NEEDS_CHROMIUM

TOP = Path(__file__).resolve().parents[2]
PICTURES = TOP / "docs" / "pictures"
NAMES = sorted(path.name for path in PICTURES.iterdir() if path.suffix in (".png", ".svg"))
SHOWN = re.compile(r"!\[([^\]]*)\]\(([^)]+)\)")


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pictures", TOP / "scripts" / "pictures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_a_page_shows_every_picture_with_words_for_it(page: str) -> None:
    shown = {target: words for words, target in SHOWN.findall((TOP / page).read_text("utf-8"))}
    assert {(TOP / page).parent / target for target in shown} == {PICTURES / name for name in NAMES}
    assert all(len(words) > 30 for words in shown.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_small_and_what_its_name_says(name: str) -> None:
    data = (PICTURES / name).read_bytes()
    assert len(data) < 60_000
    assert data.startswith(b"\x89PNG\r\n" if name.endswith(".png") else b"<svg ")


def test_pictures_show_what_the_program_says_today() -> None:
    drawn = script()
    assert sorted([*drawn.DRAWN, "way.svg"]) == NAMES
    recorded = json.loads((PICTURES / drawn.SOURCES).read_text("utf-8"))
    stale = [name for name, digest in drawn.sources().items() if recorded.get(name) != digest]
    assert not stale, f"run `.venv/bin/python scripts/pictures.py`: it draws {', '.join(stale)} again"


class TestDrawing:
    pytestmark = [pytest.mark.ci, *NEEDS_CHROMIUM]

    def test_the_script_draws_each_picture(self, tmp_path: Path) -> None:
        command = [sys.executable, str(TOP / "scripts" / "pictures.py"), str(tmp_path)]
        subprocess.run(command, check=True, timeout=100)
        assert {path.name for path in tmp_path.iterdir()} == {*script().DRAWN, script().SOURCES}
        assert all(1000 < path.stat().st_size < 60_000 for path in tmp_path.glob("*.png"))
