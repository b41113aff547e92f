"""The shape of the house: imports point down, tools stay in their adapters, files and functions stay small."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ports

PACKAGE = Path(ports.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# A module imports from the layers above its own line only. A package is one name; inside it, the package decides.
LAYERS = (
    ("_version", "errors", "notices", "render", "exposures", "launch", "jupyter_launch", "in_cluster"),
    ("accounts", "deadlines", "records", "probe", "targets", "far_errors", "fairness"),
    ("paths", "peers", "links", "hop_command", "environments", "shares"),
    ("config", "interpreter", "logout", "tokens"),
    ("adapters", "held", "home", "scratch"),
    ("transports", "gpus"),
    ("sessions", "remote", "server_helpers"),
    ("options", "listeners", "terminals", "machine"),
    ("notebook_handle", "shells", "browse", "cluster_handle", "credentials"),
    ("clusters", "notebooks"),
    ("tunnels",),
    ("pruning", "doctor"),
    ("cli", "in_jupyter"),
    ("__main__", "__init__"),
)
# The same within a package that has an order of its own.
INNER = {
    "in_jupyter": (("route",), ("__init__",)),
    "tunnels": (
        ("pages", "browser", "services"),
        ("proof", "doors", "agent", "records"),
        ("relay", "carriers"),
        ("local_ends",),
        ("tunnel", "wishes"),
        ("ways",),
        ("host_links",),
        ("opening",),
        ("__init__",),
        ("keeper",),
    ),
    "doctor": (("checks",), ("judge", "wsl", "way"), ("here", "there", "forwarding"), ("__init__",)),
}
READ_THE_ENVIRONMENT = ("config.py", "paths.py", "sessions.py", "terminals.py", "launch.py", "probe/", "in_cluster/")
ASYNC = (
    "adapters/dask.py",
    "in_cluster/",
    "in_jupyter/",
    "tunnels/relay.py",
    "tunnels/doors.py",
    "tunnels/ways.py",
    "tunnels/carriers.py",
    "tunnels/agent.py",
)
MOST_LINES, MOST_LINES_OF_A_FUNCTION, MOST_POSITIONAL = 400, 40, 5

Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def functions(file: Path) -> Iterator[Function]:
    return (node for node in ast.walk(tree(file)) if isinstance(node, Function))


def place(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def noun(module: str) -> str:
    """Return the first part of a module's name below the package."""
    return module.partition(".")[0]


