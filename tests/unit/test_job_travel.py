"""How functions, arguments and results travel: in a child of its own directory, which has none of the local modules."""

from __future__ import annotations

import dataclasses
import json
import pickle
import struct
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ports.errors import RecordError, UnsendableError
from ports.jobs import _blobs, _modules, _plain, _travel
from ports.jobs._api import JobFunction, Options
from ports.jobs.resource.call import Outcome

ARRAYS = st.builds(
    lambda kind, size: numpy.arange(size).astype(kind),
    st.sampled_from(["<f8", ">f4", "i2", "?", "c16"]),
    st.integers(0, 3000),
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=6000) | ARRAYS
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner)
)


def same(one: Any, two: Any) -> bool:
    if type(one) is not type(two):
        return False
    if isinstance(one, numpy.ndarray):
        return bool(one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes())
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, dict):
        return list(one) == list(two) and all(same(one[key], two[key]) for key in one)
    return repr(one) == repr(two)


CHILD = """
import pickle, sys
from ports.jobs.resource import call
out = sys.stdout.buffer
sys.stdout = sys.stderr
while sys.stdin.buffer.peek():
    pickle.dump(tuple(call.run(*pickle.load(sys.stdin.buffer))), out)
    out.flush()
"""


class Child:
    """A process as the resource has them: started elsewhere, it runs one call after the other."""

    def __init__(self, directory: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHILD], cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def run(self, function: bytes, arguments: bytes, results: Mapping[str, bytes] | None = None) -> Outcome:
        assert self._process.stdin and self._process.stdout
        pickle.dump((function, arguments, results or {}), self._process.stdin)
        self._process.stdin.flush()
        return Outcome(*pickle.load(self._process.stdout))

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return the result, or raise its exception."""
        outcome = self.outcome(function, *args, **kwargs)
        value = _travel.unpack(outcome.blob, "the result")
        if outcome.state == "error":
            raise value
        return value

    def outcome(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Outcome:
        parcel = _travel.pack(function, [(args, kwargs)])
        return self.run(parcel.function, parcel.arguments[0])

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(10)


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    made = Child(tmp_path_factory.mktemp("elsewhere"))
    yield made
    made.close()


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Write local modules and import one of them, as a notebook in that directory would."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def write(first: str, /, **texts: str) -> Any:
        for name, text in texts.items():
            file = tmp_path / f"{name.replace('_of_', '/')}.py"
            file.parent.mkdir(exist_ok=True)
            file.write_text(textwrap.dedent(text))
        return __import__(first)

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


# --- what runs there ---


def test_lambdas_closures_and_builtins_run_there(child: Child) -> None:
    offset = 41
    assert child.call(lambda x: x + offset, 1) == 42
    assert child.call(len, [1, 2]) == 2
    assert child.call(str.upper, "a") == "A"
    assert child.call(lambda *args, **kwargs: (args, kwargs), 1, b=2) == ((1,), {"b": 2})


def test_a_local_module_travels_with_what_it_imports(child: Child, beside: Callable[..., Any]) -> None:
    module = beside(
        "j3_main",
        j3_main="""
            import threading
            import j3_other
            lock = threading.Lock()  # it could not be pickled
            def fit(x):
                from j3_late import more
                return j3_other.twice(x) + more()
        """,
        j3_other="def twice(x): return 2 * x",
        j3_late="def more(): return 2",
    )
    assert child.call(module.fit, 20) == 42
    assert child.call(lambda x: module.fit(x), 20) == 42


def test_packages_travel_with_relative_imports(child: Child, beside: Callable[..., Any]) -> None:
    beside(
        "j3_package",
        j3_package_of___init__="",
        j3_package_of_inner="from . import leaf\nfrom .leaf import LEAF\ndef value(): return LEAF + leaf.LEAF",
        j3_package_of_leaf="LEAF = 21",
    )

    def use() -> int:
        from j3_package import inner

        return int(inner.value())

    assert child.call(use) == 42


def test_a_result_is_of_the_class_that_is_here(child: Child, beside: Callable[..., Any]) -> None:
    module = beside(
        "j3_classes",
        j3_classes="""
            import dataclasses
            @dataclasses.dataclass
            class Point:
                x: int
            class Refused(Exception): pass
            def move(point): return Point(point.x + 1)
            def refuse(): raise Refused("no")
        """,
    )
    moved = child.call(module.move, module.Point(41))
    assert type(moved) is module.Point and moved.x == 42
    with pytest.raises(module.Refused, match="no"):
        child.call(module.refuse)


def test_a_changed_module_counts_for_the_next_function(child: Child, beside: Callable[..., Any]) -> None:
    first = beside("j3_changing", j3_changing="def value(): return 'old'")
    old = _travel.pack(first.value, [((), {})])
    del sys.modules["j3_changing"]
    second = beside("j3_changing", j3_changing="def value(): return 'newer'")
    new = _travel.pack(second.value, [((), {})])
    for parcel, expected in ((old, "old"), (new, "newer"), (old, "old")):
        outcome = child.run(parcel.function, parcel.arguments[0])
        assert _travel.unpack(outcome.blob, "it") == expected


def test_installed_modules_and_ports_do_not_travel(beside: Callable[..., Any]) -> None:
    module = beside("j3_uses", j3_uses="import numpy, json, ports\ndef f(): return numpy.ones(1), ports, json")
    assert set(_travel.pack(module.f, [((), {})]).sources) == {"j3_uses"}


def test_what_a_result_needs_comes_back_with_it(
    child: Child, beside: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = beside("j3_away", j3_away="class Away:\n    x = 42\ndef make(): return Away()")
    blob = child.outcome(module.make).blob
    del sys.modules["j3_away"]
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one != str(Path(module.__file__).parent)])
    assert _travel.unpack(blob, "it").x == 42  # in a process of another directory


def test_large_arrays_travel_beside_the_pickle_and_can_be_changed(child: Child) -> None:
    def change(x: Any) -> Any:
        x += 1
        return x

    array = numpy.zeros((100, 100), order="F")
    changed = child.call(change, array)
    changed += 1
    assert (changed == 2).all() and changed.flags.f_contiguous and not array.any()
    assert len(_travel.pack(change, [((array,), {})]).arguments[0]) >= array.nbytes


def test_a_coroutine_function_is_awaited_there(child: Child) -> None:
    async def later(x: int) -> int:
        return x + 1

    assert child.call(later, 41) == 42


# --- errors ---


def test_an_error_comes_back_with_the_lines_where_it_was_raised(child: Child, beside: Callable[..., Any]) -> None:
    module = beside("j3_failing", j3_failing="def fail(x):\n    return 1 / x  # this line\n")
    outcome = child.outcome(module.fail, 0)
    assert outcome.state == "error" and outcome.error
    assert (outcome.error["type"], outcome.error["text"]) == ("ZeroDivisionError", "division by zero")
    assert "return 1 / x  # this line" in outcome.error["traceback"] and "call.py" not in outcome.error["traceback"]
    assert isinstance(_travel.unpack(outcome.blob, "it"), ZeroDivisionError)


def test_an_error_in_a_notebook_s_function_shows_its_line(child: Child) -> None:
    def fail() -> None:
        raise ValueError("no")  # in this file

    outcome = child.outcome(fail)
    assert outcome.error and 'raise ValueError("no")  # in this file' in outcome.error["traceback"]
    assert __file__ in outcome.error["traceback"]


def test_an_exception_that_cannot_be_pickled_keeps_its_text(child: Child) -> None:
    class Awkward(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} and {two}")

    class Locked(Exception):
        def __init__(self) -> None:
            super().__init__("locked")
            self.lock = threading.Lock()

    class Silent(Exception):
        def __str__(self) -> str:
            raise ValueError

    def fail(kind: str) -> None:
        raise {"awkward": lambda: Awkward(1, 2), "locked": Locked, "silent": Silent}[kind]()

    for kind, text in (("awkward", "1 and 2"), ("locked", "locked"), ("silent", "its text cannot be shown")):
        outcome = child.outcome(fail, kind)
        assert outcome.error and outcome.error["text"] == text, kind
        assert outcome.error["type"] == kind.title()
        assert kind == "silent" or outcome.blob == b""


def test_an_exit_of_a_job_is_an_error_and_the_child_lives(child: Child) -> None:
    outcome = child.outcome(sys.exit, 3)
    assert outcome.state == "error" and outcome.error and outcome.error["type"] == "SystemExit"
    assert child.call(len, "ab") == 2


def test_a_result_that_cannot_be_sent_is_an_error_with_a_way_out(child: Child) -> None:
    for make, way in ((threading.Lock, "return plain data"), (lambda: (x for x in "ab"), "return list(...) of it")):
        outcome = child.outcome(make)
        assert outcome.state == "error" and outcome.error and outcome.error["type"] == "UnsendableError"
        assert outcome.error["text"].startswith("the result of") and outcome.error["text"].endswith(way)


def test_an_argument_that_cannot_be_sent_is_named_with_a_way_out() -> None:
    def fit(data: Any, lock: Any = None) -> None: ...

    for args, kwargs in (((1, threading.Lock()), {}), ((1,), {"lock": [threading.Lock()]})):
        with pytest.raises(UnsendableError, match=r"argument 'lock' of fit\(\).*make it inside of fit\(\)"):
            _travel.pack(fit, [(args, kwargs)])
    with pytest.raises(UnsendableError, match=r"argument 2 of max\(\)"):
        _travel.pack(max, [((1, threading.Lock()), {})])


def test_a_function_that_cannot_be_sent_names_what_it_uses() -> None:
    guard = threading.Lock()

    def fit() -> None:
        guard.acquire()

    with pytest.raises(UnsendableError, match=r"fit\(\) cannot be sent, because it uses 'guard', a lock.*make guard"):
        _travel.pack(fit, [((), {})])


# --- between versions of Python: source, and plain values ---

NOTEBOOK = """
import json as j
import xml.dom.minidom
from math import sqrt
SCALE, NAMES = 3, {"a": (1, None)}

