"""Every error that `ports` raises.

::

    PortsError                     5  something failed
    ├── UsageError                 2  an invalid name, option or setting
    │   ├── InvalidNameError
    │   ├── InvalidTargetError
    │   ├── SettingError
    │   └── UnsendableError
    ├── UntrustedError             5  a result of another machine would have to be unpickled
    ├── NotFoundError              3  nothing has that name
    ├── ConflictError              4  something that exists conflicts with the request
    │   ├── NameInUseError
    │   ├── PortInUseError
    │   ├── ForeignListenerError
    │   ├── SharedMachineError
    │   ├── DifferentClusterError
    │   ├── OverpromisedError
    │   └── UnsafePathError
    ├── ToolError                  5  an outside tool failed
    │   ├── ToolMissingError
    │   ├── TmuxError
    │   ├── DaskError
    │   └── SSHError
    │       ├── UnknownHostError
    │       ├── HostKeyError
    │       ├── LoginNeededError
    │       ├── ProhibitedError
    │       ├── NetworkError
    │       │   ├── SlowError
    │       │   ├── BusyError
    │       │   └── ConnectionLostError
    │       ├── FarSideError
    │       └── RefusedError
    ├── ResourceLostError          5  the compute resource does not answer
    ├── StartError                 5  a session ended while it started
    ├── StopError                  5  a session did not stop
    ├── StoreError                 5  the disk is full or not writable
    ├── TimedOutError              6  a wait timed out
    ├── RecordError                7  a record that cannot be read
    │   ├── BrokenRecordError
    │   └── NewerRecordError
    └── JobError                   8  a job failed
        ├── JobCancelledError
        └── JobLostError

The number is the exit code of the command line. A message names what failed, the value, and what to do.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import traceback
import types
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_PACKAGE = str(Path(__file__).parent) + os.sep
_PYTHON = str(Path(os.__file__).parent) + os.sep
# In a thread that works for a line of the user's: that line, as file and number.
_LINE: ContextVar[tuple[str, int] | None] = ContextVar("line", default=None)
# Who collects warnings: those so far, and what is called with each.
_COLLECTOR: ContextVar[tuple[list[str], Callable[[str], object]] | None] = ContextVar("collector", default=None)


class PortsError(Exception):
    """Base of all errors of `ports`."""

    exit_code = 5
    #: The host on which it was raised; None if it was this one.
    where: str | None = None
    #: What it says where `where` is another host: the host, and hints as they are typed here. None: its own words.
    at_home: str | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        """Let no message have what a terminal would obey: another machine, user or job can have said it."""
        super().__init_subclass__(**options)
        if "__str__" in cls.__dict__:
            said: Callable[[PortsError], str] = cls.__dict__["__str__"]
            cls.__str__ = functools.wraps(said)(lambda self: harmless(self.at_home or said(self)))  # type: ignore[method-assign]

    def __str__(self) -> str:
        return harmless(self.at_home or super().__str__())

    def _render_traceback_(self) -> list[str]:
        """Return what IPython and notebooks show: the lines of the user's own code, and the message."""
        frames = [one for one in traceback.extract_tb(self.__traceback__) if not _is_foreign(one.filename)]
        return [f"{type(self).__name__}: {self}", *(f"  line {one.lineno}: {one.line}" for one in frames)]


class UsageError(PortsError):
    """An invalid name, option or setting."""

    exit_code = 2


class InvalidNameError(UsageError):
    """A name that does not match ``[a-z][a-z0-9-]{0,30}``."""

    def __init__(self, name: str, way_out: str | None = None) -> None:
        super().__init__(name, way_out)
        self.name, self.way_out = name, way_out

    def __str__(self) -> str:
        if self.way_out is not None:
            return f"{self.name} is not a name; {self.way_out}"
        text = f"{self.name!r} is not a name; use a letter a-z, then up to 30 of a-z, 0-9 and '-'"
        is_number = str(self.name).isdecimal()
        return f"{text}; for {self.name} workers pass n_workers={self.name}" if is_number else text


