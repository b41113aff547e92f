"""scripts/test runs the tiers and parts that the README and CONTRIBUTING.md name, and every file of tests is in one."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.lab import tiers

TOP = Path(__file__).resolve().parents[2]
FILES = sorted(tiers.TESTS.glob("*/test_*.py"))
SAMPLE = """
import pytest
pytestmark = pytest.mark.ci
def test_of_the_module(): pass
@pytest.mark.quick
def test_quick(): pass
@pytest.mark.quick
@pytest.mark.parametrize("how", ["usual", pytest.param("rare", marks=pytest.mark.long)])
def test_of_a_parameter(how): pass
"""


def read(name: str) -> str:
    return (TOP / name).read_text(encoding="utf-8")


def test_each_file_of_tests_is_in_a_part() -> None:
    parts = Counter(tiers.part_of(path) for path in FILES)
    assert set(parts) == set(tiers.PARTS)


def test_the_usage_of_scripts_test_names_every_part() -> None:
    done = subprocess.run(["bash", TOP / "scripts/test", "--help"], text=True, capture_output=True, check=True)
    usage = " ".join(done.stdout.split())
    listed = re.search(r"--all PART one part, at most 60 minutes: (.*?) scripts/test", usage)
    assert listed is not None, usage
    assert set(re.split(r", | or ", listed.group(1))) == set(tiers.PARTS)


def test_the_readme_names_the_quick_tests_and_contributing_every_tier() -> None:
    assert re.search(r"^scripts/test +# .*at most 5 minutes", read("README.md"), re.M)
    rows = re.findall(r"^\| (?:none, or )?`(\w+)` \| `(.*?)` \|", read("CONTRIBUTING.md"), re.M)
    assert {mark: command.partition(" [")[0] for mark, command in rows} == tiers.TIERS
    ran = [line for line in read(".ci/run").splitlines() if line.startswith("scripts/")]
    assert [line.partition(" ||")[0] for line in ran] == ["scripts/check", *[*tiers.TIERS.values()][:2]]


def test_every_tier_is_a_mark_of_pytest() -> None:
    marks = re.findall(r"^    (\w+)[(:]", read("setup.cfg").partition("markers =")[2].partition("\n[")[0], re.M)
    assert set(tiers.TIERS) < set(marks)


@pytest.mark.parametrize(
    ("tier", "names"),
    [
        ("quick", ["test_quick", "test_of_a_parameter[usual]"]),
        ("ci", ["test_of_the_module"]),
        ("short", ["test_of_the_module", "test_quick", "test_of_a_parameter[usual]"]),
        ("all", ["test_of_the_module", "test_quick", "test_of_a_parameter[usual]", "test_of_a_parameter[rare]"]),
    ],
)
def test_the_nearest_mark_is_the_tier_of_a_test(pytester: pytest.Pytester, tier: str, names: list[str]) -> None:
    pytester.makepyfile(test_sample=SAMPLE)
    pytester.makeconftest('pytest_plugins = ["tests.lab.tiers"]')
    pytester.makeini("[pytest]\nmarkers =\n  quick\n  ci\n  long\n")
    result = pytester.runpytest_inprocess("-v", "--tier", tier, "-n", "0")
    passed = [line.split("::")[1].split()[0] for line in result.outlines if " PASSED" in line]
    assert passed == names
    if tier != "all":
        assert f"{tier}: {len(names)} passed in " in result.outlines[-1]
        left_out = [line for line in result.outlines if line.startswith("left out: ")]
        assert "left out: 1 tests, which `scripts/test --all` runs" in left_out


def test_what_one_user_cannot_run_is_counted() -> None:
    class Skipped:
        longrepr = ("test_x.py", 1, "Skipped: hosts in namespaces need root")

    lines = tiers.left_out_lines(Counter(ci=3), [Skipped(), Skipped()])
    assert lines == [
        "left out: 3 tests, which `scripts/test --ci` runs",
        "left out: 2 tests that need root, for hosts in namespaces or for other users",
    ]
