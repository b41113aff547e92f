"""Sessions that start, fail, are killed, or belong to another machine: what is said of them and what is left."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import ports
from ports import clusters, errors, sessions
from ports.clusters._cluster import Cluster
from ports.sessions import _tmux
from ports.state import host as interpreter
from ports.state import make_private, paths, records
from ports.state.waiting import wait_until
from tests.integration.conftest import Home
from tests.integration.test_clusters import alive, start_children

pytestmark = [pytest.mark.ci, pytest.mark.xdist_group("machine")]

SMALL = {"n_workers": 1, "threads_per_worker": 1}


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid) or None, timeout=10, what="its end")


def gone(home: Home) -> None:
    """Wait until no process of the home is left."""
    wait_until(lambda: not home.processes() or None, timeout=15, what="end of all processes", every=0.1)


@pytest.mark.parametrize("victim", ["owner", "launcher"])
@pytest.mark.quick
def test_what_was_killed_is_stopped_with_its_reason_and_leaves_no_process(home: Home, victim: str) -> None:
    started = clusters.start("main", **SMALL)
    with started.get_client() as client:
        children = client.submit(start_children, pure=False).result()
    launcher = started.record.launcher
    assert launcher is not None
    kill(started.row()["pid"] if victim == "owner" else launcher.pid)
    wait_until(lambda: clusters.get().state == "stopped" or None, timeout=15, what="its end in the list", every=0.1)
    wait_until(lambda: not any(map(alive, children)) or None, timeout=15, what="end of what tasks started")
    gone(home)
    reason = clusters.get().reason
    [row] = home.json("cluster", "list")
    assert (row["state"], row["reason"]) == ("stopped", reason)
    assert reason == ("killed by signal 9" if victim == "owner" else "its launcher was killed")


def test_only_commands_that_change_or_connect_record_their_interpreter(home: Home) -> None:
    host = paths.here().host

    def recorded(step: Callable[[], object]) -> bool:
        host.unlink(missing_ok=True)
        step()
        return host.exists() and json.loads(host.read_text())["python"] == sys.executable

    assert recorded(lambda: ports.client(n_workers=0).close())
    assert recorded(lambda: ports.client(n_workers=0).close()), "it ran already"
    assert recorded(lambda: clusters.get().scale(0))
    assert not recorded(clusters.list) and not recorded(lambda: home.json("cluster", "show"))
    assert recorded(lambda: home.json("cluster", "stop"))
    shutil.rmtree(home.state)
    home.json("cluster", "list"), home.json("notebook", "list"), home.json("list")
    assert not home.state.exists()
    home.state.write_text("no directory")
    interpreter.record_this_interpreter()  # says nothing: what needs the disk does
    home.state.unlink()


@pytest.mark.parametrize("shell", ["/bin/false", "/usr/bin/fish", "/usr/bin/tcsh"])
def test_no_login_shell_stands_between_tmux_and_what_it_runs(
    home: Home, monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    if not Path(shell).exists():
        pytest.skip(f"there is no {shell} here")
    monkeypatch.setenv("SHELL", shell)
    started = clusters.start("main", n_workers=0)
    launcher = started.record.launcher
    assert launcher is not None and "launch.py" in " ".join(psutil.Process(launcher.pid).cmdline())
    assert "tmux" in psutil.Process(launcher.pid).parent().name()
    assert started.record.environ == {} and started.state == "running"
    started.stop()


def at_a_terminal(words: list[str], term: str, until: str) -> str:
    """Run ``ports WORDS`` at a terminal of that name until it ends or prints `until`; return what it printed."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = term
        os.execv(sys.executable, [sys.executable, "-m", "ports", *words])
    seen = b""

    def over() -> bool | None:
        nonlocal seen
        if select.select([terminal], [], [], 0)[0]:
            try:
                seen += os.read(terminal, 65536)
            except OSError:
                return True
        return True if until.encode() in seen else None

    try:
        wait_until(over, timeout=40, what=f"{until!r} of {words}")
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)
    return seen.decode(errors="replace")


