"""A script as a job: what its submission contains, so that it runs as it was typed, and what its end means.

The directory, the umask and the environment are those of the submitting shell. The environment is in a file of its own
(0600), which is removed when the job has ended: neither the queue nor a command line has any value of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import math
import os
import re
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ports import sessions
from ports._version import VERSION
from ports.errors import UsageError
from ports.jobs import _interpreters, _model
from ports.jobs._model import THREADS, Submission
from ports.probe import ended
from ports.state import paths, settings

if TYPE_CHECKING:
    from ports.jobs._places import Places

#: The options of `ports job submit` that a file can have, beside ``run``.
OPTIONS = (
    "cpus", "memory", "gpus", "timeout", "retries", "memory_growth", "lifetime", "name", "after", "tag", "environ",
    "queue", "priority", "at", "keep_children", "notify", "directory", "in_place", "copy", "out", "reuse", "send_all",
    "setup", "python",
)  # fmt: skip
RECORDED = ("commit", "dirty", "patch", "python", "packages")  # of the moment of a submission
#: What helps where the interpreter of a setup is missing.
OTHER_PYTHON = "name another one, or leave --python out"
_MOST_NAME = 60
_FAR = 100 * 365 * 86400.0  # seconds
_FOR_SHELL = re.compile(r"[|&;<>()$`*?~\n#\[{!]|^\s*\w+=")
_TAG_OPTION = re.compile(r"([^=]+)=(.*)", re.DOTALL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Script:
    """A script that can be submitted. `environ` is private; `script` is in the queue for everybody who reads it.

    With `or_home`, it runs in the home of a machine that does not have its directory.
    """

    submission: Submission
    environ: Mapping[str, str]
    or_home: bool = False

    @property
    def argv(self) -> list[str]:
        """The command and its arguments."""
        return list((self.submission.script or {})["argv"])

    def at_home(self) -> Script:
        """Return the script as it runs in the home of another machine."""
        return dataclasses.replace(self, submission=dataclasses.replace(self.submission, directory="~"))

    def blob(self, key: str) -> bytes:
        """Return what `resource/script.py` reads; `key` is that of the submission."""
        told = {**(self.submission.script or {}), "directory": self.submission.directory}
        told["environ"] = key if self.environ else None
        return json.dumps(told).encode()

    def environ_file(self, places: Places, key: str) -> dict[Path, bytes]:
        """Return the file for the environment, with its content."""
        return {places.environ_of(key): json.dumps(dict(self.environ)).encode()}

    def row(self) -> dict[str, Any]:
        """Return what would be submitted, without any value of the environment."""
        asked = self.submission.to_json()
        shown: dict[str, Any] = {"kind": "job", "id": None, "state": "not submitted", "what": "script"}
        shown |= {name: asked.pop(name) for name in ("name", "queue", "priority", "tags") if name in asked}
        return {**shown, "asked": asked}


def new_key() -> str:
    """Return a key for one submission: with the same one, it gets the same id again."""
    return os.urandom(16).hex()


def describe(
    argv: Sequence[str],
    *,
    directory: str | None = None,
    cpus: float | None = None,
    memory: str | int | None = None,
    gpus: int = 0,
    timeout: str | float | None = None,
    retries: int | str | Mapping[str, int] = 0,
    memory_growth: float = 1,
    lifetime: str | float | None = None,
    name: str = "",
    after: Sequence[object] = (),
    tag: Mapping[str, str] | Sequence[str] = (),
    environ: Mapping[str, str] | Sequence[str] = (),
    queue: str = "default",
    priority: int = 0,
    at: str | float | None = None,
    keep_children: bool = False,
    notify: bool = False,
    is_far: bool = False,
    in_place: bool = False,
    copy: bool = False,
    setup: str | None = None,
    python: str | None = None,
) -> Script:
    """Return `argv` as a script that runs in this process's directory and environment.

    Parameters
    ----------
    directory : str, optional
        Default: the current one.
    cpus : float, optional
        Cores. Libraries get as many threads. Default: all that the resource has, and the variables stay as they are.
    memory : str or int, optional
        ``3GB``, or bytes: all processes together. Default: no limit.
    timeout, at : str or float, optional
        ``90m``, ``2d``, or seconds; `at` can also be a time: ``18:00``, ``2026-12-24T08:00``.
    retries : int, str or mapping
        How often it runs again after it failed or ran out of its time: ``2``, or ``"2, exit 75: 5, memory: 1"``.
    memory_growth : float
        By how much more memory the next attempt gets after one that used too much, at most all that the resource has.
    lifetime : str or float, optional
        It is cancelled if it has not begun after so long.
    after : sequence of ids
        Jobs that must have finished.
    notify : bool
        Send a notice at its end through the services of the setting ``jobs.notify``.
    setup : str, optional
        ``pip install -r requirements.txt``: a command that makes the environment of the script, a venv. It runs once
        for each command and content of the files that it names.
    python : str, optional
        The interpreter of that environment. Default: that of the resource.
    tag, environ : mapping, or sequence of str
        ``NAME=VALUE``; of `environ` also ``NAME``, whose value is this process's.
    is_far : bool
        It runs on another machine: in the home there, or a `directory` there, and in the login shell's environment.
    in_place : bool
        With `is_far`: in the directory of the same path there, if it has one.
    copy : bool
        It is going to run in a copy, whose plan looks whether the file is there that it runs.

    Raises
    ------
    UsageError
        A value is invalid, there is no such program, or an interpreter runs a file that is not there.
    """
    words, given = [str(word) for word in argv], _variables(environ)
    where, or_home = _place(directory, is_far=is_far, in_place=in_place), is_far and in_place and directory is None
    own, more = _environ(cpus, given, is_far=is_far), {**_setup(setup, python), **(_of_far(cpus) if is_far else {})}
    _check_program(words, where, own, is_far=is_far or "setup" in more)
    asked = {
        **{"queue": queue, "priority": priority, "after": _ids(after), "notify": notify},
        **{"name": name or _name_of(words), "needs": _needs(cpus, memory, gpus)},
        **_seconds(timeout=timeout, lifetime=lifetime),
        **{"retries": _model.parse_retries(retries), "memory_growth": memory_growth},
        **{"at": None if at is None else parse_time(at), "tags": _tags(tag)},
        "script": {**_kept(words), "keep_children": keep_children, "whole": cpus is None, **more},
    }
    script = dataclasses.replace(_script(asked, where, own), or_home=or_home)
    return script if is_far else _checked(script, python, copy=copy)


def _checked(script: Script, python: str | None, *, copy: bool) -> Script:
    """Return a script of this machine; raises UsageError if its file, or the interpreter of its setup, is not here."""
    directory = str(script.submission.directory)
    if python is not None and _program(python, directory, script.environ) is None:
        where = f"in {directory}" if os.sep in python else "on your PATH"
        raise UsageError(f"python: there is no program {python!r} {where}; {OTHER_PYTHON}")
    if not copy and not script.submission.after:  # a job before this one can make it
        _interpreters.check_file(script.argv, directory, script.environ)
    return script


def _seconds(**given: str | float | None) -> dict[str, float | None]:
    """Return durations in seconds."""
    return {name: None if one is None else _model.parse_duration(one, name) for name, one in given.items()}


def _setup(command: str | None, python: str | None) -> dict[str, Any]:
    """Return what a submission has of its setup; nothing if it has none."""
    if command is None:
        if python is not None:
            raise UsageError("python: it is the interpreter of the environment that `--setup` makes; add --setup")
        return {}
    if not command.strip() or "\0" in command:
        raise UsageError("setup: there is no command; write `--setup 'pip install -r requirements.txt'`")
    return {"setup": {"command": command.strip(), **({"python": python} if python else {})}}


def _program(name: str, directory: str, environ: Mapping[str, str]) -> str | None:
    """Return the program of that name, which runs in a directory with these variables; None if there is none."""
    if os.sep not in name:
        return shutil.which(name, path=environ.get("PATH", os.defpath))
    path = Path(directory) / name
    return name if path.is_file() and os.access(path, os.X_OK) else None


def _needs(cpus: float | None, memory: str | int | None, gpus: int) -> dict[str, Any]:
    n_bytes = None if memory is None else _model.parse_size(memory, "memory")
    return {"cpus": cpus, "memory": n_bytes, "gpus": gpus}


def _of_far(cpus: float | None) -> dict[str, Any]:
    """Return what a script of another machine takes from there: the login shell's environment, with these threads."""
    return {"login": True, "umask": None, "threads": _threads(cpus)}


