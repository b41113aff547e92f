"""The line in the crontab that starts the resource after a boot, and what is said after one."""

from __future__ import annotations

import pytest

from ports import jobs
from ports.cli import main
from ports.jobs import _at_boot

HOME = "/home/alice/.local/state/ports"


def test_the_line_survives_a_percent_sign_and_a_blank() -> None:
    line = _at_boot.line("/opt/my env/bin/python", "/home/100%", "/usr/bin:/opt/50%")
    assert line.startswith(
        r"@reboot env PATH=/usr/bin:/opt/50\% PORTS_HOME=/home/100\% '/opt/my env/bin/python' -m ports "
    )
    assert "%" not in line.replace("\\%", "")
    assert _at_boot.without(f"{line}\n", "/home/100%") == ""


@pytest.mark.parametrize("table", ["", "MAILTO=me\n5 * * * * true\n", "# no newline at the end", "@reboot other\n\n"])
def test_other_lines_of_a_crontab_stay(table: str) -> None:
    line = _at_boot.line("/usr/bin/python3", HOME, "/usr/bin")
    before = table if table.endswith("\n") or not table else f"{table}\n"
    assert _at_boot.without(f"{before}{line}\n", HOME) == before
    assert _at_boot.without(table, HOME) == table
    assert _at_boot.without(f"{line}\n", f"{HOME}-other") == f"{line}\n"


class Far:
    """The jobs of another machine, of which each is one that has ended."""

    host: str | None = "server1"

    def cancel(self, ids: list[str]) -> dict[str, list[str]]:
        return {"cancelled": [], "ending": [], "ended_already": ids}


@pytest.mark.parametrize(
    ("words", "is_said"),
    [(["cancel", "1"], True), (["cancel", "-H", "server1", "1"], False), (["cancel", "--help"], False)],
)
def test_only_a_command_on_this_machine_says_that_it_was_booted(
    words: list[str], is_said: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    far, here = Far(), Far()
    here.host = None
    monkeypatch.setattr(jobs, "at", lambda host: far if host else here)
    monkeypatch.setattr(jobs, "waiting_since_boot", lambda: 2)
    assert main.run(main.ports, ["job", *words]) == 0
    assert ("this machine was booted, and 2 jobs wait" in " ".join(capsys.readouterr().err.split())) is is_said