def imports(file: Path) -> Iterator[str]:
    """Yield the modules of the package that `file` imports, without ``ports.``; also inside functions."""
    known = {noun(place(other).removesuffix(".py").replace("/", ".")) for other in FILES}
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from (name.name.removeprefix("ports.") for name in node.names if name.name.startswith("ports."))
        elif isinstance(node, ast.ImportFrom) and node.module == "ports":
            yield from (name.name if name.name in known else "__init__" for name in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ports."):
            yield from (f"{node.module}.{name.name}".removeprefix("ports.") for name in node.names)


def layer(name: str) -> int:
    found = [number for number, names in enumerate(LAYERS) if noun(name) in names]
    assert found, f"{name} has no layer; name one in LAYERS"
    return found[0]


@pytest.mark.parametrize("file", FILES, ids=place)
def test_imports_point_down(file: Path) -> None:
    own = place(file).removesuffix(".py").replace("/", ".")
    if own == "__init__":
        return  # the public names, imported at their first use
    upward = [name for name in imports(file) if noun(name) != noun(own) and layer(name) >= layer(own)]
    assert not upward, f"{own} imports {upward}, which stand no lower"


@pytest.mark.parametrize("package", INNER)
def test_imports_within_a_package_point_down(package: str) -> None:
    def inner(name: str) -> int:
        found = [number for number, names in enumerate(INNER[package]) if name in names]
        assert found, f"{package}/{name}.py has no layer; name one in INNER"
        return found[0]

    for file in (PACKAGE / package).glob("*.py"):
        known = {other.stem for other in (PACKAGE / package).glob("*.py")}
        used = [name.split(".") for name in imports(file) if noun(name) == package]
        within = {parts[1] if len(parts) > 1 and parts[1] in known else "__init__" for parts in used}
        upward = [name for name in within if inner(name) >= inner(file.stem)]
        assert not upward, f"{place(file)} imports {upward}, which stand no lower"


def test_adapters_do_not_know_each_other() -> None:
    for file in (PACKAGE / "adapters").rglob("*.py"):
        own = noun(place(file).removeprefix("adapters/").removesuffix(".py").replace("/", "."))
        others = [name.split(".")[1] for name in imports(file) if name.startswith("adapters.")]
        assert set(others) <= {own}, f"{place(file)} imports another adapter"


def test_front_ends_know_no_adapter_and_no_other_front_end() -> None:
    for file in (PACKAGE / "cli").rglob("*.py"):
        assert not [name for name in imports(file) if noun(name) in ("adapters", "web")], place(file)


def test_imports_are_absolute() -> None:
    for file in FILES:
        assert not [node for node in ast.walk(tree(file)) if isinstance(node, ast.ImportFrom) and node.level], place(
            file
        )


@pytest.mark.parametrize(
    ("tool", "home"),
    [
        ("libtmux", "adapters/tmux.py"),
        ("psutil", "adapters/processes.py"),
        ("cryptography", "adapters/certificates.py"),
        ("distributed", "adapters/dask.py"),
        ("dask", "adapters/dask.py"),
        ("jupyter_server", "adapters/jupyter.py"),
        ("paramiko", "adapters/paramiko"),
        ("pynvml", "adapters/nvml.py"),
    ],
)
def test_a_tool_stays_in_its_adapter(tool: str, home: str) -> None:
    free: tuple[str, ...] = (home, "in_cluster/", "in_jupyter/", "probe/", "jupyter_launch.py")
    if tool == "psutil":
        free += ("adapters/dask.py",)  # what workers run; the probe asks psutil where there is no /proc
    for file in FILES:
        if not place(file).startswith(free):
            assert tool not in {noun(name) for name in imported_at_run_time(file)}, place(file)


def imported_at_run_time(file: Path) -> Iterator[str]:
    """Yield all modules that `file` imports, but for those that only types need."""
    for_types = {
        inner
        for node in ast.walk(tree(file))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree(file)):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_the_environment_is_read_in_few_places() -> None:
    for file in FILES:
        if not place(file).startswith(READ_THE_ENVIRONMENT):
            text = ast.unparse(tree(file))
            assert "os.environ." not in text and "os.environ[" not in text and "getenv" not in text, place(file)


def test_async_stays_where_dask_and_the_relay_ask_for_it() -> None:
    for file in FILES:
        if not place(file).startswith(ASYNC):
            assert not [node.name for node in functions(file) if isinstance(node, ast.AsyncFunctionDef)], place(file)


@pytest.mark.parametrize("file", FILES, ids=place)
def test_files_and_functions_stay_small(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= MOST_LINES
    for function in functions(file):
        assert size(function) <= MOST_LINES_OF_A_FUNCTION, f"{function.name} has {size(function)} lines"
        names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
        positional = [name for name in names if name not in ("self", "cls")]
        if not is_called_by_name(function):
            assert len(positional) <= MOST_POSITIONAL, f"{function.name} takes {positional}"


def is_called_by_name(function: Function) -> bool:
    """Say whether it is a click command, whose parameters are named, or a method whose base class decides."""
    decorated = "".join(map(ast.dump, function.decorator_list))
    return "command" in decorated or "with_output" in decorated


def size(function: Function) -> int:
    """Return the number of lines without the docstring."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        lines -= (first.end_lineno or 0) - first.lineno + 1
    return lines


@pytest.mark.parametrize("file", FILES, ids=place)
def test_every_public_name_says_what_it_does(file: Path) -> None:
    if file.name != "_version.py" and file.read_text(encoding="utf-8").strip():
        assert ast.get_docstring(tree(file)), "the module"
    for node in tree(file).body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if isinstance(method, Function) and not method.name.startswith("_"):
                    assert ast.get_docstring(method), f"{node.name}.{method.name}"


def test_no_module_has_a_name_that_says_nothing() -> None:
    old = {"server_helpers.py"}  # notebooks of the older package import it
    named = [file.name for file in FILES if any(word in file.name for word in ("util", "helper", "manager", "common"))]
    assert set(named) <= old


def test_the_library_does_not_print() -> None:
    may = ("cli/", "probe/", "in_cluster/")
    for file in FILES:
        if not place(file).startswith(may):
            calls = [node.func for node in ast.walk(tree(file)) if isinstance(node, ast.Call)]
            assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"], place(file)


# --- what is imported, in an interpreter of its own ---


def loaded(code: str) -> set[str]:
    """Return the top-level modules that `code` imports."""
    script = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    return set(done.stdout.splitlines()[-1].split())


def test_importing_ports_imports_no_tool() -> None:
    assert not loaded("import ports") & {"dask", "distributed", "libtmux", "psutil", "click", "rich", "yaml", "jupyter"}


def test_importing_ports_reads_no_file() -> None:
    code = (
        "import importlib, sys; opened = []; import typing\n"
        "sys.addaudithook(lambda event, found: event == 'open' and opened.append(str(found[0])))\n"
        "import ports\n"
        "print([name for name in opened if not name.endswith(('.py', '.pyc'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("words", [["--help"], ["cluster", "--help"], ["cluster", "list"]])
def test_the_command_line_starts_without_heavy_tools(words: list[str], tmp_path: Path) -> None:
    code = f"from ports.cli import main as cli\ncode = cli.run(cli.ports, {words!r})\nassert code == 0, code"
    script = f"import os\nos.environ['PORTS_HOME'] = {str(tmp_path / 'state')!r}\n{code}"
    assert not loaded(script) & {
        "dask",
        "distributed",
        "libtmux",
        "psutil",
        "cryptography",
        "jupyter_server",
        "paramiko",
    }
    assert not (tmp_path / "state").exists()  # looking makes nothing
