"""A hint that starts a session again repeats what was asked for, in words that the command line takes."""

from __future__ import annotations

import importlib
import shlex
from pathlib import Path
from typing import Any

import click
import pytest

from ports import sessions
from ports.cli import main
from ports.listeners import from_probe
from ports.notebooks.jupyter_launch import refusal
from ports.tunnels import _services

ASKED: dict[str, list[dict[str, Any]]] = {
    "cluster": [
        {"n_workers": 4, "memory_limit": "4GB", "threads_per_worker": 2},
        {"n_workers": "all", "force": True, "processes": False, "daemon": True, "gpus": 1},
        {"force": False, "calm_after": False, "lend_after": 0, "nice": 19, "memory_limit": 0.25, "env": None},
        {"environ": {"KEY": "secret value"}, "env": "my env", "local_directory": Path("/scratch/al ice"), "idle": 1.5},
        {"scheduler_kwargs": {"allowed_failures": 10}, "lifetime": "1h", "host_object": object},
    ],
    "notebook": [
        {"root": Path("/data/my thesis"), "env": "geo", "idle": 2, "expire": 0, "debugger": True},
        {"root": "/data", "debugger": False},
    ],
}


def start_of(kind: str) -> click.Command:
    module, name, _ = main.COMMANDS[kind]
    found: click.Command = getattr(importlib.import_module(module), name).commands["start"]
    return found


@pytest.mark.parametrize(("kind", "asked"), [(kind, one) for kind, some in ASKED.items() for one in some])
def test_the_words_of_a_start_ask_for_the_same_again(kind: str, asked: dict[str, Any]) -> None:
    line = sessions.start_line(kind, "one", sessions.words(kind, asked))
    with start_of(kind).make_context("start", shlex.split(line)[3:], resilient_parsing=True) as context:
        read = context.params
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEY", "secret value")
        start_of(kind).make_context("start", shlex.split(line)[3:])  # each word is one that it takes
    assert read["name"] == "one" and "secret" not in line
    for name, value in asked.items():
        if name in read and value is not None and not (name == "force" and not value) and name != "environ":
            assert read[name] == (str(value) if isinstance(value, Path | str) else value) or str(value) == str(
                read[name]
            )
    if "scheduler_kwargs" in asked:
        assert read["option"] == ('scheduler_kwargs={"allowed_failures": 10}', 'lifetime="1h"')


def document(**session: Any) -> dict[str, Any]:
    """Return what a probe finds where a notebook server was started that has no page."""
    who = {"machine": "m", "boot_id": "b", "pid_namespace": "n", "pid": 7, "start_ticks": 1}
    asked = ["--root=/data/my thesis", "--idle=2"]
    record = {"started_by": who, "created_at": 1.0, "root": "/data/my thesis", "token_file": "/t", "asked": asked}
    running = {"process": who, "port": 1, "base_url": "/", "url_path": "lab", "token_file": "/t"}
    one = {"name": "lab", "record": record, "running": running, "exit": None, "alive": True, **session}
    found = {"host": "server1", "machine_id": "m", "boot_id": "b", "pid_namespace": "n", "user": "alice", "uid": 1}
    return {**found, "clusters": [], "notebooks": [one], "listeners": []}


AGAIN = "`ports notebook start lab '--root=/data/my thesis' --idle=2"


def test_sockets_that_were_removed_lead_to_a_start_with_the_same_options() -> None:
    [found] = from_probe(document(gone="/tmp/ports-1/x.sock"))
    assert f"`ports notebook stop lab`, then {AGAIN}`" in str(found.reason)


@pytest.mark.parametrize("asked", [None, 7, "--root=/", [1], {"a": 1}])
def test_a_record_that_says_nonsense_of_its_start_is_read_all_the_same(asked: Any) -> None:
    there = document(gone="/tmp/ports-1/x.sock")
    there["notebooks"][0]["record"]["asked"] = asked
    [found] = from_probe(there)
    assert str(found.reason).endswith("`ports notebook stop lab`, then `ports notebook start lab`")


def test_a_link_to_what_was_stopped_leads_to_a_start_with_the_same_options() -> None:
    ended = {"format": 1, "status": 0, "signal": None, "ended_at": 2.0}
    stopped = document(exit=ended, alive=False)
    found = from_probe(stopped, host="s1")
    target = _services.Target("s1", "lab")
    with pytest.raises(Exception, match="notebook") as caught:
        _services.choose(stopped, found, target)
    assert f"{AGAIN} -H s1` starts it" in str(caught.value)


def test_the_refusal_of_the_debugger_starts_this_server_with_it() -> None:
    line = sessions.start_line("notebook", "thesis", ["--root=/data", "--debugger"])
    assert "`ports notebook stop thesis` and `ports notebook start thesis --root=/data --debugger` start" in refusal(
        line
    )
    assert "`ports notebook stop` and `ports notebook start --debugger` start" in refusal("")
