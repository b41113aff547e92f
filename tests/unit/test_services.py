"""What a target opens of what a probe found."""

from __future__ import annotations

from typing import Any

import pytest

from ports import listeners
from ports.errors import ForeignListenerError, NotFoundError
from ports.hosts.targets import Target, parse
from ports.tunnels import _services
from ports.tunnels._services import Service
from ports.tunnels._tunnel import Tunnel


def row(port: int, *, uid: int = 1, user: str = "alice", **more: Any) -> dict[str, Any]:
    """Return a row of the probe."""
    found: dict[str, Any] = {"family": "tcp", "address": "127.0.0.1", "port": port, "path": None, "uid": uid}
    found.update(user=user, kind="listener", open_to_network=False, pid=7, http=None, scheme="http", url_path="")
    if uid == 1:
        found.update(argv=["x"], cwd="/home/alice", started_at=1.0)
    return {**found, **more}


def document(*rows: dict[str, Any]) -> dict[str, Any]:
    """Return the answer of a probe."""
    return {
        "host": "far",
        "machine_id": "m",
        "boot_id": "b",
        "user": "alice",
        "uid": 1,
        "listeners": list(rows),
        "clusters": [],
        "notebooks": [],
    }


def choose(target: str, *rows: dict[str, Any], owner: str | None = None) -> list[Service]:
    """Return what `target` opens."""
    found = document(*rows)
    return _services.choose(found, listeners.from_probe(found, "far"), parse(target), owner=owner)


LAB = row(8888, kind="notebook", http=True, root="/home/alice/thesis", token="secret", url_path="lab")


def test_a_host_opens_notebooks_and_clusters_and_leaves_the_rest() -> None:
    dask = [row(8786, kind="dask-scheduler", of="dask:7", http=False)]
    dask.append(row(8787, kind="dask-scheduler", of="dask:7", http=True, url_path="status", address="0.0.0.0"))
    found = choose("far", LAB, *dask, row(5432, kind="database"), row(6006, kind="tensorboard", http=True))
    assert [(one.kind, one.remote, one.path) for one in found] == [
        ("notebook", "127.0.0.1:8888", "lab"),
        ("dask-scheduler", "127.0.0.1:8787", "status"),
    ]


def test_a_host_opens_the_page_of_a_job_and_not_its_other_ports() -> None:
    board = row(6006, kind="tensorboard", http=True, job="12")
    rendezvous, hub = row(29500, http=None, job="12"), row(8000, http=True, job="12", hub=True)
    (found,) = choose("far", board, rendezvous, hub, row(6007, kind="tensorboard", http=True))
    assert (found.kind, found.name, found.remote, found.key) == ("tensorboard", "job-12", "127.0.0.1:6006", "port-6006")
    (by_name,) = choose("far:job-12-29500", board, rendezvous)
    assert by_name.remote == "127.0.0.1:29500"


def test_a_name_and_its_port_mean_the_same_link() -> None:
    by_name, by_port = choose("far:thesis", LAB), choose("far:8888", LAB)
    assert by_name == by_port
    assert by_name[0].key == "notebook-thesis" and by_name[0].token == "secret"
    assert "secret" not in repr(by_name[0])


def test_another_users_port_is_opened_for_a_named_owner_only() -> None:
    theirs = row(6006, uid=2, user="bob")
    with pytest.raises(ForeignListenerError, match="far:6006 belongs to bob"):
        choose("far:6006", theirs)
    with pytest.raises(ForeignListenerError):
        choose("far:6006", theirs, owner="carol")
    assert "belongs to bob" in str(choose("far:6006", theirs, owner="bob")[0].note)


def test_ones_own_listener_wins_over_another_users_on_the_same_port() -> None:
    mine = row(6006, address="::1", family="tcp6")
    found = choose("far:6006", row(6006, uid=2, user="bob"), mine)
    assert (found[0].remote, found[0].note) == ("[::1]:6006", None)


def test_what_takes_a_request_for_something_else_is_not_asked() -> None:
    assert not choose("far:8786", row(8786, kind="dask-scheduler", http=False))[0].asked
    assert not choose("far:5432", row(5432, kind="database"))[0].asked
    assert choose("far:6006", row(6006))[0].asked


