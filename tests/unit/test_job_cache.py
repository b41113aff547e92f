"""The cache of results: what is a hit, what is a miss, and what a damaged entry is."""

from __future__ import annotations

import importlib
import inspect
import linecache
import os
import shutil
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ports.errors import NotFoundError, UsageError
from ports.jobs import _blobs, _cache, _function_key, _travel
from ports.jobs._cache import Cache
from ports.jobs._function_key import FunctionKey
from ports.jobs.resource import call as child


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    _cache._said.clear()
    yield
    child.forget()


def entries() -> list[Path]:
    return [path for path, _ in _cache.here()._entries()]


def define(text: str, **names: Any) -> Callable[..., Any]:
    """Define a function as a notebook does: in ``__main__``, without a file. Its last name is returned."""
    space: dict[str, Any] = {"__name__": "__main__", **names}
    exec(textwrap.dedent(text), space)
    found: Callable[..., Any] = next(value for key, value in reversed(space.items()) if callable(value))
    return found


def through(function: Callable[..., Any], *args: Any, policy: str = "use", version: Any = None, **kwargs: Any) -> Any:
    return _cache.call(function, version, policy, args, kwargs)


@pytest.fixture
def note(tmp_path: Path) -> Iterator[Callable[[], int]]:
    """Count calls outside of the process's variables, which would count for the key."""
    file = tmp_path / "calls"
    yield lambda: file.stat().st_size if file.exists() else 0


ADD = """
    def add(x, y=1):
        import pathlib
        with open(file, "a") as calls: calls.write(".")
        return x + y
"""


@pytest.fixture
def add(tmp_path: Path) -> Callable[..., Any]:
    return define(ADD, file=str(tmp_path / "calls"))


def test_a_second_call_is_a_hit_however_its_arguments_are_spelled(add: Any, note: Callable[[], int]) -> None:
    assert [through(add, 1), through(add, 1, 1), through(add, x=1), through(add, y=1, x=1)] == [2] * 4
    assert note() == 1
    assert [through(add, 1, 2), through(add, 1.0)] == [3, 2.0] and note() == 3


@given(
    args=st.lists(st.integers(), max_size=3),
    kwargs=st.dictionaries(st.sampled_from("xyzw"), st.integers(), max_size=3),
    way=st.integers(0, 3),
)
def test_arguments_are_named_as_a_call_binds_them(args: list[int], kwargs: dict[str, int], way: int) -> None:
    functions: list[Callable[..., Any]] = [
        lambda x, y=1, z=None: 0, lambda x, *y, **z: 0, lambda x, /, y=1, *, z=2: 0, lambda: 0,
    ]  # fmt: skip
    function = functions[way]
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return
    bound.apply_defaults()
    assert dict(_function_key._named(function, tuple(args), kwargs)) == bound.arguments


def test_a_function_as_an_argument_counts_by_its_source(tmp_path: Path) -> None:
    def use(function: Any) -> Any:
        return function(2)

    one, other = define("def f(x): return x + 1"), define("def f(x): return x + 2")
    assert [through(use, one), through(use, other), through(use, one), through(use, abs)] == [3, 4, 3, 2]
    assert len(entries()) == 3


def test_another_process_s_function_of_the_same_source_hits(add: Any, note: Callable[[], int], tmp_path: Path) -> None:
    through(add, 1)
    again = define(ADD, file=str(tmp_path / "calls"))
    assert again is not add and through(again, 1) == 2 and note() == 1
    changed = define(ADD.replace("x + y", "x - y"), file=str(tmp_path / "calls"))
    assert through(changed, 1) == 0 and note() == 2


def test_a_global_that_a_function_uses_counts(note: Callable[[], int], tmp_path: Path) -> None:
    text = ADD.replace("x + y", "x + y + scale")
    for scale, result, n_calls in ((1, 3, 1), (2, 4, 2), (1, 3, 2)):
        function = define(text, file=str(tmp_path / "calls"), scale=scale)
        assert (through(function, 1), note()) == (result, n_calls)
    function.__globals__["scale"] = 10  # of one function, between two calls
    assert (through(function, 1), note()) == (12, 3)
    function.__globals__["scale"] = 2
    assert (through(function, 1), note()) == (4, 3)


