"""What listeners say of a kind is said of kinds that the probe recognises."""

from __future__ import annotations

from ports.listeners import _kinds
from ports.probe.recognise import KINDS
from ports.probe.records import SESSION_KINDS


def test_every_kind_is_one_that_the_probe_recognises() -> None:
    recognised = {name.replace("_", "-") for name, _ in KINDS} | set(SESSION_KINDS)
    assert set(_kinds.SESSIONS) | _kinds.NEVER_ASKED | set(_kinds.LOOPBACK_OPTIONS) <= recognised
