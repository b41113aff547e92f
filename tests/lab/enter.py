"""Run a command inside a host: ``enter.py PID UID GID CWD COMMAND…``; standard library only, run with ``-I -S``.

nsenter(1) would do, but it dies of a signal that is meant for its command, and it leaves the command behind when it
is killed. This one hands signals on, takes the command along, and ends as the command ended.
"""

import contextlib
import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
HANDED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
libc = ctypes.CDLL(None, use_errno=True)


def join(pid: int) -> None:
    """Enter the namespaces of process `pid`; of pids only for children."""
    descriptors = [os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY) for kind in ("net", "ipc", "uts", "pid", "mnt")]
    for descriptor in descriptors:
        if libc.setns(descriptor, 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        os.close(descriptor)


def become(uid: int, gid: int, directory: str) -> None:
    """Be that user, in that directory, in a process group of one's own, and end with the parent."""
    os.setpgid(0, 0)
    os.setgroups([gid])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # after setresuid, which clears it
    os.chdir(directory)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and a command would inherit that
        signal.signal(number, signal.SIG_DFL)


def follow(child: int) -> None:
    """Hand signals to `child`, wait for its end and end in the same way."""

    def hand_on(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, number) if number == signal.SIGINT else os.kill(child, number)

    for number in HANDED_ON:
        signal.signal(number, hand_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDED_ON)
    for descriptor in (0, 1, 2):  # else a reader would wait for this process too
        os.close(descriptor)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        os._exit(os.waitstatus_to_exitcode(status))
    reason = os.WTERMSIG(status)
    if reason != signal.SIGKILL:
        signal.signal(reason, signal.SIG_DFL)
    os.kill(os.getpid(), reason)


def main(pid: str, uid: str, gid: str, directory: str, *command: str) -> None:
    """Enter and run."""
    join(int(pid))
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDED_ON)
    child = os.fork()
    if child:
        with contextlib.suppress(OSError):  # the child does it too; whoever is first
            os.setpgid(child, child)
        follow(child)
    try:
        become(int(uid), int(gid), directory)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDED_ON)
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error}\n".encode())
    os._exit(127)


if __name__ == "__main__":
    main(*sys.argv[1:])
