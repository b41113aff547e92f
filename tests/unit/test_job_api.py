"""Functions as jobs in Python, without a resource: the decorator, its options, and what a job's end becomes."""

from __future__ import annotations

import functools
import inspect
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import dask.config
import numpy
import pytest

import ports
from ports.errors import (
    JobCancelledError,
    JobError,
    JobLostError,
    NetworkError,
    NotFoundError,
    RecordError,
    UnsendableError,
    UntrustedError,
    UsageError,
)
from ports.jobs import _api, _blobs, _client, _job, _sending, _travel
from ports.jobs._api import JobFunction
from ports.jobs._job import End, Job, JobMap
from ports.jobs._model import JobId
from ports.jobs._protocol import Frame
from ports.jobs.resource import call


@ports.job
def double(x: int) -> int:
    """Return twice x."""
    return 2 * x


@ports.job(cpus=2, memory="3GB", timeout="1h", retries=2, environ={"A": "1", "B": None}, tags={"k": "v"}, name="lr")
def configured(x: int) -> int:
    return x


def test_a_decorated_function_is_called_as_before() -> None:
    assert double(21) == 42 and configured(1) == 1
    assert (double.__name__, double.__doc__) == ("double", "Return twice x.")
    assert list(inspect.signature(double).parameters) == ["x"]
    assert functools.partial(double, 2)() == 4 and repr(double) == "<job function double>"


def test_a_decorated_method_is_one() -> None:
    class Model:
        weight = 3

        @ports.job
        def fit(self, x: int) -> int:
            return self.weight * x

    assert Model().fit(2) == 6 and Model.fit(Model(), 2) == 6  # type: ignore[call-arg, arg-type]
    parcel = _travel.pack(Model().fit, [((2,), {})])
    outcome = call.run(parcel.function, parcel.arguments[0])
    assert outcome.error is None and _travel.unpack(outcome.blob, "it") == 6
    call.forget()


def test_options_become_what_is_asked_of_the_resource() -> None:
    asked = configured.options.submission("configured").to_json()
    assert asked["needs"] == {"cpus": 2, "memory": 3_000_000_000, "gpus": 0, "tags": []}
    assert (asked["timeout"], asked["name"], asked["tags"]) == (3600, "lr", {"k": "v"})
    assert asked["retries"] == {"failure": 2, "time": 0, "lost": 1, "memory": 0}
    assert asked["environ"] == {"A": "1", "B": None} and asked["directory"] == str(Path.cwd())
    assert asked["minor"] == _blobs.MINOR


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cpu": 2}, "cpu is no option of a job; there are version, cpus, memory"),
        ({"memory": "3 apples"}, "memory: '3 apples' is no size"),
        ({"timeout": "soon"}, "timeout: 'soon' is no duration"),
        ({"cpus": -1}, "cpus: -1 is no number from 0"),
        ({"gpus": 0.5}, "gpus: 0.5 is no whole number"),
        ({"retries": {"never": 1}}, "retries: 'never' is unknown; known are failure, time, lost, memory"),
        ({"cache": "always"}, "cache='always' is none of 'use', 'refresh', 'off', 'only'"),
        ({"environ": {"A": 1}}, "environ"),
        ({"queue": "A B"}, "queue: 'A B' is no name"),
    ],
    ids=lambda one: str(one)[:20],
)
def test_a_wrong_option_is_refused_where_it_is_written(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ports.job(**options)


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(UsageError, match=r"3 is no function; write @ports\.job above one"):
        ports.job(3)  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="3 is no job; give what submit"):
        ports.gather([3])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"map\(\) must have at least one iterable"):
        ports.map(two)
    with pytest.raises(IndexError, match="<JobMap 5 grid: 4 jobs> has no job 7"):
        _job.JobMap(JobId(5), 4, "grid")[7]
    with pytest.raises(UsageError, match="'bogus' is not the id of a job"):
        ports.jobs.get("bogus")


def test_a_function_of_a_module_is_pickled_by_its_name() -> None:
    assert pickle.loads(pickle.dumps(double)) is double

    @ports.job(cpus=3)
    def local(x: int) -> int:
        return local.options.cpus + x  # it refers to itself

    again = pickle.loads(cloudpickle.dumps(local))
    assert isinstance(again, JobFunction) and again.options == local.options and again(1) == 4


