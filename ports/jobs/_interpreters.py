"""Which file a command runs through an interpreter: a mistyped name is refused when the job is submitted.

Only what is sure counts: of an interpreter whose options are not all known, the first word that ends as its scripts do.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ports.errors import UsageError


class Grammar(NamedTuple):
    """How an interpreter is called.

    After an option that is `inline` it runs no file, or a text. `with_value` takes the next word. Without `suffixes`,
    the first word that is no option is the file.
    """

    names: re.Pattern[str]
    inline: re.Pattern[str]
    with_value: re.Pattern[str]
    suffixes: tuple[str, ...] = ()


def _grammar(names: str, inline: str, with_value: str = r"(?!)", suffixes: str = "") -> Grammar:
    return Grammar(re.compile(names), re.compile(inline), re.compile(with_value), tuple(suffixes.split()))


PYTHON = _grammar(
    r"(python|pypy)[\d.]*", r"-(?![WX-])[A-Za-z]*[cmVh].*|--(?!check-hash).+|-", r"-[WX]|--check-hash-based-pycs"
)
SHELL = _grammar(
    r"(ba|da|z|k|mk|a)?sh[\d.]*",
    r"-(?!-)[A-Za-z]*[cs].*|--(?!posix|login|norc|noprofile|rcfile|init-file).+|-",
    r"[-+][A-Za-z]*[oO]|--(rc|init-)file",
)
#: The usual interpreters.
GRAMMARS = (
    PYTHON,
    SHELL,
    _grammar(r"ipython[\d.]*", r"-[cm].*|--version|--help", suffixes=".py .ipy .ipynb"),
    _grammar(r"torchrun|accelerate|deepspeed", r"-m|--module|--no[-_]python", suffixes=".py"),
    _grammar(r"Rscript", r"-e", suffixes=".R .r"),
    _grammar(r"julia[\d.]*", r"-[eE].*|--eval.*|--print.*", suffixes=".jl"),
    _grammar(r"perl[\d.]*", r"-[A-Za-z\d]*[eE].*", suffixes=".pl"),
    _grammar(r"ruby[\d.]*", r"-[A-Za-z\d]*e.*", suffixes=".rb"),
    _grammar(r"node|nodejs", r"-[epr].*|--(eval|print|require|import|loader).*", suffixes=".js .mjs .cjs .ts"),
    _grammar(r"octave(-cli)?", r"--eval.*", suffixes=".m"),
    _grammar(r"lua(jit)?[\d.]*", r"-[el].*", suffixes=".lua"),
    _grammar(r"php[\d.]*", r"-[rBRE].*|--(run|process).*", suffixes=".php"),
)
#: Programs whose last words are another command.
_WRAPPERS = re.compile(r"env|nice|ionice|nohup|time|timeout|stdbuf|setsid|taskset|numactl|xvfb-run|mpirun|mpiexec|srun")
#: Programs of which ``run`` does that. What else they do can name an interpreter, too: ``conda create python numpy``.
_RUNNERS = re.compile(r"uv|poetry|pipenv|conda|mamba|micromamba|pixi")
_MOVES = re.compile(r"-C.*|-D.*|-wdir|--(chdir|directory|cwd|wdir|project).*")  # it runs in another directory then
_SHELL_WORDS = re.compile(r"[;&|<>$`(){}\[\]*?~#!\\]|^\w+=")
_MOST_NAMES = 2000  # among which the file that is meant is looked for


def called(words: Sequence[str], grammar: Grammar) -> bool:
    """Say whether a command begins with an interpreter."""
    return bool(words) and grammar.names.fullmatch(Path(words[0]).name) is not None


def file_of(words: Sequence[str]) -> str | None:
    """Return the file that a command runs through an interpreter, as it is written there; None where none is sure.

    >>> file_of(["nice", "python", "-u", "train.py", "--lr", "0.1"])
    'train.py'
    >>> file_of(["python", "-m", "train.py"]) is None
    True
    """
    words = _unwrapped(words)
    grammar = next((one for one in GRAMMARS if called(words, one)), None)
    if grammar is None:
        return None
    rest = iter(words[1:])
    for word in rest:
        if grammar.inline.fullmatch(word):
            return _of_text(next(rest, "")) if grammar is SHELL and word.endswith("c") else None
        if grammar.with_value.fullmatch(word):
            next(rest, None)
        elif word == "--":
            word = next(rest, "")
            return word if word and (not grammar.suffixes or word.endswith(grammar.suffixes)) else None
        elif not word.startswith(("-", "+")) and (not grammar.suffixes or word.endswith(grammar.suffixes)):
            return word
    return None


def _unwrapped(words: Sequence[str]) -> Sequence[str]:
    """Return the command that a wrapper runs, from its interpreter on; nothing where it runs in another directory."""
    name = Path(words[0]).name if words else ""
    if not _WRAPPERS.fullmatch(name) and not _RUNNERS.fullmatch(name):
        return words
    if _RUNNERS.fullmatch(name) and next((word for word in words[1:] if not word.startswith("-")), None) != "run":
        return ()
    for n, word in enumerate(words[1:], 1):
        if _MOVES.fullmatch(word):
            return ()
        if any(one.names.fullmatch(Path(word).name) for one in GRAMMARS):
            return words[n:]
    return ()


def _of_text(text: str) -> str | None:
    """Return the file that a text for a shell runs first, if that is a plain command: others can make files."""
    lines = (line.strip() for line in text.splitlines())
    first = next((line for line in lines if line and not line.startswith(("#", "set "))), "")
    if _SHELL_WORDS.search(first):
        return None
    try:
        return file_of(shlex.split(first))
    except ValueError:
        return None


def check_file(words: Sequence[str], directory: str, environ: Mapping[str, str] | None = None) -> None:
    """Raise UsageError if the file that a command runs is not in its directory; it names what can be meant.

    Parameters
    ----------
    environ : mapping, optional
        The variables of the command: a shell also looks on the PATH. Default: those of another machine, and so are
        absolute paths.
    """
    name = file_of(words)
    if name is None or "\0" in name or not _is_missing(Path(directory) / name):
        return
    if environ is None and Path(name).is_absolute():
        return
    if os.sep not in name and is_on_path_too(words) and _is_on_path(name, environ):
        return
    near = _near(Path(directory), Path(name))
    raise UsageError(f"there is no file {name!r} in {directory}" + (f"; did you mean {near}?" if near else ""))


def is_on_path_too(words: Sequence[str]) -> bool:
    """Say whether the interpreter of a command also looks for its file on the PATH, as a shell does."""
    return called(_unwrapped(words), SHELL)


def _is_on_path(name: str, environ: Mapping[str, str] | None) -> bool:
    return environ is None or shutil.which(name, os.F_OK, environ.get("PATH", os.defpath)) is not None


def _is_missing(path: Path) -> bool:
    """Say whether a path is surely not there; one that may not be looked at can be."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        pass
    return False


def _near(directory: Path, name: Path) -> Path | None:
    """Return the file that is meant: one of nearly that name beside it, or of that name in a directory near by."""
    here = [one for one in _names(directory / name.parent) if one.suffix == name.suffix and one.name != name.name]
    close = difflib.get_close_matches(name.stem.lower(), [one.stem.lower() for one in here], n=1, cutoff=0.6)
    if close:
        return name.parent / next(one.name for one in here if one.stem.lower() == close[0])
    places = [directory, *(one for one in _names(directory) if not one.name.startswith("."))]
    return next((place.joinpath(name.name).relative_to(directory) for place in places if _is_file(place, name)), None)


def _is_file(place: Path, name: Path) -> bool:
    try:
        return (place / name.name).is_file()
    except OSError:
        return False


def _names(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())[:_MOST_NAMES]
    except OSError:
        return []
