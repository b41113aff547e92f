"""Programs of the compute resource: the loop that owns the queue, the slots that ask it for jobs, and their children.

The child imports the standard library, cloudpickle, and what of `ports.jobs` reads and writes values.
"""