def test_a_job_is_pickled_as_its_id() -> None:
    job = Job("12.7", "fit")
    again = pickle.loads(pickle.dumps(job))
    assert again == job and hash(again) == hash(job) and (again.id, again.name) == ("12.7", "fit")
    many = pickle.loads(pickle.dumps(JobMap("12", 3, "fit")))
    assert [one.id for one in many] == ["12.0", "12.1", "12.2"] and many[-1].id == "12.2" and len(many[1:]) == 2
    assert repr(many) == "<JobMap 12 fit: 3 jobs>" and repr(job) == "<Job 12.7 fit>"
    with pytest.raises(IndexError):
        many[3]


def test_a_map_of_nothing_has_results_at_once() -> None:
    nothing = double.map([])
    assert len(nothing) == 0 and ports.gather(nothing) == [] and nothing.state == "finished"
    assert ports.gather([]) == []


def test_a_host_names_the_machine_of_jobs_and_of_ids_without_one() -> None:
    for name in (None, "localhost"):
        with ports.host(name):
            assert Job("12").host is None and Job("12").id == "12"
    with ports.host("server1"), ports.host("server2"):
        assert (Job("12").id, Job(12).host, Job("server1:12.7").id) == ("server2:12", "server2", "server1:12.7")
        assert JobMap("3", 2)[1].id == "server2:3.1" and JobMap("server1:3", 2)[1].host == "server1"
    assert Job("server1:12") != Job("12") and Job("localhost:12") == Job("12")
    again = pickle.loads(pickle.dumps(Job("server1:12", "fit")))
    assert (again.id, again.name) == ("server1:12", "fit") and again == Job("server1:12")
    for wrong in ("server1:", "server1:x", ":", "server1:12:", "12:", "12:"):
        with pytest.raises(UsageError, match="is not the id of a job"):
            Job(wrong)
    for odd in (7, "", b"server1"):
        with pytest.raises(UsageError, match="is no name of a host"):
            ports.host(odd)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="trust='yes' is neither True nor False"):
        ports.host("server1", trust="yes")  # type: ignore[arg-type]


def test_a_job_of_another_machine_is_no_argument(asked: Asked) -> None:
    for host, job, machines in [
        (None, "server1:7", "job server1:7 is of server1, and the function runs on this machine"),
        ("server2", "server1:7", "job server1:7 is of server1, and the function runs on server2"),
        ("server1", "localhost:7", "job 7 is of this machine, and the function runs on server1"),
    ]:
        with ports.host(host), pytest.raises(UnsendableError, match=machines):
            ports.submit(double, Job(job))
    with ports.host("server1"):
        found = ports.submit(double, Job("server1:7"))
    ((_, blobs, fields),) = asked.seen
    assert found.id == "server1:12" and fields["host"] == "server1" and fields["submission"]["inputs"] == {"0": ["7"]}
    assert fields["submission"]["directory"] is None
    outcome = call.run(blobs[0], blobs[1], {"7": _blobs.dump(21)})
    call.forget()
    assert _travel.read(outcome.blob, "it", "server1") == 42


# --- ends ---


def failed(make: Callable[..., BaseException], *args: Any) -> End:
    def fail() -> None:
        raise make(*args)

    parcel = _travel.pack(fail, [((), {})])
    outcome = call.run(parcel.function, parcel.arguments[0])
    call.forget()
    assert outcome.error
    return End("error", outcome.error, "", outcome.blob)


def test_an_exception_has_the_remote_traceback_as_its_cause() -> None:
    with pytest.raises(ZeroDivisionError, match="no") as caught:
        failed(ZeroDivisionError, "no").value(Job(12))
    assert isinstance(caught.value.__cause__, _job.RemoteTraceback)
    assert "job 12:\nTraceback" in str(caught.value.__cause__) and "raise make" in str(caught.value.__cause__)


def test_an_exception_that_cannot_come_is_a_job_error_with_its_text() -> None:
    class Awkward(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} and {two}")

    with pytest.raises(JobError, match="job 12 failed: Awkward: 1 and 2\n  Traceback") as caught:
        failed(Awkward, 1, 2).value(Job(12))
    assert caught.value.exit_code == 8


def test_an_exit_or_interrupt_of_a_job_does_not_end_the_caller() -> None:
    for kind in (SystemExit, KeyboardInterrupt, GeneratorExit):
        with pytest.raises(JobError, match=f"job 12 failed: {kind.__name__}: 3"):
            failed(kind, 3).value(Job(12))


def test_other_ends_have_errors_of_their_own() -> None:
    for state, kind, said in (
        ("cancelled", JobCancelledError, "job 3 was cancelled: dependency 2 failed"),
        ("lost", JobLostError, "job 3 was lost: dependency 2 failed"),
        ("error", JobError, "job 3 failed: dependency 2 failed"),
    ):
        with pytest.raises(kind, match=said):
            End(state, {}, "dependency 2 failed", b"").value(Job(3))
    with pytest.raises(UnsendableError, match="a lock"):
        End("error", {"type": "UnsendableError", "text": "a lock"}, "", b"").value(Job(3))
    with pytest.raises(JobError, match="exit status 3"):
        End("error", {"text": "exit status 3"}, "", b"").value(Job(3))