@pytest.mark.parametrize("term", ["xterm-kitty", "", "no-such-terminal"])
def test_a_terminal_that_tmux_does_not_know_hinders_nothing(home: Home, term: str) -> None:
    started = at_a_terminal(["cluster", "start", "main", "--n-workers", "0"], term, "\0")
    assert clusters.get("main").state == "running", started
    assert "unsuitable" not in started and clusters.get("main").record.tmux_socket is not None
    assert "runs at unix" in at_a_terminal(["cluster", "attach", "main"], term, "runs at unix")
    if term == "xterm-kitty":
        at_a_terminal(["notebook", "start", "lab"], term, "\0")
        assert [row["state"] for row in home.json("notebook", "list")] == ["running"]
        home.json("notebook", "stop", "lab")
        at_a_terminal(["shell", "--name", "one", "--bash"], term, "[shell-one")
        subprocess.run(["tmux", "-S", str(home.runtime / "tmux.sock"), "kill-session", "-t", "shell-one"], check=True)


def test_the_status_line_of_tmux_shows_the_whole_name_of_a_session(home: Home) -> None:
    name = "a-name-of-thirty-one-characters"
    at_a_terminal(["shell", "--name", name, "--bash"], "xterm", f"[shell-{name}]")
    socket = str(home.runtime / "tmux.sock")
    subprocess.run(["tmux", "-S", socket, "kill-session", "-t", f"shell-{name}"], check=True)


def test_a_session_that_tmux_refuses_leaves_no_server(home: Home) -> None:
    socket = home.runtime / "tmux.sock"
    with pytest.raises(errors.TmuxError, match="invalid session"):
        _tmux.start_session(socket, "", ["sleep", "60"], cwd="/")
    wait_until(lambda: not _tmux.tmux_server_pid(socket) or None, timeout=5, what="end of the empty server")
    _tmux.remove_dead_socket(socket)


BROKEN_TMUX = """#!/bin/sh
if [ "$LD_LIBRARY_PATH" != /opt/modules/tmux ]; then
    echo "tmux: error while loading shared libraries: libevent_core-2.1.so.7: cannot open shared object file" >&2
    exit 127
fi
exec %s "$@"
"""


