"""Warnings that a call collects, in place of Python's: for the command line, its JSON, and the page."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ports import errors, hosts, listeners, machine, probe
from ports.cli import output
from ports.errors import collected_warnings, collecting_warnings, warn, with_this_line
from ports.hosts import _ask
from ports.hosts._far_warnings import with_warnings, without_warnings

TEXTS = st.lists(
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=20),
    max_size=4,
    unique=True,
)
ROWS = st.lists(st.fixed_dictionaries({"kind": st.sampled_from(["cluster", "host"]), "name": st.text(max_size=5)}))


def test_warnings_are_collected_once_each_and_none_is_issued() -> None:
    told: list[str] = []
    with warnings.catch_warnings(record=True) as issued, collecting_warnings(told.append) as found:
        warnings.simplefilter("always")
        for text in ("one", "two", "one", "clear\x1b[2J"):
            warn(text)
        assert collected_warnings() == found
    assert found == told == ["one", "two", "clear\\x1b[2J"] and not issued
    assert collected_warnings() == []


def test_without_a_collector_a_warning_names_the_users_line() -> None:
    with pytest.warns(UserWarning, match="lost") as issued:
        warn("lost")
    assert issued[0].filename == __file__


def test_a_collector_inside_another_keeps_its_own() -> None:
    with collecting_warnings() as outer:
        with collecting_warnings() as inner:
            warn("inner")
        warn("outer")
    assert (outer, inner) == (["outer"], ["inner"])


def test_two_threads_collect_each_its_own() -> None:
    found: dict[str, list[str]] = {}
    both = threading.Barrier(2)

    def collect(name: str) -> None:
        with collecting_warnings() as found[name]:
            both.wait(30)
            warn(name)
            both.wait(30)

    threads = [threading.Thread(target=collect, args=(name,)) for name in ("a", "b")]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert found == {"a": ["a"], "b": ["b"]}


def test_a_thread_that_works_for_a_call_belongs_to_its_collector() -> None:
    with collecting_warnings() as found:
        thread = threading.Thread(target=with_this_line(lambda: warn("from there")))
        thread.start()
        thread.join()
    assert found == ["from there"]


def test_what_is_asked_of_several_hosts_is_collected() -> None:
    with collecting_warnings() as found:
        hosts.on_each(["a", "b"], lambda alias: warn(f"{alias}: old"))
    assert sorted(found) == ["a: old", "b: old"]


def test_a_question_that_began_early_warns_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(alias: str, request: Any, **_: Any) -> dict[str, Any]:
        warn(f"{alias}: its disk is full")
        return {"request": request["do"]}

    monkeypatch.setattr(_ask, "_found", lambda *given, **options: (options["on_start"](), found(*given, **options))[1])
    hosts.begin_probe(["server1"], {"all": False})
    with collecting_warnings() as told:
        assert hosts.probe("server1", {"all": False}) == {"request": "probe"}
    assert told == ["server1: its disk is full"]


def test_json_of_an_object_and_of_a_list_has_the_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    with collecting_warnings():
        output.write_json([])
        warn("half a record")
        output.write_json({"name": "main", "warnings": ["its own"]})
        output.write_json({"name": "main"})
        output.write_json([{"name": "main"}])
    before, *objects, rows = map(json.loads, capsys.readouterr().out.splitlines())
    assert before == []
    assert [one["warnings"] for one in objects] == [["its own", "half a record"], ["half a record"]]
    assert rows[0] == {"name": "main"} and len(rows) == 2
    row = {"host": None, "kind": "warning", "name": None, "state": "warning", "url": None, "warning": "half a record"}
    assert rows[1] == row


@given(rows=ROWS, texts=TEXTS, is_old=st.booleans())
def test_rows_of_another_host_come_without_its_warnings(rows: list[Any], texts: list[str], is_old: bool) -> None:
    printed = "".join(f"ports: {text}\n" for text in texts) + "waiting for the scheduler …\n"
    document = rows if is_old else with_warnings(rows, texts)
    assert without_warnings(document, printed) == (rows, texts)


@given(own=TEXTS, texts=TEXTS)
def test_a_row_of_another_host_keeps_the_warnings_of_its_own(own: list[str], texts: list[str]) -> None:
    own = [text for text in own if text not in texts]
    row = {"name": "lab", "warnings": own}
    printed = "".join(f"ports: {text}\n" for text in texts)
    assert without_warnings(with_warnings(row, texts), printed) == (row, texts)
    assert without_warnings(row, printed) == (row, texts)  # an older `ports` there


def test_a_broken_record_is_a_warning_in_the_json_of_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTS_HOME", str(tmp_path))
    machine_directory = Path(probe.host_directory())
    machine_directory.mkdir(parents=True)
    (machine_directory / "host.json").write_text("{half")
    command = [sys.executable, "-m", "ports", "list", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    *rows, last = json.loads(done.stdout)
    assert last["kind"] == "warning" and "host.json" in last["warning"]
    assert all(row["kind"] != "warning" for row in rows)
    assert done.stderr == f"ports: {last['warning']}\n"


@pytest.mark.parametrize("ask", [listeners.list, machine.usage, lambda host, **given: listeners.rows([host], **given)])
def test_who_asks_in_batch_lets_nobody_be_prompted(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def refuse(host: str, *_: Any, batch: bool | None = None) -> None:
        given.append(batch)
        raise errors.LoginNeededError(host, "it asks for a password")

    monkeypatch.setattr(hosts, "probe", refuse)
    monkeypatch.setattr(hosts, "ask_who", refuse)
    monkeypatch.setattr(hosts, "is_here", lambda alias: False)
    for batch in (True, None):
        with pytest.raises(errors.LoginNeededError):
            ask("server1", batch=batch)
    assert given == [True, None]
