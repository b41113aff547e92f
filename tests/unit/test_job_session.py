"""What home and another machine say to each other about jobs: the program there, with and without a resource."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ports import hosts, probe, state
from ports.errors import NotFoundError, PortsError, ResourceLostError, StoreError, UsageError
from ports.jobs import _places, _there
from ports.jobs._connection import revive
from ports.jobs._protocol import Decoder, encode
from ports.jobs._there import FarConnection
from ports.probe import words
from tests.unit.test_job_connection import Server

pytestmark = [pytest.mark.ci]

OLD_PYTHONS = [*Path.home().glob(".pyenv/versions/3.6.*/bin/python"), Path("/usr/bin/python3.6")]
OLD_PYTHON = next((path for path in OLD_PYTHONS if path.exists()), None)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(hosts, "resolve", lambda _: hosts.here())
    return tmp_path


@pytest.fixture
def far(home: Path) -> Iterator[FarConnection]:
    """A session with a machine on which no resource runs."""
    with _there.connect("far", start=False, at_rest=True) as connection:
        assert isinstance(connection, FarConnection)
        yield connection


@pytest.fixture
def server(home: Path) -> Iterator[Server]:
    """A resource of this user, as one on another machine."""
    one = Server(_places.make_places().socket)
    yield one
    one.close()


def submit(far: FarConnection, count: int | None = None, key: str | None = None, **spec: Any) -> str:
    blobs = [b"f", *(b"%d" % index for index in range(1 if count is None else count))]
    fields = {"key": key or secrets.token_hex(16), "count": count, "submission": {"kind": "function", **spec}}
    return str(far.ask("submit", blobs, timeout=None, **fields).header["id"])


# --- without a resource ---


def test_the_queue_at_rest_answers_a_session(far: FarConnection) -> None:
    assert far.is_at_rest and far.resource["python"] == ".".join(map(str, sys.version_info[:2]))
    assert far.ask("list").header["rows"] == []
    key = secrets.token_hex(16)
    assert (submit(far, key=key), submit(far, 3), submit(far, key=key)) == ("1", "2", "1")
    with pytest.raises(NotFoundError, match="no job '7'"):
        far.ask("show", id="7")
    assert far.ask("cancel", ids=["2.1"]).header["cancelled"] == ["2.1"]
    assert far.ask("list").header["counts"] | {"pending": 3, "cancelled": 1} == far.ask("list").header["counts"]


def test_who_waits_at_rest_hears_of_a_change_and_of_its_time(far: FarConnection) -> None:
    one, many = submit(far), submit(far, 2)
    began = time.monotonic()
    assert far.ask("result", id=one, wait=0.5).header["state"] == "pending"
    (last,) = far.stream("result", id=many, wait=0.5)
    assert last.header["has_ended"] is False and time.monotonic() - began >= 1.0
    watch = far.stream("watch", ids=[one, many])
    assert [row["state"] for row in next(watch).header["rows"]] == ["pending", "pending"]
    with _there.connect("far", start=False, at_rest=True) as other:
        other.ask("cancel", ids=[many])
        assert [row["state"] for row in next(watch).header["rows"]] == ["pending", "cancelled"]
        other.ask("cancel", ids=[one])
    assert [[row["state"] for row in frame.header["rows"]] for frame in watch] == [["cancelled", "cancelled"]]


def test_a_resource_that_starts_answers_who_waits(far: FarConnection) -> None:
    id = submit(far)
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.append(far.ask("result", id=id, wait=None, timeout=20).header))
    waiting.start()
    time.sleep(0.2)
    server = Server(_places.here().socket)
    server.answer = lambda frame: [encode({"n": frame.header["n"], "state": frame.header["op"]})]
    waiting.join(20)
    assert found[0]["state"] == "result"
    assert [frame.header["op"] for frame in server.seen][-1:] == ["result"]
    assert far.ask("show", id=id).header["state"] == "show"  # and so does all else
    assert far.ask("disk.status").header["n_left"] == 1
    far.look_again()
    far.close()
    server.close()


@pytest.mark.skipif(OLD_PYTHON is None, reason="there is no Python 3.6 here")
def test_python_3_6_answers_for_the_queue(home: Path) -> None:
    line = probe.first_line({"do": "jobs", "marker": "m:"})
    command = [str(OLD_PYTHON), "-I", "-S", "-c", "import sys;exec(sys.stdin.buffer.readline())"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as running:
        assert running.stdin is not None and running.stdout is not None
        running.stdin.write(line)
        assert running.stdout.readline() == b"\n"
        assert b'"is_running": false' in running.stdout.readline()
        is_code, code = probe.more("jobs", "")
        key = {"key": "ab" * 16, "submission": {"kind": "function"}, "count": None}
        asked = [({"op": "disk.code", "is_code": is_code}, [code]), ({"op": "submit", "n": 1, **key}, [b"f", b""])]
        asked += [({"op": "list", "n": 2}, []), ({"op": "disk.status", "n": 3}, []), ({"op": "show", "n": 4}, [])]
        running.stdin.write(b"".join(encode(*one) for one in asked))
        decoder, frames = Decoder(), list[Any]()
        while len(frames) < 4 and (data := os.read(running.stdout.fileno(), 65536)):
            frames += decoder.feed(data)
        running.stdin.close()
        assert running.wait(20) == 0
    assert [frame.header.get("id") or len(frame.header.get("rows", ())) for frame in frames[:2]] == ["1", 1]
    assert frames[2].header["python"].startswith("3.6.") and frames[3].header["error"]["exit_code"] == 2


def test_two_machines_with_one_id_and_one_home_keep_two_queues(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ports.probe import own_host, places

    first = Path(own_host.host_directory())
    places.make_queue(str(first / "jobs"))
    assert Path(own_host.host_directory()) == first == state.paths.here().root
    monkeypatch.setattr(own_host, "node", lambda: "server2")
    assert Path(own_host.host_directory()) == first  # the same boot: it was given another name
    monkeypatch.setattr(own_host, "boot_id", lambda: "another")
    assert own_host.host_directory().startswith(f"{first}-")


# --- files ---


def test_pieces_of_files_are_read_with_offsets(far: FarConnection) -> None:
    work = _places.make_places().work / "1"
    work.mkdir()
    (work / "stdout").write_bytes(b"0123456789" * 10)
    for offset, most, begin, data in ((0, 4, 0, b"0123"), (98, 9, 98, b"89"), (-3, 9, 97, b"789"), (-500, 2, 0, b"01")):
        found = far.ask("disk.read", path="work/1/stdout", offset=offset, most=most)
        assert (found.header["offset"], found.header["size"], found.blobs) == (begin, 100, [data])
        assert found.header["head"] == "0123456789012345678901234"
    assert far.ask("disk.read", path="work/1/stdout", offset=500).blobs == [b""]
    assert far.ask("disk.read", path="work/2/stdout").header["missing"] is True
    for most in (-1, 2**30, None, True, "1"):
        with pytest.raises(UsageError, match="offset and most"):
            far.ask("disk.read", path="work/1/stdout", most=most)


PATHS = [
    *("/etc/passwd", "../owner.json", "work/../owner.json", "work/1/../../owner.json", "work//1", "work/", "."),
    *("owner.json", "environs/KEY", "store.sqlite", "work/1/out", "work/link/stdout", "work/1/dir", "work/\0", ""),
    *(None, 7, ["work"], "work/1/stdout/x"),
]


def test_only_files_of_jobs_are_read_and_no_link_is_followed(far: FarConnection) -> None:
    places = _places.make_places()
    work = places.work / "1"
    (work / "dir").mkdir(parents=True)
    (work / "stdout").write_text("mine")
    (work / "out").symlink_to("/etc/passwd")
    (places.work / "link").symlink_to(work)
    places.owner.write_text("secret")
    (places.environs / "KEY").write_text("secret")
    for path in PATHS:
        with pytest.raises(UsageError, match="path: "):
            far.ask("disk.read", path=path)


def test_a_fifo_among_the_output_is_no_file_and_holds_nobody(far: FarConnection) -> None:
    work = _places.make_places().work / "1"
    work.mkdir()
    os.mkfifo(work / "pipe")
    with pytest.raises(UsageError, match="is no file"):
        far.ask("disk.read", path="work/1/pipe", timeout=20)
    assert far.ask("disk.list", id="1").header["files"] == []


def test_the_files_of_a_job_are_listed_page_by_page(far: FarConnection) -> None:
    copy = _places.make_places().work / "1" / "workspace"
    (copy / "a").mkdir(parents=True)
    for name in ("a/x", "a/y", "b", b"\xff".decode(errors="surrogateescape")):
        (copy / name).write_text(name, errors="surrogateescape")
    (copy / "c").symlink_to("/etc")
    (copy / "b").chmod(0o750)
    pages: list[Any] = []
    while not pages or pages[-1]["is_cut"]:
        after = pages[-1]["files"][-1][0] if pages else ""
        pages.append(far.ask("disk.list", id="1", below="workspace", most=2, after=after).header)
    files = [file for page in pages for file in page["files"]]
    assert [file[0] for file in files] == ["a/x", "a/y", "b", "c", "\udcff"]
    assert [*files[2][1:3], files[2][4]] == ["f", 1, 0o750] and (files[3][1], files[3][5]) == ("l", "/etc")
    wrongs: list[dict[str, Any]] = [{"id": "x"}, {"id": "1", "most": 0}]
    for wrong in (*wrongs, {"id": "1", "below": "../2"}, {"id": "1", "below": "workspace/c"}):
        with pytest.raises(UsageError):
            far.ask("disk.list", **wrong)
    assert far.ask("disk.list", id="9").header["missing"] is True


def test_the_environment_of_a_script_is_kept_privately(far: FarConnection) -> None:
    key = "ab" * 16
    far.ask("disk.environ", [b'{"A": "b"}'], key=key)
    path = _places.here().environ_of(key)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ('{"A": "b"}', 0o600)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    far.ask("disk.environ", key=key)
    assert not path.exists()
    with pytest.raises(UsageError, match="is not 32 hexadecimal digits"):
        far.ask("disk.environ", [b"{}"], key="../../x")


def test_a_disk_that_refuses_is_an_answer_with_the_way_out(far: FarConnection) -> None:
    submit(far)
    places = _places.here()
    places.submissions.rename(places.root / "elsewhere")
    places.submissions.write_text("no directory")
    with pytest.raises(StoreError, match="submissions: Not a directory"):
        far.ask("list")
    with pytest.raises(StoreError, match="submissions"):
        submit(far)
    places.submissions.unlink()
    assert far.ask("list").header["rows"] == []


# --- with a resource ---


def test_files_are_read_between_the_pieces_of_an_answer(server: Server) -> None:
    """What the program answers itself never falls into the middle of a frame of the resource."""
    large = os.urandom(3 << 20)

    def answer(frame: Any) -> list[bytes]:
        whole = encode({"n": frame.header["n"]}, [large])
        return [whole[: 1 << 20], whole[1 << 20 :]]

    server.answer = answer
    work = _places.here().work / "1"
    work.mkdir()
    (work / "stdout").write_text("hello")
    with _there.connect("far", at_rest=True) as connection:
        assert not connection.is_at_rest
        found: list[bool] = []

        def ask(*request: Any, **fields: Any) -> None:
            for _ in range(4):
                blob = connection.ask(*request, timeout=20, **fields).blobs[0]
                found.append(blob == (b"hello" if fields else large))

        threads = [threading.Thread(target=ask, args=("many",)) for _ in range(2)]
        threads += [
            threading.Thread(target=ask, args=("disk.read",), kwargs={"path": "work/1/stdout"}) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert found == [True] * 16


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "no frame begins with"),
        (b"PJ01" + b"\xff" * 8, "at most"),
        (b"PJ01" + (2).to_bytes(4, "big") + (0).to_bytes(4, "big") + b"[]", "no JSON object"),
        (encode({"op": "disk.put", "n": 1}, [bytes(64 * 2**20 + 1)])[: 1 << 16], "more than 67108864 bytes"),
    ],
    ids=["HTTP", "huge", "list", "large"],
)
@pytest.mark.parametrize("has_resource", [False, True], ids=["at rest", "resource"])
def test_hostile_frames_end_the_session_in_words(home: Path, data: bytes, text: str, has_resource: bool) -> None:
    server = Server(_places.make_places().socket) if has_resource else None
    with _there.connect("far", start=False, at_rest=True) as connection:
        connection._socket.sendall(data)
        with pytest.raises(PortsError) as caught:
            for _ in range(100):
                connection.ask("status", timeout=20)
                time.sleep(0.05)
        assert isinstance(caught.value, UsageError | ResourceLostError)
        if isinstance(caught.value, UsageError):
            assert text in str(caught.value)
    if server is not None:
        server.close()


def test_unknown_requests_are_refused_and_the_session_goes_on(far: FarConnection) -> None:
    for op in ("disk.format", "nonsense", "claim", "drain", "prune"):
        with pytest.raises((UsageError, NotFoundError)):
            far.ask(op, timeout=20)
    assert far.ask("list").header["rows"] == []


def test_a_socket_that_nobody_answers_is_a_queue_at_rest(home: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(_places.make_places().socket))
    with _there.connect("far", start=False, at_rest=True) as connection:
        assert connection.is_at_rest and connection.ask("list").header["rows"] == []


def test_errors_of_the_queue_at_rest_are_revived_at_home() -> None:
    error = revive(words.no_job("12").told())
    assert type(error) is NotFoundError and error.args == ("job", "12", "`ports job list` shows what there is")
