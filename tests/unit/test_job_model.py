"""The words of jobs: ids, needs, retries, submissions, and what the socket can bring instead."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ports.errors import UsageError
from ports.jobs._model import (
    Capacity,
    JobId,
    Needs,
    Retries,
    Submission,
    as_asked,
    parse_duration,
    parse_id,
    parse_retries,
    parse_size,
    state_of,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("text", "found"),
    [("12", JobId(12)), (12, JobId(12)), ("12.7", JobId(12, 7)), ("12.0", JobId(12, 0)), (JobId(3, 4), None)],
)
def test_an_id_reads_as_it_is_written(text: object, found: JobId | None) -> None:
    if found is not None:
        assert parse_id(text) == found
        assert parse_id(str(found)) == found
    else:
        assert str(text) == "3.4"


@pytest.mark.parametrize(
    "text",
    ["", "0", "-1", "01", "1.", ".1", "1.01", "1.1.1", "١٢", "1 ", "12\n", True, None, 1.5, "9" * 13, [], "server1:12"],
)
def test_what_is_no_id_is_refused_in_words(text: object) -> None:
    with pytest.raises(UsageError, match="is not the id of a job; an id is 12, or 12"):
        parse_id(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(5, 5), ("90m", 5400), ("1h", 3600), ("2d", 172800), ("1h30m", 5400), ("0.5", 0.5), ("1 min", 60)],
)
def test_a_duration_is_a_number_or_a_text(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "h", "1x", "-1h", -1, float("nan"), float("inf"), "inf", "1h x", None, True, [], "1hm"]
)
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(UsageError, match="timeout"):
        parse_duration(text, "timeout")


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [(7, 7), ("3GB", 3_000_000_000), ("512MiB", 2**29), ("1.5 GiB", 3 * 2**29), ("100", 100), ("2k", 2000)],
)
def test_a_size_is_a_number_or_a_text(text: object, n_bytes: int) -> None:
    assert parse_size(text) == n_bytes


@pytest.mark.parametrize("text", ["", "GB", "3 GX", "-3GB", 0, -1, 1.5, None, True, "1ib"])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(UsageError, match="memory"):
        parse_size(text)


def test_a_submission_reads_as_it_is_written() -> None:
    data: dict[str, Any] = {
        "kind": "function",
        "name": "fit",
        "queue": "night",
        "priority": -3,
        "needs": {"cpus": 2, "memory": 3_000_000_000, "gpus": 1, "tags": ["big"]},
        "timeout": 60,
        "retries": {"failure": 2, "time": 0, "lost": 1, "memory": 0},
        "lifetime": 3600,
        "at": 1.7e9,
        "after": ["12", "13.7"],
        "inputs": {"0": ["14"]},
        "tags": {"project": "x"},
        "cache": {"policy": "use", "keys": ["ab" * 32, None]},
        "directory": "/tmp",
        "environ": {"A": "1", "B": None},
        "minor": "3.11",
        "isolate": True,
        "memory_growth": 1.5,
        "created_by": {"user": "alice"},
    }
    assert Submission.from_json(data).to_json() == data
    assert Submission.from_json(json.loads(json.dumps(data))).to_json() == data
    assert Submission.from_json({"kind": "script"}).to_json() == {"kind": "script"}


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("kind", "x", "neither 'function' nor 'script'"),
        ("colour", 1, "'colour' is unknown"),
        ("needs", {"cpus": "3GB"}, "cpus: '3GB' is no number"),
        ("needs", {"memory": "lots"}, "memory: 'lots' is no whole number"),
        ("needs", {"memory": 3}, "memory: 3 bytes are too few for any job; write 3GB or 3MB"),
        ("needs", {"cpus": float("nan")}, "cpus: nan is no number"),
        ("needs", {"gpus": -1}, "gpus: -1 is no whole number from 0 to 4096"),
        ("needs", [], "needs: list is no object"),
        ("retries", {"failure": True}, "retries.failure: True is no whole number"),
        ("memory_growth", 0.5, "memory_growth: 0.5 is no number from 1 to 100"),
        ("lifetime", -1, "lifetime: -1 is no number from 0"),
        ("timeout", 0, "timeout: 0 is no number from 0.001"),
        ("after", "12", "after: '12' is no list"),
        ("after", ["x"], "'x' is not the id of a job"),
        ("inputs", {"x": []}, "'x' is not the index of a job"),
        ("tags", {"a b": "c"}, "'a b' is no name"),
        ("tags", {"a": 1}, "tags.a: 1 is no text"),
        ("queue", "Night", "queue: 'Night' is no name"),
        ("environ", {"A=B": "1"}, "'A=B' is not the name of a variable"),
        ("cache", {"policy": "maybe"}, "cache.policy: 'maybe' is none of"),
        ("name", "a\0b", "name: 'a\\\\x00b' is no text"),
        ("name", "\ud800", "is no text"),
        ("script", {"argv": [float("inf")]}, "script: inf is no number"),
    ],
)
def test_a_wrong_field_of_a_submission_is_named(field: str, value: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Submission.from_json({"kind": "script", field: value})


@given(st.dictionaries(st.sampled_from([*Submission.__dataclass_fields__, "other"]), JSON, max_size=6))
def test_any_submission_is_read_or_refused_in_words(data: dict[str, Any]) -> None:
    for kind in ("function", "script"):
        try:
            read = Submission.from_json({**data, "kind": kind})
        except UsageError as error:
            assert str(error)
        else:
            assert Submission.from_json(json.loads(json.dumps(read.to_json()))) == read


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        (Needs(cpus=200), "it needs 200 cpus, and this resource has 96"),
        (Needs(memory=3 * 2**40), "it needs 3.0 TiB of memory, and this resource has 256.0 GiB"),
        (Needs(gpus=1), "it needs 1 gpu, and this resource has none"),
        (Needs(tags=("big",)), "it needs big, and this resource has no tags"),
        (Needs(cpus=96, memory=2**38), None),
    ],
)
def test_needs_that_can_never_fit_are_refused_in_words(needs: Needs, words: str | None) -> None:
    assert Capacity(cpus=96, memory=2**38).refuse(needs) == words


@pytest.mark.parametrize(
    ("counts", "state"),
    [
        ({}, "pending"),
        ({"pending": 1, "finished": 2}, "pending"),
        ({"running": 1, "pending": 3}, "running"),
        ({"finished": 3}, "finished"),
        ({"finished": 3, "error": 1}, "error"),
        ({"cancelled": 1, "lost": 1}, "lost"),
    ],
)
def test_the_state_of_a_map_is_that_of_its_worst_job(counts: dict[str, int], state: str) -> None:
    assert state_of(counts) == state


def test_only_a_lost_worker_is_retried_by_default() -> None:
    assert Retries().to_json() == {"failure": 0, "time": 0, "lost": 1, "memory": 0}


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (2, {"failure": 2, "time": 2}),
        ("2", {"failure": 2, "time": 2}),
        ("2, exit 75: 5, memory: 1", {"failure": 2, "time": 2, "memory": 1, "exit 75": 5}),
        ("exit  75:5", {"exit 75": 5}),
        ("lost: 0", {"lost": 0}),
        ({"failure": 1, "exit 1": 3}, {"failure": 1, "exit 1": 3}),
    ],
)
def test_retries_are_a_number_or_a_text(value: object, found: dict[str, int]) -> None:
    assert parse_retries(value) == found
    kept = Retries.from_json(found)
    assert Retries.from_json(kept.to_json()) == kept


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("often", "'often' is no number; write 2, or exit 75: 5, memory: 1"),
        ("", "'' is no number"),
        (": 2", "': 2' is no number"),
        ("-1", "'-1' is no number"),
        ("1.5", "'1.5' is no number"),
        (None, "'None' is no number"),
        (True, "'True' is no number"),
        ("tired: 2", "'tired' is unknown; known are failure, time, lost, memory and 'exit N', N from 1 to 255"),
        ("exit 0: 2", "'exit 0' is unknown"),
        ("exit 256: 2", "'exit 256' is unknown"),
        ("exit 007: 2", "'exit 007' is unknown"),
        ("1001", "retries.failure: 1001 is no whole number from 0 to 1000"),
    ],
)
def test_what_is_no_number_of_retries_is_refused_in_words(value: object, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_retries(value)
    assert words in str(caught.value)


def test_an_exit_status_with_its_own_retries_is_no_plain_failure() -> None:
    retries = Retries.from_json({"failure": 1, "exit 75": 5})
    assert [retries.cause("failure", status) for status in (75, 1, None)] == ["exit 75", "failure", "failure"]
    assert retries.cause("time", 75) == "time"
    assert (retries.most("exit 75"), retries.most("failure"), retries.most("lost")) == (5, 1, 1)


@pytest.mark.parametrize(("n_memory", "gib"), [(0, 2), (1, 3), (2, 4), (1000, 4)])
def test_memory_grows_up_to_all_that_there_is(n_memory: int, gib: int) -> None:
    spec = Submission(kind="function", needs=Needs(memory=2 * 2**30), memory_growth=1.5)
    capacity = Capacity(memory=4 * 2**30)
    assert spec.needs_after(spec.needs, n_memory, capacity).memory == gib * 2**30
    assert spec.needs_after(Needs(), n_memory, capacity) == Needs()


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("3GB", "3GB"), ("999GB", "999GB"), ("1.5GB", "1.5GB"), ("512MB", "512MB"), ("100kB", "100KB"),
        ("2GiB", "2.0 GiB"), ("512MiB", "512.0 MiB"), ("1.5TiB", "1.5 TiB"), ("12345678901", "11.5 GiB"),
    ],
)  # fmt: skip
def test_a_size_is_said_in_the_units_in_which_it_was_asked(typed: str, said: str) -> None:
    assert as_asked(parse_size(typed)) == said


def test_a_refusal_has_both_sizes_in_the_units_of_the_one_asked() -> None:
    machine = Capacity(cpus=4, memory=16 * 2**30)
    needs = Needs(memory=parse_size("999GB"))
    assert machine.refuse(needs) == "it needs 999GB of memory, and this resource has 17.2GB"
    needs = Needs(memory=parse_size("99GiB"))
    assert machine.refuse(needs) == "it needs 99.0 GiB of memory, and this resource has 16.0 GiB"
