"""What runs inside a cluster, with its own interpreter: put on its path as a folder, never imported as a package."""