class InvalidTargetError(UsageError):
    """A target that is not HOST, HOST:NAME or HOST:PORT."""

    def __init__(self, target: str, reason: str) -> None:
        super().__init__(target, reason)
        self.target, self.reason = target, reason

    def __str__(self) -> str:
        return f"{self.target!r} is not a target: {self.reason}; write HOST, HOST:NAME or HOST:PORT"


class SettingError(UsageError):
    """A setting with a wrong key or value."""

    def __init__(self, source: str, key: str, reason: str) -> None:
        super().__init__(source, key, reason)
        self.source, self.key, self.reason = source, key, reason

    def __str__(self) -> str:
        return f"setting {self.key} in {self.source}: {self.reason}"


class UnsendableError(UsageError):
    """A function, an argument or a result that cannot be pickled, so it cannot be sent. Nothing was submitted."""


class UntrustedError(PortsError):
    """A result of another machine is pickled: to read it, that machine must be trusted to run code here."""

    def __init__(self, host: str, what: str) -> None:
        super().__init__(host, what)
        self.host, self.what = host, what

    def __str__(self) -> str:
        return (
            f"{self.what} is no plain data (numbers, texts, bytes, lists, tuples, sets, dicts, numpy arrays), and "
            f"reading anything else lets {self.host} run code here; return plain data, or trust that machine with "
            f"`with ports.host({self.host!r}, trust=True)` or the setting ports.hosts.{self.host}.trust"
        )


class NotFoundError(PortsError):
    """Nothing has that kind and name."""

    exit_code = 3

    def __init__(self, kind: str, name: str, hint: str) -> None:
        super().__init__(kind, name, hint)
        self.kind, self.name, self.hint = kind, name, hint

    def __str__(self) -> str:
        return f"no {self.kind} {self.name!r}; {self.hint}"


class ConflictError(PortsError):
    """Something that exists conflicts with the request."""

    exit_code = 4


class NameInUseError(ConflictError):
    """A session of that name runs already."""

    def __init__(self, kind: str, name: str, hint: str) -> None:
        super().__init__(kind, name, hint)
        self.kind, self.name, self.hint = kind, name, hint

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} exists already; {self.hint}"


class PortInUseError(ConflictError):
    """Another process listens on the requested port."""

    def __init__(self, port: int, owner: str | None) -> None:
        super().__init__(port, owner)
        self.port, self.owner = port, owner

    def __str__(self) -> str:
        who = self.owner or "another user"
        return f"port {self.port} is in use by {who}; pass --local-port 0 (local_port=0) for a free one"


class ForeignListenerError(ConflictError):
    """A listener belongs to another user, so nothing is connected or forwarded to it."""

    def __init__(self, where: str, owner: str, hint: str | None = None) -> None:
        super().__init__(where, owner, hint)
        self.listener, self.owner, self.hint = where, owner, hint

    def __str__(self) -> str:
        hint = self.hint or f"pass --owner {self.owner} if you trust them"
        return f"{self.listener} belongs to {self.owner}, not to you; {hint}"


class SharedMachineError(ConflictError):
    """Other users are on this machine, and they could use a link without a password."""

    def __init__(self, what: str, others: tuple[str, ...]) -> None:
        super().__init__(what, others)
        self.what, self.others = what, others

    def __str__(self) -> str:
        who = ", ".join(self.others)
        return (
            f"other users are on this machine ({who}) and {self.what} has no password, so they could use this link, "
            "because this system does not show which user a connection comes from; "
            "pass --share to allow it, or --local-socket PATH to serve it to you alone"
        )