class Base:
    def half(self): return helper(self.x) / 6

class Point(Base):
    def __init__(self, x): self.x = x

def helper(x):
    return SCALE * x

def fit(x, y=1):
    import j3_plain
    p = Point(helper(x))
    found = {"r": p.x + sqrt(y), "h": p.half(), "n": NAMES, "j": j.dumps([1])}
    return {**found, "m": j3_plain.more(), "d": xml.dom.minidom.__name__}

def recurse(n): return 1 if n < 2 else n * recurse(n - 1)
def fail(x): return [][x]
"""


@pytest.fixture
def notebook(tmp_path: Path, beside: Callable[..., Any]) -> dict[str, Any]:
    """Names of a notebook, whose cell is in a file."""
    beside("j3_plain", j3_plain="def more(): return 42")
    file = tmp_path / "cell.py"
    file.write_text(NOTEBOOK)
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(NOTEBOOK, str(file), "exec"), space)
    return space


def over(child: Child, function: Callable[..., Any], *args: Any) -> Outcome:
    parcel = _travel.write(function, [(args, {})])
    blob = parcel.function.replace(f'"minor":"{_blobs.MINOR}"'.encode(), b'"minor":"3.99"')  # of another version
    outcome = child.run(blob, parcel.arguments[0])
    assert b"pickle" not in outcome.blob[:200]
    return outcome


def test_the_source_of_a_notebook_s_function_travels_with_what_it_uses(child: Child, notebook: dict[str, Any]) -> None:
    found = _travel.unpack(over(child, notebook["fit"], 2, 4).blob, "it")
    assert found == {"r": 8.0, "h": 3.0, "n": {"a": (1, None)}, "j": "[1]", "m": 42, "d": "xml.dom.minidom"}
    assert _travel.unpack(over(child, notebook["recurse"], 5).blob, "it") == 120
    assert _travel.unpack(over(child, len, [1, 2]).blob, "it") == 2
    decorated = JobFunction(notebook["helper"], Options())
    assert _travel.unpack(over(child, decorated, 2).blob, "it") == 6


def test_python_s_own_exceptions_come_back_from_another_version(child: Child, notebook: dict[str, Any]) -> None:
    outcome = over(child, notebook["fail"], 0)
    assert outcome.error and "def fail(x): return [][x]" in outcome.error["traceback"]
    found = _travel.unpack(outcome.blob, "it")
    assert type(found) is IndexError and found.args == ("list index out of range",)


def test_what_has_no_source_says_so(notebook: dict[str, Any]) -> None:
    offset = 1

    def closure() -> int:
        return offset

    for function, said in (
        (lambda: 1, "a lambda has no source of its own; write it as a function with def"),
        (closure, "closure.. uses variables of the function in which it is defined; pass them as arguments"),
        (eval("lambda: 0"), "a lambda has no source"),
    ):
        with pytest.raises(UnsendableError, match=f"cannot be sent to another version of Python: {said}"):
            _travel.write(function, [((), {})])
    with pytest.raises(
        UnsendableError, match=r"helper\(\) cannot .*: a object does not travel .*; numbers, texts, bytes,"
    ):
        _travel.write(notebook["helper"], [((object(),), {})])


@settings(max_examples=40)
@given(value=VALUES)
def test_a_plain_value_survives_the_way(value: Any) -> None:
    assert same(_blobs.load(_blobs.plain(value)), value)


@given(text=st.text() | st.sampled_from(['{"a": 1}', "[1]", '{"b": 7}', '{"j": "1"}', "{}", '{"l": 3}', '{"x": 0}']))
@settings(max_examples=40)
def test_a_damaged_plain_value_is_refused_or_read(text: str) -> None:
    try:
        _plain.decode(text.encode("utf-8", "surrogatepass"), [])
    except RecordError as error:
        assert "a value is damaged" in str(error)


# --- jobs as arguments ---


class FakeJob:
    """What a job is for a pickler."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __ports_job__(self) -> str:
        return self.name


