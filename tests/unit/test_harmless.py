"""What another machine, user or job says is shown, and never obeyed by a terminal: in each kind of output there is."""

from __future__ import annotations

import ast
import io
import json
import pickle
import re
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

import ports
from ports import errors, machine
from ports.cli import doctor, job, job_rows, main, output, tables, watch, who
from ports.errors import FarSideError, harmless
from ports.hosts import _prompts
from ports.jobs._job import RemoteTraceback

#: Each with what a person sees of it.
HOSTILE = {
    "title": ("\x1b]0;pwned\x07", r"\x1b]0;pwned\x07"),
    "clear": ("\x1b[2J\x1b[H", r"\x1b[2J\x1b[H"),
    "colour": ("\x1b[31mred", r"\x1b[31mred"),
    "c1": ("\x9b2J\x90q\x9c", r"\x9b2J\x90q\x9c"),
    "bell": ("\a\b\x7f\0", r"\x07\x08\x7f\x00"),
    "return": ("ok\rbad", "ok"),
    "bidi": ("\u202etxt.exe\u202c\u2066x\u2069", r"\u202etxt.exe\u202c\u2066x\u2069"),
    "hidden": ("\u200b\ufeff\U000e0041", r"\u200b\ufeff\U000e0041"),
    "separator": ("a\u2028b\x85c\x0bd", r"a\u2028b\x85c\x0bd"),
}
OWN_STYLE = re.compile(r"\x1b\[[0-9;]*m|\x1b\[[HJK]")
FORBIDDEN = [chr(n) for n in (*range(9), *range(11, 32), *range(127, 160), 0x200B, *range(0x2028, 0x202F), 0x2066,
                              0x2069, 0xFEFF, 0xE0041)]  # fmt: skip


_USER: dict[str, Any] = {
    "uid": 1001, "is_person": True, "is_me": True, "n_processes": 1, "memory_bytes": 1 << 30, "cores": 1.0,
    "dask_bytes": 0, "dask_cores": 0.0, "promised_bytes": 0, "promised_threads": 0, "held_bytes": None,
}  # fmt: skip
_USAGE: dict[str, Any] = {
    "time": 0.0, "n_cores": 4, "usable_cores": 4.0, "busy_cores": 1.0, "load": (1.0, 1.0, 1.0), "memory_bytes": 8 << 30,
    "available_bytes": 4 << 30, "limit_bytes": 8 << 30, "limit_available_bytes": 4 << 30, "swap_bytes": 0,
    "swap_free_bytes": 0, "pressure": None, "hidden": False,
}  # fmt: skip


class Terminal(io.StringIO):
    """Standard output or standard error, as a terminal."""

    def isatty(self) -> bool:
        return True


