"""The text that is piped to ``python3 -`` on another host, and the answer among what comes back."""

import json
import os

MYPY = False
if MYPY:
    from typing import Any, Dict, Optional

    Json = Dict[str, Any]

FILES = {
    "probe": ("identity", "records", "sockets", "recognise", "ask", "survey"),
    "run": ("identity", "records", "far_run"),
}


def script(request: "Json") -> str:
    """Return the program that answers `request`, as text for the standard input of ``python3 -``.

    Parameters
    ----------
    request : dict
        ``do`` is ``"probe"`` or ``"run"``, ``marker`` any text that marks the answer among what shells print; the rest
        as `probe` and `ports.probe.far_run.run` take it.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    texts = []
    for name in FILES[request["do"]]:
        with open(os.path.join(here, name + ".py"), encoding="utf-8") as file:
            texts.append(file.read())
    return "\n".join(texts) + "\nmain(%r)\n" % json.dumps(request)


def read_answer(output: str, marker: str) -> "Optional[Json]":
    """Return the answer in the output of `script`; None where there is none, or half of one."""
    _, found, after = output.rpartition(marker)
    try:
        answer = json.loads(after.splitlines()[0]) if found else None
    except (ValueError, IndexError):
        return None
    return answer if isinstance(answer, dict) else None