def break_tmux(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    program = home.work / "bin" / "tmux"
    program.parent.mkdir()
    program.write_text(BROKEN_TMUX % shutil.which("tmux"))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def test_a_tmux_that_does_not_run_is_done_without_with_a_warning(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    break_tmux(home, monkeypatch)
    with pytest.warns(UserWarning, match="tmux does not run here .*libevent_core.*`ports cluster logs main` shows"):
        started = clusters.start("main", n_workers=0)
    assert started.state == "running" and started.record.tmux_socket is None
    done = home.ports("shell", "--bash")
    assert done.returncode == 5 and "libevent_core" in done.stderr, done.stderr
    started.stop()


def test_a_tmux_of_an_environment_module_finds_its_libraries(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    break_tmux(home, monkeypatch)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/modules/tmux")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        started = clusters.start("main", n_workers=0)
    assert started.state == "running" and started.record.tmux_socket is not None
    launcher = started.record.launcher
    assert launcher is not None and psutil.Process(launcher.pid).environ()["LD_LIBRARY_PATH"] == "/opt/modules/tmux"
    started.stop()


def test_scratch_and_sockets_are_locked_against_tmpfiles_while_it_runs(home: Home) -> None:
    started = clusters.start("main", n_workers=0)
    for place in (Path(started.record.scratch), home.runtime):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # what systemd-tmpfiles tries before it cleans
        finally:
            os.close(descriptor)
    started.stop()


def test_the_next_cell_starts_a_new_one_and_says_so(home: Home) -> None:
    first = clusters.start("main", **SMALL)
    kill(first.row()["pid"])
    wait_until(lambda: clusters.get().state == "stopped" or None, timeout=15, what="its end in the list", every=0.1)
    with pytest.warns(UserWarning, match=r"cluster 'main' had stopped \(.*killed.*\); a new one starts"):
        client = ports.client(**SMALL)
    with client:
        assert client.submit(sum, [1, 2]).result() == 3
    assert len(list(home.disk.iterdir())) == 1  # the scratch of the dead one is gone


@pytest.mark.quick
def test_a_start_that_fails_says_why_and_leaves_nothing(home: Home) -> None:
    with pytest.raises(errors.StartError) as caught:
        clusters.start("main", scheduler_kwargs={"preload": ["no_such_module"]})
    told = str(caught.value).splitlines()
    assert told[0] == "cluster 'main' did not start: exit status 1"
    assert told[1] == f"log: {home_log('main')}; its last lines:"
    assert 10 < len(told) <= 22
    assert "no_such_module" in told[-1] and caught.value.exit_code == 5
    assert clusters.list() == [] and home.files() in ([], ["cluster-main.log"])  # its launcher may not have begun yet
    gone(home)
    with pytest.raises(errors.StartError) as again:
        clusters.start("main", scheduler_kwargs={"preload": ["another_module"]})
    assert "another_module" in str(again.value) and "no_such_module" not in str(again.value)
    with pytest.raises(errors.StartError) as late:
        clusters.start("main", timeout=0.05, **SMALL)
    assert "_module" not in str(late.value), "lines of earlier starts"
    gone(home)


def home_log(name: str) -> Path:
    return sessions.files("cluster", name).log


def test_an_interpreter_without_dask_says_so(home: Home, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True, timeout=60)
    told = f"dask in environment 'bare' is not installed; install it there with `{bare}/bin/python -m pip install dask"
    with pytest.raises(errors.ToolMissingError, match=re.escape(f"{told} distributed`, or pass env=")):
        clusters.start("main", env=str(bare), **SMALL)
    assert home.files() == ["cluster-main.log"]


def test_a_requirement_that_is_too_old_is_named_with_what_installs_it(home: Home, tmp_path: Path) -> None:
    old = tmp_path / "old"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(old)], check=True, timeout=60)
    [packages] = old.glob("lib/python3*/site-packages")
    (packages / "tornado").mkdir()
    (packages / "tornado" / "__init__.py").write_text("version_info = (4, 0, 0, 0)\n")
    (packages / "tornado-4.0.dist-info").mkdir()
    (packages / "tornado-4.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: tornado\nVersion: 4.0\n")
    (packages / "rest.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    with pytest.raises(errors.StartError) as caught:
        clusters.start("main", env=str(old), **SMALL)
    told = str(caught.value).splitlines()[0]
    assert "in environment 'old' tornado is 4.0, and distributed needs tornado>=" in told
    assert f"run `{old}/bin/python -m pip install 'tornado>=" in told


def test_a_start_that_takes_too_long_is_given_up(home: Home) -> None:
    with pytest.raises(errors.StartError, match=r"cluster 'main' did not start: it did not answer within 0.05 s"):
        clusters.start("main", timeout=0.05, **SMALL)
    assert clusters.list() == [] and home.files() in ([], ["cluster-main.log"])  # its launcher may not have begun yet
    gone(home)


@pytest.mark.quick
def test_closing_the_terminal_of_the_starter_leaves_the_cluster(home: Home) -> None:
    code = "import ports; print(ports.client(n_workers=1, threads_per_worker=1)); import time; time.sleep(600)"
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", code])
    seen = b""

    def shown() -> bool | None:
        nonlocal seen
        if select.select([terminal], [], [], 0)[0]:
            with contextlib.suppress(OSError):
                seen += os.read(terminal, 65536)
        return True if b"<Client" in seen else None

    wait_until(shown, timeout=60, what="the client")
    os.close(terminal)  # hangs up: SIGHUP to all of the terminal's session
    assert os.waitpid(pid, 0)[1] == signal.SIGHUP
    with ports.client() as client:
        assert client.submit(sum, [1, 2]).result() == 3


@pytest.mark.quick
def test_without_tmux_all_but_attach_works(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home.work))  # nothing is found there
    started = clusters.start("main", **SMALL)
    assert started.record.tmux_socket is None and started.row()["tmux"] is None
    launcher = started.record.launcher
    assert launcher is not None and os.getsid(launcher.pid) == launcher.pid
    started.scale(2)
    started.restart()
    with pytest.raises(errors.TmuxError, match="runs without tmux; `ports cluster logs main` shows its output"):
        started.attach()
    with ports.client(reuse="any") as client:
        children = [client.submit(start_a_child, shutil.which("sleep", path=os.defpath), pure=False).result()]
    assert "runs at unix://" in "\n".join(clusters.logs("main"))
    started.stop()
    assert clusters.list() == [] and not any(map(alive, children))


def test_without_tmux_a_cluster_outlives_the_session_that_started_it(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(home.work))
    mine, now = sessions.new_identity()
    record = sessions.SessionRecord(
        kind="notebook", name="lab", created_at=now, interpreter=sys.executable, directory=".", started_by=mine
    )
    code = """if True:
        import subprocess, sys, time
        from pathlib import Path
        from ports import clusters
        clusters.start("main", n_workers=1, threads_per_worker=1)
        Path("child").write_text(str(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid))
        time.sleep(600)
    """

    def announce(found: sessions.Found[Any]) -> None:
        if Path("child").exists():
            process = sessions.processes.identity(int(Path("child").read_text()))
            records.write(found.files.running, sessions.Running(process=process))

    words = [sys.executable, "-c", code]
    environ = sessions.surroundings.of_a_session()
    claimed = sessions.claim(record)
    found = sessions.start(
        claimed, words, environ=environ, cwd=str(home.work), timeout=60, what="it", announce=announce
    )
    child = int(Path("child").read_text())
    sessions.stop(found)
    assert not alive(child)
    with clusters.get("main").get_client() as client:
        assert client.submit(sum, [1, 2]).result(timeout=30) == 3
    assert clusters.get("main").record.tmux_socket is None
    clusters.get("main").stop()


def start_a_child(program: str) -> int:
    """Start a child with a session of its own; return its pid."""
    return subprocess.Popen([program, "600"], start_new_session=True).pid


@pytest.mark.quick
def test_the_session_is_a_plain_tmux_session(home: Home) -> None:
    row = clusters.start("main", **SMALL).row()
    words = row["tmux"].split()
    assert words[:2] == ["tmux", "-S"] and words[-1] == "=cluster-main"
    shown = subprocess.run([*words[:3], "capture-pane", "-p", "-t", "=cluster-main:"], capture_output=True, text=True)
    assert "runs at unix://" in shown.stdout
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        os.execv(sys.executable, [sys.executable, "-m", "ports", "cluster", "attach", "main"])
    seen = b""

    def attached() -> bool | None:
        nonlocal seen
        seen += os.read(terminal, 65536) if select.select([terminal], [], [], 0)[0] else b""
        return True if b"cluster-main" in seen or b"runs at unix" in seen else None

    try:
        wait_until(attached, timeout=20, what="tmux in the terminal")
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)
    assert clusters.get("main").state == "running"


