"""Python environments: find a conda environment or a venv by name or path, and activate it.

A conda environment is a prefix with a ``conda-meta/`` in it, a venv is one with a ``pyvenv.cfg``. Neither conda nor
mamba must be installed or on the PATH, because their files say where the environments are.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ports.errors import NotFoundError, StartError, ToolError, ToolMissingError, warn
from ports.probe import SAFE_PATH, usual_roots
from ports.sessions import surroundings

_ACTIVATION = re.compile(
    r"VIRTUAL_ENV|VIRTUAL_ENV_PROMPT|PYTHONHOME|__PYVENV_LAUNCHER__|_CE_CONDA|_CE_M"
    r"|CONDA_(PREFIX|STACKED)_\d+|CONDA_(PREFIX|DEFAULT_ENV|PROMPT_MODIFIER|SHLVL)"
)
_SCRIPT_SECONDS = 60.0


@dataclass(frozen=True)
class Environment:
    """An interpreter with its packages. `kind` is ``system`` if it is neither a venv's nor conda's."""

    prefix: Path
    python: Path
    kind: Literal["conda", "venv", "system"]
    name: str


class EnvironmentNotFoundError(NotFoundError):
    """No environment of that name or path."""


def find(env: str | None, directory: Path | str, environ: Mapping[str, str]) -> Environment:
    """Return the environment called `env`.

    Parameters
    ----------
    env : str or None
        A conda environment's name or path, or a venv's path. None: the environment of this process.
    directory : path
        The start of relative paths.
    environ : mapping
        Environment variables, which say where conda is.

    Raises
    ------
    EnvironmentNotFoundError
        There is none, or it has no Python.
    """
    if env is None:
        prefix = Path(sys.prefix)
        return Environment(prefix, Path(sys.executable), _kind(prefix) or "system", _name(prefix, environ))
    if not env.strip():
        raise EnvironmentNotFoundError("environment", env, "pass a conda environment's name or path, or a venv's path")
    named = None if _is_path(env) else _by_name(env, environ)
    return at(named, environ) if named else _by_path(env, Path(directory), environ)


def at(prefix: Path, environ: Mapping[str, str]) -> Environment:
    """Return the environment whose prefix is `prefix`; raises as `find`."""
    python = next((path for name in ("python", "python3") if (path := prefix / "bin" / name).is_file()), None)
    if python is None:
        conda = _kind(prefix) == "conda"
        hint = f"there is no {prefix}/bin/python" + (f"; `conda install -p {prefix} python` adds it" if conda else "")
        raise EnvironmentNotFoundError("Python in environment", str(prefix), hint)
    return Environment(prefix, python, _kind(prefix) or "system", _name(prefix, environ))


def of_a_start(env: str | None, environ: Mapping[str, str]) -> tuple[Environment, dict[str, str]]:
    """Return the environment in which a session starts, and `environ` with that environment activated.

    Every start of a cluster, a notebook server or a shell takes this way. Without `env` it is the environment of this
    interpreter; one of the system needs no activation. Raises as `find` and `activated`.
    """
    found = find(env, Path.cwd(), environ)
    if env is None and found.kind == "system":
        return found, dict(environ)
    return found, activated(found, environ)


def activate_own() -> None:
    """Activate the environment of this interpreter in this process: a program whose environment is not active yet.

    A command line names the interpreter alone, ``~/envs/geo/bin/ports`` or the setting ``hosts.<alias>.env``. Python
    code keeps the variables that it has. Warns where a script of the environment fails or hangs.
    """
    try:
        environ = of_a_start(None, surroundings.of_this_process())[1]
    except ToolError as error:
        return warn(f"{error}; the command runs without the variables of that environment")
    surroundings.become(environ)


def missing(what: str, env: Environment, packages: str, instead: str) -> ToolMissingError:
    """Return the error that `what` is not in the environment `env`, where pip installs it as `packages`."""
    install = f"`{shlex.quote(str(env.python))} -m pip install {packages}`"
    return ToolMissingError(f"{what} in environment {env.name!r}", f"install it there with {install}, or {instead}")


@contextlib.contextmanager
def missing_named(python: str, environ: Mapping[str, str], *, needs: Sequence[str]) -> Iterator[None]:
    """Name the packages that a start in this block failed for: those of `needs`, and what these require.

    Only a start whose last words are about an import asks the interpreter `python`, so one that succeeds loses no time.

    Raises
    ------
    ToolMissingError
        In place of the StartError: one of `needs` is not installed.
    StartError
        With a package that is missing, or too old, as the reason.
    """
    try:
        yield
    except StartError as error:
        if not any(re.match(r"(ModuleNotFound|Import|Attribute)Error\b", line) for line in error.output[-3:]):
            raise
        prefix = Path(python).parent.parent
        env = Environment(prefix, Path(python), _kind(prefix) or "system", _name(prefix, environ))
        absent, unmet = _ask_for(python, environ, needs)
        if absent:
            raise missing(absent[0], env, " ".join(needs), "pass env=") from error
        if not unmet:
            raise
        said = f"in environment {env.name!r} {'; '.join(told for told, _ in unmet)}"
        install = shlex.join([python, "-m", "pip", "install", *(wanted for _, wanted in unmet)])
        raise StartError(error.what, f"{said}; run `{install}`", error.log, error.output) from error


def _ask_for(python: str, environ: Mapping[str, str], needs: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Return which of `needs` an interpreter cannot import, and what is wrong with their requirements; else nothing."""
    command, null = [python, "-c", f"{SAFE_PATH}\n{_REQUIRES}", *needs], subprocess.DEVNULL
    try:
        done = subprocess.run(
            command, env=dict(environ), cwd="/", stdin=null, capture_output=True, timeout=60, check=True
        )
        absent, unmet = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return [], []
    return absent, unmet


