"""The ends of jobs in words: for a notice that the compute resource sends, and for `ports open` at home. Pure."""

from .units import duration

MYPY = False
if MYPY:
    from typing import Any, Dict, List, Mapping, Sequence

    Row = Mapping[str, Any]

MOST_LINES, MOST_TOGETHER = 20, 3
LONGEST = 300
WORDS = {"finished": "finished", "error": "failed", "cancelled": "was cancelled", "lost": "is lost"}


def sentence(row: "Row", host: str = "") -> str:
    """Return in a sentence how a job or a map ended.

    >>> sentence({"id": "12", "name": "train.py", "state": "error", "reason": "exit status 3"}, "gpu1")
    'job 12 (train.py) failed on gpu1: exit status 3'
    """
    name = " (%s)" % printable(row["name"]) if row.get("name") else ""
    began, ended = row.get("began_at"), row.get("ended_at")
    took = ""
    if isinstance(began, (int, float)) and isinstance(ended, (int, float)):
        took = " after %s" % duration(max(0.0, ended - began))
    state = printable(row.get("state"))
    at = " on %s" % host if host else ""
    said = "job %s%s %s%s%s" % (printable(row.get("id")), name, WORDS.get(state, state), at, took)
    counts = row.get("counts")
    if row.get("count") is not None and isinstance(counts, dict):
        return "%s: %s" % (said, ", ".join("%s %s" % (printable(n), printable(one)) for one, n in counts.items() if n))
    return "%s: %s" % (said, printable(row["reason"])) if row.get("reason") else said


def printable(text: object) -> str:
    """Return one line of text without characters that a terminal would obey."""
    return "".join(one if one.isprintable() else " " for one in str(text))[:LONGEST]


def together(rows: "Sequence[Row]", host: str = "") -> str:
    """Return in a sentence how many jobs ended, and how.

    >>> together([{"state": "finished"}] * 28 + [{"state": "lost"}] * 2, "gpu1")
    '30 jobs ended on gpu1: 28 finished, 2 did not'
    """
    n_failed = sum(row.get("state") != "finished" for row in rows)
    at = " on %s" % host if host else ""
    return "%d jobs ended%s: %d finished, %d did not" % (len(rows), at, len(rows) - n_failed, n_failed)


def notices(rows: "Sequence[Row]", host: str = "") -> "List[Dict[str, Any]]":
    """Return what to say of jobs that ended: of each, or of all together where they are many.

    Each has ``title``, ``body`` and ``ids``; ``is_good`` if all of them finished.
    """
    if len(rows) <= MOST_TOGETHER:
        groups, texts = [[row] for row in rows], [sentence(row, host) for row in rows]
    else:
        lines = [together(rows, host)] + [sentence(row, host) for row in rows[:MOST_LINES]]
        lines += ["and %d more" % (len(rows) - MOST_LINES)] if len(rows) > MOST_LINES else []
        groups, texts = [list(rows)], ["\n".join(lines)]
    told = []
    for group, text in zip(groups, texts):
        title = text.split("\n")[0] if len(group) > 1 else text.split(": ")[0]
        good = all(row.get("state") == "finished" for row in group)
        told.append({"title": title, "body": text, "ids": [str(row.get("id")) for row in group], "is_good": good})
    return told