# --- records of others, and broken ones ---


def plant(home: Home, change: Callable[[dict[str, Any]], None]) -> Cluster:
    """Put the record of a cluster there, as another process, machine or version would have left it."""
    mine, now = sessions.new_identity()
    record = {
        "format": 1, "kind": "cluster", "name": "main", "created_at": now, "interpreter": sys.executable,
        "directory": str(home.work), "started_by": mine.to_json(), "launcher": mine.to_json(),
    }  # fmt: skip
    change(record)
    directory = make_private(sessions.folder("cluster", paths.make_state()) / "main")
    records.write_json(directory / "record.json", record)
    return clusters.get("main")


def of_another_machine(record: dict[str, Any]) -> None:
    record["launcher"] |= {"machine": "0" * 32}


@pytest.mark.quick
def test_the_record_of_another_machine_is_unknown_and_stays(home: Home) -> None:
    found = plant(home, of_another_machine)
    way = "if that is gone, `ports cluster stop main --force` forgets it"
    assert (found.state, found.reason) == ("unknown", f"it belongs to another machine or container; {way}")
    with pytest.raises(errors.UsageError, match="cannot be stopped from here"):
        found.stop()
    with pytest.raises(errors.NameInUseError):
        clusters.start("main")
    with pytest.raises(errors.NotFoundError, match="another machine"):
        ports.cluster()
    assert clusters.prune() == []
    assert found._now.found.files.record.exists()
    shutil.rmtree(found._now.found.files.directory)


