"""A page of the list of jobs: its search, its states, what is older than a job, and how many rows there are."""

from __future__ import annotations

import sqlite3
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ports import hosts
from ports.errors import NetworkError, PortsError
from ports.jobs import _afar, _asking, _client, _store
from ports.jobs import in_batch as jobs_in_batch
from ports.probe import rest, words
from ports.state import runtime_directory
from tests.lab.job_queue import Desk

STATES = dict.fromkeys(words.STATES, 0)
SCRIPT = {"kind": "script", "directory": "/"}


def submit(desk: Desk, argv: list[str], **options: Any) -> str:
    """Submit a script."""
    asked = {**SCRIPT, "script": {"argv": argv}, **options}
    told = desk.answer("submit", [b"{}"], key=desk.key(), submission=asked, count=None)
    assert "error" not in told, told
    return str(told["id"])


def ids(desk: Desk, **filters: Any) -> list[str]:
    return [row["id"] for row in desk.answer("list", filters=filters)["rows"]]


def test_the_search_finds_names_commands_ids_and_tags(desk: Desk) -> None:
    a = submit(desk, ["python", "train.py", "--lr", "0.003"], name="train.py", tags={"lr": "0.003"})
    b = submit(desk, ["bash", "-e", "-c", "make all\nmake test_50%"], name="night")
    c = desk.submit(name="fit_model", tags={"lr": "0.1"})
    assert ids(desk, search="TRAIN") == ids(desk, search="0.003 --lr") == [a]
    assert ids(desk, search="make test") == [b] and ids(desk, search="fit") == [c]
    assert ids(desk, search=b) == [b] and ids(desk, search="lr=0.1") == [c]
    assert ids(desk, search="train night") == [] == ids(desk, search="nothing")
    assert ids(desk, search="%") == ids(desk, search="_50%") == [b] and ids(desk, search="\\") == []
    assert ids(desk, search="  ") == [c, b, a]
    commands = {row["id"]: row.get("command") for row in desk.answer("list")["rows"]}
    assert commands == {a: "python train.py --lr 0.003", b: "make all\nmake test_50%", c: None}


def test_a_page_has_the_rows_of_several_states_and_counts_all(desk: Desk) -> None:
    a, b, c = desk.submit(name="x"), desk.submit(3, name="x"), desk.submit(name="y")
    desk.answer("cancel", ids=[a])
    assert ids(desk, state=["cancelled", "pending"]) == [c, b, a]
    assert ids(desk, state=["cancelled"]) == [a] and ids(desk, state=["running", "lost"]) == []
    assert ids(desk, before=c, search="x") == [b, a] and ids(desk, before=b, state=["pending"]) == []
    told = desk.answer("list", tally=True, filters={"search": "x", "state": "cancelled"})
    assert told["tally"] == {**STATES, "cancelled": 1, "pending": 1} and told["counts"]["pending"] == 4
    assert "tally" not in desk.answer("list")


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        ({"state": ["asleep"]}, "filters.state: 'asleep' is none of"),
        ({"state": []}, "filters.state: list is no text"),
        ({"state": [3]}, "filters.state: 3 is none of"),
        ({"state": [["error"]]}, "filters.state: list is none of"),
        ({"search": 3}, "filters.search: 3 is no text"),
        ({"search": ["x"]}, "filters.search: list is no text"),
        ({"search": "x" * 201}, "filters.search: it has more than 200 characters"),
    ],
)
def test_a_filter_of_a_page_that_is_none_is_refused(desk: Desk, filters: Any, said: str) -> None:
    assert said in desk.answer("list", filters=filters)["error"]["text"]


TEXT = st.text(st.sampled_from([*string.ascii_letters[:4], *"ABÄä%_\\'\" =.1"]), max_size=6)
WORD = TEXT.map(lambda text: text or "-")
JOBS = st.lists(st.tuples(TEXT, st.none() | st.lists(WORD, min_size=1, max_size=3)), min_size=1, max_size=5)


@example(jobs=[("\u00c4", None), ("aB", ["B"])], search="\u00e4", states=[], cancelled=False)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(jobs=JOBS, search=TEXT, states=st.lists(st.sampled_from(words.STATES), max_size=2), cancelled=st.booleans())
def test_a_search_finds_with_and_without_a_resource_the_same(
    tmp_path_factory: pytest.TempPathFactory, jobs: Any, search: str, states: list[str], cancelled: bool
) -> None:
    own = Desk(tmp_path_factory.mktemp("desk"))
    try:
        for name, argv in jobs:
            tags = {"a": name} if name else {}
            submit(own, argv, name=name, tags=tags) if argv else own.submit(name=name, tags=tags)
        asked = {"search": search, **({"state": states} if states else {})}
        if cancelled:
            own.answer("cancel", ids=["1"])
        told = own.answer("list", tally=True, filters=asked)
        found = [row["id"] for row in told["rows"]]
        every = own.answer("list")["rows"]
        same = [row for row in every if words.is_found(search, row)]
        assert found == [row["id"] for row in same if not states or row["state"] in states]
        assert sum(told["tally"].values()) == len(same)
        own.store.close()
        runtime, root = str(runtime_directory()), str(own.places.root)
        request = {"op": "list", "tally": True, "filters": asked}
        again = rest.answered(request, (), lambda question, lenient: rest.look(root, runtime, question, lenient))[0]
        assert ([row["id"] for row in again["rows"]], again["tally"]) == (found, told["tally"])
    finally:
        own.close()


