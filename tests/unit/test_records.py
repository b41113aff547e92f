"""Records and the disk: what is written comes back, and what cannot be read is named."""

from __future__ import annotations

import json
import os
import stat
import string
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ports import sessions
from ports.clusters._options import ClusterRecord
from ports.errors import BrokenRecordError, NewerRecordError, StoreError
from ports.sessions import Exit
from ports.state import records
from ports.state.records import ProcessId

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
WHOLE = st.integers(min_value=0, max_value=2**53)
SCALARS = st.none() | st.booleans() | WHOLE | TEXTS
PROCESSES = st.builds(
    ProcessId, machine=TEXTS, boot_id=TEXTS, pid_namespace=TEXTS, pid=WHOLE, start_ticks=WHOLE, format=st.just(1)
)
CLUSTERS = st.builds(
    ClusterRecord,
    format=st.just(1),
    kind=st.just("cluster"),
    name=TEXTS,
    created_at=st.floats(min_value=0, max_value=2e9),
    interpreter=TEXTS,
    directory=TEXTS,
    started_by=PROCESSES,
    launcher=st.none() | PROCESSES,
    tmux_socket=st.none() | TEXTS,
    n_workers=st.none() | WHOLE,
    memory_limit=st.none() | WHOLE | TEXTS,
    environ=st.dictionaries(TEXTS, TEXTS, max_size=3),
    options=st.dictionaries(TEXTS, SCALARS, max_size=3),
    sys_path=st.lists(TEXTS, max_size=3).map(tuple),
)
EXITS = st.builds(Exit, format=st.just(1), status=st.none() | WHOLE, signal=st.none() | WHOLE, reason=st.none() | TEXTS)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("records")


@settings(max_examples=50)
@given(record=PROCESSES | CLUSTERS | EXITS)
def test_a_record_survives_the_disk(place: Path, record: records.Record) -> None:
    records.write(place / "record.json", record)
    assert records.read(place / "record.json", type(record)) == record


@settings(max_examples=50)
@given(record=CLUSTERS, key=st.text(string.ascii_lowercase, min_size=1), value=SCALARS)
def test_keys_of_a_later_version_are_dropped(place: Path, record: ClusterRecord, key: str, value: Any) -> None:
    data = {f"later_{key}": value, **record.to_json()}
    records.write_json(place / "record.json", data)
    assert records.read(place / "record.json", ClusterRecord) == record


@settings(max_examples=50)
@given(record=PROCESSES, data=st.data())
def test_half_a_record_is_broken_and_nothing_else(place: Path, record: ProcessId, data: st.DataObject) -> None:
    path = place / "half.json"
    records.write(path, record)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 2))])
    with pytest.raises(BrokenRecordError, match=r"half\.json") as caught:
        records.read(path, ProcessId)
    assert caught.value.exit_code == 7


@settings(max_examples=50)
@given(content=st.binary(max_size=40) | st.recursive(SCALARS, st.lists).map(lambda value: json.dumps(value).encode()))
def test_no_content_ends_in_another_error(place: Path, content: bytes) -> None:
    path = place / "any.json"
    path.write_bytes(content)
    with pytest.raises(BrokenRecordError):
        records.read(path, ProcessId)


@settings(max_examples=50)
@given(data=st.dictionaries(st.sampled_from([*ClusterRecord.__dataclass_fields__]), SCALARS | st.lists(SCALARS)))
def test_wrong_values_are_a_broken_record_at_most(place: Path, data: dict[str, Any]) -> None:
    records.write_json(place / "odd.json", {**data, "format": 1})
    try:
        records.read(place / "odd.json", ClusterRecord)
    except BrokenRecordError as error:
        assert "odd.json" in str(error)


@given(later=st.integers(min_value=records.FORMAT + 1, max_value=10**6))
@settings(max_examples=20)
def test_a_newer_format_names_the_upgrade(place: Path, later: int) -> None:
    records.write_json(place / "new.json", {"format": later})
    with pytest.raises(
        NewerRecordError, match=f"format {later}, but .* reads formats up to 1; upgrade ports"
    ) as caught:
        records.read(place / "new.json", ProcessId)
    assert caught.value.exit_code == 7


def test_no_file_is_no_record(tmp_path: Path) -> None:
    assert records.read(tmp_path / "none.json", ProcessId) is None
    (tmp_path / "file").write_text("")
    assert records.read(tmp_path / "file" / "none.json", ProcessId) is None


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "directory.json").mkdir()
    opened = len(os.listdir("/dev/fd"))
    with pytest.raises(BrokenRecordError, match=r"directory\.json cannot be read: Is a directory"):
        records.read(tmp_path / "directory.json", ProcessId)
    assert len(os.listdir("/dev/fd")) == opened


def test_ctrl_c_after_the_last_step_of_a_write_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def interrupted(old: str, new: str) -> None:
        replace(old, new)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        records.write_json(tmp_path / "record.json", {"format": 1})
    assert records.read_json(tmp_path / "record.json") == {"format": 1}


def test_a_file_is_private_from_birth(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        records.write_json(tmp_path / "record.json", {"format": 1})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "record.json").stat().st_mode) == 0o600


def test_a_reader_never_sees_half(tmp_path: Path) -> None:
    path, done = tmp_path / "record.json", threading.Event()

    def write() -> None:
        for number in range(200):
            records.write_json(path, {"format": 1, "text": str(number) * 5000})
        done.set()

    records.write_json(path, {"format": 1})
    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert records.read_json(path)
    writer.join()
    assert [file.name for file in tmp_path.iterdir()] == ["record.json"]


def test_a_directory_that_is_gone_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot use .*/gone/record.json: No such file") as caught:
        records.write_json(tmp_path / "gone" / "record.json", {"format": 1})
    assert caught.value.exit_code == 5


def test_what_is_no_json_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        records.write_json(tmp_path / "record.json", {"format": object()})
    assert list(tmp_path.iterdir()) == []


def test_one_of_many_gets_the_name(tmp_path: Path) -> None:
    start = threading.Barrier(16)
    got: list[int] = []

    def claim(number: int) -> None:
        start.wait()
        if records.claim(tmp_path / "main", Exit(status=number)):
            got.append(number)

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    assert records.read(tmp_path / "main" / "record.json", Exit) == Exit(status=got[0])
    assert [path.name for path in tmp_path.iterdir()] == ["main"]


@pytest.mark.parametrize(
    ("ended", "text"),
    [
        (Exit(status=3), "exit status 3"),
        (Exit(signal=9), "killed by signal 9"),
        (Exit(signal=15), "ended by SIGTERM, which a stop sends"),
        (Exit(status=0, reason="it was restarted"), "it was restarted"),
    ],
)
def test_an_end_is_told_in_words(ended: Exit, text: str) -> None:
    assert str(ended) == text


def test_what_was_noted_of_an_end_says_when_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTS_HOME", str(tmp_path))
    mine, now = sessions.new_identity()
    record = sessions.SessionRecord(
        kind="cluster", name="main", created_at=now, interpreter="", directory="", started_by=mine
    )
    found = sessions.claim(record)
    assert found.ended_at is None
    records.write(found.files.exit, Exit(status=3, ended_at=now + 60))
    again = sessions.find("cluster", "main", sessions.SessionRecord)
    assert again is not None and (again.state, again.ended_at) == ("stopped", now + 60)
