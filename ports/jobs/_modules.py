"""Local modules that a function needs: found here, carried as source, and imported there under their own names.

A local module is a Python file that is neither of the standard library, nor installed, nor of `ports`: the ones beside
a notebook or script. It travels as source and not as pickled values: what it holds can then be anything, imports inside
of functions work, and an object that comes back is of the class that it had here.
"""

from __future__ import annotations

import ast
import contextlib
import dis
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import linecache
import os
import sys
import sysconfig
import textwrap
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_OURS = str(Path(__file__).parents[1])
_INSTALLED = tuple({f"{path}/" for name, path in sysconfig.get_paths().items() if name.endswith(("lib", "stdlib"))})


@dataclass(frozen=True)
class Source:
    """One local module as it was when it was sent. `needs` are the local modules that it imports."""

    name: str
    file: str
    is_package: bool
    text: bytes = field(repr=False)
    needs: tuple[str, ...] = ()


# --- at home: which modules travel ---


def imported_by(code: types.CodeType, names: Mapping[str, Any]) -> Iterator[str]:
    """Yield the modules that a function imports when it runs, whose globals are `names`."""
    for level, wanted, name in _imports_of_code(code):
        yield from _candidates(name, level, wanted, names.get("__package__") or "")


@functools.lru_cache(maxsize=1024)
def globals_of(code: types.CodeType) -> tuple[str, ...]:
    """Return the names of globals that a function reads, those of functions inside of it included."""
    found = [one.argval for one in dis.get_instructions(code) if one.opname == "LOAD_GLOBAL"]
    inner = [globals_of(one) for one in code.co_consts if isinstance(one, types.CodeType)]
    return tuple(dict.fromkeys([*found, *(one for many in inner for one in many)]))


@functools.lru_cache(maxsize=1024)
def _imports_of_code(code: types.CodeType) -> tuple[tuple[int, tuple[str, ...], str], ...]:
    found: list[tuple[int, tuple[str, ...], str]] = []
    constants: list[Any] = []
    for one in dis.get_instructions(code):
        if one.opname == "IMPORT_NAME":
            level, wanted = constants[-2:]
            found.append((level, tuple(wanted or ()), one.argval))
        if "CONST" in one.opname or one.opname == "LOAD_SMALL_INT":
            constants.append(one.argval)
    inner = [_imports_of_code(one) for one in code.co_consts if isinstance(one, types.CodeType)]
    return tuple(found) + tuple(one for many in inner for one in many)


def _candidates(name: str, level: int, wanted: Iterable[str], package: str) -> Iterator[str]:
    """Yield the modules that ``from ..name import wanted`` can mean."""
    if level:
        parts = package.split(".")
        base = ".".join(parts[: len(parts) - level + 1])
        name = f"{base}.{name}" if name and base else name or base
    if name:
        yield name
        yield from (f"{name}.{one}" for one in wanted if one != "*")


def collect(names: Iterable[str]) -> dict[str, Source]:
    """Return the local modules among `names`, with all local modules that these import."""
    found: dict[str, Source] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found or name == "__main__" or _is_of_python(name):
            continue
        if (source := _local(name)) is not None:
            found[name] = source
            waiting += [*source.needs, *filter(None, [name.rpartition(".")[0]])]
    return found


def _is_of_python(name: str) -> bool:
    return name.partition(".")[0] in sys.stdlib_module_names


def _local(name: str) -> Source | None:
    """Return the module `name` if it is local; None also where nothing has that name."""
    if not _is_near(name):
        return None
    try:
        spec = _spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    if isinstance(spec.loader, Tree):  # it travelled to this process itself
        return spec.loader.sources[name]
    if spec.origin is None and spec.submodule_search_locations is not None:  # a package without an __init__.py
        place = next(iter(spec.submodule_search_locations), "")
        return None if is_installed(place + "/") else Source(name, f"{place}/__init__.py", True, b"")
    file = Path(spec.origin or "")
    if file.suffix != ".py" or is_installed(str(file)):
        return None
    try:
        at = file.stat()
        text, imports = _read(str(file), at.st_mtime_ns, at.st_size)
    except OSError:
        return None
    is_package = spec.submodule_search_locations is not None
    package = name if is_package else name.rpartition(".")[0]
    near = {one for level, wanted, base in imports for one in _candidates(base, level, wanted, package)}
    needs = sorted(one for one in near if not _is_of_python(one) and one != name and _is_near(one))
    return Source(name, str(file), is_package, text, tuple(needs))


