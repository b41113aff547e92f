"""Warnings show the line of the user, not one of `ports`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from ports import errors


def test_a_warning_names_the_line_outside_of_ports() -> None:
    names: dict[str, Any] = {"warn": errors.warn}
    within = "def inner():\n    warn('careful')\ndef outer():\n    inner()\n"
    exec(compile(within, str(Path(errors.__file__).with_name("clusters.py")), "exec"), names)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        names["outer"]()
        errors.warn("directly")
    assert [Path(one.filename).name for one in caught] == ["test_notices.py"] * 2
