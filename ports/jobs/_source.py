"""A function between two minor versions of Python: its source, and the source and the values that it uses.

A function of a local module is its name: the module travels. A function of a notebook or script travels with the
functions, classes and values that it uses; what it imports is imported there.
"""

from __future__ import annotations

import functools
import json
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

from ports.errors import UnsendableError
from ports.jobs import _modules, _plain

_LAMBDA = "<lambda>"


class Written:
    """What travels of one function: the text of a module, its values, and the names of modules that it needs."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.modules: set[str] = set()
        self._values: dict[str, Any] = {}
        self._imports: dict[str, str] = {}
        self._texts: dict[str, str] = {}
        self._seen: dict[int, str] = {}
        while (inner := getattr(function, "__ports_function__", None)) is not None:
            function = inner
        self.name = self._use("", function)
        values, self.buffers = _plain.encode(self._values)
        text = "\n\n".join([*self._imports.values(), *self._texts.values()])
        self.head = json.dumps(
            {"text": text, "name": self.name, "values": values.decode("utf-8", "surrogatepass")}
        ).encode()

    def _use(self, name: str, value: Any) -> str:
        """Add what makes `name` mean `value`, and return the name."""
        value = getattr(value, "__ports_function__", value)
        if isinstance(value, types.ModuleType):
            self.modules.add(value.__name__)
            self._imports[name] = f"import {value.__name__} as {name}"
        elif isinstance(value, types.FunctionType | type | types.BuiltinFunctionType):
            return self._function_or_class(name or value.__name__, value)
        elif isinstance(value, functools.partial | types.MethodType):
            raise UnsendableError(f"a {type(value).__name__} has no source of its own; write a function that calls it")
        else:
            self._values[name] = value
        return name

    def _function_or_class(self, name: str, value: Any) -> str:
        module, qualified = getattr(value, "__module__", None) or "builtins", value.__qualname__
        if module != "__main__" and _found(module, qualified) is value:
            self.modules.add(module)
            self._imports[name] = f"import {module}\n{name} = {module}.{qualified}"
            return name
        if qualified != value.__name__ and "<locals>" in qualified and getattr(value, "__closure__", None):
            raise UnsendableError(
                f"{value.__name__}() uses variables of the function in which it is defined; pass them as arguments"
            )
        if id(value) not in self._seen:
            self._seen[id(value)] = name
            text = self._text(value)
            for base in value.__bases__ if isinstance(value, type) else ():
                if base is not object:
                    self._use(base.__name__, base)
            for inner in [value] if isinstance(value, types.FunctionType) else _modules.methods_of(value):
                self._used_by(inner)
            self._texts[name] = text if value.__name__ == name else f"{text}\n{name} = {value.__name__}"
        return name

    def _text(self, value: Any) -> str:
        if value.__name__ == _LAMBDA:
            raise UnsendableError("a lambda has no source of its own; write it as a function with def")
        try:
            return _modules.source_of(value)
        except OSError:
            raise UnsendableError(f"the source of {value.__name__} cannot be found; define it in a file") from None

    def _used_by(self, function: types.FunctionType) -> None:
        code = function.__code__
        self.modules.update(_modules.imported_by(code, function.__globals__))
        for name in _modules.globals_of(code):
            value = function.__globals__.get(name, function)
            if value is not function:
                self._use(name, value)
            if isinstance(value, types.ModuleType):
                self._submodules(value.__name__, code.co_names)

    def _submodules(self, module: str, names: tuple[str, ...]) -> None:
        """Import what a function uses as ``module.sub``, which somebody else has imported here."""
        for one in [one for one in sys.modules if one.startswith(f"{module}.")]:
            if set(one[len(module) + 1 :].split(".")) <= set(names):
                self._imports[one] = f"import {one}"
                self.modules.add(one)


def _found(module: str, qualified: str) -> Any:
    found: Any = sys.modules.get(module)
    for part in qualified.split("."):
        found = getattr(found, part, None)
    return getattr(found, "__ports_function__", found)


def made(head: Any, buffers: Sequence[Any], file: str) -> Any:
    """Return the function that `Written` wrote."""
    header = json.loads(bytes(head))
    space: dict[str, Any] = {"__name__": "__main__", "__file__": file}
    space.update(_plain.decode(header["values"].encode("utf-8", "surrogatepass"), buffers))
    _modules.show_lines(file, header["text"])
    exec(compile(header["text"], file, "exec", dont_inherit=True), space)
    found = space[header["name"]]
    return getattr(found, "__ports_function__", found)