class DifferentClusterError(ConflictError):
    """The running cluster differs from the request, and ``reuse="exact"`` was given."""

    def __init__(self, name: str, differences: tuple[str, ...]) -> None:
        super().__init__(name, differences)
        self.name, self.differences = name, differences

    def __str__(self) -> str:
        listed = "; ".join(self.differences)
        return (
            f"cluster {self.name!r} runs with other options: {listed}; pass another name=, stop it with "
            f"`ports cluster stop {self.name}`, or use it as it is with reuse='any'"
        )


class OverpromisedError(ConflictError):
    """The request needs more memory than the machine has.

    Sizes are text. `taken` lists memory that is already promised or in use. An empty `left` means that nothing is left.
    `frees` names a command that frees some of it.
    """

    def __init__(self, wanted: str, total: str, taken: tuple[str, ...], left: str, frees: str = "") -> None:
        super().__init__(wanted, total, taken, left, frees)
        self.wanted, self.total, self.taken, self.left, self.frees = wanted, total, taken, left, frees

    def __str__(self) -> str:
        taken = f": {' and '.join(self.taken)}" if self.taken else ""
        frees = f"; {self.frees}" if self.frees else ""
        if not self.left:
            return (
                f"{self.wanted}, and nothing is left of the {self.total} that you can use here{taken}{frees}; "
                "`ports who` shows who uses how much; force=True (--force) starts it all the same"
            )
        taken = f", of which {' and '.join(self.taken)}" if self.taken else ""
        free_some = ", free some memory (`ports who` shows who uses how much)" if self.taken else ""
        return (
            f"{self.wanted}, more than the {self.total} that you can use here{taken}; ask for at most {self.left} "
            f"(fewer workers, a smaller memory_limit){free_some}, or pass force=True (--force){frees}"
        )


class UnsafePathError(ConflictError):
    """A path that must be private belongs to another user, or other users can write to it."""

    def __init__(self, path: Path | str, reason: str, hint: str) -> None:
        super().__init__(path, reason, hint)
        self.path, self.reason, self.hint = path, reason, hint

    def __str__(self) -> str:
        return f"{self.path} is not private: {self.reason}; {self.hint}"


class ToolError(PortsError):
    """An outside tool failed."""


class ToolMissingError(ToolError):
    """A required program is not installed here."""

    def __init__(self, tool: str, hint: str) -> None:
        super().__init__(tool, hint)
        self.tool, self.hint = tool, hint

    def __str__(self) -> str:
        return f"{self.tool} is not installed; {self.hint}"


class TmuxError(ToolError):
    """tmux refused or failed."""


class DaskError(ToolError):
    """Dask failed."""


class SSHError(ToolError):
    """The connection to a host failed. `host` names it; the message has the reason and the way out."""

    #: The network failed, not the server: trying again may succeed, and does not count as a failed login.
    is_network = False

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(host, reason)
        self.host, self.reason = host, reason

    def __str__(self) -> str:
        return f"{self.host}: {self.reason}"


class UnknownHostError(SSHError):
    """The name is neither an alias of ``~/.ssh/config`` nor a known host."""

    is_network = True  # while a VPN is down, the names behind it do not resolve


class HostKeyError(SSHError):
    """The host's key is unknown or has changed."""


class LoginNeededError(SSHError):
    """A person must answer a prompt, but no terminal is there to ask."""


class ProhibitedError(SSHError):
    """The host's sshd prohibits forwarding to that address."""


class NetworkError(SSHError):
    """The host gave no answer: unreachable, timed out, refused or reset."""

    is_network = True


class SlowError(NetworkError):
    """The host answers, but a login or a program start there timed out."""


class BusyError(NetworkError):
    """Another process is connecting to the host right now, and its result is not known yet."""


class ConnectionLostError(NetworkError):
    """An established connection has ended or stopped responding. A new one can be made."""


class FarSideError(SSHError):
    """The host was reached, but what ran there failed: no python3, no ports, a newer version."""


class RefusedError(SSHError):
    """The host was reached, but not this listener: nothing listens there, or it belongs to another user."""