def test_what_is_not_there_is_told_with_what_is() -> None:
    with pytest.raises(NotFoundError, match="there is thesis"):
        choose("far:other", LAB)
    with pytest.raises(NotFoundError, match="no cluster or notebook server of yours runs on far"):
        choose("far:other")
    with pytest.raises(NotFoundError, match="`ports list far --all`"):
        choose("far:1", LAB)


def test_what_is_there_beside_a_wrong_name_is_counted() -> None:
    with pytest.raises(NotFoundError, match=r"there is thesis$"):
        choose("far:other", LAB)
    with pytest.raises(NotFoundError, match=r"there are atlas, thesis$"):
        choose("far:other", LAB, {**LAB, "port": 8889, "root": "/home/alice/atlas"})


def test_an_error_about_a_stopped_name_shows_how_to_start_it() -> None:
    found = {**document(LAB), "ports": {"version": "1"}}  # `ports cluster stop` has removed its record
    named = listeners.from_probe(found, "far")
    with pytest.raises(NotFoundError, match="there is thesis; `ports cluster start main -H far` starts a cluster"):
        _services.choose(found, named, Target("far", "main"))
    with pytest.raises(NotFoundError, match=r"there is thesis$"):  # no name for a start
        _services.choose(found, named, Target("far", "My Thesis"))


def test_a_link_whose_record_went_starts_again_with_the_same_options() -> None:
    who = {"machine": "m", "boot_id": "b", "pid_namespace": "n", "pid": 7, "start_ticks": 1}
    record = {"started_by": who, "created_at": 1.0, "root": "/data", "token_file": "/t", "asked": ["--root=/data"]}
    running = {"process": who, "port": 8888, "base_url": "/", "url_path": "lab", "token_file": "/t"}
    lab = {"name": "lab", "record": record, "running": running, "exit": None, "alive": True}
    there = {**document({**LAB, "of": "notebook:lab", "pid": 7}), "notebooks": [lab], "pid_namespace": "n"}
    [open_] = _services.choose(there, listeners.from_probe(there, "far"), Target("far", "lab"))
    assert "`ports notebook start lab --root=/data -H far` starts it" in str(_services.ended(open_, {}, []))


def test_a_hint_for_this_machine_names_no_host() -> None:
    lost = _services.ended(Service("localhost", "cluster", "main", "cluster-main", "m", "alice", "/x"), {}, [])
    assert "`ports cluster start main` starts it" in str(lost)
    far = _services.ended(Service("far", "cluster", "main", "cluster-main", "m", "alice", "/x"), {}, [])
    assert "`ports cluster start main -H far` starts it" in str(far)


def test_a_stopped_cluster_is_told_with_the_command_that_starts_it() -> None:
    found = document()
    record = {"format": 1, "kind": "cluster", "name": "main", "created_at": 1.0}
    found["clusters"] = [
        {"name": "main", "record": record, "running": None, "exit": {"format": 1, "status": 3}, "alive": None}
    ]
    named = listeners.from_probe(found, "far")
    with pytest.raises(NotFoundError, match=r"stopped \(exit status 3\); `ports cluster start main -H far`"):
        _services.choose(found, named, Target("far", "main"))


def test_a_page_opens_by_its_name_with_a_link_that_shares_no_cookie() -> None:
    page = {**row(0, family="unix", kind="page", http=True, path="/tmp/p/page-7.sock"), "port": None}
    assert choose("far", page, LAB)[0].kind == "notebook", "it is opened by its name only"
    (service,) = choose("far:page", page, LAB)
    assert (service.key, service.remote, service.is_unix) == ("page-page", "/tmp/p/page-7.sock", True)
    made = Tunnel("far", "page", "page", state="open", service=service, local_port=21001)
    assert made.url == "http://127.0.0.1:21001/"
    (lab,) = choose("far", LAB)
    assert "//localhost:" in str(Tunnel("far", "notebook", "lab", state="open", service=lab, local_port=21002).url)