#: Which packages an interpreter lacks, and for which of their requirements it has nothing, or nothing new enough.
_REQUIRES = """
import importlib.util, json, sys
try:
    from importlib.metadata import PackageNotFoundError, requires, version
    from packaging.requirements import Requirement
except ImportError:
    requires = None
absent = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]
unmet, seen, left = [], set(), [] if requires is None else list(sys.argv[1:])
while left:
    by = left.pop(0)
    seen.add(by)
    try:
        texts = requires(by) or []
    except PackageNotFoundError:
        continue
    for one in map(Requirement, texts):
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        wanted = f"{one.name}{one.specifier}"
        try:
            found = version(one.name)
            if not one.specifier.contains(found, prereleases=True):
                unmet.append([f"{one.name} is {found}, and {by} needs {wanted}", wanted])
        except PackageNotFoundError:
            if importlib.util.find_spec(one.name.replace("-", "_")) is None:
                unmet.append([f"{one.name} is not installed, and {by} needs it", wanted])
        if one.name not in seen:
            left.append(one.name)
print("\\n" + json.dumps([absent, unmet]))
"""


def known(environ: Mapping[str, str]) -> dict[str, Path]:
    """Return the conda environments of this user by name. Of two with one name, conda's choice counts."""
    roots = list(_roots(environ))
    bases = [root for root in roots if (root / "conda-meta").is_dir()]
    found = {"base": bases[0]} if bases else {}
    for prefix in _prefixes(roots, environ):
        if prefix not in roots and (prefix / "conda-meta").is_dir():
            found.setdefault(prefix.name, prefix)
    return found


def _is_path(env: str) -> bool:
    return "/" in env or env.startswith("~") or env in (".", "..")


def _by_name(env: str, environ: Mapping[str, str]) -> Path | None:
    return known(environ).get(env)


