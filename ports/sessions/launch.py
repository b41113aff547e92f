"""Run one long-lived command: give it its environment, keep its log, note its end, and let nothing outlive it.

It runs by path, as ``python -I -S launch.py LAUNCH.json``: standard library and `probe` only, to stay small beside the
command. The file (0600) is deleted once it is read: no secret stays on disk, and none is in arguments or in tmux's
environment. It contains:

- ``argv``, ``cwd``, ``environ``: the command, its directory and its whole environment;
- ``log``, ``log_bytes``: output goes to the terminal and to this file. At that size it is moved to ``<log>.1``, and the
  one before is lost;
- ``exit``: the file that gets how the command ended;
- ``hold``: directories that stay locked (shared), which keeps systemd-tmpfiles from cleaning them;
- ``core_files`` (true): if false, no process writes one, as keys and data would be in it. A task can raise the limit;
- ``after`` (nothing): a command, as a list of words, that runs once the session's own has ended, for 20 s at most. Its
  output goes to the log. If it fails, ``exit`` gets the reason, and nothing else follows from it;
- ``terminal`` (false): the command is a shell for a person; nothing is kept or noted;
- ``umask`` (0o077): that of the command.

On Linux the launcher is a subreaper: what the command leaves behind ends with it. The launcher is two processes: if one
is killed, the other ends what is left. Only the launcher of another session goes on, with all below it: where there is
no tmux, a cluster that a notebook started outlives the notebook.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import resource
import selectors
import signal
import struct
import sys
import time
from typing import Any

if __name__ in ("__main__", "launch"):  # by path; all is loaded now, because an upgrade can replace these files later
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from probe import files, launchers, living, processes  # type: ignore[import-not-found]

    del sys.path[-1]
else:
    from ports.probe import files, launchers, living, processes

NO_INTERRUPT = (
    b"\r\nCtrl-C ends nothing here: Ctrl-b d leaves, `ports cluster stop` or `ports notebook stop` ends it\r\n"
)
GRACE = 5.0  # seconds between SIGTERM and SIGKILL for what the command left behind
AFTER_SECONDS = 20.0  # that the command `after` may take
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class Log:
    """A file that is moved to ``<path>.1`` when it grows over `limit` bytes; `lost` counts the bytes that are gone."""

    def __init__(self, path: str, limit: int) -> None:
        self.path, self.limit, self.lost = path, limit, 0
        self.descriptor = self._open()
        self.size = os.fstat(self.descriptor).st_size

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def write(self, data: bytes) -> None:
        """Append `data`, to a new file where it is too much for this one; what a full disk does not take is lost."""
        if self.size + len(data) > self.limit:
            with contextlib.suppress(OSError):
                self.rotate()
        self.append(data)

    def append(self, data: bytes) -> None:
        """Append `data` to this file, however large it is."""
        written = 0
        with contextlib.suppress(OSError):  # a full disk must not end the cluster
            written = os.write(self.descriptor, data)
        self.size += written
        self.lost += len(data) - written

    def rotate(self) -> None:
        """Begin a new file; the one before this is lost."""
        with contextlib.suppress(OSError):
            self.lost += os.stat(self.path + ".1").st_size
        os.replace(self.path, self.path + ".1")
        full, self.descriptor = self.descriptor, self._open()
        os.close(full)
        self.size = 0


def prctl(option: int, value: int) -> None:
    """Call Linux's prctl; elsewhere nothing."""
    if sys.platform.startswith("linux"):
        try:
            ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
        except (OSError, AttributeError):
            pass


def hold(directories: list[str]) -> None:
    """Lock `directories` against tmpfiles for as long as this process lives; skip what is no directory."""
    for directory in directories:
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW)
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            pass


def hold_session(directory: str) -> None:
    """Lock a file in the session's directory for as long as a launcher lives: another pid namespace can ask for that.

    The lock belongs to the open file, so both processes of the launcher hold it. A file that cannot be locked is
    removed: then nothing is known, and nothing false.
    """
    if not sys.platform.startswith("linux"):
        return
    path = os.path.join(directory, living.LOCK)
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            wanted = struct.pack(living.FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, wanted)
        except OSError:
            os.unlink(path)


