"""What all tests share."""

import signal

pytest_plugins = ["tests.lab.fixtures"]

# Under nohup, what tests start would ignore that its terminal was closed.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
