"""Which of several machines gets a job: what follows from what they say, and that it goes to one of them only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

import ports
from ports.errors import ConnectionLostError, FarSideError, NetworkError, PortsError, UsageError
from ports.jobs import _afar, _client, _model, _several, _where
from ports.jobs._job import Job, JobMap
from ports.jobs._model import JobId, Needs
from ports.jobs._scripts import Script, describe

GIB = 2**30


def status(waiting: int = 0, running: int = 0, free: float = 4, gpus: int = 0, **rest: Any) -> dict[str, Any]:
    has = {"cpus": 4, "memory": 16 * GIB, "gpus": list(range(2)), "tags": []}
    left = {"cpus": free, "memory": 8 * GIB, "gpus": list(range(gpus))}
    return {"capacity": has, "free": left, "counts": {"pending": waiting, "running": running}, **rest}


def taken(waiting: int = 0, running: int = 0, gpus: int = 0, memory: int = 8 * GIB) -> dict[str, Any]:
    """A machine of which other users leave so much."""
    rest = {"cpus": 4, "memory": memory, "gpus": list(range(gpus))}
    return status(waiting, running, gpus=gpus, without_jobs=rest)


LOST = NetworkError("gpu2", "no route to host")


@pytest.mark.parametrize(
    ("told", "needs", "says", "rank"),
    [
        (status(), Needs(cpus=2), "starts at once", _several.AT_ONCE),
        (status(free=1), Needs(cpus=2), "full, nothing waits", _several.LATER),
        (status(waiting=3), Needs(), "full, 3 jobs wait", _several.LATER),
        (status(waiting=1), Needs(), "full, 1 job waits", _several.LATER),
        (status(gpus=0), Needs(gpus=1), "full, nothing waits", _several.LATER),
        (status(gpus=1), Needs(gpus=1), "starts at once", _several.AT_ONCE),
        (status(), Needs(memory=12 * GIB), "full, nothing waits", _several.LATER),
        (status(), Needs(gpus=3), "can never run it: it needs 3 gpus, and this resource has 2", _several.NEVER),
        (taken(), Needs(gpus=1), "other users have what it needs, nothing waits", _several.AFTER_OTHERS),
        (taken(waiting=2), Needs(memory=9 * GIB), "other users have what it needs, 2 jobs wait", _several.AFTER_OTHERS),
        (taken(waiting=2, gpus=2), Needs(gpus=1), "full, 2 jobs wait", _several.LATER),
        (status(draining=True), Needs(), "it drains, nothing waits", _several.NOT_NOW),
        ({"has_ports": True}, Needs(), "no compute resource runs yet", _several.AFTER_A_START),
        ({"has_ports": False}, Needs(), "no compute resource runs yet", _several.AFTER_A_START),
        (LOST, Needs(), "left out: ", _several.NEVER),
    ],
)
def test_a_machine_says_when_a_job_would_begin(
    told: Mapping[str, Any] | PortsError, needs: Needs, says: str, rank: int
) -> None:
    found = _several.offer("gpu2", told, needs)
    assert found.says.startswith(says) and found.rank[0] == rank and str(found).count("gpu2:") == 1


def test_a_script_for_all_cores_starts_only_where_all_are_free() -> None:
    assert _several.offer("gpu1", status(free=3), Needs(is_whole=True)).rank[0] == _several.LATER
    assert _several.offer("gpu1", status(free=4), Needs(is_whole=True)).rank[0] == _several.AT_ONCE


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What each machine says of itself."""
    found: dict[str, Any] = {}

    def asked(name: str) -> dict[str, Any]:
        if isinstance(found[name], PortsError):
            raise found[name]
        return dict(found[name])

    monkeypatch.setattr(_several, "_status", asked)
    return found


