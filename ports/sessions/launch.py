"""Run one long-lived command: hand it its environment, keep its log, note its end, and let nothing outlive it.

Run by path, as ``python -I -S launch.py LAUNCH.json``: standard library only, to stay small beside what it runs.
The file (0600) holds ``argv``, ``cwd``, ``environ``, ``log``, ``log_bytes``, ``exit`` and ``hold``; it is deleted
once it is read: no secret stays on disk, and none stands in arguments or in tmux's environment.

- output goes to the terminal and to the log, which is rotated once at ``log_bytes``;
- ``exit`` gets how the command ended;
- without ``core_files`` no process writes one: keys and data would stand in it. A task may raise the limit again;
- ``hold`` are directories that stay locked (shared), which keeps systemd-tmpfiles from cleaning them;
- on Linux it is a subreaper: what the command leaves behind is ended with it; and it is two, so that a launcher that
  is itself killed leaves nothing behind either. Only the launcher of another session goes on, with all below it: a
  cluster that a notebook started where there is no tmux outlives the notebook.
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
import sys
import time
from typing import Any

if __name__ == "__main__":  # by path; all of it is read now, as an upgrade can replace these files later
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from probe import files, processes  # type: ignore[import-not-found]

    del sys.path[-1]
else:
    from ports.probe import files, processes

NO_INTERRUPT = (
    b"\r\nCtrl-C ends nothing here: Ctrl-b d leaves, `ports cluster stop` or `ports notebook stop` ends it\r\n"
)
GRACE = 5.0  # seconds between SIGTERM and SIGKILL for what the command left behind
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class Log:
    """A file that is moved to ``<path>.1`` when it grows over `limit` bytes."""

    def __init__(self, path: str, limit: int) -> None:
        self.path, self.limit = path, limit
        self.descriptor = self._open()
        self.size = os.fstat(self.descriptor).st_size

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def write(self, data: bytes) -> None:
        """Append `data`; what a full disk does not take is lost."""
        try:
            if self.size + len(data) > self.limit:
                os.replace(self.path, self.path + ".1")
                full, self.descriptor = self.descriptor, self._open()
                os.close(full)
                self.size = 0
            self.size += os.write(self.descriptor, data)
        except OSError:
            pass  # a full disk must not end the cluster


def prctl(option: int, value: int) -> None:
    """Call Linux's prctl; elsewhere nothing."""
    if sys.platform.startswith("linux"):
        try:
            ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
        except (OSError, AttributeError):
            pass


def hold(directories: list[str]) -> None:
    """Lock `directories` against tmpfiles for as long as this process lives; what is no directory is passed over."""
    for directory in directories:
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW)
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            pass


def guard() -> int | None:
    """Go on in a child, where this returns None; return its exit status here, once all it left is ended.

    A subreaper that is killed gives what it adopted away. This process does nothing but adopt it then, and the child,
    whom the kernel tells of the end of this one, ends everything itself.
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
    """Return what the command wrote about its own end, in the file ``why`` of its directory."""
    try:
        with open(os.path.join(directory, "why"), encoding="utf-8", errors="replace") as file:
            return file.read(1000).strip() or None
    except OSError:
        return None


def start(spec: dict[str, Any], output: int) -> int:
    """Fork the command; its output goes to the descriptor `output`."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)
        os.setpgid(0, 0)  # Ctrl-C in the pane reaches the launcher only
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(spec["cwd"])
        os.execvpe(spec["argv"][0], spec["argv"], spec["environ"])
    except BaseException as error:  # noqa: BLE001 - nothing may run on in the child
        os.write(2, f"cannot run {spec['argv'][0]}: {error}\n".encode())
        os._exit(127)


def is_launcher(words: list[str]) -> bool:
    """Say whether a command line is that of a launcher."""
    return [os.path.basename(word) for word in words[-2:]] == ["launch.py", "launch.json"]


def is_other_session(pid: int) -> bool:
    """Say whether a process is the launcher of a session of its own."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = os.fsdecode(file.read()).split("\0")[:-1]
        return is_launcher(words) and words[-1] != sys.argv[-1] and os.getsid(pid) == pid
    except OSError:
        return False


def reap() -> bool:
    """Collect ended children; return False when none is left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except OSError as error:
        return error.errno != errno.ECHILD
    return True


def end_descendants() -> None:
    """End what the command left: its orphans are this process's children, theirs follow when they end."""
    end = time.monotonic() + GRACE
    while reap():
        left = [pid for pid in processes.children(os.getpid()) if not is_other_session(pid)]
        number = signal.SIGTERM if time.monotonic() < end else signal.SIGKILL
        if not left or time.monotonic() > end + GRACE:
            return  # a process in uninterruptible sleep cannot be waited for
        for pid in left:
            try:
                os.kill(pid, number)
            except OSError:
                pass
        time.sleep(0.02)


def end_group(leader: int) -> None:
    """Ask what is left of the command's process group to end; where nothing is adopted, that is all there is to do."""
    try:
        os.killpg(leader, signal.SIGTERM)
    except OSError:
        pass


def supervise(pid: int, source: int, log: Log) -> int:
    """Copy output and pass signals on until the command ends; return its wait status."""

    def pass_on(_number: int, _frame: object) -> None:
        try:
            os.kill(pid, signal.SIGTERM)
        except OSError:
            pass

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    signal.signal(signal.SIGINT, lambda *_: show(NO_INTERRUPT))  # the reflex of who looks at a log that scrolls
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    status = None
    with selectors.DefaultSelector() as selector:
        selector.register(source, selectors.EVENT_READ)
        selector.register(wake, selectors.EVENT_READ)
        while status is None:
            for key, _ in selector.select(timeout=5):
                data = os.read(key.fd, 65536)
                if key.fd == source and data:
                    log.write(data)
                    show(data)
                elif key.fd == source:
                    selector.unregister(source)  # closed, but the command may go on
            status = collect(pid)
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
    """Take over what is in the pipe; a grandchild may hold it open."""
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
        os.execvpe(spec["argv"][0], spec["argv"], {**spec["environ"], "TERM": os.environ.get("TERM", "screen")})
    hold(spec["hold"])
    parent = os.getpid()
    if (guarded := guard()) is not None:
        return guarded
    source, sink = os.pipe()
    log = Log(spec["log"], spec["log_bytes"])
    log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S %z')} {spec['title']}\n".encode())
    pid = start(spec, sink)
    os.close(sink)
    status = supervise(pid, source, log)
    end_group(pid)
    end_descendants()
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    if os.path.isdir(os.path.dirname(spec["exit"])):  # gone when `stop` was quicker
        noted: dict[str, Any] = {"format": 1, "status": code, "signal": number, "ended_at": time.time()}
        if sys.platform.startswith("linux") and os.getppid() != parent:
            noted["reason"] = "its launcher was killed"
        if (why := reason(os.path.dirname(spec["exit"]))) is not None:
            noted["reason"] = why
        with contextlib.suppress(OSError):  # the process table shows the end all the same
            files.write_text(spec["exit"], json.dumps(noted))
    return code if code is not None else 128 + (number or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
