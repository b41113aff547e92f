"""The last lines of a job, looked at again and again; all of a stream; a command that somebody typed in a form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ports.errors import UsageError
from ports.jobs import Tail, changed, command, whole

STAMP = "2026-11-30T11:47:%02d.000Z "


class Printed:
    """The output of a job, in files of its own."""

    def __init__(self, top: Path, *, stamped: bool) -> None:
        self.top, self.stamped = top, stamped

    def files(self) -> dict[str, Path]:
        return {name: self.top / name for name in ("stdout", "stderr")}

    def is_still(self) -> bool:
        return True

    def write(self, stream: str, data: bytes) -> None:
        with (self.top / stream).open("ab") as file:
            file.write(data)


def stamped(second: int, text: str) -> bytes:
    return (STAMP % second + text).encode()


def texts(tail: Tail) -> list[tuple[str, bytes]]:
    return [(line.stream, line.text) for line in tail.look()]


def test_each_look_has_the_last_lines_of_both_streams(tmp_path: Path) -> None:
    printed = Printed(tmp_path, stamped=True)
    tail = Tail(printed, most=3)
    assert tail.look() == [] and tail.sizes() == {}
    printed.write("stdout", stamped(1, "a\n") + stamped(3, "c\n"))
    printed.write("stderr", stamped(2, "b\n"))
    assert texts(tail) == [("stdout", b"a\n"), ("stderr", b"b\n"), ("stdout", b"c\n")] == texts(tail)
    printed.write("stderr", stamped(4, "d\n"))
    assert texts(tail) == [("stderr", b"b\n"), ("stdout", b"c\n"), ("stderr", b"d\n")]
    assert [line.stamp[17:19] for line in tail.look()] == ["02", "03", "04"]
    assert tail.sizes() == {"stdout": 54, "stderr": 54}


def test_a_line_that_grows_stays_one_line(tmp_path: Path) -> None:
    printed = Printed(tmp_path, stamped=True)
    tail = Tail(printed)
    printed.write("stdout", stamped(1, "10%\r"))
    assert texts(tail) == [("stdout", b"10%\r")]
    printed.write("stderr", stamped(2, "oh\n"))
    printed.write("stdout", b"50%\r")
    assert texts(tail) == [("stdout", b"10%\r50%\r"), ("stderr", b"oh\n")]
    printed.write("stdout", b"done\n" + stamped(3, "next\n"))
    assert texts(tail) == [("stdout", b"10%\r50%\rdone\n"), ("stderr", b"oh\n"), ("stdout", b"next\n")]


def test_a_long_line_is_cut_and_its_rest_lost(tmp_path: Path) -> None:
    printed = Printed(tmp_path, stamped=False)
    tail = Tail(printed, longest=10)
    printed.write("stdout", b"x" * 8)
    assert texts(tail) == [("stdout", b"x" * 8)]
    printed.write("stdout", b"y" * 8 + b"\nz\n")
    assert texts(tail) == [("stdout", b"x" * 8 + b"yy"), ("stdout", b"z\n")]


@given(st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(min_size=1, max_size=6)), max_size=8))
def test_looking_often_shows_what_one_look_shows(tmp_path_factory: pytest.TempPathFactory, parts: Any) -> None:
    printed = Printed(tmp_path_factory.mktemp("out"), stamped=False)
    tail = Tail(printed, most=1000)
    tail.look()
    for stream, data in parts:
        printed.write(stream, data)
        tail.look()
    for stream in ("stdout", "stderr"):
        often = [text for name, text in texts(tail) if name == stream]
        assert often == [text for name, text in texts(Tail(printed, most=1000)) if name == stream]


def test_all_of_a_stream_has_what_a_rotation_moved_away(tmp_path: Path) -> None:
    printed = Printed(tmp_path, stamped=True)
    assert list(whole(printed, "stdout")) == []
    (tmp_path / "stdout.1").write_bytes(stamped(1, "a\n"))
    printed.write("stdout", stamped(2, "b\n") * 60_000)
    assert b"".join(whole(printed, "stdout")) == stamped(1, "a\n") + stamped(2, "b\n") * 60_000
    assert list(whole(printed, "stderr")) == [] == list(whole(printed, "elsewhere"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("python train.py --lr 0.1", ["python", "train.py", "--lr", "0.1"]),
        ("  python 'a b.py'\t", ["python", "a b.py"]),
        ("a | b", None),
        ("a && b", None),
        ("cat *.txt", None),
        ("A=1 python x.py", None),
        ("echo $HOME", None),
        ("cd x\npython y.py", None),
        ("echo 'a|b'", None),
        ("~/bin/x", None),
    ],
)
def test_a_typed_command_runs_as_a_shell_runs_it(text: str, words: list[str] | None) -> None:
    assert command(text, is_far=True) == (words or ["bash", "-e", "-c", text])


@pytest.mark.parametrize(
    ("text", "said"), [("", "there is none"), (" \n ", "there is none"), ("a 'b", "no closing quot"), ("a\0b", "none")]
)
def test_a_command_that_is_none_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=f"^command: .*{said}"):
        command(text)


def test_a_changed_job_keeps_what_was_not_changed() -> None:
    script = {"argv": ["python", "a.py"], "workspace": {"tree": "f" * 64}, "whole": True, "keep_children": True}
    row = {"id": "3", "name": "a.py", "asked": {"directory": "/data", "script": script, "timeout": 9.0}}
    new = changed(row, ["python", "b.py"], cpus=2.0, memory="3GB", retries="1")
    assert new["asked"]["script"] == {**script, "argv": ["python", "b.py"], "whole": False}
    assert new["asked"]["needs"] == {"cpus": 2.0, "memory": 3_000_000_000, "gpus": 0, "tags": []}
    assert (new["name"], new["asked"]["timeout"], new["asked"]["directory"]) == ("b.py", None, "/data")
    assert new["asked"]["retries"] == {"failure": 1, "time": 1} and row["asked"]["timeout"] == 9.0
    assert changed(row, ["python", "b.py"])["asked"]["script"]["whole"] is True
    with pytest.raises(UsageError, match="memory"):
        changed(row, ["x"], memory="3 apples")