def of_another_container(record: dict[str, Any]) -> None:
    for key in ("started_by", "launcher"):
        record[key] |= {"pid_namespace": "pid:[1]"}


def of_an_image(record: dict[str, Any]) -> None:
    for key in ("started_by", "launcher"):
        record[key] |= {"boot_id": "its own", "node": "its-name"}


@pytest.mark.parametrize("change", [of_another_machine, of_another_container, of_an_image])
def test_of_what_cannot_be_known_each_message_leads_out(home: Home, change: Callable[..., None]) -> None:
    found = plant(home, change)
    way = "`ports cluster stop main --force` forgets it"
    (row,) = home.json("cluster", "list")
    (listed,) = [row for row in home.json("list") if row["kind"] == "cluster"]
    assert (
        [one["state"] for one in (row, listed)] == ["unknown"] * 2 and way in row["reason"] and way in listed["reason"]
    )
    for words in (["cluster", "start", "main"], ["cluster", "stop", "main"]):
        assert way in home.ports(*words).stderr, words
    assert found._now.found.files.record.exists()
    (check,) = [one for one in json.loads(home.ports("doctor", "--json").stdout) if one["name"] == "records"]
    assert way in str(check) and "main" in str(check), check
    done = home.ports("cluster", "stop", "main", "--force")
    assert done.returncode == 0 and home.json("cluster", "list") == [], done.stderr


CONTAINER = "python -m ports cluster start main --n-workers 0 --json; read line"


@contextlib.contextmanager
def container(home: Home) -> Iterator[subprocess.Popen[str]]:
    """A cluster ``main`` in a pid namespace of its own, which ends with all that runs in it."""
    words = [
        "unshare",
        "-p",
        "-f",
        "--kill-child",
        "--mount-proc",
        "sh",
        "-c",
        CONTAINER.replace("python", sys.executable),
    ]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        if not running.stdout.readline().startswith("{"):
            pytest.skip("pid namespaces cannot be had here")
        try:
            yield running
        finally:
            running.kill()


def test_a_cluster_of_a_container_that_was_restarted_is_stopped(home: Home) -> None:
    with container(home):
        assert [row["state"] for row in home.json("cluster", "list")] == ["running"]
        assert [row["state"] for row in home.json("list") if row["kind"] == "cluster"] == ["running"]
    wait_until(lambda: clusters.get().state == "stopped" or None, timeout=10, what="its end", every=0.05)
    (row,) = home.json("cluster", "list")
    (listed,) = [row for row in home.json("list") if row["kind"] == "cluster"]
    assert row["reason"] == listed["reason"] == "its container was restarted"
    with container(home):  # the name is free again
        assert [row["state"] for row in home.json("cluster", "list")] == ["running"]
        clusters.get().stop()  # its tmux server is in reach
        assert home.json("cluster", "list") == []


def test_a_cluster_of_a_container_out_of_reach_is_not_forgotten(home: Home) -> None:
    with container(home):
        record = clusters.get()._now.found.files.record
        records.write_json(record, {**json.loads(record.read_text()), "tmux_socket": None})
        for force in (False, True):
            with pytest.raises(
                errors.UsageError, match="it runs in another container of this machine; stop it in there"
            ):
                clusters.get().stop(force=force)
        assert record.exists()
    wait_until(lambda: clusters.get().state == "stopped" or None, timeout=10, what="its end", every=0.05)
    assert clusters.prune() == ["main"]


def test_what_ran_before_a_reboot_is_stopped(home: Home) -> None:
    found = plant(home, lambda record: record["launcher"].update(boot_id="of yesterday"))
    assert (found.state, found.reason) == ("stopped", "the machine was restarted")
    assert clusters.prune() == ["main"]