def test_a_function_that_it_calls_counts_and_its_decorators_do_not(tmp_path: Path) -> None:
    file = tmp_path / "j3_cells.py"

    def key(text: str) -> str:
        file.write_text(textwrap.dedent(text))
        space: dict[str, Any] = {"__name__": "__main__", "mark": lambda **_: lambda function: function}
        exec(compile(file.read_text(), str(file), "exec"), space)
        linecache.checkcache(str(file))
        return _function_key.of_function(space["fit"]).key

    body = "def twice(x): return {}\n\n{}def fit(x): return twice(x)\n"
    one, other = key(body.format("2 * x", "")), key(body.format("x + x", ""))
    assert one != other == key(body.format("x + x", "@mark(cpus=2)\n"))


def test_a_class_of_a_notebook_counts_with_its_bases_and_what_they_use(tmp_path: Path) -> None:
    body = "def rate(): return {}\nclass Base:\n    def f(self): return rate()\n"
    body += "class Model(Base): pass\ndef fit(): Model()\n"

    def key(number: int) -> str:
        file = tmp_path / f"ipykernel_{number}.py"
        file.write_text(body.format(number))
        space: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(file.read_text(), str(file), "exec"), space)
        linecache.getlines(str(file))
        return _function_key.of_function(space["fit"]).key

    try:
        assert key(1) == key(1) != key(2)
    finally:
        linecache.clearcache()


def test_the_source_of_local_modules_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "j3_inner.py").write_text("def inner(): return 1\n")
    (tmp_path / "j3_outer.py").write_text("import j3_inner\ndef outer(): return j3_inner.inner()\n")
    import j3_outer  # type: ignore[import-not-found]

    try:
        before = _function_key.of_function(j3_outer.outer).key
        assert before == _function_key.of_function(j3_outer.outer).key
        (tmp_path / "j3_inner.py").write_text("def inner(): return 22\n")
        assert before != _function_key.of_function(j3_outer.outer).key
        importlib.reload(sys.modules["j3_inner"])  # of which the function itself notices nothing
        assert through(j3_outer.outer) == 22
        (tmp_path / "j3_inner.py").write_text("def inner(): return 333\n")
        importlib.reload(sys.modules["j3_inner"])
        assert through(j3_outer.outer) == 333
    finally:
        for name in ("j3_outer", "j3_inner"):
            sys.modules.pop(name, None)


def test_what_was_imported_counts_until_it_is_reloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "j3_edited.py"
    file.write_text("def value(): return 1\ndef other(): return 1\n")
    import j3_edited  # type: ignore[import-not-found]

    try:
        before = _function_key.of_function(j3_edited.value)
        assert through(j3_edited.value) == 1 and len(entries()) == 1
        file.write_text("def value(): return 222\ndef other(): return 222\n")  # what runs here is still the old one
        assert through(j3_edited.value) == 1 and len(entries()) == 1
        assert _function_key.of_function(j3_edited.value) != before  # of a job, which has the file of now
        with pytest.warns(
            UserWarning, match=r"other\(\) is not cached, because .*j3_edited.py has changed since it was"
        ):
            assert through(j3_edited.other) == 1
        assert len(entries()) == 1
        importlib.reload(j3_edited)
        assert through(j3_edited.value) == 222 == through(j3_edited.value) and len(entries()) == 2
    finally:
        sys.modules.pop("j3_edited", None)


def test_with_a_version_a_changed_source_is_a_hit_and_is_said(
    add: Any, note: Callable[[], int], tmp_path: Path
) -> None:
    through(add, 1, version="0.1.0")
    changed = define(ADD.replace("x + y", "x - y"), file=str(tmp_path / "calls"))
    with pytest.warns(UserWarning, match=r"add\(\) has changed since its result of version '0.1.0' was kept"):
        assert through(changed, 1, version="0.1.0") == 2
    assert through(changed, 1, version="0.2.0") == 0 and note() == 2  # the one way out
    assert through(changed, 1, version="0.1.0", policy="refresh") == 0  # the other
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _cache._said.clear()
        assert through(changed, 1, version="0.1.0") == 0


