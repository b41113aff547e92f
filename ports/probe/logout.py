"""What logout does to processes that should outlive it: what systemd-logind is configured to end, and lingering."""

import os
import re

MYPY = False
if MYPY:
    from typing import Any, Dict, List, Optional

    Json = Dict[str, Any]

LOGIND = "systemd/logind.conf"
TOPS = ("/etc", "/run", "/usr/local/lib", "/usr/lib")  # the first counts
WORDS = {"yes": True, "y": True, "true": True, "t": True, "on": True, "1": True}
WORDS.update({"no": False, "n": False, "false": False, "f": False, "off": False, "0": False})
LISTS = ("KillOnlyUsers", "KillExcludeUsers")


def logind_settings(texts: "List[str]") -> "Json":
    """Return what the configuration says, its files in the order in which systemd reads them.

    A later switch replaces an earlier one; what is no switch is ignored. Lists add up, and an empty one resets its own.
    """
    found = {"KillUserProcesses": False}  # type: Json
    for text in texts:
        section = ""
        for line in text.replace("\\\n", " ").splitlines():
            key, equals, value = (word.strip() for word in line.partition("="))
            if line.strip()[:1] in ("#", ";", ""):
                continue
            if not equals:
                section = line.strip()
            elif section not in ("", "[Login]"):
                continue
            elif key == "KillUserProcesses":
                found[key] = WORDS.get(value.lower(), found[key])
            elif key in LISTS:
                names = [name.strip("\"'") for name in value.split()]
                found[key] = found.get(key, []) + names if names else []
    return found


def kills(settings: "Json", user: str) -> bool:
    """Tell whether logind ends the processes of a user's session, by the rule that it has itself.

    Root is excluded unless `KillExcludeUsers` is set, were it to nothing. `KillOnlyUsers` replaces the switch.
    """
    excluded = settings.get("KillExcludeUsers", ["root"])
    only = settings.get("KillOnlyUsers")
    if user in excluded:
        return False
    return user in only if only else bool(settings["KillUserProcesses"])


def logind_files(root: str = "") -> "List[str]":
    """Return the texts of logind's configuration: the file, then the drop-ins by name, wherever they are.

    Raises OSError where one of them cannot be read.
    """
    main = [root + os.path.join(top, LOGIND) for top in TOPS]
    dropins = {}  # type: Dict[str, str]
    for top in reversed(TOPS):
        directory = root + os.path.join(top, LOGIND + ".d")
        for name in os.listdir(directory) if os.path.exists(directory) else ():
            if name.endswith(".conf") and name[0] != ".":
                dropins[name] = os.path.join(directory, name)  # one of /etc hides another, also as a link to /dev/null
    texts = [next((text for text in map(text_of, main) if text is not None), None)]
    texts += [text_of(dropins[name]) for name in sorted(dropins)]
    return [text for text in texts if text]


def text_of(path: str) -> "Optional[str]":
    """Return the text of a file; None if there is none. Raises OSError where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return None


def in_session(cgroups: str) -> bool:
    """Tell whether a process is in the scope of a login, by the text of its ``/proc/PID/cgroup``.

    logind ends such a scope with the login, also if the user lingers. Lingering keeps the user's own manager, and what
    `systemd-run --user --scope` started below it.
    """
    return re.search(r"/session-[^/\n]+\.scope(/|$)", cgroups, re.MULTILINE) is not None


def logout_ends(user: str, cgroups: str = "") -> "Optional[bool]":
    """Tell whether the processes of `user` end at logout: logind is configured so, and the user does not linger.

    With the cgroups of a process: whether it ends, and what it starts. None where the configuration cannot be read.
    """
    if not os.path.exists("/run/systemd/system"):
        return False
    if not in_session(cgroups) and os.path.exists(os.path.join("/var/lib/systemd/linger", user)):
        return False
    try:
        return kills(logind_settings(logind_files()), user)
    except OSError:
        return None


def is_session(argv: "List[str]") -> bool:
    """Tell whether a command line is that of the tmux server of our sessions, or of the launcher of one."""
    if [os.path.basename(word) for word in argv[-2:]] == ["launch.py", "launch.json"]:
        return True
    is_server = os.path.basename(argv[0]) == "tmux" and argv[-1] == "start-server"
    return is_server and any("/ports-" in word for word in argv)


def login_ends(user: str, proc: str = "/proc") -> bool:
    """Tell whether a session of this user ends with the login in which it was started, though the user lingers."""
    for pid in os.listdir(proc) if os.path.isdir(proc) else ():
        if not pid.isdigit():
            continue
        try:
            if os.stat(os.path.join(proc, pid)).st_uid != os.getuid():
                continue
            argv = (text_of(os.path.join(proc, pid, "cmdline")) or "").split("\0")[:-1]
            if argv and is_session(argv) and logout_ends(user, text_of(os.path.join(proc, pid, "cgroup")) or ""):
                return True
        except OSError:  # it has ended
            continue
    return False