def _far_directory(given: object) -> str:
    """Return a directory of another machine: below the home there, unless it is absolute."""
    found = str(given or "~")
    return found if found.startswith(("/", "~")) else f"~/{found}"


def _place(directory: str | None, *, is_far: bool, in_place: bool) -> str:
    if not is_far:
        return _directory(directory)
    return _same_there() if in_place and directory is None else _far_directory(directory)


def _same_there() -> str:
    """Return the current directory as another machine would have it: what is below the home here is below that one."""
    here, home = _directory(None), str(Path.home())
    return f"~{here[len(home) :]}" if f"{here}/".startswith(f"{home.rstrip('/')}/") else here


def _environ(cpus: float | None, given: Mapping[str, str], *, is_far: bool = False) -> dict[str, str]:
    """Return the environment of the job: this process's, the number of threads, and what was given.

    On another machine, the login shell's comes first, which is not known here.
    """
    return dict(given) if is_far else {**sessions.surroundings.of_a_session(), **_threads(cpus), **given}


def _threads(cpus: float | None) -> dict[str, str]:
    """Return the variables that say how many threads libraries start; raises UsageError."""
    if cpus is not None and not math.isfinite(cpus):
        raise UsageError(f"cpus: {cpus} is no number of cores")
    return {} if cpus is None else dict.fromkeys(THREADS, str(max(1, math.floor(cpus))))


