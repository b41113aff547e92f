"""`ports prune --adopt`: what another machine left in this home moves here, and records name the new place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ports import clusters, sessions
from ports.state import paths, records

WHO = {"format": 1, "machine": "m", "boot_id": "b", "pid_namespace": "n", "pid": 1, "start_ticks": 1}


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> paths.HostPaths:
    """The directory of a machine called old, in a home of this test."""
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    made = paths.HostPaths(paths.make_state().root.parent / "of-old")
    write(made.host, {"format": 1, "name": "old"})
    return made


def write(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    records.write_json(path, document)


def keep(of: paths.HostPaths, name: str, *, text: str, at: Path | None = None) -> None:
    """Keep a result in a directory of that name, below `at`, by default the state directory."""
    place = (at or of.held) / name
    place.mkdir(parents=True)
    (place / "answer.pickle").write_text(text)
    write(of.held / f"{name}.json", {"format": 1, "cluster": "main", "path": str(place), "kept_at": 1.0})


def kept() -> list[str]:
    return sorted((one.path / "answer.pickle").read_text() for one in clusters.list_kept())


def test_kept_results_are_found_again_after_an_adoption(old: paths.HostPaths, tmp_path: Path) -> None:
    keep(old, "ports-alice-main-1-held", text="in the state directory")
    keep(old, "ports-alice-main-2-held", text="on a disk", at=tmp_path / "disk")
    assert sessions.adopt("old") == []
    assert kept() == ["in the state directory", "on a disk"] and not old.root.exists()
    assert all(clusters.remove_kept(one) for one in clusters.list_kept())
    assert kept() == [] and not list((tmp_path / "disk").iterdir())


def test_an_adoption_keeps_results_whose_name_is_taken_here(old: paths.HostPaths) -> None:
    keep(paths.here(), "ports-alice-main-1-held", text="of here")
    keep(old, "ports-alice-main-1-held", text="of old")
    sessions.adopt("old")
    assert kept() == ["of here", "of old"]


def test_a_note_of_results_on_a_disk_that_is_away_is_not_forgotten(old: paths.HostPaths, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    keep(paths.here(), "ports-alice-main-1-held", text="later", at=disk)
    disk.rename(tmp_path / "unmounted")
    assert kept() == []
    (tmp_path / "unmounted").rename(disk)
    assert kept() == ["later"]


def test_an_adopted_record_names_the_new_place_of_its_token(old: paths.HostPaths) -> None:
    token = old.token("notebook", "lab")
    write(token, {})
    token.write_text("ab" * 24)
    root = {"root": f"{old.root}-is-my-folder"}  # no path of the machine's
    record = {"kind": "notebook", "name": "lab", "created_at": 1.0, "interpreter": "/p", "directory": "/", **root}
    record |= {"started_by": WHO, "server": "lab", "runtime": "/tmp/nb-x", "token_file": str(token)}
    write(sessions.files("notebook", "lab", old).record, {"format": 1, **record})
    assert sessions.adopt("old") == ["notebook lab"]
    here = json.loads(sessions.files("notebook", "lab").record.read_text())
    assert here["token_file"] == str(paths.here().token("notebook", "lab")) and here["root"] == root["root"]
    assert Path(here["token_file"]).read_text() == "ab" * 24


def test_what_a_session_left_elsewhere_goes_where_its_name_is_taken(old: paths.HostPaths, tmp_path: Path) -> None:
    runtime = tmp_path / "nb-left"
    for machine, left in ((old, runtime), (paths.here(), tmp_path / "nb-own")):
        left.mkdir()
        record = {"kind": "notebook", "name": "lab", "created_at": 1.0, "interpreter": "/p", "directory": "/"}
        record |= {"started_by": WHO, "server": "lab", "runtime": str(left), "token_file": "/t", "root": "/"}
        write(sessions.files("notebook", "lab", machine).record, {"format": 1, **record})
    sessions.adopt("old")
    assert not runtime.exists() and (tmp_path / "nb-own").exists() and not old.root.exists()