class ResourceLostError(PortsError):
    """The compute resource does not answer, or its connection ended. What was acknowledged is kept."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"no answer from the compute resource: {self.reason}; `ports resource show` shows its state"


class StartError(PortsError):
    """A session ended, or did not answer, while it started."""

    def __init__(self, what: str, reason: str, log: Path | str | None = None, output: tuple[str, ...] = ()) -> None:
        super().__init__(what, reason, log, output)
        self.what, self.reason, self.log, self.output = what, reason, log, output

    def __str__(self) -> str:
        lines = [f"{self.what} did not start: {self.reason}"]
        if self.log is not None:
            lines.append(f"log: {self.log}" + ("; its last lines:" if self.output else ""))
        return "\n".join([*lines, *(f"  {line}" for line in self.output)])


class StopError(PortsError):
    """A session did not stop."""

    def __init__(self, what: str, reason: str, log: Path | str) -> None:
        super().__init__(what, reason, log)
        self.what, self.reason, self.log = what, reason, log

    def __str__(self) -> str:
        return f"{self.what} did not stop: {self.reason}; log: {self.log}"


class StoreError(PortsError):
    """The disk is full, or a path cannot be read or written.

    `hint` is the way out besides more space. Default: that of a record, which is where ``PORTS_HOME`` says.
    """

    def __init__(self, path: Path | str, reason: str, hint: str = "set PORTS_HOME to a directory of yours") -> None:
        super().__init__(path, reason, hint)
        self.path, self.reason, self.hint = path, reason, hint

    def __str__(self) -> str:
        is_full = "space" in self.reason or "quota" in self.reason
        ways = ", or ".join(way for way in ("free space there" if is_full else "", self.hint) if way)
        return f"cannot use {self.path}: {self.reason}" + (f"; {ways}" if ways else "")


class TimedOutError(PortsError, TimeoutError):
    """A wait timed out. It is Python's `TimeoutError`, too."""

    exit_code = 6

    def __init__(self, what: str, timeout: float) -> None:
        super().__init__(what, timeout)
        self.what, self.timeout = what, timeout

    def __str__(self) -> str:
        return f"timed out after {self.timeout:g} s waiting for {self.what}"


class RecordError(PortsError):
    """A record on disk that cannot be read."""

    exit_code = 7


class BrokenRecordError(RecordError):
    """A record is incomplete, or its content is invalid."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"record {self.path} cannot be read: {self.reason}; `ports prune` moves it aside"


class NewerRecordError(RecordError):
    """A newer `ports` wrote the record."""

    def __init__(self, path: Path | str, found: int, known: int) -> None:
        super().__init__(path, found, known)
        self.path, self.found, self.known = path, found, known

    def __str__(self) -> str:
        return (
            f"record {self.path} has format {self.found}, but this version of ports reads formats up to {self.known}; "
            "upgrade ports with `pip install --upgrade ports`"
        )


class JobError(PortsError):
    """A job failed, and its exception cannot be raised here. `remote` is the traceback where it ran."""

    exit_code = 8

    def __init__(self, job: str, reason: str, remote: str = "") -> None:
        super().__init__(job, reason, remote)
        self.job, self.reason, self.remote = job, reason, remote

    def __str__(self) -> str:
        return "\n".join([self._sentence(), *(f"  {line}" for line in self.remote.splitlines())])

    def _sentence(self) -> str:
        return f"job {self.job} failed: {self.reason}"


class JobCancelledError(JobError):
    """A job was cancelled, or a job on which it depends failed."""

    def _sentence(self) -> str:
        return f"job {self.job} was cancelled: {self.reason}"


class JobLostError(JobError):
    """The process or the machine of a job ended while it ran, more often than its retries allow."""

    def _sentence(self) -> str:
        return f"job {self.job} was lost: {self.reason}"


def escape(stream: Any) -> None:
    """Let `stream` write the characters that its encoding lacks as escapes, instead of raising UnicodeEncodeError.

    What a far side says, a file name or a directory must never end a command: a terminal of ISO-8859-1 has no Chinese
    characters, and a file name need not be UTF-8.
    """
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:  # what stands in for stdout in tests and notebooks takes any text
        reconfigure(errors="backslashreplace")


# What a terminal obeys instead of showing it, or what hides or turns around the text beside it: control characters, and
# those of Unicode for the direction of text, for nothing at all, and for tags.
_OBEYED = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
_LINES = re.compile(f"[{_OBEYED}\U000e0000-\U000e007f]")
_LINE_ENDS = re.compile(r"\r\n|[\r\n\t]")


def harmless(text: str, *, lines: bool = True) -> str:
    """Return `text` with what a terminal would obey as escapes: of another machine, user or job, it can be anything.

    Parameters
    ----------
    lines : bool
        Ends of lines and tabs stay. Without it, each is a space, so that a value stays in its line.

    Examples
    --------
    >>> harmless("a\\x1b[2J", lines=False)
    'a\\\\x1b[2J'
    """
    if not lines:
        text = _LINE_ENDS.sub(" ", text)
    elif "\r\n" in text:
        text = text.replace("\r\n", "\n")
    return _LINES.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def say(text: str) -> None:
    """Print `text` for the user's own program, whose stdout stays as it is; see `escape` for what cannot be written."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    sys.stdout.write(harmless(text).encode(encoding, "backslashreplace").decode(encoding) + "\n")


