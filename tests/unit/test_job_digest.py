"""The digest of values: fixed for ever, the same in every process, and different for what differs."""

from __future__ import annotations

import collections
import copy
import dataclasses
import datetime
import decimal
import enum
import fractions
import math
import os
import pathlib
import subprocess
import sys
import threading
import uuid
from typing import Any, NamedTuple

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ports.jobs import _digest
from ports.jobs._digest import NoDigestError, digest


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Mode(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.0


class Pair(NamedTuple):
    x: int
    y: int


class Model:
    def __init__(self, weights: list[int]) -> None:
        self.weights, self.lock = weights, threading.Lock()

    def __ports_key__(self) -> Any:
        return self.weights


for _one in (Colour, Mode, Point, Pair, Model):
    _one.__module__ = "shapes"  # the name of a class counts, and the name of this file can change

ZONE = datetime.timezone(datetime.timedelta(hours=2))
# Entries of users' caches are found by these. A line that changes makes all of them lost: never change one.
FIXED: list[tuple[Any, str]] = [
    # (value, first 16 digits of its digest)
    (None, "8ce86a6ae65d3692"),
    (True, "e632b7095b0bf32c"),
    (False, "f67ab10ad4e4c531"),
    (0, "eab27a2d85ff0472"),
    (1, "420014ece56b480c"),
    (-1, "c61b12a481a87e29"),
    (127, "4931af483e850738"),
    (128, "51ba3724c83ce11c"),
    (-128, "203edb41f1a4b373"),
    (-129, "03c6f71888bec355"),
    (2**64, "860daf4aab528e87"),
    (0.0, "f655b54c1c587ebf"),
    (-0.0, "041c60647040934e"),
    (1.5, "a96d01ba75a32a1a"),
    (float("nan"), "4d6c9b83607f221d"),
    (float("inf"), "832ac8f24fc63c76"),
    (-float("inf"), "732584c12e4544bf"),
    (1 + 2j, "eaf46446bde59935"),
    ("", "76ca65fa532efea2"),
    ("a", "277a62a088a9ffb6"),
    ("é", "d15247d4f1662593"),
    ("\ud800", "fff675bd0e86ff3c"),
    (b"", "899b80c8dc11d5c2"),
    (b"ab", "0f722ba11bf19ee7"),
    (bytearray(b"ab"), "777f74043dd33a76"),
    ([], "9a87cc3076dc0da4"),
    ((), "198292266d6019da"),
    ([1, "a"], "f56c735cc0155bf2"),
    ((1, "a"), "0bff3cecc8740e92"),
    ([[], [[]]], "7dd792d006704442"),
    (set(), "18c281524d7c4ff0"),
    ({1, 2, 3}, "6ab12f4089662b1a"),
    (frozenset({"a", "b"}), "23630eb2a89b0b5c"),
    ({}, "019f76127757f5d2"),
    ({"a": 1, "b": [2]}, "2607c2e8f28c6bff"),
    ({1: "a", (2, 3): None}, "830574559764b81e"),
    (collections.OrderedDict(b=1, a=2), "d10501384c75ae64"),
    (collections.Counter("aab"), "612e9105a21708d1"),
    (collections.deque([1, 2]), "3a6a864c5c2df48a"),
    (range(0), "cec7b7aaf1d29d90"),
    (range(1, 10, 3), "8b427def918fe585"),
    (slice(1, None), "871a0cacf51cfbc8"),
    (..., "cdb4ee2aea69cc6a"),
    (Colour.RED, "f8f0e4e7032ce018"),
    (Colour.BLUE, "420479084447c012"),
    (Mode.READ | Mode.WRITE, "b5b775abb20cb909"),
    (Point(1, 2.0), "cbe32197f1062cff"),
    (Pair(1, 2), "2e7f3f31696eab18"),
    (Model([1, 2]), "e1617d1c49c76f74"),
    (pathlib.PurePosixPath("a/b"), "a084388a96f3ae95"),
    (pathlib.PureWindowsPath("a/b"), "0d9b294228ca60b8"),
    (pathlib.Path("a/b"), "6904ab5eb766494c"),
    (datetime.date(2026, 1, 2), "8649170a61e20fda"),
    (datetime.datetime(2026, 1, 2, 3, 4, 5, 6), "8216447c256e88e0"),
    (datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=ZONE), "a4e060d9e93d7c23"),
    (datetime.time(3, 4), "7234114773a36a21"),
    (datetime.timedelta(1, 2, 3), "654162fde848baaf"),
    (ZONE, "17334dbf309bfe6e"),
    (decimal.Decimal("1.50"), "22725575f1ba95d3"),
    (fractions.Fraction(1, 3), "2e76101fa14b4ab1"),
    (uuid.UUID(int=5), "444067c1e582e638"),
    (numpy.int64(5), "9ef2b2ed37492fe6"),
    (numpy.float32(1.5), "8b604a17f3304ea6"),
    (numpy.bool_(True), "ee0bf23c24dcc43a"),
    (numpy.datetime64("2026-01-02", "D"), "623f5a218c3f5482"),
    (numpy.arange(6.0), "805cc1a41300edc5"),
    (numpy.arange(6.0).reshape(2, 3), "402ab6f1a8f8ceb8"),
    (numpy.arange(6, dtype=">i4"), "2c5c257834eca803"),
    (numpy.array([1, "a", None], dtype=object), "9e8b98dd6cbf9099"),
    (numpy.array(["a", "bc"]), "dd9e66f8070d4e63"),
    (numpy.array([True, False]), "06ebd863ff72de0c"),
    (numpy.array([1 + 2j]), "675a38344951216c"),
    (numpy.zeros((0, 3)), "d5994dad52bf3924"),
    (numpy.zeros(2, [("a", "<i4"), ("b", "<f8", 2)]), "65a8d1cf6776e46d"),
    (numpy.ma.array([1, 2], mask=[True, False]), "679e41ec27cbef4a"),
    (numpy.dtype("<f8"), "906501cb18d38099"),
]


