"""What a job printed: in the order of its stamps, followed across rotations and from where somebody was."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ports.jobs import _logs
from ports.jobs._logs import Position
from ports.jobs.resource import script, streams
from ports.sessions import launch


@pytest.fixture(autouse=True)
def _parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(script, "launch", launch, raising=False)  # which it has where it runs by path
    yield


def text_of(pieces: list[_logs.Piece]) -> bytes:
    return b"".join(piece.text for piece in pieces)


def read_all(path: Path, position: Position) -> tuple[bytes, Position]:
    found = b""
    while True:
        pieces, position = _logs.read_on("stdout", path, position, stamped=True)
        if not pieces:
            return found, position
        found += text_of(pieces)


def test_each_line_begins_with_its_time_in_a_fixed_width(tmp_path: Path) -> None:
    stream = script.Stream(str(tmp_path / "stdout"), 10_000)
    for part in (b"one\ntw", b"o\n", b"\n", b"no end"):
        stream.write(part)
    lines = (tmp_path / "stdout").read_bytes().split(b"\n")
    assert [line[script.STAMP :] for line in lines] == [b"one", b"two", b"", b"no end"]
    assert all(line[:4].isdigit() and line[23:25] == b"Z " for line in lines)


def test_output_of_the_next_attempt_begins_a_line(tmp_path: Path) -> None:
    script.Stream(str(tmp_path / "stdout"), 10_000).write(b"killed here")
    script.Stream(str(tmp_path / "stdout"), 10_000).write(b"again\n")
    pieces, _ = _logs.last({"stdout": tmp_path / "stdout"}, 0, stamped=True)
    assert text_of(pieces) == b"killed here\nagain\n"


@settings(max_examples=60)
@given(parts=st.lists(st.binary(max_size=40) | st.just(b"\n") | st.just(b"a line\n"), max_size=30))
def test_what_was_printed_is_read_as_it_was(parts: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("stream") / "stdout"
    stream, printed, found, position = script.Stream(str(path), 1 << 20), b"", b"", Position()
    for part in parts:
        stream.write(part)
        printed += part
        more, position = read_all(path, Position.parse(str(position)))
        found += more
    assert found == printed
    pieces, end = _logs.last({"stdout": path}, 0, stamped=True)
    assert text_of(pieces) == printed and (not printed or end == {"stdout": position})


def test_who_follows_misses_nothing_when_the_file_is_rotated(tmp_path: Path) -> None:
    path, position, found = tmp_path / "stdout", Position(), b""
    stream = script.Stream(str(path), 2_000)
    printed = [f"line {n}\n".encode() for n in range(400)]
    for n, line in enumerate(printed):
        stream.write(line)
        if n % 25 == 0:
            more, position = read_all(path, position)
            found += more
    more, _ = read_all(path, position)
    assert found + more == b"".join(printed)
    assert (tmp_path / "stdout.1").exists() and path.stat().st_size <= 2_000 and stream.log.lost > 5_000


def test_who_was_away_for_two_rotations_goes_on_with_what_is_left(tmp_path: Path) -> None:
    path = tmp_path / "stdout"
    stream = script.Stream(str(path), 2_000)
    stream.write(b"first\n")
    _, position = read_all(path, Position())
    for n in range(400):
        stream.write(f"line {n}\n".encode())
    found, _ = read_all(path, position)
    numbers = [int(line.split()[1]) for line in found.splitlines()]
    assert numbers == list(range(numbers[0], 400)) and numbers[0] > 200


def test_a_line_without_an_end_does_not_grow_for_ever(tmp_path: Path) -> None:
    stream = script.Stream(str(tmp_path / "stdout"), 1_000)
    for _ in range(100):
        stream.write(b"\r 10 %" * 20)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 6_000


def test_the_last_lines_of_both_streams_are_in_order(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in _logs.STREAMS}
    files["stdout"].write_bytes(
        b"2026-11-30T11:47:08.100Z one\n2026-11-30T11:47:08.300Z three\n2026-11-30T11:47:08.500Z five"
    )
    files["stderr"].write_bytes(b"2026-11-30T11:47:08.200Z two\n2026-11-30T11:47:08.400Z four\n")
    pieces, positions = _logs.last(files, 3, stamped=True)
    assert [(one.stream, one.text) for one in pieces] == [
        ("stdout", b"three\n"), ("stderr", b"four\n"), ("stdout", b"five"),
    ]  # fmt: skip
    assert not positions["stdout"].at_begin and positions["stderr"].at_begin


def test_many_lines_are_read_from_the_end_and_across_the_rotation(tmp_path: Path) -> None:
    path = tmp_path / "stdout"
    stamp = b"2026-11-30T11:47:08.123Z "
    path.with_name("stdout.1").write_bytes(b"".join(stamp + b"%d\n" % n for n in range(50_000)))
    path.write_bytes(b"".join(stamp + b"%d\n" % n for n in range(50_000, 50_010)))
    pieces, _ = _logs.last({"stdout": path}, 20, stamped=True)
    assert [int(one.text) for one in pieces] == list(range(49_990, 50_010))


def test_output_of_a_function_has_no_stamps_and_stdout_comes_first(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in _logs.STREAMS}
    files["stdout"].write_bytes(b"a\nb\n")
    files["stderr"].write_bytes(b"2026-11-30T11:47:08.123Z is text here\n")
    pieces, positions = _logs.last(files, 0, stamped=False)
    assert text_of(pieces) == b"a\nb\n2026-11-30T11:47:08.123Z is text here\n"
    files["stdout"].write_bytes(b"a\nb\nc")
    more = list(_logs.follow(lambda: files, positions, stamped=False, is_over=lambda: True))
    assert [text_of(pieces) for pieces, _ in more] == [b"c"]


class Running:
    """A function of a slot whose file becomes that of the next job while its own row says that it runs."""

    stamped = False

    def __init__(self, top: Path) -> None:
        self.slot, self.work = top / "slot.out", top / "stdout"
        self.row: dict[str, Any] = {"what": "function", "state": "running", "slot": "slot", "attempt": 1}
        self.next_row = self.row
        self.slot.write_bytes(b"".join(b"A line %d\n" % n for n in range(5)))

    def files(self) -> dict[str, Path]:
        return {"stdout": self.slot if _logs.place_of(self.row) else self.work}

    def is_still(self) -> bool:
        before, self.row = _logs.place_of(self.row), self.next_row
        return _logs.place_of(self.row) == before

    def is_over(self) -> bool:
        return self.row["state"] == "finished"

    def end(self) -> None:
        """End, and let the slot go on with another job."""
        with self.slot.open("ab") as file:
            file.write(b"A last line\n")
        self.slot.rename(self.work)
        self.slot.write_bytes(b"".join(b"B secret line %d\n" % n for n in range(9)))
        self.next_row = {**self.row, "state": "finished"}


WHOLE = b"".join(b"A line %d\n" % n for n in range(5)) + b"A last line\n"


def test_a_follower_never_sees_the_output_of_the_next_job(tmp_path: Path) -> None:
    job = Running(tmp_path)
    pieces, positions = _logs.last_of(job, 0)
    got = text_of(pieces)
    assert got == WHOLE[: len(got)] and got.endswith(b"4\n")
    job.end()
    asked: dict[str, Any] = {"stamped": False, "is_over": job.is_over, "is_still": job.is_still, "every": 0.0}
    for some, _ in _logs.follow(job.files, positions, **asked):
        got += text_of(some)
    assert got == WHOLE


class Retried(Running):
    """A function that fails, waits, and is tried again in another slot; its slots append what attempts printed."""

    def __init__(self, top: Path, first: bytes, second: bytes, seen: int) -> None:
        super().__init__(top)
        self.top, self.second = top, second
        self.slot.write_bytes(first[:seen])
        self.steps = iter([lambda: self.slot.write_bytes(first), self.fail, self.again, self.print, self.succeed])

    def files(self) -> dict[str, Any]:
        work, slot = _logs.File(self.work), _logs.File(self.slot)
        return {"stdout": _logs.joined(self.row, slot if _logs.place_of(self.row) else work, work)}

    def fail(self) -> None:
        streams.move(str(self.slot), str(self.work))
        self.next_row = {**self.row, "state": "pending"}

    def again(self) -> None:
        self.slot = self.top / "other.out"
        self.slot.write_bytes(self.second[:3])
        self.next_row = {**self.row, "state": "running", "slot": "other", "attempt": 2}

    def print(self) -> None:
        self.slot.write_bytes(self.second)

    def succeed(self) -> None:
        streams.move(str(self.slot), str(self.work))
        self.next_row = {**self.row, "state": "finished"}

    def is_over(self) -> bool:
        next(self.steps, lambda: None)()
        self.row = self.next_row
        return super().is_over()


@pytest.mark.parametrize("seen", [0, 5, 40])
@pytest.mark.parametrize("second", [b"again\n", b"again\n" * 50], ids=["short", "long"])
def test_a_follower_sees_each_attempt_of_a_function_once(tmp_path: Path, seen: int, second: bytes) -> None:
    first = b"".join(b"first %d\n" % n for n in range(8))
    job = Retried(tmp_path, first, second, seen)
    pieces, positions = _logs.last_of(job, 0)
    got = text_of(pieces)
    asked: dict[str, Any] = {"stamped": False, "is_over": job.is_over, "is_still": job.is_still, "every": 0.0}
    for some, _ in _logs.follow(job.files, positions, **asked):
        got += text_of(some)
    assert got == first + second == job.work.read_bytes()


@pytest.mark.parametrize("offset", [0, 3, 5, 8, -4, -7, -99])
@pytest.mark.parametrize("most", [1, 4, 99])
def test_what_attempts_printed_is_read_as_one_file(tmp_path: Path, offset: int, most: int) -> None:
    before, now, both = (_logs.File(tmp_path / name) for name in ("before", "now", "both"))
    for file, data in ((before, b"first"), (now, b"again"), (both, b"firstagain")):
        file.path.write_bytes(data)
    found, wanted = _logs.Joined(before, now).read(offset, most), both.read(offset, most)
    assert found is not None and wanted is not None
    assert (found.size, found.offset, found.data) == (wanted.size, wanted.offset, wanted.data)


def test_last_lines_are_those_of_the_job_though_it_ends_meanwhile(tmp_path: Path) -> None:
    job = Running(tmp_path)
    job.end()
    assert text_of(_logs.last_of(job, 2)[0]) == b"A line 4\nA last line\n"
    assert text_of(_logs.last_of(job, 0, only="stderr")[0]) == b""


def test_the_end_of_too_much_output_of_a_function_is_shown(tmp_path: Path) -> None:
    files = {"stdout": tmp_path / "stdout"}
    files["stdout"].write_bytes(b"".join(b"%d\n" % n for n in range(10_000)))
    assert streams.cut(str(files["stdout"]), 20_000) and not files["stdout"].stat().st_size
    assert [int(one.text) for one in _logs.last(files, 3, stamped=False)[0]] == [9_997, 9_998, 9_999]
    assert len(text_of(_logs.last(files, 0, stamped=False)[0])) == 20_000
    with files["stdout"].open("ab") as file:
        file.write(b"more\n")
    assert text_of(_logs.last(files, 2, stamped=False)[0]) == b"9999\nmore\n"


def test_a_job_that_printed_nothing_has_no_lines(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in _logs.STREAMS}
    pieces, positions = _logs.last(files, 10, stamped=True)
    assert pieces == [] and list(_logs.follow(lambda: files, positions, stamped=True, is_over=lambda: True)) == []


@given(first=st.sampled_from(["", "2026-11-30T11:47:08.123Z"]), offset=st.integers(0, 10**12), begin=st.booleans())
def test_a_position_survives_as_text(first: str, offset: int, begin: bool) -> None:
    position = Position(first, offset, begin)
    assert dataclasses.astuple(Position.parse(str(position))) == dataclasses.astuple(position)


@pytest.mark.parametrize("text", ["", "nonsense", "+", "2026+", "-1", "+12x"])
def test_a_position_that_is_none_is_the_beginning(text: str) -> None:
    assert Position.parse(text) == Position()
