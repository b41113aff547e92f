"""The jobs of a machine, whichever it is: `_asking` has those of this one, `_afar` those of another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ports.jobs import _where

if TYPE_CHECKING:
    from ports.jobs import _afar, _asking, _several
    from ports.jobs._model import Submits

    _EACH: tuple[Submits, ...] = (_asking, _afar.Afar(""), _several.Several([]))  # mypy: the same signature


def at(host: str | None = None) -> Any:
    """Return the jobs of a machine: `_asking` for this one, which None is too, else an `Afar`; raises UsageError.

    Of ``"gpu1,gpu2"``, a `Several`.
    """
    if host is not None and (names := _where.aliases(host)):
        from ports.jobs import _several  # a command needs one of these three

        return _several.Several(names)
    if (alias := _where.alias(host)) is not None:
        from ports.jobs import _afar

        return _afar.Afar(alias)
    from ports.jobs import _asking

    return _asking
