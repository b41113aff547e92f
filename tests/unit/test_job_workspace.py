"""What of a directory goes along with a script, and that it comes out equal."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ports.errors import StoreError, UsageError
from ports.jobs import _asking, _durable, _places, _scripts, _trees, _workspace
from ports.jobs._trees import Objects
from ports.jobs._workspace import Selection, check_words, select
from ports.jobs.resource import lay_out
from ports.probe.queue import sent

GIT = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "top").mkdir()
    return tmp_path / "top"


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    (tmp_path / "objects").mkdir()
    return Objects(tmp_path / "objects")


def git(top: Path, *words: str) -> None:
    subprocess.run(["git", *GIT, *words], cwd=top, check=True, capture_output=True)


def write(top: Path, **files: str) -> None:
    """Write files; ``__`` in a name is a slash, and ``_`` at its beginning a dot."""
    for name, text in files.items():
        path = top / name.replace("__", "/").replace("DOT", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def left(found: Selection) -> dict[str, str]:
    return {one.path: one.why for one in found.left}


def copied(top: Path, objects: Objects) -> _trees.Tree:
    return _trees.snapshot(objects, lambda: select(top))[0]


def shape(top: Path) -> dict[bytes, Any]:
    """Return everything in a directory: content and mode of files, targets of links, names of directories."""
    found: dict[bytes, Any] = {}
    for place, folders, names in os.walk(os.fsencode(top)):
        for name in [*folders, *names]:
            path = os.path.join(place, name)
            status, key = os.lstat(path), os.path.relpath(path, os.fsencode(top))
            if stat.S_ISLNK(status.st_mode):
                found[key] = os.readlink(path)
            elif stat.S_ISDIR(status.st_mode):
                found[key] = "directory"
            else:
                found[key] = (Path(os.fsdecode(path)).read_bytes(), bool(status.st_mode & 0o100))
    return found


# --- what goes along ---


def test_what_git_tracks_or_would_track_goes_along(top: Path) -> None:
    git(top, "init", "-q")
    write(top, a="1", new="2", DOTgitignore="data/\n*.log\n", data__x="12345", run__DOTkeep="", gone="")
    write(top, out="7", **{"a.log": "123"})
    git(top, "add", "a", "gone", ".gitignore")
    (top / "gone").unlink()
    (top / "empty" / "inner").mkdir(parents=True)
    found = select(top)
    assert sorted(found.files) == [".gitignore", "a", "new", "out", "run/.keep"] and found.empty == ("empty/inner",)
    assert left(found) == {"data/": "git ignores it", "a.log": "git ignores it"}
    assert [one.n_bytes for one in found.left] == [3, 5]


def test_a_directory_below_the_top_of_git_is_a_workspace(top: Path) -> None:
    git(top, "init", "-q")
    write(top, a="1", sub__b="2", DOTgitignore="*.log", **{"sub__c.log": "1", "ignored__x": "1"})
    assert sorted(select(top / "sub").files) == ["b"] and left(select(top / "sub")) == {"c.log": "git ignores it"}


def test_a_directory_that_git_ignores_goes_along_whole(top: Path) -> None:
    git(top, "init", "-q")
    write(top, DOTgitignore="scratch/\n", scratch__a="1", scratch__b__c="2")
    assert sorted(select(top / "scratch").files) == ["a", "b/c"]


def test_a_repository_in_a_repository_goes_along(top: Path) -> None:
    git(top, "init", "-q")
    write(top, a="1", inner__b="2", inner__DOTgitignore="*.log\n", **{"inner__c.log": "3"})
    git(top / "inner", "init", "-q")
    git(top / "inner", "add", "b")
    assert sorted(select(top).files) == ["a", "inner/.gitignore", "inner/b"]
    assert left(select(top)) == {"inner/c.log": "git ignores it"}


def test_a_submodule_goes_along(top: Path, tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "other")
    write(tmp_path / "other", b="2")
    git(tmp_path / "other", "add", ".")
    git(tmp_path / "other", "commit", "-qm", "b")
    git(top, "init", "-q")
    git(top, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(tmp_path / "other"), "inner")
    assert sorted(select(top).files) == [".gitmodules", "inner/b"] and left(select(top)) == {}


def test_without_git_all_goes_along(top: Path) -> None:
    write(top, a="1", sub__b="2", inner__c="3")
    git(top / "inner", "init", "-q")
    assert sorted(select(top).files) == ["a", "inner/c", "sub/b"] and left(select(top)) == {
        "inner/.git/": "it is git's own"
    }


def test_portsignore_leaves_behind_and_takes_along(top: Path) -> None:
    git(top, "init", "-q")
    write(top, a="1", big="2", DOTgitignore="data/\n", data__x="1", data__sub__y="2", data__z="33", docs__d="1")
    write(top, DOTportsignore="big\ndocs/\n!data/sub/\n!/data/x\n")
    git(top, "add", "a", "big", "docs")
    found = select(top)
    assert sorted(found.files) == [".gitignore", ".portsignore", "a", "data/sub/y", "data/x"]
    assert left(found) == {
        "big": ".portsignore names it",
        "docs/": ".portsignore names it",
        "data/": "git ignores it",
    }
    assert [one.n_bytes for one in found.left if one.path == "data/"] == [2]


def test_a_bad_line_of_portsignore_is_named(top: Path) -> None:
    write(top, DOTportsignore="a\n!\n")
    with pytest.raises(UsageError, match="no pattern"):
        select(top)


def test_secrets_that_git_does_not_track_stay_behind(top: Path, objects: Objects) -> None:
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END OPENSSH PRIVATE KEY-----\n"
    git(top, "init", "-q")
    write(top, DOTenv="A=1", sub__DOTenv="A=1", credentials="x", mine=key, theirs=key, shown=key, a="1")
    write(top, tracked__DOTenv="B", DOTportsignore="!shown\n", **{"Credentials.json": "{}", ".env.example": "A="})
    git(top, "add", "tracked", "theirs")
    found = copied(top, objects).selection
    assert sorted(found.files) == [".env.example", ".portsignore", "a", "shown", "theirs", "tracked/.env"]
    assert sorted(left(found)) == [".env", "Credentials.json", "credentials", "mine", "sub/.env"]
    assert "it can be a secret, and git does not track it" in set(left(found).values())
    assert sorted(copied(top, objects).selection.files) == sorted(found.files)


def test_a_key_goes_along_once_portsignore_takes_it(top: Path, objects: Objects) -> None:
    write(top, key="-----BEGIN PRIVATE KEY-----\n")
    old = time.time() - 60
    os.utime(top / "key", (old, old))
    assert "key" not in copied(top, objects).selection.files
    write(top, DOTportsignore="!key\n")
    assert "key" in copied(top, objects).selection.files


def test_results_of_fetch_and_own_files_stay_behind(top: Path) -> None:
    write(top, a="1", own__store="1", **{"job-3__x": "1", f"job-3__{_workspace.FETCHED}": "{}", "job-4__x": "1"})
    found = select(top, own=str(top / "own"))
    assert sorted(found.files) == ["a", "job-4/x"]
    assert left(found) == {"job-3/": "it is output of a job, which was fetched", "own/": "it belongs to ports"}


def test_what_is_no_file_stays_behind(top: Path) -> None:
    os.mkfifo(top / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(top / "socket"))
        found = select(top)
    assert not found.files and left(found) == {"fifo": "it is no file", "socket": "it is no file"}


@pytest.mark.parametrize("up", [".", ".."])
def test_a_home_and_what_is_above_it_is_refused(top: Path, up: str) -> None:
    (top / "home").mkdir()
    with pytest.raises(UsageError, match=r"your home; .* or add --send-all"):
        select(top / "home" / up, home=str(top / "home"))
    select(top / "home" / up, home=str(top / "home"), send_all=True)
    (top / "home" / "project").mkdir()
    select(top / "home" / "project", home=str(top / "home"))


def test_too_much_is_refused_with_the_largest_named(top: Path) -> None:
    for number in range(12):
        with (top / f"f{number:02}").open("wb") as file:
            file.truncate(100_000_000 + number)
    with pytest.raises(UsageError, match=r"has 1\.1 GiB to send, more than 1 GB; the largest: f11 .*, f02 ") as error:
        select(top)
    assert "f01" not in str(error.value) and "--send-all" in str(error.value)
    assert len(select(top, send_all=True).files) == 12


def test_too_many_files_are_refused_with_the_fullest_named(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_workspace, "MOST_FILES", 3)
    write(top, a="1", b__c="1", b__d__e="1", b__d__f="1")
    with pytest.raises(UsageError, match=r"4 files to send, more than 3; the fullest: b/ \(3 files\), b/d/ \(2 f"):
        select(top)


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_cannot_be_read_is_named(top: Path, objects: Objects, kind: str) -> None:
    write(top, secret="1") if kind == "file" else (top / "secret").mkdir()
    (top / "secret").chmod(0)
    said = _without_all_rights(top, objects)
    slash = "" if kind == "file" else "/"
    assert f"secret{slash} cannot be read (Permission denied); name it in .portsignore" in said
    write(top, DOTportsignore="secret\n")
    assert _without_all_rights(top, objects).splitlines()[-1] == "['.portsignore']"


def _without_all_rights(top: Path, objects: Objects) -> str:
    """Return what a process says that copies `top`; it may not read what its mode forbids, also if it is root's."""
    code = (
        "import sys; from ports.jobs import _trees, _workspace; objects = _trees.Objects(_trees.Path(sys.argv[2]));"
        "print(sorted(_trees.snapshot(objects, lambda: _workspace.select(sys.argv[1]))[0].selection.files))"
    )
    rights = "-dac_override,-dac_read_search"
    less = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"] if os.geteuid() == 0 else []
    command = [*less, sys.executable, "-c", code, str(top), str(objects.root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


# --- what the command line names ---


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["python", "data/x"], "data/x would stay behind: git ignores it; add the line !data/x to .portsignore"),
        (["python", "a.py", "--in=data"], "data would stay behind"),
        (["cat", ".env"], "it can be a secret"),
        (["cat", "../beside"], "is outside of"),
        (["cat", "away"], "away is a link to"),
    ],
)
def test_a_file_of_the_command_line_that_stays_behind_is_an_error(top: Path, words: list[str], said: str) -> None:
    git(top, "init", "-q")
    write(top, DOTgitignore="data/\n", data__x="1", DOTenv="", **{"a.py": ""})
    write(top.parent, beside="1")
    (top / "away").symlink_to("../beside")
    with pytest.raises(UsageError) as error:
        check_words(words, select(top))
    assert said in str(error.value)


