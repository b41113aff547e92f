"""The queue of jobs as it lies on the disk, without the rest of `ports`: its frames, its rows, and what it answers."""
