"""What a script gets when it runs again, and one that nobody needs any more, as a user types it."""

from __future__ import annotations

import sys

import pytest

from tests.integration.conftest import Home

pytestmark = [
    pytest.mark.ci,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what a script leaves is adopted on Linux only"),
]


@pytest.fixture(scope="module")
def home(home_of_jobs: Home) -> Home:
    """The home with a compute resource."""
    return home_of_jobs


def ended(home: Home, *words: str) -> dict[str, object]:
    """Submit a job, wait for its end, and return its row."""
    done = home.ports("job", "submit", *words)
    assert done.returncode == 0, done.stderr
    home.ports("job", "wait", "--within", "90", done.stdout.strip(), timeout=120)
    return dict(home.json("job", "show", done.stdout.strip()))


def test_a_script_runs_again_after_the_exit_status_that_was_named(home: Home) -> None:
    again = ("--cpus", "1", "--retries", "exit 75: 5", "--", "sh", "-c")
    row = ended(home, *again, "[ $PORTS_ATTEMPT = 3 ] || exit 75")
    assert (row["state"], row["attempt"]) == ("finished", 3)
    row = ended(home, *again, "exit 74")
    assert (row["state"], row["attempt"], row["reason"]) == ("error", 1, "exit status 74")


def test_a_script_that_used_too_much_memory_gets_more_of_it(home: Home) -> None:
    options = ("--cpus", "1", "--memory", "60MB", "--retries", "memory: 2", "--memory-growth", "6")
    code = "import os, time; kept = bytearray(150_000_000); time.sleep(60 if os.environ['PORTS_ATTEMPT'] == '1' else 0)"
    row = ended(home, *options, "--", sys.executable, "-c", code)
    assert (row["state"], row["attempt"]) == ("finished", 2), row
    reasons = [str(one.get("reason")) for one in row["transitions"]]  # type: ignore[attr-defined]
    assert any("retry 1 of 2 (memory, with 360MB)" in one for one in reasons), reasons


def test_a_script_that_did_not_begin_in_its_lifetime_is_cancelled(home: Home) -> None:
    first = home.ports("job", "submit", "sleep", "600").stdout.strip()  # takes all cores
    row = ended(home, "--lifetime", "1s", "true")
    assert (row["state"], row["reason"]) == ("cancelled", "not begun within its lifetime of 1 s")
    home.ports("job", "cancel", first)
