"""Words for a line that a login shell reads, whichever that is: sh, bash, rbash, zsh, tcsh or fish. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ports.errors import UsageError

_PLAIN = re.compile(r"[A-Za-z0-9_@+:,./-][A-Za-z0-9_@%+=:,./-]*")


def word(text: str) -> str:
    """Return `text` as one word of any shell.

    Between single quotes, fish gives a meaning to ``\\``, tcsh to ``!``, and each to the quote. A backslash outside
    of quotes means the same to all of them.

    Raises
    ------
    UsageError
        It has a newline or another control character, which tcsh cannot be given.
    """
    if re.search(r"[\0-\x1f\x7f]", text):
        raise UsageError(f"{text!r} has a control character, which no shell can be given; rename it")
    if _PLAIN.fullmatch(text):
        return text
    parts = re.split(r"(['!\\])", text)
    return "".join(f"\\{part}" if i % 2 else f"'{part}'" for i, part in enumerate(parts) if part) or "''"


def path(text: str) -> str:
    """Return a path as a `word`; a leading ``~`` or ``~user`` stays the home there."""
    home, _, rest = text.partition("/")
    if not re.fullmatch(r"~[A-Za-z0-9_.-]*", home):
        return word(text)
    return f"{home}/{word(rest)}" if rest else home


def line(words: Iterable[str]) -> str:
    """Return a line that runs the program `words` there.

    A restricted shell (rbash) refuses a program with ``/`` in its name, but not one that ``env`` starts.
    """
    return " ".join(["env", *map(word, words)])
