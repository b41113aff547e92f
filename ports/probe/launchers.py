"""Which processes are launchers: what runs below one ends with it, and with nothing that stands above it."""

import os

MYPY = False
if MYPY:
    from typing import List

#: The program, by the end of its path, and the file that describes what it runs: of a session, and of a job's script.
PROGRAMS = (("launch.py", "launch.json"), ("resource/script.py", "launch.json"))
MOST_MARKS = 4000  # that the workers of a cluster wear, see the owner's `orphans`


def is_launcher(words: "List[str]") -> bool:
    """Tell whether a command line is that of a launcher."""
    program, file = (words[-2].replace("\\", "/"), os.path.basename(words[-1])) if len(words) > 1 else ("", "")
    return any(("/" + program).endswith("/" + one) and file == its for one, its in PROGRAMS)


def is_session(pid: int, own: str = "") -> bool:
    """Tell whether a process is a launcher that leads a session of its own; the one of the file `own` is not meant."""
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as file:
            words = os.fsdecode(file.read()).split("\0")[:-1]
        return is_launcher(words) and words[-1] != own and os.getsid(pid) == pid
    except OSError:
        return False


def mark_of_none(worn: int, hard: int) -> int:
    """Return a limit of pending signals that marks what no worker of a cluster owns, where `worn` is a worker's.

    The marks of workers are the `MOST_MARKS` numbers below the owner's limit, or half of it where that is less.
    """
    return max(1, worn - min(MOST_MARKS, hard // 2 if hard > 0 else MOST_MARKS))
