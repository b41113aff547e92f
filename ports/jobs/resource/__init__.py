"""Programs of the compute resource: the loop that owns the queue, the slots that ask it for jobs, and their children.

The child and what it calls run by path, with the standard library and cloudpickle only.
"""
