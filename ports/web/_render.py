"""Templates → HTML. Pure: the files are part of the package, and every text is escaped."""

from __future__ import annotations

import functools
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ports.web import _facts, _verbs


@functools.cache
def environment() -> Environment:
    """Return the templates of the page; a name that no value was given for is an error."""
    made = Environment(
        loader=PackageLoader("ports.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters["said"] = _facts.said
    made.filters["going"] = lambda verb: _verbs.GOING.get(verb, verb)
    made.globals |= {"doing": (), "notice": None, "tab": None, "token": "", "who": "", "base": "", "part": "page"}
    return made


def render(template: str, **values: Any) -> str:
    """Return a page as HTML.

    Parameters
    ----------
    template : str
        The file below ``templates/``.
    values : Any
        What it shows. `base` leads to the overview; `token` is the token of forms; `who` is who looks, and where;
        `notice` is the error of the last act, or None; `tab` is the tab to mark. `part` is ``page``, ``main`` (what a
        live update sends), or ``sheet`` (what the one dialog shows).
    """
    return environment().get_template(template).render(values)
