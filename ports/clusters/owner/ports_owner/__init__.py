"""The process that owns a cluster, and its workers: run with the cluster's interpreter, from a copy of this folder.

`ports` itself imports only `comm`, which the entry point for ``unix://`` names, and `record`.
"""
