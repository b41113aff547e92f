"""Run the script of one job: keep its output, note its end, and let it outlive whatever started it.

It runs by path, as ``python -I -S script.py LAUNCH.json``, like the launcher of a session, whose parts it uses:
standard library, `probe` and `sessions/launch.py` only. `start` writes that file (0600), which is deleted once it is
read, because the environment is in it:

- ``argv``, ``cwd``, ``umask``, ``environ``: the command, as it was typed;
- ``attempt``, ``work``: which attempt of the job this is, and the job's directory. It gets ``running.json``,
  ``exit.json``, and the output: ``stdout`` and ``stderr``, each line with a stamp before it, see `Stream`;
- ``log_bytes``: at that size a file of output is moved to ``<file>.1``, and the one before is lost;
- ``lease``: a file that stays locked for as long as the script lives and what it started; ``descriptor``: that of the
  starter, who has locked it: whatever dies in the meantime, it is never free before the script has ended;
- ``timeout``, ``memory``: seconds and bytes (of all its processes together) that end it; null: no limit;
- ``grace``: seconds between SIGTERM and SIGKILL;
- ``linger``: seconds that what the script leaves running may go on; null: for ever.

The program leads a session of its own, wears the mark of no worker, and is a subreaper. It is two processes, as the
launcher of a session: if the outer one is killed, the inner one goes on; if the inner one is killed, the outer one ends
what is left, and notes that.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ports.jobs._places import Places

_PORTS = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
if __name__ == "__main__":  # by path; all of it is loaded now, because an upgrade can replace these files later
    sys.path.append(os.path.join(_PORTS, "sessions"))
    import launch  # type: ignore[import-not-found]
    from probe import identity, launchers, processes  # type: ignore[import-not-found]  # which `launch` has loaded

    del sys.path[-1]

STAMP = 25  # bytes before each line: 2026-11-30T11:47:08.123Z and a blank
GRACE, LINGER = 30.0, 30.0
_LOOKS = 0.5  # seconds between two looks at the memory
_START_SECONDS = 30.0
_RESERVED = 4096  # bytes of the file that gets the end: a disk that is full then takes no more
_LEASE = 200  # the least number of the lease's descriptor in the script: shells use those below for themselves
_READ = 1 << 18  # bytes
_MOST_READS = 8  # that empty a pipe; what the script left running can go on to fill it
_NOTE_SECONDS = 60.0  # for which a disk that takes nothing is asked again
_PR_SET_PDEATHSIG = 1
_LOGIN_PATH = "/usr/local/bin:/usr/bin:/bin"  # with which sshd begins
LAID_OUT = 10**18  # time of a file in a copy that nobody changed, in ns
CACHES = ("__pycache__", ".ipynb_checkpoints")  # which are no output
_MOST_COUNTED = 100_000  # files, whose sizes are added up at the end


# --- for the slot and the resource ---


def start(job: Mapping[str, Any], blob: bytes, places: Places) -> dict[str, Any]:
    """Start the script of a job, as its submission describes it in `blob` (`ports.jobs._scripts`); see `launched`.

    Parameters
    ----------
    job : mapping
        What a claim says of it: ``id``, ``attempt``, ``timeout``, ``memory``, and ``gpus``, the UUIDs that it got.
    """
    from ports.jobs._model import parse_id
    from ports.state import make_private

    told = json.loads(blob)
    number, attempt = parse_id(job["id"]), int(job["attempt"])
    work = places.work_of(number)
    kept = work / "kept"  # what an attempt leaves there, the next one finds
    kept.mkdir(mode=0o700, parents=True, exist_ok=True)
    make_private(make_private(places.runtime) / places.leases.name)  # somebody may have cleaned up /tmp
    environ = _environ(told, places)
    environ |= {"PORTS_JOB": str(number), "PORTS_ATTEMPT": str(attempt), "PORTS_JOB_DIRECTORY": str(kept)}
    if job.get("gpus"):
        environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, job["gpus"]))
    argv, directory = _with_setup(told, places), os.path.expanduser(told["directory"])
    if (workspace := told.get("workspace")) is not None:
        layer = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lay_out.py")
        objects, target = str(places.objects), str(places.copy_of(number))
        argv = [sys.executable, "-I", "-S", layer, objects, workspace["tree"], workspace["how"], target, *argv]
        directory = str(work)
    return launched(
        work,
        {
            "argv": argv,
            "cwd": directory,
            "umask": _umask() if told["umask"] is None else told["umask"],
            "environ": environ,
            "attempt": attempt,
            "log_bytes": told["log_bytes"],
            "lease": str(places.lease_of(f"job-{number}-{attempt}")),
            "timeout": job.get("timeout"),
            "memory": job.get("memory"),
            "grace": told.get("grace", GRACE),
            "linger": None if told.get("keep_children") else told.get("linger", LINGER),
        },
    )


def _environ(told: Mapping[str, Any], places: Places) -> dict[str, str]:
    """Return the variables of a script: those it was submitted with; of one from home, the login shell's below them."""
    given = {} if told.get("environ") is None else read(places.environ_of(told["environ"]))
    if not told.get("login"):
        return given
    environ = {**_login_environment(), **told.get("threads", {}), **given}
    if not told.get("setup"):  # else it can be a program of the environment that it makes
        _check_program(told["argv"], environ)
    return environ