def _is_foreign(file: str) -> bool:
    """Say whether a frame in `file` is none of the user's: of `ports`, of Python, or of an installed package."""
    return file.startswith((_PACKAGE, _PYTHON, "<frozen")) or "-packages" in file


@contextlib.contextmanager
def collecting_warnings(tell: Callable[[str], object] | None = None) -> Iterator[list[str]]:
    """Collect what `warn` says within the block, each text once, in place of Python's `warnings`.

    Threads that are begun within the block belong to it if their function is one of `with_this_line`, or if they run in
    a copy of the context.

    Parameters
    ----------
    tell : callable, optional
        Called with each text as it comes.

    Examples
    --------
    >>> with collecting_warnings() as found:
    ...     warn("cluster 'main' had stopped")
    >>> found
    ["cluster 'main' had stopped"]
    """
    found: list[str] = []
    before = _COLLECTOR.set((found, tell or (lambda text: None)))
    try:
        yield found
    finally:
        _COLLECTOR.reset(before)


def collected_warnings() -> list[str]:
    """Return what `collecting_warnings` has collected so far, around the caller; empty where nothing collects."""
    collector = _COLLECTOR.get()
    return [] if collector is None else list(collector[0])


def warn(text: str) -> None:
    """Hand the warning `text` to who collects it; else issue it with the line of the user's own code."""
    text = harmless(text)
    if (collector := _COLLECTOR.get()) is not None:
        found, tell = collector
        if text not in found:
            found.append(text)
            tell(text)
        return
    if (line := _LINE.get()) is not None:
        warnings.warn_explicit(text, UserWarning, *line)
        return
    level, _ = _first_foreign_frame()
    warnings.warn(text, stacklevel=level)


def with_this_line(function: Callable[[], T]) -> Callable[[], T]:
    """Return `function` for another thread, in which a warning is collected as here, or names the user's line."""
    _, frame = _first_foreign_frame()
    line, collector = (frame.f_code.co_filename, frame.f_lineno), _COLLECTOR.get()

    def run() -> T:
        _LINE.set(line)
        _COLLECTOR.set(collector)
        return function()

    return run


def _first_foreign_frame() -> tuple[int, types.FrameType]:
    """Return the first frame that is not of `ports`, and its level for `warnings.warn` in the caller."""
    level, frame = 2, sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    return level, frame