def _spec(name: str) -> importlib.machinery.ModuleSpec | None:
    """Find a module as an import would, but import nothing."""
    module = sys.modules.get(name)
    if module is not None:
        spec = getattr(module, "__spec__", None)
        return spec if isinstance(spec, importlib.machinery.ModuleSpec) else None
    parent, _, last = name.rpartition(".")
    if not parent:
        return importlib.util.find_spec(name)
    above = _spec(parent)
    if above is None or above.submodule_search_locations is None or not last.isidentifier():
        return None
    return importlib.machinery.PathFinder.find_spec(name, list(above.submodule_search_locations))


def is_missing(name: str) -> bool:
    """Say whether this process cannot import the module `name`."""
    try:
        return _spec(name) is None
    except (ImportError, ValueError, AttributeError):
        return name not in sys.modules


def _is_near(name: str) -> bool:
    """Say whether `name` can be a local module, by the place of its topmost package."""
    try:
        spec = _spec(name.partition(".")[0])
    except (ImportError, ValueError, AttributeError):
        return False
    if spec is None:
        return False
    places = spec.submodule_search_locations
    top = next(iter(places), "") if places is not None else spec.origin or ""
    return not is_installed(top + "/" * (places is not None)) and not _is_install_directory(str(Path(top).parent))


@functools.lru_cache(maxsize=256)
def _is_install_directory(directory: str) -> bool:
    """Say whether pip installed something there, as with ``--target`` and a PYTHONPATH."""
    try:
        return any(name.endswith(".dist-info") for name in os.listdir(directory))  # noqa: PTH208
    except OSError:
        return False


def is_installed(file: str) -> bool:
    """Say whether a module's file is of Python, of an installed package, or of `ports`."""
    return (
        not file.startswith("/")
        or "/site-packages/" in file
        or "/dist-packages/" in file
        or file.startswith((_OURS + "/", *_INSTALLED))
    )


@functools.lru_cache(maxsize=4096)
def _read(file: str, changed: int, size: int) -> tuple[bytes, tuple[tuple[int, tuple[str, ...], str], ...]]:
    """Return the text of a file, and what it imports; the other parameters say of when."""
    text = Path(file).read_bytes()
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return text, ()
    found: list[tuple[int, tuple[str, ...], str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(0, (), one.name) for one in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, tuple(one.name for one in node.names), node.module or ""))
    return text, tuple(found)


# --- there: they are imported from what travelled ---


