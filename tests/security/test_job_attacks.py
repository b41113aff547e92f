"""What bob gets of alice's jobs: nothing. Each attack falls where she makes it herself."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from ports.state.waiting import wait_until
from tests.lab.namespaces import NamespaceSite
from tests.security.conftest import MODES, Scene, files, listening, protected
from tests.security.test_hostile_places import what_alice_left_open

pytestmark = [pytest.mark.ci, pytest.mark.timeout(240)]

#: Where a secret of alice's is, as it is called in her environment. New each time: these files may be read by all.
SECRETS = {name: f"sesame-{name.lower()}-{secrets.token_hex(8)}" for name in ("ARGUMENT", "RESULT", "PRINTED", "FILE")}
OF_SCRIPT = f"sesame-script-{secrets.token_hex(8)}"
FUNCTIONS = """
import os, time, ports
def work(given, result, printed):
    import time
    print(printed, flush=True)
    return result * 10_000
@ports.job(cpus=0.1)
def wait(given, printed):
    import time
    print(printed, flush=True)
    time.sleep(600)
@ports.job(cache="use", version="1")
def keep(given):
    return given * 10_000
e = os.environ
ports.submit(work, e["ARGUMENT"], e["RESULT"], e["PRINTED"]).result(60)
ports.submit(work, e["ARGUMENT"] * 10_000, e["RESULT"], e["PRINTED"]).result(60)
keep.submit(e["RESULT"]).result(60)
job = wait.submit(e["ARGUMENT"], e["PRINTED"])
while job.state != "running":
    time.sleep(0.05)
"""
WAITS = "read line < /dev/null; echo $PRINTED; echo $PRINTED > made; exec sleep 600"


@dataclass(frozen=True)
class Jobs(Scene):
    """Alice's server with a compute resource, functions that ended and one that runs, and scripts of both kinds."""

    spool: dict[str, Any]


def paths(scene: Scene) -> list[str]:
    """Return the paths of alice's jobs, leases, records and scratch on her server, as the server names them."""
    uid, top = scene.site.account("alice").uid, scene.path("/")
    tops = [*files(scene, "jobs"), *files(scene, "resources"), scene.path(f"/tmp/ports-{uid}")]
    tops += [one for one in scene.path("/var/tmp").iterdir() if one.lstat().st_uid == uid]
    found = [path for one in tops if one.exists() for path in (one, *one.rglob("*"))]
    return sorted(f"/{path.relative_to(top)}" for path in found if not path.is_symlink())


def ids(scene: Scene) -> dict[str, str]:
    """Return the state of each of alice's jobs."""
    return {str(row["id"]): row["state"] for row in scene.ports("job", "list")}


def submit(scene: Scene, line: str, *options: str, **where: Any) -> str:
    """Submit a line of shell as alice, and return the id of the job."""
    command = [scene.python, "-m", "ports", "job", "submit", "--cpus", "0.1", *options, "--", "sh", "-c", line]
    done = scene.alice(*command, **where)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module", params=["sockets", pytest.param("tls", marks=pytest.mark.long)])
def jobs(work_site: NamespaceSite, request: pytest.FixtureRequest) -> Iterator[Jobs]:
    """Alice's jobs: 1 lay in the spool; 2 and 3 are scripts that run; 4 to 6 are functions that ended, 7 runs."""
    scene = protected(work_site, request.param)
    script = replace(scene, environ={**MODES[request.param], "PRINTED": OF_SCRIPT})
    submit(script, "exit 0", "--no-start")
    seen = "\n".join(paths(scene))
    spool = {who: scene.bob("touch", user=who, input=seen)["fell"] for who in ("alice", "bob")}
    work_site.host("server1").write("~/project/data.txt", SECRETS["FILE"] * 100)
    submit(script, WAITS)
    submit(script, WAITS, "--copy", "--out", "made", cwd="/home/alice/project")
    functions = replace(scene, environ={**MODES[request.param], **SECRETS})
    functions.alice(scene.python, "-c", FUNCTIONS, check=True, timeout=120)
    wait_until(lambda: list(ids(scene).values()).count("running") == 3 or None, timeout=60, what="the scripts")
    yield Jobs(**vars(scene), spool=spool)
    scene.ports("job", "cancel", "2", "3", "7")
    wait_until(lambda: "running" not in ids(scene).values() or None, timeout=60, what="their end")
    scene.ports("resource", "stop", "--now")
    clear(scene)


def clear(scene: Scene) -> None:
    """Remove alice's jobs, which stay on purpose."""
    scene.alice("sh", "-c", "rm -rf ~/.local/state/ports/hosts/*/jobs ~/project /tmp/ports-*/leases", check=False)


def test_bob_cannot_list_read_or_change_a_file_of_alice_s_jobs(jobs: Jobs) -> None:
    seen = paths(jobs)
    kinds = {Path(one).name for one in seen} | {Path(one).parent.name for one in seen}
    assert {"store.sqlite", "ids", "work", "environs", "objects", "results", "cache", "leases", "streams"} <= kinds
    assert {"resource.sock", "workspaces"} <= kinds
    hers = jobs.bob("touch", user="alice", input="\n".join(seen))["fell"]
    assert {one.partition(" ")[2] for one in hers} == set(seen), "the attack reaches each of them"
    assert jobs.bob("touch", input="\n".join(seen))["fell"] == []


def test_bob_reaches_no_submission_that_waits_for_a_resource(jobs: Jobs) -> None:
    assert any("/submissions/" in one for one in jobs.spool["alice"])
    assert any("/environs/" in one for one in jobs.spool["alice"])
    assert jobs.spool["bob"] == []


