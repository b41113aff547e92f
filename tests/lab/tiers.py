"""Which tests run: tiers and parts; which of them share a worker; and what a run says at its end.

A test is of the tier that its nearest mark names: `quick`, `ci`, `long` or `storm`; without one it is `quick`. The
mark of a test is nearer than that of its module. Where a parameter and its test have one each, the later tier counts.

=======================  ==============================================================================
``--tier quick``         what ``scripts/test`` runs
``--tier ci``            what ``scripts/test --ci`` runs beside it
``--tier short``         both, as ``scripts/test PATH`` does
``--tier storm``         what ``scripts/test --storm`` runs, and nothing else does
``--part NAME``          one of `PARTS`, of all tiers, as ``scripts/test --all NAME`` does
=======================  ==============================================================================
"""

from __future__ import annotations

import fnmatch
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parents[1]
#: Each tier, and what runs its tests.
TIERS = {
    "quick": "scripts/test",
    "ci": "scripts/test --ci",
    "long": "scripts/test --all",
    "storm": "scripts/test --storm",
}
CHOICES = {
    "quick": {"quick"},
    "ci": {"ci"},
    "short": {"quick", "ci"},
    "storm": {"storm"},
    "all": {"quick", "ci", "long"},
}
#: What `scripts/test --all` runs one after another: patterns of files below tests/. The first that fits counts.
PARTS = {
    "unit": ("unit/*",),
    "faults": ("acceptance/test_faults.py",),
    "security": ("security/*",),
    "acceptance": ("acceptance/*",),
    "tunnels": (
        "integration/test_tunnels.py",
        "integration/test_healing.py",
        "integration/test_other_sshds.py",
        "integration/test_windows.py",
    ),
    "hosts": (
        "integration/test_agent*.py",
        "integration/test_connection.py",
        "integration/test_doctor.py",
        "integration/test_lab.py",
        "integration/test_odd_accounts.py",
        "integration/test_masters.py",
        "integration/test_paramiko.py",
        "integration/test_probe.py",
        "integration/test_remote.py",
    ),
    "notebooks": ("integration/test_notebook*.py", "integration/test_jupyter_route.py"),
    "clusters": ("integration/*",),
}
#: Fixtures that are built for a module: tests that share one run on one worker.
SHARED_SCOPES = ("module", "class")

_LEFT_OUT = pytest.StashKey[Any]()
_BEGUN = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options by which scripts/test says what runs."""
    group = parser.getgroup("ports")
    group.addoption("--tier", choices=[*CHOICES], default="all", help="run the tests of one tier")
    group.addoption("--part", choices=[*PARTS], help="run the tests of one part")


def pytest_configure(config: pytest.Config) -> None:
    """Begin to count."""
    config.stash[_LEFT_OUT] = Counter()
    config.stash[_BEGUN] = time.monotonic()


def tier_of(item: pytest.Item) -> str:
    """Return the tier of a test."""
    nodes: dict[int, set[str]] = {}
    for node, mark in item.iter_markers_with_node():
        if mark.name in TIERS:
            nodes.setdefault(len(node.listchain()), set()).add(mark.name)
    nearest = nodes[max(nodes)] if nodes else {"quick"}
    return max(nearest, key=[*TIERS].index)


def part_of(path: Path) -> str | None:
    """Return the part of a file of tests."""
    name = path.relative_to(TESTS).as_posix()
    for part, patterns in PARTS.items():
        if any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
            return part
    return None


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import the files of other parts."""
    part = config.getoption("--part")
    if part and collection_path.name.startswith("test_") and collection_path.suffix == ".py":
        return part_of(collection_path) != part or None
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is of another tier, and keep on one worker what shares a fixture."""
    wanted = CHOICES[config.getoption("--tier")]
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        tier = tier_of(item)
        (kept if tier in wanted else left_out).append(item)
        if tier not in wanted:
            config.stash[_LEFT_OUT][tier] += 1
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept
    for item in items:
        if (group := _shared_fixture(item)) and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(group))


def _shared_fixture(item: pytest.Item) -> str | None:
    """Return a name for the fixtures that a test shares with others of its module, or None."""
    info = getattr(item, "_fixtureinfo", None)
    found = info.name2fixturedefs.values() if info is not None else ()
    shared = [one[-1] for one in found if one and one[-1].scope in SHARED_SCOPES and one[-1].argname[0] != "_"]
    if not shared:
        return None
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    values = [str(parameters[one.argname]) for one in shared if one.argname in parameters]
    return "-".join([item.path.stem, *values])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take over what a worker left out: all of them collect the same."""
    if counted := getattr(node, "workeroutput", {}).get("left_out"):
        node.config.stash[_LEFT_OUT] = Counter(counted)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand over what this worker left out."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = dict(session.config.stash[_LEFT_OUT])


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Say, as the last lines of a run of scripts/test, what it was and what it left out."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput") or config.option.collectonly:
        return
    tier, part = config.getoption("--tier"), config.getoption("--part")
    if tier == "all" and part is None:
        return
    counts = {name: len(reporter.stats.get(name, ())) for name in ("passed", "failed", "error", "skipped")}
    for line in left_out_lines(config.stash[_LEFT_OUT], reporter.stats.get("skipped", ())):
        print(line)
    print(last_line(part or tier, counts, seconds=time.monotonic() - config.stash[_BEGUN]))


def left_out_lines(left_out: Counter[str], skipped: Iterable[Any]) -> list[str]:
    """Return a line for each tier that was left out, and one where this user cannot run some of the tests."""
    lines = [f"left out: {left_out[tier]} tests, which `{TIERS[tier]}` runs" for tier in TIERS if left_out[tier]]
    need_root = sum("root" in str(getattr(one, "longrepr", "")) for one in skipped)
    if need_root:
        lines.append(f"left out: {need_root} tests that need root, for hosts in namespaces or for other users")
    return lines


def last_line(name: str, counts: dict[str, int], *, seconds: float) -> str:
    """Return a line that can be quoted: what ran, on which commit, and how busy the machine was."""
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count) or "no tests"
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(one.ru_utime + one.ru_stime for one in usage)
    load = os.getloadavg()[0]
    return (
        f"{name}: {told} in {seconds:.0f} s ({cpu:.0f} s of CPU, {os.cpu_count()} cores, load {load:.1f}, {commit()})"
    )


def commit() -> str:
    """Return which commit the tests are of."""
    command = ["git", "-C", str(TESTS), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "not a checkout"
    return f"commit {done.stdout.strip()}"


if __name__ == "__main__":
    sys.stdout.write("\n".join(PARTS) + "\n")
