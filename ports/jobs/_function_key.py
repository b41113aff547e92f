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
import sys
import textwrap
import types
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ports.jobs import _modules, _travel
from ports.jobs._digest import NoDigestError, digest


@dataclass(frozen=True)
class FunctionKey:
    """A function in the cache. `code` is the digest of its source, also where `version` is what counts."""

    name: str
    version: str | None
    code: str

    @property
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


def of_function(function: Callable[..., Any], version: object = None) -> FunctionKey:
    """Return the key of `function`; a version is any text or number.

    Raises
    ------
    NoDigestError
        No version is given, and it uses a value that has no digest.
    """
    said = None if version is None else str(version)
    name = _travel.qualified_name(function)
    try:
        code = _Source().of(function)
    except NoDigestError:
        if said is None:
            raise
        code = ""
    return FunctionKey(name, said, code)


def arguments(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, str]:
    """Return the digest of each argument, by its name: ``f(1, y=2)`` and ``f(x=1, y=2)`` are one call.

    Raises
    ------
    NoDigestError
        An argument has none.
    """
    named: dict[str, Any] = {str(place): value for place, value in enumerate(args)} | dict(kwargs)
    try:
        bound = _signature(function).bind(*args, **kwargs)
        bound.apply_defaults()
        named = bound.arguments
    except (TypeError, ValueError):  # no signature, or a call that will fail
        pass
    found = {}
    for name, value in named.items():
        try:
            found[name] = digest(value)
        except NoDigestError as error:
            raise NoDigestError(f"{error.what} in argument {name!r}") from None
    return found


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return _known_signature(function)
    except TypeError:  # a method of what has no hash
        return inspect.signature(function)


_known_signature = functools.lru_cache(maxsize=256)(inspect.signature)


def of_call(function: FunctionKey, found: Mapping[str, str]) -> str:
    """Return the key of a result."""
    return digest((function.key, dict(found)))


class _Source:
    """Walks from a function to all of its source that counts."""

    def __init__(self) -> None:
        self._parts: list[Any] = []
        self._modules: set[str] = set()
        self._seen: set[int] = set()

    def of(self, function: Callable[..., Any]) -> str:
        self._use("", function)
        sources = _modules.collect(self._modules)
        texts = sorted((one.name, hashlib.sha256(one.text).hexdigest()) for one in sources.values())
        return digest((self._parts, texts))

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

    def _own_source(self, name: str, function: types.FunctionType) -> None:
        code = function.__code__
        self._parts.append((name, _text_of(function)))
        self._modules.update(_modules.imported_by(code, function.__globals__))
        self._value(f"a default of {function.__name__}()", (function.__defaults__, function.__kwdefaults__))
        for variable, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                self._use(variable, cell.cell_contents)
            except ValueError:  # it has no value yet
                continue
        for variable in _modules.globals_of(code):
            if variable in function.__globals__:
                self._use(variable, function.__globals__[variable])


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
        lines = textwrap.dedent(inspect.getsource(value)).splitlines()
    except (OSError, TypeError, IndentationError):
        if isinstance(value, types.FunctionType):
            return _bytecode(value.__code__)
        raise NoDigestError(f"the class {value.__qualname__}, whose source cannot be found") from None
    return "\n".join(_without_decorators(lines))


def _without_decorators(lines: list[str]) -> Iterable[str]:
    for place, line in enumerate(lines):
        if line.startswith(("def ", "async def ", "class ")):
            return lines[place:]
    return lines


def _bytecode(code: types.CodeType) -> Any:
    constants = [_bytecode(one) if isinstance(one, types.CodeType) else repr(one) for one in code.co_consts]
    return (sys.version_info[:2], code.co_code, constants, code.co_names, code.co_varnames)
