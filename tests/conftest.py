"""What all tests share."""

import signal

import hypothesis

pytest_plugins = ["pytester", "tests.lab.own_machine", "tests.lab.tiers", "tests.lab.fixtures", "tests.lab.laptop"]

# Under nohup, or behind an `&` of a script, what tests start would ignore that its terminal was closed, or Ctrl-C.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)

# A time limit for each example would fail on a busy machine.
hypothesis.settings.register_profile("ports", deadline=None)
hypothesis.settings.load_profile("ports")