def test_a_result_of_another_minor_version_says_so() -> None:
    blob = _blobs.dump([1]).replace(f'"minor":"{_blobs.MINOR}"'.encode(), b'"minor":"3.99"')
    with pytest.raises(RecordError, match=r"the result of job 3 was pickled by Python 3\.99"):
        End("finished", {}, "", blob).value(Job(3))


# --- what is asked of the resource ---


class Asked:
    """Answers as a resource does, and keeps what it was asked."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, list[bytes], dict[str, Any]]] = []
        self.answers: dict[str, Frame] = {"submit": Frame({"id": "12", "count": None}, [])}

    def __call__(self, op: str, blobs: Any = (), **fields: Any) -> Frame:
        self.seen.append((op, list(blobs), fields))
        return self.answers[op]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Asked:
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    found = Asked()
    monkeypatch.setattr(_client, "ask", found)
    monkeypatch.setattr(_client, "python", lambda _=None: _blobs.MINOR)
    return found


def test_a_submission_has_a_key_and_its_inputs(asked: Asked) -> None:
    job = ports.submit(double, Job("7"))
    ((op, blobs, fields),) = asked.seen
    assert (op, job.id, job.name, len(blobs), fields["count"]) == ("submit", "12", "double", 2, None)
    assert len(fields["key"]) == 32 and fields["submission"]["inputs"] == {"0": ["7"]}
    outcome = call.run(blobs[0], blobs[1], {"7": _blobs.dump(21)})
    call.forget()
    assert _travel.unpack(outcome.blob, "it") == 42


def test_a_map_as_an_argument_is_the_list_of_its_results(asked: Asked) -> None:
    ports.submit(sum, JobMap("7", 3))
    ((_, blobs, fields),) = asked.seen
    assert fields["submission"]["inputs"] == {"0": ["7.0", "7.1", "7.2"]}
    outcome = call.run(blobs[0], blobs[1], {f"7.{number}": _blobs.dump(number) for number in range(3)})
    assert _travel.unpack(outcome.blob, "it") == 3


def test_to_another_python_of_the_resource_the_source_goes(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_client, "python", lambda _=None: "3.99")
    ports.submit(double, Job("7"))
    ((_, blobs, fields),) = asked.seen
    assert fields["submission"]["minor"] == "3.99" and fields["submission"]["inputs"] == {"0": ["7"]}
    outcome = call.run(blobs[0], blobs[1], {"7": _blobs.dump(21)})
    call.forget()
    assert _travel.unpack(outcome.blob, "it") == 42 and b'"how":"plain"' in outcome.blob
    with pytest.raises(UnsendableError, match=r"double\(\) cannot be sent to another version of Python: a object does"):
        ports.submit(double, object())  # type: ignore[arg-type]


def test_a_map_takes_iterables_as_python_s_map(asked: Asked) -> None:
    asked.answers["submit"] = Frame({"id": "3", "count": 2}, [])
    many = ports.map(lambda x, y: x + y, [1, 2], (10, 20, 30), name="night-1")
    ((_, blobs, fields),) = asked.seen
    assert (fields["count"], len(blobs), len(many), many.name) == (2, 3, 2, "night-1")
    assert fields["submission"]["name"] == "night-1" and [one.id for one in many] == ["3.0", "3.1"]


def test_cached_calls_have_keys_and_those_with_jobs_have_none(asked: Asked) -> None:
    cached = ports.job(cache="use", version="1")(double)
    cached.map([1, 1, Job("4")])
    cache = asked.seen[0][2]["submission"]["cache"]
    assert cache["policy"] == "use" and cache["keys"][0] == cache["keys"][1] and cache["keys"][2] is None
    assert cache["function"]["version"] == "1"
    ports.submit(double, 1)
    assert "cache" not in asked.seen[1][2]["submission"]


def test_too_much_at_once_is_refused_with_a_way_out(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_blobs, "LARGEST", 100_000)
    with pytest.raises(
        UsageError, match=r"the arguments of 3 jobs have .* together.*pass paths of files, or submit in"
    ):
        ports.map(double, [b"x" * 40_000] * 3)
    with pytest.raises(UnsendableError, match=r"the arguments of double\(\) have .*pass the path of a file"):
        ports.submit(double, b"x" * 200_000)
    monkeypatch.setattr(_api._model, "MOST_JOBS", 2)
    with pytest.raises(UsageError, match="3 jobs are too many for one map; submit up to 2 at once"):
        ports.map(double, [1, 2, 3])
    assert asked.seen == []


def test_importing_the_face_of_jobs_imports_no_tool() -> None:
    import subprocess

    code = "import ports.jobs, sys; print(sorted({'cloudpickle', 'dask', 'numpy', 'asyncio'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"


# --- what another machine sends ---


class Bomb:
    """Unpickled, it makes a file, as a hostile server would let it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_of_another_machine_is_not_loaded_unless_trusted(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for end in (
        End("finished", {}, "", _blobs.dump(Bomb(mark))),
        End("error", {"type": "Odd", "text": "no", "traceback": "tb"}, "", _blobs.dump(Bomb(mark))),
    ):
        with pytest.raises((UntrustedError, JobError)) as caught:
            end.value(Job("server1:12"))
        assert "server1" in str(caught.value) and not mark.exists()
    with ports.host("server1", trust=True):
        trusted = Job("12")
    End("finished", {}, "", _blobs.dump(Bomb(mark))).value(trusted)
    assert mark.exists()


def test_the_setting_trusts_one_host_only() -> None:
    end = End("finished", {}, "", _blobs.dump(Path("x")))
    ways = r"`with ports.host\('server2', trust=True\)` or the setting ports.hosts.server2.trust"
    with dask.config.set({"ports.hosts.server1.trust": True}):
        assert end.value(Job("server1:12")) == Path("x")
        with pytest.raises(UntrustedError, match=ways):
            end.value(Job("server2:12"))
    with pytest.raises(UntrustedError):
        end.value(Job("server1:12"))


def test_modules_that_another_machine_sends_are_not_imported(tmp_path: Path) -> None:
    text = f"open({str(tmp_path / 'mark')!r}, 'w')".encode()
    modules = [{"name": "sent_by_a_host", "file": "sent_by_a_host.py", "is_package": False}]
    blob = b"".join(_blobs.pieces(b"1", [text], how="plain", modules=modules))
    assert _travel.read(blob, "it", "server1") == 1
    with pytest.raises(ImportError):
        __import__("sent_by_a_host")


class OwnError(Exception):
    """Not of Python itself."""


def fails_in_its_own_way() -> None:
    raise OwnError("one and two")


def sent(function: Callable[..., Any], *args: Any) -> Any:
    """Return how a call ends that was submitted from another machine."""
    parcel = _travel.pack(function, [(args, {})], is_far=True)
    outcome = call.run(parcel.function, parcel.arguments[0])
    call.forget()
    return End(outcome.state, outcome.error or {}, "", outcome.blob)


def test_plain_results_and_errors_come_home_without_a_pickle() -> None:
    far = Job("server1:12")
    value = {"a": [1, 2.5, (None, b"x")], 3: {"s"}}
    assert sent(lambda: value).value(far) == value
    array = sent(lambda: numpy.arange(6.0).reshape(2, 3)).value(far)
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]] and array.flags.writeable
    with pytest.raises(ZeroDivisionError, match="division by zero") as caught:
        sent(lambda: 1 / 0).value(far)
    assert "1 / 0" in str(caught.value.__cause__) and "job server1:12" in str(caught.value.__cause__)
    with pytest.raises(JobError, match=r"job server1:12 failed: OwnError: one and two"):
        sent(fails_in_its_own_way).value(far)
    with pytest.raises(UntrustedError, match="the result of job server1:12 is no plain data"):
        sent(lambda: Path("x")).value(far)