@dataclasses.dataclass
class Holder:
    inner: Any


def test_jobs_anywhere_in_arguments_become_their_results(child: Child) -> None:
    array = numpy.arange(1000.0)
    results = {"1": _blobs.dump(41), "2.7": _blobs.dump(array)}

    def inner(held: Any) -> Any:
        return held.inner

    one, two = FakeJob("1"), FakeJob("2.7")
    parcel = _travel.pack(lambda *args, **kwargs: (args, kwargs), [(([one, {"k": (two,)}],), {"x": one}), ((1,), {})])
    assert parcel.inputs == {"0": ["1", "2.7"]}
    outcome = child.run(parcel.function, parcel.arguments[0], results)
    (args, kwargs) = _travel.unpack(outcome.blob, "it")
    assert args[0][0] == 41 and kwargs == {"x": 41} and (args[0][1]["k"][0] == array).all()
    parcel = _travel.pack(inner, [((Holder([one]),), {})])
    assert _travel.unpack(child.run(parcel.function, parcel.arguments[0], results).blob, "it") == [41]


def test_a_result_with_a_class_of_a_local_module_is_an_argument(child: Child, beside: Callable[..., Any]) -> None:
    module = beside("j3_between", j3_between="class Model:\n    x = 42\ndef fit(): return Model()")
    first = child.outcome(module.fit).blob
    parcel = _travel.pack(lambda model: model.x, [((FakeJob("9"),), {})])
    assert "j3_between" not in parcel.sources
    outcome = child.run(parcel.function, parcel.arguments[0], {"9": first})
    assert _travel.unpack(outcome.blob, "it") == 42