def _login_environment() -> dict[str, str]:
    """Return the environment of the login shell, as after a login; that of the resource where its start files hang."""
    from ports import probe, sessions

    try:
        begin = {**sessions.surroundings.of_a_tool(), "PATH": _LOGIN_PATH}
        found: dict[str, str] | None = probe.login_environment(environ=begin)
    except probe.StartFilesError:
        found = None
    return sessions.surroundings.of_a_session(environ=found)


def _umask() -> int:
    from ports import sessions

    return sessions.surroundings.umask()


def _check_program(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Raise StartError if a program is not there that home could not look for."""
    from ports.errors import StartError

    if os.sep not in argv[0] and shutil.which(argv[0], path=environ.get("PATH", os.defpath)) is None:
        raise StartError("the script", f"there is no program {argv[0]!r} on the PATH of your login shell")


def _with_setup(told: Mapping[str, Any], places: Places) -> list[str]:
    """Return the command of a script, behind the program that makes the environment of its setup, if it has one."""
    setup, argv = told.get("setup"), list(told["argv"])
    if not setup:
        return argv
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "set_up.py")
    words = [str(places.environments), str(setup.get("python") or ""), str(setup["command"])]
    return [sys.executable, "-I", "-S", program, *words, *argv]


def launched(work: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Start the script that `spec` describes; return ``running.json``: its processes, its lease, and when it began.

    Raises
    ------
    StartError
        Its launcher did not start. A command that does not exist is no such error: the script ends with status 127.
    ConflictError
        This attempt runs already.
    """
    from ports.errors import ConflictError

    try:
        lease = _take(spec["lease"])
    except BlockingIOError:
        raise ConflictError(f"the script runs already: {spec['lease']} is locked") from None
    try:
        return _launched(work, {**spec, "descriptor": lease})
    finally:
        os.close(lease)


def _launched(work: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Start the launcher, which inherits the lease."""
    from ports.errors import StartError

    work.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = work / "launch.json"
    file.unlink(missing_ok=True)
    with open(file, "w", opener=lambda name, flags: os.open(name, flags | os.O_EXCL, 0o600)) as opened:
        json.dump({**spec, "work": str(work)}, opened)
    command = [sys.executable, "-I", "-S", os.path.abspath(__file__), str(file)]
    null, pipe, both = subprocess.DEVNULL, subprocess.PIPE, subprocess.STDOUT
    with subprocess.Popen(
        command,
        stdin=null,
        stdout=pipe,
        stderr=both,
        start_new_session=True,
        cwd="/",
        pass_fds=[spec["descriptor"]],
    ) as first:
        assert first.stdout is not None
        said = _said(first.stdout.fileno())
    with contextlib.suppress(ValueError):
        return dict(json.loads(said))
    file.unlink(missing_ok=True)
    text = said.decode("utf-8", "replace").strip() or f"its launcher said nothing for {_START_SECONDS:g} s"
    raise StartError("the script", text.splitlines()[-1])


def _said(source: int) -> bytes:
    """Return what the launcher says: one line of JSON, or all that it said when it failed."""
    said, end = b"", time.monotonic() + _START_SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(source, selectors.EVENT_READ)
        while not (said.startswith(b"{") and said.endswith(b"\n")) and selector.select(end - time.monotonic()):
            data = os.read(source, 65536)
            if not data:
                break
            said += data
    return said


def end(work: Path, attempt: int, how: str) -> bool:
    """Ask the script of a job to end: SIGTERM, and SIGKILL later; False if that attempt does not run.

    Parameters
    ----------
    how : str
        ``cancel`` or ``timeout``: what ``exit.json`` says of the end.
    """
    from ports import probe

    running = read(work / "running.json")
    if running.get("attempt") != attempt:
        return False
    probe.files.write_text(str(work / "ending.json"), json.dumps({"attempt": attempt, "how": how}))
    for who in (running["watcher"], running["process"]):
        if probe.is_same_process_alive(who):
            with contextlib.suppress(ProcessLookupError):
                os.kill(who["pid"], signal.SIGTERM)
                return True
    return False


def read(path: Path | str) -> dict[str, Any]:
    """Return a document of the job's directory; an empty one where there is none, or half of one."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


# --- the program ---


class Stream:
    """One file of output, in which each line begins with its time in UTC: ``2026-11-30T11:47:08.123Z text``.

    A line that has no end yet is written at once, and goes on later. No two files begin with the same stamp: who reads
    on after a rotation knows each file by it.
    """

    def __init__(self, path: str, limit: int) -> None:
        self.log = launch.Log(path, limit)
        self.begins = True  # the next byte begins a line
        self._first = 0  # the stamp with which this file begins, in milliseconds
        if self.log.size:
            with open(path, "rb") as file:
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":
                    self.log.append(b"\n")

    def write(self, data: bytes) -> None:
        """Append `data`, which can end anywhere."""
        if not self.begins and self._is_full(data):  # a new file begins with a line
            head, newline, data = data.partition(b"\n")
            self.log.append(head + newline)
            self.begins = bool(newline)
            if not newline and self.log.size > 2 * self.log.limit:  # this line has no end
                self.log.append(b"\n")
                self.begins = True
        if not data:
            return
        if self.begins and self.log.size and self._is_full(data):
            with contextlib.suppress(OSError):
                self.log.rotate()
        stamp, ends = self._stamp(), data.endswith(b"\n")
        lines = (data[:-1] if ends else data).replace(b"\n", b"\n" + stamp)
        self.log.append((stamp if self.begins else b"") + lines + (b"\n" if ends else b""))
        self.begins = ends

    def _is_full(self, data: bytes) -> bool:
        return bool(self.log.size + len(data) + STAMP * (1 + data.count(b"\n")) > self.log.limit)

    def _stamp(self) -> bytes:
        now = int(time.time() * 1000)
        if not self.log.size:
            now = self._first = max(now, self._first + 1)
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 1000))
        return f"{text}.{now % 1000:03d}Z ".encode()


