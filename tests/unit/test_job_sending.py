"""The files of a script on their way to another machine: what is asked, what is sent, and what is never written there.

The other machine is the program that is piped to it, in this process, with a directory of jobs of its own.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ports
from ports.errors import ResourceLostError, StoreError, UsageError
from ports.jobs import _client, _copies, _places, _scripts, _sending, _travel
from ports.jobs._protocol import Frame
from ports.jobs.resource import call, lay_out
from ports.probe.queue import sent
from ports.probe.queue.words import Refused
from ports.state import wait_until

KEY = "ab" * 16
OPS = {name: getattr(sent, name.replace(".", "_")) for name in ("disk.missing", "disk.put", "disk.keep", "disk.forget")}


class Far:
    """Another machine; `cut_after` messages with content, the way to it is cut."""

    def __init__(self, root: Path) -> None:
        self.root, self.asked, self.n_bytes, self.cut_after = root, [], 0, 10**9  # type: ignore[var-annotated]

    def ask(self, op: str, blobs: Any = (), **fields: Any) -> Frame:
        self.asked.append(op)
        if op == "disk.put":
            self.cut_after -= 1
            if self.cut_after < 0:
                raise ResourceLostError("the way is cut")
        self.n_bytes += sum(map(len, blobs))
        try:
            header, back = OPS[op](str(self.root), json.loads(json.dumps(fields)), [bytes(one) for one in blobs])
        except Refused as error:
            raise UsageError(error.text) from error
        return Frame(json.loads(json.dumps(header)), back)

    def again(self) -> list[str]:
        """Return what was asked, and forget it; the session ends."""
        for one in sent.SENDING.values():
            os.close(one)
        sent.SENDING.clear()
        asked, self.asked, self.n_bytes = self.asked, [], 0
        return asked

    def laid_out(self, script: Any, to: Path) -> Path:
        tree = script.submission.script["workspace"]["tree"]
        lay_out.lay_out(str(self.root / "objects"), tree, str(to))
        return to


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    (tmp_path / "top").mkdir()
    monkeypatch.chdir(tmp_path / "top")
    return tmp_path / "top"


@pytest.fixture
def far(tmp_path: Path) -> Any:
    one = Far(tmp_path / "far" / "hosts" / "id" / "jobs")
    yield one
    one.again()


def sending(far: Far, say: Callable[[str], object] = print, **options: Any) -> tuple[Any, dict[str, Any]]:
    plan = _copies.plan(_scripts.describe(["true"]), **options)
    return _sending.send(far, plan, KEY, host="server1", say=say)


def later(top: Path) -> None:
    """Let files be so old that they cannot change again within the same time."""
    for path in top.rglob("*"):
        os.utime(path, (1_500_000_000, 1_500_000_000))


def test_files_come_out_equal_there(top: Path, far: Far, tmp_path: Path) -> None:
    (top / "sub").mkdir()
    (top / "sub" / "a").write_bytes(bytes(range(256)) * 1000)
    (top / "run").write_text("#!/bin/sh\n")
    (top / "run").chmod(0o755)
    (top / "link").symlink_to("sub/a")
    (top / "empty").mkdir()
    script, row = sending(far)
    assert row["n_new_bytes"] > 256_000 and row["how"] == "copy"
    out = far.laid_out(script, tmp_path / "out")
    assert (out / "sub" / "a").read_bytes() == (top / "sub" / "a").read_bytes()
    assert (out / "run").stat().st_mode & 0o100 and os.readlink(out / "link") == "sub/a" and (out / "empty").is_dir()
    assert json.loads((far.root / "workspaces" / KEY).read_text())["tree"] == row["tree"]


def test_an_unchanged_directory_costs_one_question(top: Path, far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(50):
        (top / f"f{number}").write_text(str(number))
    monkeypatch.setattr("ports.jobs._trees._RACY", 0)
    sending(far)
    far.again()
    assert sending(far)[1]["n_new_bytes"] == 0
    assert far.again() == ["disk.missing", "disk.keep"]


@pytest.mark.parametrize("few", [2_000, 10])  # all objects are asked for, or directories first
def test_of_many_files_only_the_changed_one_is_sent(
    top: Path, far: Far, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, few: int
) -> None:
    monkeypatch.setattr(_sending, "_FEW", few)
    for number in range(120):
        path = top / f"d{number % 7}" / f"f{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{number}" * 100)
    sending(far)
    far.again()
    (top / "d3" / "f3").write_text("changed")
    script, _ = sending(far)
    asked = far.asked
    assert asked.count("disk.missing") <= 3 and asked.count("disk.put") <= 2 and far.n_bytes < 5_000
    assert (far.laid_out(script, tmp_path / "out") / "d3" / "f3").read_text() == "changed"


def test_after_a_cut_only_the_rest_is_sent(
    top: Path, far: Far, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_sending, "_MOST_BYTES", 100_000)
    for number in range(10):
        (top / f"small{number}").write_bytes(os.urandom(60_000))
    (top / "large").write_bytes(os.urandom(1_000_000))
    far.cut_after = 15  # ten small ones, and half of the large one
    with pytest.raises(ResourceLostError):
        sending(far)
    far.again()
    assert not (far.root / "workspaces" / KEY).exists()
    far.cut_after = 10**9
    script, _ = sending(far)
    assert far.n_bytes < 800_000, "what had arrived was sent again"
    out = far.laid_out(script, tmp_path / "out")
    assert all((out / path.name).read_bytes() == path.read_bytes() for path in top.iterdir())


@pytest.mark.parametrize("stops_at", ["digest_of", "move_objects"])
def test_a_large_file_whose_last_step_failed_is_sent_the_next_time(
    top: Path, far: Far, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stops_at: str
) -> None:
    monkeypatch.setattr(_sending, "_MOST_BYTES", 100_000)
    (top / "large").write_bytes(os.urandom(1_000_000))

    def full(*_: object) -> Any:
        if list((far.root / "objects" / ".sent").glob("*")):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*_)

    real = getattr(sent, stops_at)
    with monkeypatch.context() as patch:
        patch.setattr(sent, stops_at, full)
        with pytest.raises(OSError, match="No space"):
            sending(far)
    (part,) = (far.root / "objects" / ".sent").iterdir()
    assert part.stat().st_size == 1_000_000
    far.again()
    script, _ = sending(far)
    assert far.n_bytes < 10_000, "what had arrived was sent again"
    assert (far.laid_out(script, tmp_path / "out") / "large").read_bytes() == (top / "large").read_bytes()


def test_prune_works_in_a_session_whose_submission_failed(top: Path, far: Far) -> None:
    (top / "a").write_text("1")
    sending(far)
    far.ask("disk.missing", trees=[], names=[])  # of a submission that ends in an error
    assert sent.disk_sweep(str(far.root), {}, [])[0] == {"n_bytes": 0}
    far.ask("disk.missing", trees=[], names=[])
    far.ask("disk.forget", key=KEY)
    assert sent.SENDING == {} and sent.sweep_objects(str(far.root)) > 0


def test_prune_says_that_files_are_being_sent(top: Path, far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sent, "LOCK_SECONDS", 0.1)
    (top / "a").write_text("1")
    sending(far)
    far.ask("disk.missing", trees=[], names=[])
    with pytest.raises(Refused) as refused:
        sent.sweep_objects(str(far.root))
    assert "files of a job are being copied just now" in refused.value.text
    lock = sent.SENDING[str(far.root / "objects")]
    with pytest.warns(UserWarning, match="`ports job prune` removes them later"):  # the jobs are removed all the same
        assert _copies.sweep(_places.Places(far.root, far.root / "run")) == 0
    assert sent.SENDING[str(far.root / "objects")] == lock
    far.ask("disk.forget", key=KEY)
    assert _copies.sweep(_places.Places(far.root, far.root / "run")) > 0


@pytest.mark.parametrize("step", ["chmod", "makedirs", "replace"])
def test_a_large_file_whose_last_step_failed_is_sent_again(
    top: Path, far: Far, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk was full, or there was a power cut, when all of it had arrived and it was not in its place yet."""
    monkeypatch.setattr(_sending, "_MOST_BYTES", 100_000)
    (top / "large").write_bytes(os.urandom(250_000))
    later(top)
    real, real_open = getattr(os, step), os.open

    def full(path: Any, *rest: Any, **options: Any) -> Any:
        if str(path).startswith(str(far.root / "objects")) and (step != "makedirs" or len(Path(path).name) == 2):
            raise OSError(28, "No space left on device", str(path))
        return real(path, *rest, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, step, full)
        with pytest.raises(OSError, match="No space"):
            sending(far)
    (part,) = (far.root / "objects" / ".sent").iterdir()
    assert part.stat().st_size == 250_000
    far.again()

    def guarded(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if str(path) == str(part) and flags & os.O_WRONLY and part.exists() and not part.stat().st_mode & 0o200:
            raise PermissionError(13, "Permission denied", str(path))  # as for everybody but root
        return real_open(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", guarded)
    script, _ = sending(far)
    assert far.n_bytes < 10_000, "all of it was sent again"
    assert (far.laid_out(script, tmp_path / "out") / "large").read_bytes() == (top / "large").read_bytes()


def test_a_part_that_is_no_part_of_the_file_is_sent_again(
    top: Path, far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sending, "_MOST_BYTES", 100_000)
    (top / "large").write_bytes(os.urandom(250_000))
    later(top)
    name = hashlib.sha256((top / "large").read_bytes()).hexdigest()
    for content in (b"x" * 250_000, b"x" * 300_000, b"x" * 10):
        (far.root / "objects" / ".sent").mkdir(parents=True, exist_ok=True)
        (far.root / "objects" / ".sent" / name).write_bytes(content)
        script, _ = sending(far)
        assert (far.laid_out(script, tmp_path / f"{len(content)}") / "large").stat().st_size == 250_000
        far.again()
        (far.root / "objects" / name[:2] / name[2:]).unlink()


def test_an_upload_that_is_interrupted_waits_for_no_message(
    top: Path, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C, while the way to the machine is cut: each message is tried again for a minute."""
    monkeypatch.setattr(_sending, "_MOST_BYTES", 50_000)
    monkeypatch.setattr(_sending, "_SILENT", 0.0)
    for number in range(6):
        (top / f"{number}").write_bytes(os.urandom(40_000))
    real, cut, is_back = far.ask, threading.Event(), threading.Event()

    def ask(op: str, blobs: Any = (), **fields: Any) -> Frame:
        if op == "disk.put" and cut.is_set():
            is_back.wait()
        cut.set() if op == "disk.put" else None
        return real(op, blobs, **fields)

    def interrupted(text: str) -> None:
        raise KeyboardInterrupt

    far.ask = ask  # type: ignore[method-assign]
    late = threading.Timer(30, is_back.set)
    late.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            sending(far, interrupted)
        assert not is_back.is_set(), "it waited for the way"
        wait_until(lambda: not sent.SENDING or None, timeout=30, what="the lock")  # `prune` there can go on
        assert not (far.root / "workspaces" / KEY).exists()
    finally:
        late.cancel()
        is_back.set()


def test_objects_that_were_removed_there_are_sent_again(top: Path, far: Far, tmp_path: Path) -> None:
    (top / "a").write_text("1")
    later(top)
    sending(far)
    far.again()
    (far.root / "workspaces" / KEY).unlink()
    assert sent.sweep_objects(str(far.root)) > 0
    script, _ = sending(far)
    assert (far.laid_out(script, tmp_path / "out") / "a").read_text() == "1"


def test_what_is_being_sent_is_not_removed_meanwhile(top: Path, far: Far) -> None:
    (top / "a").write_text("1")
    assert OPS["disk.missing"](str(far.root), {"trees": ["0" * 64]}, [])[0]["missing"] == ["0" * 64]

    def is_held() -> bool:
        with (far.root / "objects" / "lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as `sweep_objects` waits for it
            except BlockingIOError:
                return True
        return False

    assert is_held()
    OPS["disk.keep"](str(far.root), {"key": KEY, "trees": ["0" * 64]}, [])
    assert not is_held()


def test_a_file_that_changes_while_it_is_sent_is_read_again(top: Path, far: Far, tmp_path: Path) -> None:
    (top / "a").write_text("1")
    real, far_ask = far.ask, []

    def ask(op: str, blobs: Any = (), **fields: Any) -> Frame:
        if not far_ask:
            far_ask.append(op)
            (top / "a").write_text("22")
        return real(op, blobs, **fields)

    far.ask = ask  # type: ignore[method-assign]
    script, _ = sending(far)
    assert (far.laid_out(script, tmp_path / "out") / "a").read_text() == "22"


def test_a_full_disk_there_is_refused_before_anything_is_sent(
    top: Path, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    (top / "a").write_text("1" * 3000)
    monkeypatch.setattr(_sending, "_SPARE", 1 << 60)
    text = r"server1:.*no space for 3 KiB in 2 files, .* are free.*`ports job prune -H server1 --older 7d`"
    with pytest.raises(StoreError, match=text):
        sending(far)
    assert "disk.put" not in far.asked and not list((far.root / "objects").glob("??"))


def test_a_long_way_says_how_far_it_is(top: Path, far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    (top / "a").write_bytes(os.urandom(3000))
    monkeypatch.setattr(_sending, "_SILENT", 0.0)
    said: list[str] = []
    sending(far, said.append)
    assert said == ["sending to server1: 3 KiB of 3 KiB"]


OUTSIDE = ["../x", "/etc/passwd", "..", "a" * 63, "A" * 64, "a" * 64 + ".y", "a" * 64 + "\n", "a" * 62 + "/.", 7, None]


@pytest.mark.parametrize("name", OUTSIDE, ids=ascii)
def test_a_name_that_is_no_digest_is_refused(far: Far, name: Any) -> None:
    put = OPS["disk.put"]
    for header in ({"names": [name]}, {"name": name, "at": 0, "size": 1}):
        with pytest.raises(Refused, match=r"is no (list of )?object"):
            put(str(far.root), header, [b"x"])
    for field in ("trees", "names"):
        with pytest.raises(Refused):
            OPS["disk.missing"](str(far.root), {field: [name]}, [])
    for op in ("disk.keep", "disk.forget"):
        with pytest.raises(Refused, match="is no key"):
            OPS[op](str(far.root), {"key": name, "trees": ["a" * 64]}, [])
    assert not [one for one in far.root.rglob("*") if one.is_file() and one.name != "lock"]


@pytest.mark.parametrize("header", [{"at": -1, "size": 3}, {"at": 0, "size": "3"}, {"at": True, "size": 3}, {"at": 0}])
def test_a_place_that_is_in_no_file_is_refused(far: Far, header: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="is no place in a file"):
        OPS["disk.put"](str(far.root), {"name": "a" * 64, **header}, [b"xyz"])


def test_content_of_another_digest_is_refused(far: Far) -> None:
    name = hashlib.sha256(b"right").hexdigest()
    for header in ({"names": [name]}, {"name": name, "at": 0, "size": 5}):
        with pytest.raises(Refused, match=r"the content of .* is another one"):
            OPS["disk.put"](str(far.root), header, [b"wrong"])
    assert not [one for one in far.root.rglob("*") if one.is_file() and one.name != "lock"]
    OPS["disk.put"](str(far.root), {"names": [name]}, [b"right"])  # the control
    assert (far.root / "objects" / name[:2] / name[2:]).read_bytes() == b"right"


def test_a_tree_that_is_not_whole_is_not_kept(far: Far) -> None:
    data = lay_out.dump([lay_out.Entry("f", "c" * 64, 3, b"a")])
    tree = hashlib.sha256(data).hexdigest()
    OPS["disk.put"](str(far.root), {"names": [tree]}, [data])
    assert OPS["disk.missing"](str(far.root), {"trees": [tree]}, [])[0]["missing"] == [tree]
    assert OPS["disk.keep"](str(far.root), {"key": KEY, "trees": [tree]}, [])[0] == {"is_whole": False}
    assert not (far.root / "workspaces" / KEY).exists()


def test_an_object_that_a_job_changed_counts_as_missing(far: Far) -> None:
    name = hashlib.sha256(b"right").hexdigest()
    OPS["disk.put"](str(far.root), {"names": [name]}, [b"right"])
    path = far.root / "objects" / name[:2] / name[2:]
    path.chmod(0o600)
    path.write_bytes(b"wrong")
    assert OPS["disk.missing"](str(far.root), {"names": [name]}, [])[0]["missing"] == [name]


def test_a_refused_submission_leaves_nothing_that_is_kept(top: Path, far: Far) -> None:
    (top / "a").write_text("1")
    sending(far)
    far.again()
    _sending.forget(far, KEY)
    assert sent.sweep_objects(str(far.root)) > 0 and not list((far.root / "objects").glob("??/*"))


def test_two_gigabytes_of_untracked_files_are_refused_with_names(top: Path, far: Far) -> None:
    subprocess.run(["git", "init", "-q"], check=True)
    for number in range(12):
        with (top / f"data{number:02}.bin").open("wb") as file:
            file.truncate(170_000_000 + number)
    with pytest.raises(UsageError) as caught:
        sending(far)
    text = str(caught.value)
    assert "to send, more than 1 GB" in text and "--send-all" in text and ".portsignore" in text
    assert text.count("data") == 10 and "data00" not in text and "data01" not in text  # the ten largest
    assert far.asked == []
    (top / ".portsignore").write_text("*.bin\n")  # the way out
    row = sending(far)[1]
    assert row["n_files"] == 1 and {one["path"] for one in row["left"]} == {f"data{n:02}.bin" for n in range(12)}


def test_what_is_there_is_looked_at_once_for_a_submission(top: Path, far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        (top / f"f{number}").write_text(str(number))
    later(top)
    sending(far)
    far.again()
    looked: list[str] = []
    real = sent.is_object
    monkeypatch.setattr(sent, "is_object", lambda *given: looked.append(given[1]) or real(*given))
    assert sending(far)[1]["n_new_bytes"] == 0
    assert len(looked) == len(set(looked)) == 30
    assert str(far.root / "objects") not in sent.WHOLE  # the next one looks again


def lengths(large: Any, small: Any) -> tuple[int, int]:
    return len(Path(large).read_bytes()), len(Path(small).read_bytes())


@pytest.fixture
def own(top: Path) -> Iterator[Far]:
    """Another machine whose jobs run in this process."""
    (top / "large.bin").write_bytes(os.urandom(200_000))
    (top / "small.txt").write_text("small")
    one = Far(_places.make_places().root)
    yield one
    one.again()
    call.forget()


def parcel_of(how: Any) -> Any:
    return how(lengths, [((ports.File("large.bin"), ports.File("small.txt")), {})], is_far=True)


@pytest.mark.parametrize("how", [_travel.pack, _travel.write], ids=["pickled", "written"])
def test_the_content_of_a_file_is_sent_once_and_is_there_for_each_job(own: Far, how: Any) -> None:
    parcel = parcel_of(how)
    assert len(parcel.function) < 50_000 and [len(one) for one in parcel.kept.values()] == [200_000]
    _sending.keep(own.ask, KEY, parcel.kept, host="server1")
    assert own.n_bytes == 200_000 and own.again() == ["disk.missing", "disk.put", "disk.keep"]
    _sending.keep(own.ask, "cd" * 16, parcel_of(how).kept, host="server1")
    assert own.n_bytes == 0 and own.again() == ["disk.missing", "disk.keep"]
    outcome = call.run(parcel.function, parcel.arguments[0])
    assert outcome.error is None and _travel.unpack(outcome.blob, "it") == (200_000, 5)
    sent.sweep_objects(str(own.root))
    (own.root / "workspaces" / KEY).unlink()
    sent.sweep_objects(str(own.root))  # the second job needs it still
    assert _sending.keep(own.ask, "ef" * 16, parcel.kept, host="server1") is None and own.n_bytes == 0


def test_after_a_cut_only_the_rest_of_a_content_is_sent(own: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sending, "_MOST_BYTES", 64 * 1024)
    parcel, own.cut_after = parcel_of(_travel.pack), 2
    with pytest.raises(ResourceLostError):
        _sending.keep(own.ask, KEY, parcel.kept, host="server1")
    own.again()
    own.cut_after = 99
    _sending.keep(own.ask, KEY, parcel.kept, host="server1")
    assert own.n_bytes <= 200_000 - 2 * 64 * 1024 + 1  # the last byte that is there goes again: it ends the file
    outcome = call.run(parcel.function, parcel.arguments[0])
    assert _travel.unpack(outcome.blob, "it") == (200_000, 5)


def test_a_content_that_is_gone_is_said_by_the_name_of_its_file(own: Far) -> None:
    parcel = parcel_of(_travel.pack)
    outcome = call.run(parcel.function, parcel.arguments[0])
    assert outcome.error is not None and "the content of the file large.bin did not come along" in str(outcome.error)


def test_a_refused_submission_keeps_no_content_there(own: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(op: str, blobs: Any = (), *, host: str | None, **fields: Any) -> Any:
        if op == "submit":
            raise UsageError("this job can never run here")
        return own.ask(op, blobs, **fields)

    monkeypatch.setattr(_client, "ask", ask)
    monkeypatch.setattr(_client, "python", lambda host: None)
    with ports.host("server1"), pytest.raises(UsageError, match="never run"):
        ports.submit(lengths, ports.File("large.bin"), 1)
    assert own.asked == ["disk.missing", "disk.put", "disk.keep", "disk.forget"]
    assert list((own.root / "workspaces").iterdir()) == []
