"""``jupyter_forwarding``, the command of the older package: `ports open` by its old name."""

from __future__ import annotations

import sys
from typing import NoReturn

from ports.cli import ctrl_c
from ports.cli import main as command_line
from ports.cli.tunnel import open_


def main() -> NoReturn:
    """Open clusters and notebook servers of the given hosts, or of those in the setting ``hosts``."""
    ctrl_c.end_its_line()
    sys.exit(command_line.run(open_, sys.argv[1:], "jupyter_forwarding"))