def _kept(words: list[str]) -> dict[str, Any]:
    """Return what of this process the script keeps, and the limits of the settings."""
    limits = {"log_bytes": settings.get("jobs.log_bytes"), "grace": settings.get("jobs.grace")}
    return {"argv": words, "umask": sessions.surroundings.umask(), **limits}


def _script(asked: Mapping[str, Any], directory: str, environ: Mapping[str, str]) -> Script:
    by = {"user": paths.user_name(), "host": paths.host_name(), "pid": os.getpid(), "version": VERSION}
    told = {**asked, "kind": "script", "directory": directory, "created_by": by}
    return Script(submission=Submission.from_json(told), environ=environ)


def again(row: Mapping[str, Any], *, is_far: bool = False) -> Script:
    """Return the script of a job that `show` shows, in the environment of this process.

    One of another machine runs again there, in the environment of the login shell.

    Raises
    ------
    UsageError
        The job is no script, or its directory or program is gone.
    """
    before = {**row.get("asked", {}), **{name: row.get(name) for name in ("name", "queue", "priority", "tags")}}
    script = before.get("script")
    if not isinstance(script, Mapping):
        raise UsageError(f"job {row.get('id')} is no script")
    names = ("name", "queue", "priority", "needs", "timeout", "retries", "memory_growth", "tags", "directory", "notify")
    asked = {name: before[name] for name in names if before.get(name) is not None}
    has_copy, words = "workspace" in script, [str(word) for word in script["argv"]]
    where = str(asked["directory"]) if has_copy or is_far else _directory(asked.get("directory"))
    cpus = None if script.get("whole") else float((asked.get("needs") or {}).get("cpus", 1))
    own = _environ(cpus, {}, is_far=is_far)
    is_made = "setup" in script or (has_copy and os.sep in words[0])  # a program of the setup, or of the copy
    if not is_made:
        _check_program(words, where, own, is_far=is_far)
    if not (has_copy or is_far):
        _interpreters.check_file(words, where, own)
    kept = {name: value for name, value in script.items() if name not in RECORDED}
    return _script({**asked, "script": {**kept, **(_of_far(cpus) if is_far else {})}}, where, own)


