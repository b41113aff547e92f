"""What `ports list --watch` draws of the views of hosts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ports.cli import list as list_
from ports.cli import views
from ports.cli.tables import width
from tests.lab import views as fixed

ALL = fixed.several()


def text(line: views.Line) -> str:
    return "".join(piece for piece, _ in line)


def drawn(columns: int | None = None) -> list[str]:
    return [text(line) for line in views.lines(ALL, fixed.NOW, columns)]


def test_each_host_has_a_section_with_its_condition_and_machine() -> None:
    told = drawn()
    for view in ALL:
        heading = next(line for line in told if line.startswith(view["host"]))
        assert (view["condition"] in heading) is (view["condition"] != "connected")
        assert ("free" in heading) is (view["machine"] is not None)


def test_a_row_shows_state_size_age_and_link() -> None:
    atlas = fixed.atlas()
    (main,) = [line for line in map(text, views.lines([atlas], fixed.NOW)) if line.strip().startswith("main ")]
    row = next(row for row in atlas["rows"] if row["name"] == "main")
    assert f"{row['n_workers']} × 1 thread " in main and "● running" in main
    assert main.endswith(row["tunnel"]["local_url"].split("/")[2])


def test_columns_are_the_same_for_all_hosts() -> None:
    rows = [line for line in drawn() if "● running" in line]
    assert len(rows) > 2 and len({line.index("● running") for line in rows}) == 1


def test_a_host_that_is_not_connected_says_why_and_what_to_type() -> None:
    told = drawn()
    for view in ALL:
        if view["way_out"]:
            assert any(view["reason"] in line and f"`{view['way_out']}`" in line for line in told)


def test_the_command_that_helps_is_whole_in_a_narrow_terminal() -> None:
    asks = next(view for view in ALL if view["condition"] == "needs login")
    told = [text(line).strip() for line in views.lines([asks], fixed.NOW, 40)]
    assert any(f"`{asks['way_out']}`" in line for line in told) and not [line for line in told if line.endswith("…")]


@given(columns=st.integers(20, 200))
def test_no_line_is_wider_than_the_terminal(columns: int) -> None:
    assert all(width(line) <= columns for line in drawn(columns))


def test_what_a_host_says_moves_no_cursor() -> None:
    told = [text(line) for line in views.lines([fixed.hostile()], fixed.NOW)]
    assert not [letter for line in told for letter in line if ord(letter) < 32 or 127 <= ord(letter) < 160]


@given(parts=st.lists(st.tuples(st.floats(0, 1e13), st.floats(0, 1e13)), max_size=8), whole=st.floats(0, 1e12))
def test_a_bar_is_as_wide_as_it_should_be(parts: list[tuple[float, float]], whole: float) -> None:
    assert len(views._bar(parts, whole, 30)) == 30


def test_every_state_has_a_shape_of_its_own_in_ascii_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(text(views.in_ascii(line)).isascii() for line in views.lines(ALL, fixed.NOW, 60))
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\033" not in "".join(list_.shown(ALL))


@given(told=st.dictionaries(st.sampled_from(["n_workers", "n_threads", "memory_bytes"]), st.floats() | st.text()))
def test_whatever_a_cluster_tells_is_drawn(told: dict[str, object]) -> None:
    row = {**fixed.atlas()["rows"][0], "cluster": told}
    assert views.lines([{**fixed.atlas(), "rows": [row], "jobs": {"counts": told}}], fixed.NOW, 80)