def test_the_policies_use_refresh_off_and_only(add: Any, note: Callable[[], int]) -> None:
    with pytest.raises(NotFoundError, match=r"nothing of add\(\) is in the cache.*cache='use' computes it"):
        through(add, 1, policy="only")
    assert through(add, 1, policy="use") == 2 == through(add, 1, policy="only") and note() == 1
    assert through(add, 1, policy="refresh") == 2 and note() == 2
    with pytest.raises(NotFoundError, match=r"argument 'x' of add\(\) differs from the entry of 20"):
        through(add, 5, policy="only")
    with pytest.raises(UsageError, match="cache='always' is none of 'use', 'refresh', 'off', 'only'"):
        _cache.check_policy("always")


def test_what_has_no_digest_is_not_cached_and_said_once(add: Any) -> None:
    lock = threading.Lock()
    hold = define("def hold(held): return 1")
    with pytest.warns(UserWarning, match=r"hold\(\) is not cached, because a _thread.lock in argument 'held' has no"):
        assert through(hold, lock) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert through(hold, lock) == 1
    guard = define("def guard(): return bool(lock)", lock=lock)
    with pytest.warns(UserWarning, match=r"guard\(\) is not cached, because a _thread.lock, which it uses as 'lock'"):
        assert through(guard) is True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        through(guard, version=1)
    assert len(entries()) == 1


def test_a_result_that_cannot_be_kept_is_returned_and_said_once() -> None:
    make = define("def make():\n    import threading\n    return threading.Lock()")
    with pytest.warns(UserWarning, match=r"the result of make\(\) was not kept: cannot pickle"):
        assert through(make).acquire()