def command(text: str, *, is_far: bool = False) -> list[str]:
    """Return the words of a command that somebody typed; what only a shell can run is run by bash.

    Raises
    ------
    UsageError
        There is no command, or a quote has no end.
    """
    if not text.strip() or "\0" in text:
        raise UsageError("command: there is none; write for example: python train.py")
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"command: {str(error).lower()}; end the quotes that you begin") from error
    if not _FOR_SHELL.search(text) and words:
        return words
    return [_bash(is_far), "-e", "-c", text.replace("\r\n", "\n")]


def _bash(is_far: bool) -> str:
    return "bash" if is_far else shutil.which("bash") or "/bin/sh"


def changed(row: Mapping[str, Any], words: Sequence[str], **options: Any) -> dict[str, Any]:
    """Return the row of a script as it runs again with another command, and with other options of `describe`.

    Raises
    ------
    UsageError
        A value is invalid.
    """
    cpus = options.get("cpus")
    needs = _needs(cpus, options.get("memory"), options.get("gpus") or 0)
    made = Submission.from_json({"kind": "script", "needs": needs}).to_json()
    asked = {**row.get("asked", {}), "needs": made.get("needs", {})}
    asked |= _seconds(timeout=options.get("timeout"))
    asked["retries"] = _model.parse_retries(options.get("retries") or 0)
    asked["script"] = {**asked["script"], "argv": [str(word) for word in words], "whole": cpus is None}
    return {**row, "asked": asked, "name": options.get("name") or _name_of(words)}


def read_file(path: Path, *, is_far: bool = False) -> tuple[list[str], dict[str, Any]]:
    """Return command and options of a file of YAML: the options of `ports job submit` by their names, and ``run``.

    If it runs on another machine, bash is looked for there.

    Raises
    ------
    UsageError
        It cannot be read, or it has something that no option is called.
    """
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        said = " ".join(str(error).replace('in "<unicode string>", ', "").split())
        raise UsageError(f"{path} is no YAML: {said}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} has no options; it needs at least `run: COMMAND`")
    options = {str(name).replace("-", "_"): value for name, value in found.items()}
    run = options.pop("run", None)
    if unknown := [name for name in options if name not in OPTIONS]:
        raise UsageError(f"{path}: {unknown[0]!r} is no option; {_meant(unknown[0])}")
    if isinstance(run, str) and run.strip():
        return [_bash(is_far), "-e", "-c", run], options
    if isinstance(run, list) and run and all(isinstance(word, str | int | float) for word in run):
        return [str(word) for word in run], options
    raise UsageError(f"{path}: `run` is missing; write `run: python train.py`, or a list of words")


def _meant(name: str) -> str:
    """Return which option is meant by a name that none has."""
    import difflib

    close = difflib.get_close_matches(name, ("run", *OPTIONS), n=2)
    return f"did you mean {' or '.join(close)}?" if close else f"known are run, {', '.join(OPTIONS)}"


#: State and reason of a script that ended as ``exit.json`` says.
verdict = ended.verdict


def parse_time(value: object, now: float | None = None) -> float:
    """Return seconds since 1970: of ``18:00`` (the next one), a date with or without time, or a duration from now.

    Raises
    ------
    UsageError
        It is none of these.
    """
    now = time.time() if now is None else now
    text = str(value).strip()
    if found := re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text):
        today = datetime.datetime.fromtimestamp(now).replace(
            hour=int(found[1]), minute=int(found[2]), second=0, microsecond=0
        )
        return (today if today.timestamp() > now else today + datetime.timedelta(days=1)).timestamp()
    try:
        return datetime.datetime.fromisoformat(re.sub("Z$", "+00:00", text)).timestamp()
    except (ValueError, OverflowError, OSError):
        pass  # no date
    with contextlib.suppress(UsageError):
        if (seconds := _model.parse_duration(text, "at")) < _FAR:
            return now + seconds
    raise UsageError(f"at: {text!r} is no time; write 18:00, 2026-12-24T08:00, or 2h for in two hours")