# --- what is damaged, newer, or of another Python ---


def test_another_minor_version_is_refused_before_anything_is_loaded(child: Child) -> None:
    parcel = _travel.pack(len, [(("ab",), {})])
    other = parcel.function.replace(f'"minor":"{_blobs.MINOR}"'.encode(), b'"minor":"3.99"')
    assert len(other) == len(parcel.function)
    outcome = child.run(other, parcel.arguments[0])
    assert outcome.error and outcome.error["type"] == "RecordError"
    assert f"was pickled by Python 3.99, and this is Python {_blobs.MINOR}" in outcome.error["text"]


def test_a_small_value_is_kept_as_every_version_kept_it() -> None:
    head = pickle.dumps(41, 5)
    text = b'{"format":1,"how":"pickle","minor":"%s","head":%d,"buffers":[]}' % (_blobs.MINOR.encode(), len(head))
    assert _blobs.dump(41) == b"PT01" + len(text).to_bytes(4, "little") + text + head
    assert [_blobs.load(_blobs.dump(value)) for value in (41, 42, "x" * 500)] == [41, 42, "x" * 500]


def test_a_damaged_header_is_refused_each_time_that_it_comes() -> None:
    damaged = _blobs.dump(41).replace(b'"head"', b'"hea"')
    for _ in range(2):
        with pytest.raises(RecordError, match="damaged: its header cannot be read"):
            _blobs.load(damaged)