def _by_path(env: str, directory: Path, environ: Mapping[str, str]) -> Environment:
    home = str(_home(environ))
    expanded = home + env[1:] if env == "~" or env.startswith("~/") else env
    # Not resolved: a link is another name of the environment, and pyvenv.cfg and python work through it.
    path = Path(os.path.normpath(directory.absolute() / expanded))
    if path.is_file() and path.parent.name == "bin" and path.name.startswith("python"):
        path = path.parent.parent
    if _kind(path) or (path / "bin" / "python3").is_file():
        return at(path, environ)
    if path.is_dir() and _is_path(env):
        reason = "contains neither conda-meta/ nor pyvenv.cfg; pass the directory that contains bin/python"
        raise EnvironmentNotFoundError("environment", env, f"{path} {reason}")
    raise EnvironmentNotFoundError("environment", env, _looked_for(env, path, environ))


def _looked_for(env: str, path: Path, environ: Mapping[str, str]) -> str:
    if _is_path(env):
        return f"{path} does not exist"
    names = sorted(known(environ))
    near = difflib.get_close_matches(env, names, n=3, cutoff=0.5) or names[:12]
    roots = [str(root) for root in _roots(environ)]
    below = f" below {' and '.join(roots)}" if roots else " (this user has no conda)"
    text = f"looked for a conda environment of that name{below}, and for a venv in {path}"
    near += _venvs(env, path.parent)
    return text + (f"; there is {', '.join(near)}" if near else "; pass the path of a conda environment or venv")


def _venvs(env: str, directory: Path) -> list[str]:
    """Return the paths of venvs in `directory`, those with a name like `env` first."""
    try:
        found = sorted(one.name for one in directory.iterdir() if _kind(one) == "venv")
    except OSError:
        return []
    near = difflib.get_close_matches(env, found, n=3, cutoff=0.5) or found[:3]
    return [f"./{name}" for name in near]


def _home(environ: Mapping[str, str]) -> Path:
    return Path(environ["HOME"]) if environ.get("HOME") else Path.home()


def _kind(prefix: Path) -> Literal["conda", "venv"] | None:
    if (prefix / "conda-meta").is_dir():
        return "conda"
    return "venv" if (prefix / "pyvenv.cfg").is_file() else None


def _name(prefix: Path, environ: Mapping[str, str]) -> str:
    if _kind(prefix) == "conda":
        return "base" if prefix in _roots(environ) else prefix.name
    generic = prefix.name in (".venv", "venv", ".env", "env") and prefix.parent.name
    return prefix.parent.name if generic else prefix.name or str(prefix)


def _roots(environ: Mapping[str, str]) -> Iterator[Path]:
    """Yield each installation of conda, mamba and micromamba once; the one in use comes first."""
    home = _home(environ)
    candidates: list[Path] = []
    for variable in ("CONDA_ROOT", "_CONDA_ROOT", "MAMBA_ROOT_PREFIX"):
        if environ.get(variable):
            candidates.append(Path(environ[variable]))
    for variable in ("CONDA_EXE", "CONDA_PYTHON_EXE"):
        if environ.get(variable):
            candidates.append(Path(environ[variable]).parent.parent)
    if environ.get("CONDA_PREFIX"):
        active = Path(environ["CONDA_PREFIX"])
        candidates.append(active.parent.parent if active.parent.name == "envs" else active)
    candidates += map(Path, usual_roots(str(home)))
    seen: set[Path] = set()
    for path in candidates:
        # micromamba's root contains environments but is not one; an environment elsewhere is not a root
        if path not in seen and ((path / "condabin").is_dir() or (path / "envs").is_dir()):
            seen.add(path)
            yield path