def printed(way: str, text: str, *, to: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what was written to both streams, which are terminals or pipes."""
    with monkeypatch.context() as patched:
        streams = [Terminal() if to == "terminal" else io.StringIO() for _ in range(2)]
        for name, stream in zip(("stdout", "stderr"), streams, strict=True):
            patched.setattr(sys, name, stream)
        patched.setenv("TERM", "xterm")
        patched.setenv("COLUMNS", "400")
        WAYS[way](text)
    return "".join(one.getvalue() for one in streams)


def job_row(text: str) -> dict[str, Any]:
    return {"id": "1", "kind": "job", "state": "error", "reason": f"x {text}", "name": f"n{text}", "host": f"h{text}",
            "what": "function", "asked": {"tags": {}, "after": [], "directory": f"/d{text}"}, "created_at": 1.0,
            "tags": {"a": f"t{text}"}, "transitions": [{"state": "error", "at": 1.0, "reason": text}]}  # fmt: skip


def listener_row(text: str) -> dict[str, Any]:
    return {"host": f"h{text}", "kind": "listener", "name": f"n{text}", "state": "open", "owner": f"o{text}",
            "address": "127.0.0.1", "port": 1, "pid": 2, "directory": f"/d{text}", "reason": text, "path": "",
            "warnings": [f"w{text}"]}  # fmt: skip


def check_row(text: str) -> dict[str, Any]:
    return {"host": f"h{text}", "hop": "", "name": f"n{text}", "state": "failed", "found": text, "cause": "",
            "way_out": f"way {text}"}  # fmt: skip


def checked(text: str) -> None:
    with doctor.Checklist(output.Output(False), alone=True) as checks:
        checks.take(check_row(text))
        checks.sum_up([check_row(text)])


def linked(text: str) -> None:
    output.echo("\n".join(tables.link_lines((f"h{text}", f"w{text}", f"l{text}"), text, widths=(9, 9), columns=80)))


def used(text: str) -> None:
    user = machine.User(**{**_USER, "user": f"u{text}"})
    who.show(machine.Usage(**{**_USAGE, "host": f"h{text}", "users": (user,)}))


def failed(text: str) -> None:
    @click.command()
    def fails() -> None:
        raise FarSideError(f"h{text}", text)

    main.run(fails, [])


def refused(text: str) -> None:
    @click.command()
    def fails() -> None:
        raise click.UsageError(text)

    main.run(fails, [])


def warned(text: str) -> None:
    main._show_warning(text, UserWarning)


WAYS: dict[str, Callable[[str], object]] = {
    "list of jobs": lambda text: job.show_list(output.Output(False), [job_row(text)], is_all=True),
    "csv": lambda text: job._write_csv([job_row(text)]),
    "show of a job": lambda text: job.show_job(output.Output(False), job_row(text)),
    "wait and why": lambda text: output.Output(False).result({}, job_rows.sentence(job_row(text))),
    "list of listeners": lambda text: output.Output(False).table([listener_row(text)], "listener", empty=""),
    "rows of several hosts": lambda text: output.write_table([listener_row(text)], "listener", with_host=True),
    "warnings of listeners": lambda text: output.Output(False).warn_of([listener_row(text)]),
    "show": lambda text: output.Output(False).details({"name": text, f"key{text}": text, "note": text}),
    "one of several fails": lambda text: output.Output(False).fail(f"h{text}", text),
    "log": lambda text: output.Output(False).lines([text]),
    "watch": lambda text: watch.show([output.table_lines([listener_row(text)], "listener")] * 2),
    "doctor": checked,
    "links": linked,
    "who": used,
    "error": failed,
    "usage error": refused,
    "warning": warned,
    "show in Python": errors.say,
}  # fmt: skip


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("to", ["terminal", "pipe"])
def test_no_terminal_obeys_what_is_said_elsewhere(
    to: str, way: str, hostile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "log" and hostile == "colour":
        pytest.skip("a log may have colours")
    told = printed(way, HOSTILE[hostile][0], to=to, monkeypatch=monkeypatch)
    plain = OWN_STYLE.sub("", told)
    assert [one for one in FORBIDDEN if one in plain] == []
    assert "\x1b[31mred" not in told and "\x1b[2J" not in told
    assert HOSTILE[hostile][1] in told, "what was meant is not to be seen"


#: What prints values, each of which must stay in its line.
ONE_LINE = (
    "list of jobs",
    "csv",
    "show of a job",
    "wait and why",
    "list of listeners",
    "show",
    "doctor",
    "links",
    "who",
)


@pytest.mark.parametrize("way", ONE_LINE)
@pytest.mark.parametrize("to", ["terminal", "pipe"])
def test_a_value_with_ends_of_lines_makes_no_line_of_its_own(
    to: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = printed(way, "a\nports: all is well\r\nTOTAL\rTOTAL\tx", to=to, monkeypatch=monkeypatch)
    lines = [line.strip() for line in OWN_STYLE.sub("", told).splitlines()]
    assert not [line for line in lines if line.startswith(("ports: all is well", "TOTAL"))]
    assert "ports: all is well TOTAL TOTAL x" in " ".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        "数据 × naïve",
        "\u0633\u0644\u0627\u0645",
        "👩\u200d🔬",
        "\u0645\u06cc\u200c\u062e",
        "a\u3000b\xa0c",
        "one\ntwo\tthree",
        "not-\udcff-utf8",
        "`a` → b",
    ],
    ids=ascii,
)
def test_other_characters_stay_as_they_are(text: str) -> None:
    assert harmless(text) == text


def test_text_that_is_harmless_already_stays_so() -> None:
    for text, seen in HOSTILE.values():
        once = harmless(text)
        assert harmless(once) == once and seen in once


def test_a_document_for_programs_has_the_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    text = "".join(one for one, _ in HOSTILE.values())
    output.write_json({"reason": text})
    told = capsys.readouterr().out
    assert json.loads(told) == {"reason": text} and told.isascii() and "\x1b" not in told and "\x7f" not in told


def test_what_a_server_asks_at_a_login_is_harmless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_prompts, "_OUT", str(tmp_path / "tty"))
    _prompts.say("banner \x1b[2J\n")
    assert (tmp_path / "tty").read_text() == "banner \\x1b[2J\n"
    asked: list[str] = []
    monkeypatch.setattr("getpass.getpass", lambda prompt: asked.append(prompt) or "")
    _prompts.ask("Code\x1b]0;x\x07: ")
    assert asked == ["Code\\x1b]0;x\\x07: "]


def test_the_name_of_a_job_is_harmless_in_python() -> None:
    name = "fit\x1b[2J\n"
    assert repr(ports.jobs.Job("1", name)) == "<Job 1 fit\\x1b[2J >"
    assert repr(ports.jobs.JobMap("1", 3, name)) == "<JobMap 1 fit\\x1b[2J : 3 jobs>"


def test_a_warning_in_a_notebook_is_harmless() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        errors.warn("server1 says \x1b[2J")
    assert [str(one.message) for one in caught] == ["server1 says \\x1b[2J"]


def test_every_command_prints_through_one_place() -> None:
    """Else what it prints from elsewhere would be obeyed."""
    found = []
    for file in sorted((Path(ports.__file__).parent / "cli").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("click.echo", "click.secho", "print"):
                found.append(file.name)
    assert set(found) <= {"output.py", "main.py"}, "main.py prints its own help"


ODD = "\x1b[2Ja\x07\x9b31m\u202eb\r\nc"


@pytest.mark.parametrize(
    "error",
    [
        errors.JobError("1", ODD, f"Traceback\n{ODD}"),
        errors.JobCancelledError("1", ODD),
        errors.JobLostError("server1:1", ODD, ODD),
        errors.FarSideError("server1", ODD),
        errors.NetworkError("server1", ODD),
        errors.UsageError(ODD),
        errors.NotFoundError("job", ODD, ODD),
        errors.StartError("it", ODD, None, (ODD,)),
        RemoteTraceback(ODD),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_error_says_what_a_terminal_obeys(error: BaseException) -> None:
    for text in (str(error), "".join(traceback.format_exception(error))):
        assert "a" in text and not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text), repr(text)
    assert pickle.loads(pickle.dumps(error)).args == error.args  # what was said stays as it is


def test_an_error_that_is_made_later_is_harmless_too() -> None:
    class LaterError(errors.SSHError):
        def __str__(self) -> str:
            return f"later: {super().__str__()}"

    assert str(LaterError("server1", ODD)).startswith("later: ") and "\x1b" not in str(LaterError("server1", ODD))
