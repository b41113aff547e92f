"""Kernels and notebook servers that nobody uses end, where that is asked for; with a real Jupyter."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ports import errors, notebooks
from ports.deadlines import wait_until
from ports.notebook_handle import Notebook
from tests.integration.conftest import Home, new_home

HOUR, DAY = 3600, 86400


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A home with Jupyter's own files below it."""
    own = {f"JUPYTER_{name}": str(tmp_path / name) for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")}
    with new_home(tmp_path / "home", {**own, "IPYTHONDIR": str(tmp_path / "ipython")}) as made:
        yield made


def ask(notebook: Notebook, method: str, path: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", notebook.port or 0, timeout=30)
    try:
        connection.request(method, path, headers={"Authorization": f"token {notebook.token}"})
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def test_a_kernel_that_does_nothing_ends_and_its_server_goes_on(home: Home) -> None:
    found = notebooks.start("lab", idle=2 / HOUR)
    kernel = ask(found, "POST", "/api/kernels")["id"]
    assert [one["id"] for one in ask(found, "GET", "/api/kernels")] == [kernel]
    wait_until(lambda: not ask(found, "GET", "/api/kernels") or None, timeout=60, what="end of the kernel", every=0.5)
    assert notebooks.get("lab").state == "running"
    assert (found.row()["idle"], found.row()["expire"]) == (2 / HOUR, 14)
    found.stop()


def test_without_a_limit_kernels_stay_and_a_wrong_limit_is_refused(home: Home) -> None:
    with pytest.raises(errors.UsageError, match="idle is -1; it must be from 0 to"):
        notebooks.start("lab", idle=-1)
    found = notebooks.start("lab")
    log = "\n".join(found.logs())
    assert "Culling" not in log
    assert f"Will shut down after {14 * DAY} seconds with no kernels" in log
    found.stop()


@pytest.mark.long
def test_a_server_without_kernels_ends_by_itself(home: Home) -> None:
    found = notebooks.start("lab", expire=5 / DAY)
    ended = wait_until(
        lambda: now if (now := notebooks.get("lab")).state == "stopped" else None,
        timeout=150,  # Jupyter looks once a minute
        what="end of the server",
        every=1,
    )
    assert any("shutting down" in line for line in found.logs())
    assert ended.reason == f"it expired: no kernel ran for {5 / DAY:g} days"
    ended.stop()