class Script:
    """The script's processes, its output, and what is known of its end."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec, self.work = spec, spec["work"]
        self.began, self.asked = time.time(), False
        self.status: int | None = None  # the wait status of the main process
        self.ended: str | None = None  # what ended it, unless it ended by itself
        self.peak, self.cpu = 0, 0.0  # bytes, seconds
        self.pid = 0
        self.streams: dict[int, Stream] = {}
        self.kill_at = self.until = float("inf")
        self.look_at = 0.0

    def start(self) -> None:
        """Start the main process."""
        sinks = []
        for name in ("stdout", "stderr"):
            source, sink = os.pipe()
            with contextlib.suppress(AttributeError, OSError):  # not Linux, or all pipes of the user take their most
                fcntl.fcntl(sink, fcntl.F_SETPIPE_SZ, _READ)
            self.streams[source] = Stream(os.path.join(self.work, name), self.spec["log_bytes"])
            sinks.append(sink)
        self.pid = launch.start(self.spec["argv"], self.spec, *sinks)
        for sink in sinks:
            os.close(sink)

    def watch(self, note: Note) -> None:
        """Copy output until all is over; write `note` once the main process has ended."""
        wake, waker = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(waker, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        timeout = self.spec.get("timeout")
        self.until = time.monotonic() + timeout if timeout else float("inf")
        with selectors.DefaultSelector() as selector:
            for source in (wake, *self.streams):
                selector.register(source, selectors.EVENT_READ)
            while not self._is_over(note):
                for key, _ in selector.select(self._pause()):
                    data = os.read(key.fd, _READ)
                    if key.fd in self.streams and data:
                        self.streams[key.fd].write(data)
                    elif key.fd in self.streams:
                        selector.unregister(key.fd)  # closed, but the script may go on
        self._drain()

    def _pause(self) -> float:
        return max(0.01, min(_LOOKS, min(self.until, self.kill_at) - time.monotonic()))

    def _is_over(self, note: Note) -> bool:
        """Look at the processes, and do what is due."""
        now, is_first = time.monotonic(), False
        if self.status is None:
            is_first = self._collect()
        if is_first:
            self._drain()
            note.write(self.noted())
            linger = self.spec.get("linger")
            self.until = float("inf") if linger is None else now + linger
        if self.status is None:
            self._look(now)
            return False
        if not launch.reap() or not processes.children(os.getpid()):
            return True
        if self.asked or self.ended or now >= self.until:
            launch.end_descendants()
            return True
        return False

    def _look(self, now: float) -> None:
        """End the main process where that was asked for, its time is over, or its memory is too much."""
        if self.asked and self.ended is None:
            found = read(os.path.join(self.work, "ending.json"))
            self._end(str(found["how"]) if found.get("attempt") == self.spec["attempt"] else "signal", now)
        elif self.ended is None and now >= self.until:
            self._end("timeout", now)
        if now >= self.look_at:
            self.look_at = now + _LOOKS
            self._look_at_memory(now)
        if now >= self.kill_at:
            for pid in _below(os.getpid()):
                launch.kill(pid, signal.SIGKILL)
            self.kill_at = now + 0.1

    def _end(self, how: str, now: float) -> None:
        self.ended, self.until, self.kill_at = how, float("inf"), now + self.spec["grace"]
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGTERM)
            os.killpg(self.pid, signal.SIGCONT)

    def _look_at_memory(self, now: float) -> None:
        used = sum(map(processes.own_memory, _below(os.getpid())))
        self.peak = max(self.peak, used)
        if self.spec.get("memory") and used > self.spec["memory"]:
            self.ended, self.until, self.kill_at = "memory", float("inf"), now

    def _collect(self) -> bool:
        """Reap ended children, and add up what they used; return True when the main process is among them."""
        try:
            while True:
                pid, status, used = os.wait4(-1, os.WNOHANG)
                if not pid:
                    return self.status is not None
                self.cpu += used.ru_utime + used.ru_stime
                self.peak = max(self.peak, used.ru_maxrss * (1024 if sys.platform.startswith("linux") else 1))
                if pid == self.pid:
                    self.status = status
        except ChildProcessError:
            self.status = 255 << 8 if self.status is None else self.status
            return True

    def _drain(self) -> None:
        """Copy what is in the pipes now; what the script left running can keep them open."""
        for source, stream in self.streams.items():
            os.set_blocking(source, False)
            with contextlib.suppress(BlockingIOError):
                for _ in range(_MOST_READS):
                    stream.write(os.read(source, _READ))

    def noted(self) -> dict[str, Any]:
        """Return what ``exit.json`` gets."""
        assert self.status is not None
        dropped = {os.path.basename(one.log.path): one.log.lost for one in self.streams.values()}
        used = {"peak_memory": self.peak, "cpu_time": round(self.cpu, 3), "size": kept_size(self.work)}
        used["made"] = has_made(os.path.join(self.work, "workspace"))
        rest = {"attempt": self.spec["attempt"], "began_at": self.began, "ended": self.ended, "dropped": dropped}
        failed = read(os.path.join(self.work, "setup.json"))
        if failed.get("attempt") == self.spec["attempt"]:
            rest["reason"] = f"the setup failed: {failed.get('text')}"
        return {**launch.ending(self.status), **rest, **used}

    def lost(self, reason: str) -> dict[str, Any]:
        """Return what ``exit.json`` gets where nobody saw the script's end."""
        rest = {"attempt": self.spec["attempt"], "began_at": self.began, "ended_at": time.time(), "reason": reason}
        return {"format": 1, "status": None, "signal": None, "ended": "lost", **rest}