@pytest.mark.quick
def test_prune_removes_what_a_crash_left_half_made(home: Home) -> None:
    half = sessions.folder("cluster", paths.make_state()) / ".main.1a2b3c4d"
    half.mkdir(parents=True)
    (half / "launch.json").write_text("{}")

    def pruned() -> list[str]:  # sockets of tests that were here before may be old enough to go
        return [row["name"] for row in home.json("prune") if row["kind"] != "sockets"]

    assert pruned() == [half.name]
    assert not half.exists() and pruned() == []


def test_an_interrupted_claim_is_stopped_once_the_claimer_is_gone(home: Home) -> None:
    def of_a_dead_starter(record: dict[str, Any]) -> None:
        record["launcher"] = None
        record["started_by"]["start_ticks"] += 1

    found = plant(home, of_a_dead_starter)
    assert (found.state, found.reason) == ("stopped", "its start was interrupted")
    clusters.start("main", **SMALL)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (
            '{"format": 99}',
            errors.NewerRecordError,
            "has format 99, but this version of ports reads formats up to 1; upgrade",
        ),
        ('{"format": 1, "ki', errors.BrokenRecordError, "it is not JSON"),
        ("[]", errors.BrokenRecordError, "it has no format number"),
        ("", errors.BrokenRecordError, "it is not JSON"),
        ('{"format": 1}', errors.BrokenRecordError, "missing"),
        ('{"format": 1, "name": 3, "started_by": 7}', errors.BrokenRecordError, "record.json"),
    ],
)
def test_a_record_that_cannot_be_read_is_named_and_kept(home: Home, text: str, error: type, message: str) -> None:
    found = plant(home, lambda record: None)
    path = found._now.found.files.record
    path.write_text(text)
    for words in (["show"], ["stop"], ["restart"], ["attach"], ["start"]):
        done = home.ports("cluster", words[0], "main")
        assert done.returncode == 7, (words, done.stderr)
        assert str(path) in done.stderr and message in done.stderr and "Traceback" not in done.stderr
    with pytest.raises(error, match=str(path)):
        ports.cluster()
    [row] = home.json("cluster", "list")
    assert row["state"] == "unknown" and str(path) in row["reason"]
    assert path.read_text() == text
    shutil.rmtree(path.parent)


@pytest.mark.parametrize("file", ["running", "exit"])
@pytest.mark.parametrize(
    "text", ['{"format": 99}', '{"format": 1, "pro', '{"format": 1}', '{"format": 1, "process": 3}']
)
@pytest.mark.quick
def test_the_other_files_of_a_session_may_be_broken_too(home: Home, file: str, text: str) -> None:
    found = plant(home, of_another_machine)
    path = getattr(found._now.found.files, file)
    path.write_text(text)
    done = home.ports("cluster", "list", "--json")
    assert done.returncode == 0, done.stderr
    [row] = json.loads(done.stdout)
    assert row["state"] in ("unknown", "stopped")
    shutil.rmtree(path.parent)


# --- disks ---