def test_other_words_of_the_command_line_are_let_through(top: Path) -> None:
    write(top, sub__b="1", **{"a.py": ""})
    (top / "empty").mkdir()
    words = ["python", "./a.py", "sub", "sub/", "empty", "none", "--x=a.py", "/etc/passwd", "-c", ".", "", "a" * 5000]
    check_words(words, select(top))


def test_links_that_lead_out_of_the_workspace_are_found(top: Path) -> None:
    write(top, a="1", sub__b="1")
    for name, target in [("in", "a"), ("sub/up", "../a"), ("out", "../x"), ("sub/out", "../../x"), ("far", "/etc")]:
        (top / name).symlink_to(target)
    assert sorted(_workspace.links_outside(select(top))) == ["out", "sub/out"]


def test_commit_and_changes_are_recorded(top: Path) -> None:
    assert _workspace.recorded(str(top)) == ({}, b"")
    git(top, "init", "-q")
    assert _workspace.recorded(str(top)) == ({}, b"")
    write(top, a="1\n")
    git(top, "add", "a")
    git(top, "commit", "-qm", "one")
    told, patch = _workspace.recorded(str(top))
    assert len(told["commit"]) == 40 and told["dirty"] is False and patch == b""
    write(top, a="2\n")
    told, patch = _workspace.recorded(str(top))
    assert told["dirty"] is True and b"-1\n+2\n" in patch


