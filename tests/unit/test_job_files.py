"""Files whose content travels, and Arrow tables: as arguments, as results, within a version of Python and across."""

from __future__ import annotations

import pickle
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ports
from ports.errors import ConflictError, RecordError, UnsendableError
from ports.jobs import _blobs, _files, _function_key, _plain, _travel
from ports.jobs.resource import call


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    yield
    call.forget()


def both(first: Any, second: Any = None) -> Any:
    """Read the files, and return one."""
    text = Path(first).read_text() + ("" if second is None else Path(second["one"][0]).read_text())
    Path("out.txt").write_text(text.upper())
    return text, Path(first).suffix, ports.File("out.txt")


WAYS = {"pickled": _travel.pack, "written": _travel.write}


@pytest.mark.parametrize("how", WAYS)
def test_a_file_is_a_file_where_the_job_runs_and_one_at_home(how: str, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("one ")
    (tmp_path / "more.csv").write_text("two")
    calls = [((ports.File("data.csv"), {"one": (ports.File("more.csv"),)}), {}), ((ports.File("data.csv"),), {})]
    parcel = WAYS[how](both, calls)
    (tmp_path / "data.csv").write_text("changed")
    done = call.run(parcel.function, parcel.arguments[0])
    assert done.state == "finished", done.error
    (tmp_path / "out.txt").unlink()
    text, suffix, made = _travel.unpack(done.blob, "the result")
    assert (text, suffix, made.name, made.read()) == ("one two", ".csv", "out.txt", b"ONE TWO")
    assert made.save() == Path("out.txt") and (tmp_path / "out.txt").read_text() == "ONE TWO"
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o400


@pytest.mark.parametrize("how", WAYS)
def test_a_file_of_many_calls_travels_once(how: str, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"x" * 100_000)
    parcel = WAYS[how](both, [((ports.File("data.bin"),), {}) for _ in range(50)])
    assert sum(map(len, parcel.arguments)) < 50_000 and 100_000 < len(parcel.function) < 120_000


def test_content_that_was_removed_meanwhile_is_there_again(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("one")
    parcel = _travel.pack(both, [((ports.File("data.csv"),), {})])
    for _ in range(2):
        assert call.run(parcel.function, parcel.arguments[0]).state == "finished"
        for file in _files.directory().iterdir():
            file.unlink()


def test_a_file_that_is_missing_is_refused_with_its_path(tmp_path: Path) -> None:
    for pack in WAYS.values():
        with pytest.raises(UnsendableError, match=r"the file .*/none.csv cannot be read: No such file"):
            pack(both, [((ports.File("none.csv"),), {})])
        with pytest.raises(UnsendableError, match=r"Is a directory; File\(\) takes the path of one file"):
            pack(both, [((ports.File(tmp_path),), {})])
    parcel = _travel.pack(lambda: ports.File("never-made.png"), [((), {})])
    done = call.run(parcel.function, parcel.arguments[0])
    assert done.error is not None and "never-made.png cannot be read: No such file" in done.error["text"]


def test_another_file_is_never_overwritten_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("one")
    (tmp_path / "other.csv").write_text("two")
    with pytest.raises(ConflictError, match=r"other.csv is another file; pass force=True to replace it"):
        ports.File("data.csv").save("other.csv")
    ports.File("data.csv").save("other.csv", force=True)
    assert ports.File("data.csv").save("other.csv").read_text() == "one"
    (tmp_path / "there").mkdir()
    assert ports.File("data.csv").save("there") == Path("there/data.csv")


@pytest.mark.parametrize(
    "name", ["../../.bashrc", "/etc/passwd", "a\0b", "", ".", "x" * 500, "ü" * 300, "-rf", "ü é.csv"], ids=ascii
)
def test_the_name_of_a_far_file_leads_nowhere_else(name: str) -> None:
    found = _files.received(name, b"content")
    assert found.path.parent == _files.directory() and found.read() == b"content"
    assert len(found.path.name.encode()) <= 255 and "/" not in found.name


def test_the_cache_knows_a_file_by_its_content(tmp_path: Path) -> None:
    def key() -> dict[str, str]:
        return _function_key.arguments(both, (ports.File("data.csv"),), {})

    (tmp_path / "data.csv").write_text("one")
    before = key()
    (tmp_path / "same.csv").write_text("one")
    assert _function_key.arguments(both, (ports.File("same.csv"),), {}) == before
    (tmp_path / "data.csv").write_text("two")
    assert key() != before


def test_a_file_is_pickled_as_its_path_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("one")
    found = pickle.loads(pickle.dumps(ports.File("data.csv")))
    assert found == ports.File("data.csv") and repr(found) == f"File({str(tmp_path / 'data.csv')!r})"


def test_content_that_did_not_come_along_is_said() -> None:
    with pytest.raises(RecordError, match=r"the content of the file data.csv did not come along; submit the job again"):
        _plain.decode(b'{"F":["data.csv","abc"]}', [])


def test_a_table_travels_between_versions_as_arrow() -> None:
    arrow = pytest.importorskip("pyarrow", reason="Arrow tables travel where both have pyarrow")
    table = arrow.table({"a": [1, 2, None], "b": ["x", "y", "z"]})
    found = _blobs.load(_blobs.plain({"t": [table]}))
    assert found["t"][0].equals(table)
    pandas = pytest.importorskip("pandas", reason="DataFrames travel where both have pandas")
    frame = pandas.DataFrame({"a": [1.5, 2.5]}, index=["x", "y"])
    pandas.testing.assert_frame_equal(_blobs.load(_blobs.plain(frame)), frame)


def test_a_table_without_pyarrow_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RecordError, match="a value is a DataFrame, and pyarrow is missing here; install it with `pip"):
        _plain.decode(b'{"w":0,"p":true}', [b""])
