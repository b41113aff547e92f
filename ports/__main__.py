"""``python -m ports``, and the script ``ports``."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line; Ctrl-C ends it without a traceback while it is still being imported, too."""
    try:
        from ports.cli.main import main as command
    except KeyboardInterrupt:
        sys.stderr.write("ports: interrupted\n")
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()