def test_nobody_else_can_read_what_is_kept(add: Any, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        through(add, 1)
    finally:
        os.umask(before)
    (file,) = entries()
    assert file.stat().st_mode & 0o777 == 0o600
    inside = [tmp_path / "state", *(path for path in (tmp_path / "state").rglob("*") if path.is_dir())]
    assert len(inside) > 4 and {path.stat().st_mode & 0o777 for path in inside} == {0o700}


LARGE = "def large(n):\n    import numpy\n    return {'a': numpy.arange(n), 'b': [1]}"


def test_a_large_result_is_mapped_and_changing_it_changes_no_entry() -> None:
    large = define(LARGE)
    through(large, 50_000)
    for _ in range(2):
        found = through(large, 50_000)
        hit = _cache.here().find(*key_of(large, 50_000))
        assert hit is not None and not memoryview(hit.data).readonly  # else it would be copied
        assert found["a"].flags.writeable and found["a"].sum() == sum(range(50_000)) and found["b"] == [1]
        found["a"][:] = 0
    assert isinstance(_cache.here().find(*key_of(large, 50_000)).data, __import__("mmap").mmap)  # type: ignore[union-attr]


def key_of(function: Callable[..., Any], *args: Any, version: Any = None) -> tuple[FunctionKey, str]:
    known = _function_key.of_function(function, version)
    return known, _function_key.of_call(known, _function_key.arguments(function, args, {}))


@pytest.mark.parametrize("harm", ["cut", "byte", "other", "empty", "header", "long"])
@pytest.mark.parametrize("size", [10, 50_000])
def test_a_damaged_entry_is_a_miss_said_and_removed(harm: str, size: int) -> None:
    large = define(LARGE)
    through(large, size + 1)
    (path,) = entries()
    other = path.read_bytes()  # a whole entry, of another call
    path.unlink()
    through(large, size)
    (path,) = entries()
    data = bytearray(path.read_bytes())
    if harm == "byte":
        data[-70] ^= 1
    (path.parent / "new").write_bytes(
        {"cut": data[:-1], "byte": data, "other": other, "empty": b"",
         "header": data.replace(b'"head"', b'"hEad"'), "long": data + b"x"}[harm]
    )  # fmt: skip
    os.replace(path.parent / "new", path)
    with pytest.warns(
        UserWarning, match=r"the cached result of large\(\) is damaged: .*; it was removed, and the call"
    ):
        assert through(large, size)["a"].size == size
    assert len(entries()) == 1 and through(large, size)["a"].size == size


def test_the_checksum_of_a_large_entry_is_looked_at_once_a_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    large = define(LARGE)
    through(large, 50_000)
    looked: list[int] = []
    real = _cache.checksum
    monkeypatch.setattr(_cache, "checksum", lambda parts: looked.append(1) or real(parts))
    through(large, 50_000)
    fresh = Cache(_cache.here().directory, lambda: 1e9)  # another process of this boot
    assert fresh.find(*key_of(large, 50_000)) and looked == []
    monkeypatch.setattr(_cache.probe, "boot_id", lambda: "the next boot")
    for n_looked in (1, 1):
        fresh = Cache(_cache.here().directory, lambda: 1e9)
        assert fresh.find(*key_of(large, 50_000)) and len(looked) == n_looked


def test_the_least_recently_used_entries_go_above_the_limit() -> None:
    cache = Cache(_cache.here().directory, lambda: 1e9)
    function = FunctionKey("m.f", "1", "")
    for number in range(4):
        cache.keep(function, f"{number}" * 64, {}, _cache.Result(_blobs.pickled(bytes(100_000)), []))
        os.utime(cache._path("m.f", f"{number}" * 64), (number, number))
    assert cache.find(function, "0" * 64)  # used now
    assert cache.prune(limit=250_000) > 200_000
    assert [bool(cache.find(function, f"{number}" * 64)) for number in range(4)] == [True, False, False, True]
    assert not list(cache.directory.rglob("*.tmp")) and len(list(cache.directory.rglob("*.ok"))) == 2


def test_a_store_above_the_limit_prunes_by_itself() -> None:
    cache = Cache(_cache.here().directory, lambda: 300_000)
    for number in range(6):
        cache.keep(FunctionKey("m.f", "1", ""), f"{number}" * 64, {}, _cache.Result(_blobs.pickled(bytes(100_000)), []))
    assert cache.size <= 300_000


def test_why_names_the_part_that_differs() -> None:
    cache = _cache.here()
    made = _cache.Result(_blobs.pickled(1), [])
    before = {"x": "a" * 64, "y": "b" * 64}
    function = FunctionKey("m.fit", None, "c" * 64)
    assert cache.why(function, "1" * 64, before) == "nothing of fit() is in the cache"
    cache.keep(function, "1" * 64, before, made)
    assert cache.why(function, "1" * 64, before) == "fit() with these arguments is in the cache"
    assert cache.why(function, "2" * 64, {**before, "y": "z" * 64}).startswith("argument 'y' of fit() differs from the")
    changed = FunctionKey("m.fit", None, "d" * 64)
    assert cache.why(changed, "3" * 64, before).startswith("the source of fit() differs from the entry of ")
    assert "version '2' (before: None)" in cache.why(FunctionKey("m.fit", "2", ""), "4" * 64, before)


def test_why_a_job_ran_follows_from_what_it_kept(add: Any) -> None:
    first, second = run(add, 1).note, run(add, 2).note
    assert _cache.here().why_kept(first["function"], first["key"]) == "nothing of add() was in the cache"
    why = _cache.here().why_kept(second["function"], second["key"])
    assert why.startswith("argument 'x' of add() differs from the entry of 20")
    assert "no longer in the cache" in _cache.here().why_kept(first["function"], "f" * 64)


def test_a_full_disk_costs_the_entry_and_not_the_result(add: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise _cache.StoreError("/cache", "No space left on device")

    monkeypatch.setattr(_cache._durable, "write", full)
    with pytest.warns(UserWarning, match="was not kept: cannot use /cache: No space left"):
        assert through(add, 1) == 2


# --- of jobs ---


def run(function: Callable[..., Any], *args: Any, policy: str = "use", key: bool = True, results: Any = None) -> Any:
    parcel = _travel.pack(function, [(args, {})])
    known = _function_key.of_function(function)
    cache = {"policy": policy, "function": known.to_json(), "key": key_of(function, *args)[1] if key else None}
    return child.run(parcel.function, parcel.arguments[0], results or {}, cache)


def test_a_job_hits_what_a_plain_call_kept_and_the_other_way(add: Any, note: Callable[[], int]) -> None:
    through(add, 1)
    outcome = run(add, 1)
    assert _travel.unpack(outcome.blob, "it") == 2 and outcome.note["cache"] == "hit" and note() == 1
    outcome = run(add, 5)
    assert outcome.note["cache"] == "kept" and through(add, 5) == 6 and note() == 2
    assert run(add, 5, key=False).note["cache"] == "hit"
    assert run(add, 5, policy="refresh").note["cache"] == "kept" and note() == 3
    outcome = run(add, 7, policy="only")
    assert outcome.state == "error" and outcome.error["type"] == "NotFoundError" and note() == 3


def test_a_large_array_comes_from_the_cache_of_jobs() -> None:
    large = define(LARGE)
    for _ in range(2):
        found = _travel.unpack(run(large, 50_000).blob, "it")
        assert (found["a"] == numpy.arange(50_000)).all()


def test_a_failed_job_is_not_kept() -> None:
    fail = define("def fail(): raise ValueError('no')")
    assert run(fail).state == "error" and entries() == []


# --- caches of others ---


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of a cache of others, which the settings name."""
    directory = tmp_path / "group"
    values = {"jobs.cache_also": [str(tmp_path / "nothing"), str(directory)], "jobs.cache_trust": []}
    real = _cache.settings.get
    monkeypatch.setattr(_cache.settings, "get", lambda key: values[key] if key in values else real(key))
    return directory


def given(group: Path) -> Path:
    """Move all own entries to the cache of the group; return the last one."""
    shutil.copytree(_cache.here().directory, group)
    shutil.rmtree(_cache.here().directory)
    return next(path for path in group.rglob("*") if path.is_file() and path.suffix != ".ok")


@pytest.mark.parametrize("size", [10, 50_000])
def test_a_result_of_the_group_is_used_and_nothing_is_written(group: Path, size: int) -> None:
    large = define(LARGE)
    through(large, size)
    given(group)
    before = sorted((path.name, path.stat().st_mtime_ns) for path in group.rglob("*"))
    assert through(large, size, policy="only")["a"].size == size
    assert entries() == [] and sorted((path.name, path.stat().st_mtime_ns) for path in group.rglob("*")) == before


def test_a_job_names_the_cache_of_the_group_that_had_its_result(add: Any, group: Path) -> None:
    key = _function_key.of_function(add)
    cache = {"policy": "use", "function": key.to_json(), "key": None}
    parcel = _travel.pack(add, [((1,), {})])
    assert child.run(parcel.function, parcel.arguments[0], cache=cache).note["cache"] == "kept"
    given(group)
    note = child.run(parcel.function, parcel.arguments[0], cache=cache).note
    assert (note["cache"], note["from"]) == ("hit", str(group))


@pytest.mark.skipif(os.getuid() != 0, reason="gives a file to another user")
def test_results_of_other_users_are_used_only_if_they_are_trusted(
    add: Any, note: Callable[[], int], group: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    through(add, 1)
    entry = given(group)
    os.chown(entry, 65534, 65534)
    with pytest.warns(
        UserWarning, match=r"of add\(\) in .* is not used: it is of nobody, .* lets nobody run code as you"
    ):
        assert through(add, 1) == 2
    assert note() == 2
    shutil.rmtree(_cache.here().directory)
    known = _cache.settings.get
    monkeypatch.setattr(_cache.settings, "get", lambda key: ["nobody"] if key == "jobs.cache_trust" else known(key))
    assert through(add, 1) == 2 and note() == 2
    entry.chmod(0o666)
    with pytest.warns(UserWarning, match="others can write to that file"):
        assert through(add, 1) == 2
    assert note() == 3


@pytest.mark.parametrize("harm", ["byte", "pipe", "link", "other"])
def test_a_damaged_entry_of_the_group_is_a_miss_and_stays(add: Any, group: Path, harm: str) -> None:
    through(add, 2)
    (other,) = entries()
    kept = other.read_bytes()
    other.unlink()
    through(add, 1)
    entry = given(group)
    data = bytearray(entry.read_bytes())
    data[-2] ^= 1
    entry.unlink()
    if harm == "pipe":
        os.mkfifo(entry, 0o600)
    elif harm == "link":
        entry.symlink_to("/etc/hostname")
    else:
        entry.write_bytes(data if harm == "byte" else kept)
    with pytest.warns(UserWarning, match=r"damaged|is no file|symbolic links"):
        assert through(add, 1) == 2
    assert entry.is_fifo() or entry.is_symlink() or entry.exists()
