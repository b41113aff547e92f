"""What was found → checks; pure: no clock, no disk, no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from ports.doctor._checks import Check, failed, ok, skipped, split, warning
from ports.probe import duration, size

Facts = Mapping[str, Any]

OLDEST_SSH = (7, 3)  # ProxyJump, and `-F none`
OLDEST_PYTHON = (3, 6)
LITTLE_SPACE, NO_SPACE = 1 << 30, 16 << 20
FEW_FILES, NO_FILES = 10_000, 100
LITTLE_MEMORY = 1 << 30
SKEW_SECONDS = 5.0
_OTHER_SCRATCH = "name a directory on another disk by the setting ports.cluster.local_directory"
SLOW_SHELL_SECONDS = 3.0
SLOW_ANSWER_SECONDS = 0.5
STALL_SECONDS = 0.03  # a delayed acknowledgement takes 40 ms


def ssh_program(name: str, version: tuple[int, int] | None, multiplexes: bool) -> Check:
    """Judge the ssh program."""
    if not multiplexes:
        return warning(
            "ssh",
            f"{name} cannot share one connection among commands",
            "use the ssh of Linux, macOS or WSL: with this one each command logs in by itself",
        )
    if version is not None and version < OLDEST_SSH:
        oldest = ".".join(map(str, OLDEST_SSH))
        return warning("ssh", f"{name} is older than {oldest}, the oldest that was tried", "install a newer OpenSSH")
    return ok("ssh", f"{name}, connections are shared")


def python(version: str, executable: str | None) -> Check:
    """Judge an interpreter."""
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_PYTHON:
        return failed(
            "python", f"python3 there is {version}", "load Python 3.6 or newer in the start file of your shell"
        )
    return ok("python", f"{version} ({executable})" if executable else version)


def shell(printed: str, complaints: str, seconds: float, start_files: str | None = None) -> Check:
    """Judge what the start files of a shell print where nobody looks, how long they take, and whether they end."""
    if start_files is not None:
        return warning(
            "shell",
            f"{start_files}; clusters and notebooks start without the environment of your login shell",
            "mend ~/.profile or its like there: put `[ -t 0 ] || return` before a line that execs, exits or waits",
        )
    lines = [line.strip() for line in (printed + "\n" + complaints).splitlines() if line.strip()]
    if lines:
        return warning(
            "shell",
            f"its start files print even when a program reads the output: {_shortened(lines[0])!r}",
            "print only in an interactive shell (`[ -t 1 ] && echo …` in ~/.bashrc): that breaks scp, sftp and "
            "rsync, not ports",
        )
    if seconds > SLOW_SHELL_SECONDS:
        return warning(
            "shell",
            f"its start files take {seconds:.1f} s, with each command",
            "see what ~/.bashrc loads (`conda init`, modules), and load that in interactive shells only",
        )
    return ok("shell", f"quiet; a command takes {seconds:.2f} s")


def tmux(line: str | None) -> Check:
    """Judge what ``tmux -V`` says."""
    if line is None or not line.startswith(("tmux ", "openbsd-")):
        cause = "there is no tmux" if line is None else f"tmux does not run: {_shortened(line)}"
        return warning(
            "tmux",
            cause,
            "install it (`apt install tmux`, `conda install -c conda-forge tmux`): without it clusters run, "
            "but cannot be attached to, and there is no `ports shell`",
        )
    return ok("tmux", line)


def logout(ends: bool | None, hint: str, *, login_ends: bool = False) -> Check:
    """Judge whether clusters outlive the logout; `login_ends`: one that runs does not, though the user lingers."""
    if ends is None:
        cause = "nothing shows whether your processes are killed when you log out: logind.conf cannot be read"
        return warning("logout", cause, f"ask the administrator whether KillUserProcesses is on; if it is: {hint}")
    if ends:
        return failed(
            "logout",
            "your processes are killed when you log out (KillUserProcesses is on, and lingering is off for you)",
            hint,
        )
    if login_ends:
        cause = "the login in which your sessions were started kills them when it ends (KillUserProcesses is on)"
        return failed("logout", cause, f"stop all of them first; {hint}")
    return ok("logout", "your processes continue when you log out")


def state_directory(facts: Facts) -> Check:
    """Judge the disk with the records: space, inodes, permission."""
    name, path = "state-directory", facts["path"]
    if facts.get("error"):
        return failed(name, f"{facts['place']}: {facts['error']}", "set PORTS_HOME to a directory of yours")
    if not facts["writable"]:
        cause = f"{facts['place']} is not writable"
        return failed(name, cause, "set PORTS_HOME to a directory of yours, or ask the administrator")
    hint = f"free some (`du -xh ~ | sort -h | tail` shows what is large), or set PORTS_HOME; it is {path}"
    return _room(name, facts, hint)


def scratch(facts: Facts, gone: Sequence[str] = ()) -> Check:
    """Judge the disk on which workers keep what does not fit in memory; `gone` lost their scratch."""
    if gone:
        cause = f"these run, but their scratch was removed: {', '.join(gone)}; their workers can write nothing to disk"
        hint = "stop them and start them again; a cleaner of old files may have removed it"
        return warning("scratch", cause, hint)
    if facts.get("error"):
        return failed("scratch", f"{facts['place']}: {facts['error']}", _OTHER_SCRATCH)
    return _room("scratch", facts, f"remove what is yours there (`ports prune` finds leftovers), or {_OTHER_SCRATCH}")


def _room(name: str, facts: Facts, hint: str) -> Check:
    """Judge by the space and the inodes that are left on the disk of a path."""
    space, files = facts["free_bytes"], facts["free_files"]
    counted = facts["total_files"] > 0
    left = f"{size(space)} of {size(facts['total_bytes'])} free" + (f", {files} inodes" if counted else "")
    if space < NO_SPACE or (counted and files < NO_FILES):
        return failed(name, f"the disk of {facts['place']} is full: {left}", hint)
    if space < LITTLE_SPACE or (counted and files < FEW_FILES):
        return warning(name, f"the disk of {facts['place']} is nearly full: {left}", hint)
    return ok(name, f"{facts['path']}: {left}")


def environment(
    executable: str,
    versions: Mapping[str, str | None],
    *,
    prefix: str,
    active: str | None = None,
    recorded: str | None = None,
    gone: Sequence[str] = (),
) -> Check:
    """Judge the interpreter in which clusters and notebook servers start.

    Parameters
    ----------
    versions : mapping
        Of dask, distributed, jupyterlab and jupyter_server; None where one is missing.
    prefix, active : str
        The environment of the interpreter, and the one that is activated in the shell, if any.
    recorded : str, optional
        The interpreter in which commands from other machines run.
    gone : sequence of str
        What runs in an interpreter that was removed.
    """
    name, dask, distributed = "environment", versions["dask"], versions["distributed"]
    install = f"`{executable} -m pip install --upgrade dask distributed`"
    if dask is None or distributed is None:
        return failed(name, f"{'dask' if dask is None else 'distributed'} is missing in {prefix}", install)
    if dask != distributed:
        cause = f"dask is {dask} and distributed {distributed} in {prefix}, but both must have the same version"
        return warning(name, cause, install)
    if gone:
        cause = f"these run, but their interpreter was removed: {', '.join(gone)}"
        return warning(name, cause, "stop them and start them again in an environment that is there")
    if active is not None and active != prefix:
        cause = f"{active} is activated, but this `ports` is in {prefix}, where clusters and notebooks start"
        return warning(name, cause, f"install ports there (`{active}/bin/python -m pip install ports`), or pass --env")
    if versions["jupyterlab"] is None and versions["jupyter_server"] is None:
        cause = f"there is no Jupyter in {prefix}, so `ports notebook start` needs another environment"
        return warning(name, cause, f"`{executable} -m pip install jupyterlab`, or pass --env to it")
    found = ", ".join(f"{package} {version}" for package, version in versions.items() if version is not None)
    others = f"; commands from other machines run in {recorded}" if recorded not in (None, executable) else ""
    return ok(name, f"{prefix}: {found}{others}")


def memory(facts: Facts) -> Check:
    """Judge what memory is left."""
    if "free_bytes" not in facts:
        return skipped("memory", "this system does not report it")
    free, total = facts["free_bytes"], facts["total_bytes"]
    whose = "your limit of " if facts.get("limited") else ""
    left = f"{size(free)} of {whose}{size(total)} free"
    if free < LITTLE_MEMORY and free < total / 10:
        return warning(
            "memory", f"nearly none is left: {left}", "see who uses it (`top`): the kernel kills a process next"
        )
    return ok("memory", left)


def clock(least: float, most: float) -> Check:
    """Judge by how many seconds the far clock is ahead: at least `least`, at most `most`."""
    sure = least if least > 0 else most if most < 0 else 0.0
    if abs(sure) <= SKEW_SECONDS:
        return ok("clock", "as here" if abs(sure) < 1 else f"{abs(sure):.0f} s {'ahead' if sure > 0 else 'behind'}")
    return warning(
        "clock",
        f"it is {duration(round(abs(least + most) / 2))} {'ahead of' if sure > 0 else 'behind'} the one here",
        "set the wrong one by NTP (`timedatectl` shows which): certificates, Kerberos and `make` depend on it",
    )


def installed(found: Facts, here: str, alias: str) -> Check:
    """Judge the `ports` there by the version `here`."""
    upgrade = "`pip install --upgrade ports`"
    if "error" in found:
        cause, told = split(str(found["error"]).replace("<alias>", alias))
        otherwise = f"install it there, or name the environment that has it as ports.hosts.{alias}.env in the settings"
        return warning(
            "ports",
            f"{cause}; `ports list` and `ports open` work without it, `-H {alias}` and `ports shell` do not",
            told or otherwise,
        )
    if found["version"] != here:
        return warning(
            "ports",
            f"{found['version']} there ({found['command']}), {here} here",
            f"upgrade the older one ({upgrade}); an older one refuses records of a newer one",
        )
    return ok("ports", f"{here}, as here ({found['command']})")


def latency(round_trip: float, first_byte: float, rounds: Sequence[float]) -> Check:
    """Judge measured times, in seconds.

    Parameters
    ----------
    round_trip : float
        Of one small request on an open connection.
    first_byte : float
        Until a new connection brought the first byte of a small answer.
    rounds : sequence of float
        Of rounds in which several connections write and then wait for all. A stall comes in a part of them.
    """
    times = f"round trip {_ms(round_trip)}, a page's first byte {_ms(first_byte)}"
    slow = [took for took in rounds if took > 2 * round_trip + STALL_SECONDS]
    if len(slow) > len(rounds) / 8:  # fewer are a busy machine's
        return warning(
            "latency",
            f"{len(slow)} of {len(rounds)} rounds of small requests stall, for {_ms(median(slow))} ({times})",
            "see the check `session` of each hop: one must be executed there",
        )
    if first_byte > SLOW_ANSWER_SECONDS:
        return warning("latency", f"pages are slow: {times}", "use a nearer network or VPN exit, or fewer hops")
    return ok("latency", f"{times}, no stall")


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _shortened(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