SETTINGS = [
    ("color.ui", "always"), ("color.diff", "always"), ("diff.noprefix", "true"), ("diff.mnemonicPrefix", "true"),
    ("diff.external", "echo external"), ("diff.relative", "true"), ("diff.context", "0"), ("diff.x.textconv", "wc"),
    ("diff.x.command", "echo command"), ("diff.srcPrefix", "old/"), ("diff.dstPrefix", "new/"),
    ("diff.wsErrorHighlight", "all"), ("diff.colorMoved", "zebra"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), SETTINGS)
def test_a_patch_can_be_applied_whatever_git_diff_is_set_to(top: Path, tmp_path: Path, name: str, value: str) -> None:
    git(top, "init", "-q")
    write(top, sub__a="".join(f"{n}\n" for n in range(20)), b="1\n")
    (top / "sub/a.bin").write_bytes(bytes(range(256)))
    (top / ".gitattributes").write_text("a diff=x\n*.bin diff=x\n")
    git(top, "add", ".")
    git(top, "commit", "-qm", "one")
    git(tmp_path, "clone", "-q", str(top), str(tmp_path / "clone"))
    git(top, "config", name, value)
    write(top, sub__a="".join(f"{n}\n" for n in range(1, 21)))
    (top / "sub/a.bin").write_bytes(bytes(range(255)))
    _, patch = _workspace.recorded(str(top / "sub"))
    done = subprocess.run(
        ["git", "-C", str(tmp_path / "clone"), "apply"], input=patch, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    for path in ("sub/a", "sub/a.bin"):
        assert (tmp_path / "clone" / path).read_bytes() == (top / path).read_bytes()


def test_a_git_that_takes_long_holds_no_submission_up(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(top, "init", "-q")
    write(top, a="1\n")
    git(top, "add", "a")
    git(top, "commit", "-qm", "one")
    write(top, a="2\n")
    real = _workspace.git

    def slow(root: str, *words: str) -> Any:
        if "diff" not in words:
            return real(root, *words)
        return subprocess.Popen(["sleep", "600"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    monkeypatch.setattr(_workspace, "git", slow)
    monkeypatch.setattr(_workspace, "_GIT_SECONDS", 2.0)
    told, patch = _workspace.recorded(str(top))
    assert list(told) == ["commit"] and patch == b""


# --- objects ---

NAMES = st.binary(min_size=1, max_size=12).filter(lambda one: not set(one) & set(b"\0/") and one not in (b".", b".."))
FILES = st.tuples(st.binary(max_size=60), st.booleans())
TREES: Any = st.recursive(
    st.one_of(FILES, st.binary(min_size=1, max_size=20).filter(lambda one: b"\0" not in one)),
    lambda inner: st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


def make(place: bytes, tree: dict[bytes, Any]) -> None:
    for name, what in tree.items():
        path = os.path.join(place, name)
        if isinstance(what, dict):
            os.mkdir(path)
            make(path, what)
        elif isinstance(what, bytes):
            os.symlink(what, path)
        else:
            with open(path, "wb") as file:
                file.write(what[0])
            os.chmod(path, 0o755 if what[1] else 0o644)


@pytest.fixture
def quick() -> Iterator[None]:
    """No git is asked, and nothing is synced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_workspace, "_listing", lambda root: None)
        patch.setattr(sent, "sync_files", lambda paths: None)
        patch.setattr(sent, "sync_directory", lambda directory: None)
        patch.setattr(_durable, "sync_directory", lambda directory: None)
        yield


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("quick")
@given(tree=st.dictionaries(NAMES, TREES, max_size=5), how=st.sampled_from([lay_out.COPY, lay_out.LINK]))
def test_a_tree_comes_out_equal(tmp_path_factory: pytest.TempPathFactory, tree: dict[bytes, Any], how: str) -> None:
    place = tmp_path_factory.mktemp("tree")
    objects = Objects(place / "objects")
    objects.root.mkdir()
    (place / "top").mkdir()
    make(os.fsencode(place / "top"), tree)
    seen = shape(place / "top")
    found = select(place / "top")
    if found.left or ".portsignore" in found.files:
        return  # a name that stays behind
    one = copied(place / "top", objects)
    lay_out.lay_out(str(objects.root), one.digest, str(place / "out"), how)
    assert shape(place / "out") == seen
    assert copied(place / "out", objects).digest == one.digest


def test_a_directory_survives_its_object() -> None:
    entries = [
        lay_out.Entry("f", "a" * 64, 3, b"b \n\xff"),
        lay_out.Entry("l", "", 5, b"a", b"x \n\xfe1"),
        lay_out.Entry("d", "b" * 64, 9, b"c"),
    ]
    assert lay_out.load(lay_out.dump(entries)) == sorted(entries, key=lambda one: one.name)


@settings(max_examples=200)
@given(data=st.binary(max_size=200))
def test_a_damaged_directory_is_refused(data: bytes) -> None:
    for one in (data, lay_out.HEAD + data, lay_out.HEAD + data + b"\0"):
        try:
            found = lay_out.load(one)
        except lay_out.LayOutError:
            continue
        assert all(b"/" not in entry.name and entry.name not in (b"", b".", b"..") for entry in found)


def aged(top: Path) -> None:
    """Let all files be older than a moment."""
    old = time.time() - 60
    for path in top.rglob("*"):
        os.utime(path, (old, old), follow_symlinks=False)


def test_an_unchanged_directory_is_not_read_again(
    top: Path, objects: Objects, monkeypatch: pytest.MonkeyPatch, later: Callable[[], None]
) -> None:
    write(top, a="1", sub__b="2")
    later()
    one = copied(top, objects)
    monkeypatch.setattr(_trees, "opened", lambda *_: pytest.fail("a file was read"))
    monkeypatch.setattr(Objects, "_there", lambda *_: pytest.fail("objects were looked through"))
    again = copied(top, objects)
    assert again.digest == one.digest and again.is_known


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let it be a minute later: files that were just written are old then."""

    def wait() -> None:
        now = time.time_ns
        monkeypatch.setattr(_trees.time, "time_ns", lambda: now() + 60 * 10**9)

    return wait


def test_a_changed_file_is_read_again_whatever_its_time_says(
    top: Path, objects: Objects, later: Callable[[], None]
) -> None:
    write(top, a="1", b="2")
    status = (top / "a").stat()
    later()
    one = copied(top, objects)
    write(top, a="3")
    os.utime(top / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
    two = copied(top, objects)
    assert two.digest != one.digest and not two.is_known


@pytest.mark.parametrize("what", ["mode", "link", "new", "gone", "empty", "no longer empty"])
def test_each_change_of_a_directory_that_was_copied_is_seen(
    top: Path, objects: Objects, later: Callable[[], None], what: str
) -> None:
    write(top, a="1", b="2")
    (top / "link").symlink_to("a")
    (top / "empty").mkdir()
    later()
    one = copied(top, objects)
    assert copied(top, objects).is_noted
    if what == "mode":
        (top / "a").chmod(0o755)
    elif what == "link":
        (top / "link").unlink()
        (top / "link").symlink_to("b")
    elif what == "new":
        write(top, c="1")
    elif what == "gone":
        (top / "b").unlink()
    elif what == "empty":
        (top / "more").mkdir()
    else:
        (top / "empty").rmdir()
    two = copied(top, objects)
    assert two.digest != one.digest and copied(top, objects).digest == two.digest
    lay_out.lay_out(str(objects.root), two.digest, str(objects.root.parent / "out"))
    assert shape(objects.root.parent / "out") == shape(top)


def test_a_file_that_was_just_written_is_read_again(top: Path, objects: Objects) -> None:
    write(top, a="1")
    assert not copied(top, objects).seen.files


def test_a_file_that_changes_while_it_is_read_is_an_error(
    top: Path, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(top, a="1")
    number = iter(range(100))
    real = _trees._copied

    def changing(source: str, target: Path) -> str:
        Path(source).write_text(f"1{next(number)}")
        return real(source, target)

    monkeypatch.setattr(_trees, "_copied", changing)
    with pytest.raises(UsageError, match="a changes while it is read"):
        copied(top, objects)
    assert not list(objects.root.glob("??/*")) and not list(objects.root.glob(".staging*"))


def test_objects_are_read_only_and_written_once(top: Path, objects: Objects) -> None:
    write(top, a="1", b="1", c="1")
    (top / "c").chmod(0o755)
    copied(top, objects)
    found = [path for path in objects.root.glob("??/*") if path.stat().st_size == 1]
    assert sorted(stat.S_IMODE(path.stat().st_mode) for path in found) == [0o400, 0o500]
    assert _trees.snapshot(objects, lambda: select(top))[1] == 0


def test_an_object_that_a_job_changed_is_not_given_to_another(top: Path, objects: Objects, tmp_path: Path) -> None:
    write(top, a="1")
    one = copied(top, objects)
    lay_out.lay_out(str(objects.root), one.digest, str(tmp_path / "one"), lay_out.LINK)
    (tmp_path / "one" / "a").chmod(0o600)
    (tmp_path / "one" / "a").write_text("2")
    with pytest.raises(lay_out.LayOutError, match=r"the content of .*a was changed"):
        lay_out.lay_out(str(objects.root), one.digest, str(tmp_path / "two"), lay_out.COPY)
    assert not list(tmp_path.glob("two*"))


def test_a_missing_object_is_said_and_written_again(top: Path, objects: Objects, tmp_path: Path) -> None:
    write(top, a="1")
    one = copied(top, objects)
    objects.path("6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b").unlink()
    command = [str(objects.root), one.digest, lay_out.COPY, str(tmp_path / "out"), "true"]
    assert lay_out.main(command) == 127 and not list(tmp_path.glob("out*"))
    assert copied(top, objects).digest == one.digest
    lay_out.lay_out(str(objects.root), one.digest, str(tmp_path / "out"))
    assert (tmp_path / "out" / "a").read_text() == "1"


def test_files_of_a_job_are_on_the_disk_before_it_begins(
    top: Path, objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next attempt takes the directory as it is: after a power cut, its files must not be empty."""
    write(top, a="1", sub__b="2")
    one = copied(top, objects)
    synced: list[list[str]] = []
    sync = lay_out.sync

    def noted(path: str) -> None:
        assert not (tmp_path / "out").exists()
        synced.append(sorted(os.listdir(path)))
        sync(path)

    monkeypatch.setattr(lay_out, "sync", noted)
    lay_out.lay_out(str(objects.root), one.digest, str(tmp_path / "out"))
    assert synced == [["a", "sub"]] and (tmp_path / "out" / "a").read_text() == "1"


def test_sweeping_keeps_what_is_needed(top: Path, objects: Objects, tmp_path: Path, later: Callable[[], None]) -> None:
    write(top, a="1", sub__b="2")
    later()
    one = copied(top, objects)
    write(top, a="333")
    two = copied(top, objects)
    (tmp_path / "workspaces").mkdir()
    (tmp_path / "workspaces" / "key").write_text(json.dumps({"tree": two.digest, "objects": []}))
    assert sent.sweep_objects(str(tmp_path)) > 0
    lay_out.lay_out(str(objects.root), two.digest, str(tmp_path / "two"))
    with pytest.raises(lay_out.LayOutError, match="missing"):
        lay_out.lay_out(str(objects.root), one.digest, str(tmp_path / "one"))
    write(top, a="1")
    assert copied(top, objects).digest == one.digest
    lay_out.lay_out(str(objects.root), one.digest, str(tmp_path / "one"))


def test_what_a_killed_snapshot_left_is_removed(top: Path, objects: Objects) -> None:
    for name in (".staging-dead", ".staging-new"):  # the new one is about to be locked by who made it
        (objects.root / name).mkdir()
    os.utime(objects.root / ".staging-dead", (1000.0, 1000.0))
    write(top, a="1")
    copied(top, objects)
    assert [path.name for path in objects.root.glob(".staging*")] == [".staging-new"]


def test_a_full_disk_is_refused_before_anything_is_written(
    top: Path, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(top, a="1" * 1000)
    monkeypatch.setattr(_trees, "_SPARE", 1 << 60)
    with pytest.raises(StoreError, match=r"no space for 1 KiB in 2 files.*ports job prune"):
        copied(top, objects)
    assert not list(objects.root.glob("??"))


@pytest.mark.skipif(os.geteuid() != 0, reason="a disk of its own needs root")
@pytest.mark.parametrize("spare", [True, False])
def test_a_snapshot_on_a_full_disk_leaves_nothing(
    top: Path, objects: Objects, monkeypatch: pytest.MonkeyPatch, spare: bool
) -> None:
    if not spare:  # the check says yes, and then the disk is full
        monkeypatch.setattr(_durable, "check_room", lambda *_, **__: None)
    write(top, a="1" * 3_000_000, b="2" * 3_000_000)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(objects.root)], check=True)
    try:
        with pytest.raises(StoreError, match="space"):
            copied(top, objects)
        assert [path.name for path in objects.root.iterdir() if path.name.startswith(".")] == []
        assert not list(objects.root.glob("??/*"))
    finally:
        subprocess.run(["umount", "-l", str(objects.root)], check=True)


def test_a_rerun_takes_the_files_of_then_or_of_today(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTS_HOME", str(top.parent / "state"))
    monkeypatch.chdir(top)
    write(top, a="then")
    script = _scripts.describe(["sh", "a"])
    first = _asking.submit_script(_asking.plan_copy(script, out=["results"], send_all=True), start=False)

    def tree(id: object) -> tuple[str, str]:
        workspace = _asking.show(id)["asked"]["script"]["workspace"]
        found = Objects(_places.here().objects)
        (entry,) = lay_out.read(str(found.root), workspace["tree"])
        return found.path(entry.digest).read_text(), ",".join(workspace["out"])

    write(top, a="today")
    monkeypatch.chdir(top.parent)  # it is the directory of the job that counts
    assert tree(first) == tree(_asking.rerun(first, start=False)) == ("then", "results")
    assert tree(_asking.rerun(first, start=False, here=True)) == ("today", "results")
    top.rename(top.parent / "moved")
    with pytest.raises(UsageError, match="top is gone; without --here, the job runs again with the files that it had"):
        _asking.rerun(first, start=False, here=True)
    assert tree(_asking.rerun(first, start=False)) == ("then", "results")  # the way out
    monkeypatch.chdir(top.parent / "moved")
    in_place = _asking.submit_script(_scripts.describe(["sh", "a"]), start=False)
    assert "workspace" not in _asking.show(_asking.rerun(in_place, start=False, here=True))["asked"]["script"]


def turned(top: Path, chance: random.Random) -> None:
    """Change a directory at random: a file, a link, a mode, a directory that becomes a file, and back."""
    path = top.joinpath(*(chance.choice("abc") for _ in range(chance.randint(1, 3))))
    place = next((one for one in path.parents if one.is_symlink() or one.is_file()), None)
    if place is not None and place != top:
        place.unlink()
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    what = chance.randint(0, 5)
    if what == 0:
        path.symlink_to(chance.choice(["a", "../b"]))
    elif what == 1:
        path.mkdir()
    elif what > 2:
        path.write_text(str(chance.randint(0, 5)))
        path.chmod(chance.choice([0o644, 0o755]))


@pytest.mark.parametrize("seed", range(4))
def test_what_is_made_again_in_part_equals_what_is_made_as_a_whole(
    top: Path, objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(_trees, "_RACY", 0)
    monkeypatch.setattr(_workspace, "_listing", lambda root: None)
    monkeypatch.setattr(sent, "sync_files", lambda paths: None)
    monkeypatch.setattr(sent, "sync_directory", lambda directory: None)
    chance, n_partial = random.Random(seed), 0
    for number in range(40):
        for _ in range(chance.randint(0, 3)):
            turned(top, chance)
        tree, _ = _trees.snapshot(objects, lambda: select(top))
        n_partial += tree.is_partial
        (tmp_path / f"o{number}").mkdir()
        whole = Objects(tmp_path / f"o{number}").read(select(top))
        assert tree.digest == whole.digest and not whole.is_partial
        entries = list(lay_out.walk(str(objects.root), tree.digest))  # each directory is there
        assert all(objects.path(one.digest, one.kind).exists() for _, one in entries if one.kind in "fx")
    assert n_partial > 30


@pytest.mark.parametrize("damage", [b"", b"x", b"ports-seen 3\n00000000{}", b"ports-seen 2\n"])
def test_a_damaged_memory_of_what_was_read_is_none(top: Path, objects: Objects, damage: bytes) -> None:
    write(top, a="1")
    one = copied(top, objects)
    objects.seen(str(top)).write_bytes(damage)
    assert copied(top, objects).digest == one.digest


def test_git_is_not_started_where_there_is_no_repository(
    top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/git"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\nexec {shutil.which("git")} "$@"\n')
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    write(top, a="1", below__b="2")
    assert set(select(top).files) == {"a", "below/b"} and _workspace.recorded(str(top)) == ({}, b"")
    assert not (tmp_path / "asked").exists()
    git(top, "init", "-q")
    write(top, DOTgitignore="b")
    assert set(select(top / "below").files) == set()  # a repository above counts
    assert "ls-files" in (tmp_path / "asked").read_text()


def test_a_directory_is_looked_through_once_for_a_submission(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(top, a="1")
    plan = _asking.plan_copy(_scripts.describe(["true"]), root=str(top), send_all=True)
    assert plan.selected() is plan.selection
    write(top, b="2")
    assert set(plan.selected().files) == {"a", "b"}  # a file changed meanwhile: it is looked at again
    old = dataclasses.replace(plan, unused=[-60.0])
    assert set(old.selected().files) == {"a", "b"}


def test_files_written_together_leave_nothing_when_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    _durable.write_together({tmp_path / "one/a": b"12", tmp_path / "b": b"3"})
    assert ((tmp_path / "one/a").read_bytes(), (tmp_path / "b").read_bytes()) == (b"12", b"3")
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o600
    with pytest.raises(StoreError, match="missing/d"):
        _durable.write_together({tmp_path / "c": b"4", tmp_path / "missing/d": b"5"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "one"]