# by their digests, as the order of a set in a repr differs between the processes of a test run
@pytest.mark.parametrize(("value", "expected"), FIXED, ids=[expected for _, expected in FIXED])
def test_the_digest_of_a_value_never_changes(value: Any, expected: str) -> None:
    assert digest(value)[:16] == expected


def test_all_values_of_the_table_have_different_digests() -> None:
    assert len({digest(value) for value, _ in FIXED}) == len(FIXED) > 60


def test_the_hash_seed_and_the_process_do_not_matter() -> None:
    code = (
        "import runpy, sys; d = runpy.run_path(sys.argv[1])['digest']\n"
        "print(d({'a', 'b', 'c', 'd', 'e'}), d({c: c for c in 'edcba'}))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code, _digest.__file__], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert said == {f"{digest(set('abcde'))} {digest({c: c for c in 'abcde'})}\n"}


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.complex_numbers(allow_nan=False)
    | st.text() | st.binary() | st.decimals(allow_nan=False) | st.fractions() | st.dates() | st.datetimes() | st.times()
    | st.timedeltas() | st.uuids() | st.sampled_from(Colour)
    | st.builds(pathlib.PurePosixPath, st.text("ab/", min_size=1))
)  # fmt: skip
HASHABLE = LEAVES.filter(lambda one: one != 0)  # 0 == 0.0 == False: one key of a dict
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(HASHABLE, inner, max_size=4)
        | st.sets(HASHABLE, max_size=4)
        | st.frozensets(HASHABLE, max_size=4)
        | st.builds(Point, st.integers(), inner)
        | st.builds(Pair, st.integers(), inner)
    ),
    max_leaves=12,
)


def reordered(value: Any) -> Any:
    """Return an equal value, whose dicts and sets were filled the other way round."""
    if type(value) in (list, tuple):
        return type(value)(map(reordered, value))
    if type(value) is dict:
        return {reordered(key): reordered(item) for key, item in reversed(value.items())}
    if type(value) in (set, frozenset):
        return type(value)(reversed([reordered(one) for one in value]))
    return copy.deepcopy(value)


@settings(max_examples=60)
@given(value=VALUES)
def test_equal_values_have_equal_digests(value: Any) -> None:
    assert digest(value) == digest(reordered(value))


def spelled(value: Any) -> Any:
    """Return what tells two values apart, types included."""
    if isinstance(value, dict):
        return (type(value), sorted((repr(spelled(key)), repr(spelled(item))) for key, item in value.items()))
    if isinstance(value, set | frozenset):
        return (type(value), sorted(repr(spelled(one)) for one in value))
    if isinstance(value, list | tuple):
        return (type(value), [spelled(one) for one in value])
    if isinstance(value, Point):
        return (type(value), spelled(value.x), spelled(value.y))
    return (type(value), repr(value))


