"""How ``python -c`` starts where other users may have put modules into the current directory."""

# `-c` and `-m` put the current directory first, before the standard library: another user's random.py there would run.
SAFE_PATH = "import sys; sys.path[:] = [entry for entry in sys.path if entry]"
