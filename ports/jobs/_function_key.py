"""What the cache knows a function by: its name and version, else its name and everything of its source that counts.

Of a function in a module that counts the module's source, and that of the local modules which it imports. A function of
a notebook or script has no module to go by: its own source counts, and what it uses: functions and classes by their
source, other values by their digest.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import logging
import os
import sys
import types
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ports.jobs import _modules, _travel
from ports.jobs._digest import NoDigestError, digest


@dataclass(frozen=True)
class FunctionKey:
    """A function in the cache. `code` is the digest of its source, also where `version` is what counts."""

    name: str
    version: str | None
    code: str

    @functools.cached_property
    def key(self) -> str:
        """Its part of the keys of results."""
        return digest((self.name, self.version, None if self.version is not None else self.code))

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {"name": self.name, "version": self.version, "code": self.code}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FunctionKey:
        """Return the key in `data`."""
        return cls(str(data["name"]), data.get("version"), str(data["code"]))


_shared = functools.lru_cache(maxsize=1024)(FunctionKey)  # so that `key` is computed once


class ChangedError(NoDigestError):
    """What runs here is not what the file holds: it was edited after it was imported. `what` is the file."""


def of_function(function: Callable[..., Any], version: object = None, *, runs_here: bool = False) -> FunctionKey:
    """Return the key of `function`; a version is any text or number.

    Parameters
    ----------
    runs_here : bool
        It runs as it was imported. Default: it runs as its files are now, which go along with a job.

    Raises
    ------
    NoDigestError
        No version is given, and it uses a value that has no digest.
    ChangedError
        No version is given, it runs here, and a local module of it was edited after it was imported.
    """
    said = None if version is None else str(version)
    name = _travel.qualified_name(function)
    try:
        code = _code_of(function, runs_here=runs_here)
    except NoDigestError:
        if said is None:
            raise
        code = ""
    return _shared(name, said, code)


def arguments(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, str]:
    """Return the digest of each argument, by its name: ``f(1, y=2)`` and ``f(x=1, y=2)`` are one call.

    Raises
    ------
    NoDigestError
        An argument has none.
    """
    found = {}
    for name, value in _named(function, args, kwargs).items():
        try:
            found[name] = _digest_of(value)
        except NoDigestError as error:
            raise NoDigestError(f"{error.what} in argument {name!r}") from None
    return found


def _digest_of(value: Any) -> str:
    """Return the digest of an argument; of a function or class, that of its source."""
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType | type) or hasattr(value, "__ports_function__"):
        return digest(("function", _travel.qualified_name(value), _code_of(value, runs_here=False)))
    return digest(value)


def _named(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        names, defaults = _known_parameters(function)
    except (TypeError, ValueError):  # of a method of what has no hash; or it has no signature
        names = None
    if names is not None and len(args) <= len(names):
        given = {**dict(zip(names, args, strict=False)), **kwargs}  # `bind` takes longer than all else of a hit
        if len(given) == len(args) + len(kwargs):
            for name in names[len(args) :]:
                if name not in given and name in defaults:
                    given[name] = defaults[name]
            if len(given) == len(names):
                return given
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except (TypeError, ValueError):  # no signature, or a call that will fail
        return {str(place): value for place, value in enumerate(args)} | dict(kwargs)
    bound.apply_defaults()
    return bound.arguments


@functools.lru_cache(maxsize=256)
def _known_parameters(function: Callable[..., Any]) -> tuple[tuple[str, ...] | None, dict[str, Any]]:
    """Return names and defaults of the parameters, if all can be given by place and by name; else None."""
    parameters = inspect.signature(function).parameters.values()
    if any(one.kind is not one.POSITIONAL_OR_KEYWORD for one in parameters):
        return None, {}
    defaults = {one.name: one.default for one in parameters if one.default is not one.empty}
    return tuple(one.name for one in parameters), defaults


def of_call(function: FunctionKey, found: Mapping[str, str]) -> str:
    """Return the key of a result."""
    lines = sorted(f"{name!r} {one}\n" for name, one in found.items())
    return hashlib.sha256(f"{function.key}\n{''.join(lines)}".encode("utf-8", "backslashreplace")).hexdigest()


def _code_of(function: Callable[..., Any], *, runs_here: bool) -> str:
    if (known := _known_code(function, runs_here=runs_here)) is not None:
        return known
    source = _Source()
    code = source.of(function)
    if runs_here and source.changed is not None:
        raise ChangedError(source.changed)
    return code


class _Source:
    """Walks from a function to all of its source that counts."""

    def __init__(self) -> None:
        self.changed: str | None = None  # a file that was edited after it was imported
        self.files: tuple[_File, ...] = ()
        self._parts: list[Any] = []
        self._modules: set[str] = set()
        self._seen: set[int] = set()
        self._read: list[tuple[dict[str, Any], str, Any]] = []
        self._is_fixed = True

    def of(self, function: Callable[..., Any]) -> str:
        self._use("", function)
        sources = _modules.collect(self._modules)
        texts = sorted((one.name, hashlib.sha256(one.text).hexdigest()) for one in sources.values())
        code = digest((self._parts, texts))
        self.files = tuple(
            _File(one.name, one.file, _state_of(one.file), getattr(sys.modules.get(one.name), "__spec__", None))
            for one in sources.values()
        )
        self.changed = next((one.file for one in sources.values() if _has_changed(one)), None)
        if self._is_fixed and self.changed is None and isinstance(function, types.FunctionType):
            _codes[function] = _Known(code, function.__code__, function.__defaults__, tuple(self._read), self.files)
        return code

    def _use(self, name: str, value: Any) -> None:
        if id(value) in self._seen:
            return
        value = getattr(value, "__ports_function__", value)
        if isinstance(value, types.ModuleType):
            self._modules.add(value.__name__)
        elif isinstance(value, types.FunctionType | type | types.BuiltinFunctionType):
            self._seen.add(id(value))
            self._function_or_class(name, value)
        elif isinstance(value, types.MethodType):
            self._use(name, value.__func__)
            self._use(name, value.__self__)
        elif hasattr(value, "func") and hasattr(value, "keywords"):  # functools.partial
            self._use(name, value.func)
            self._value(name, (value.args, value.keywords))
        elif hasattr(value, "__wrapped__"):  # functools.lru_cache and its like
            self._use(name, value.__wrapped__)
        elif isinstance(value, logging.Logger):
            self._parts.append((name, value.name))
        else:
            self._value(name, value)

    def _value(self, name: str, value: Any) -> None:
        self._is_fixed = self._is_fixed and _is_fixed(value)
        try:
            self._parts.append((name, digest(value)))
        except NoDigestError as error:
            raise NoDigestError(f"{error.what}, which it uses as {name!r}" if name else error.what) from None

    def _function_or_class(self, name: str, value: Any) -> None:
        module, qualified = getattr(value, "__module__", None) or "builtins", value.__qualname__
        if module != "__main__" and _is_in_its_module(value, module, qualified):
            self._parts.append((name, module, qualified, _version_of(module)))
            self._modules.add(module)
        elif isinstance(value, types.FunctionType):
            self._own_source(name, value)
        else:
            self._parts.append((name, qualified, _text_of(value)))
            self._inside(value)

    def _inside(self, kind: Any) -> None:
        """Add the bases of a class, and what its methods use."""
        for base in getattr(kind, "__bases__", ()):
            self._use(base.__name__, base)
        for method in _modules.methods_of(kind) if isinstance(kind, type) else ():
            if not method.__code__.co_filename.startswith("<string>"):  # those of dataclasses follow from its text
                self._own_source(method.__name__, method)

    def _own_source(self, name: str, function: types.FunctionType) -> None:
        code = function.__code__
        self._parts.append((name, _text_of(function)))
        self._modules.update(_modules.imported_by(code, function.__globals__))
        self._value(f"a default of {function.__name__}()", (function.__defaults__, function.__kwdefaults__))
        self._is_fixed = self._is_fixed and not function.__closure__
        for variable, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                self._use(variable, cell.cell_contents)
            except ValueError:  # it has no value yet
                continue
        for variable in _modules.globals_of(code):
            value = function.__globals__.get(variable, _MISSING)
            self._read.append((function.__globals__, variable, value))
            if value is not _MISSING:
                self._use(variable, value)


_MISSING = object()
_FIXED = frozenset({type(None), bool, int, float, str, bytes})


def _is_fixed(value: Any) -> bool:
    """Say whether a value stays what it is as long as it is the same object."""
    return type(value) in _FIXED or (type(value) is tuple and all(map(_is_fixed, value)))


@dataclass(frozen=True)
class _Known:
    """The source of a function, while its code, the variables that it reads, and its files are those of then."""

    key: str
    code: types.CodeType
    defaults: tuple[Any, ...] | None
    read: tuple[tuple[dict[str, Any], str, Any], ...]
    files: tuple[_File, ...]


class _File(NamedTuple):
    """A local module: its file as it was, and its ``__spec__``, which is another one when it was imported again."""

    module: str
    file: str
    state: tuple[int, int] | None
    spec: Any

    def is_same(self, *, runs_here: bool) -> bool:
        """Say whether it is what it was. Where it runs here, what was imported counts, and its file does not."""
        if runs_here:
            spec = getattr(sys.modules.get(self.module), "__spec__", None)
            return spec is self.spec and (spec is not None or _state_of(self.file) == self.state)
        return _state_of(self.file) == self.state


_codes: weakref.WeakKeyDictionary[types.FunctionType, _Known] = weakref.WeakKeyDictionary()


def _known_code(function: Any, *, runs_here: bool) -> str | None:
    if not isinstance(function, types.FunctionType) or (known := _codes.get(function)) is None:
        return None
    is_same = function.__code__ is known.code and function.__defaults__ is known.defaults
    if not is_same or function.__kwdefaults__:
        return None
    for space, name, value in known.read:
        if space.get(name, _MISSING) is not value:
            return None
    for one in known.files:
        if not one.is_same(runs_here=runs_here):
            return None
    return known.key


_imported: dict[str, tuple[Any, Any]] = {}


def _has_changed(source: _modules.Source) -> bool:
    """Say whether the file of an imported module was edited since.

    Its compiled file has time and size of what was imported. Where there is none, what was seen first counts.
    """
    module = sys.modules.get(source.name)
    if module is None:
        return False
    spec, now = getattr(module, "__spec__", None), _state_of(source.file)
    before = _imported.setdefault(source.name, (spec, now))
    if before[0] is not spec:  # it was reloaded
        _imported[source.name] = before = (spec, now)
    return before[1] != now or not _is_compiled_of(getattr(module, "__cached__", None), now)


def _is_compiled_of(compiled: object, state: tuple[int, int] | None) -> bool:
    try:
        with open(str(compiled), "rb") as file:
            head = file.read(16)
    except OSError:
        return True  # nothing is known
    if len(head) < 16 or state is None or int.from_bytes(head[4:8], "little"):
        return True
    seconds, size = int.from_bytes(head[8:12], "little"), int.from_bytes(head[12:], "little")
    return (state[0] // 10**9) & 0xFFFFFFFF == seconds and state[1] & 0xFFFFFFFF == size


def _state_of(file: str) -> tuple[int, int] | None:
    try:
        found = os.stat(file)  # noqa: PTH116  at each hit
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _is_in_its_module(value: Any, module: str, qualified: str) -> bool:
    found: Any = sys.modules.get(module)
    for part in qualified.split("."):
        found = getattr(found, part, None)
    return found is value or getattr(found, "__ports_function__", None) is value


def _version_of(module: str) -> str | None:
    """Return the version of an installed package; None for local modules, whose source counts."""
    found = getattr(sys.modules.get(module.partition(".")[0]), "__version__", None)
    return found if isinstance(found, str) else None


def _text_of(value: Any) -> Any:
    """Return the source of a function or class without its decorators; of a function without source, its code."""
    if not isinstance(value, types.FunctionType):
        return _read_text(value)
    if (text := _texts.get(value)) is None:
        text = _texts[value] = _read_text(value)
    return text


_texts: weakref.WeakKeyDictionary[types.FunctionType, Any] = weakref.WeakKeyDictionary()


def _read_text(value: Any) -> Any:
    try:
        return _modules.source_of(value)
    except OSError:
        if isinstance(value, types.FunctionType):
            return _bytecode(value.__code__)
        raise NoDigestError(f"the class {value.__qualname__}, whose source cannot be found,") from None


def _bytecode(code: types.CodeType) -> Any:
    constants = [_bytecode(one) if isinstance(one, types.CodeType) else repr(one) for one in code.co_consts]
    return (sys.version_info[:2], code.co_code, constants, code.co_names, code.co_varnames)
