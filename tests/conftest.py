"""Fixtures of all tests."""

pytest_plugins = ["tests.lab.fixtures"]