@pytest.mark.parametrize(
    ("statuses", "order"),
    [
        ([status(waiting=3), status()], ["gpu2", "gpu1"]),
        ([status(), status()], ["gpu1", "gpu2"]),
        ([status(waiting=3), status(waiting=2, running=4)], ["gpu1", "gpu2"]),
        ([status(waiting=3, running=1), status(waiting=2, running=1)], ["gpu2", "gpu1"]),
        ([{"has_ports": True}, status()], ["gpu2", "gpu1"]),
        ([status(waiting=1), {"has_ports": True}], ["gpu2", "gpu1"]),
        ([{"has_ports": False}, {"has_ports": True}], ["gpu2", "gpu1"]),
        ([status(draining=True), status(waiting=99)], ["gpu2", "gpu1"]),
        ([LOST, status(waiting=99)], ["gpu2", "gpu1"]),
    ],
)
def test_the_machine_that_begins_first_is_the_first(
    statuses: Sequence[Any], order: list[str], told: dict[str, Any]
) -> None:
    told |= dict(zip(("gpu1", "gpu2"), statuses, strict=True))
    assert [one.host for one in _several.offers(["gpu1", "gpu2"], Needs())] == order


@pytest.mark.parametrize(
    ("bobs", "own"),
    [
        (taken(), status(waiting=1, gpus=2)),
        (taken(), status(waiting=9, running=4)),
        (taken(running=1), status(waiting=9, running=4)),
        (taken(waiting=1), taken(waiting=0)),
    ],
)
def test_a_machine_whose_gpus_another_user_has_comes_after_those_with_jobs(
    bobs: Any, own: Any, told: dict[str, Any]
) -> None:
    """Own jobs end; what another user does can take for ever, though nothing waits there."""
    told |= {"gpu1": bobs, "gpu2": own}
    assert [one.host for one in _several.offers(["gpu1", "gpu2"], Needs(gpus=1))] == ["gpu2", "gpu1"]


def test_machines_of_which_none_can_run_a_job_are_all_named(told: dict[str, Any]) -> None:
    told |= {"gpu1": LOST, "gpu2": LOST}
    with pytest.raises(NetworkError, match=r"none of them is reached. gpu1: left out: .*; gpu2: left out: "):
        _several.offers(["gpu1", "gpu2"], Needs())
    told["gpu1"] = status()
    with pytest.raises(
        UsageError, match=r"none of gpu1, gpu2 can run this job: gpu1: can never run it: it needs 9 gpus"
    ):
        _several.offers(["gpu1", "gpu2"], Needs(gpus=9))