class Tree(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """The local modules of one function. `activate` puts them before what this process would import itself."""

    def __init__(self, sources: Mapping[str, Source], *, is_last: bool = False) -> None:
        self.is_last = is_last  # what this process can import itself goes before
        self.sources = dict(sources)
        self._loaded: dict[str, types.ModuleType] = {}
        self._hidden: dict[str, types.ModuleType] = {}  # this process's own modules of these names

    def activate(self, before: Tree | None) -> None:
        """Import from this tree from now on, and no longer from `before`; keep the loaded modules of both."""
        if before is self:
            return
        if before is not None:
            before._loaded.update({one: sys.modules.pop(one) for one in before.sources if one in sys.modules})
            sys.modules.update(before._hidden)
            sys.meta_path[:] = [one for one in sys.meta_path if one is not before]
        if self.sources:
            self._hidden = {one: sys.modules.pop(one) for one in self.sources if one in sys.modules}
            sys.modules.update(self._loaded)
            sys.meta_path.insert(0, self)

    def add(self, sources: Iterable[Source]) -> None:
        """Add modules that this tree lacks: those of a result that became an argument."""
        new = {one.name: one for one in sources if one.name not in self.sources}
        self.sources.update(new)
        if new and self not in sys.meta_path:
            sys.meta_path.insert(len(sys.meta_path) if self.is_last else 0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find a module that travelled."""
        source = self.sources.get(fullname)
        if source is None:
            return None
        spec = importlib.machinery.ModuleSpec(fullname, self, origin=source.file, is_package=source.is_package)
        spec.has_location = True
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(str(Path(source.file).parent))
        return spec

    def exec_module(self, module: types.ModuleType) -> None:
        """Run the source that travelled; tracebacks show its lines, whatever the file holds today."""
        source = self.sources[module.__name__]
        code = compile(source.text, source.file, "exec", dont_inherit=True)
        show_lines(source.file, self.get_source(source.name))
        exec(code, module.__dict__)

    def get_source(self, fullname: str) -> str:
        """Return the source, for `inspect`."""
        return importlib.util.decode_source(self.sources[fullname].text)


def source_of(value: Any) -> str:
    """Return the source of a function or class, from the line with ``def`` or ``class`` on; raises OSError.

    A class of a notebook is looked for in the file of its methods, then in the cells: `inspect` looks in the file of
    its module, and ``__main__`` of a notebook has none.
    """
    text = _class_text(value) if isinstance(value, type) else None
    if text is None:
        try:
            text = inspect.getsource(value)
        except (TypeError, IndentationError, SyntaxError) as error:
            raise OSError(f"no source of {value!r}") from error
    lines = textwrap.dedent(text).splitlines()
    begins = (place for place, line in enumerate(lines) if line.startswith(("def ", "async def ", "class ")))
    return "\n".join(lines[next(begins, 0) :])


def methods_of(kind: type) -> list[types.FunctionType]:
    """Return the functions in the body of a class, those of its properties and class methods included."""
    inner = (getattr(one, "__func__", getattr(one, "fget", one)) for one in vars(kind).values())
    return [one for one in inner if isinstance(one, types.FunctionType)]


def _class_text(kind: type) -> str | None:
    if kind.__module__ != "__main__":
        return None
    files = [one.__code__.co_filename for one in methods_of(kind)]
    cells = [file for file in reversed(linecache.cache) if "ipykernel" in file or "<ipython-input" in file]
    for file in dict.fromkeys([*(one for one in files if not one.startswith("<string")), *cells]):
        lines = linecache.getlines(file)
        with contextlib.suppress(SyntaxError, ValueError):
            for node in reversed([*ast.walk(ast.parse("".join(lines)))]):
                if isinstance(node, ast.ClassDef) and node.name == kind.__name__:
                    return "".join(lines[node.lineno - 1 : node.end_lineno])
    return None


def show_lines(file: str, text: str) -> None:
    """Let tracebacks show these lines of `file`, whether it is here, and whatever it holds today."""
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)


def as_header(sources: Iterable[Source]) -> list[dict[str, Any]]:
    """Return what a blob's header says of modules; their texts are its last buffers, in this order."""
    return [
        {"name": one.name, "file": one.file, "package": one.is_package, "needs": list(one.needs)} for one in sources
    ]


def from_header(header: Mapping[str, Any], buffers: Sequence[Any]) -> list[Source]:
    """Return the modules in a blob."""
    said = header.get("modules", [])
    texts = buffers[len(buffers) - len(said) :]
    return [
        Source(one["name"], one["file"], one["package"], bytes(text), tuple(one["needs"]))
        for one, text in zip(said, texts, strict=True)
    ]


def with_needs(names: Iterable[str], sources: Mapping[str, Source]) -> list[Source]:
    """Return those of `sources` that are among `names`, with all that these need."""
    found: dict[str, Source] = {}
    waiting = [one for one in names if one in sources]
    while waiting:
        one = sources[waiting.pop()]
        if one.name not in found:
            found[one.name] = one
            above = one.name.rpartition(".")[0]
            waiting += [name for name in (*one.needs, above) if name in sources]
    return [found[name] for name in sorted(found)]
