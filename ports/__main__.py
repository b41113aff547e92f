"""``python -m ports``, and the script ``ports``."""

from __future__ import annotations

import itertools
import re
import sys
from typing import NoReturn

from ports.cli import ctrl_c


def main() -> NoReturn:
    """Run the command line. Ctrl-C ends it without a traceback even while it is still being imported."""
    try:
        ctrl_c.end_its_line()
        _begin(sys.argv[1:])
        from ports.cli.main import main as command
    except KeyboardInterrupt:
        if "ports.hosts.openssh.processes" in sys.modules:
            sys.modules["ports.hosts.openssh.processes"].end_all()
        sys.stderr.write("ports: interrupted\n")
        sys.exit(130)
    command()


def _begin(words: list[str]) -> None:
    """Begin what can run while the rest is imported: ask the hosts of ``ports list HOST …``, or measure for ``who``."""
    if words[:1] == ["who"] and sys.platform == "linux" and all(word in ("--json", "--watch") for word in words[1:]):
        from ports.probe import who

        who.begin()
    hosts = [word for word in words[1:] if word != "--json"]
    if words[:1] in (["list"], ["ls"]) and hosts and not any(word.startswith("-") or ":" in word for word in hosts):
        from ports.hosts import begin_probe

        begin_probe(hosts, {"all": False, "port": None})  # what `listeners.list` asks
    if words[:1] == ["job"] and words[1:2] != ["shell"]:
        _begin_jobs(words[1:])


def _begin_jobs(words: list[str]) -> None:
    """Begin to connect to the host of ``ports job … -H HOST``, or of an id such as ``server1:12``."""
    own = words[: words.index("--")] if "--" in words else words
    named = [after for word, after in itertools.pairwise(own) if word in ("-H", "--host")]
    named += [word.partition(":")[0] for word in own[1:] if re.fullmatch(r"[A-Za-z][\w.-]*:\d+(\.\d+)?", word)]
    if len(dict.fromkeys(named)) == 1 and not {"-h", "--help", "--dry-run"}.intersection(own):
        from ports import hosts, jobs

        for one in named[0].split(","):
            if one and hosts.targets.HOST.fullmatch(one) and not hosts.is_here(one):
                jobs.begin(one)


if __name__ == "__main__":
    main()
