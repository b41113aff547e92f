"""Errors: they pickle, name what, which value and the way out, and have their exit code."""

from __future__ import annotations

import ast
import inspect
import io
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster

import ports
from ports import errors
from ports.errors import PortsError
from ports.hosts import _far_errors

EXAMPLES: dict[str, Any] = {
    "others": ("bob", "carol"),
    "name": "main", "target": "a:b:c", "reason": "no such file", "source": "ports.yaml", "key": "cluster.n_workers",
    "kind": "cluster", "hint": "`ports cluster list` shows them", "port": 8786, "owner": "alice",
    "where": "127.0.0.1:8786", "differences": ("n_workers is 2, not 4",), "path": Path("/tmp/x"), "tool": "tmux",
    "host": "server1", "what": "cluster 'main'", "log": Path("/tmp/log"), "output": ("one", "two"), "timeout": 3.5,
    "wanted": "4 workers of 9.0 GiB are 36.0 GiB", "total": "24.0 GiB", "taken": ("8.0 GiB are promised",),
    "frees": "`ports cluster scale main 0` frees what it is promised",
    "way_out": "use Client(cluster)", "left": "16.0 GiB", "found": 2, "known": 1, "message": "it failed",
    "job": "12.7", "remote": "ValueError: no",
}  # fmt: skip


def test_a_wait_that_timed_out_is_pythons_timeout_error() -> None:
    error = errors.TimedOutError("a worker", 3.0)
    assert isinstance(error, TimeoutError) and isinstance(error, errors.PortsError)
    assert str(pickle.loads(pickle.dumps(error))) == "timed out after 3 s waiting for a worker"


def test_a_number_instead_of_a_name_hints_at_n_workers() -> None:
    with pytest.raises(errors.InvalidNameError, match=r"'4' is not a name.*for 4 workers pass n_workers=4"):
        ports.cluster(4)  # type: ignore[arg-type]


def test_a_cluster_instead_of_a_name_hints_at_its_client() -> None:
    with LocalCluster(n_workers=0, processes=False, dashboard_address=None, protocol="inproc") as held:
        for take in (ports.client, ports.cluster):
            with pytest.raises(errors.InvalidNameError, match=r"is not a name; .*use Client\(cluster\)"):
                take(held)  # type: ignore[arg-type]


def test_a_notebook_shows_the_users_line_and_the_message() -> None:
    with pytest.raises(errors.InvalidNameError) as caught:
        ports.clusters.get("A B")
    shown = caught.value._render_traceback_()
    assert len(shown) == 2 and shown[0].startswith("InvalidNameError: 'A B' is not a name")
    assert shown[1].endswith('ports.clusters.get("A B")')


def tree(cls: type[PortsError] = PortsError) -> list[type[PortsError]]:
    """Return all errors of ``ports.errors``."""
    below = [one for child in cls.__subclasses__() for one in tree(child)]
    return [cls, *below]


ALL = [cls for cls in tree() if cls.__module__ == "ports.errors"]


def example(cls: type[PortsError]) -> PortsError:
    names = [name for name in inspect.signature(cls.__init__).parameters if name not in ("self", "args", "kwargs")]
    return cls(*(EXAMPLES[name] for name in names)) if names else cls("it failed")


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_an_error_pickles(cls: type[PortsError]) -> None:
    error = example(cls)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (cls, str(error), vars(error))


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_an_error_travels_as_json_and_keeps_its_exit_code(cls: type[PortsError]) -> None:
    error = example(cls)
    told = _far_errors.describe_error(error)
    assert (told["type"], told["exit_code"], told["message"]) == (cls.__name__, cls.exit_code, str(error))
    assert _far_errors.revive("server1", told).exit_code == cls.exit_code


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_a_message_is_lower_case_without_full_stop_and_names_the_values(cls: type[PortsError]) -> None:
    error = example(cls)
    text = str(error)
    assert not text.endswith(".") and "\n" not in text.partition("\n  ")[0].replace("\nlog: ", "")
    assert text[0] == text[0].lower()
    for value in error.args:
        if not isinstance(value, tuple):
            assert f"{value:g}" in text if isinstance(value, float) else str(value) in text
        else:
            assert all(part in text for part in value)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    words = {word for line in (errors.__doc__ or "").splitlines() for word in line.split() if word.endswith("Error")}
    assert words == {cls.__name__ for cls in ALL}


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("UsageError", 2), ("SettingError", 2), ("InvalidTargetError", 2), ("NotFoundError", 3), ("ConflictError", 4),
        ("PortInUseError", 4), ("DifferentClusterError", 4), ("UnsafePathError", 4), ("ToolError", 5), ("SSHError", 5),
        ("StartError", 5), ("StopError", 5), ("StoreError", 5), ("TimedOutError", 6),
        ("RecordError", 7), ("NewerRecordError", 7),
        ("PortsError", 5), ("JobError", 8),
    ],
)  # fmt: skip
def test_exit_codes_are_those_that_are_documented(name: str, code: int) -> None:
    assert getattr(errors, name).exit_code == code


def test_what_is_raised_of_ports_is_an_error_of_ports() -> None:
    """`ValueError` and its like would reach the user as a traceback."""
    package = Path(errors.__file__).parent
    for file in [*package.glob("*.py"), *package.glob("adapters/**/*.py"), *package.glob("cli/*.py")]:
        if file.name in ("launch.py", "jupyter_launch.py"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                name = ast.unparse(node.exc.func)
                assert name not in ("ValueError", "RuntimeError", "OSError", "KeyError", "Exception"), f"{file}: {name}"


def test_a_start_that_failed_shows_log_and_last_lines() -> None:
    error = errors.StartError("cluster 'main'", "exit status 3", Path("/tmp/main.log"), ("first", "port 8786 is taken"))
    assert str(error).splitlines() == [
        "cluster 'main' did not start: exit status 3",
        "log: /tmp/main.log; its last lines:",
        "  first",
        "  port 8786 is taken",
    ]
    assert (
        str(errors.StartError("cluster 'main'", "killed by signal 9"))
        == "cluster 'main' did not start: killed by signal 9"
    )


def test_a_port_of_an_unknown_owner_is_another_users() -> None:
    assert (
        str(errors.PortInUseError(80, None))
        == "port 80 is in use by another user; pass --local-port 0 (local_port=0) for a free one"
    )


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "utf-8"])
def test_no_text_of_a_far_side_ends_a_command(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "数据 × not-\udcff-utf8"
    for write in (errors.say, lambda words: (errors.escape(sys.stdout), print(words))):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        write(text)
        stream.flush()
        written = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
        monkeypatch.undo()
        assert "not-\\udcff-utf8" in written and written.endswith("\n")
