"""What a host says names commands: at home they are to be typed with its alias."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ports.hosts import targets

COMMANDS = st.sampled_from(["cluster start", "cluster stop x", "notebook logs lab", "prune"])
WORDS = st.text("abc ;'.", max_size=9)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "no cluster 'x'; `ports cluster start x` starts it",
            "no cluster 'x'; `ports cluster start x -H s1` starts it",
        ),
        ("`ports prune` moves it aside", "`ports prune -H s1` moves it aside"),
        (
            "`ports open box:lab` opens it, `ports notebook stop lab` ends it",
            "`ports open s1:lab` opens it, `ports notebook stop lab -H s1` ends it",
        ),
        ("`ports cluster start -H s2`", "`ports cluster start -H s2`"),
        ("`ports list s1 --all` shows it", "`ports list s1 --all` shows it"),
        ("`ports login s1`, `pip install ports`", "`ports login s1`, `pip install ports`"),
    ],
)
def test_a_hint_of_a_host_is_told_as_it_is_to_be_typed_at_home(said: str, told: str) -> None:
    assert targets.hints_at("s1", said) == told
    assert targets.hints_at(None, said) == said


@given(before=WORDS, command=COMMANDS, after=WORDS)
def test_only_commands_change_and_each_once(before: str, command: str, after: str) -> None:
    told = targets.hints_at("s1", f"{before}`ports {command}`{after}")
    assert told == f"{before}`ports {command} -H s1`{after}"
    assert targets.hints_at("s1", told) == told