@pytest.mark.parametrize("wait", ["result", "gather"])
def test_ctrl_c_in_a_wait_says_what_goes_on_in_a_few_lines(wait: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_client, "ask", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"goes on|go on") as caught:
        Job(12).result() if wait == "result" else ports.gather([Job(12)], progress=False)
    assert caught.value.__suppress_context__ and len(caught.traceback) <= 3  # of this test, and of one or two functions


def test_a_pickled_job_stays_the_job_of_its_machine() -> None:
    """Also where it is loaded below `ports.host`."""
    here, there = pickle.dumps(Job("12", "f")), pickle.dumps(Job("server2:3.1", "f"))
    many, all_there = pickle.dumps(JobMap("7", 3, "g")), pickle.dumps(JobMap("server2:7", 3, "g"))
    with ports.host("server1"):
        assert (pickle.loads(here).host, pickle.loads(here).id) == (None, "12")
        assert (pickle.loads(there).host, pickle.loads(there).id) == ("server2", "server2:3.1")
        assert (pickle.loads(many).host, len(pickle.loads(many)), pickle.loads(many).name) == (None, 3, "g")
        assert pickle.loads(all_there)[2].id == "server2:7.2"
    assert len(pickle.loads(pickle.dumps(JobMap(None, 0)))) == 0
    assert pickle.loads(here) == Job("12") and pickle.loads(there).name == "f"


