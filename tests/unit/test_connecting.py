"""What a person sees while a cluster starts and a client connects, and how long that can take."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import socket
import sys
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ports import errors
from ports.clusters import Cluster, _dask, _start
from ports.errors import DaskError
from ports.state import tell, telling, wait_until
from ports.state import waiting as waits


def test_a_wait_of_some_seconds_says_what_it_waits_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    monkeypatch.delitem(sys.modules, "ports.cli.output", raising=False)  # another test's
    monkeypatch.setattr(waits, "PATIENCE", 0.01)
    seen = ""

    def is_told() -> bool | None:
        nonlocal seen
        seen += capsys.readouterr().out
        return True if "waiting for the start of cluster 'main'" in seen else None

    with telling("the start of cluster 'main'"):
        wait_until(is_told, timeout=10, what="the line")


def test_a_short_wait_says_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    before = threading.active_count()
    with telling("the start of cluster 'main'"):
        pass
    wait_until(lambda: True if threading.active_count() <= before else None, timeout=10, what="end of the timer")
    assert capsys.readouterr().out == ""


def test_a_script_prints_only_its_own_lines(capsys: pytest.CaptureFixture[str]) -> None:
    tell("started 'main'")
    assert capsys.readouterr().out == ""


def test_a_scheduler_that_says_nothing_is_left_in_time(tmp_path: Path) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(tmp_path / "silent"))
        listener.listen()
        began = time.monotonic()
        with pytest.raises(DaskError, match=r"did not answer within 0\.1 s"):
            _dask._wait_for_first_word(f"unix://{tmp_path}/silent", 0.1, "main")
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_scheduler_whose_socket_is_gone_is_not_called_slow(asynchronous: bool, tmp_path: Path) -> None:
    cluster: Any = SimpleNamespace(scheduler_address=f"unix://{tmp_path}/gone", security=None, status="running")
    began = time.monotonic()
    with pytest.raises(DaskError) as told:
        if asynchronous:
            asyncio.run(_dask.connect_async(cluster, timeout=20))
        else:
            _dask.connect(cluster, timeout=20)
    assert "did not answer within" not in str(told.value) and time.monotonic() - began < 10


def test_a_scheduler_that_stops_in_the_handshake_is_left_in_time() -> None:
    async def never(**_: Any) -> None:
        await asyncio.sleep(60)

    client: Any = SimpleNamespace()
    client._start = never
    with _dask._limited(client, 0.05), pytest.raises((TimeoutError, asyncio.TimeoutError)):
        asyncio.run(client._start())


def test_only_modules_that_changed_after_the_start_are_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(scratch))
    for folder, name in ((tmp_path, "as_it_was"), (tmp_path, "was_changed"), (scratch, "was_uploaded")):
        (folder / f"{name}_here.py").write_text("")
        importlib.import_module(f"{name}_here")
    os.utime(tmp_path / "as_it_was_here.py", (1e9, 1e9))
    found = [Path(file).name for file in _dask._changed_modules(str(scratch))() if file.startswith(str(tmp_path))]
    assert found == ["was_changed_here.py"]


def test_a_warning_of_a_thread_names_the_users_line() -> None:
    async def use() -> None:
        await asyncio.to_thread(errors.with_this_line(lambda: errors.warn("in a thread")))
        errors.warn("here")  # the thread's line is not this one's

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(use())
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    assert [one.filename for one in caught] == [__file__] * 2
    assert ["with_this_line(" in lines[one.lineno - 1] for one in caught] == [True, False]


def test_a_start_goes_on_where_nobody_waits_for_it_any_more() -> None:
    go_on = threading.Event()

    def start() -> Cluster:
        go_on.wait(10)
        return cast("Cluster", "the cluster")

    async def give_up() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(coming), 0.01)

    coming = _start._in_thread(start)
    asyncio.run(give_up())
    go_on.set()
    assert coming.result(10) == "the cluster"
