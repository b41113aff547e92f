"""``python -m ports`` is the command line."""

from ports.cli.main import main

if __name__ == "__main__":
    main()