def test_bob_finds_no_secret_of_jobs_in_proc_files_or_tmux(jobs: Jobs) -> None:
    markers = "\n".join([*SECRETS.values(), OF_SCRIPT])
    hers = jobs.bob("look", user="alice", input=markers)["fell"]
    assert {one.partition(" ")[0] for one in hers} == set(markers.split())
    assert f"{OF_SCRIPT} in /proc/*/environ" in hers
    assert not [one for one in hers if "cmdline" in one], "nothing secret is in arguments"
    found = jobs.bob("look", input=markers)
    assert found["fell"] == [] and found["tried"] > 20


def test_bob_cannot_reach_into_processes_of_alice_s_jobs(jobs: Jobs) -> None:
    is_hidden = (
        str(jobs.site.account("alice").uid) not in jobs.site.run(jobs.host, ["ps", "-eo", "uid"], user="bob").stdout
    )
    hers = jobs.bob("processes", user="alice")["fell"]
    assert {"cwd", "environ", "fd", "signal"} <= set(hers), hers
    found = jobs.bob("processes")
    assert found["fell"] == [] and (found["tried"] > 5 or is_hidden), found


def test_bob_gets_no_answer_from_the_resource_s_socket(jobs: Jobs) -> None:
    socket = next(one for one in paths(jobs) if one.endswith("/resource.sock"))
    hers = jobs.bob("speak", socket, user="alice", input="work")
    assert len(hers["fell"]) == hers["tried"] and "list" in hers["read"]
    assert jobs.bob("speak", socket, input="work")["fell"] == []


def test_bob_gets_no_answer_where_the_socket_s_directory_is_open(jobs: Jobs) -> None:
    """The kernel says which user is at the other end, also where file modes keep nobody out."""
    [socket] = [jobs.path(one) for one in paths(jobs) if one.endswith("/resource.sock")]
    name = f"/{socket.relative_to(jobs.path('/'))}"
    modes = {one: one.stat().st_mode & 0o777 for one in (socket, socket.parent)}
    try:
        for one in modes:
            one.chmod(0o777)
        assert jobs.bob("touch", input=name)["fell"] == [f"connect {name}"]
        assert jobs.bob("speak", name, input="work")["fell"] == []
    finally:
        for one, mode in modes.items():
            one.chmod(mode)
    assert jobs.bob("speak", name, user="alice", input="work")["fell"]


def test_the_attacks_on_files_fall_where_alice_opens_hers(jobs: Jobs) -> None:
    """It is the modes that keep bob out, not his search."""
    seen = [one for one in paths(jobs) if "/home/alice/" in one]
    opened = {jobs.path(one): jobs.path(one).stat().st_mode & 0o777 for one in seen}
    top = jobs.path(seen[0])
    home = jobs.path("/home/alice")
    opened |= {one: one.stat().st_mode & 0o777 for one in top.parents if one.is_relative_to(home)}
    try:
        for one, mode in opened.items():
            one.chmod(mode | 0o055)
        fell = jobs.bob("touch", input="\n".join(seen))["fell"]
        assert {one.partition(" ")[2] for one in fell} == set(seen)
        assert jobs.bob("look", input="\n".join(SECRETS.values()))["fell"]
    finally:
        for one, mode in opened.items():
            one.chmod(mode)


@pytest.mark.parametrize(
    "words", [("show", "2"), ("logs", "2"), ("why", "2"), ("fetch", "3"), ("cancel", "2"), ("rerun", "2")]
)
def test_bob_s_commands_reach_no_job_of_alice_s(jobs: Jobs, words: tuple[str, str]) -> None:
    before = ids(jobs)
    command = [jobs.python, "-m", "ports", "job", *words]
    for environ, code in (({}, 3), ({"PORTS_HOME": "/home/alice/.local/state/ports"}, 5)):
        done = jobs.site.run(jobs.host, command, user="bob", env=environ, timeout=60)
        assert (done.returncode, OF_SCRIPT in done.stdout + done.stderr) == (code, False), done.stderr
        assert "Traceback" not in done.stderr
    assert ids(jobs) == before


def test_bob_cannot_submit_to_alice_s_queue(jobs: Jobs) -> None:
    before = ids(jobs)
    command = [jobs.python, "-m", "ports", "job", "submit", "--no-start", "--", "true"]
    environ = {"PORTS_HOME": "/home/alice/.local/state/ports"}
    done = jobs.site.run(jobs.host, command, user="bob", env=environ, timeout=60)
    assert done.returncode != 0 and "Traceback" not in done.stderr, done.stderr
    assert ids(jobs) == before


def test_bob_runs_no_code_in_the_cluster_of_alice_s_jobs(jobs: Jobs) -> None:
    fell = jobs.bob("code", user="alice")["fell"]
    assert any(one.endswith("/resource.sock") for one in fell) and any("/cluster-jobs" in one for one in fell)
    found = jobs.bob("code")
    assert found["fell"] == [] and found["tried"] > 3
    pages = jobs.bob("pages", input="")
    assert pages["fell"] == []
    assert bool(listening(jobs)) is (jobs.mode == "tls")


def test_bob_does_not_join_the_tmux_of_alice_s_resource(jobs: Jobs) -> None:
    assert jobs.bob("join", user="alice")["fell"] == ["list-sessions", "new-window"]
    found = jobs.bob("join")
    assert found["fell"] == [] and found["tried"] == 1


def test_nothing_of_alice_s_jobs_lies_open_in_tmp(jobs: Jobs) -> None:
    assert what_alice_left_open(jobs) == []
    umasks = [jobs.path(one).stat().st_mode & 0o077 for one in paths(jobs) if Path(one).name in ("jobs", "leases")]
    assert umasks and not any(umasks)