@settings(max_examples=60)
@given(one=VALUES, other=VALUES)
def test_different_values_have_different_digests(one: Any, other: Any) -> None:
    assert (digest(one) == digest(other)) == (spelled(one) == spelled(other))


def test_kinds_that_compare_equal_differ() -> None:
    one_of_each = [
        1, 1.0, True, 1 + 0j, decimal.Decimal(1), fractions.Fraction(1), numpy.int64(1), numpy.float64(1),
        numpy.array(1), numpy.bool_(True), "1", b"1", [1], (1,), {1}, frozenset({1}), Pair(1, 1), (1, 1), {1: 1},
        collections.OrderedDict({1: 1}), collections.Counter([1]), 0.0, -0.0, b"", bytearray(), "", None, (), [], {},
    ]  # fmt: skip
    assert len({digest(value) for value in one_of_each}) == len(one_of_each)


def test_all_nans_are_one() -> None:
    assert digest(float("nan")) == digest(-float("nan")) == digest(math.inf - math.inf)


def test_arrays_count_by_type_shape_and_content() -> None:
    array = numpy.arange(12.0).reshape(3, 4)
    assert digest(array) == digest(array.copy(order="F")) == digest(numpy.repeat(array, 2, axis=1)[:, ::2])
    assert digest(array.T) == digest(array.T.copy())
    others = [
        array.astype(">f8"),
        array.astype("f4"),
        array.ravel(),
        array[None],
        array.T,
        array.astype(object),
        -array,
    ]
    assert len({digest(one) for one in [array, *others]}) == 8
    assert digest(numpy.zeros(0)) != digest(numpy.zeros((0, 2)))
    assert digest(numpy.array("ab")) == digest(numpy.array("ab")) != digest(numpy.array("ac"))


def test_arrays_of_objects_have_a_digest_if_their_items_have() -> None:
    assert digest(numpy.array([1, "a", None], dtype=object)) == digest(numpy.array([1, "a", None], dtype=object))
    with pytest.raises(NoDigestError, match="lock"):
        digest(numpy.array([threading.Lock()], dtype=object))


def test_what_lies_between_the_fields_of_a_record_does_not_count() -> None:
    kind = numpy.dtype({"names": ["a", "b"], "formats": ["u1", "f8"], "offsets": [0, 8], "itemsize": 16})
    one, two = numpy.zeros(3, kind), numpy.zeros(3, kind)
    two.view("u1")[4] = 9
    assert two.tobytes() != one.tobytes() and digest(one) == digest(two)
    two["b"][1] = 1
    assert digest(one) != digest(two)


def test_masked_values_do_not_count() -> None:
    one = numpy.ma.array([1, 2, 3], mask=[False, True, False])
    two = numpy.ma.array([1, 9, 3], mask=[False, True, False])
    assert digest(one) == digest(two) != digest(numpy.ma.array([1, 2, 3]))


@given(size=st.integers(0, 40), kind=st.sampled_from(["<i4", ">i4", "<f8", "<U3", "S2", "<M8[s]", "?"]))
@settings(max_examples=30)
def test_a_view_has_the_digest_of_its_copy(size: int, kind: str) -> None:
    array = numpy.arange(size * 2).astype(kind)[::2]
    assert digest(array) == digest(array.copy())


def test_an_object_s_own_key_counts() -> None:
    assert digest(Model([1])) == digest(Model([1])) != digest(Model([2]))
    assert digest([Model([1])]) != digest([[1]])


def test_what_has_no_digest_is_named() -> None:
    for value, said in (
        (threading.Lock(), "a _thread.lock"),
        ([1, {"a": lambda: 1}], "a function"),
        (object(), "a object"),
        (numpy.zeros(1, "g"), "an array of "),
    ):
        with pytest.raises(NoDigestError, match=said):
            digest(value)


def test_a_value_that_contains_itself_has_no_digest() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(NoDigestError, match="contains itself"):
        digest(value)


def test_tables_count_by_content() -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"a": [1, 2], "b": ["x", None], "c": pandas.to_datetime(["2026-01-01", None])})
    assert digest(table) == digest(table.copy()) != digest(table.rename(columns={"a": "z"}))
    assert digest(table) != digest(table[["b", "a", "c"]]) and digest(table) != digest(table.iloc[::-1])
    assert digest(table["b"].astype(object)) == digest(table["b"].astype("string"))
    assert digest(table["b"].astype("category")) != digest(table["b"])
    assert digest(pandas.Timestamp("2026-01-01", tz="UTC")) != digest(pandas.Timestamp("2026-01-01"))
