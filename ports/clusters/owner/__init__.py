"""What runs in a cluster's interpreter: this folder stands on its path, and the package in it needs no `ports`."""