def kept_size(directory: str) -> int:
    """Return the bytes on the disk of all that is below a directory; of very many files, a lower limit."""
    total, left, pending = 0, _MOST_COUNTED, [directory]
    while pending and left > 0:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as found:
            for entry in found:
                left -= 1
                with contextlib.suppress(OSError):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
    return total


def has_made(copy: str) -> bool:
    """Say whether something below a copy is not as it was laid out; of very many files: yes."""
    n_files = 0
    for place, folders, names in os.walk(copy):
        folders[:] = [name for name in folders if name not in CACHES]
        paths = [os.path.join(place, name) for name in names]
        links = [path for path in (os.path.join(place, name) for name in folders) if os.path.islink(path)]
        n_files += len(paths)
        if links or n_files > _MOST_COUNTED or any(_is_made(path) for path in paths):
            return True
    return False


def _is_made(path: str) -> bool:
    """Say whether a file has another time than one that was laid out, or is a link, whose time nobody sets."""
    with contextlib.suppress(OSError):
        return os.lstat(path).st_mtime_ns != LAID_OUT
    return True


def _below(pid: int) -> list[int]:
    """Return the processes below this one, without launchers of other sessions and what is below them."""
    own = [one for one in processes.children(pid) if not launchers.is_session(one, sys.argv[-1])]
    return [*own, *(below for one in own for below in _below(one))]


