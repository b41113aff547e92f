"""The process that owns a cluster, and its workers: run with the cluster's interpreter, from a copy of this folder.

Of `ports` itself, the client imports only `comm`, also through the entry point for ``unix://``.
"""
