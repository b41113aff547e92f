"""Where environments of conda, venv and the like are: one by its name, and those that have `ports`."""

import os
import shlex
import time

MYPY = False
if MYPY:
    from typing import Iterator, List, Optional

INSTALLATIONS = "miniforge3 mambaforge miniconda3 anaconda3 miniconda anaconda micromamba conda mamba".split()
PLACES = "/opt /usr/local /opt/homebrew /opt/homebrew/Caskroom /usr/share".split()
ENVIRONMENTS = ".virtualenvs .venvs venvs .envs envs .local/share/virtualenvs .pyenv/versions .local/share/pipx/venvs"
ENVIRONMENTS += " .local/pipx/venvs .local/share/uv/tools"
VENVS = (".venv", "venv", ".env", "env")
LOOK_SECONDS = 2.0  # a home can be on a server that hangs
MOST_LOOKS = 3000
ENTRY = b"ports.__main__"  # what the program `ports` of an installation imports


def usual_roots(home: str) -> "List[str]":
    """Return where conda, mamba and micromamba can be installed, or keep environments, for the user of this home."""
    own = [os.path.join(home, name) for name in (".local/share/mamba", ".micromamba", ".conda")]
    places = [home, os.path.join(home, "opt"), *PLACES]
    return own + [os.path.join(place, name) for place in places for name in INSTALLATIONS]


def conda_prefixes(name: str) -> "List[str]":
    """Return where a conda environment called `name` can be, for conda, mamba and micromamba."""
    home = os.path.expanduser("~")
    roots = [os.environ.get(key, "") for key in ("MAMBA_ROOT_PREFIX", "CONDA_ROOT", "CONDA_PREFIX")]
    if os.environ.get("CONDA_EXE"):
        roots.append(os.path.dirname(os.path.dirname(os.environ["CONDA_EXE"])))
    roots += usual_roots(home)
    found = [os.path.join(path, name) for path in os.environ.get("CONDA_ENVS_PATH", "").split(os.pathsep) if path]
    found += [root if name == "base" else os.path.join(root, "envs", name) for root in roots if root]
    return found + [prefix for prefix in listed(home) if os.path.basename(prefix) == name]


def listed(home: str) -> "List[str]":
    """Return the environments that conda has noted in this home."""
    try:
        with open(os.path.join(home, ".conda", "environments.txt"), encoding="utf-8") as file:
            return [line.strip() for line in file]
    except (OSError, ValueError):
        return []


def environment_python(env: str) -> "Optional[str]":
    """Return the interpreter of a conda environment, by name or path, or of a venv, by path; None if there is none.

    The path of an interpreter is returned as it is.
    """
    path = os.path.expanduser(env)
    if os.sep not in env and os.path.isdir(os.path.join(path, "bin")):
        path = os.path.abspath(path)  # ".venv" in the directory at hand
    for prefix in [path] if os.sep in path else conda_prefixes(env):
        if os.path.isfile(prefix) and os.access(prefix, os.X_OK):
            return prefix
        for program in ("bin/python", "bin/python3"):
            python = os.path.join(prefix, program)
            if os.access(python, os.X_OK):
                return python
    return None


def way_to_ports(shell: "Optional[str]" = None) -> str:
    """Return in which environment `ports` is, and what to do about it; empty where it is not found.

    The look ends after `LOOK_SECONDS`, whatever a disk does.

    Parameters
    ----------
    shell : str, optional
        The login shell, whose start file would help. None: none would.
    """
    from threading import Thread

    found, home = [], os.path.expanduser("~")  # type: List[str], str
    until = time.time() + LOOK_SECONDS

    def look() -> None:
        for n, prefix in enumerate(prefixes(home)):
            if n > MOST_LOOKS or len(found) > 2 or time.time() > until:
                return
            if prefix not in found and has_entry(os.path.join(prefix, "bin", "ports")):
                found.append(prefix)

    thread = Thread(target=look, daemon=True)
    thread.start()
    thread.join(LOOK_SECONDS)
    seen = list(found)
    if not seen:
        return ""
    more = " (and in %s)" % ", ".join(seen[1:]) if seen[1:] else ""
    if shell is None:
        return "ports is in %s%s: name that as ports.hosts.<alias>.env in the settings at home" % (seen[0], more)
    told = "ports is in %s%s: put these two lines in %s there, or name it " % (seen[0], more, start_file(shell, home))
    told += "as ports.hosts.<alias>.env in the settings at home"
    return "\n  ".join([told, *start_lines(shell, os.path.join(seen[0], "bin"))])


def has_entry(program: str) -> bool:
    """Tell whether `program` is the `ports` of an installation, and no other program of that name."""
    try:
        with open(program, "rb") as file:
            return ENTRY in file.read(2000) and os.access(program, os.X_OK)
    except OSError:
        return False


def prefixes(home: str) -> "Iterator[str]":
    """Yield where environments can be, the likely ones first."""
    for name in ("CONDA_PREFIX", "VIRTUAL_ENV", "MAMBA_ROOT_PREFIX"):
        if os.environ.get(name):
            yield os.environ[name]
    roots = usual_roots(home)
    for folder in [os.path.join(root, "envs") for root in roots]:
        for prefix in inside(folder):
            yield prefix
    for prefix in roots + listed(home) + [os.path.join(home, name) for name in (".local", *VENVS)]:
        yield prefix
    for folder in [*ENVIRONMENTS.split(), os.environ.get("WORKON_HOME") or ".venvs"]:
        for prefix in inside(os.path.join(home, folder)):
            yield prefix
    for depth in (1, 2):
        folders = inside(home) if depth == 1 else [one for folder in inside(home) for one in inside(folder)]
        for folder in folders:
            yield folder
            for name in VENVS:
                yield os.path.join(folder, name)


def inside(folder: str) -> "List[str]":
    """Return the first directories in `folder` that are not hidden."""
    try:
        with os.scandir(folder) as entries:
            found = [one.path for _, one in zip(range(500), entries) if one.name[0] != "." and one.is_dir()]
    except OSError:
        return []
    return sorted(found)


def start_file(shell: str, home: str) -> str:
    """Return the start file of a login shell that sets the PATH, as one writes it there."""
    name = os.path.basename(shell)
    if name == "fish":
        return "~/.config/fish/config.fish"
    if name == "zsh":
        return "~/.zprofile"
    kinds = {"tcsh": [".tcshrc", ".cshrc"], "csh": [".cshrc"]}.get(name, [".bash_profile", ".bash_login", ".profile"])
    if "bash" not in name and "csh" not in name:
        kinds = [".profile"]
    return "~/" + next((one for one in kinds if os.path.exists(os.path.join(home, one))), kinds[-1])


def start_lines(shell: str, directory: str) -> "List[str]":
    """Return two lines for that file, which add `directory` to the end of the PATH: no other program changes."""
    line, name, word = 'export PATH="$PATH":%s', os.path.basename(shell), shlex.quote(directory)
    if name == "fish":
        line = "set -gx PATH $PATH %s"
    elif "csh" in name:
        line = 'setenv PATH "${PATH}":%s'
    return ["# ports, for commands from other machines", line % word]
