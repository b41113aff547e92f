"""The shape of the house: imports point down, a package shows its face, a tool has one place, functions stay small."""

from __future__ import annotations

import ast
import functools
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ports

PACKAGE = Path(ports.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# A package imports from the floors below its own only, and of another package only the face: what its __all__ names.
FLOORS = (
    ("errors", "_version"),
    ("probe",),
    ("state",),
    ("hosts", "sessions"),
    ("listeners", "machine"),
    ("tunnels", "notebooks", "clusters"),
    ("jobs",),
    ("doctor", "web"),
    ("cli",),
    ("__main__", "__init__", "server_helpers"),
)
# Modules that a face hands out whole. All others of a package begin with an underscore, except programs run by path.
HANDED_OUT = {
    "clusters": {"credentials"},
    "hosts": {"openssh", "targets"},
    "listeners": {"links", "socket_user"},
    "machine": {"fair_share", "gpus"},
    "sessions": {"environments", "processes", "surroundings"},
    "state": {"paths", "records", "settings"},
    "tunnels": {"keeper"},
}
PROGRAMS = {"launch", "jupyter_launch", "owner", "resource"}
FACES = (
    "clusters",
    "doctor",
    "hosts",
    "jobs",
    "listeners",
    "machine",
    "notebooks",
    "probe",
    "sessions",
    "state",
    "tunnels",
)
OWNER = "clusters/owner/ports_owner/"
READ_THE_ENVIRONMENT = (
    "state/settings.py",
    "state/paths.py",
    "listeners/_in_jupyter.py",
    "sessions/surroundings.py",
    "sessions/_attach.py",
    "sessions/launch.py",
    "probe/",
    OWNER,
    "jobs/resource/",
    "jobs/_inside.py",
)
ASYNC = (
    "clusters/_cluster.py",
    "clusters/_dask.py",
    "clusters/_start.py",
    OWNER,
    "web/",
    "hosts/_connection.py",
    "tunnels/_event_loop.py",
    "tunnels/_local_forward.py",
    "tunnels/_host_connection.py",
    "tunnels/_agent_session.py",
)
# Where each tool is used; nothing of it leaves.
TOOLS = {
    "cloudpickle": ("jobs/_blobs.py",),
    "libtmux": ("sessions/_tmux.py",),
    "psutil": ("sessions/processes.py", "machine/_people.py", "clusters/_dask.py"),  # the last: what workers run
    "cryptography": ("clusters/_certificates.py",),
    "distributed": ("clusters/_dask.py", "jobs/resource/slot.py", "jobs/resource/crew.py"),  # slots are tasks
    "dask": ("clusters/_dask.py",),
    "jupyter_server": ("notebooks/_jupyter.py", "notebooks/jupyter_launch.py", "web/"),
    "paramiko": ("hosts/paramiko/",),
    "pathspec": ("jobs/_workspace.py",),
    "pynvml": ("machine/_nvml.py",),
    "click": ("cli/",),
    "jinja2": ("web/_render.py",),
    "tornado": ("web/",),
}
MOST_LINES_OF_A_FUNCTION, MOST_POSITIONAL = 40, 5

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


def module_of(file: Path) -> str:
    """Return the name of a file's module below ``ports``: ``hosts.openssh``, ``__init__``."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports(file: Path) -> Iterator[tuple[str, str]]:
    """Yield what `file` imports of the package, also inside functions: module below ``ports``, and name in it."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from ((one.name[6:], "") for one in node.names if one.name.startswith("ports."))
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = module_of(file).split(".") if file.name == "__init__.py" else module_of(file).split(".")[:-1]
            base = base[: len(base) - node.level + 1]
            yield from ((".".join([*base, *filter(None, [node.module])]), one.name) for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "ports":
            yield from ((one.name, "") for one in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ports."):
            yield from (((node.module or "")[6:], one.name) for one in node.names)


def floor(name: str) -> int:
    found = [number for number, names in enumerate(FLOORS) if noun(name) in names]
    assert found, f"{name} is on no floor; name it in FLOORS"
    return found[0]


def test_imports_point_down() -> None:
    for file in FILES:
        own = module_of(file)
        if own == "__init__":
            continue  # the public names, imported at their first use
        upward = [name for name, _ in imports(file) if noun(name) != noun(own) and floor(name) >= floor(own)]
        assert not upward, f"{own} imports {upward}, which stand no lower"


def test_of_another_package_only_the_face_is_imported() -> None:
    for file in FILES:
        own = noun(module_of(file))
        for module, name in imports(file):
            if noun(module) == own or noun(module) not in FACES:
                continue
            if module == "hosts.openssh" and own == "doctor":
                continue  # it looks at what ssh itself does
            assert module == noun(module), f"{place(file)} imports {name} from inside of {module}"
            face = importlib.import_module(f"ports.{module}")
            used = {name} if name else attributes(file, module)
            assert used <= set(face.__all__), f"{place(file)} uses {used - set(face.__all__)} of {module}"


def attributes(file: Path, name: str) -> set[str]:
    """Return the attributes of the module `name` that `file` uses, where no local variable has its name."""
    return {
        node.attr
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name
    }


@pytest.mark.parametrize("package", FACES)
def test_a_face_hands_names_on_and_holds_no_logic(package: str) -> None:
    body = tree(PACKAGE / package / "__init__.py").body
    assert not [
        node for node in body if not isinstance(node, ast.Expr | ast.Import | ast.ImportFrom | ast.If | ast.Assign)
    ]
    (choice,) = [node for node in body if isinstance(node, ast.If)]
    typed = {one.asname for node in [*body, *choice.body] if isinstance(node, ast.ImportFrom) for one in node.names}
    face = importlib.import_module(f"ports.{package}")
    assert typed - {None} == set(face.__all__)
    for name in face.__all__:
        assert getattr(face, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        face.nothing  # noqa: B018


@pytest.mark.parametrize("package", [name for name in FACES if name != "probe"])
def test_the_inside_of_a_package_is_told_by_an_underscore(package: str) -> None:
    files = [path for path in (PACKAGE / package).iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    plain = {path.stem for path in files if not path.name.startswith("_")}
    assert plain - PROGRAMS - {"paramiko", "host", "private", "runtime", "tokens", "waiting"} == HANDED_OUT.get(
        package, set()
    )
    face = importlib.import_module(f"ports.{package}")
    assert set(HANDED_OUT.get(package, ())) <= set(face.__all__)


@pytest.mark.parametrize("package", [*FACES, "cli", "web", "hosts/openssh", "hosts/paramiko", OWNER.rstrip("/")])
def test_no_files_of_a_package_import_each_other_in_a_circle(package: str) -> None:
    folder = PACKAGE / package
    names = {module_of(file): file for file in folder.rglob("*.py") if file != folder / "__init__.py"}
    below = {
        name: {f"{module}.{part}" if f"{module}.{part}" in names else module for module, part in imports(file)} - {name}
        for name, file in names.items()
    }
    while below:
        lowest = {name for name, used in below.items() if not used & set(below)}
        assert lowest, f"in a circle: {sorted(below)}"
        below = {name: used for name, used in below.items() if name not in lowest}


def test_imports_are_absolute() -> None:
    for file in FILES:
        if not place(file).startswith(("probe/", OWNER)):  # these are loaded under other names, too
            assert not [node for node in ast.walk(tree(file)) if isinstance(node, ast.ImportFrom) and node.level], (
                place(file)
            )


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_is_used_in_its_own_place(tool: str) -> None:
    free = (*TOOLS[tool], OWNER, "probe/")  # the probe asks psutil where there is no /proc
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


def test_functions_stay_small() -> None:
    for file, function in [(one, function) for one in FILES for function in functions(one)]:
        assert size(function) <= MOST_LINES_OF_A_FUNCTION, f"{place(file)}: {function.name} has {size(function)} lines"
        names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
        positional = [name for name in names if name not in ("self", "cls")]
        if not is_called_by_name(function):
            assert len(positional) <= MOST_POSITIONAL, f"{place(file)}: {function.name} takes {positional}"


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


def test_every_public_name_says_what_it_does() -> None:
    for file in FILES:
        if file.name != "_version.py":
            assert ast.get_docstring(tree(file)), place(file)
        for node in tree(file).body:
            if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_") and not is_overload(node):
                assert ast.get_docstring(node), f"{place(file)}: {node.name}"
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                for method in node.body:
                    if isinstance(method, Function) and not method.name.startswith("_"):
                        assert ast.get_docstring(method), f"{place(file)}: {node.name}.{method.name}"


def is_overload(node: Function | ast.ClassDef) -> bool:
    return any(isinstance(one, ast.Name) and one.id == "overload" for one in node.decorator_list)


def test_no_module_has_a_name_that_says_nothing() -> None:
    old = {"server_helpers.py"}  # notebooks of the older package import it
    named = [file.name for file in FILES if any(word in file.name for word in ("util", "helper", "manager", "common"))]
    assert set(named) <= old


def test_the_library_does_not_print() -> None:
    may = ("cli/", "probe/", "jobs/resource/", OWNER)
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
    assert not loaded("import ports") & {"dask", "distributed", "libtmux", "psutil", "click", "yaml", "jupyter"}


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


def test_a_question_to_a_host_imports_no_event_loop() -> None:
    code = "from ports.hosts import begin_probe, connect, openssh, resolve\nopenssh.SSHConnection"
    assert not loaded(code) & {"asyncio", "ssl", "hashlib", "getpass", "concurrent", "paramiko", "click", "dask"}


@pytest.mark.parametrize("noun", ["clusters", "notebooks"])
def test_a_noun_has_the_verbs_of_the_contract(noun: str) -> None:
    face = importlib.import_module(f"ports.{noun}")
    assert {"start", "list", "get", "stop"} <= set(face.__all__)