@pytest.mark.quick
def test_a_read_only_home_gives_one_line(home: Home) -> None:
    shutil.rmtree(home.state, ignore_errors=True)
    if os.getuid() == 0:
        script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
        readonly = ["unshare", "-m", "sh", "-c", script, str(home.work)]
        if subprocess.run([*readonly, "true"], capture_output=True, check=False).returncode:
            pytest.skip("mounts cannot be made here")
    else:
        home.work.chmod(0o500)
        readonly = []
    try:
        done = subprocess.run(
            [*readonly, sys.executable, "-m", "ports", "cluster", "start", "main"],
            env={**os.environ, "PORTS_HOME": str(home.work / "state")},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    finally:
        home.work.chmod(0o700)
    assert done.returncode == 5, done.stderr
    assert done.stderr.startswith(f"ports: cannot use {home.work / 'state'}") and len(done.stderr.splitlines()) == 1
    assert "set PORTS_HOME to a directory of yours" in done.stderr


@pytest.mark.parametrize("free", [0, 6000])
@pytest.mark.quick
def test_a_full_disk_gives_one_line_and_leaves_nothing_half_started(home: Home, free: int) -> None:
    if os.getuid():
        pytest.skip("only root can mount a small disk")
    small = home.work / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("mounts cannot be made here")
    try:
        state = small / "state"
        environ = {**os.environ, "PORTS_HOME": str(state)}
        home.ports("cluster", "list", env=environ)
        with (small / "fill").open("wb") as file, contextlib.suppress(OSError):
            for _ in range(64 * 2 - free // 512):
                file.write(b"x" * 512)
                file.flush()
        done = home.ports("cluster", "start", "main", "--n-workers", "1", "--timeout", "20", env=environ)
        assert done.returncode == 5, done.stdout + done.stderr
        assert "Traceback" not in done.stderr and str(state) in done.stderr
        assert "No space left on device" in done.stderr
        assert not list(state.glob("hosts/*/clusters/*"))
        words = [one.info["cmdline"] or [] for one in psutil.process_iter(["cmdline"])]
        assert not [one for one in words if str(state) in " ".join(one)]
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_the_state_directory_of_somebody_else_is_refused(home: Home) -> None:
    elsewhere = home.work / "elsewhere"
    elsewhere.mkdir(mode=0o777)
    link = home.work / "link"
    link.symlink_to(elsewhere)
    done = home.ports("cluster", "start", "main", env={**os.environ, "PORTS_HOME": str(link)})
    assert done.returncode == 4, done.stderr
    assert f"{link} is not private: it is a link, or another user owns it; remove it" in done.stderr


def test_a_state_directory_that_others_may_read_is_closed(home: Home) -> None:
    home.state.mkdir(exist_ok=True)
    home.state.chmod(0o755)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths.make_state()
    assert stat.S_IMODE(home.state.stat().st_mode) == 0o700


def test_a_directory_of_records_that_is_none_is_named(home: Home) -> None:
    place = sessions.folder("cluster", paths.make_state())
    place.write_text("")
    with pytest.raises(errors.StoreError, match=f"{place}.*Not a directory"):
        clusters.list()
    place.unlink()


# --- what cannot be written in the encoding of a terminal ---

LATIN = {"PYTHONIOENCODING": "iso-8859-1"}  # as with LC_ALL=de_DE
PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0"}


@pytest.mark.parametrize(
    ("directory", "environ"),
    [("数据", LATIN), ("数据", PLAIN), (os.fsdecode(b"not-\xff\xfe-utf8"), {})],
    ids=["latin-1", "ascii", "not-utf8"],
)
def test_a_name_that_a_terminal_cannot_show_ends_no_command(
    home: Home, directory: str, environ: dict[str, str]
) -> None:
    place = home.work / directory
    place.mkdir()
    of_dask = {} if environ == PLAIN else environ  # there Dask cannot read its own configuration

    def run(*words: str, environ: dict[str, str] = environ) -> str:
        command = [sys.executable, "-m", "ports", *words]
        done = subprocess.run(
            command, cwd=place, env={**os.environ, **environ}, stdin=subprocess.DEVNULL, capture_output=True, timeout=60
        )
        told = done.stdout + done.stderr
        assert b"Traceback" not in told and b"UnicodeEncodeError" not in told, (words, told)
        assert words[0] == "doctor" or done.returncode == 0, (words, told)
        return done.stdout.decode("iso-8859-1")

    started = json.loads(run("cluster", "start", "main", "--n-workers", "1", "--json", environ=of_dask))
    assert started["state"] == "running"
    for words in (["cluster", "list"], ["cluster", "show"], ["cluster", "logs"], ["list"], ["doctor"]):
        run(*words)
        json.loads(run(*words, "--json"))
    code = "import ports; c = ports.client(reuse='any'); ports.show(c); print(c.submit(sum, [40, 2]).result())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=place, env={**os.environ, **of_dask}, capture_output=True, timeout=60
    )
    assert done.stdout.endswith(b"42\n"), done.stderr
    run("cluster", "stop", "main")
