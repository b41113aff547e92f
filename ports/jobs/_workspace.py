"""Which files of a directory go along with a script, and which stay behind, with the reason.

What git tracks or would track, else all; without what ``.portsignore`` names, and without secrets that git does not
track. A line ``!PATH`` of ``.portsignore`` takes along what would stay behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import functools
import heapq
import os
import re
import shlex
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ports import sessions
from ports.errors import UsageError
from ports.probe import size

IGNORE = ".portsignore"
FETCHED = ".ports-fetched.json"  # in a directory that `fetch` made: results are not sent again
MOST_BYTES, MOST_FILES = 10**9, 50_000
_SECRETS = (".env", ".env.*", ".envrc", ".netrc", ".git-credentials", "credentials*", "id_rsa", "id_dsa", "id_ecdsa",
            "id_ed25519")  # fmt: skip
_NO_SECRETS = (".env.example", ".env.sample", ".env.template", ".env.dist")
_SECRET_NAME = re.compile("|".join(map(fnmatch.translate, _SECRETS)))
_FIRST = frozenset(case for one in _SECRETS for case in (one[0], one[0].upper()))  # with which a secret can begin
_LARGEST_KEY = 1 << 15
_GIT_SECONDS = 20.0  # for what is recorded of changes
_KEY = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----|PuTTY-User-Key-File-")
_MOST_LOOKED_AT = 5_000  # files of one directory that stays behind: their number and size are a lower limit then
_GIT = "git does not track it"
_BY_GIT, _BY_FILE, _SECRET = "git ignores it", f"{IGNORE} names it", "it can be a secret, and git does not track it"
_SPECIAL, _OWN_GIT, _RESULTS = "it is no file", "it is git's own", "it is output of a job, which was fetched"
_OWN = "it belongs to ports"


class Left(NamedTuple):
    """Something that stays behind; a directory ends with a slash. `n_bytes` is a lower limit if not `exact`."""

    path: str
    why: str
    n_bytes: int
    exact: bool = True

    def __str__(self) -> str:
        least = "" if self.exact else "more than "
        return f"{self.path} ({least}{size(self.n_bytes)}; {self.why})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """What goes along: files and symbolic links with their status, by path below `root`, and empty directories.

    `meant` are those that git tracks, or that ``.portsignore`` takes along: they can be secrets. `elsewhere`
    has the files of other directories that go along under a path below `root`.
    """

    root: str
    files: dict[str, os.stat_result]
    empty: tuple[str, ...]
    left: tuple[Left, ...]
    meant: frozenset[str]
    elsewhere: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def source(self, path: str) -> str:
        """Return the file that goes along as `path`."""
        return self.elsewhere.get(path) or os.path.join(self.root, path)

    @functools.cached_property
    def n_bytes(self) -> int:
        """Size of all files together."""
        return sum(status.st_size for status in self.files.values())

    def largest(self, number: int = 10) -> list[tuple[str, int]]:
        """Return the largest files with their sizes."""
        found = heapq.nsmallest(number, self.files.items(), key=lambda item: (-item[1].st_size, item[0]))
        return [(path, status.st_size) for path, status in found]

    def without(self, paths: Sequence[str], why: str = _SECRET) -> Selection:
        """Return what is left to go along if these files stay behind, too."""
        files = {path: status for path, status in self.files.items() if path not in set(paths)}
        more = [Left(path, why, self.files[path].st_size) for path in paths]
        return dataclasses.replace(self, files=files, left=tuple(sorted([*self.left, *more])))


def select(root: Path | str, *, send_all: bool = False, home: str = "", own: str = "") -> Selection:
    """Look through a directory, and say which files go along.

    Parameters
    ----------
    send_all : bool
        Take along a home directory, more than 1 GB, or more than 50,000 files.
    home, own : str
        The user's home, and the directory in which ports keeps everything, which never goes along.

    Raises
    ------
    UsageError
        The directory cannot be read, or it is one of those that only go along with `send_all`.
    """
    top = os.path.realpath(root)
    if not send_all and (what := no_workspace(top, home)) is not None:
        raise UsageError(f"{top} is {what}; `cd` to the directory of your script, or add --send-all")
    found = _Walk(top, os.path.realpath(own) if own else "").all()
    if not send_all:
        _check_size(found)
    return found


def no_workspace(root: Path | str, home: str) -> str | None:
    """Return what a directory is that only goes along with `send_all`; None if it can be that of a script."""
    top, own = os.path.realpath(root), os.path.realpath(home) if home else ""
    if own and (top == "/" or f"{own}/".startswith(f"{top}/")):
        return "your home" if top == own else "above your home"
    return "a directory of all users" if os.stat(top).st_mode & stat.S_ISVTX else None


def _check_size(found: Selection) -> None:
    if found.n_bytes > MOST_BYTES:
        told = ", ".join(f"{path} ({size(n)})" for path, n in found.largest())
        raise UsageError(
            f"{found.root} has {size(found.n_bytes)} to send, more than 1 GB; the largest: {told}; "
            f"name what can stay behind in {IGNORE}, or add --send-all"
        )
    if len(found.files) > MOST_FILES:
        counts: dict[str, int] = {}
        for path in found.files:
            for place in _parents(path):
                counts[place] = counts.get(place, 0) + 1
        fullest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:10]
        told = ", ".join(f"{place}/ ({n:,} files)" for place, n in fullest)
        raise UsageError(
            f"{found.root} has {len(found.files):,} files to send, more than {MOST_FILES:,}; the fullest: {told}; "
            f"name what can stay behind in {IGNORE}, or add --send-all"
        )


def _parents(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path


def with_others(found: Selection, others: Mapping[str, str]) -> Selection:
    """Return a selection in which these files go along, too: path below the root -> file, or symbolic link.

    Raises
    ------
    UsageError
        A directory is where one of them goes.
    """
    files = dict(found.files)
    for path, source in others.items():
        if any(one.startswith(f"{path}/") for one in found.files) or any(one in found.files for one in _parents(path)):
            raise UsageError(f"{path} of another job does not fit into {found.root}: a file is where a directory goes")
        files[path] = os.lstat(source)
    meant = found.meant | frozenset(others)
    return dataclasses.replace(found, files=files, meant=meant, elsewhere=dict(others))


# --- what git says ---


class _Listing(NamedTuple):
    """What git knows of a directory; `ignored` directories end with a slash."""

    tracked: set[str]
    untracked: set[str]
    ignored: set[str]


_QUESTIONS = (
    ("ls-files", "-z", "-c"),
    ("ls-files", "-z", "-o", "--exclude-standard"),
    ("ls-files", "-z", "-o", "-i", "--exclude-standard", "--directory"),
)


def _can_be_in_repository(root: str) -> bool:
    """Say whether git can have something to say: where there is no sign of a repository, it is not started."""
    if "GIT_DIR" in sessions.surroundings.of_this_process():
        return True
    place = os.path.realpath(root)
    while not any(os.path.lexists(os.path.join(place, name)) for name in (".git", "HEAD")):
        place, below = os.path.dirname(place), place
        if place == below:
            return False
    return True


def git(root: str, *words: str) -> subprocess.Popen[bytes]:
    """Start git in a directory; it takes no locks. Raises FileNotFoundError where there is none, or no repository."""
    if not _can_be_in_repository(root):
        raise FileNotFoundError(root)
    environ = {**sessions.surroundings.of_this_process(), "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    command = ["git", "-C", root, *words]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ
    )


def _listing(root: str) -> _Listing | None:
    """Return what git says of a directory; None if it is in no repository, or there is no git."""
    try:
        started = [git(root, *words) for words in _QUESTIONS]
    except FileNotFoundError:
        return None
    answers = [(*one.communicate(), one.returncode) for one in started]
    for _, said, status in answers:
        if status == 0:
            continue
        text = said.decode("utf-8", "replace").strip()
        if "not a git repository" in text:
            return None
        raise UsageError(f"git cannot list the files in {root}: {text.splitlines()[0] if text else f'status {status}'}")
    tracked, untracked, ignored = ({os.fsdecode(one) for one in out.split(b"\0") if one} for out, _, _ in answers)
    if not tracked and not untracked and _ignores_all_of(root):
        return None  # it says nothing of the files in there
    return _Listing(tracked, untracked, ignored)


def _ignores_all_of(root: str) -> bool:
    asked = git(root, "check-ignore", "-q", ".")
    asked.communicate()
    return asked.returncode == 0


# --- .portsignore ---


class _Ignore:
    """The lines of ``.portsignore``: as those of ``.gitignore``, and the last one that matches counts."""

    def __init__(self, root: str) -> None:
        self._spec: Any = None
        self.takes = False  # whether a line takes along what would stay behind
        try:
            text = Path(root, IGNORE).read_text(encoding="utf-8", errors="surrogateescape")
        except FileNotFoundError:
            return
        except OSError as error:
            raise UsageError(f"{Path(root, IGNORE)} cannot be read: {error.strerror}") from error
        import pathspec

        lines = text.splitlines()
        try:
            self._spec = pathspec.GitIgnoreSpec.from_lines(lines)
        except ValueError as error:
            raise UsageError(f"{Path(root, IGNORE)} has a line that is no pattern: {error}") from error
        self.takes = any(line.startswith("!") for line in lines)

    @property
    def is_empty(self) -> bool:
        """Whether there are no lines."""
        return self._spec is None

    def says(self, path: str) -> bool | None:
        """Return True if `path` stays behind, False if it is taken along, and None if no line matches it."""
        if self._spec is None:
            return None
        found: bool | None = self._spec.check_file(path).include
        return found


# --- the walk ---


class _Behind(NamedTuple):
    """A directory that stays behind, except what ``.portsignore`` takes along."""

    path: str
    why: str


class _Walk:
    """One look through a directory."""

    def __init__(self, root: str, own: str) -> None:
        self.root, self.own = root, own
        self.git = _listing(root)
        self.ignore = _Ignore(root)
        self._takes_all = self.git is None and self.ignore.is_empty  # but secrets, and what is no file
        self.files: dict[str, os.stat_result] = {}
        self.empty: list[str] = []
        self.left: list[Left] = []
        self._sums: dict[_Behind, int] = {}
        self._taken: set[str] = set()

    def all(self) -> Selection:
        """Look at everything."""
        self._look()
        self.left += [Left(behind.path, behind.why, n_bytes) for behind, n_bytes in self._sums.items()]
        return Selection(
            root=self.root,
            files=self.files,
            empty=tuple(sorted(self.empty)),
            left=tuple(sorted(self.left)),
            meant=frozenset(self._taken | (self.git.tracked if self.git else set())),
        )

    def _look(self) -> None:
        pending: list[tuple[str, _Behind | None]] = [("", None)]
        while pending:
            below, behind = pending.pop()
            with contextlib.ExitStack() as opened:
                try:
                    entries = _entries(os.path.join(self.root, below), opened)
                except OSError as error:
                    if behind is None:
                        raise _unreadable(below or self.root, error) from error
                    continue
                pending += self._look_at(below, behind, entries)

    def _look_at(
        self, below: str, behind: _Behind | None, entries: list[os.DirEntry[str]]
    ) -> list[tuple[str, _Behind | None]]:
        """Look at all that is in one directory, and return the directories in it that are to be looked at."""
        if below and self.git is not None and any(entry.name == ".git" for entry in entries):
            self._inner_repository(below)
        if not entries and below and behind is None:
            self.empty.append(below[:-1])
        found: list[tuple[str, _Behind | None]] = []
        for entry in entries:
            path = below + entry.name
            if not entry.is_dir(follow_symlinks=False):
                self._file(path, entry, behind)
            elif self._goes_into(path, inner := behind or self._directory_behind(path, entry.name)):
                found.append((f"{path}/", inner))
        return found

    def _goes_into(self, path: str, behind: _Behind | None) -> bool:
        """Say whether a directory is looked through; else it stays behind as a whole, which is noted."""
        if behind is None or (self.ignore.takes and behind.why in (_BY_FILE, _BY_GIT)):
            return True
        if behind.why != _OWN_GIT or self.git is None:
            n_bytes, exact = _size_below(os.path.join(self.root, path))
            self.left.append(Left(behind.path, behind.why, n_bytes, exact))
        return False

    def _directory_behind(self, path: str, name: str) -> _Behind | None:
        why = self._why_not_directory(path, name)
        return None if why is None else _Behind(f"{path}/", why)

    def _why_not_directory(self, path: str, name: str) -> str | None:
        if name == ".git":
            return _OWN_GIT
        if self.own and os.path.join(self.root, path) == self.own:
            return _OWN
        if self.ignore.says(f"{path}/"):
            return _BY_FILE
        if self.git is not None and f"{path}/" in self.git.ignored:
            return _BY_GIT
        if name.startswith("job-") and os.path.exists(os.path.join(self.root, path, FETCHED)):
            return _RESULTS
        return None

    def _inner_repository(self, below: str) -> None:
        """Take in what the git of a submodule, or of a repository in this one, says."""
        found = _listing(os.path.join(self.root, below))
        if found is not None and self.git is not None:
            for mine, its in zip(self.git, found, strict=True):
                mine.update(below + one for one in its)

    def _file(self, path: str, entry: os.DirEntry[str], behind: _Behind | None) -> None:
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return  # removed meanwhile
        except OSError as error:
            raise _unreadable(path, error) from error
        is_plain = self._takes_all and entry.name[0] not in _FIRST and stat.S_ISREG(status.st_mode)
        reason = None if is_plain and behind is None else self._why_not(path, entry.name, status, behind)
        if reason is None:
            self.files[path] = status
        elif behind is not None and reason == behind.why:
            self._sums[behind] = self._sums.get(behind, 0) + status.st_size
        elif entry.name != ".git":  # of a submodule it is a file
            self.left.append(Left(path, reason, status.st_size))

    def _why_not(self, path: str, name: str, status: os.stat_result, behind: _Behind | None) -> str | None:
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
            return _SPECIAL
        if name == ".git":
            return _OWN_GIT
        says = self.ignore.says(path)
        if says is False:
            self._taken.add(path)
            return None
        if says:
            return _BY_FILE
        if behind is not None:
            return behind.why
        if self.git is not None and path in self.git.tracked:
            return None
        if self.git is not None and path not in self.git.untracked:
            return _BY_GIT if path in self.git.ignored else _GIT
        return _SECRET if is_secret(name) else None


def _entries(path: str, opened: contextlib.ExitStack) -> list[os.DirEntry[str]]:
    """Return what is in a directory. It stays `opened` where that is possible: its path is not walked for each file."""
    if os.scandir not in os.supports_fd:
        with os.scandir(path) as found:
            return list(found)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    opened.callback(os.close, descriptor)
    with os.scandir(descriptor) as found:
        return list(found)


def _unreadable(path: str, error: OSError) -> UsageError:
    return UsageError(f"{path} cannot be read ({error.strerror}); name it in {IGNORE} if the script does not need it")


def _size_below(directory: str) -> tuple[int, bool]:
    """Return the size of all files below a directory, and whether all were looked at."""
    n_bytes, n_looked_at = 0, 0
    for place, _, names in os.walk(directory):
        for name in names:
            n_looked_at += 1
            if n_looked_at > _MOST_LOOKED_AT:
                return n_bytes, False
            try:
                n_bytes += os.lstat(os.path.join(place, name)).st_size
            except OSError:
                continue
    return n_bytes, True


def is_secret(name: str) -> bool:
    """Say whether a file of this name is a secret, as far as the name shows it.

    >>> is_secret(".env"), is_secret("Credentials.json"), is_secret(".env.example")
    (True, True, False)
    """
    name = name.lower()
    return _SECRET_NAME.match(name) is not None and name not in _NO_SECRETS


def can_be_key(n_bytes: int) -> bool:
    """Say whether a file of this size can be a private key."""
    return n_bytes <= _LARGEST_KEY


def is_key(data: bytes) -> bool:
    """Say whether this is a private key."""
    return _KEY.search(data) is not None


# --- what the command line names ---


def check_words(words: Sequence[str], found: Selection) -> None:
    """Raise UsageError if the command line names a file that the script would not find in its copy.

    An absolute path means the file where it is.
    """
    for word in words:
        for named in dict.fromkeys([word, word.partition("=")[2]]):
            if _is_relative(named):
                _check_word(named, found)


def named_files(words: Sequence[str], root: str) -> list[str]:
    """Return the words that name something below `root`; a text for a shell is looked through word by word."""
    found = []
    for n, text in enumerate(words):
        for word in split_words(text):
            for named in (word, word.partition("=")[2]):
                is_program = n == 0 and "/" not in named  # it is looked for on the PATH
                if _is_relative(named) and not is_program and os.path.normpath(named) != ".":
                    found += [named] if os.path.lexists(os.path.join(root, named)) else []
    return found


def split_words(text: str) -> list[str]:
    """Return the words of a text as a shell divides it; itself, if a quotation in it has no end."""
    try:
        return shlex.split(text)
    except ValueError:
        return [text]


def _is_relative(named: str) -> bool:
    return bool(named) and not named.startswith(("/", "~", "-")) and len(named) < 4096 and "\0" not in named


def _check_word(named: str, found: Selection) -> None:
    path = os.path.normpath(named)
    if path == "." or not os.path.lexists(os.path.join(found.root, path)):
        return
    if path == ".." or path.startswith("../"):
        raise UsageError(f"{named} is outside of {found.root}, which is what is copied; write its absolute path")
    if path in found.files or path in found.empty or any(one.startswith(f"{path}/") for one in found.files):
        target = os.path.realpath(os.path.join(found.root, path))
        if path in found.files and os.path.islink(os.path.join(found.root, path)) and not _is_below(target, found.root):
            raise UsageError(f"{named} is a link to {target}, which is not copied; write that path")
        return
    whys = (one.why for one in found.left if path == one.path.rstrip("/") or path.startswith(one.path))
    why = next(whys, _GIT)
    raise UsageError(
        f"{named} would stay behind: {why}; add the line !{path} to {IGNORE}, or write its absolute path to use it "
        f"where it is"
    )


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(f"{root.rstrip('/')}/")


def links_outside(found: Selection) -> list[str]:
    """Return the symbolic links that lead to a relative path outside of the directory: in a copy they lead nowhere."""
    outside = []
    for path, status in found.files.items():
        if stat.S_ISLNK(status.st_mode):
            target = os.readlink(found.source(path))
            end = os.path.normpath(os.path.join(os.path.dirname(path), target))
            if not target.startswith("/") and (end == ".." or end.startswith("../")):
                outside.append(path)
    return outside


# --- what is recorded ---


#: What writes a patch that `git apply` takes, whatever the user's settings of `git diff` are.
_PATCH = (
    "-c", "diff.relative=false", "-c", "diff.noprefix=false", "-c", "diff.mnemonicPrefix=false",
    "diff", "--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/",
    "--submodule=short", "--unified=3", "HEAD", "--", ".",
)  # fmt: skip


def recorded(root: str) -> tuple[dict[str, Any], bytes]:
    """Return the commit of a directory, and what was changed since, as a patch; both empty without git.

    Where git takes long, nothing is said of changes.
    """
    try:
        started = [git(root, "rev-parse", "HEAD"), git(root, *_PATCH)]
    except FileNotFoundError:
        return {}, b""
    end = time.monotonic() + _GIT_SECONDS
    commit, patch = (_said(one, end) for one in started)
    if not commit:
        return {}, b""
    told: dict[str, Any] = {"commit": commit.decode().strip()}
    return (told, b"") if patch is None else ({**told, "dirty": bool(patch)}, patch)


def _said(started: subprocess.Popen[bytes], end: float) -> bytes | None:
    """Return what git printed; None if it failed, or did not end in time."""
    try:
        said, _ = started.communicate(timeout=max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        started.kill()
        started.communicate()
        return None
    return said if started.returncode == 0 else None
