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
    spec = importlib.util.spec_from_file_location("scripts_pictures", TOP / "scripts" / "pictures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look there
    spec.loader.exec_module(module)
    return module


PAGES = [TOP / "README.md", *sorted((TOP / "docs").glob("*.md"))]


def test_each_picture_is_on_a_page_with_words_for_it() -> None:
    shown = {}
    for page in PAGES:
        there = {(page.parent / target).resolve(): words for words, target in SHOWN.findall(page.read_text("utf-8"))}
        shown |= {path: words for path, words in there.items() if path.parent == PICTURES}
    assert {path.name for path in shown} == set(NAMES)
    assert all(len(words) > 30 for words in shown.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_small_and_what_its_name_says(name: str) -> None:
    data = (PICTURES / name).read_bytes()
    assert len(data) < (90_000 if name.startswith(("page", "jupyterlab")) else 60_000)
    assert data.startswith(b"\x89PNG\r\n" if name.endswith(".png") else b"<svg ")


def test_pictures_show_what_the_program_says_today() -> None:
    drawn = script()
    assert {*drawn.DRAWN, *drawn.SCREENS, "way.svg"} <= set(NAMES)
    recorded = json.loads((PICTURES / drawn.SOURCES).read_text("utf-8"))
    stale = [name for name, digest in drawn.sources().items() if recorded.get(name) != digest]
    assert not stale, f"run `.venv/bin/python scripts/pictures.py`: it draws {', '.join(stale)} again"


class TestDrawing:
    pytestmark = [pytest.mark.ci, *NEEDS_CHROMIUM]

    def test_the_script_draws_each_picture(self, tmp_path: Path) -> None:
        command = [sys.executable, str(TOP / "scripts" / "pictures.py"), str(tmp_path)]
        subprocess.run(command, check=True, timeout=100)
        assert {path.name for path in tmp_path.iterdir()} == {*script().DRAWN, *script().SCREENS, script().SOURCES}
        assert all(1000 < path.stat().st_size < 90_000 for path in tmp_path.glob("*.png"))

    @pytest.mark.long
    def test_the_page_looks_as_in_its_pictures(self, tmp_path: Path) -> None:
        command = [sys.executable, str(TOP / "scripts" / "pictures.py"), str(tmp_path)]
        subprocess.run(command, check=True, timeout=100)
        differ = {
            name: part for name in script().SCREENS if (part := differing(PICTURES / name, tmp_path / name)) > 0.002
        }
        assert not differ, f"{differ}: if you meant it, run `.venv/bin/python scripts/pictures.py`"


def differing(one: Path, other: Path) -> float:
    """Return which part of the pixels of two pictures differs visibly; 1 if their sizes differ."""
    from PIL import Image, ImageChops

    with Image.open(one) as before, Image.open(other) as now:
        if before.size != now.size:
            return 1.0
        difference = ImageChops.difference(before.convert("RGB"), now.convert("RGB")).convert("L")
    return sum(difference.histogram()[48:]) / (difference.width * difference.height)