class Note:
    """The file that gets how the script ended. Its room on the disk is there from the beginning."""

    def __init__(self, work: str) -> None:
        self.path, self.part = os.path.join(work, "exit.json"), os.path.join(work, ".exit.json.part")
        for path in (self.path, self.part):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self.descriptor = os.open(self.part, flags, 0o600)
        os.write(self.descriptor, b" " * _RESERVED)
        os.fsync(self.descriptor)

    def write(self, noted: dict[str, Any]) -> None:
        """Write the file, and see it on the disk; where the disk does not take it for a minute, the job is lost."""
        end = time.monotonic() + _NOTE_SECONDS
        while os.path.isdir(os.path.dirname(self.path)) and time.monotonic() < end:
            try:
                return self._write(noted)
            except OSError:
                time.sleep(1)

    def _write(self, noted: dict[str, Any]) -> None:
        data = json.dumps(noted).encode()
        os.pwrite(self.descriptor, data, 0)
        os.ftruncate(self.descriptor, len(data))
        os.fsync(self.descriptor)
        os.replace(self.part, self.path)
        directory = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        os.fsync(directory)
        os.close(directory)


def _take(lease: str) -> int:
    """Lock the lease, and return its descriptor; raises BlockingIOError if somebody has it."""
    opened = os.open(lease, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, _LEASE)
    finally:
        os.close(opened)


def _leave() -> None:
    """Go on in a child that leads a session of its own and wears the mark of no worker; this process ends."""
    if os.fork():
        os._exit(0)
    os.setsid()
    with contextlib.suppress(AttributeError, OSError, ValueError):  # not Linux
        soft, hard = resource.getrlimit(resource.RLIMIT_SIGPENDING)
        if soft != resource.RLIM_INFINITY:
            resource.setrlimit(resource.RLIMIT_SIGPENDING, (launchers.mark_of_none(soft, hard), hard))


def main(path: str) -> int:
    """Run the script that the file `path` describes; return its exit status as a shell does."""
    with open(path, opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW)) as file:
        spec = json.load(file)
    os.unlink(path)
    os.umask(0o077)
    _leave()
    lease = spec["descriptor"]
    script, note = Script(spec), Note(spec["work"])
    signal.signal(signal.SIGTERM, lambda *_: setattr(script, "asked", True))
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    outer = identity.process_identity(os.getpid())
    if (supervised := launch.supervise()) is not None:
        if not os.path.exists(note.path):
            note.write(script.lost("its launcher was killed"))
        with contextlib.suppress(OSError):  # nobody needs it: the end is noted
            os.unlink(spec["lease"])
        return int(supervised)
    launch.prctl(_PR_SET_PDEATHSIG, 0)  # it can go on alone
    try:
        script.start()
        _say(script, outer)
        script.watch(note)
    except Exception as error:
        note.write(script.lost(f"its launcher failed: {error!r}"))
        raise
    os.close(lease)
    assert script.status is not None
    return os.waitstatus_to_exitcode(script.status) % 256


def _say(script: Script, outer: dict[str, Any]) -> None:
    """Note what runs, and say it to the starter, which reads one line."""
    running = {"format": 1, "attempt": script.spec["attempt"], "began_at": script.began, "lease": script.spec["lease"]}
    running.update(process=outer, watcher=identity.process_identity(os.getpid()), pid=script.pid)
    launch.files.write_text(os.path.join(script.work, "running.json"), json.dumps(running))
    with contextlib.suppress(OSError):  # the starter can be gone
        os.write(1, json.dumps(running).encode() + b"\n")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
