"""The answer of a program that was piped: one line, a marker and JSON."""

import json
import sys

if __name__ != "__main__":  # piped, these names are there already
    from .identity import mend_home

MYPY = False
if MYPY:
    from typing import Any, Dict

    Json = Dict[str, Any]


def main(text: str) -> None:
    """Call the function whose name the request in `text` has as ``do``, and send its answer, if it returns one."""
    request = json.loads(text)
    mend_home()
    try:
        answer = globals()[request["do"]](request)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other side wants one line
        answer = {"error": "failed", "message": "%s: %s" % (type(error).__name__, error)}
    if answer is not None:
        send(request, answer)


def send(request: "Json", answer: "Json") -> None:
    """Print `answer` behind the marker that `request` names."""
    sys.stdout.write("\n%s%s\n" % (request.get("marker", ""), json.dumps(answer)))
    sys.stdout.flush()
