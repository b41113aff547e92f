"""`ports job fetch` from another machine: resumed after a cut, while the job runs, and never outside of its directory.

The other machine is the program that is piped to it, in this process; a hostile one answers what it likes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ports.errors import ConflictError, FarSideError, NotFoundError, ResourceLostError, UsageError
from ports.jobs import _fetch, _outputs, _where
from ports.jobs._afar import Afar
from ports.jobs._protocol import Frame
from ports.jobs._workspace import FETCHED
from ports.probe.queue import disk, sent
from tests.unit.test_job_outputs import ID, Job, write

OPS: dict[str, Callable[..., Any]] = {
    "disk.list": disk.disk_list, "disk.read": disk.disk_read, "disk.fetched": sent.disk_fetched,
}  # fmt: skip


class Far(Job):
    """A job of another machine, of which home gets the output; `change` may alter each answer."""

    def __init__(self, top: Path) -> None:
        super().__init__(top)
        self.asked: list[str] = []
        self.change: Callable[[str, dict[str, Any], dict[str, Any]], None] = lambda op, fields, header: None

    def ask(self, op: str, blobs: Any = (), **fields: Any) -> Frame:
        self.asked.append(op)
        header, back = OPS[op](str(self.places.root), json.loads(json.dumps(fields)), list(blobs))
        header = json.loads(json.dumps(header))
        self.change(op, fields, header)
        return Frame(header, list(back))

    def get(self, *out: str, state: str = "finished", **options: Any) -> _fetch.Fetched:
        row = {**self.row(*out, state=state), "id": "server1:12"}
        return _fetch.fetch(_outputs.There(self.ask, "server1", row), row, **options)


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Far:
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    return Far(tmp_path)


def test_output_comes_home_with_times_and_modes_once(far: Far) -> None:
    write(far.copy / "r/deep/x", "1" * 10_000)
    (far.copy / "r/deep/x").chmod(0o750)
    write(far.copy / "b", "changed")
    (far.copy / "r/to").symlink_to("deep/x")
    done = far.get()
    assert (done.directory, done.n_files, done.n_same, done.left_out) == ("job-server1-12", 3, 0, ())
    home = Path("job-server1-12")
    assert (home / "r/deep/x").read_text() == "1" * 10_000 and (home / "b").read_text() == "changed"
    status = (home / "r/deep/x").stat()
    assert status.st_mode & 0o777 == 0o750 and status.st_mtime_ns == (far.copy / "r/deep/x").stat().st_mtime_ns
    assert os.readlink(home / "r/to") == "deep/x" and not (home / "link").exists(), "a link that was given is no output"
    assert far.places.fetched(ID).exists()
    far.asked.clear()
    assert (
        far.get().n_same == 3 and far.asked.count("disk.read") <= 2
    )  # the directories that say which links were given


def test_only_what_out_names_comes_home(far: Far) -> None:
    write(far.copy / "r/x", "1")
    write(far.copy / "r2", "1")
    write(far.copy / "r/__pycache__/x.pyc", "1")
    assert far.get("r/").n_files == 1 and sorted(os.listdir("job-server1-12")) == [FETCHED, "r"]


@pytest.mark.parametrize("n_most", [1, 3])
def test_a_long_list_comes_in_pages(far: Far, n_most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "MOST_LISTED", n_most)
    real = far.ask
    far.ask = lambda op, blobs=(), **fields: real(  # type: ignore[method-assign]
        op, blobs, **({**fields, "most": n_most} if op == "disk.list" else fields)
    )
    for number in range(7):
        write(far.copy / f"r/{number}", "1")
    assert far.get("r").n_files == 7


def test_a_fetch_that_was_cut_goes_on_in_the_file(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_outputs, "_FAR_PIECE", 100_000)
    write(far.copy / "r/big", "0123456789" * 100_000)
    reads: list[int] = []

    def cut(op: str, fields: dict[str, Any], header: dict[str, Any]) -> None:
        if op == "disk.read":
            reads.append(fields["offset"])
            if len(reads) == 5:
                raise ResourceLostError("the way is cut")

    far.change = cut
    with pytest.raises(ResourceLostError):
        far.get("r")
    assert not Path("job-server1-12/r/big").exists() and not far.places.fetched(ID).exists()
    reads[:] = [0] * 5
    assert far.get("r").n_files == 1
    assert min(reads[5:]) == 400_000, "what was there was read again"
    assert Path("job-server1-12/r/big").read_bytes() == (far.copy / "r/big").read_bytes()
    assert os.listdir("job-server1-12/r") == ["big"]


def test_a_file_that_grows_while_its_job_runs_is_fetched_as_far_as_it_was(far: Far) -> None:
    write(far.copy / "r/log", "one\n")

    def grow(op: str, fields: dict[str, Any], header: dict[str, Any]) -> None:
        if op == "disk.list":
            with (far.copy / "r/log").open("a") as file:
                file.write("two\n")

    far.change = grow
    assert far.get("r", state="running").n_files == 1
    assert Path("job-server1-12/r/log").read_text() == "one\n" and not far.places.fetched(ID).exists()
    far.change = lambda *_: None
    assert far.get("r").n_files == 1 and Path("job-server1-12/r/log").read_text() == "one\ntwo\n"


def test_a_file_that_changes_after_the_end_is_left_out_and_not_noted(far: Far) -> None:
    write(far.copy / "r/x", "one\n")
    far.change = lambda op, *_: write(far.copy / "r/x", "longer\n") if op == "disk.list" else None
    done = far.get("r")
    assert (done.n_files, done.n_changed) == (0, 1) and not Path("job-server1-12/r/x").exists()
    assert not far.places.fetched(ID).exists() and os.listdir("job-server1-12/r") == []


def test_your_files_that_differ_are_never_overwritten_from_afar(far: Far) -> None:
    write(far.copy / "r/x", "1")
    write(Path("job-server1-12/r/x"), "2")  # of the same size
    with pytest.raises(ConflictError, match="other files of the same name: r/x; --force overwrites them"):
        far.get("r")
    assert Path("job-server1-12/r/x").read_text() == "2"
    assert far.get("r", force=True).n_files == 1 and Path("job-server1-12/r/x").read_text() == "1"
    os.utime("job-server1-12/r/x", (5, 5))
    assert far.get("r").n_same == 1, "the content is the same"


def test_a_long_fetch_says_how_far_it_is(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fetch, "_SILENT", 0.0)
    write(far.copy / "r/x", "1" * 2048)
    said: list[str] = []
    far.get("r", say=said.append)
    assert said == ["fetched 2 KiB of 2 KiB"]


OUTSIDE = ["../x", "/etc/x", "a/../../x", "a//x", "./x", "a/.", "", "x\0y", "a/../x", FETCHED, "a/.ports-part-1", 7,
           None, ["x"], "a" * 5000]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE, ids=lambda one: ascii(one)[:20])
@pytest.mark.parametrize("kind", ["f", "l"])
def test_a_hostile_name_is_never_written(far: Far, tmp_path: Path, name: Any, kind: str) -> None:
    write(far.copy / "r/x", "evil")

    def hostile(op: str, fields: dict[str, Any], header: dict[str, Any]) -> None:
        if op == "disk.list":
            header["files"] = [[name, kind, 4, 1, 0o644, "x" if kind == "l" else None]]

    far.change = hostile
    before = sorted(path for path in tmp_path.rglob("*"))
    with pytest.raises(FarSideError):
        far.get(".")
    assert sorted(path for path in tmp_path.rglob("*")) == before and not os.path.exists("/etc/x")


def test_the_same_attack_with_a_good_name_writes_the_file(far: Far) -> None:
    """The control: the names are what is refused."""
    write(far.copy / "r/x", "evil")
    status = (far.copy / "r/x").stat()

    def other(op: str, fields: dict[str, Any], header: dict[str, Any]) -> None:
        if op == "disk.list":
            header["files"] = [["r/x", "f", 4, status.st_mtime_ns, 0o6777, None]]

    far.change = other
    assert far.get(".").n_files == 1
    path = Path("job-server1-12/r/x")
    assert path.read_text() == "evil" and path.stat().st_mode & 0o7000 == 0  # no set-user-ID


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_umask_here_holds_for_what_comes_home(far: Far, umask: int) -> None:
    for mode in (0o666, 0o777, 0o640):
        write(far.copy / f"r/{mode:o}", "x")
        (far.copy / f"r/{mode:o}").chmod(mode)
    before = os.umask(umask)
    try:
        assert far.get("r").n_files == 3
    finally:
        os.umask(before)
    for mode in (0o666, 0o777, 0o640):
        assert Path(f"job-server1-12/r/{mode:o}").stat().st_mode & 0o777 == mode & ~umask
    assert sorted(os.listdir("job-server1-12")) == [FETCHED, "r"]


@pytest.mark.parametrize("target", ["/etc", "..", "../..", "a/../../..", "", "up/../victim", "./up/../../x", "a/.."])
def test_a_link_that_leads_out_is_left_out_and_nothing_goes_through_it(far: Far, tmp_path: Path, target: str) -> None:
    """A server that names a link and then a file below it writes nowhere else."""
    write(far.copy / "r/x", "evil")
    status = (far.copy / "r/x").stat()

    def hostile(op: str, fields: dict[str, Any], header: dict[str, Any]) -> None:
        if op == "disk.list":
            link = ["d", "l", 0, 1, 0o777, target]
            header["files"] = [link, ["r/x", "f", 4, status.st_mtime_ns, 0o644, None]]

    far.change = hostile
    done = far.get(".")
    assert done.left_out == ("d",) and not os.path.lexists("job-server1-12/d") and done.n_files == 1


def test_links_that_lead_out_together_are_left_out(far: Far, tmp_path: Path) -> None:
    """Each one leads to a place inside by its words; on the disk, the second one leads out."""
    links = {"p/q/up": "../..", "p/q/m": "up/../victim", "p/q/n": "./up/.././x", "p/q/ok": "../q/./x", "p/ok": "q"}
    rows = [[path, "l", 0, 1, 0o777, target] for path, target in links.items()]
    far.change = lambda op, fields, header: header.update(files=rows) if op == "disk.list" else None
    done = far.get(".")
    assert done.left_out == ("p/q/m", "p/q/n") and done.n_files == 3
    top = tmp_path / "home/job-server1-12"
    for path in ("p/q/up", "p/q/ok", "p/ok"):
        found = (top / path).resolve()
        assert top in (found, *found.parents)


def test_a_file_below_a_link_of_the_same_server_is_a_conflict(far: Far, tmp_path: Path) -> None:
    write(far.copy / "r/x", "evil")
    status = (far.copy / "r/x").stat()
    (tmp_path / "home" / "job-server1-12").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "home" / "job-server1-12" / "r").symlink_to(tmp_path / "outside")
    with pytest.raises(ConflictError, match="is a link, and a directory in the output"):
        far.get("r", force=True)
    assert list((tmp_path / "outside").iterdir()) == [] and status

    def inner(op: str, fields: dict[str, Any], header: dict[str, Any]) -> None:
        if op == "disk.list":  # first a link within the output, then a file through it
            header["files"] = [["a", "l", 0, 1, 0o777, "r2"], ["a/x", "f", 4, status.st_mtime_ns, 0o644, None]]

    far.change = inner
    with pytest.raises(ConflictError, match="is a link, and a directory in the output"):
        far.get(".", to=tmp_path / "home" / "other")


@pytest.mark.parametrize(
    "answer", [{"files": 3}, {"files": [3]}, {"files": [["x"]]}, {"files": [["x", "f", "a", 1, 1, None]]}]
)
def test_an_answer_in_another_form_is_refused(far: Far, answer: dict[str, Any]) -> None:
    far.change = lambda op, fields, header: header.update(answer) if op == "disk.list" else None
    with pytest.raises(FarSideError):
        far.get(".")


def test_a_server_that_sends_more_than_it_said_fills_no_disk(far: Far) -> None:
    write(far.copy / "r/x", "1234")
    status = (far.copy / "r/x").stat()

    def shorter(op: str, fields: dict[str, Any], header: dict[str, Any]) -> None:
        if op == "disk.list":
            header["files"] = [["r/x", "f", 2, status.st_mtime_ns, 0o644, None]]
        header.update({"size": 2} if op == "disk.read" else {})

    far.change = shorter
    far.get(".")
    assert Path("job-server1-12/r/x").read_text() == "12"


def test_a_directory_of_another_person_is_not_written_to(far: Far, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs another user's directory")
    write(far.copy / "r/x", "1")
    for path in ("job-server1-12", "bobs"):
        Path(path).mkdir()
        os.chown(path, 4242, 4242)
    (tmp_path / "mine").mkdir()
    Path("link").symlink_to(tmp_path / "mine")
    os.chown("link", 4242, 4242, follow_symlinks=False)
    for to in (None, Path("bobs"), Path("link")):
        with pytest.raises(ConflictError, match="belongs to uid 4242, not to you; name another directory with --to"):
            far.get("r", to=to)
    assert far.get("r", to=Path("bobs-too")).n_files == 1  # the way out


@pytest.mark.parametrize("to", [None, Path("new/deep/results")])
@pytest.mark.parametrize("is_link", [True, False])
def test_a_directory_that_another_makes_meanwhile_is_not_written_to(
    far: Far, tmp_path: Path, to: Path | None, is_link: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bob is faster than the `mkdir` of a fetch, as he can be in a directory that all can write to."""
    if os.geteuid() != 0:
        pytest.skip("needs another user's directory")
    write(far.copy / "r/x", "1")
    (tmp_path / "bobs").mkdir()
    real = Path.mkdir

    def mkdir(path: Path, *rest: Any, **options: Any) -> None:
        monkeypatch.setattr(Path, "mkdir", real)
        if is_link:
            path.symlink_to(tmp_path / "bobs")
        else:
            real(path)
        os.chown(path, 4242, 4242, follow_symlinks=False)
        real(path, *rest, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(ConflictError, match="belongs to uid 4242, not to you; name another directory with --to"):
        far.get("r", to=to)
    assert list((tmp_path / "bobs").iterdir()) == [] and not list((tmp_path / "home").rglob("x"))


def test_a_directory_that_is_made_while_files_are_compared_is_not_taken(
    far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(far.copy / "r/x", "1")
    (tmp_path / "bobs").mkdir()
    real = _fetch._wrote

    def wrote(target: Path) -> Any:
        assert target.is_dir(), "somebody else can still make it"
        return real(target)

    monkeypatch.setattr(_fetch, "_wrote", wrote)
    assert far.get("r").n_files == 1


IDS = ["../../evil/x:12", "../12", "12/../..", "13", "12.1", "012", "", 7, None, ["12"], "12\x1b[2J", "$(touch x)"]


@pytest.mark.parametrize("id", IDS, ids=ascii)
def test_a_server_that_names_another_job_is_refused(far: Far, tmp_path: Path, id: Any) -> None:
    write(far.copy / "r/x", "evil")
    machine = Afar("server1")

    def ask(op: str, blobs: Any = (), **fields: Any) -> Any:
        return Frame({"row": {**far.row("r"), "id": id}}, []) if op == "show" else far.ask(op, blobs, **fields)

    machine.ask = ask  # type: ignore[method-assign,assignment]
    before = sorted(tmp_path.rglob("*"))
    for look in (machine.fetch, machine.show, machine.output):
        with pytest.raises(FarSideError, match="it was asked for job 12, and answers with something else"):
            look("server1:12")
    assert sorted(tmp_path.rglob("*")) == before
    id = "12"  # the control
    assert machine.fetch("server1:12")["n_files"] == 1


@pytest.mark.parametrize("id", ["../x", "1;touch x", "12\n13", "\x1b]0;x\x07", [], {}], ids=ascii)
def test_an_id_of_another_machine_that_is_none_is_refused_in_lists(id: Any) -> None:
    told: list[Any] = [[{"id": id, "state": "running"}], {"cancelled": ["3", id]}, {"removed": [id]},
                       {"id": "3", "state": "running", "asked": {"after": [id]}}]  # fmt: skip
    for one in told:
        with pytest.raises(FarSideError, match="which is no id"):
            _where.at_home("server1", one)


def test_a_job_that_has_not_begun_or_ran_in_place_has_nothing_to_fetch(far: Far) -> None:
    row = {"id": "server1:13", "state": "pending", "asked": far.row()["asked"]}
    with pytest.raises(NotFoundError, match="it is pending and has not begun"):
        _outputs.There(far.ask, "server1", row).find()
    with pytest.raises(UsageError, match="job server1:12 has no output to fetch: it ran in /somewhere"):
        _outputs.There(far.ask, "server1", {"id": "server1:12", "asked": {"directory": "/somewhere"}}).find()