def supervise() -> int | None:
    """Go on in a child, where this returns None; here, return the child's exit status once all it left has ended.

    If the child is killed, this process adopts and ends what the child had adopted. If this process is killed, the
    kernel tells the child, which then ends everything itself.
    """
    parent = os.getpid()
    pid = os.fork()
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    if not pid:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)
        return None
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: os.kill(pid, signal.SIGTERM))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the child as well
    ended, status = os.waitpid(-1, 0)
    while ended != pid:
        ended, status = os.waitpid(-1, 0)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end_descendants()
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def reason(directory: str) -> str | None:
    """Return what the command wrote about its own end to the file ``why`` in `directory`; None if nothing."""
    try:
        with open(os.path.join(directory, "why"), encoding="utf-8", errors="replace") as file:
            return file.read(1000).strip() or None
    except OSError:
        return None


def start(argv: list[str], spec: dict[str, Any], output: int, errors: int | None = None) -> int:
    """Fork, and run `argv` in the directory and environment of `spec`.

    What it prints goes to the descriptor `output`, and its stderr to `errors`, if that is given.
    """
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)
        os.setpgid(0, 0)  # Ctrl-C in the pane reaches the launcher only
        plain_signals()
        os.dup2(output, 1)
        os.dup2(output if errors is None else errors, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.umask(spec.get("umask", 0o077))
        os.chdir(spec["cwd"])
        os.execvpe(argv[0], argv, spec["environ"])
    except BaseException as error:  # noqa: BLE001 - the child must not run on
        os.write(2, f"cannot run {argv[0]}: {error}\n".encode(errors="backslashreplace"))
        os._exit(127)


def plain_signals() -> None:
    """Let each signal do what it does after a login, whatever nohup, a shell's ``&`` or Python made of it."""
    for number in signal.valid_signals():
        with contextlib.suppress(OSError, ValueError):  # SIGKILL and SIGSTOP
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def reap() -> bool:
    """Collect ended children; return False when none is left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except OSError as error:
        return error.errno != errno.ECHILD
    return True


def end_descendants() -> None:
    """End what the command left: its orphans are this process's children, and theirs become so when these end."""
    end = time.monotonic() + GRACE
    while reap():
        left = [pid for pid in processes.children(os.getpid()) if not launchers.is_session(pid, sys.argv[-1])]
        number = signal.SIGTERM if time.monotonic() < end else signal.SIGKILL
        if not left or time.monotonic() > end + GRACE:
            return  # a process in uninterruptible sleep cannot be waited for
        for pid in left:
            kill(pid, number)
        time.sleep(0.02)


def end_group(leader: int) -> None:
    """Ask what is left of the command's process group to end; where nothing is adopted, no more can be done."""
    try:
        os.killpg(leader, signal.SIGTERM)
    except OSError:
        pass


def run(argv: list[str], spec: dict[str, Any], log: Log, *, limit: float | None = None) -> int:
    """Run `argv` until it has ended with all that it left, at most `limit` seconds; return its wait status."""
    source, sink = os.pipe()
    pid = start(argv, spec, sink)
    os.close(sink)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, (lambda *_: kill(pid, signal.SIGTERM)) if limit is None else signal.SIG_IGN)
    status = follow(pid, source, log, limit)
    os.close(source)
    end_group(pid)
    end_descendants()
    return status


def kill(pid: int, number: int) -> None:
    """Send a signal to a process, if it still exists."""
    with contextlib.suppress(OSError):
        os.kill(pid, number)