def two(a: int, *, b: int = 1) -> int:
    return a + b


def of_another_signature(*args: int) -> int:
    return sum(args)


@pytest.mark.parametrize(
    ("submitted", "says"),
    [
        (lambda: ports.submit(two), r"two\(\): missing a required argument: 'a'"),
        (lambda: ports.submit(two, 1, 2), r"two\(\): too many positional arguments"),
        (lambda: ports.submit(two, 1, c=2), r"two\(\): got an unexpected keyword argument 'c'$"),
        (
            lambda: ports.submit(two, 1, memory="3XB"),
            r"unexpected keyword argument 'memory'; memory of the job is given to @ports\.job\(memory=\.\.\.\)",
        ),
        (lambda: double.submit(), r"double\(\): missing a required argument: 'x'"),
        (lambda: ports.map(two, [1, 2], [3, 4]), r"two\(\): too many positional arguments"),
    ],
)
def test_arguments_that_a_function_does_not_take_are_refused_at_once(submitted: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        submitted()


def test_only_what_is_sure_of_a_signature_refuses_a_call() -> None:
    shown = functools.wraps(two)(of_another_signature)  # takes what `two` does not
    for function, args, kwargs in (
        (shown, (1, 2, 3), {}),
        (two, (1,), {"b": 2}),
        (two, (Job(1),), {}),
        (max, (1, 2), {}),
        (dict, (), {"a": 1}),
        (functools.partial(two, 1), (1, 2), {}),
    ):
        _api.check_call(function, args, kwargs)


@pytest.mark.parametrize("called", ["submit", "map", "result", "get", "gather"])
def test_an_error_shows_few_frames_of_ports(called: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object, **__: object) -> None:
        raise RecordError("no way") from OSError("inner")

    for name in ("ask", "look", "python"):
        monkeypatch.setattr(_client, name, lost)
    calls: dict[str, Callable[[], Any]] = {
        "submit": lambda: ports.submit(two, 1),
        "map": lambda: ports.map(two, [1]),
        "result": lambda: Job(1).result(),
        "get": lambda: ports.jobs.get("1"),
        "gather": lambda: ports.gather([Job(1)], progress=False),
    }
    with pytest.raises(RecordError, match="no way") as caught:
        calls[called]()
    assert len(caught.traceback) <= 3  # of this test, of its lambda, and one
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_the_traceback_of_a_job_stays_the_cause_of_its_error() -> None:
    def failed() -> None:
        raise RecordError("of the job") from _job.RemoteTraceback("where it ran")

    with pytest.raises(RecordError) as caught:
        _job.brief(failed)()
    assert isinstance(caught.value.__cause__, _job.RemoteTraceback)


def test_an_error_of_another_machine_names_it_and_how_to_ask_it() -> None:
    def asked() -> None:
        error = NotFoundError("job", "9", "`ports job list` shows what there is")
        error.where = "server1"
        raise error

    def reached() -> None:
        error = NetworkError("server1", "no route to host")
        error.where = "server1"
        raise error

    says = "server1: no job '9'; `ports job list -H server1` shows what there is"
    for _ in range(2):  # also where one such call makes another
        with pytest.raises(NotFoundError) as caught:
            _job.brief(_job.brief(asked))()
        assert str(caught.value) == str(pickle.loads(pickle.dumps(caught.value))) == says
    with pytest.raises(NetworkError, match=r"^server1: no route to host"):
        _job.brief(reached)()


@pytest.mark.parametrize(
    ("error", "is_forgotten"),
    [
        (UsageError("this job can never run here"), True),
        (NotFoundError("job", "9", "it is gone"), True),
        (NetworkError("server1", "the answer was lost"), False),
    ],
    ids=["refused", "unknown", "lost"],
)
def test_files_of_a_call_that_is_refused_are_let_go(
    error: Exception, is_forgotten: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was lost on the way can have arrived: its files stay."""
    asked: list[str] = []
    monkeypatch.setattr(_client, "ask", lambda op, *_, **__: asked.append(op))
    monkeypatch.setattr(_sending, "keep", lambda *_, **__: None)
    with pytest.raises(type(error)), _api._kept("server1", "ab" * 16, {"digest": b"content"}):
        raise error
    assert asked == ["disk.forget"] * is_forgotten
