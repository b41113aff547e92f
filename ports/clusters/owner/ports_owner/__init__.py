"""What runs inside a cluster, with its own interpreter: put on its path as a folder.

Only `ports_comm` is imported as part of the package too, by the entry point that tells Dask of ``unix://``.
"""
