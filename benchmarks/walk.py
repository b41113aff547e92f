"""The walk of an alias: the functions that it passes from ``ports open HOST`` until the ssh master starts.

Run as ``python benchmarks/walk.py [ALIAS]``; without an alias, one is made up whose ssh is refused at once. It prints a
row for each function, and the counts: functions, files, and lines of the longest.

What counts: every function of `ports`, generators and lambdas too, that meets three conditions. It is entered after
`cli.tunnel.open_`, in any thread. It is entered before the process of the master (the ssh with ``-M``) starts. And it
has the alias in hand when it is entered: one of its arguments (`self` is one), or a variable of the function around it,
is the alias or holds it up to three levels deep. An object of `ports` (Target, Route, Hop, Connection, Master …), a
tuple, list, set or dict can hold it. A function counts once, however often it is called.

Not counted: what gets a command line that is ready to be run (a list whose first word is the ssh program), and the
``__init__`` that a dataclass writes, which has no line of source.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import io
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

import ports

PACKAGE = str(Path(ports.__file__).parent)
DEPTH = 3
PLAIN = (bytes, int, float, type(None), CodeType, FrameType, ModuleType, type)


class Walk:
    """What is seen of one `alias`."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.passed: dict[CodeType, None] = {}
        self.is_on = False
        self.started = threading.Event()

    def note(self, frame: FrameType, event: str, _: Any) -> None:
        """Take an event of the profiler."""
        code = frame.f_code
        if event != "call" or self.started.is_set() or not code.co_filename.startswith(PACKAGE):
            return
        if code.co_name == "open_" and code.co_filename.endswith("cli/tunnel.py"):
            self.is_on = True
        if self.is_on and code not in self.passed and code.co_name not in ("<module>", "__getattr__", "__repr__"):
            given = [frame.f_locals[name] for name in names_given(code) if name in frame.f_locals]
            if any(self.holds(value, DEPTH) for value in given):
                self.passed[code] = None

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Stop at the start of the master."""
        if event == "subprocess.Popen" and self.is_on and "-M" in list(arguments[1]) and not self.started.is_set():
            self.started.set()

    def holds(self, value: Any, depth: int) -> bool:
        """Tell whether a value is the alias, or holds it."""
        if isinstance(value, str):
            return value == self.alias or value.startswith((f"{self.alias}:", f"{self.alias}/"))
        if depth == 0 or isinstance(value, PLAIN):
            return False
        if isinstance(value, (tuple, list, set, frozenset, dict)):
            if isinstance(value, list) and value and isinstance(value[0], str) and Path(value[0]).name == "ssh":
                return False
            items: Iterable[Any] = [*value.keys(), *value.values()] if isinstance(value, dict) else list(value)
            return any(self.holds(one, depth - 1) for one in items)
        if isinstance(value, functools.partial):
            return self.holds((value.args, value.keywords), depth)
        if type(value).__module__.startswith("ports."):
            return (
                any(self.holds(one, depth - 1) for one in vars(value).values()) if hasattr(value, "__dict__") else False
            )
        return False


def names_given(code: CodeType) -> tuple[str, ...]:
    """Return the names of arguments and of variables of the function around."""
    n_arguments = code.co_argcount + code.co_kwonlyargcount
    n_arguments += bool(code.co_flags & 0x04) + bool(code.co_flags & 0x08)
    return (*code.co_varnames[:n_arguments], *code.co_freevars)


def lines_of(code: CodeType) -> int:
    """Return how many lines a function has without its docstring."""
    tree = ast.parse(Path(code.co_filename).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == code.co_name:
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            if first == code.co_firstlineno or node.lineno == code.co_firstlineno:
                body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
                return (node.end_lineno or 0) - body[0].lineno + 1
    return 1


def rows_of(seen: Walk) -> list[tuple[str, int, str, int]]:
    """Return file, line, name and number of lines of each function that was passed."""
    return [
        (code.co_filename.removeprefix(f"{PACKAGE}/"), code.co_firstlineno, code.co_name, lines_of(code))
        for code in seen.passed
    ]


def walk(arguments: list[str], alias: str) -> Walk:
    """Run ``ports open ALIAS`` until its master starts."""
    seen = Walk(alias)
    sys.addaudithook(seen.audit)
    threading.setprofile(seen.note)
    sys.setprofile(seen.note)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
            from ports.cli.main import ports as command
            from ports.cli.main import run

            run(command, arguments)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    return seen


@contextlib.contextmanager
def refused_host() -> Any:
    """Yield an alias whose ssh is refused at once, in a configuration and a state of its own."""
    with tempfile.TemporaryDirectory() as made, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens on it
        config = Path(made, "config")
        config.write_text(f"Host walked\n  HostName 127.0.0.1\n  Port {closed.getsockname()[1]}\n")
        os.environ.update(PORTS_HOME=f"{made}/state", DASK_PORTS__SSH__CONFIG=str(config))
        yield "walked"


def main() -> None:
    """Print the walk."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("alias", nargs="?")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        alias = given.alias or stack.enter_context(refused_host())
        seen = walk(["open", alias, "--no-browser"], alias)
    assert seen.started.is_set(), (
        f"no master was started to {alias}: a connection stands, or the configuration is wrong"
    )
    rows = rows_of(seen)
    for file, line, name, lines in rows:
        print(f"{file + ':' + str(line):44} {name:24} {lines:3} lines")
    files = sorted({row[0] for row in rows})
    print(f"\n{len(rows)} functions in {len(files)} files, the longest of {max(row[3] for row in rows)} lines")


if __name__ == "__main__":
    main()