def variable(text: str) -> tuple[str, str]:
    """Return name and value of ``NAME=VALUE``, or of ``NAME``, which has a value in this process; raises UsageError."""
    name, equals, value = text.partition("=")
    if not name or "\0" in text:
        raise UsageError(f"environ: {text!r} is neither NAME nor NAME=VALUE")
    if equals:
        return name, value
    own = sessions.surroundings.of_this_process()
    if name not in own:
        raise UsageError(f"environ: {name} is not set here; write {name}=VALUE")
    return name, own[name]


def _variables(given: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    if isinstance(given, Mapping):
        return {str(name): str(value) for name, value in given.items()}
    return dict(map(variable, given))


def _ids(given: object) -> list[object]:
    """Return ids: of a list, of one, or of a text with commas, as a file of options can have them."""
    if isinstance(given, str):
        return [one.strip() for one in given.split(",")]
    return list(given) if isinstance(given, list | tuple) else [given]


def _tags(given: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    return dict(given) if isinstance(given, Mapping) else dict(map(_tag, given))


def _tag(text: str) -> tuple[str, str]:
    found = _TAG_OPTION.fullmatch(text)
    if found is None:
        raise UsageError(f"tag: {text!r} is not NAME=VALUE")
    return found[1], found[2]


def _name_of(words: Sequence[str]) -> str:
    """Return what a command is called in lists: the script that an interpreter runs, else the program."""
    if words[1:2] == ["-e"] and words[2:3] == ["-c"]:
        return words[3].strip().splitlines()[0][:_MOST_NAME]
    first = Path(words[0]).name
    if re.fullmatch(r"(python|ipython|bash|sh|zsh|Rscript|julia|perl|ruby|node|srun|mpirun)[\d.]*", first):
        if words[1:2] == ["-m"] and len(words) > 2:
            return words[2][:_MOST_NAME]
        if len(words) > 1 and not words[1].startswith("-"):
            return Path(words[1]).name[:_MOST_NAME]
    return first[:_MOST_NAME]


def _directory(given: object) -> str:
    try:
        here = str(Path.cwd())
    except OSError as error:
        raise UsageError(f"the current directory is gone ({error.strerror}); `cd` to another one") from error
    found = str(given) if given else here
    where = found if Path(found).is_absolute() else str(Path(here) / Path(found).expanduser())
    if not Path(where).is_dir():
        raise UsageError(f"directory: {where} does not exist")
    return where


def _check_program(words: Sequence[str], directory: str, environ: Mapping[str, str], *, is_far: bool = False) -> None:
    """Raise UsageError if there is no program of that name: the job would fail later, when nobody looks.

    What another machine has is seen only there.
    """
    if not words or not words[0]:
        raise UsageError("there is no command; write `ports job submit -- COMMAND …`")
    if any("\0" in word for word in words):
        raise UsageError("a word of the command has a NUL")
    program = words[0]
    if len(words) == 1 and program.endswith((".yaml", ".yml")) and not (Path(directory) / program).is_file():
        raise UsageError(f"there is no file {program!r} in {Path.cwd() if is_far else directory}")
    if is_far:
        return
    found = _program(program, directory, environ)
    if found is None and os.sep in program and (Path(directory) / program).is_file():
        raise UsageError(f"{program} is not executable; `chmod +x {program}`, or name its interpreter before it")
    if found is None:
        quoted = f"; without the quotes, or `sh -c {shlex.quote(program)}`, it is a command" if " " in program else ""
        where = f"in {directory}" if os.sep in program else "on your PATH"
        raise UsageError(f"there is no program {program!r} {where}{quoted}")