class Submitted:
    """What machines do with a script, in place of sending it there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **raised: PortsError) -> None:
        self.hosts: list[str] = []
        taken = self

        def submit_script(self: _afar.Afar, script: Script, **_: Any) -> str:
            taken.hosts.append(self.host)
            if self.host in raised:
                raise raised[self.host]
            return f"{self.host}:7"

        monkeypatch.setattr(_afar.Afar, "submit_script", submit_script)


def test_a_script_goes_to_the_free_machine_and_it_is_said_why(
    told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told |= {"gpu1": status(waiting=3), "gpu2": status(), "gpu3": LOST}
    taken, said = Submitted(monkeypatch), list[str]()
    machine = ports.jobs.at("gpu1,gpu2,gpu3")
    assert machine.submit_script(describe(["true"], cpus=1, is_far=True), said=said.append) == "gpu2:7"
    assert taken.hosts == ["gpu2"]
    assert said[0].startswith("gpu2: starts at once; gpu1: full, 3 jobs wait; gpu3: left out: ")


def test_a_script_whose_answer_is_lost_goes_to_no_other_machine(
    told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told |= {"gpu1": status(), "gpu2": status()}
    taken = Submitted(monkeypatch, gpu1=ConnectionLostError("gpu1", "the connection was lost"))
    with pytest.raises(ConnectionLostError):
        ports.jobs.at("gpu1,gpu2").submit_script(describe(["true"], cpus=1, is_far=True))
    assert taken.hosts == ["gpu1"]


def test_a_script_that_a_machine_refuses_goes_to_the_next(
    told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told |= {"gpu1": {"has_ports": True}, "gpu2": status(waiting=1)}
    taken, said = Submitted(monkeypatch, gpu1=UsageError("this job can never run here")), list[str]()
    assert ports.jobs.at("gpu1,gpu2").submit_script(describe(["true"], is_far=True), said=said.append) == "gpu2:7"
    assert taken.hosts == ["gpu1", "gpu2"]
    assert said == ["gpu2: full, 1 job waits; gpu1: left out: this job can never run here"]


def test_a_script_that_all_machines_refuse_says_why_each_did(
    told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told |= {"gpu1": {"has_ports": True}, "gpu2": status()}
    Submitted(monkeypatch, gpu1=FarSideError("gpu1", "no ports there"))
    with pytest.raises(
        UsageError, match=r"none of gpu1, gpu2 can run this job: gpu1: .*no ports there; gpu2: can never"
    ):
        ports.jobs.at("gpu1,gpu2").submit_script(describe(["true"], gpus=9, is_far=True))


@pytest.mark.parametrize("names", ["gpu1,gpu2", ["gpu1", "gpu2"], ("gpu1", "gpu2", "gpu1")])
def test_functions_go_to_the_free_one_of_several_machines(
    names: Any, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told |= {"gpu1": status(free=1), "gpu2": status()}
    monkeypatch.setattr(_client, "connection", lambda _: None)
    with ports.host(names, trust=True):
        with _several.chosen(Needs(cpus=2)) as where:
            assert (where.host, where.trust, _where.current.get().host) == ("gpu2", True, "gpu2")
        assert _where.current.get().among == ("gpu1", "gpu2")
        with pytest.raises(UsageError, match="job 12 can be of gpu1 or gpu2; write gpu1:12"):
            ports.jobs.get("12")


def test_a_job_of_one_of_several_machines_knows_which_has_it() -> None:
    with ports.host("gpu1,gpu2"):
        job = Job(JobId(7), "fit", _where.Where("gpu2"))
        jobs = JobMap(JobId(8), 3, "fit", _where.Where("gpu1"))
        assert (job.id, job.host, jobs.id) == ("gpu2:7", "gpu2", "gpu1:8")
        assert [one.id for one in jobs] == ["gpu1:8.0", "gpu1:8.1", "gpu1:8.2"]
        assert [JobMap(None, 0).id, len(JobMap(None, 0))] == ["", 0]


def test_jobs_of_several_machines_are_listed_of_one_that_is_named() -> None:
    with ports.host("gpu1,gpu2"), pytest.raises(UsageError, match="one of gpu1, gpu2"):
        ports.jobs.list()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("gpu1,,gpu2", "'' is no name of a host"),
        (["gpu1", 3], "3 is no name of a host"),
        (["gpu1", None], "this machine cannot be one of several hosts"),
    ],
)
def test_what_names_no_machines_is_refused(names: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ports.host(names)


NEEDS_64 = "it needs 64 cpus, and this resource has 4"


def test_a_refusal_after_a_start_has_the_words_of_one_before(
    told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without a resource is started for a job, and only then knows what it has."""
    told |= {"gpu1": {"has_ports": True}, "gpu2": status()}
    Submitted(monkeypatch, gpu1=_model.never(NEEDS_64))
    with pytest.raises(UsageError) as caught:
        _several.Several(["gpu1", "gpu2"]).submit_script(describe(["true"], cpus=64, is_far=True))
    assert str(caught.value) == (
        f"none of gpu1, gpu2 can run this job: gpu1: can never run it: {NEEDS_64}; gpu2: can never run it: {NEEDS_64}; "
        "ask for less, or submit it to another machine"
    )


def test_a_job_among_the_arguments_decides_which_machine_gets_the_next(
    told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told |= {"gpu1": status(), "gpu2": status()}
    monkeypatch.setattr(_client, "connection", lambda host: None)
    there = Job("gpu2:12", "f")
    with ports.host(["gpu1", "gpu2"]):
        for arguments in ([there], [{"deep": [(there, 1)]}], [JobMap(None, 0), [there]]):
            with _several.chosen(Needs(), [(arguments, {})]) as where:
                assert where.host == "gpu2"
        with _several.chosen(Needs(), [([1], {"x": Job("elsewhere:3")})]) as where:
            assert where.host == "gpu1"  # the job is refused when it is sent
        both = [([there, Job("gpu1:3")], {})]
        says = r"jobs of gpu1 and gpu2 are among the arguments"
        with pytest.raises(UsageError, match=says), _several.chosen(Needs(), both):
            pass
