"""Jobs: functions and scripts that a compute resource runs, durable, found again tomorrow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ports.probe import face

if TYPE_CHECKING:
    pass
else:
    __getattr__, __dir__, __all__ = face(__name__, {})