def follow(pid: int, source: int, log: Log, limit: float | None) -> int:
    """Copy output until the process `pid` ends, and kill it after `limit` seconds; return its wait status."""
    signal.signal(signal.SIGINT, lambda *_: show(NO_INTERRUPT))  # a reflex at the sight of a log that scrolls
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    status, end = None, time.monotonic() + (limit or 0)
    with selectors.DefaultSelector() as selector:
        selector.register(source, selectors.EVENT_READ)
        selector.register(wake, selectors.EVENT_READ)
        while status is None:
            for key, _ in selector.select(timeout=5 if limit is None else max(0.01, min(5, end - time.monotonic()))):
                data = os.read(key.fd, 65536)
                if key.fd == source and data:
                    log.write(data)
                    show(data)
                elif key.fd == source:
                    selector.unregister(source)  # closed, but the command may go on
            if limit is not None and time.monotonic() >= end:
                kill(pid, signal.SIGKILL)
            status = collect(pid)
    signal.set_wakeup_fd(-1)
    os.close(wake)
    os.close(waker)
    drain(source, log)
    return status


def collect(pid: int) -> int | None:
    """Reap ended children; return the wait status of `pid` if it is among them."""
    status = None
    try:
        while True:
            found, ended = os.waitpid(-1, os.WNOHANG)
            if not found:
                return status
            if found == pid:
                status = ended
    except OSError:
        return status if status is not None else 255 << 8


def drain(source: int, log: Log) -> None:
    """Copy what is still in the pipe; a grandchild can keep it open."""
    os.set_blocking(source, False)
    try:
        while True:
            data = os.read(source, 65536)
            if not data:
                return
            log.write(data)
            show(data)
    except OSError:
        pass


def show(data: bytes) -> None:
    """Write to the pane, if there still is one."""
    try:
        os.write(1, data)
    except OSError:
        pass


def main(path: str) -> int:
    """Run the command that the file `path` describes; return its exit status as a shell does."""
    with open(path, opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW)) as file:
        spec = json.load(file)
    os.unlink(path)
    os.umask(0o077)
    if not spec.get("core_files", True):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if spec.get("terminal"):  # a shell for a person: it gets this process's terminal, and nothing is kept
        os.chdir(spec["cwd"])
        os.umask(spec.get("umask", 0o077))
        plain_signals()
        os.execvpe(spec["argv"][0], spec["argv"], {**spec["environ"], "TERM": os.environ.get("TERM", "screen")})
    hold(spec["hold"])
    hold_session(os.path.dirname(spec["exit"]))
    parent = os.getpid()
    if (supervised := supervise()) is not None:
        return supervised
    log = Log(spec["log"], spec["log_bytes"])
    log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S %z')} {spec['title']}\n".encode(errors="backslashreplace"))
    status = run(spec["argv"], spec, log)
    noted = ending(status)
    if sys.platform.startswith("linux") and os.getppid() != parent:
        noted["reason"] = "its launcher was killed"
    if (why := reason(os.path.dirname(spec["exit"]))) is not None:
        noted["reason"] = why
    note(spec["exit"], noted)
    if spec.get("after") and (failure := run_after(spec, log)) is not None:
        log.write(f"after the end: {failure}\n".encode(errors="backslashreplace"))
        note(spec["exit"], {**noted, "after": failure})
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def ending(status: int) -> dict[str, Any]:
    """Return what is noted of a process that ended with this wait status."""
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    return {"format": 1, "status": code, "signal": number, "ended_at": time.time()}


def note(path: str, noted: dict[str, Any]) -> None:
    """Write how the command ended, unless `stop` was quicker and the directory is gone."""
    if os.path.isdir(os.path.dirname(path)):
        with contextlib.suppress(OSError):  # the process table shows the end all the same
            files.write_text(path, json.dumps(noted))


def run_after(spec: dict[str, Any], log: Log) -> str | None:
    """Run the command `after` of `spec`; return why it failed, None if it did not."""
    words, began = spec["after"], time.monotonic()
    if not isinstance(words, list) or not all(isinstance(word, str) and "\0" not in word for word in words):
        return f"'after' is {words!r}; it must be a list of words"
    status = run(words, spec, log, limit=AFTER_SECONDS)
    if not status:
        return None
    if time.monotonic() - began >= AFTER_SECONDS:
        return f"{words[0]} did not end within {AFTER_SECONDS:g} s"
    ended = ending(status)
    return f"{words[0]}: " + (f"signal {ended['signal']}" if ended["signal"] else f"exit status {ended['status']}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