def _prefixes(roots: list[Path], environ: Mapping[str, str]) -> Iterator[Path]:
    """Yield the prefixes that may be environments, in conda's search order."""
    home = _home(environ)
    directories = [
        Path(os.path.expandvars(text.replace("~", str(home), 1) if text.startswith("~") else text))
        for variable in ("CONDA_ENVS_PATH", "CONDA_ENVS_DIRS")
        for text in environ.get(variable, "").split(os.pathsep)
        if text
    ]
    directories += _configured(roots, environ)
    directories += [root / "envs" for root in roots] + [home / ".conda" / "envs"]
    for directory in directories:
        try:
            yield from sorted(directory.iterdir())
        except OSError:
            continue
    try:
        lines = (home / ".conda" / "environments.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    yield from (Path(line.strip()) for line in lines if line.strip().startswith("/"))


def _configured(roots: list[Path], environ: Mapping[str, str]) -> Iterator[Path]:
    """Yield ``envs_dirs`` of the files that conda and mamba read."""
    home = _home(environ)
    files = [home / ".condarc", home / ".conda/condarc", home / ".config/conda/condarc", home / ".conda/.condarc"]
    files += [home / ".mambarc", *(root / ".condarc" for root in roots), Path("/etc/conda/.condarc")]
    if environ.get("CONDARC"):
        files.insert(0, Path(environ["CONDARC"]))
    for file in files:
        for text in _envs_dirs(file):
            path = Path(str(home) + text[1:] if text.startswith("~/") else text)
            if path.is_absolute():
                yield path


def _envs_dirs(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    if "envs_" not in text:
        return []
    import yaml

    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError:
        return []  # conda itself reports that
    found = (data.get("envs_dirs") or data.get("envs_path") or []) if isinstance(data, dict) else []
    return [str(one) for one in ([found] if isinstance(found, str) else found)]


def is_active(env: Environment, environ: Mapping[str, str]) -> bool:
    """Say whether `env` is the activated environment of `environ`."""
    variable = {"conda": "CONDA_PREFIX", "venv": "VIRTUAL_ENV"}.get(env.kind)
    if variable is None or environ.get(variable) != str(env.prefix) or environ.get("PYTHONHOME"):
        return False
    if env.kind == "conda" and environ.get("VIRTUAL_ENV"):
        return False
    return shutil.which("python", path=environ.get("PATH", "")) in (f"{env.prefix}/bin/python", str(env.python))


def activated(env: Environment, environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` with `env` activated, and with the environment that was active before deactivated.

    This changes what activation in a shell changes: PATH, VIRTUAL_ENV or CONDA_PREFIX, the variables stored in the
    conda environment, and those that its scripts ``etc/conda/activate.d/*.sh`` set. The scripts run in a shell of their
    own, and their output is dropped.

    Raises
    ------
    ToolError
        A script does not end, or it ends the shell before its variables can be read.
    """
    if is_active(env, environ):
        return dict(environ)
    old = environ.get("CONDA_PREFIX")
    after = _run_scripts(_scripts(Path(old), "deactivate.d")[::-1], dict(environ), env) if old else dict(environ)
    after = _without_active(after)
    path = [entry for entry in after.get("PATH", os.defpath).split(os.pathsep) if entry]
    own = str(env.prefix / "bin")
    after["PATH"] = os.pathsep.join([own, *(entry for entry in path if entry != own)])
    if env.kind == "venv":
        after.update(VIRTUAL_ENV=str(env.prefix), VIRTUAL_ENV_PROMPT=env.name)
    elif env.kind == "conda":
        in_root = env.name == "base" or env.prefix.parent.name == "envs"
        after.update(
            CONDA_PREFIX=str(env.prefix),
            CONDA_DEFAULT_ENV=env.name if in_root else str(env.prefix),
            CONDA_PROMPT_MODIFIER=f"({env.name}) ",
            CONDA_SHLVL="1",
        )
        after.update(_kept_variables(env.prefix))
        after = _run_scripts(_scripts(env.prefix, "activate.d"), after, env)
    return after


def _without_active(environ: dict[str, str]) -> dict[str, str]:
    """Return `environ` without the variables and PATH entries of activated environments."""
    prefixes = [environ[name] for name in environ if re.fullmatch(r"VIRTUAL_ENV|CONDA_PREFIX(_\d+)?", name)]
    gone = {f"{prefix}/bin" for prefix in prefixes if prefix}
    kept = _kept_variables(Path(environ["CONDA_PREFIX"])) if environ.get("CONDA_PREFIX") else {}
    after = {
        name: value
        for name, value in environ.items()
        if not _ACTIVATION.fullmatch(name) and not (name in kept and kept[name] == value)
    }
    entries = environ.get("PATH", os.defpath).split(os.pathsep)
    after["PATH"] = os.pathsep.join(entry for entry in entries if entry.rstrip("/") not in gone)
    return after


def _kept_variables(prefix: Path) -> dict[str, str]:
    """Return the variables stored in the conda environment. Those of the user override those of packages."""
    found: dict[str, str] = {}
    files = [*sorted((prefix / "etc/conda/env_vars.d").glob("*.json")), prefix / "conda-meta" / "state"]
    for file in files:
        try:
            data: Any = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        values = data.get("env_vars") if file.name == "state" and isinstance(data, dict) else data
        if isinstance(values, dict):
            found.update({str(name): str(value) for name, value in values.items() if value != "***unset***"})
    return found


def _scripts(prefix: Path, kind: str) -> list[Path]:
    return sorted((prefix / "etc" / "conda" / kind).glob("*.sh"))


def _run_scripts(scripts: list[Path], environ: dict[str, str], env: Environment) -> dict[str, str]:
    """Return `environ` after the shell `scripts` have run.

    The shell writes its variables to one file before the scripts and to another after them, separated by NUL. Only the
    difference counts. It contains neither what the shell itself sets nor what a script prints.
    """
    if not scripts:
        return environ
    own = {name: value for name, value in environ.items() if name not in ("BASH_ENV", "ENV")}
    with tempfile.TemporaryDirectory(prefix="ports-activate-") as directory:
        dump = shlex.join([sys.executable, "-I", "-S", "-c", _DUMP, f"{directory}/"])
        # A script may use `exit`, `set -e` or `trap`; what it set before that counts.
        text = f'{dump}before\ntrap {shlex.quote(f"{dump}after")} 0\nfor script; do . "$script"; done\n{dump}after'
        shell = [shutil.which("bash") or "/bin/sh", "-c", text, "activate", *map(str, scripts)]
        try:
            _run_shell(shell, own)
            before, after = (_read_dump(Path(directory, name)) for name in ("before", "after"))
        except subprocess.TimeoutExpired:
            raise ToolError(
                f"{_named(scripts)} did not end within {_SCRIPT_SECONDS:g} s; check what they wait for"
            ) from None
        except OSError as error:
            raise ToolError(f"{_named(scripts)} cannot be run to activate {env.name!r}: {error}") from error
    changed = {name: value for name, value in after.items() if before.get(name) != value}
    kept = {name: value for name, value in environ.items() if name not in before or name in after}
    return {**kept, **changed}


_DUMP = (
    "import os,sys;f=open(sys.argv[1],'wb');"
    "f.write(b''.join(k+b'='+v+b'\\0' for k,v in os.environb.items() if k not in (b'_',b'SHLVL',b'OLDPWD',b'PWD')))"
)


def _run_shell(argv: list[str], environ: dict[str, str]) -> None:
    null = subprocess.DEVNULL
    shell = subprocess.Popen(argv, env=environ, stdin=null, stdout=null, stderr=null, start_new_session=True)
    try:
        shell.wait(_SCRIPT_SECONDS)
    finally:
        with contextlib.suppress(OSError):
            os.killpg(shell.pid, signal.SIGKILL)  # a script, and what it left running
        shell.wait()


def _read_dump(path: Path) -> dict[str, str]:
    items = path.read_bytes().decode("utf-8", "surrogateescape").split("\0")
    return dict(item.split("=", 1) for item in items if "=" in item)


def _named(scripts: list[Path]) -> str:
    return ", ".join(map(str, scripts))
