"""The version, importable by everything and importing nothing."""

VERSION = "0.1.0"
