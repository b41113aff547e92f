"""How what a probe found becomes listeners, each with a name."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ports.listeners._from_probe import from_probe, slug
from ports.listeners._listener import Listener
from ports.state.paths import NAME

SECRET = "0123secret"
PROCESS = {"machine": "m", "boot_id": "b", "pid_namespace": "pid:[1]", "pid": 50, "start_ticks": 9}


def row(**known: Any) -> dict[str, Any]:
    usual = {"family": "tcp", "address": "127.0.0.1", "port": 8000, "path": None, "uid": 7, "user": "alice", "pid": 100}
    usual |= {"started_at": 5.0, "argv": ["python", "app.py"], "cwd": "/data", "open_to_network": False}
    return usual | {"kind": "listener", "http": None, "scheme": "http", "url_path": ""} | known


def notebook(root: str, **known: Any) -> dict[str, Any]:
    return row(**{"kind": "notebook", "root": root, "token": SECRET, "password": False, "http": True} | known)


def session(name: str, **known: Any) -> dict[str, Any]:
    record = {"format": 1, "directory": "/work", "created_at": 1.0, "launcher": PROCESS}
    running = {"format": 1, "process": PROCESS, "started_at": 2.0}
    return {"name": name, "record": record, "running": running, "exit": None, "alive": True} | known


def document(*rows: dict[str, Any], **known: Any) -> dict[str, Any]:
    usual = {"host": "server1", "machine_id": "m", "boot_id": "b", "user": "alice", "uid": 7, "warnings": []}
    return usual | {"listeners": [*rows], "clusters": [], "notebooks": []} | known


def one(*rows: dict[str, Any], **known: Any) -> Listener:
    (found,) = from_probe(document(*rows, **known))
    return found


def test_ipv4_and_ipv6_are_one_listener_that_shows_its_open_address() -> None:
    found = one(row(), row(family="tcp6", address="::", open_to_network=True))
    assert (found.port, found.address, found.open_to_network) == (8000, "::", True)
    assert found.row()["open_to_network"] is True


def test_a_cluster_with_all_its_ports_is_one_row_at_its_dashboard() -> None:
    of = "cluster:main"
    found = one(
        row(of=of, kind="cluster", port=40001, pid=50),
        row(of=of, kind="cluster", port=40002, pid=51),
        row(of=of, kind="cluster", family="unix", address="/s/d.sock", path="/s/d.sock", port=None, url_path="status"),
        clusters=[session("main")],
    )
    assert (found.kind, found.name, found.state, found.managed) == ("cluster", "main", "running", True)
    assert (found.path, found.port, found.url_path, found.url) == ("/s/d.sock", None, "status", None)
    assert (found.pid, found.directory, found.started_at) == (50, "/work", 2.0)


@pytest.mark.parametrize(("ended_at", "stopped_at"), [(900.0, 900.0), (0.0, None)])
def test_a_listing_knows_when_a_session_stopped(ended_at: float, stopped_at: float | None) -> None:
    found = one(clusters=[session("main", alive=False, exit={"format": 1, "status": 0, "ended_at": ended_at})])
    assert (found.state, found.row()["stopped_at"]) == ("stopped", stopped_at)
    assert one(clusters=[session("main")]).row()["stopped_at"] is None


def test_what_all_ports_of_a_cluster_give_away_is_in_its_row() -> None:
    of = {"of": "cluster:main", "kind": "cluster"}
    found = one(
        row(**of, port=None, path="/s/d.sock", exposed=[]),
        row(**of, address="0.0.0.0", port=40001, pid=50, open_to_network=True, exposed=["network"]),
        clusters=[session("main")],
    )
    assert found.open_to_network and found.path == "/s/d.sock"
    assert found.warnings[0].startswith("open to the network (port 40001); `ports cluster stop main` ends it")


def test_what_a_task_opened_has_a_row_of_its_own_with_its_warning() -> None:
    found = from_probe(
        document(
            row(of="cluster:main", kind="cluster", path="/s/d.sock", port=None, exposed=[]),
            row(task_of="main", address="0.0.0.0", port=46507, pid=51, open_to_network=True, exposed=["network"]),
            clusters=[session("main")],
        )
    )
    cluster, opened = found
    assert (cluster.kind, cluster.open_to_network, cluster.exposed) == ("cluster", False, ())
    assert (opened.kind, opened.port, opened.reason) == ("listener", 46507, "a task of cluster 'main' opened it")
    assert opened.warnings == (
        "open to the network (port 46507); end the task of cluster 'main' that opened it, "
        "and make it listen on 127.0.0.1 only",
    )


def test_a_notebook_server_of_ports_is_one_row_without_its_kernels() -> None:
    found = one(
        notebook("/work", of="notebook:lab", url_path="lab"),
        row(kind="kernel", port=9001, pid=101),
        notebooks=[session("lab", token=SECRET)],
    )
    assert (found.name, found.port, found.url, found.token) == ("lab", 8000, "http://localhost:8000/lab", SECRET)


def test_a_running_process_without_its_page_is_told() -> None:
    found = one(clusters=[session("main")])
    assert (found.state, found.path) == ("running", None) and "does not answer" in str(found.reason)


def test_what_does_not_run_says_why() -> None:
    dead = {"alive": False}
    old = {**PROCESS, "boot_id": "before"}
    states = {
        "killed": (session("a", **dead), "stopped", "killed"),
        "restarted": (session("b", **dead, running={"process": old}), "stopped", "restarted"),
        "failed": (session("c", **dead, exit={"format": 1, "status": 3}), "stopped", "exit status 3"),
        "starting": (session("d", running=None), "starting", ""),
        "interrupted": (session("e", running=None, record={"format": 1}, **dead), "stopped", "interrupted"),
        "elsewhere": (session("f", alive=None), "unknown", "another machine"),
        "broken": (
            {"name": "g", "error": "record x has format 9", "newer": True, "alive": None},
            "unknown",
            "format 9",
        ),
    }
    for found, (_, state, reason) in zip(
        from_probe(document(clusters=[known for known, _, _ in states.values()])), states.values(), strict=True
    ):
        assert found.state == state and reason in (found.reason or ""), found


def test_a_dask_started_by_hand_is_one_listener_at_its_dashboard() -> None:
    of = "dask:100"
    found = one(
        row(kind="dask-scheduler", of=of, port=8786, http=False),
        row(kind="dask-worker", of=of, port=40001, pid=101, http=True, url_path="status"),
        row(kind="dask-scheduler", of=of, port=8787, http=True, url_path="status"),
    )
    assert (found.kind, found.port, found.url) == ("dask-scheduler", 8787, "http://localhost:8787/status")


def test_other_users_listeners_have_a_port_and_an_owner_only() -> None:
    theirs = {"family": "tcp", "address": "0.0.0.0", "path": None, "port": 8888, "uid": 8, "user": "bob"}
    found = one({**theirs, "open_to_network": True, "kind": "listener"})
    assert (found.mine, found.owner, found.name, found.pid, found.url) == (False, "bob", None, None, None)


def test_a_token_is_neither_in_the_text_nor_in_the_row() -> None:
    found = one(notebook("/work"))
    assert found.token == SECRET and SECRET not in repr(found) + json.dumps(found.row())


def test_a_notebook_server_that_asks_for_nothing_is_warned_of() -> None:
    [warning] = one(notebook("/work", token="", exposed=["token"])).warnings
    assert warning.startswith(
        "it asks for no token or password, so anyone on this machine can run code as you; stop it"
    )
    assert one(notebook("/work", token="", password=True, exposed=[])).warnings == ()


def test_a_debugger_that_waits_is_warned_of() -> None:
    [warning] = one(row(kind="debugpy", pid=7, exposed=["debugger"])).warnings
    assert warning.startswith(
        "while this debug port is open and no debugger is attached, anyone on this machine can run code as you; "
        "restart the kernel"
    )
    assert warning.endswith("stop it where it was started (process 7)")


def test_what_others_can_use_is_in_the_row_with_the_way_to_close_it() -> None:
    of, kind = "dask:100", "dask-scheduler"
    found = one(
        row(kind=kind, of=of, port=8786, http=False, exposed=["dask"]),
        row(kind="dask-worker", of=of, port=40001, pid=101, exposed=["dask"]),
        row(kind=kind, of=of, port=8787, http=True, address="0.0.0.0", open_to_network=True, exposed=["network"]),
    ).row()
    assert [one["reason"] for one in found["exposed"]] == ["dask", "network"]
    assert found["exposed"][0]["way_out"].endswith(
        "(`cluster.close()`, SHUTDOWN in its pane; process 100), `ports.client()` starts a cluster that is private"
    )
    assert found["warnings"][1].startswith("open to the network (port 8787); ")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["python", "-m", "ipykernel_launcher", "-f", "k.json"], "process 100, which is the kernel"),
        (["python", "/opt/bin/jupyter-lab"], "process 100, which is the notebook server"),
        (["python", "analysis.py"], "process 100)"),
    ],
)
def test_nobody_is_told_to_kill_a_kernel_or_server_for_the_cluster_in_it(argv: list[str], said: str) -> None:
    found = one(row(kind="dask-scheduler", of="dask:100", port=8786, argv=argv, exposed=["dask"]))
    assert said in found.exposed[0].hint


def test_a_server_is_told_of_its_own_kernels_only() -> None:
    known = {"kind": "kernel", "exposed": ["kernel"]}
    kernels = [row(port=9001, pid=101, of="server:100", **known), row(port=9002, pid=201, of=None, **known)]
    first, second = notebook("/a", exposed=[]), notebook("/b", port=8001, pid=200, exposed=[])
    told = {found.port: found.warnings for found in from_probe(document(first, second, *kernels))}
    assert len(told[8000]) == 1 and "KernelManager.transport=ipc" in told[8000][0] and told[8001] == ()


def test_of_another_user_s_listener_nothing_is_told() -> None:
    theirs = {"family": "tcp", "address": "0.0.0.0", "path": None, "port": 8888, "uid": 8, "user": "bob"}
    assert one({**theirs, "open_to_network": True, "kind": "listener"}).warnings == ()


def test_control_characters_and_broken_text_do_not_reach_a_terminal() -> None:
    found = one(row(cwd="/data/\x1b]0;x\x07\udcff", address="::1\x1b"), host="\x1bserver1").row()
    assert json.dumps(found, ensure_ascii=False).encode()
    assert "\x1b" not in f"{found['directory']}{found['address']}{found['host']}"


def test_of_two_servers_of_one_name_the_older_keeps_the_plain_name() -> None:
    first, second = notebook("/a/analysis", started_at=1.0), notebook("/b/analysis", port=8001, started_at=2.0)
    names = {found.port: found.name for found in from_probe(document(second, first))}
    assert names[8000] == "analysis" and re.fullmatch(r"analysis-x[0-9a-f]{4}", str(names[8001]))
    elsewhere = {found.port: found.name for found in from_probe(document({**second, "port": 8002}, first))}
    assert elsewhere[8002] == names[8001]  # it follows from the directory, not from the port


def test_what_a_job_opens_is_called_after_it() -> None:
    rows = [row(job="12", kind="tensorboard", http=True), row(job="12", port=8001, pid=101, started_at=9.0)]
    found = from_probe(document(*rows, row(job="7.3", port=8002, pid=102)))
    assert [(one.name, one.job, one.port) for one in found if one.job == "12"] == [
        ("job-12", "12", 8000),
        ("job-12-8001", "12", 8001),
    ]
    (of_map,) = [one for one in found if one.job == "7.3"]
    assert (of_map.name, of_map.row()["job"]) == ("job-7-3", "7.3")


@pytest.mark.parametrize("job", ["", "x", "0", "1.", "../1", "1\x1b", "9" * 40, 12, None, ["1"]], ids=repr)
def test_a_job_that_is_none_gives_no_name(job: Any) -> None:
    found = one(row(job=job))
    assert (found.name, found.job) == ("app", None)


def test_a_cluster_keeps_its_name_before_all_others() -> None:
    found = from_probe(document(notebook("/a/main", started_at=0.0), clusters=[session("main")]))
    assert [one.name for one in found if one.kind == "cluster"] == ["main"]
    assert [one.name for one in found if one.kind == "notebook"] != ["main"]


ROOTS = st.sampled_from(["/", "/a/work", "/b/work", "/a/Work!", "/c/" + "w" * 40, "/d/" + "w" * 40, "/x/2024", "/y/ä"])


@given(
    servers=st.lists(
        st.tuples(st.integers(1, 65535), ROOTS, st.sampled_from(["notebook", "listener", "mlflow"]), st.integers(0, 3)),
        max_size=12,
        unique_by=lambda server: server[0],
    )
)
def test_each_listener_has_a_name_of_its_own(servers: list[tuple[int, str, str, int]]) -> None:
    rows = [notebook(root, port=port, kind=kind, started_at=float(at)) for port, root, kind, at in servers]
    names = [str(found.name) for found in from_probe(document(*rows, clusters=[session("work")]))]
    assert len(names) == len(rows) + 1 == len(set(names)) and all(NAME.fullmatch(name) for name in names)


@given(text=st.text(max_size=60))
def test_any_text_becomes_a_name(text: str) -> None:
    assert NAME.fullmatch(slug(text, "notebook"))


def test_the_url_of_a_cluster_in_a_row_is_its_socket() -> None:
    known = {"host": "s1", "machine": "m", "name": "main", "state": "running", "owner": "alice"}
    assert Listener(kind="cluster", path="/tmp/x.sock", http=True, **known).row()["url"] == "unix:/tmp/x.sock"
