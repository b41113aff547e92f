"""Notices of the end of jobs, from a resource at work to a service that listens."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ports
from ports.jobs import _places
from ports.state import wait_until
from tests.integration.conftest import Home, stop_resource
from tests.lab.services import Service, web_hook

pytestmark = [pytest.mark.ci, pytest.mark.xdist_group("machine")]


@pytest.fixture
def hook(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A service that the settings name; the resource is stopped afterwards."""
    with web_hook() as found:
        monkeypatch.setenv("DASK_PORTS__JOBS__NOTIFY", repr([f"json://127.0.0.1:{found.port}/a-hidden-token"]))
        monkeypatch.delitem(sys.modules, "dask.config", raising=False)
        yield found
        stop_resource()


def test_a_failed_script_and_a_map_are_one_notice_each(home: Home, hook: Service) -> None:
    Path("night.yaml").write_text("run: exit 3\nname: night\ncpus: 1\nnotify: true\n")
    script = home.ports("job", "submit", "night.yaml")
    assert script.returncode == 0, script.stderr
    id = script.stdout.strip()
    wait_until(lambda: hook.got or None, timeout=60, what="a notice")
    assert hook.got[0]["message"].startswith(f"job {id} (night) failed on ")
    assert hook.got[0]["message"].endswith(": exit status 3")

    def row() -> dict[str, object] | None:
        found = home.json("job", "show", id)
        return found if "notice" in found else None

    shown = wait_until(row, timeout=30, what="the answer")
    assert shown["notice"]["failed"] is None  # type: ignore[index]
    assert "notice" in home.ports("job", "show", id).stdout
    jobs = ports.map(ports.job(notify=True)(abs), range(200), name="grid")
    assert ports.gather(jobs, progress=False) == list(range(200))
    wait_until(lambda: hook.got[1:] or None, timeout=60, what="the notice of the map")
    assert hook.got[1]["message"].endswith(": 200 finished")
    assert "a-hidden-token" not in json.dumps(shown) + home.ports("resource", "logs").stdout
    ends = json.loads(_places.here().ends.read_bytes())["ends"]
    assert [one["name"] for one in ends] == ["night", "grid"]
    assert len(hook.got) == 2
