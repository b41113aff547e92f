"""The command line: a command parses, calls one core function, renders."""