def test_a_newer_format_says_how_to_upgrade() -> None:
    newer = _blobs.dump(1).replace(b'"format":1', b'"format":9')
    with pytest.raises(RecordError, match=r"the result of job 12 has format 9; upgrade ports"):
        _blobs.load(newer, "the result of job 12")


@settings(max_examples=40)
@given(place=st.integers(0, 200), byte=st.integers(0, 255))
def test_a_damaged_blob_of_any_kind_is_refused_or_read(place: int, byte: int) -> None:
    blob = bytearray(_blobs.dump(b"x" * 50))
    head = len(blob) - take(blob)
    blob[place % head] = byte
    try:
        _blobs.take_apart(bytes(blob))
    except RecordError as error:
        assert "damaged" in str(error) or "format" in str(error)


def take(blob: bytearray) -> int:
    """Return the size of the pickle in a blob without buffers."""
    (length,) = struct.unpack("<I", blob[4:8])
    return int(json.loads(blob[8 : 8 + length])["head"])


@settings(max_examples=40)
@given(cut=st.integers(0, 20000))
def test_a_blob_that_was_cut_is_refused(cut: int) -> None:
    blob = _blobs.dump(numpy.zeros(2000))
    if cut < len(blob):
        with pytest.raises(RecordError, match="damaged"):
            _blobs.load(blob[:cut])


@settings(max_examples=40)
@given(value=VALUES)
def test_a_value_survives_the_way(value: Any) -> None:
    blob = _blobs.dump(value)
    assert same(_blobs.load(blob), value) and same(_blobs.load(bytearray(blob)), value)


def test_names_of_modules_are_found_in_every_kind_of_import() -> None:
    def use() -> None:
        import j3_a.b
        from j3_c import d, e

        def deeper() -> None:
            from j3_f import g

            print(g)

        print(j3_a, d, e, deeper)

    found = set(_modules.imported_by(use.__code__, {}))
    assert found == {"j3_a.b", "j3_c", "j3_c.d", "j3_c.e", "j3_f", "j3_f.g"}


RECORDS = numpy.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])


@pytest.mark.parametrize(
    "value",
    [
        numpy.ma.masked_array([1, 2], [True, False]),
        numpy.ones((1, 1)).view(numpy.matrix),
        RECORDS,
        RECORDS[0],
        numpy.array([None]),
    ],
    ids=["masked", "matrix", "records", "record", "objects"],
)
def test_an_array_that_is_more_than_its_content_is_no_plain_value(value: Any) -> None:
    with pytest.raises(UnsendableError, match="does not travel between versions of Python; numbers,"):
        _plain.encode([value])


@pytest.mark.parametrize(
    "kind", ["M8[ns]", "U7", "S3", "V5", "c8", ">i8", "?", "f2", [("a", "i4"), ("b", "U2", (2,))]], ids=str
)
def test_an_array_of_every_kind_of_number_and_text_is_a_plain_value(kind: Any) -> None:
    value = numpy.zeros((2, 3), dtype=kind)
    for one in (value, value[0, 0], value[:0], numpy.asfortranarray(value)):
        found = _plain.decode(*_plain.encode(one))
        assert type(found) is type(one) and found.dtype == one.dtype and found.tobytes() == one.tobytes()