def test_what_was_left_counts_in_the_tally_of_a_queue_at_rest(desk: Desk) -> None:
    a, b = desk.submit(name="x"), desk.submit(name="y")
    desk.store.close()
    runtime, root = str(runtime_directory()), str(desk.places.root)

    def asked(op: str, blobs: Any = (), **fields: Any) -> Any:
        request = {"op": op, **fields}
        return rest.answered(request, blobs, lambda one, lenient: rest.look(root, runtime, one, lenient))[0]

    new = {"key": "ab" * 16, "count": None, "submission": {"kind": "function", "name": "xx"}}
    asked("submit", [b"f", b"1"], **new)
    asked("cancel", ids=[a])
    told = asked("list", tally=True, filters={"search": "x"})
    assert told["tally"] == {**STATES, "cancelled": 1, "pending": 1}
    assert [row["name"] for row in told["rows"]] == ["xx", "x"] and b not in [row["id"] for row in told["rows"]]


def without_commands(desk: Desk) -> None:
    """Make the store one that a resource of an older version has made."""
    database = sqlite3.connect(desk.places.store)
    database.execute(f"DROP INDEX {words.FOUND}")
    database.execute("ALTER TABLE submissions DROP COLUMN command")
    database.commit()
    database.close()


def test_a_store_of_an_older_resource_gets_its_commands(desk: Desk) -> None:
    script, function = submit(desk, ["make", "all"], name="night"), desk.submit(name="make_it")
    desk.store.close()
    without_commands(desk)
    runtime, root = str(runtime_directory()), str(desk.places.root)
    request = {"op": "list", "tally": True, "filters": {"search": "make"}}
    told = rest.answered(request, (), lambda one, lenient: rest.look(root, runtime, one, lenient))[0]
    assert told["tally"]["pending"] == 1, "only names can be searched there"
    desk.start()
    assert ids(desk, search="make") == [function, script]
    assert _store.FORMAT == 2, "older versions read such a store"


# --- here and there ---


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home from which the alias `far` leads to this machine, where no compute resource runs."""
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hosts, "resolve", lambda _: hosts.here())
    yield tmp_path
    _client.disconnect()


def test_a_page_of_another_machine_has_the_ids_of_home(home: Path) -> None:
    from ports.jobs import describe

    machine = _afar.Afar("far")
    for name in ("one", "two"):
        machine.submit_script(describe(["true"], name=name, is_far=True), start=False)
    told = machine.page(search="two")
    assert [(row["id"], row["host"], row["command"]) for row in told["rows"]] == [("far:2", "far", "true")]
    assert (told["tally"]["pending"], told["counts"]["pending"], told["at_rest"]) == (1, 2, True)
    assert [row["id"] for row in machine.page(before="2")["rows"]] == ["far:1"]
    here = _asking.page(state=["pending"], newest=1)
    assert [row["id"] for row in here["rows"]] == ["2"] and here["tally"]["pending"] == 2


def test_in_batch_nobody_is_asked_and_nothing_is_waited_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def connect(route: Any, *, batch: bool | None = None) -> Any:
        asked.append(batch)
        raise NetworkError("far", "no route to host")

    monkeypatch.setattr(hosts, "connect", connect)
    monkeypatch.setattr(_client, "_reached", {"far"})
    monkeypatch.setitem(_client._connections, "far", _Ended())
    with jobs_in_batch(), pytest.raises(PortsError, match="no route to host"):
        _afar.Afar("far").page()
    assert asked == [True, True]
    with pytest.raises(PortsError, match="no route to host"):
        _afar.Afar("far").page()
    assert asked == [True, True, None]


class _Ended:
    """A connection that has ended."""

    is_of_this_process = False

    def has_ended(self) -> bool:
        return True


@pytest.mark.parametrize("at_rest", [False, True])
def test_what_is_rare_is_found_behind_what_is_recent(
    desk: Desk, at_rest: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "RECENT", 3)
    every = [desk.submit(name="rare" if number < 3 else "often") for number in range(12)]
    runtime, root = str(runtime_directory()), str(desk.places.root)

    def found(newest: int, **filters: Any) -> list[str]:
        request = {"op": "list", "newest": newest, "filters": filters}
        if not at_rest:
            return [row["id"] for row in desk.answer(**request)["rows"]]
        told = rest.answered(request, (), lambda one, lenient: rest.look(root, runtime, one, lenient))[0]
        return [row["id"] for row in told["rows"]]

    if at_rest:
        desk.store.close()
    newest = every[::-1]
    assert found(2, search="often") == newest[:2] and found(5, search="often") == newest[:5]
    assert found(2, search="rare") == newest[9:11] and found(5, search="rare") == newest[9:]
    assert found(2, search="often", before=every[9]) == newest[3:5]
    assert found(2, search="e", before=every[3]) == newest[9:11]
